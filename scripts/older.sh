#!/usr/bin/env bash
# Builds the agent of an earlier commit, beside which the tests run this one: tests/e2e/builds.rs.
# The commit is pinned in tests/older-build. Built once, in the target folder of the tests, so that
# only realm's own crates are compiled for it.
. "$(dirname "$0")/common.sh"

COMMIT=$(cat tests/older-build)
FOLDER=$TARGET_DIR/older/$COMMIT
SOURCE=$FOLDER/source
[ ! -x "$FOLDER/realm" ] || exit 0

has_commit() { git cat-file -e "$COMMIT^{commit}" 2>/dev/null; }
# A shallow clone has the newest commits alone.
has_commit || git fetch --quiet --depth 1 origin "$COMMIT" 2>/dev/null || git fetch --quiet --unshallow origin 2>/dev/null || true
has_commit || fail "commit $COMMIT is not in this clone, and could not be fetched: the older agent of the tests is built from it" \
	"in a clone with its whole history: git fetch --unshallow origin"

say "building the agent of commit ${COMMIT:0:7}: once"
rm -rf "$FOLDER"
mkdir -p "$SOURCE"
git archive "$COMMIT" | tar -x -C "$SOURCE"
# Cargo puts the program where that of this commit lies: it gets its place back.
built=$TARGET_DIR/debug/realm
mkdir -p "$TARGET_DIR/debug"
[ ! -e "$built" ] || mv "$built" "$FOLDER/kept"
# The example, so that the dependencies have the features of the tests' build; without it a good part of
# them would be compiled twice.
TARGET=$(cd "$TARGET_DIR" && pwd)
(cd "$SOURCE" && CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=$TARGET cargo build --locked --workspace --bin realm --example memory) && code=0 || code=$?
[ "$code" -ne 0 ] || mv "$built" "$FOLDER/realm.new"
[ ! -e "$FOLDER/kept" ] || mv "$FOLDER/kept" "$built"
rm -rf "$SOURCE"
[ "$code" -eq 0 ] || fail "the agent of commit $COMMIT does not build" "its sources are those of \`git show $COMMIT\`"
# Only now: whoever sees it may run it.
mv "$FOLDER/realm.new" "$FOLDER/realm"
