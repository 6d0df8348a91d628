#!/usr/bin/env bash
# Adds the Rust target of the guests if it is missing.
. "$(dirname "$0")/common.sh"

# Asks the compiler, since a toolchain need not come from rustup.
has_target() { [ -d "$(rustc --print target-libdir --target "$WASM_TARGET" 2>/dev/null)" ]; }

has_target && exit
command -v rustup >/dev/null ||
	fail "this Rust has no target \`$WASM_TARGET\`, and there is no rustup to add it" "install Rust from https://rustup.rs"
rustup target add "$WASM_TARGET" >&2 || true
has_target || fail "the target \`$WASM_TARGET\` could not be added" "is there a network? try: rustup target add $WASM_TARGET"
