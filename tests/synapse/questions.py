"""Questions about rooms, the answers that are right, and a judge that asks a gateway until it is right."""
import collections
import concurrent.futures
import http.client
import json
import random
import time
import urllib.parse

from synapse.events import make_event_from_dict

import model
from clients import quote

# How many questions are asked at the same time.
PARALLEL = 6


def _choose(generator, items, count=1):
    return generator.sample(items, min(count, len(items)))


def about(room, seed):
    """The questions that are worth asking about a room: method, target, content."""
    generator, questions = random.Random(seed), []
    live = [e for e, x in room.events.items() if not x["outlier"]]
    by_depth = sorted(live, key=lambda e: room.events[e]["pdu"]["depth"])
    tips = room.tips or by_depth[-1:]
    special = [e for e, x in room.events.items() if x["rejected"] or x["soft_failed"] or x["outlier"]]
    unknown = ["$nosuch:example.org" if room.version in ("1", "2") else "$" + "B" * 43]

    def backfill(starts, limit):
        if starts:
            query = "&".join(["v=" + quote(s) for s in starts] + [f"limit={limit}"])
            questions.append({"method": "GET", "target": f"/_matrix/federation/v1/backfill/{quote(room.room_id)}?{query}",
                              "starts": starts, "limit": limit})

    def missing_events(earliest, latest, limit):
        content = {"earliest_events": earliest, "latest_events": latest, "limit": limit}
        target = f"/_matrix/federation/v1/get_missing_events/{quote(room.room_id)}"
        questions.append({"method": "POST", "target": target, "content": content})

    for limit in (1, 10, 100):
        backfill(tips, limit)
    for limit in (5, 100):
        backfill(_choose(generator, live), limit)
    for event_id in _choose(generator, special, 3) + _choose(generator, list(room.redacted), 2):
        backfill([event_id], 5)
    backfill(unknown, 10)
    backfill(by_depth[:1], 10)
    for limit in (10, 20):
        missing_events([], tips or unknown, limit)
    for _ in range(3 if len(by_depth) > 2 else 0):
        middle = generator.randrange(1, len(by_depth))
        missing_events(_choose(generator, by_depth[:middle], 2), _choose(generator, by_depth[middle:]), 20)
    return questions


def expected(room, question, origin):
    """The answer that is right for us: a status and the events with their forms."""
    if not room.is_present or not room.admits(origin):
        return {"status": 403, "errcode": "M_FORBIDDEN"}
    if question["method"] == "GET":
        event_ids = room.backfill(question["starts"], question["limit"])
    else:
        content = question["content"]
        event_ids = room.missing_events(content["earliest_events"], content["latest_events"], content["limit"])
    events = []
    for event_id in event_ids:
        form = room.form(event_id, origin)
        events.append([event_id, form, None if form == "either" else room.digest_of(event_id, form)])
    return {"status": 200, "events": events}


def _events_of(answer):
    return answer.get("pdus", answer.get("events", []))


def asked_of_synapse(lab, peer, question):
    """Synapse's own answer: a status, and the ids and digests of the events."""
    status, answer = peer.request(question["method"], lab.name["hs1"], question["target"], question.get("content"))
    if status != 200:
        return {"status": status, "errcode": answer.get("errcode") if isinstance(answer, dict) else None}
    rules = model.KNOWN_ROOM_VERSIONS[question["room_version"]]
    return {"status": 200, "events": [[make_event_from_dict(dict(p), rules).event_id, model.digest(p)]
                                      for p in _events_of(answer)]}


def prepare(lab, room_ids, peers, seed):
    """All questions about rooms of hs1, each with the right answer at this moment."""
    entries = []
    for room_id in room_ids:
        room = model.Room(lab, "hs1", room_id)
        for peer in peers:
            for question in about(room, f"{seed}{room_id}"):
                entries.append({**question, "origin": peer.name, "room_id": room_id, "room_version": room.version,
                                "expected": expected(room, question, peer.name), "is_partial": room.is_partial})
    return entries


def record(lab, entries, peers):
    """Asks Synapse itself, and adds its answers."""
    by_name = {p.name: p for p in peers}

    def ask(entry):
        entry["synapse"] = asked_of_synapse(lab, by_name[entry["origin"]], entry)

    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(ask, entries))


def ask_gateway(lab, peer, question, url=None):
    """Returns status, JSON (or None) and headers in lower case."""
    address = urllib.parse.urlsplit(url or lab.gateway_url)
    content = question.get("content")
    headers = {"Host": lab.name["hs1"],
               "Authorization": peer.authorization(question["method"], question["target"], lab.name["hs1"], content)}
    if content is not None:
        headers["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    try:
        connection.request(question["method"], question["target"],
                           None if content is None else json.dumps(content), headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    found = {k.lower(): v for k, v in response.getheaders()}
    try:
        return response.status, json.loads(body), found
    except ValueError:
        return response.status, None, found


# Reasons for which the gateway passes a request on though it could answer.
BY_DESIGN = ("synapse;reason=first_of_origin", "synapse;reason=not_final")


def fault(entry, wanted, status, answer):
    """How an answer of the gateway differs from the wanted one; None if it does not. `wanted` is the right
    answer of ours, or Synapse's own."""
    is_of_synapse = wanted is not entry["expected"]
    kind = "of synapse: " if is_of_synapse else ""
    if status != wanted["status"]:
        return f"{kind}status {status} for {wanted['status']}"
    if status != 200:
        is_same = isinstance(answer, dict) and answer.get("errcode") == wanted["errcode"]
        return None if is_same else f"{kind}errcode"
    pdus = _events_of(answer or {})
    if is_of_synapse:
        same = sorted(model.digest(p) for p in pdus) == sorted(d for _, d in wanted["events"])
        return None if same else "of synapse: another answer than its own"
    if len(pdus) != len(wanted["events"]):
        return f"{'fewer' if len(pdus) < len(wanted['events']) else 'more'} events"
    rules = model.KNOWN_ROOM_VERSIONS[entry["room_version"]]
    for pdu, (event_id, form, digest) in zip(pdus, wanted["events"]):
        if form != "either" and model.digest(pdu) != digest:
            is_same_event = make_event_from_dict(dict(pdu), rules).event_id == event_id
            return f"event differs (wanted {form})" if is_same_event else "another event, or another order"
    return None


class Judge:
    """Asks a gateway recorded questions until every answer is right, or until the time is up."""

    def __init__(self, lab, peers, within):
        self.lab, self.within = lab, within
        self.peers = {p.name: p for p in peers}

    def judge(self, records):
        """Counts of right and wrong answers, the kinds of the wrong ones, who answered."""
        begun, last_right, left = time.monotonic(), 0.0, records
        answered_by = collections.Counter()
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            while True:
                results = list(pool.map(self._ask, left))
                answered_by.update(r["by"] for r in results if not r["fault"])
                still = [{**e, "fault": r["fault"], "answered_by": r["by"]}
                         for e, r in zip(left, results) if r["fault"]]
                if len(still) < len(left):
                    last_right = time.monotonic() - begun
                left = still
                if not left or time.monotonic() - begun > self.within:
                    break
                time.sleep(0.2)
        return {"right": len(records) - len(left), "wrong": len(left), "seconds": round(last_right, 1),
                "kinds": dict(collections.Counter(e["fault"] for e in left)),
                "answered_by": dict(answered_by), "first": left[:12]}

    def _ask(self, entry):
        peer = self.peers[entry["origin"]]
        try:
            status, answer, headers = ask_gateway(self.lab, peer, entry)
        except OSError as error:
            return {"fault": f"no answer: {error}", "by": "nobody"}
        by = headers.get("x-backscroll", "no header")
        return {"fault": self._fault(entry, status, answer, by), "by": by}

    def _fault(self, entry, status, answer, answered_by):
        """Where the room is in partial state, and where the gateway passes a request on by design, the answer
        of Synapse is right too. A room that is not served for another reason is a fault, though Synapse
        answers."""
        found = fault(entry, entry["expected"], status, answer)
        is_passed_on = answered_by.startswith("synapse")
        if is_passed_on and status == 200 and not entry["is_partial"] and answered_by not in BY_DESIGN:
            return f"answered by {answered_by}"
        if found and is_passed_on or entry["is_partial"]:
            wanted = asked_of_synapse(self.lab, self.peers[entry["origin"]], entry)
            return fault(entry, wanted, status, answer)
        return found
