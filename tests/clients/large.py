"""Appends rooms that are as large as they can be, and calls every RPC, with the default limits of a
gRPC client: no message may have more than 4 MiB.

Usage: large.py ADDRESS SERVER_KEYS.json
"""

import base64
import hashlib
import json
import queue
import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVER = "one.example"
ALICE = f"@alice:{SERVER}"
REQUESTER = {"origin": SERVER, "destination": SERVER}
DEFAULT_LIMIT = 4 * 1024 * 1024
DEADLINE = 120


class Service:
    """All methods by name. Keeps the size of the largest response of each."""

    def __init__(self, channel):
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.largest, self.methods = {}, {}
        for name in ("History", "Ingest", "Key", "Admin", "Feeder"):
            service = pool.FindServiceByName(f"backscroll.history.v1.{name}Service")
            for method in service.methods:
                request = message_factory.GetMessageClass(method.input_type)
                response = message_factory.GetMessageClass(method.output_type)
                kind = "stream" if method.client_streaming else "unary"
                kind += "_stream" if method.server_streaming else "_unary"
                call = getattr(channel, kind)(
                    f"/{service.full_name}/{method.name}",
                    request_serializer=request.SerializeToString,
                    response_deserializer=response.FromString,
                )
                self.methods[method.name] = (request, call, method.server_streaming)

    def note(self, name, answer):
        self.largest[name] = max(self.largest.get(name, 0), answer.ByteSize())
        return answer

    def __getattr__(self, name):
        request, call, streams = self.methods[name]

        def ask(**members):
            answer = call(request(**members), timeout=DEADLINE)
            if streams:
                return [self.note(name, it) for it in answer]
            return self.note(name, answer)

        return ask

    def append(self, events):
        request, call, _ = self.methods["AppendEvents"]
        answers = call((request(**it) for it in events), timeout=DEADLINE)
        answers = [self.note("AppendEvents", it) for it in answers]
        for answer in answers:
            assert answer.HasField("appended"), answer
        assert len(answers) == len(events)

    def many(self, name, requests):
        """Many calls of one RPC, several at once."""
        request, call, _ = self.methods[name]
        # The service accepts 1,024 waiting requests.
        for start in range(0, len(requests), 500):
            some = requests[start : start + 500]
            waiting = [call.future(request(**it), timeout=DEADLINE) for it in some]
            for answer in waiting:
                self.note(name, answer.result())

    def pages(self, name, **members):
        """All pages of a list."""
        token = ""
        while True:
            page = getattr(self, name)(page_token=token, **members)
            yield page
            token = page.next_page_token
            if not token:
                return


class Room:
    """A room of version 1, in which the sender chooses the event ids."""

    def __init__(self, name):
        self.room_id, self.last, self.depth, self.events = f"!{name}:{SERVER}", None, 0, []
        self.add("m.room.create", {"creator": ALICE, "room_version": "1"}, state_key="")
        self.add("m.room.member", {"membership": "join"}, state_key=ALICE)

    def add(self, kind, content, event_id=None, after=None, escape=None, state_after=(), **members):
        self.depth += 1
        event_id = event_id or f"${self.depth}:{SERVER}"
        previous = after or ([self.last] if self.last else [])
        event = {
            "type": kind,
            "sender": ALICE,
            "room_id": self.room_id,
            "event_id": event_id,
            "content": content,
            "depth": self.depth,
            "origin_server_ts": self.depth,
            "prev_events": [[it, {"sha256": "x"}] for it in previous],
            "auth_events": [],
            **members,
        }
        hashed = hashlib.sha256(canonical(event)).digest()
        event["hashes"] = {"sha256": base64.b64encode(hashed).decode().rstrip("=")}
        event["signatures"] = {SERVER: {"ed25519:none": "AA"}}
        pdu = canonical(event)
        assert len(pdu) <= 65_536, len(pdu)
        if escape:
            pdu = pdu.replace(escape.encode(), b"\\u%04x" % ord(escape))
        self.events.append(
            {
                "room_id": self.room_id,
                "room_version": "1",
                "event_id": event_id,
                "pdu": pdu,
                "state_after": state_after,
            }
        )
        self.last = event_id
        return event_id

    @property
    def ids(self):
        return [it["event_id"] for it in self.events]


def canonical(event):
    text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def long(number, sigil=""):
    """An id of 255 characters, most of them of three bytes."""
    return f"{sigil}{number:05}" + "€" * (248 - len(sigil)) + ":a"


def backfill(service, room, limit):
    """The ids of all events of a room, newest first, page by page."""
    read, start, room_id = [], room.last, room.room_id
    while len(read) < len(room.ids):
        page = service.Backfill(
            room_id=room_id, requester=REQUESTER, event_ids=[start], limit=limit
        )
        ids = list(page.event_ids)
        assert len(ids) == len(page.forms) > 1
        # Events of version 1 contain their ids.
        assert [it["event_id"] for it in json.loads(page.pdus)] == ids
        read += ids if start == room.last else ids[1:]
        start = read[-1]
    short = service.Backfill(room_id=room_id, event_ids=[start], limit=1, omit_event_ids=True)
    assert not short.event_ids and len(json.loads(short.pdus)) == len(short.forms) == 1
    return read


def pages(service):
    """101 messages of 50 KB."""
    room = Room("pages")
    for _ in range(101):
        room.add("m.room.message", {"body": "~" * 50_000})
    service.append(room.events)
    assert backfill(service, room, limit=100) == room.ids[::-1]
    left, found = room.ids, []
    while left:
        answer = service.BatchGetEvents(room_id=room.room_id, event_ids=left)
        found += [it.event_id for it in answer.events]
        left = left[answer.processed_count :]
    assert found == room.ids


def messages(service):
    """45 messages, each of 384 KiB as it is sent."""
    room = Room("messages")
    for _ in range(45):
        room.add("m.room.message", {"body": "~" * 64_500}, escape="~")
    service.append(room.events)
    room_id, ids = room.room_id, room.ids

    assert backfill(service, room, limit=100) == ids[::-1]

    read, latest = [], room.last
    while True:
        page = service.GetMissingEvents(
            room_id=room_id, requester=REQUESTER, latest_events=[latest], limit=20
        )
        found = list(page.event_ids)
        assert [it["event_id"] for it in json.loads(page.pdus)] == found
        if not found:
            break
        read, latest = found + read, found[0]
    assert read == ids[:-1]

    # 101 ids. A response has space for a few of them.
    left, found, missing = (ids * 3)[:100] + ["$none"], 0, 0
    while left:
        answer = service.BatchGetEvents(room_id=room_id, event_ids=left)
        assert 0 < answer.processed_count == len(answer.events) + len(answer.missing_event_ids)
        found, missing = found + len(answer.events), missing + len(answer.missing_event_ids)
        left = left[answer.processed_count :]
    assert (found, missing) == (100, 1)

    listed = service.pages("ListEvents", room_id=room_id, page_size=1_000)
    assert [it.event_id for page in listed for it in page.events] == ids
    explained = service.ExplainAccess(room_id=room_id, event_id=room.last, requester=REQUESTER)
    assert explained.facts
    purged = service.PurgeHistory(room_id=room_id, event_id=ids[40])
    assert purged[-1].done and purged[-1].removed_event_count == 38, purged[-1]
    hashes = service.pages("ListPurgedEvents", room_id=room_id, page_size=10_000)
    assert sum(len(page.event_id_hashes) for page in hashes) == 40


def state(service):
    """A state with types, keys and ids of the greatest length, and an event that was given with it."""
    room = Room("state")
    users = [f"@{number:05}" + "€" * 240 + ":a" for number in range(3_000)]
    for number, user in enumerate(users):
        kind = "m.room.member" if number % 2 else "t" + "€" * 254
        room.add(kind, {"membership": "join"}, event_id=long(number, "$"), state_key=user)
    before = room.ids
    nowhere = [f"$nowhere:{SERVER}"]
    island = room.add("m.room.message", {"body": "here"}, after=nowhere, state_after=before)
    service.append(room.events)
    room_id = room.room_id

    entries = service.pages("GetState", room_id=room_id, event_id=before[-1], page_size=10_000)
    assert sum(len(page.entries) for page in entries) == len(before)
    listed = service.pages("ListEvents", room_id=room_id, page_size=1_000)
    listed = [it for page in listed for it in page.events]
    assert [it.event_id for it in listed] == room.ids
    (event,) = (it for it in listed if it.event_id == island)
    given, token = list(event.state_after), event.state_after_page_token
    assert len(given) < len(before)
    while token:
        page = service.ListStateAfter(room_id=room_id, event_id=island, page_token=token)
        given, token = given + list(page.event_ids), page.next_page_token
    assert sorted(given) == sorted(before)

    flags = list(service.pages("ListEventFlags", room_id=room_id, page_size=10_000))
    assert len(flags) > 1
    assert sorted(it.event_id for page in flags for it in page.events) == sorted(room.ids)
    parts = service.GetRoomDigest(room_id=room_id, prefix_bits=12).parts
    assert len(parts) == 4_096
    assert sum(it.event_count for it in parts) == len(room.ids)

    service.many("SetUserErased", [{"user_id": user, "erased": True} for user in users])
    erased = service.pages("ListErasedUsers")
    assert sum(len(page.user_ids) for page in erased) == len(users)
    # The current state is resolved from the states after the island and after the other events.
    members = service.pages("ListErasedMembers", room_id=room_id)
    print("erased members:", sum(len(page.user_ids) for page in members))


def ends(service):
    """1,500 forward extremities, each of which has a missing predecessor of its own."""
    room = Room("ends")
    first = room.last
    for number in range(1_500):
        gap = long(number, "$gap")
        room.add("m.room.message", {}, event_id=long(number, "$"), after=[first, gap])
    service.append(room.events)
    answer = service.GetRoom(room_id=room.room_id)
    assert (len(answer.forward_extremities), answer.forward_extremity_count) == (1_000, 1_500)
    assert len(answer.backward_extremities) == 1_000
    page = service.Backfill(
        room_id=room.room_id, event_ids=answer.forward_extremities[:100], limit=100
    )
    assert len(page.missing_event_ids) == 100

    # Two answers to the same question, of 100 events each, that have no event in common.
    starts = answer.forward_extremities
    question = {
        "room_id": room.room_id,
        "requester": REQUESTER,
        "event_ids": starts[:100],
        "limit": 100,
    }
    page = service.Backfill(**question)
    other = service.Backfill(**{**question, "event_ids": starts[100:200]})
    assert len(page.event_ids) == len(other.event_ids) == 100
    assert not set(page.event_ids) & set(other.event_ids)
    same = service.CompareAnswers(backfill=question, pdus=page.pdus)
    assert not same.differences, same
    compared = service.CompareAnswers(backfill=question, pdus=other.pdus)
    assert len(compared.differences) == 100

    # As many ids as a request may have. Most of them are not held.
    left = room.ids[2:]
    left += [f"$nowhere{number}:{SERVER}" for number in range(50_000 - len(left))]
    removed = service.RemoveEvents(room_id=room.room_id, event_ids=left)
    assert removed[-1].done and removed[-1].removed_event_count == 1_500, removed[-1]


def refusals(service):
    """Errors do not repeat a long value of the request."""
    endless = "!" + "x" * (8 << 20)
    names = ("GetRoom", "ListEvents", "GetState", "GetRoomDigest", "ListEventFlags")
    for name in (*names, "PurgeHistory", "RemoveEvents", "DeleteRoom"):
        try:
            getattr(service, name)(room_id=endless)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, (name, error)
        else:
            raise AssertionError(f"{name} of an invalid room id was answered")
    request, call, _ = service.methods["AppendEvents"]
    half = endless[: 4 << 20]
    events = [{"room_id": half, "event_id": half, "pdu": b"{}", "room_version": half}]
    for answer in call((request(**it) for it in events), timeout=DEADLINE):
        assert answer.HasField("refusal"), answer
        service.note("AppendEvents", answer)


def not_served(service):
    """10,000 rooms with ids of 255 bytes. They are not held."""
    rooms = [f"!{number:05}" + "x" * 247 + ":a" for number in range(10_000)]
    for start in range(0, len(rooms), 1_000):
        some = rooms[start : start + 1_000]
        # NOT_SERVED_REASON_BLOCKED
        service.SetRoomsServed(room_ids=some, not_served_reason=3)
    listed = list(service.pages("ListRoomsNotServed", page_size=10_000))
    assert [it.room_id for page in listed for it in page.rooms] == rooms
    assert len(listed) > 1


def bans(service):
    """2,000 bans with ids of the greatest length."""
    requests = [
        {
            "room_id": f"!{number:05}" + "x" * 247 + ":a",
            "user_id": f"@{number:05}" + "x" * 247 + ":a",
            "ban_event_id": long(number, "$"),
            "before_arrival": -(1 << 63),
        }
        for number in range(2_000)
    ]
    service.many("SetBanRedaction", requests)
    listed = list(service.pages("ListBanRedactions", page_size=10_000))
    assert len(listed) > 1
    found = {it.ban_event_id for page in listed for it in page.bans}
    assert found == {it["ban_event_id"] for it in requests}


def feeder(service):
    """A feeder with the longest name and description, and as many cursors as can be stored."""
    names = [f"{number:064}" for number in range(64)]
    request, call, _ = service.methods["Feed"]
    reports = queue.SimpleQueue()
    notices = call(iter(reports.get, None), timeout=DEADLINE)

    def notice(kind):
        """The next notice, which must be of this kind."""
        answer = service.note("Feed", next(notices))
        assert answer.WhichOneof("notice") == kind, answer

    reports.put(request(started={"feeder_name": names[0]}))
    notice("lease_granted")
    description = "~" * 1_024
    reports.put(request(tick_begun={}))
    notice("tick_noted")
    reports.put(request(tick_ended={"not_ready_description": description}))
    # What is noted after the end of a tick says that its end was received.
    reports.put(request(tick_begun={}))
    notice("tick_noted")
    answer = service.GetFeeder()
    assert (answer.feeder_name, answer.not_ready_description) == (names[0], description)
    reports.put(None)
    assert not list(notices)

    cursor = b"~" * 65_536
    for name in names:
        service.PutCursor(feeder_name=name, cursor=cursor)
        assert service.GetCursor(feeder_name=name).cursor == cursor
    assert sorted(service.ListCursors().feeder_names) == names


def all_rooms(service):
    """The RPCs about the whole store."""
    for number in range(20):
        room = Room(f"{number:05}" + "x" * 200)
        service.append(room.events)
        deleted = service.DeleteRoom(room_id=room.room_id)
        assert deleted[-1].done
        (again,) = room.events[:1]
        service.append([again])
    rooms = [it for page in service.pages("ListRooms", page_size=1_000) for it in page.room_ids]
    assert {f"!{it}:{SERVER}" for it in ("pages", "messages", "state", "ends")} <= set(rooms)
    deleted = service.pages("ListDeletedRooms")
    assert sum(len(page.room_ids) for page in deleted) == 20
    assert service.Stats().room_count == len(rooms)
    verified = service.Verify(max_cpu_percent=100)
    assert verified[-1].done and not any(it.faults for it in verified), verified


def keys(service, path):
    """The RPCs of KeyService."""
    with open(path) as file:
        answers = json.load(file)
    for server_name, answer in answers.items():
        service.PutServerKeys(answer=json.dumps(answer).encode())
        assert service.GetServerKeys(server_name=server_name).answer


def main(address, server_keys):
    # Without options, so with the default limits.
    with grpc.insecure_channel(address) as channel:
        service = Service(channel)
        pages(service)
        messages(service)
        state(service)
        ends(service)
        refusals(service)
        not_served(service)
        bans(service)
        feeder(service)
        all_rooms(service)
        keys(service, server_keys)
        asked = set(service.largest)
        assert asked == set(service.methods), set(service.methods) - asked
        for name, size in sorted(service.largest.items(), key=lambda it: -it[1]):
            assert size < DEFAULT_LIMIT, (name, size)
            print(f"{name}: {size:,} bytes at most")


main(*sys.argv[1:])
