#!/usr/bin/env bash
# Fuzzes every target for FUZZ_SECONDS (180), or those that are named: scripts/fuzz.sh entry log_file
. "$(dirname "$0")/common.sh"

need_cargo_tool cargo-fuzz 0.13.2
cargo +nightly --version >/dev/null 2>&1 || fail "a nightly Rust is missing" "rustup toolchain install nightly"
FUZZ_TARGET_DIR=$(mkdir -p "$TARGET_DIR/fuzz" && cd "$TARGET_DIR/fuzz" && pwd)
# Files that a target writes come and go thousands of times.
[ -w /dev/shm ] && export TMPDIR=/dev/shm
[ $# -gt 0 ] || set -- manifest entry log_file join_message invitation cgi_output allow_list http_front fastcgi_events fastcgi_front fastcgi_answer proxy_header certificate_message
for target in "$@"; do
	corpus=$FUZZ_TARGET_DIR/corpus/$target
	mkdir -p "$corpus"
	env -u CARGO_TARGET_DIR cargo +nightly run --quiet --manifest-path fuzz/Cargo.toml --target-dir "$FUZZ_TARGET_DIR" --bin seeds "$target" "$corpus"
	say "fuzzing $target"
	features=()
	[ "$target" != cgi_output ] || features=(--features cgi)
	# No sanitizer: nothing of ours is unsafe, and each run is several times as quick.
	env -u CARGO_TARGET_DIR cargo +nightly fuzz run --sanitizer none --target-dir "$FUZZ_TARGET_DIR" "${features[@]}" "$target" "$corpus" -- \
		-max_total_time="${FUZZ_SECONDS:-180}" -timeout=25 -print_final_stats=1
done
