# Functions for docker/prove, docker/rolling and tests/citus/run, which source this file: a temporary
# folder, free ports, starting and stopping programs, PostgreSQL servers, error messages.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
rooms="$root/tests/rooms"
work="$(mktemp -d)"
declare -A pids=()
servers=()

cleanup() {
  # SIGQUIT ends a PostgreSQL server with all its processes. SIGKILL would leave some of them.
  for server in "${servers[@]}"; do stop_postgres "$server" 2>/dev/null || true; done
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

# Sets $postgres_bin to the folder with the programs of the newest PostgreSQL that is installed, or to
# $POSTGRES_BIN. Fails if there is none.
find_postgres() {
  postgres_bin="${POSTGRES_BIN:-$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)}"
  [ -x "$postgres_bin/initdb" ]
}

# Runs one of its programs. A server refuses to run as root.
run_postgres() {
  local program="$postgres_bin/$1" user=()
  shift
  [ "$(id -u)" != 0 ] || user=(setpriv --reuid=postgres --regid=postgres --clear-groups)
  (cd / && exec env -u PGOPTIONS HOME=/ "${user[@]}" "$program" "$@")
}

# start_postgres NAME PORT SETTING...: starts a server in the temporary folder. The role `owner` may do
# everything. Programs of this machine connect without a password.
start_postgres() {
  local name="$1" port="$2" data="$work/$1"
  shift 2
  mkdir "$data"
  chmod 711 "$work"
  [ "$(id -u)" != 0 ] || chown postgres "$data"
  run_postgres initdb -U owner -A trust -E UTF8 --locale=C --no-sync -D "$data" >"$work/$name.log"
  local settings=()
  for setting in listen_addresses=127.0.0.1 unix_socket_directories= "port=$port" \
    dynamic_shared_memory_type=mmap max_connections=200 "$@"; do
    settings+=(-c "$setting")
  done
  run_postgres postgres -D "$data" "${settings[@]}" >>"$work/$name.log" 2>&1 &
  servers+=("$name")
  until_ready "$name" run_postgres pg_isready -q -h 127.0.0.1 -p "$port"
}

# stop_postgres NAME: ends a server in the middle of everything, and waits for its end.
stop_postgres() {
  local pid
  pid="$(head -1 "$work/$1/postmaster.pid")"
  kill -QUIT "$pid"
  while kill -0 "$pid"; do sleep 0.05; done
}

# sql PORT DATABASE STATEMENT...: runs statements as the owner.
sql() {
  local port="$1" database="$2"
  shift 2
  for statement in "$@"; do
    run_postgres psql -X -q -A -t -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U owner -d "$database" \
      -c "$statement"
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
