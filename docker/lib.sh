# Functions for docker/prove and docker/rolling, which source this file: a temporary folder, free
# ports, starting and stopping programs, error messages.

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

# Prints a free port.
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start NAME COMMAND...: starts a command in the background. Its log is $work/NAME.log.
start() {
  local name="$1"
  shift
  "$@" >"$work/$name.out" 2>>"$work/$name.log" &
  pids[$name]=$!
}

# stop NAME: sends SIGTERM, and fails unless the exit code is 0.
stop() {
  local name="$1" code=0
  kill -TERM "${pids[$name]}"
  wait "${pids[$name]}" || code=$?
  unset "pids[$name]"
  [ "$code" = 0 ] || die "$name ended with $code"
}

# until_ready WHAT COMMAND...: repeats a command until it succeeds, for one minute at most.
until_ready() {
  local what="$1" deadline=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || die "$what is not ready"
    sleep 0.05
  done
}

# peers NAME FLAGS...: starts other homeservers, which send requests about a room until stopped.
peers() {
  local name="$1"
  shift
  start "$name" "$peers" --room "$rooms/linear-v12/room.ndjson" \
    --signing-keys "$rooms/signing-keys.json" "$@"
}

# stop_peers NAME: stops them and prints their counts. Fails if a request failed.
stop_peers() {
  local name="$1" code=0
  kill -INT "${pids[$name]}"
  wait "${pids[$name]}" || code=$?
  unset "pids[$name]"
  cat "$work/$name.out"
  [ "$code" = 0 ] || die 'requests failed'
}

# Builds the load generator. Builds everything with the flags of the tests: then cargo builds nothing
# twice.
build_peers() {
  (cd "$root" && cargo build -q --locked --workspace --all-targets)
  peers="$root/target/debug/examples/peers"
}
