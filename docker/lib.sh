# What docker/prove and docker/rolling share: a scratch folder, free ports, programs that are
# started and stopped, and words when something is not as it should be. To be sourced.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
rooms="$root/tests/rooms"
work="$(mktemp -d)"
declare -A pids=()

cleanup() {
  for pid in "${pids[@]}"; do { kill -9 "$pid" && wait "$pid"; } 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT

say() { printf '\n-- %s\n' "$*"; }

die() {
  echo "FAILED: $*" >&2
  for log in "$work"/*.log; do
    { echo "== $log"; grep -m 3 -E 'ERROR|failed' "$log"; tail -3 "$log"; } >&2
  done
  exit 1
}

# A port that nobody listens on.
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start NAME COMMAND...: in the background; its log is $work/NAME.log.
start() {
  local name="$1"
  shift
  "$@" >"$work/$name.out" 2>>"$work/$name.log" &
  pids[$name]=$!
}

# stop NAME: SIGTERM, and exit code 0 after it.
stop() {
  local name="$1" code=0
  kill -TERM "${pids[$name]}"
  wait "${pids[$name]}" || code=$?
  unset "pids[$name]"
  [ "$code" = 0 ] || die "$name ended with $code"
}

# until_ready WHAT COMMAND...: asks again until it succeeds, for a minute at most.
until_ready() {
  local what="$1" deadline=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || die "$what is not ready"
    sleep 0.05
  done
}

# peers NAME FLAGS...: other homeservers ask about a room, until they are stopped.
peers() {
  local name="$1"
  shift
  start "$name" "$peers" --room "$rooms/linear-v12/room.ndjson" \
    --signing-keys "$rooms/signing-keys.json" "$@"
}

# stop_peers NAME: what they saw; no question may have failed.
stop_peers() {
  local name="$1" code=0
  kill -INT "${pids[$name]}"
  wait "${pids[$name]}" || code=$?
  unset "pids[$name]"
  cat "$work/$name.out"
  [ "$code" = 0 ] || die "questions failed"
}

# The load generator; and everything else, as the tests build it: then nothing is built twice.
build_peers() {
  (cd "$root" && cargo build -q --locked --workspace --all-targets)
  peers="$root/target/debug/examples/peers"
}
