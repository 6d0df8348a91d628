#!/usr/bin/env bash
# Builds the example components to where examples/realm.toml looks for them.
. "$(dirname "$0")/common.sh"

scripts/wasm-target.sh
guest_cargo build --locked --release --target "$WASM_TARGET" \
	--manifest-path examples/Cargo.toml --target-dir "$EXAMPLES_TARGET_DIR"
