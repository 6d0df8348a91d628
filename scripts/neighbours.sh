#!/usr/bin/env bash
# A healthy component beside 64 bad requests at any time, for a minute, on two cores: figures as
# JSON on stdout; fails if a good request did, or if its p99 is more than twice what it is alone.
# CORES names the two (0,1); NEIGHBOURS_SECONDS how long.
. "$(dirname "$0")/common.sh"

scripts/wasm-target.sh
cargo build --locked --release --bench neighbours --bin realm
# The agent, the load and the bad clients share the two.
exec taskset --cpu-list "${CORES:-0,1}" cargo bench --locked --quiet --bench neighbours
