#!/usr/bin/env bash
# From a fresh clone to a realm of one node that serves the examples; Ctrl-C ends it.
# `.realm`, or where RUN_REALM_DIR says, keeps its keys and its log: the next run goes on where this one was.
. "$(dirname "$0")/common.sh"

scripts/examples.sh
cargo build --locked --bin realm
manifest=$(scripts/run-manifest.sh)
# Components of whole language runtimes take a minute to compile, once.
exec "$TARGET_DIR/debug/realm" --realm "${RUN_REALM_DIR:-.realm}" up "$manifest" --timeout 15m "$@"
