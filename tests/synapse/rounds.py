"""The rounds after the steps. Each returns what is wrong, or None."""
import collections
import concurrent.futures
import glob
import json
import os
import random
import subprocess
import threading
import time

import grpc

import model
import questions
from clients import User, quote
from peer import Peer, Room
from processes import Failed, Program, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def name_of_run():
    return f"{int(time.time()):x}"


class Load:
    """Users of hs1 who talk all the time, each in a room of its own."""

    def __init__(self, lab, users=6, rate=None, which="hs1"):
        run = name_of_run()
        self.users = [User(lab.client_url[which], f"load{n}x{run}") for n in range(users)]
        self.rooms = [u.create(room_version="10", preset="public_chat") for u in self.users]
        for number, user in enumerate(self.users):
            user.join(self.rooms[(number + 1) % users])
        self.pause = users / rate if rate else 0
        self.sent, self.errors, self.ended = 0, collections.Counter(), threading.Event()
        self.threads = [threading.Thread(target=self._talk, args=(n,), daemon=True) for n in range(users)]
        self.begun = time.monotonic()
        for thread in self.threads:
            thread.start()

    def _talk(self, number):
        user, next_at = self.users[number], time.monotonic()
        while not self.ended.is_set():
            room_id = self.rooms[(number + random.randrange(2)) % len(self.rooms)]
            try:
                user.message(room_id, f"message {self.sent}")
                self.sent += 1
            except (OSError, RuntimeError) as error:
                self.errors[type(error).__name__] += 1
                time.sleep(0.2)
            next_at += self.pause
            time.sleep(max(0, next_at - time.monotonic()))

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(60)
        return self.sent / (time.monotonic() - self.begun)


# ---------------------------------------------------------------- equality

class Equality:
    """Compares ids, flags and bytes of all events of hs1 with what the history service holds."""

    def __init__(self, lab):
        from backscroll.history.v1 import history_service_pb2, history_service_pb2_grpc
        self.lab, self.messages = lab, history_service_pb2
        self.history = history_service_pb2_grpc.HistoryServiceStub(grpc.insecure_channel(lab.history_address))

    def differences(self):
        """Counts of differences by kind, with an example each; and the number of events compared."""
        kinds, examples, compared = collections.Counter(), {}, 0
        rooms = {r for (r,) in self.lab.rows("hs1", """select room_id from rooms where room_version is not null
            and room_id not in (select room_id from partial_state_rooms union select room_id from blocked_rooms)""")}
        rooms = {r for r in rooms if self.lab.rows("hs1", "select 1 from events where room_id = %s limit 1", r)}
        held = self._rooms()
        hidden = {r for (r,) in self.lab.rows("hs1", "select room_id from partial_state_rooms union select room_id from blocked_rooms")}
        for room_id in held - rooms - hidden:
            kinds["room left over"] += 1
            examples["room left over"] = room_id
        for room_id in rooms:
            wanted, found = self._wanted(room_id), self._found(room_id) if room_id in held else {}
            compared += len(wanted)
            for event_id in set(wanted) | set(found):
                kind = self._difference(event_id, wanted.get(event_id), found.get(event_id))
                if kind:
                    kinds[kind] += 1
                    examples[kind] = (room_id, event_id)
        return kinds, examples, compared

    def _rooms(self):
        rooms, token = set(), ""
        while True:
            page = self.history.ListRooms(self.messages.ListRoomsRequest(page_token=token))
            rooms.update(page.room_ids)
            token = page.next_page_token
            if not token:
                return rooms

    def _wanted(self, room_id):
        query = """select e.event_id, e.outlier, e.rejection_reason is not null, j.json
                   from events e join event_json j using (event_id) where e.room_id = %s"""
        rows = self.lab.rows("hs1", query, room_id)
        return {i: (bool(o), r, model.digest(json.loads(t))) for i, o, r, t in rows}

    def _found(self, room_id):
        flags, token = {}, ""
        while True:
            page = self.history.ListEventFlags(self.messages.ListEventFlagsRequest(
                room_id=room_id, page_size=10000, page_token=token))
            for event in page.events:
                if event.event_id in flags:
                    raise Failed(f"{event.event_id} is listed twice")
                flags[event.event_id] = event
            token = page.next_page_token
            if not token:
                break
        found, event_ids = {}, list(flags)
        while event_ids:
            answer = self.history.BatchGetEvents(self.messages.BatchGetEventsRequest(
                room_id=room_id, event_ids=event_ids[:200]))
            for event in answer.events:
                is_rejected = flags[event.event_id].verdict == flags[event.event_id].DESCRIPTOR.fields_by_name[
                    "verdict"].enum_type.values_by_name["VERDICT_REJECTED"].number
                found[event.event_id] = (event.outlier, is_rejected, model.digest(json.loads(event.pdu)))
            event_ids = event_ids[answer.processed_count or 200:]
        return found

    def _difference(self, event_id, wanted, found):
        if found is None:
            return "missing"
        if wanted is None:
            return "left over"
        if wanted[:2] != found[:2]:
            return "another flag"
        if wanted[2] == found[2]:
            return None
        # What is redacted loses its content here and there, at its own time.
        is_redacted = self.lab.rows("hs1", "select 1 from redactions where redacts = %s", event_id)
        return "redacted, other bytes" if is_redacted else "other bytes"


def equal(lab, options, seconds=15):
    """the same events, flags and bytes as in hs1's database"""
    equality = Equality(lab)
    end = time.monotonic() + seconds
    while True:
        kinds, examples, compared = equality.differences()
        serious = {k: n for k, n in kinds.items() if k != "redacted, other bytes"}
        if not serious or time.monotonic() > end:
            break
        time.sleep(1)
    print(f"   {compared} events compared: {dict(kinds) or 'no differences'} {examples}")
    return f"{serious}" if serious else None


def states(lab, options):
    """the state after every event equals Synapse's state groups"""
    from states import States
    comparison = States(lab)
    is_equal = comparison.compare()
    for what, count in sorted(comparison.counts.items()):
        print(f"   {count} {what}")
    for fault in comparison.faults[:10]:
        print("  ", fault)
    return None if is_equal else f"{len(comparison.faults)} states differ"


# ---------------------------------------------------------------- freshness

def just_joined(lab, options):
    """servers ask the moment their join was accepted"""
    run, outsider = name_of_run(), Peer(lab.name["outsider"], lab).serve()
    alice = User(lab.client_url["hs1"], "owner" + run)
    first, answered_by, seconds = collections.Counter(), collections.Counter(), []
    for number in range(12):
        room_id = alice.create(room_version="10", preset="public_chat")
        alice.messages(room_id, "m", 3)
        time.sleep(0.6)
        room = Room(room_id)
        outsider.rooms[room_id] = room
        event_id = outsider.join(room, f"@joined{number}{run}:{lab.name['outsider']}", lab.name["hs1"])
        question = {"method": "GET", "target": f"/_matrix/federation/v1/backfill/{quote(room_id)}?v={quote(event_id)}&limit=5"}
        begun = time.monotonic()
        status, answer, headers = questions.ask_gateway(lab, outsider, question)
        seconds.append(time.monotonic() - begun)
        first[(status, len((answer or {}).get("pdus", [])))] += 1
        answered_by[headers.get("x-backscroll")] += 1
    print(f"   first answers (status, events): {dict(first)}, by {dict(answered_by)}; "
          f"median {1000 * percentile(seconds, 0.5):.0f} ms, longest {1000 * max(seconds):.0f} ms")
    return None if first == {(200, 5): 12} else f"not all right: {dict(first)}"


def fresh(lab, options, rate=100, count=150):
    """how long after Synapse answered the client the gateway serves the event"""
    run, tester = name_of_run(), Peer(lab.name["outsider"], lab)
    try:
        tester.serve()
    except RuntimeError:
        pass
    alice = User(lab.client_url["hs1"], "fresh" + run)
    room_id = alice.create(room_version="10", preset="public_chat")
    room = Room(room_id)
    tester.rooms[room_id] = room
    tester.join(room, f"@fresh{run}:{lab.name['outsider']}", lab.name["hs1"])
    load = Load(lab, users=12, rate=rate)
    time.sleep(3)
    delays, lags = [], []
    for number in range(count):
        event_id = alice.message(room_id, f"m{number}")
        question = {"method": "GET", "target": f"/_matrix/federation/v1/backfill/{quote(room_id)}?v={quote(event_id)}&limit=1"}
        begun = time.monotonic()

        def is_there():
            status, answer, headers = questions.ask_gateway(lab, tester, question)
            return status == 200 and answer["pdus"] and headers.get("x-backscroll") == "history"
        wait_for(is_there, 20, "the event")
        delays.append(time.monotonic() - begun)
        lags.append(max((v for k, v in lab.metrics("follower").items() if k.startswith("backscroll_synapse_lag_seconds")), default=0))
        time.sleep(0.03 * (number % 5))
    achieved = load.stop()
    print(f"   {achieved:.0f} events/s by Synapse; the gateway answers from history "
          f"p50 {1000 * percentile(delays, 0.5):.0f}, p99 {1000 * percentile(delays, 0.99):.0f}, "
          f"longest {1000 * max(delays):.0f} ms after the client's answer; the follower's own lag "
          f"p50 {1000 * percentile(lags, 0.5):.0f}, p99 {1000 * percentile(lags, 0.99):.0f} ms")
    return None if percentile(delays, 0.99) < 5 else "p99 above 5 s"


# ---------------------------------------------------------------- shadow

def shadow(lab, options):
    """the gateway answers with what Synapse says, and compares with the history service afterwards"""
    lab.gateway.stop()
    flags, lab.gateway_flags = lab.gateway_flags, [
        *lab.gateway_flags, "--shadow", "answer=synapse", "--shadow-rate", "1", "--shadow-concurrency", "64"]
    try:
        lab.start_gateway()
        peers = {p.name: p for p in (Peer.of_homeserver(lab, "hs2"), Peer(lab.name["tester"], lab))}
        try:
            peers[lab.name["tester"]].serve()
        except RuntimeError:
            # It listens already, after the steps.
            pass
        entries = []
        for path in sorted(glob.glob(f"{lab.folder}/steps/{options.version}/*/answers.ndjson")):
            with open(path) as file:
                entries += [json.loads(line) for line in file]
        with concurrent.futures.ThreadPoolExecutor(questions.PARALLEL) as pool:
            list(pool.map(lambda e: questions.ask_gateway(lab, peers[e["origin"]], e), entries))
        asked = len(entries)
        time.sleep(3)
        found = {k: int(v) for k, v in lab.metrics("gateway").items()
                 if k.startswith("backscroll_gateway_shadow_total") and v}
        url = f"http://127.0.0.1:{lab.ports['gateway_metrics']}"
        report = subprocess.run([lab.programs + "/backscroll-gateway", "shadow-report", "--url", url],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()
        print("   " + report.strip().replace("\n", "\n   "))
        print(f"   {asked} questions asked: {found}")
        unexplained = sum(v for k, v in found.items() if "unexplained" in k.lower())
        compared = sum(v for k, v in found.items() if "not_compared" not in k)
        return None if compared > asked / 2 and not unexplained else f"{unexplained} unexplained of {compared}"
    finally:
        lab.gateway.stop()
        lab.gateway_flags = flags
        lab.start_gateway()


# ---------------------------------------------------------------- end to end

class Nginx:
    """nginx on hs1's federation port, with the snippets of docker/proxies."""

    def __init__(self, lab):
        self.lab, self.folder = lab, lab.folder + "/nginx"
        os.makedirs(self.folder, exist_ok=True)
        # hs1 gives its port away.
        plain = {"type": "http", "port": lab.ports["hs1_plain"], "tls": False, "x_forwarded": True,
                 "bind_addresses": ["127.0.0.1"], "resources": [{"names": ["client", "federation"]}]}
        lab.stop_homeserver("hs1")
        lab.configure_homeserver("hs1", listeners=[plain])
        lab.start_homeserver("hs1")
        self.program = Program("nginx", ["nginx", "-c", self._configuration()], lab.log("nginx")).start()
        wait_for(lambda: questions_status(lab) == 200, 20, "nginx answers")

    def _configuration(self):
        snippets = os.path.join(os.path.dirname(os.path.dirname(HERE)), "docker/proxies")
        texts = {}
        for name in ("http", "server"):
            with open(f"{snippets}/nginx-{name}.conf") as file:
                texts[name] = (file.read().replace("127.0.0.1:8448", f"127.0.0.1:{self.lab.ports['gateway']}")
                               .replace("127.0.0.1:8008", f"127.0.0.1:{self.lab.ports['hs1_plain']}"))
        paths = "".join(f"{kind}_temp_path {self.folder}/{kind}; " for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        path = self.folder + "/nginx.conf"
        with open(path, "w") as file:
            file.write(f"""worker_processes 1; daemon off; pid {self.folder}/pid; error_log {self.folder}/error.log;
            events {{ worker_connections 256; }}
            http {{
              log_format short '$status $upstream_addr $request'; access_log {self.folder}/access.log short; {paths}
              {texts['http']}
              server {{
                listen 127.0.0.1:{self.lab.ports['hs1']} ssl; client_max_body_size 50m;
                ssl_certificate {self.lab.certificate}; ssl_certificate_key {self.lab.certificate_key};
                {texts['server']}
                location / {{ proxy_pass http://backscroll_synapse; proxy_set_header Host $http_host;
                              proxy_set_header X-Forwarded-For $remote_addr; }}
              }}
            }}""")
        return path

    def requests(self):
        with open(self.folder + "/access.log") as file:
            return [l for l in file if "/backfill/" in l or "/get_missing_events/" in l]

    def stop(self):
        self.program.stop()
        self.lab.stop_homeserver("hs1")
        self.lab.configure_homeserver("hs1", listeners=None)
        self.lab.start_homeserver("hs1")


def questions_status(lab):
    import ssl
    import urllib.request
    try:
        context = ssl.create_default_context(cafile=lab.certificate)
        url = f"https://127.0.0.1:{lab.ports['hs1']}/_matrix/federation/v1/version"
        return urllib.request.urlopen(url, timeout=5, context=context).status
    except OSError:
        return None


def _visit(lab, alice, bob, nginx, with_gap):
    """hs2's user pages back to the beginning and, with a gap, fills it. Returns what is wrong."""
    room_id = alice.create(room_version="10", preset="public_chat")
    sent = alice.messages(room_id, "message ", 200)
    time.sleep(1)
    before = len(nginx.requests())
    bob.join(room_id, [lab.name["hs1"]])
    # Synapse's own paging ends early now and then, also without us: then the client pages again.
    for _ in range(4):
        seen = bob.page_back(room_id, pages=40)
        if any(e["type"] == "m.room.create" for e in seen):
            break
        time.sleep(0.5)
    messages = len({e["event_id"] for e in seen} & set(sent))
    text = f"{messages} of 200 messages seen back to the create event"
    if with_gap:
        lab.stop_homeserver("hs2")
        gap = alice.messages(room_id, "in the gap ", 30)
        time.sleep(1)
        lab.start_homeserver("hs2")
        gap.append(alice.message(room_id, "after the gap"))
        time.sleep(1)
        # hs1 waits before it sends to hs2 again; a request of hs2 ends that.
        bob.message(room_id, "back again")
        wait_for(lambda: lab.rows("hs2", "select 1 from events where event_id = %s", gap[-1]), 90, "the last event at hs2")
        time.sleep(2)
        for _ in range(4):
            seen = bob.page_back(room_id, pages=40)
            found = len({e["event_id"] for e in seen} & set(gap))
            if found == len(gap):
                break
            time.sleep(1)
        text += f", {found} of {len(gap)} of the gap"
    lines = nginx.requests()[before:]
    statuses = collections.Counter(l.split()[0] for l in lines)
    upstreams = collections.Counter(l.split(" ", 1)[1].split(" GET ")[0].split(" POST ")[0].strip() for l in lines)
    print(f"   {text}; {len(lines)} requests of hs2, statuses {dict(statuses)}, upstreams {dict(upstreams)}")
    is_complete = messages == 200 and (not with_gap or found == len(gap))
    failed = sum(n for s, n in statuses.items() if s != "200")
    return None if is_complete and not failed and lines else text + f", statuses {dict(statuses)}"


def end_to_end(lab, options):
    """hs2's users read hs1's rooms through nginx and our gateway, then without the history service"""
    run, nginx = name_of_run(), Nginx(lab)
    try:
        alice, bob = User(lab.client_url["hs1"], "one" + run), User(lab.client_url["hs2"], "two" + run)
        fallbacks = lambda: {k: v for k, v in lab.metrics("gateway").items() if "fallback_total" in k and v}
        print(f"   fallbacks before: {fallbacks()}")
        faults = [_visit(lab, alice, bob, nginx, True)]
        print(f"   fallbacks: {fallbacks()}; the history service stops")
        lab.history.stop()
        faults.append(_visit(lab, alice, bob, nginx, False))
        print(f"   fallbacks: {fallbacks()}; the gateway stops too")
        lab.gateway.stop()
        faults.append(_visit(lab, alice, bob, nginx, False))
        lab.start_history()
        lab.start_gateway()
        lab.wait_for_follower()
    finally:
        nginx.stop()
    faults = [f for f in faults if f]
    return "; ".join(faults) or None


def proxies(lab, options):
    """the snippets of docker/proxies in the real nginx, HAProxy and Caddy"""
    path = os.path.join(os.path.dirname(os.path.dirname(HERE)), "docker/proxies/check")
    done = subprocess.run([path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    print("   " + done.stdout.decode()[-2000:].strip().replace("\n", "\n   "))
    return None if done.returncode == 0 else "see above"
