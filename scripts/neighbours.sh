#!/usr/bin/env bash
# A healthy component beside 64 bad requests at any time, for a minute, on two cores, and then beside
# 64 of each kind: figures as JSON on stdout. Fails if a good request did, or if its p99 beside all
# kinds, or beside any one of them, is more than twice what it is alone: `falls_short` says which.
#
# CORES names the agent's two (0,1), LOAD_CORES those of the clients and BAD_CORES those of the bad ones
# among them: a core for each where the machine has four, so that what is measured is the agent and not
# clients that wait for each other; else the agent's; empty: the agent's. There they take a good third.
# NEIGHBOURS_SECONDS (60) and NEIGHBOURS_KIND_SECONDS (10; 0: no kind by itself) say how long,
# NEIGHBOURS_KIND=spin,park asks for these kinds alone, and NEIGHBOURS_PACE_MS (0) is the time from
# one bad request of a client to its next: 0 keeps 64 under way, 100 is as people and retries do.
# NEIGHBOURS_REALM is another realm to measure, for instance the one of `make release`.
. "$(dirname "$0")/common.sh"

if [ -z "${LOAD_CORES+named}" ] && [ "$(nproc)" -ge 4 ]; then
    LOAD_CORES=2
    BAD_CORES="${BAD_CORES-3}"
fi
scripts/wasm-target.sh
# All of the workspace, whose features are those of every other build: else Wasmtime is built anew.
cargo build --locked --release --workspace --bench neighbours --bin realm
# With backtraces on, each guest that traps or is cancelled costs one.
export RUST_BACKTRACE=0
export CORES="${CORES:-0,1}" LOAD_CORES="${LOAD_CORES:-}" BAD_CORES="${BAD_CORES:-}"
exec cargo bench --locked --quiet --workspace --bench neighbours
