"""Compares the state after every event: the history service's against Synapse's state groups."""
import collections

import grpc
from backscroll.history.v1 import history_service_pb2 as messages
from backscroll.history.v1 import history_service_pb2_grpc as services

import model


class States:
    def __init__(self, lab):
        self.lab = lab
        self.history = services.HistoryServiceStub(grpc.insecure_channel(lab.history_address))
        self.counts, self.faults = collections.Counter(), []

    def compare(self, room_ids=None):
        """Compares rooms of hs1, by default all. Returns whether nothing differs."""
        if room_ids is None:
            query = "select room_id from rooms where room_version is not null"
            room_ids = [r for (r,) in self.lab.rows("hs1", query)]
        for room_id in room_ids:
            self._compare_room(model.Room(self.lab, "hs1", room_id))
        return not self.faults

    def _compare_room(self, room):
        if room.is_partial or room.is_blocked:
            self.counts["rooms that are not served"] += 1
            return
        for event_id, event in room.events.items():
            if event["outlier"]:
                self.counts["outliers"] += 1
                continue
            kind = "rejected " if event["rejected"] else "soft-failed " if event["soft_failed"] else ""
            self._compare_state(f"{kind}events", room, event_id, room.state_after(event_id))
        if room.current:
            self._compare_state("current states", room, "", room.current)

    def _compare_state(self, what, room, event_id, wanted):
        try:
            found = self._state(room.room_id, event_id)
        except grpc.RpcError as error:
            self.counts[f"{what}: {error.details()[:60]}"] += 1
            self.faults.append((room.room_id, event_id, error.details()))
            return
        if found == wanted:
            self.counts[f"{what} with the same state"] += 1
            return
        self.counts[f"{what} with ANOTHER state"] += 1
        keys = [k for k in set(found) | set(wanted or {}) if found.get(k) != (wanted or {}).get(k)]
        self.faults.append((room.room_id, event_id, [(k, found.get(k), (wanted or {}).get(k)) for k in keys[:3]]))

    def _state(self, room_id, event_id):
        state, token = {}, ""
        while True:
            page = self.history.GetState(messages.GetStateRequest(
                room_id=room_id, event_id=event_id, page_size=10000, page_token=token))
            state.update({(e.type, e.state_key): e.event_id for e in page.entries})
            token = page.next_page_token
            if not token:
                return state
