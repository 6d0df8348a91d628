#!/usr/bin/env bash
# Requests per second of `hello`: realm, and `wasmtime serve` beside it where that is installed.
# The rounds take turns, so that a noisy machine is noisy for both.
. "$(dirname "$0")/common.sh"

ROUNDS=3
SECONDS_EACH=10
CONNECTIONS=32
REALM_PORT=18080
PEER_PORT=18081
component=$EXAMPLES_TARGET_DIR/wasm32-wasip2/release/hello.wasm

need_package wrk wrk
need_package curl curl
scripts/examples.sh
cargo build --locked --release --bin realm

folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

# answers URL: waits until it does, for as long as the first compilation may take.
answers() {
	curl --silent --fail --output /dev/null --retry 60 --retry-delay 1 --retry-all-errors "$1" ||
		{
			tail -n 20 "$folder"/*.log >&2
			fail "no answer from $1"
		}
}

"$TARGET_DIR/release/realm" --realm "$folder/realm" up examples/realm.toml \
	--http "127.0.0.1:$REALM_PORT" --admin 127.0.0.1:0 >"$folder/realm.log" 2>&1 &
pids+=($!)
peers=("realm http://127.0.0.1:$REALM_PORT/hello/")
answers "http://127.0.0.1:$REALM_PORT/hello/"
if command -v wasmtime >/dev/null; then
	wasmtime serve -Scli --addr "127.0.0.1:$PEER_PORT" "$component" >"$folder/wasmtime.log" 2>&1 &
	pids+=($!)
	peers+=("wasmtime http://127.0.0.1:$PEER_PORT/hello/")
	answers "http://127.0.0.1:$PEER_PORT/hello/"
else
	say "note: \`wasmtime\` is not installed, so there is nothing to compare with"
fi

printf '%-10s %12s %10s %10s\n' who requests/s p50 p99
for _ in $(seq "$ROUNDS"); do
	for peer in "${peers[@]}"; do
		wrk --latency -t2 -c"$CONNECTIONS" -d"${SECONDS_EACH}s" "${peer#* }" |
			awk -v who="${peer%% *}" '
				/^ *50%/ { p50 = $2 } /^ *99%/ { p99 = $2 } /^Requests\/sec/ { rate = $2 }
				/Non-2xx|Socket errors/ { bad = bad "  " $0 }
				END { printf "%-10s %12s %10s %10s%s\n", who, rate, p50, p99, bad }'
	done
done
