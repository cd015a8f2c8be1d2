"""The round `import`: a large database that Synapse accepts, made without Synapse, and its import.

Sizes of rooms follow 1/rank. Events are hashed and signed with the lab's keys; versions 6, 9, 10, 11 and
12; forks that merge, members who join and leave, topics, redactions; state groups as Synapse makes them
(a delta each, a full one every 100).
"""
import glob
import hashlib
import io
import json
import os
import random
import shutil
import time

from canonicaljson import encode_canonical_json
from signedjson import key as signing_key
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.synapse_rust.events import redact_event_dict
from unpaddedbase64 import encode_base64

from lab import programs_of_postgresql
from processes import Failed, Program, run, wait_for

WORDS = ("the a room event graph backfill server state key sign hash join leave name topic message history user "
         "gap merge fork depth limit order").split()
COLUMNS = {
    "rooms": "room_id is_public creator room_version has_auth_chain_index",
    "events": "topological_ordering event_id type room_id processed outlier depth origin_server_ts received_ts "
              "sender contains_url instance_name stream_ordering state_key",
    "event_json": "event_id room_id internal_metadata json format_version",
    "event_edges": "event_id prev_event_id",
    "event_auth": "event_id auth_id room_id",
    "event_to_state_groups": "event_id state_group",
    "state_groups": "id room_id event_id",
    "state_group_edges": "state_group prev_state_group",
    "state_groups_state": "state_group room_id type state_key event_id",
    "current_state_events": "event_id room_id type state_key membership event_stream_ordering",
    "event_forward_extremities": "event_id room_id",
    "redactions": "event_id redacts have_censored received_ts recheck",
}


def _text(value):
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


class Tables:
    """Rows on their way into the database."""

    def __init__(self, cursor):
        self.cursor, self.ordering, self.group, self.events = cursor, 0, 0, 0
        self.rows = {t: io.StringIO() for t in COLUMNS}

    def put(self, table, *values):
        self.rows[table].write("\t".join(map(_text, values)) + "\n")

    def flush(self, at_least=0):
        if self.rows["event_json"].tell() < at_least:
            return
        for table, names in COLUMNS.items():
            self.rows[table].seek(0)
            self.cursor.copy_expert(f"copy {table} ({', '.join(names.split())}) from stdin", self.rows[table])
            self.rows[table] = io.StringIO()


class MadeRoom:
    def __init__(self, tables, keys, generator, number, version):
        self.tables, self.keys, self.random, self.version = tables, keys, generator, version
        self.rules = KNOWN_ROOM_VERSIONS[version]
        self.local, self.remote = list(keys)
        self.room_id = f"!large{number}:{self.local}"
        self.time = 1_700_000_000_000 + number * 1_000_000
        self.state, self.state_order, self.members, self.messages = {}, {}, [], []
        self.tips, self.depth, self.group, self.deltas = [], {}, None, 0
        self._begin()

    def _begin(self):
        creator = self._user()
        content = {"room_version": self.version}
        if not self.rules.implicit_room_creator:
            content["creator"] = creator
        self.add("m.room.create", creator, content, "")
        self.add("m.room.member", creator, {"membership": "join"}, creator)
        self.members.append(creator)
        users = {} if self.rules.msc4289_creator_power_enabled else {creator: 100}
        self.add("m.room.power_levels", creator, {"users": users, "users_default": 0, "events_default": 0,
                                                  "state_default": 50, "redact": 50, "events": {"m.room.topic": 0}}, "")
        self.add("m.room.join_rules", creator, {"join_rule": "public"}, "")
        visibility = self.random.choice(["shared", "shared", "joined", "invited", "world_readable"])
        self.add("m.room.history_visibility", creator, {"history_visibility": visibility}, "")
        # A remote member, so that another server may ask.
        self._join(f"@u{self.random.randrange(10 ** 6)}:{self.remote}")
        self.tables.put("rooms", self.room_id, True, creator, self.version, False)

    def _user(self):
        server = self.local if not self.members or self.random.random() < 0.5 else self.remote
        return f"@u{self.random.randrange(10 ** 6)}:{server}"

    def _join(self, user):
        self.add("m.room.member", user, {"membership": "join", "displayname": user[1:8]}, user)
        self.members.append(user)

    def _auth_events(self, event_type, sender, content):
        if event_type == "m.room.create":
            return []
        keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)]
        if content.get("membership") == "join":
            keys.append(("m.room.join_rules", ""))
        if self.rules.msc4291_room_ids_as_hashes:
            keys.pop(0)
        return [self.state[k] for k in dict.fromkeys(keys) if k in self.state]

    def add(self, event_type, sender, content, state_key=None, previous=None, redacts=None):
        """Makes an event and its rows. Returns its id."""
        previous = previous or self.tips
        self.time += self.random.randrange(1000, 60000)
        depth = 1 + max([self.depth[p] for p in previous] or [0])
        names_its_room = event_type != "m.room.create" or not self.rules.msc4291_room_ids_as_hashes
        event = {"auth_events": self._auth_events(event_type, sender, content), "content": content, "depth": depth,
                 "origin_server_ts": self.time, "prev_events": list(previous), "sender": sender, "type": event_type}
        if names_its_room:
            event["room_id"] = self.room_id
        if state_key is not None:
            event["state_key"] = state_key
        if redacts:
            (event["content"] if self.rules.updated_redaction_rules else event)["redacts"] = redacts
        event_id = self._sign(event, sender.partition(":")[2])
        if not names_its_room:
            self.room_id = "!" + event_id[1:]
        self._put(event_id, event, depth)
        self.depth[event_id], self.tips = depth, [event_id]
        return event_id

    def _sign(self, event, server):
        event["hashes"] = {"sha256": encode_base64(hashlib.sha256(encode_canonical_json(event)).digest())}
        kept = {k: v for k, v in redact_event_dict(self.rules, event).items()
                if k not in ("signatures", "age_ts", "unsigned")}
        signed, key = encode_canonical_json(kept), self.keys[server]
        event["signatures"] = {server: {f"{key.alg}:{key.version}": encode_base64(key.sign(signed).signature)}}
        return "$" + encode_base64(hashlib.sha256(signed).digest(), urlsafe=True)

    def _put(self, event_id, event, depth):
        tables, state_key = self.tables, event.get("state_key")
        tables.ordering += 1
        tables.events += 1
        tables.put("events", depth, event_id, event["type"], self.room_id, True, False, depth, self.time, self.time,
                   event["sender"], False, "master", tables.ordering, state_key)
        tables.put("event_json", event_id, self.room_id, "{}",
                   json.dumps(event, separators=(",", ":"), ensure_ascii=False), self.rules.event_format)
        for previous in event["prev_events"]:
            tables.put("event_edges", event_id, previous)
        if state_key is not None:
            for auth in event["auth_events"]:
                tables.put("event_auth", event_id, auth, self.room_id)
            self.state[(event["type"], state_key)] = event_id
            self.state_order[event_id] = tables.ordering
            self._put_group(event_id, event["type"], state_key)
        tables.put("event_to_state_groups", event_id, self.group)

    def _put_group(self, event_id, event_type, state_key):
        tables, before = self.tables, self.group
        tables.group += 1
        self.group, self.deltas = tables.group, self.deltas + 1
        tables.put("state_groups", self.group, self.room_id, event_id)
        if before is None or self.deltas >= 100:
            self.deltas = 0
            for (known_type, key), known in self.state.items():
                tables.put("state_groups_state", self.group, self.room_id, known_type, key, known)
        else:
            tables.put("state_group_edges", self.group, before)
            tables.put("state_groups_state", self.group, self.room_id, event_type, state_key, event_id)

    def fill(self, until):
        """Adds events until the database has so many."""
        while self.tables.events < until:
            chance, member = self.random.random(), self.random.choice(self.members)
            text = " ".join(self.random.choices(WORDS, k=self.random.choice([3, 8, 20, 60])))
            if chance < 0.05:
                self._join(self._user())
            elif chance < 0.06:
                self.add("m.room.topic", member, {"topic": text}, "")
            elif chance < 0.07 and len(self.members) > 5:
                user = self.members.pop(self.random.randrange(2, len(self.members)))
                self.add("m.room.member", user, {"membership": "leave"}, user)
            elif chance < 0.08 and self.messages:
                target, author = self.random.choice(self.messages)
                author = author if author in self.members else self.members[0]
                redaction = self.add("m.room.redaction", author, {}, redacts=target)
                self.tables.put("redactions", redaction, target, False, self.time, False)
            elif chance < 0.12:
                base = self.tips
                self.tips = [self.add("m.room.message", self.random.choice(self.members),
                                      {"msgtype": "m.text", "body": text}, previous=base)
                             for _ in range(self.random.choice([2, 2, 3]))]
            else:
                self.messages.append((self.add("m.room.message", member, {"msgtype": "m.text", "body": text}), member))
                del self.messages[:-50]

    def finish(self):
        for (event_type, key), event_id in self.state.items():
            membership = None
            if event_type == "m.room.member":
                membership = "join" if key in self.members else "leave"
            self.tables.put("current_state_events", event_id, self.room_id, event_type, key, membership,
                            self.state_order[event_id])
        for tip in self.tips:
            self.tables.put("event_forward_extremities", tip, self.room_id)


def make_database(lab, name, rooms, events):
    """Makes a database with the schema of hs1 and made-up rooms."""
    postgresql = programs_of_postgresql()
    where = ["-h", "127.0.0.1", "-p", str(lab.ports["database"]), "-U", "postgres"]
    with lab.connect("postgres").cursor() as cursor:
        cursor.execute(f"drop database if exists {name}")
    lab.create_database(name)
    dump = lab.folder + "/schema.sql"
    run(postgresql + "/pg_dump", *where, "-s", "-f", dump, "hs1")
    run(postgresql + "/psql", *where, "-q", "-d", name, "-f", dump)
    run(postgresql + "/pg_dump", *where, "-a", "--disable-triggers", "-t", "schema_version",
        "-t", "schema_compat_version", "-f", dump, "hs1")
    run(postgresql + "/psql", *where, "-q", "-d", name, "-f", dump)
    keys = {}
    for which in ("hs1", "hs2"):
        with open(f"{lab.folder}/{which}/signing.key") as file:
            keys[lab.name[which]] = signing_key.read_signing_keys(file)[0]
    connection = lab.connect(name)
    with connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        tables, generator = Tables(cursor), random.Random("large")
        weights = [1 / (rank + 1) for rank in range(rooms)]
        for number, weight in enumerate(weights):
            size = max(10, int(events * weight / sum(weights)))
            room = MadeRoom(tables, keys, generator, number, ["10", "11", "6", "12", "9"][number % 5])
            room.fill(tables.events + size - 6)
            room.finish()
            tables.flush(at_least=20_000_000)
        tables.flush()
        cursor.execute("insert into stream_positions values ('events', 'master', %s)", (tables.ordering,))
        cursor.execute("analyze")
    connection.close()
    return tables.events


class Nothing:
    """Counts bytes."""

    bytes = 0

    def write(self, data):
        self.bytes += len(data)
        return len(data)


def copy_seconds(lab, name):
    """The time that PostgreSQL takes to deliver what an import needs, in order, without doing anything with it."""
    query = """copy (select e.event_id, e.room_id, e.stream_ordering, e.outlier, e.rejection_reason is not null,
        j.json, j.internal_metadata, g.state_group from events e join event_json j using (event_id)
        left join event_to_state_groups g on g.event_id = e.event_id
        order by e.room_id, e.stream_ordering) to stdout"""
    begun = time.monotonic()
    with lab.connect(name).cursor() as cursor:
        cursor.copy_expert(query, Nothing())
    return time.monotonic() - begun


class FreshHistory:
    """A history service with an empty store, beside the lab's."""

    def __init__(self, lab, name):
        from processes import free_port
        self.lab, self.data = lab, f"{lab.folder}/{name}"
        shutil.rmtree(self.data, ignore_errors=True)
        os.makedirs(self.data)
        self.address = f"127.0.0.1:{free_port()}"
        self.program = Program(name, [lab.programs + "/backscroll", "serve", "--data-dir", self.data, "--listen",
                                      self.address, "--reserved-mib", "1", "--shutdown-notice-seconds", "0"],
                               lab.log(name)).start()
        health = [lab.programs + "/backscroll", "health", "--server", "http://" + self.address]

        def is_healthy():
            try:
                run(*health)
                return True
            except Failed:
                return False
        wait_for(is_healthy, 60, "the history service is healthy")

    def events(self):
        """Numbers of rooms and events that it holds."""
        import grpc
        from backscroll.history.v1 import history_service_pb2 as messages
        from backscroll.history.v1 import history_service_pb2_grpc as services
        stub = services.HistoryServiceStub(grpc.insecure_channel(self.address))
        rooms, token = [], ""
        while True:
            page = stub.ListRooms(messages.ListRoomsRequest(page_size=1000, page_token=token))
            rooms += page.room_ids
            token = page.next_page_token
            if not token:
                break
        return len(rooms), sum(stub.GetRoom(messages.GetRoomRequest(room_id=r)).event_count for r in rooms)

    def stop(self):
        self.program.stop()
        size = sum(os.path.getsize(f) for f in glob.glob(self.data + "/**", recursive=True) if os.path.isfile(f))
        shutil.rmtree(self.data)
        return size


def import_large(lab, options, rooms=200):
    """a large database is imported, beside what PostgreSQL delivers and what our own import takes"""
    begun = time.monotonic()
    count = make_database(lab, "large", rooms, options.events)
    print(f"   {count} events in {rooms} rooms made in {time.monotonic() - begun:.0f} s", flush=True)
    lab.create_role("large")
    copied_in = min(copy_seconds(lab, "large") for _ in range(2))

    history = FreshHistory(lab, "history-large")
    command = [a.replace(f":{lab.ports['database']}/hs1", f":{lab.ports['database']}/large")
               .replace(lab.history_address, history.address) for a in lab.follower_command()]
    port = command[command.index("--metrics-listen") + 1] = f"127.0.0.1:{lab.ports['ep1']}"
    begun = time.monotonic()
    follower = Program("follower-large", command, lab.log("follower-large")).start()

    def is_imported():
        if not follower.is_running():
            raise Failed(follower.tail())
        # Rooms are served one by one: the follower is ready long before the last one.
        metrics = lab.metrics_at(port) if lab.http_status(f"http://{port}/readyz") == 200 else {}
        return metrics.get('backscroll_synapse_rooms{state="complete"}') == rooms
    wait_for(is_imported, 1200, "everything is imported")
    followed_in = time.monotonic() - begun
    held = history.events()
    follower.stop()
    bytes_on_disk = history.stop()

    files, url = lab.folder + "/large-rooms", command[command.index("--database") + 1]
    shutil.rmtree(files, ignore_errors=True)
    os.makedirs(files)
    begun = time.monotonic()
    run(lab.programs + "/backscroll-synapse", "export", "--database", url, "--database-password-file",
        lab.folder + "/password", "--all", "--to", files)
    exported_in = time.monotonic() - begun
    history = FreshHistory(lab, "history-files")
    begun = time.monotonic()
    run(lab.programs + "/backscroll", "import", "--server", "http://" + history.address, *glob.glob(files + "/*"))
    imported_in = time.monotonic() - begun
    imported = history.events()
    history.stop()
    shutil.rmtree(files)
    for what, seconds in (("PostgreSQL delivers (COPY, ordered)", copied_in), ("the follower imports", followed_in),
                          ("`backscroll-synapse export --all`", exported_in), ("`backscroll import` of the files", imported_in)):
        print(f"   {what}: {seconds:.1f} s, {count / seconds:,.0f} events/s")
    print(f"   held after the import {held}, from the files {imported}; {bytes_on_disk / 2**20:.0f} MiB on disk; "
          f"the follower has {imported_in / followed_in:.2f} of the speed of `backscroll import`")
    return None if held == imported == (rooms, count) else f"held {held}, from files {imported}, made {count}"
