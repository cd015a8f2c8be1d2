"""Appends the events of a room file, and prints the last of them.

Usage: client.py ADDRESS ROOM.ndjson
"""

import json
import sys

import grpc
from backscroll.history.v1 import history_service_pb2 as history
from backscroll.history.v1 import history_service_pb2_grpc as history_grpc
from backscroll.history.v1 import ingest_service_pb2 as ingest
from backscroll.history.v1 import ingest_service_pb2_grpc as ingest_grpc

DEADLINE = 30


def requests(header, lines):
    """One request for each line of the file."""
    for line in lines:
        event = json.loads(line)
        verdict = history.VERDICT_ACCEPTED
        if event.get("rejected"):
            verdict = history.VERDICT_REJECTED
        elif event.get("soft_failed"):
            verdict = history.VERDICT_SOFT_FAILED
        yield ingest.AppendEventsRequest(
            room_id=header["room_id"],
            room_version=header["room_version"],
            event_id=event["event_id"],
            # The service checks hashes, so the PDU must have the value that was signed. Its
            # whitespace and the order of its members are free.
            pdu=json.dumps(event["pdu"], ensure_ascii=False).encode(),
            verdict=verdict,
            outlier=event.get("outlier", False),
            state_after=event.get("state_after", []),
        )


def main(address, path):
    with open(path, encoding="utf-8") as file:
        header, *lines = file.readlines()
    header = json.loads(header)["room"]
    # The default limit of 4 MiB for a response is enough.
    with grpc.insecure_channel(address) as channel:
        appended = ingest_grpc.IngestServiceStub(channel).AppendEvents(
            requests(header, lines), timeout=DEADLINE
        )
        for response in appended:
            # Each response is sent when its event is on disk.
            if response.HasField("refusal"):
                reason = ingest.RefusalReason.Name(response.refusal.reason)
                print("refused:", response.event_id, reason, response.refusal.message)
            else:
                last = response.event_id

        # Without a requester, this is a request of an internal caller: no event is hidden.
        page = history_grpc.HistoryServiceStub(channel).Backfill(
            history.BackfillRequest(room_id=header["room_id"], event_ids=[last], limit=5),
            timeout=DEADLINE,
        )
    for event_id, pdu in zip(page.event_ids, json.loads(page.pdus)):
        print(event_id, pdu["type"], pdu["sender"])
    print("ended because of", history.EndReason.Name(page.end_reason))


if __name__ == "__main__":
    main(*sys.argv[1:])
