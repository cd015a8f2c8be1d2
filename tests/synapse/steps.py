"""35 late changes, each made to happen on a real Synapse, one after another.

Each step is a method; its docstring says what happens. Steps that follow up on an earlier one come
after it.
"""
import json
import time

from signedjson import key as signing_key
from unpaddedbase64 import encode_base64

from clients import Administrator, User, call, quote
from peer import Peer, Room
from processes import Failed, wait_for


class World:
    """The users, servers and rooms of one run, and what the steps share."""

    def __init__(self, lab, version):
        self.lab, self.version, self.run = lab, version, f"{int(time.time()):x}"
        self.hs1, self.hs2 = lab.name["hs1"], lab.name["hs2"]
        self.tester = Peer(lab.name["tester"], lab).serve()
        self.hs2_peer = Peer.of_homeserver(lab, "hs2")
        self.administrator = Administrator(lab.client_url["hs1"], "admin" + self.run)
        self.alice, self.carol, self.erin = (self.user("hs1", n) for n in ("alice", "carol", "erin"))
        self.bob, self.dave = (self.user("hs2", n) for n in ("bob", "dave"))
        self.tess, self.tom = (f"@{n}{self.run}:{lab.name['tester']}" for n in ("tess", "tom"))
        # Name -> room id, name -> the room as the tester knows it, what a step leaves to later ones.
        self.rooms, self.seen, self.left = {}, {}, {}

    def user(self, which, name):
        return User(self.lab.client_url[which], name + self.run)

    def powers(self, **users):
        """Power levels for a new room; from version 12 on the creator has none."""
        if self.version == "12":
            users = {u: p for u, p in users.items() if u != self.alice.id}
        return users

    def create(self, name, owner=None, **options):
        owner = owner or self.alice
        self.rooms[name] = owner.create(room_version=self.version, preset="public_chat", name=name, **options)
        return self.rooms[name]

    def join_bob(self, name):
        self.bob.join(self.rooms[name], [self.hs1])

    def join_tester(self, name, user=None, server=None, which="hs1"):
        room = self.seen.setdefault(name, Room(self.rooms[name]))
        self.tester.rooms[self.rooms[name]] = room
        self.tester.join(room, user or self.tess, server or self.hs1)
        return room.refresh(self.lab, which)

    def refresh(self, name):
        return self.seen[name].refresh(self.lab)

    def rows(self, query, *arguments, which="hs1"):
        return self.lab.rows(which, query, *arguments)

    def has(self, event_id, which="hs1"):
        return bool(self.rows("select 1 from events where event_id = %s", event_id, which=which))

    def send(self, event, arrives=True):
        """Sends an event of the tester to hs1 and waits until hs1 has it."""
        event_id, pdu = event
        status, answer = self.tester.send(self.hs1, [pdu])
        if status != 200:
            raise Failed(f"send: {status} {answer}")
        if arrives:
            wait_for(lambda: self.has(event_id), 20, f"{event_id} at hs1")
        return event_id

    def settle(self, name):
        """Waits until both homeservers have the same forward extremities."""
        def ends(which):
            query = "select event_id from event_forward_extremities where room_id = %s"
            return {e for (e,) in self.rows(query, self.rooms[name], which=which)}
        try:
            wait_for(lambda: ends("hs1") == ends("hs2"), 8)
        except Failed:
            pass

    def module(self, what):
        answer = call(f"{self.lab.client_url['hs1']}/_lab/{what}")
        if not answer.get("ok"):
            raise Failed(f"{what}: {answer}")

    def has_full_state(self, name):
        query = "select 1 from partial_state_rooms where room_id = %s"
        wait_for(lambda: not self.rows(query, self.rooms[name]), 60, f"{name} has its full state")

    def administer(self, method, path, body):
        answer = self.administrator.call(method, path, body)
        if "_status" in answer:
            raise Failed(f"{path}: {answer}")
        return answer

    def until_complete(self, path):
        def ended():
            status = self.administrator.call("GET", path).get("status")
            return status if status in ("complete", "failed") else None
        return wait_for(ended, 60, path)

    def purge(self, name, event_id, **options):
        path = f"/v1/purge_history/{quote(self.rooms[name])}/{quote(event_id)}"
        purge_id = self.administer("POST", path, options)["purge_id"]
        return self.until_complete(f"/v1/purge_history_status/{purge_id}")

    def delete(self, name, **options):
        delete_id = self.administer("DELETE", f"/v2/rooms/{quote(self.rooms[name])}", options)["delete_id"]
        return self.until_complete(f"/v2/rooms/delete_status/{delete_id}")


class Steps(World):
    """The steps, in the order of their definition."""

    def setup(self):
        """rooms, members of three servers, messages"""
        powers = self.powers(**{self.alice.id: 100, self.carol.id: 50})
        main = self.create("main", power_level_content_override={"users": powers})
        self.carol.join(main)
        self.erin.join(main)
        self.join_bob("main")
        self.join_tester("main")
        messages = self.alice.messages(main, "a", 15) + self.erin.messages(main, "e", 3)
        self.left["messages"] = messages + self.bob.messages(main, "b", 3)
        self.settle("main")
        self.refresh("main")
        joined_only = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room = self.create("joined_only", initial_state=[joined_only])
        self.alice.messages(room, "secret", 3)
        self.join_bob("joined_only")
        self.alice.messages(room, "open", 3)
        self.settle("joined_only")
        for name in ("gone", "blocked", "shut", "purged", "left", "wide", "old"):
            room = self.create(name)
            self.join_bob(name)
            self.alice.messages(room, name, 12)
            self.bob.messages(room, name + "b", 4)
            self.settle(name)

    def redaction_after(self):
        """alice redacts a message of her own and one of bob's; the JSON of the targets stays"""
        for target in (self.left["messages"][2], self.left["messages"][-1]):
            self.alice.redact(self.rooms["main"], target)

    def redaction_without_power(self):
        """tess redacts alice's message without the power to: accepted from version 3 on, without effect"""
        room = self.refresh("main")
        self.send(self.tester.make(room, self.tess, "m.room.redaction", {}, redacts=self.left["messages"][3]))
        self.refresh("main")

    def redaction_first(self):
        """a redaction arrives before the event that it redacts"""
        room = self.refresh("main")
        ends = list(room.extremities)
        target = self.tester.text(room, self.tess, "redacted before it came", previous=ends)
        redaction = self.tester.make(room, self.tess, "m.room.redaction", {}, redacts=target[0], previous=ends)
        self.tester.muted.add(target[0])
        self.send(redaction)
        self.left["target"] = target

    def redaction_first_target(self):
        """… and now the target"""
        self.send(self.left["target"])
        self.refresh("main")

    def censoring(self):
        """redactions are older than redaction_retention_period: Synapse rewrites the JSON of the targets"""
        time.sleep(6)
        self.module("censor")

    def outlier(self):
        """an event names an auth event that hs1 lacks: hs1 fetches it and keeps it as an outlier"""
        room = self.refresh("main")
        ends = list(room.extremities)
        profile = {"membership": "join", "displayname": "Tess"}
        member = self.tester.make(room, self.tess, "m.room.member", profile, state_key=self.tess)
        wanted = [("m.room.power_levels", "")] + ([] if self.version == "12" else [("m.room.create", "")])
        auth = [room.state[k] for k in wanted] + [member[0]]
        self.tester.muted.add(member[0])
        self.send(self.tester.text(room, self.tess, "names an unknown membership", previous=ends, auth=auth))
        wait_for(lambda: self.has(member[0]), 15, "the outlier")
        self.left["member"] = member

    def ex_outlier(self):
        """… which then arrives as an event of the graph"""
        self.send(self.left["member"])
        query = "select 1 from events where event_id = %s and not outlier"
        wait_for(lambda: self.rows(query, self.left["member"][0]), 15, "no outlier any more")
        self.refresh("main")

    def rejected(self):
        """a state event without power is rejected; a message after it is not"""
        room = self.refresh("main")
        name = self.send(self.tester.make(room, self.tess, "m.room.name", {"name": "mine"}, state_key=""))
        self.send(self.tester.text(room, self.tess, "after a rejected event", previous=[name]))
        self.refresh("main")

    def soft_failed(self):
        """a second user of the tester is banned, then sends an event from before the ban"""
        room = self.join_tester("main", self.tom)
        before = list(room.extremities)
        message = self.tester.text(room, self.tom, "I was never banned", previous=before)
        self.alice.act(self.rooms["main"], "ban", user_id=self.tom)
        time.sleep(0.5)
        self.send(message)
        self.refresh("main")

    def expiry(self):
        """a message that destroys itself: its JSON is pruned when its time is up"""
        at = int(time.time() * 1000) + 25000
        self.left["bomb"] = self.alice.message(self.rooms["main"], "boom", **{"org.matrix.self_destruct_after": at})

    def expired(self):
        """… its time is up"""
        query = "select 1 from event_json where event_id = %s and json not like '%%boom%%'"
        wait_for(lambda: self.rows(query, self.left["bomb"]), 60, "the message is pruned")

    def fork_and_merge(self):
        """the tester forks the graph in three, alice's next event merges"""
        room = self.refresh("main")
        ends = list(room.extremities)
        for number in range(3):
            self.send(self.tester.text(room, self.tess, f"branch {number}", previous=ends))
        self.alice.set_state(self.rooms["main"], "m.room.topic", {"topic": "merged"})
        self.refresh("main")

    def state_conflict(self):
        """two branches change the same state; then an event from before a kick arrives"""
        levels = {"users": self.powers(**{self.alice.id: 100}), "events": {"m.room.topic": 0, "m.room.name": 0},
                  "state_default": 50}
        room_id = self.create("conflict", power_level_content_override=levels)
        self.join_bob("conflict")
        room = self.join_tester("conflict")
        ends = list(room.extremities)

        def state(event_type, content, previous):
            return self.tester.make(room, self.tess, event_type, content, state_key="", previous=previous)

        first = state("m.room.topic", {"topic": "branch a"}, ends)
        second = state("m.room.topic", {"topic": "branch b"}, ends)
        third = state("m.room.name", {"name": "branch b"}, [second[0]])
        for event in (first, second, third):
            self.send(event)
        self.alice.message(room_id, "merge")
        self.refresh("conflict")
        late = state("m.room.topic", {"topic": "from before the kick"}, list(room.extremities))
        self.alice.act(room_id, "kick", user_id=self.tess)
        self.send(late)
        self.alice.message(room_id, "after")

    def remote_join(self):
        """alice joins a room of hs2 with history: its state comes as outliers, predecessors are missing"""
        room_id = self.create("far", self.bob)
        self.bob.messages(room_id, "f", 30)
        self.bob.set_state(room_id, "m.room.topic", {"topic": "one"})
        self.bob.messages(room_id, "g", 30)
        self.bob.set_state(room_id, "m.room.topic", {"topic": "two"})
        self.dave.join(room_id)
        self.bob.messages(room_id, "h", 5)
        self.alice.join(room_id, [self.hs2])
        self.has_full_state("far")
        self.alice.message(room_id, "hello")
        self.settle("far")

    def backfilled(self):
        """alice pages back: negative orderings; state events stop being outliers"""
        self.alice.page_back(self.rooms["far"], limit=30)

    def partial_join(self):
        """a faster join (MSC3706) is held open: who else is a member is not known yet"""
        self.module("hold_partial")
        room_id = self.create("partial", self.bob)
        self.bob.messages(room_id, "p", 5)
        self.dave.join(room_id)
        room = self.join_tester("partial", server=self.hs2, which="hs2")
        self.left["tess joined"] = room.state[("m.room.member", self.tess)]
        self.bob.act(room_id, "kick", user_id=self.tess)
        self.bob.message(room_id, "after the kick")
        room.refresh(self.lab, "hs2")
        self.alice.join(room_id, [self.hs2])

    def partial_events(self):
        """while partial: bob and alice talk; a kicked user sends an event that hs1 cannot judge yet"""
        room_id = self.rooms["partial"]
        self.bob.message(room_id, "while partial")
        time.sleep(1)
        self.alice.message(room_id, "alice while partial")
        self.settle("partial")
        room = self.refresh("partial")
        room.state = {**room.state, ("m.room.member", self.tess): self.left["tess joined"]}
        query = """select e.event_id, j.json from events e join event_json j using (event_id)
                   where e.room_id = %s"""
        for event_id, text in self.rows(query, room_id, which="hs2"):
            pdu = json.loads(text)
            pdu.pop("unsigned", None)
            room.pdus.setdefault(event_id, pdu)
            room.depth.setdefault(event_id, pdu["depth"])
        self.send(self.tester.text(room, self.tess, "I was kicked"), arrives=False)
        time.sleep(1.5)

    def partial_done(self):
        """the state arrives: events are judged again"""
        self.module("release_partial")
        self.has_full_state("partial")

    def erased(self):
        """erin is deactivated with erasure, and leaves her rooms by that"""
        self.administer("POST", f"/v1/deactivate/{quote(self.erin.id)}", {"erase": True})
        wait_for(lambda: self.rows("select 1 from erased_users where user_id = %s", self.erin.id), 20, "erased")

    def unerased(self):
        """… and is activated again"""
        body = {"deactivated": False, "password": "again"}
        self.administer("PUT", f"/v2/users/{quote(self.erin.id)}", body)

    def all_leave(self):
        """the last local user leaves; hs2 goes on talking"""
        self.alice.act(self.rooms["left"], "leave")
        time.sleep(0.5)
        self.bob.messages(self.rooms["left"], "without you ", 5)
        time.sleep(0.5)

    def rejoin(self):
        """… and comes back: a gap in the graph"""
        self.alice.join(self.rooms["left"], [self.hs2])
        self.has_full_state("left")
        self.alice.message(self.rooms["left"], "back")
        self.settle("left")

    def upgrade(self):
        """a room is upgraded: a tombstone, a new room"""
        path = f"rooms/{quote(self.rooms['old'])}/upgrade"
        version = {"new_version": "12" if self.version == "11" else "11"}
        self.rooms["new"] = self.alice.call("POST", path, version)["replacement_room"]
        self.join_bob("new")
        self.settle("new")

    def purge_history(self):
        """history before a message is purged; local events are kept as outliers"""
        self.purge("main", self.left["messages"][10], delete_local_events=False)

    def purge_history_local(self):
        """history of another room is purged, local events too"""
        query = "select event_id from events where room_id = %s and type = 'm.room.message' order by stream_ordering"
        self.purge("purged", self.rows(query, self.rooms["purged"])[8][0], delete_local_events=True)

    def purge_refilled(self):
        """a user pages back into what was purged: Synapse fetches it again from hs2"""
        for name in ("purged", "main"):
            self.alice.page_back(self.rooms[name], pages=8)

    def wide_then_cleaned(self):
        """forward extremities pile up, then an administrator removes all but one"""
        room = self.join_tester("wide")
        ends = list(room.extremities)
        for number in range(6):
            self.send(self.tester.text(room, self.tess, f"tip {number}", previous=ends))
        self.administer("DELETE", f"/v1/rooms/{quote(self.rooms['wide'])}/forward_extremities", {})

    def ban_redacts(self):
        """a ban that redacts all events of the banned user (MSC4293)"""
        room_id = self.create("spam")
        room = self.join_tester("spam")
        for number in range(4):
            self.send(self.tester.text(room, self.tess, f"spam {number}"))
            self.refresh("spam")
        self.join_bob("spam")
        self.alice.act(room_id, "ban", user_id=self.tess, **{"org.matrix.msc4293.redact_events": True})
        time.sleep(1)

    def delete_room(self):
        """a room is deleted and purged, not blocked"""
        self.delete("gone", purge=True, block=False, force_purge=True)

    def room_returns(self):
        """… and a local user joins it again through hs2"""
        self.alice.join(self.rooms["gone"], [self.hs2])
        self.has_full_state("gone")
        self.alice.message(self.rooms["gone"], "again")
        self.settle("gone")

    def delete_and_block(self):
        """a room is deleted, purged and blocked"""
        self.delete("blocked", purge=True, block=True)

    def shut_down_only(self):
        """a room is blocked, not purged: everybody local is made to leave"""
        self.delete("shut", purge=False, block=True)

    def state_groups_collected(self):
        """Synapse deletes state groups that nothing refers to"""
        self.module("gc_state_groups")
        self.module("gc_state_groups")

    def resigned(self):
        """hs1 gets a new signing key and signs its old events again"""
        path = f"{self.lab.folder}/hs1/signing.key"
        with open(path) as file:
            verify = signing_key.get_verify_key(signing_key.read_signing_keys(file)[0])
        self.lab.stop_homeserver("hs1")
        with open(path, "w") as file:
            signing_key.write_signing_keys(file, [signing_key.generate_signing_key("lab" + self.run)])
        old = {f"{verify.alg}:{verify.version}": {"key": encode_base64(verify.encode()),
                                                  "expired_ts": int(time.time() * 1000)}}
        self.lab.configure_homeserver("hs1", old_signing_keys=old)
        self.lab.start_homeserver("hs1")
        self.administer("POST", "/v1/background_updates/start_job", {"job_name": "event_resign"})
        query = "select 1 from background_updates where update_name = 'event_resign'"
        wait_for(lambda: not self.rows(query), 180, "everything is signed again")

    def talk_after_all(self):
        """everything still moves"""
        self.alice.message(self.rooms["main"], "the end")
        self.bob.message(self.rooms["main"], "and the answer")
        self.settle("main")


ALL = [name for name, value in vars(Steps).items() if callable(value) and not name.startswith("_")]
