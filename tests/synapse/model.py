"""What is right: the rules of docs/semantics.md worked out from Synapse's database, by nobody's follower.

The state of an event is that of Synapse's state groups, so our resolution of state is tested too.
"""
import collections
import hashlib
import heapq
import ipaddress
import json
import re

from canonicaljson import encode_canonical_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.synapse_rust.events import redact_event_dict

from peer import references

VISIBILITY = ("m.room.history_visibility", "")


def digest(pdu):
    """SHA-256 of an event without `unsigned`, as 64 hexadecimal digits."""
    return hashlib.sha256(encode_canonical_json({k: v for k, v in pdu.items() if k != "unsigned"})).hexdigest()


def server_of(user):
    return user.partition(":")[2]


class Room:
    """A room as a homeserver's database holds it now."""

    def __init__(self, lab, which, room_id):
        self.lab, self.which, self.room_id, self.server = lab, which, room_id, lab.name[which]
        version = self.rows("select room_version from rooms where room_id = %s", room_id)
        self.is_present = bool(version)
        self.version = version[0][0] if version else "10"
        self.rules = KNOWN_ROOM_VERSIONS[self.version]
        self._states = {}
        self.events = {}
        self._read_events()
        self.groups = dict(self.rows("""select g.event_id, g.state_group from event_to_state_groups g
                                        join events e using (event_id) where e.room_id = %s""", room_id))
        self.current = {(t, k): e for t, k, e in self.rows(
            "select type, state_key, event_id from current_state_events where room_id = %s", room_id)}
        senders = {e["pdu"]["sender"] for e in self.events.values()}
        self.erased = {u for (u,) in self.rows("select user_id from erased_users")} & senders
        self.redacted = {}
        self._read_redactions()
        self.is_partial = self._is_in("partial_state_rooms")
        self.is_blocked = self._is_in("blocked_rooms")
        self.tips = [e for (e,) in self.rows(
            "select event_id from event_forward_extremities where room_id = %s", room_id)]

    def rows(self, query, *arguments):
        return self.lab.rows(self.which, query, *arguments)

    def _is_in(self, table):
        return bool(self.rows(f"select 1 from {table} where room_id = %s", self.room_id))

    def _read_events(self):
        query = """select e.event_id, e.stream_ordering, e.outlier, e.rejection_reason, j.json, j.internal_metadata
                   from events e join event_json j using (event_id)
                   where e.room_id = %s order by e.stream_ordering"""
        for arrival, row in enumerate(self.rows(query, self.room_id)):
            event_id, ordering, outlier, rejection, text, metadata = row
            pdu = json.loads(text)
            pdu.pop("unsigned", None)
            self.events[event_id] = {
                "pdu": pdu, "arrival": arrival, "ordering": ordering, "outlier": bool(outlier),
                "rejected": rejection is not None, "soft_failed": bool(json.loads(metadata).get("soft_failed")),
                "previous": references(pdu, "prev_events")}

    def _read_redactions(self):
        query = """select r.event_id, r.redacts, r.recheck from redactions r join events e on e.event_id = r.event_id
                   where e.room_id = %s and e.rejection_reason is null"""
        for redaction_id, target_id, recheck in self.rows(query, self.room_id):
            target, redaction = self.events.get(target_id), self.events.get(redaction_id)
            if not target or not redaction or redaction["rejected"] or redaction["outlier"]:
                continue
            if target["pdu"]["type"] == "m.room.create":
                continue
            same_server = server_of(redaction["pdu"]["sender"]) == server_of(target["pdu"]["sender"])
            if recheck and self.rules.event_format != 1 and not same_server:
                continue
            self.redacted[target_id] = redaction_id
        # MSC4293: a ban that redacts.
        query = "select user_id, redacting_event_id, redact_end_ordering from room_ban_redactions where room_id = %s"
        for user, ban_id, end in self.rows(query, self.room_id):
            for event_id, event in self.events.items():
                if (event["pdu"]["sender"] == user and event["pdu"]["type"] != "m.room.create"
                        and event_id != ban_id and (end is None or event["ordering"] < end)):
                    self.redacted.setdefault(event_id, ban_id)

    # ------------------------------------------------------------ state

    def state_after(self, event_id):
        """The state after an event; of a rejected one the state before it, which is the same. None: not known."""
        if self.events[event_id]["outlier"] or event_id not in self.groups:
            return None
        return self._group(self.groups[event_id])

    def _group(self, group):
        if group not in self._states:
            previous = self.rows("select prev_state_group from state_group_edges where state_group = %s", group)
            state = dict(self._group(previous[0][0])) if previous else {}
            query = "select type, state_key, event_id from state_groups_state where state_group = %s"
            state.update({(t, k): e for t, k, e in self.rows(query, group)})
            self._states[group] = state
        return self._states[group]

    def content(self, event_id):
        """The content as it counts: a redacted event has only what the room version keeps."""
        if event_id not in self.events:
            return {}
        pdu = self.events[event_id]["pdu"]
        return (redact_event_dict(self.rules, pdu) if event_id in self.redacted else pdu)["content"]

    def memberships(self, state, server):
        return {self.content(e).get("membership") for (t, k), e in state.items()
                if t == "m.room.member" and server_of(k) == server}

    # ------------------------------------------------------------ visibility

    def _state_lets_see(self, state, server):
        visibility = self.content(state[VISIBILITY]).get("history_visibility") if VISIBILITY in state else None
        if visibility not in ("invited", "joined"):
            return True
        found = self.memberships(state, server)
        return "join" in found or (visibility == "invited" and "invite" in found)

    def _values_before(self, event_id, key):
        """The values that a state key may have had just before an event. None: not known."""
        values = set()
        for previous in self.events[event_id]["previous"]:
            state = self.state_after(previous) if previous in self.events else None
            if state is None:
                return None
            values.add(state.get(key))
        return values or {None}

    def form(self, event_id, server):
        """How a server gets an event: `full`, `redacted`, or `either` if the database cannot tell."""
        state = self.state_after(event_id)
        if event_id in self.redacted or state is None:
            return "redacted"
        pdu = self.events[event_id]["pdu"]
        visible = {self._state_lets_see(state, server)}
        key = (pdu["type"], pdu.get("state_key"))
        counts_before = key == VISIBILITY or (key[0] == "m.room.member" and server_of(key[1] or "") == server)
        if counts_before and visible != {True}:
            before = self._values_before(event_id, key)
            if before is None:
                return "either"
            visible = set()
            for value in before:
                changed = {k: v for k, v in state.items() if k != key}
                changed.update({key: value} if value else {})
                visible.add(self._state_lets_see(changed, server))
        if len(visible) == 2:
            return "either"
        is_visible = visible == {True}
        if is_visible and pdu["sender"] in self.erased:
            is_visible = "join" in self.memberships(state, server)
        return "full" if is_visible else "redacted"

    def digest_of(self, event_id, form):
        pdu = self.events[event_id]["pdu"]
        return digest(redact_event_dict(self.rules, pdu) if form == "redacted" else pdu)

    def admits(self, server):
        """Whether a server may ask at all."""
        acl = self.current.get(("m.room.server_acl", ""))
        if acl and not _acl_allows(self.content(acl), server):
            return False
        return all("join" in self.memberships(self.current, s) for s in (server, self.server))

    # ------------------------------------------------------------ walks

    def _is_live(self, event_id):
        return event_id in self.events and not self.events[event_id]["outlier"]

    def backfill(self, starts, limit):
        def rank(event_id):
            event = self.events[event_id]
            return (-event["pdu"]["depth"], -event["arrival"], event_id)

        seen = {s for s in starts if self._is_live(s)}
        heap, found = [rank(s) for s in seen], []
        heapq.heapify(heap)
        while heap and len(found) < min(limit, 100):
            event_id = heapq.heappop(heap)[2]
            if not self.events[event_id]["rejected"]:
                found.append(event_id)
            for previous in self.events[event_id]["previous"]:
                if self._is_live(previous) and previous not in seen:
                    seen.add(previous)
                    heapq.heappush(heap, rank(previous))
        return sorted(found, key=rank)

    def missing_events(self, earliest, latest, limit):
        seen, found = set(earliest) | set(latest), []
        queue = collections.deque(e for e in dict.fromkeys(latest) if self._is_live(e) and e not in earliest)
        while queue and len(found) < min(limit, 20):
            for previous in self.events[queue.popleft()]["previous"]:
                if previous in seen:
                    continue
                seen.add(previous)
                if not self._is_live(previous):
                    continue
                if not self.events[previous]["rejected"]:
                    if len(found) >= min(limit, 20):
                        break
                    found.append(previous)
                queue.append(previous)
        return self._in_order(found)

    def _in_order(self, event_ids):
        """Predecessors first; then by depth and arrival."""
        chosen, children, waits_for = set(event_ids), collections.defaultdict(set), {}
        for event_id in event_ids:
            inside = set(self.events[event_id]["previous"]) & chosen
            waits_for[event_id] = len(inside)
            for previous in inside:
                children[previous].add(event_id)

        def rank(event_id):
            event = self.events[event_id]
            return (event["pdu"]["depth"], event["arrival"], event_id)

        heap, order = [rank(e) for e in event_ids if not waits_for[e]], []
        heapq.heapify(heap)
        while heap:
            event_id = heapq.heappop(heap)[2]
            order.append(event_id)
            for child in children[event_id]:
                waits_for[child] -= 1
                if not waits_for[child]:
                    heapq.heappush(heap, rank(child))
        return order


def _glob(pattern):
    return re.compile("^" + re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".") + "$", re.I)


def _acl_allows(content, server):
    host = server.rpartition(":")[0] if re.search(r":\d+$", server) else server
    if content.get("allow_ip_literals", True) is False:
        try:
            ipaddress.ip_address(host.strip("[]"))
            return False
        except ValueError:
            pass

    def matches(field):
        patterns = content.get(field)
        return any(_glob(p).match(host) for p in patterns if isinstance(p, str)) if isinstance(patterns, list) else False

    return not matches("deny") and matches("allow")
