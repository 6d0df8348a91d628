#!/usr/bin/env bash
# Builds ONE static binary by a profile of its own work, and fails if it is not static.
. "$(dirname "$0")/common.sh"

MUSL_TARGET=x86_64-unknown-linux-musl
SIZE_MB_AIM=40

need_package musl-gcc musl-tools
if command -v rustup >/dev/null; then
	rustup target add "$MUSL_TARGET" >&2 || fail "the target \`$MUSL_TARGET\` could not be added" "rustup target add $MUSL_TARGET"
fi
# What the program was seen to run decides how it is compiled and laid out: docs/benchmarks.md.
# For the dependencies in C; Rust links by itself.
export CC_x86_64_unknown_linux_musl=musl-gcc
profile=$(scripts/profile.sh "$MUSL_TARGET")
RUSTFLAGS="${RUSTFLAGS:-} $(by_profile "$profile")" \
	cargo build --locked --release --target "$MUSL_TARGET" --bin realm

binary=$TARGET_DIR/$MUSL_TARGET/release/realm
# ldd fails on a static binary that is not position independent, so its words count, not its exit code.
linked=$(ldd "$binary" 2>&1 || true)
say "ldd:    $linked"
case $linked in
*"statically linked"* | *"not a dynamic executable"*) ;;
*) fail "\`$binary\` is not static" ;;
esac
# What plants failures in tests is compiled with debug assertions alone.
if grep --quiet --text REALM_PLANT "$binary"; then fail "\`$binary\` has code in it that is for tests"; fi
bytes=$(stat -c %s "$binary")
printf 'size:   %d.%d MB (aim: below %d MB)\n' $((bytes / 1000000)) $((bytes / 100000 % 10)) "$SIZE_MB_AIM" >&2
printf '%s\n' "$binary"
