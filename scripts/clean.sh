#!/usr/bin/env bash
# Removes what was built; never .realm, which holds keys.
. "$(dirname "$0")/common.sh"

cargo clean
cargo clean --manifest-path examples/Cargo.toml --target-dir "$EXAMPLES_TARGET_DIR"
