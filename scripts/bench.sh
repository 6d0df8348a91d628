#!/usr/bin/env bash
# Builds what the harness in bench/ measures, brings the peers, and runs it: docs/benchmarks.md.
# Arguments go to the harness: `scripts/bench.sh --quick`, or `make bench BENCH=--quick`.
. "$(dirname "$0")/common.sh"

# The line of Wasmtime that realm embeds, so that the comparison is one of hosts.
WASMTIME_VERSION=48.0.8
OUT=$TARGET_DIR/bench
TOOLS=$OUT/tools

# Who else is brought. Where only such cases are named, nobody (`nodes`, `nodes-growth`, `moves`), or what
# they are compared with (`push`, `slow`).
named=
alone=yes
needs=()
php=
swift=
postgresql=
previous=
for argument in "$@"; do
	case "$previous $argument" in
	"--case "*) name=$argument ;;
	*" --case="*) name=${argument#--case=} ;;
	*) name= ;;
	esac
	case "$name" in
	"") ;;
	nodes | nodes-growth | moves) named=yes ;;
	push) named=yes needs+=(curl) ;;
	slow) named=yes needs+=(nginx) ;;
	tls) named=yes needs+=(curl nginx openssl wrk) ;;
	stores) named=yes needs+=(redis-server nats-server) ;;
	messages) named=yes needs+=(nats-server) ;;
	objects) named=yes swift=yes ;;
	rows) named=yes postgresql=yes ;;
	fastcgi) named=yes needs+=(nginx wrk) php=yes ;;
	*) named=yes alone=no ;;
	esac
	previous=$argument
done
[ -n "$named" ] || alone=no

if [ "$alone" = no ]; then
	needs=(curl wrk nginx haproxy npm openssl redis-server nats-server) php=yes swift=yes postgresql=yes
fi
for package in "${needs[@]}"; do
	need_package "$package" "$package"
done
[ -z "$php" ] || need_php_fpm
[ -z "$swift" ] || need_swift
[ -z "$postgresql" ] || need_postgresql

# workerd is one program in its package: no script of a package runs.
bring_workerd() {
	mkdir -p "$TOOLS/npm"
	cp bench/peers/package.json bench/peers/package-lock.json "$TOOLS/npm/"
	(cd "$TOOLS/npm" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error) >&2 ||
		fail "workerd could not be installed" "is there a network? try: npm ci --ignore-scripts, in bench/peers"
	local found=("$TOOLS"/npm/node_modules/@cloudflare/workerd-linux-*/bin/workerd)
	[ -x "${found[0]}" ] || fail "npm has no workerd for this machine" "name one in REALM_BENCH_WORKERD"
	REALM_BENCH_WORKERD=${found[0]}
}

bring_wasmtime() {
	REALM_BENCH_WASMTIME=$(command -v wasmtime || true)
	if [ -z "$REALM_BENCH_WASMTIME" ]; then
		REALM_BENCH_WASMTIME=$TOOLS/bin/wasmtime
		if [ ! -x "$REALM_BENCH_WASMTIME" ]; then
			say "installing wasmtime $WASMTIME_VERSION: this takes many minutes, once"
			env -u CARGO_TARGET_DIR cargo install --locked --quiet --root "$TOOLS" "wasmtime-cli@$WASMTIME_VERSION" >&2 ||
				fail "wasmtime could not be installed" "name one in REALM_BENCH_WASMTIME"
		fi
	fi
}

if [ "$alone" = yes ]; then
	# Not asked for anything; the harness has a name for each.
	: "${REALM_BENCH_WORKERD:=workerd}" "${REALM_BENCH_WASMTIME:=wasmtime}"
else
	[ -n "${REALM_BENCH_WORKERD:-}" ] || bring_workerd
	[ -n "${REALM_BENCH_WASMTIME:-}" ] || bring_wasmtime
	case $("$REALM_BENCH_WASMTIME" --version) in
	"wasmtime ${WASMTIME_VERSION%%.*}."*) ;;
	*) fail "\`$REALM_BENCH_WASMTIME\` is not Wasmtime ${WASMTIME_VERSION%%.*}" "name another in REALM_BENCH_WASMTIME" ;;
	esac
fi

scripts/examples.sh
guest_cargo build --locked --release --target "$WASM_TARGET" \
	--manifest-path bench/guests/Cargo.toml --target-dir "$BENCH_GUESTS_TARGET_DIR"
cargo build --locked --release --manifest-path bench/Cargo.toml --target-dir "$BENCH_TARGET_DIR"
# realm as a release is built; what surrounds it (`idle-host`, the native programs) the same way without.
cargo build --locked --release --package realm-bench-host --bin realm-bench-host --bin realm-bench-native
if [ -z "${REALM_BENCH_REALM:-}" ]; then
	host=$(host_target)
	profile=$(scripts/profile.sh "$host")
	RUSTFLAGS="${RUSTFLAGS:-} $(by_profile "$profile")" \
		cargo build --locked --release --target "$host" --target-dir "$TARGET_DIR/profile/build" --package realm --bin realm
	REALM_BENCH_REALM=$TARGET_DIR/profile/build/$host/release/realm
fi

commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || commit="$commit, with changes"
export REALM_BENCH_COMMIT=$commit REALM_BENCH_REALM REALM_BENCH_WASMTIME REALM_BENCH_WORKERD
export REALM_BENCH_OUT=$OUT REALM_BENCH_HOST=$TARGET_DIR/release/realm-bench-host
export REALM_BENCH_EXAMPLES=$EXAMPLES_TARGET_DIR/$WASM_TARGET/release
export REALM_BENCH_GUESTS=$BENCH_GUESTS_TARGET_DIR/$WASM_TARGET/release
exec "$BENCH_TARGET_DIR/release/realm-bench" "$@"
