#!/usr/bin/env bash
# nginx in front of a realm, over FastCGI: with the configuration that `realm edge nginx` prints it shows a
# page and answers a POST, and a component shows whom it sees behind nginx. Nginx is brought if it may be,
# runs as this user on a free port, and touches none of the machine's own configuration; all of it goes at
# the end (REALM_DEMO_KEEP=1 keeps it). Exit code 0: everything was seen.
. "$(dirname "$0")/common.sh"

need_package nginx nginx
need_package curl curl
need_package python3 python3
scripts/examples.sh
guest_cargo build --locked --release --target "$WASM_TARGET" --example echo_request \
	--manifest-path tests/guests/Cargo.toml --target-dir "$GUESTS_TARGET_DIR"
cargo build --locked --bin realm
realm=$(cd "$TARGET_DIR/debug" && pwd)/realm
guests=$(cd "$GUESTS_TARGET_DIR/$WASM_TARGET/release/examples" && pwd)
examples=$PWD/$EXAMPLES_TARGET_DIR/$WASM_TARGET/release
place=$(mktemp -d "${TMPDIR:-/tmp}/realm-demo.XXXXXX")
# More than any step takes on two busy cores.
PATIENCE_S=60
started=()

stop() {
	for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
	wait 2>/dev/null || true
	if [ -n "${REALM_DEMO_KEEP:-}" ]; then say "kept: $place"; else rm -rf "$place"; fi
}
trap stop EXIT

# until_true WHAT COMMAND..: waits for a command to succeed.
until_true() {
	local what=$1 deadline=$((SECONDS + PATIENCE_S))
	shift
	until "$@" >/dev/null 2>&1; do
		if [ $SECONDS -ge $deadline ]; then
			for log in "$place"/*.log; do say "--- $log" && tail -n 20 "$log" >&2; done
			fail "$what did not happen within $PATIENCE_S s"
		fi
		sleep 0.2
	done
}

# show COMMAND..: says what is done, then does it.
show() {
	printf '\n$ %s\n' "$*"
	"$@"
}

# sees WHAT TEXT COMMAND..: shows an answer, in which this must stand.
sees() {
	local what=$1 text=$2 answer
	shift 2
	printf '\n$ %s\n' "$*"
	answer=$("$@")
	printf '%s\n' "$answer" | sed -n 1,20p
	case $answer in *"$text"*) ;; *) fail "$what: no \`$text\` in the answer" ;; esac
}

realm() { "$realm" --realm "$place/realm" "$@"; }

realm init --name demo >/dev/null 2>&1
cat >"$place/realm/node.toml" <<END
[listen]
fastcgi = ["unix:$place/fastcgi.sock"]
END
cat >"$place/realm.toml" <<END
[components.index]
source = "file:$examples/index.wasm"

[components.markdown]
source = "file:$examples/markdown.wasm"

[components.mirror]
source = "file:$guests/echo_request.wasm"

[routing]
"*" = [
  { path = "/...", component = "index" },
  { path = "/markdown/...", component = "markdown" },
  { path = "/mirror/...", component = "mirror" },
  { path = "/...", host = "mirror.example.com", component = "mirror" },
]
END
say "a realm of one node, with nginx in front of it"
show cat "$place/realm/node.toml"
# By itself: of a function in the background, the shell around it would be what `stop` ends.
"$realm" --realm "$place/realm" agent --http 127.0.0.1:0 --admin 127.0.0.1:0 --p2p 127.0.0.1:0 >"$place/agent.log" 2>&1 &
started+=($!)
until_true "the agent" realm status
show realm apply "$place/realm.toml" --yes

port=$(python3 -c 'import socket
one = socket.socket()
one.bind(("127.0.0.1", 0))
print(one.getsockname()[1])')
printf '\n$ realm edge nginx --check --listen 127.0.0.1:%s > realm.conf\n' "$port"
realm edge nginx --check --listen "127.0.0.1:$port" >"$place/realm.conf"
show grep -A 8 '^upstream' "$place/realm.conf"
cat >"$place/nginx.conf" <<END
daemon off;
master_process off;
pid $place/nginx.pid;
error_log $place/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $place/client_body;
    proxy_temp_path $place/proxy;
    fastcgi_temp_path $place/fastcgi;
    uwsgi_temp_path $place/uwsgi;
    scgi_temp_path $place/scgi;
    include $place/realm.conf;
}
END
nginx -e "$place/nginx.log" -p "$place" -c "$place/nginx.conf" >"$place/nginx.out.log" 2>&1 &
started+=($!)
url=http://127.0.0.1:$port
until_true "nginx" curl -fsS "$url/"

sees "a page" "<h1" curl -fsS "$url/"
sees "the server" "Server: nginx" curl -fsSI "$url/"
sees "a POST" "<em>nginx</em>" curl -fsS --data-binary '# Hello *nginx*' "$url/markdown/"
sees "the client" '"x-forwarded-for","127.0.0.1"' \
	curl -fsS -H 'X-Forwarded-For: 6.6.6.6' -H 'X-Realm-Remote-User: root' "$url/mirror/whoami?a=b"
sees "a host with a block of its own" '"authority":"mirror.example.com' \
	curl -fsS -H "Host: mirror.example.com:$port" "$url/"
seen=$(curl -fsS -H 'X-Forwarded-For: 6.6.6.6' -H 'X-Realm-Remote-User: root' "$url/mirror/")
case $seen in *6.6.6.6* | *remote-user*) fail "a client's word about itself reached the component" ;; esac
printf '\nnginx answered, and the component saw its client, not what that says of itself\n'
