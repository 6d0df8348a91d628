#!/usr/bin/env bash
# Formats all Rust code; with --check it only looks.
. "$(dirname "$0")/common.sh"

cargo fmt --all -- "$@"
for workspace in tests/guests tests/sdks examples bench bench/guests fuzz; do
	cargo fmt --all --manifest-path "$workspace/Cargo.toml" -- "$@"
done
