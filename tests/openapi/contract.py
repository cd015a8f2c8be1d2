"""Sends random requests that the OpenAPI contract of the specification allows to a gateway, signed and
unsigned, and checks the responses against the contract: python contract.py ADDRESS COUNT

Half of the requests are about the room in the history service. Schemathesis makes the requests and
checks the responses; this script checks error responses, which the contract does not describe.
"""

import base64
import collections
import json
import pathlib
import sys

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from nacl.signing import SigningKey
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

HERE = pathlib.Path(__file__).parent
ROOM = HERE.parent / "rooms" / "linear-v12" / "room.ndjson"
KEYS = HERE.parent / "rooms" / "signing-keys.json"
ORIGIN, DESTINATION = "hs2.example:9102", "hs1.example:9101"
BASE = "/_matrix/federation/v1"

address, count = sys.argv[1], int(sys.argv[2])
lines = ROOM.read_text().splitlines()
room_id = json.loads(lines[0])["room"]["room_id"]
event_ids = [json.loads(line)["event_id"] for line in lines[1:]]
key = json.loads(KEYS.read_text())[ORIGIN]
seed = key["signing_seed_base64"]
signing_key = SigningKey(base64.b64decode(seed + "=" * (-len(seed) % 4)))
session = requests.Session()
seen = collections.Counter()


def authorization(method, uri, content):
    signed = {"method": method, "uri": uri, "origin": ORIGIN, "destination": DESTINATION}
    if content is not None:
        signed["content"] = content
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    signature = signing_key.sign(text.encode()).signature
    sig = base64.b64encode(signature).decode().rstrip("=")
    return f'X-Matrix origin="{ORIGIN}",destination="{DESTINATION}",key="{key["key_id"]}",sig="{sig}"'


def ask(case, signed):
    arguments = case.as_transport_kwargs(base_url=f"http://{address}{BASE}")
    prepared = session.prepare_request(requests.Request(**{
        name: arguments[name]
        for name in ("method", "url", "params", "json", "data", "headers", "cookies")
        if name in arguments
    }))
    content = json.loads(prepared.body) if prepared.body else None
    if signed:
        prepared.headers["Authorization"] = authorization(
            prepared.method, prepared.path_url, content
        )
    response = session.send(prepared, timeout=30, allow_redirects=False)
    seen[(case.operation.label, "signed" if signed else "unsigned", response.status_code)] += 1
    checks = [not_a_server_error, content_type_conformance, response_schema_conformance]
    if response.status_code == 200:
        assert signed, "answered to nobody"
        case.validate_response(response, checks=checks)
        return
    told = f"{prepared.method} {prepared.path_url} {prepared.body}: {response.status_code}"
    allowed = {400, 403, 404, 413} if signed else {400, 401, 404, 413}
    assert response.status_code in allowed, told
    refusal = response.json()
    assert refusal["errcode"].startswith("M_") and refusal["error"], told
    assert response.headers["Content-Type"] == "application/json", told
    if response.status_code == 404:
        # Only an empty room id makes a path that the contract does not contain.
        assert refusal["errcode"] == "M_UNRECOGNIZED" and not case.path_parameters["roomId"], told


schema = schemathesis.openapi.from_dict(json.loads((HERE / "backfill.openapi.json").read_text()))
backfill = schema["/backfill/{roomId}"]["GET"]
missing = schema["/get_missing_events/{roomId}"]["POST"]
some_events = st.lists(st.sampled_from(event_ids), max_size=5)


def run(operation, held):
    @given(
        case=operation.as_strategy(),
        signed=st.sampled_from([True, True, True, False]),
        known=st.booleans(),
        first=some_events,
        second=some_events,
    )
    @settings(
        max_examples=count // 2,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    def check(case, signed, known, first, second):
        if known:
            case.path_parameters["roomId"] = room_id
            held(case, first, second)
        ask(case, signed)

    check()


def held_backfill(case, first, _):
    case.query["v"] = first


def held_missing(case, first, second):
    if isinstance(case.body, dict):
        case.body.update(latest_events=first, earliest_events=second)


run(backfill, held_backfill)
run(missing, held_missing)
for (operation, how, status), times in sorted(seen.items()):
    print(f"{times:6} {operation} {how}: {status}")
print(f"{sum(seen.values()):6} responses, all as the contract requires")
