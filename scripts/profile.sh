#!/usr/bin/env bash
# profile.sh TARGET: builds a realm for TARGET that counts what it runs, has it work (the cases `work`, `fastcgi`, `tls`
# and `stores` of the harness in bench/), and prints the name of the file with the counts, for
# `-C profile-use`. Kept for the sources and the compiler that it was made of.
. "$(dirname "$0")/common.sh"

# The names of functions differ from target to target: each has counts of its own.
target=${1:?"usage: scripts/profile.sh TARGET"}
OUT=$TARGET_DIR/profile/$target
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
need_package wrk wrk
need_package nginx nginx
need_package openssl openssl
need_php_fpm
need_package redis-server redis-server
need_package nats-server nats-server
tools=$(rustc --print sysroot)/lib/rustlib/$(host_target)/bin
if [ ! -x "$tools/llvm-profdata" ] && command -v rustup >/dev/null; then rustup component add llvm-tools >&2 || true; fi
[ -x "$tools/llvm-profdata" ] || fail "\`llvm-profdata\` is missing" "rustup component add llvm-tools"

# Named by what the program is made of: the same again needs no second profile, and cargo sees a new one.
sources=(Cargo.toml Cargo.lock build.rs src crates bench wit)
git rev-parse HEAD >/dev/null || fail "what the program is made of is not known" "this needs a clone by git"
state=$({ rustc -vV && git ls-files -s -- "${sources[@]}" && git diff HEAD -- "${sources[@]}"; } | sha256sum)
merged=$OUT/${state:0:16}.profdata
if [ -s "$merged" ]; then
	printf '%s\n' "$merged"
	exit
fi
rm -rf "$OUT"/raw "$OUT"/*.profdata

scripts/examples.sh >&2
guest_cargo build --locked --release --target "$WASM_TARGET" \
	--manifest-path bench/guests/Cargo.toml --target-dir "$BENCH_GUESTS_TARGET_DIR" >&2
cargo build --locked --release --manifest-path bench/Cargo.toml --target-dir "$BENCH_TARGET_DIR" >&2
# With a target named, build scripts and macros stay as they are.
RUSTFLAGS="${RUSTFLAGS:-} -C profile-generate=$OUT/raw -C llvm-args=-vp-counters-per-site=4" \
	cargo build --locked --release --target "$target" --target-dir "$TARGET_DIR/profile/counting" --package realm --bin realm >&2
cargo build --locked --release --package realm-bench-host --bin realm-bench-host --bin realm-bench-native >&2

say "realm works, and is watched at it"
"$BENCH_TARGET_DIR/release/realm-bench" --case work --case fastcgi --case tls --case stores --rounds 1 --seconds 2 \
	--realm "$TARGET_DIR/profile/counting/$target/release/realm" --host "$TARGET_DIR/release/realm-bench-host" --out "$OUT/bench" \
	--examples "$EXAMPLES_TARGET_DIR/$WASM_TARGET/release" --guests "$BENCH_GUESTS_TARGET_DIR/$WASM_TARGET/release" >&2
"$tools/llvm-profdata" merge --output "$OUT/part" "$OUT/raw"
mv "$OUT/part" "$merged"
printf '%s\n' "$merged"
