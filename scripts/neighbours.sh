#!/usr/bin/env bash
# A healthy component beside 64 bad requests at any time, for a minute, on two cores, and then
# beside 64 of each kind: figures as JSON on stdout; fails if a good request did, or if its p99
# beside all kinds is more than twice what it is alone.
# CORES names the two (0,1); LOAD_CORES those of the clients, good and bad: the same two unless
# others are named, and then they take a good third of them. NEIGHBOURS_SECONDS and
# NEIGHBOURS_KIND_SECONDS say how long, NEIGHBOURS_KIND asks for one kind alone.
. "$(dirname "$0")/common.sh"

scripts/wasm-target.sh
# All of the workspace, whose features are those of every other build: else Wasmtime is built anew.
cargo build --locked --release --workspace --bench neighbours --bin realm
export CORES="${CORES:-0,1}" LOAD_CORES="${LOAD_CORES:-}"
exec cargo bench --locked --quiet --workspace --bench neighbours
