#!/usr/bin/env bash
# Format, lints, and what the dependencies bring: licenses, sources, known holes.
. "$(dirname "$0")/common.sh"

for script in scripts/*.sh .ci/run; do bash -n "$script"; done
# install.sh runs in whatever `sh` a machine has.
need_package shellcheck shellcheck
shellcheck --shell=sh install.sh
scripts/fmt.sh --check
scripts/wasm-target.sh
cargo clippy --locked --workspace --all-targets -- -D warnings
guest_cargo clippy --locked --release --target "$WASM_TARGET" --lib --examples \
	--manifest-path tests/guests/Cargo.toml --target-dir "$GUESTS_TARGET_DIR" -- -D warnings
guest_cargo clippy --locked --release --target "$WASM_TARGET" --lib --examples \
	--manifest-path tests/sdks/Cargo.toml --target-dir "$SDKS_TARGET_DIR" -- -D warnings
guest_cargo clippy --locked --release --target "$WASM_TARGET" \
	--manifest-path examples/Cargo.toml --target-dir "$EXAMPLES_TARGET_DIR" -- -D warnings
cargo clippy --locked --all-targets --manifest-path bench/Cargo.toml --target-dir "$BENCH_TARGET_DIR" -- -D warnings
guest_cargo clippy --locked --release --target "$WASM_TARGET" \
	--manifest-path bench/guests/Cargo.toml --target-dir "$BENCH_GUESTS_TARGET_DIR" -- -D warnings
# What the fuzz targets call is tested; that they still compile is seen here alone. Nothing is linked, so
# that libFuzzer, which is in C++, need not be built; and the one that brings Wasmtime is left out.
CUSTOM_LIBFUZZER_PATH=none/libfuzzer.a cargo clippy --locked --bins \
	--manifest-path fuzz/Cargo.toml --target-dir "$FUZZ_CHECK_TARGET_DIR" -- -D warnings

need_cargo_tool cargo-deny 0.20.2
checks=(licenses bans sources)
# Known holes are looked up in a database from the network: without one the rest is still checked.
if timeout 120 cargo deny fetch db >/dev/null 2>&1; then
	checks+=(advisories)
else
	say "note: the RustSec database cannot be reached, so advisories are not checked"
fi
for manifest in {,tests/guests/,tests/sdks/,examples/,bench/,bench/guests/,fuzz/}Cargo.toml; do
	cargo deny --locked --workspace --config deny.toml --manifest-path "$manifest" check "${checks[@]}"
done
