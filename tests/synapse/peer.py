"""A homeserver that the bench plays itself: it signs requests and events, and answers what Synapse asks."""
import asyncio
import http.client
import itertools
import json
import os
import ssl
import threading
import time
import urllib.parse

from aiohttp import web
from signedjson import key as signing_key
from signedjson.sign import sign_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import add_hashes_and_signatures, compute_event_reference_hash
from synapse.events import make_event_from_dict
from unpaddedbase64 import encode_base64

from clients import quote


def references(event, field):
    """The event ids in `prev_events` or `auth_events`, in any event format."""
    return [x[0] if isinstance(x, list) else x for x in event.get(field, [])]


class Room:
    """What a peer knows of a room."""

    def __init__(self, room_id):
        self.room_id = room_id
        self.version = None
        self.depth, self.pdus, self.state, self.extremities = {}, {}, {}, []

    @property
    def rules(self):
        return KNOWN_ROOM_VERSIONS[self.version]

    def event_id(self, pdu):
        return make_event_from_dict(pdu, self.rules).event_id

    def add(self, pdu):
        event_id = self.event_id(pdu)
        self.depth[event_id], self.pdus[event_id] = pdu["depth"], pdu
        if "state_key" in pdu:
            self.state[(pdu["type"], pdu["state_key"])] = event_id
        return event_id

    def reference(self, event_id):
        """How an event names another one, in this room version."""
        if self.rules.event_format != 1:
            return event_id
        digest = compute_event_reference_hash(make_event_from_dict(self.pdus[event_id], self.rules))[1]
        return [event_id, {"sha256": encode_base64(digest)}]

    def auth_events(self, sender, event_type, state_key, content):
        keys = [("m.room.power_levels", ""), ("m.room.member", sender)]
        if not self.rules.msc4291_room_ids_as_hashes:
            keys.insert(0, ("m.room.create", ""))
        if event_type == "m.room.member":
            if content.get("membership") in ("join", "invite", "knock"):
                keys.append(("m.room.join_rules", ""))
            if state_key != sender:
                keys.append(("m.room.member", state_key))
        return [self.state[k] for k in dict.fromkeys(keys) if k in self.state]

    def auth_chain(self, event_ids):
        seen, todo = set(), list(event_ids)
        while todo:
            for known in references(self.pdus.get(todo.pop(), {}), "auth_events"):
                if known not in seen and known in self.pdus:
                    seen.add(known)
                    todo.append(known)
        return seen

    def refresh(self, lab, which="hs1"):
        """Makes the peer's view of the room that of a homeserver."""
        query = """select e.event_id, j.json from events e join event_json j using (event_id)
                   where e.room_id = %s"""
        for event_id, text in lab.rows(which, query, self.room_id):
            pdu = json.loads(text)
            pdu.pop("unsigned", None)
            self.pdus[event_id], self.depth[event_id] = pdu, pdu["depth"]
        current = "select type, state_key, event_id from current_state_events where room_id = %s"
        self.state = {(t, k): e for t, k, e in lab.rows(which, current, self.room_id)}
        ends = "select event_id from event_forward_extremities where room_id = %s"
        self.extremities = [e for (e,) in lab.rows(which, ends, self.room_id)]
        self.version = lab.rows(which, "select room_version from rooms where room_id = %s", self.room_id)[0][0]
        return self


class Peer:
    """A server name with a key. `serve` makes it answer requests."""

    def __init__(self, name, lab, key_path=None):
        self.name, self.lab = name, lab
        key_path = key_path or f"{lab.folder}/{name.rpartition(':')[2]}.key"
        if not os.path.exists(key_path):
            with open(key_path, "w") as file:
                signing_key.write_signing_keys(file, [signing_key.generate_signing_key("p1")])
        with open(key_path) as file:
            self.key = signing_key.read_signing_keys(file)[0]
        self.transactions = itertools.count(int(time.time() * 1000))
        self.events, self.rooms = {}, {}
        # Ids of events that it does not give away by get_missing_events.
        self.muted = set()

    @classmethod
    def of_homeserver(cls, lab, which):
        """Asks in the name of a real homeserver, with its key."""
        return cls(lab.name[which], lab, f"{lab.folder}/{which}/signing.key")

    # ------------------------------------------------------------ answering

    def server_keys(self):
        verify = signing_key.get_verify_key(self.key)
        keys = {"server_name": self.name, "valid_until_ts": int(time.time() * 1000) + 6 * 24 * 3600 * 1000,
                "verify_keys": {f"{verify.alg}:{verify.version}": {"key": encode_base64(verify.encode())}},
                "old_verify_keys": {}}
        return sign_json(keys, self.name, self.key)

    async def _handle(self, request):
        body = await request.text()
        status, answer = self._answer(request.path, body)
        return web.json_response(answer, status=status)

    def _answer(self, path, body):
        parts = [urllib.parse.unquote(p) for p in path.split("/")]
        # /_matrix/federation/v1/ENDPOINT/ROOM_OR_EVENT/…
        endpoint, subject = (parts + [""] * 6)[4], (parts + [""] * 6)[5]
        room = self.rooms.get(subject)
        if path.startswith("/_matrix/key/v2/server"):
            return 200, self.server_keys()
        if endpoint == "send":
            return 200, {"pdus": {}}
        if endpoint == "event" and subject in self.events:
            return 200, {"origin": self.name, "origin_server_ts": int(time.time() * 1000),
                         "pdus": [self.events[subject]]}
        if endpoint == "event_auth" and room:
            return 200, {"auth_chain": [room.pdus[i] for i in room.auth_chain([parts[6]])]}
        if endpoint in ("state_ids", "state") and room:
            state = sorted(set(room.state.values()))
            chain = sorted(room.auth_chain(state) | set(state))
            if endpoint == "state_ids":
                return 200, {"pdu_ids": state, "auth_chain_ids": chain}
            return 200, {"pdus": [room.pdus[i] for i in state], "auth_chain": [room.pdus[i] for i in chain]}
        if endpoint == "get_missing_events":
            return 200, {"events": self._missing(room, json.loads(body)) if room else []}
        if endpoint == "query":
            return 200, {}
        if endpoint == "version":
            return 200, {"server": {"name": "peer", "version": "0"}}
        return 404, {"errcode": "M_UNRECOGNIZED", "error": "no"}

    def _missing(self, room, question):
        found, todo, seen = [], list(question["latest_events"]), set(question["earliest_events"])
        while todo:
            for event_id in references(room.pdus.get(todo.pop(0), {}), "prev_events"):
                if event_id in seen or event_id in self.muted or event_id not in room.pdus:
                    continue
                seen.add(event_id)
                found.append(room.pdus[event_id])
                todo.append(event_id)
        return found[:question.get("limit", 10)][::-1]

    def serve(self):
        """Answers at the port of its name, in a thread of its own."""
        def serve_for_ever():
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", self._handle)
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(self.lab.certificate, self.lab.certificate_key)
            runner = web.AppRunner(app, access_log=None)
            loop.run_until_complete(runner.setup())
            port = int(self.name.rpartition(":")[2])
            loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start())
            listening.set()
            loop.run_forever()

        listening = threading.Event()
        threading.Thread(target=serve_for_ever, daemon=True).start()
        if not listening.wait(20):
            raise RuntimeError(f"{self.name} does not listen")
        return self

    # ------------------------------------------------------------ asking

    def authorization(self, method, target, destination, content=None):
        signed = {"method": method, "uri": target, "origin": self.name, "destination": destination}
        if content is not None:
            signed["content"] = content
        ((key_id, signature),) = sign_json(signed, self.name, self.key)["signatures"][self.name].items()
        return f'X-Matrix origin="{self.name}",key="{key_id}",sig="{signature}",destination="{destination}"'

    def request(self, method, destination, target, content=None):
        """Asks a homeserver over TLS. Returns the status and the JSON, or the text if it is none."""
        tls = ssl.create_default_context(cafile=self.lab.certificate)
        host, port = destination.split(":")
        connection = http.client.HTTPSConnection(host, int(port), context=tls, timeout=120)
        headers = {"Authorization": self.authorization(method, target, destination, content)}
        if content is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, target, None if content is None else json.dumps(content), headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        try:
            return response.status, json.loads(body)
        except ValueError:
            return response.status, body.decode(errors="replace")

    # ------------------------------------------------------------ taking part in a room

    def make(self, room, sender, event_type, content, state_key=None, **options):
        """Makes and signs an event. Options: previous, auth, redacts. Returns its id and the event."""
        previous = options.get("previous", room.extremities)
        auth = options.get("auth") or room.auth_events(sender, event_type, state_key, content)
        depth = 1 + max([room.depth.get(p, 0) for p in previous] or [0])
        event = {"type": event_type, "room_id": room.room_id, "sender": sender, "content": content, "depth": depth,
                 "prev_events": [room.reference(i) for i in previous],
                 "auth_events": [room.reference(i) for i in auth],
                 "origin_server_ts": int(time.time() * 1000), "origin": self.name}
        if state_key is not None:
            event["state_key"] = state_key
        if "redacts" in options:
            place = event["content"] if room.rules.updated_redaction_rules else event
            place["redacts"] = options["redacts"]
        return self._sign(room, event)

    def text(self, room, sender, body, **options):
        return self.make(room, sender, "m.room.message", {"msgtype": "m.text", "body": body}, **options)

    def _sign(self, room, event):
        if room.rules.event_format == 1:
            event["event_id"] = f"${next(self.transactions)}:{self.name}"
        add_hashes_and_signatures(room.rules, event, self.name, self.key)
        event_id = room.event_id(event)
        room.depth[event_id], room.pdus[event_id] = event["depth"], event
        self.events[event_id] = event
        return event_id, event

    def send(self, destination, events):
        body = {"origin": self.name, "origin_server_ts": int(time.time() * 1000), "pdus": events, "edus": []}
        return self.request("PUT", destination, f"/_matrix/federation/v1/send/{next(self.transactions)}", body)

    def join(self, room, user, destination):
        versions = "&".join(f"ver={v}" for v in KNOWN_ROOM_VERSIONS)
        target = f"/_matrix/federation/v1/make_join/{quote(room.room_id)}/{quote(user)}?{versions}"
        status, answer = self.request("GET", destination, target)
        if status != 200:
            raise RuntimeError(f"make_join: {status} {answer}")
        event, room.version = answer["event"], answer["room_version"]
        event.update(origin_server_ts=int(time.time() * 1000), origin=self.name)
        for field in ("signatures", "hashes", "unsigned", "event_id"):
            event.pop(field, None)
        event_id, event = self._sign(room, event)
        target = f"/_matrix/federation/v2/send_join/{quote(room.room_id)}/{quote(event_id)}"
        status, answer = self.request("PUT", destination, target, event)
        if status != 200:
            raise RuntimeError(f"send_join: {status} {answer}")
        for pdu in answer["state"]:
            room.add(pdu)
        room.add(answer.get("event", event))
        room.extremities = [event_id]
        return event_id
