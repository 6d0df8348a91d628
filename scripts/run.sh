#!/usr/bin/env bash
# From a fresh clone to a realm of one node that serves the examples; Ctrl-C ends it.
# `.realm` keeps its keys and its log, so that the next run goes on where this one was.
. "$(dirname "$0")/common.sh"

scripts/examples.sh
cargo build --locked --bin realm
exec "$TARGET_DIR/debug/realm" --realm .realm up examples/realm.toml "$@"
