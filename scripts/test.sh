#!/usr/bin/env bash
# Runs every test: examples in docs first, then all others, so that the summary comes last.
. "$(dirname "$0")/common.sh"

scripts/setup-test.sh
scripts/examples.sh
scripts/languages.sh
for language in c javascript python; do scripts/languages.sh --tools "$language" >/dev/null; done
scripts/older.sh
cargo test --locked --workspace --doc --quiet
cargo test --locked --quiet --manifest-path bench/Cargo.toml --target-dir "$BENCH_TARGET_DIR"
cargo nextest run --locked --workspace --no-fail-fast "$@"
