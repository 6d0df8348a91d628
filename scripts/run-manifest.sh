#!/usr/bin/env bash
# Joins the manifests of the examples to one, of those whose toolchain is there; its name is on stdout. The
# others are named on stderr, with what would have to be installed. Those in Rust have to be built.
. "$(dirname "$0")/common.sh"

# Beside what is built, which it names.
FOLDER=${EXAMPLES_RUN_DIR:-$EXAMPLES_TARGET_DIR/run}
mkdir -p "$FOLDER"
# Above the routes of a manifest there are its components and bindings; sources are beside the folder.
parts() { sed '/^\[routing\]/,$d' "$1" | sed -E 's#"file:\.\.?/target/#"file:../#'; }
# Each route is a line, or within one.
routes() { sed -n '/^\[routing\]/,$p' "$1" | grep -o '{ path = .* }'; }
# The component NAME of a manifest with its route: those that are there, of a file of several.
part() { parts "$1" | awk -v name="[components.$2]" '/^\[/ { on = $0 == name } on'; }

manifests=(examples/realm.toml examples/guestbook/realm.toml examples/orders/realm.toml)
built=$(scripts/languages.sh --here)
{
	printf '# Made by scripts/run-manifest.sh of the manifests of the examples.\n\n'
	for manifest in "${manifests[@]}"; do parts "$manifest"; done
	for name in $built; do
		case $name in
		todo) parts examples/todo/realm.toml ;;
		*) part examples/languages.toml "$name" ;;
		esac
		[ "$name" != gallery ] || parts examples/languages.toml | awk '/^\[/ { on = $0 == "[bindings.images]" } on'
	done
	printf '[routing]\n"*" = [\n'
	{
		for manifest in "${manifests[@]}"; do routes "$manifest"; done
		for name in $built; do
			routes examples/languages.toml | grep -F "component = \"$name\"" || routes examples/todo/realm.toml
		done
	} | sed 's/.*/  &,/'
	printf ']\n'
} >"$FOLDER/made.part"
# What somebody changed in it stays, until the examples or the toolchains are others.
if [ ! -f "$FOLDER/realm.toml" ] || ! cmp -s "$FOLDER/made.part" "$FOLDER/made"; then
	cp "$FOLDER/made.part" "$FOLDER/realm.toml"
fi
mv "$FOLDER/made.part" "$FOLDER/made"
printf '%s\n' "$FOLDER/realm.toml"
