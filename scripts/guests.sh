#!/usr/bin/env bash
# Builds every component of this repository: the examples and the guests of the tests.
. "$(dirname "$0")/common.sh"

scripts/examples.sh
scripts/languages.sh
guest_cargo build --locked --release --target "$WASM_TARGET" --examples \
	--manifest-path tests/guests/Cargo.toml --target-dir "$GUESTS_TARGET_DIR"
guest_cargo build --locked --release --target "$WASM_TARGET" --examples \
	--manifest-path tests/sdks/Cargo.toml --target-dir "$SDKS_TARGET_DIR"
