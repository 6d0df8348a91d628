# Sourced by the demos of several agents, after common.sh: builds the program and the examples, and has
# what they say, start and wait for. Each agent has a folder and ports of its own, in a temporary folder that
# goes at the end (REALM_DEMO_KEEP=1 keeps it).
# shellcheck shell=bash

# More than any step takes on two busy cores.
PATIENCE_S=60

scripts/examples.sh
cargo build --locked --bin realm
realm=$(cd "$TARGET_DIR/debug" && pwd)/realm
place=$(mktemp -d "${TMPDIR:-/tmp}/realm-demo.XXXXXX")
declare -A agents=()

stop() {
	for node in "${!agents[@]}"; do kill "${agents[$node]}" 2>/dev/null || true; done
	wait 2>/dev/null || true
	if [ -n "${REALM_DEMO_KEEP:-}" ]; then say "kept: $place"; else rm -rf "$place"; fi
}
trap stop EXIT

# show COMMAND..: says what is done, then does it.
show() {
	printf '\n$ realm %s\n' "${*:-}"
	"$realm" --realm "$place/alpha" "$@"
}

# start NODE: an agent on free ports; its log goes to a file.
start() {
	"$realm" --realm "$place/$1" agent --http 127.0.0.1:0 --admin 127.0.0.1:0 --p2p 127.0.0.1:0 \
		>"$place/$1.out" 2>>"$place/$1.log" &
	agents[$1]=$!
}

# until WHAT COMMAND..: waits for a command to succeed.
until_true() {
	local what=$1 deadline=$((SECONDS + PATIENCE_S))
	shift
	until "$@" >/dev/null 2>&1; do
		if [ $SECONDS -ge $deadline ]; then
			for log in "$place"/*.log; do say "--- $log"; tail -n 20 "$log" >&2; done
			fail "$what did not happen within $PATIENCE_S s"
		fi
		sleep 0.2
	done
}

# says NODE TEXT: whether the status of `alpha` has a node in this state.
state_is() { "$realm" --realm "$place/alpha" --json nodes ls | node_state "$1" | grep -qx "$2"; }
node_state() { python3 -c 'import json,sys
for node in json.load(sys.stdin)["nodes"]:
    if node["name"] == sys.argv[1]: print(node["reach"]["state"])' "$1"; }
urls_of() { "$realm" --realm "$place/$1" --json status | python3 -c 'import json,sys
print(json.load(sys.stdin)["urls"][0].rstrip("/"))'; }
# replicas_are COMPONENT NODE=NUMBER..: whether these nodes have so many healthy ones, and nobody else.
replicas_are() { "$realm" --realm "$place/alpha" --json status | python3 -c 'import json,sys
component, wanted = sys.argv[1], dict(pair.split("=") for pair in sys.argv[2:])
for one in json.load(sys.stdin)["components"]:
    if one["name"] == component:
        there = {name: str(node["healthy"]) for name, node in one["nodes"].items() if node["healthy"]}
        sys.exit(0 if there == wanted else 1)
sys.exit(1)' "$@"; }
runs_on() { "$realm" --realm "$place/alpha" --json status | python3 -c 'import json,sys
status = json.load(sys.stdin)
components = {one["name"]: one for one in status["components"]}
for name, node in (pair.split("=") for pair in sys.argv[1:]):
    if components[name]["nodes"].get(node, {}).get("state") != "healthy": sys.exit(1)' "$@"; }
asks() { "$realm" --realm "$place/alpha" --json nodes ls | grep -q "\"name\": \"$1\""; }

# three_agents: alpha founds a realm, beta and gamma join it, and are approved; all are connected.
three_agents() {
	say "three agents in $place"
	"$realm" --realm "$place/alpha" init --name alpha >/dev/null 2>&1
	start alpha
	until_true "the first agent" "$realm" --realm "$place/alpha" status

	ticket=$("$realm" --realm "$place/alpha" invite)
	for node in beta gamma; do
		printf '\n$ realm join TICKET --name %s && realm agent   # on the other machine\n' "$node"
		"$realm" --realm "$place/$node" join "$ticket" --name "$node"
		start "$node"
	done
	until_true "the request of beta" asks beta
	until_true "the request of gamma" asks gamma
	show nodes ls
	show nodes approve beta gamma --yes
	until_true "the connection to beta" state_is beta direct
	until_true "the connection to gamma" state_is gamma direct
}
examples=$PWD/$EXAMPLES_TARGET_DIR/$WASM_TARGET/release
