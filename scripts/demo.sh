#!/usr/bin/env bash
# Three agents on this machine become one realm: join, approve, place components by tag. Clients ask one
# node while another is killed with -9 and comes back, a new build rolls out, a node is drained, and
# requests move from blue to green: replicas move, and no request is lost. Exit code 0: everything was seen.
. "$(dirname "$0")/common.sh"
. scripts/agents.sh

three_agents
show nodes tag beta web
show nodes tag gamma web

cat >"$place/realm.toml" <<EOF
[components.hello]
source = "file:$examples/hello.wasm"

[components.web]
source = "file:$examples/hello.wasm"

[routing]
"alpha" = [{ path = "/hello/...", component = "hello" }]
"tag:web" = [{ path = "/web/...", component = "web", replicas = 2, lost_after = "5s" }]
EOF
show apply "$place/realm.toml" --yes
until_true "what was applied" runs_on hello=alpha web=beta web=gamma
show status

say "clients ask alpha for what beta and gamma run, from here to the end"
url=$(urls_of alpha)/web/
until_true "an answer" curl -fsS "$url"
python3 - "$url" "$place/load" <<'EOF' &
import http.client, json, signal, sys, threading, time, urllib.parse
url, out = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2]
counts, lock, ends = {"answered": 0, "lost": 0, "slowest_ms": 0}, threading.Lock(), threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ends.set())

def ask():
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    while not ends.is_set():
        began = time.monotonic()
        try:
            connection.request("GET", url.path)
            answer = connection.getresponse()
            answer.read()
            good = answer.status == 200
        except (OSError, http.client.HTTPException):
            connection.close()
            good = False
        with lock:
            counts["answered" if good else "lost"] += 1
            counts["slowest_ms"] = max(counts["slowest_ms"], round(1000 * (time.monotonic() - began)))

clients = [threading.Thread(target=ask) for _ in range(4)]
for client in clients: client.start()
for client in clients: client.join()
json.dump(counts, open(out, "w"))
EOF
load=$!

printf '\n$ kill -9 %s   # the agent of beta\n' "${agents[beta]}"
kill -9 "${agents[beta]}"
wait "${agents[beta]}" 2>/dev/null || true
until_true "the news that beta is lost" state_is beta lost
until_true "gamma with both replicas" replicas_are web gamma=2
show status

printf '\n$ realm agent   # on beta again\n'
start beta
until_true "the return of beta" state_is beta direct
until_true "its replica" replicas_are web beta=1 gamma=1
show status

# answers TEXT: whether ten answers in a row begin with it.
answers() {
	local answer
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		answer=$(curl -fsS "$url") || return 1
		case $answer in "$1"*) ;; *) return 1 ;; esac
	done
}
old=$(curl -fsS "$url" | head -c 5)

say "another build, place by place"
show push web "$examples/echo.wasm"
until_true "the new build" replicas_are web beta=1 gamma=1
answers "$old" && fail "the old build still answers"
show status

say "gamma is taken out of service"
show nodes drain gamma
until_true "beta with both replicas" replicas_are web beta=2
show status

show nodes uncordon gamma
until_true "gamma with its replica" replicas_are web beta=1 gamma=1

say "two versions side by side: blue has the requests, green waits"
sed -i '/^\[components.web\]/,$d' "$place/realm.toml"
cat >>"$place/realm.toml" <<EOF
[components."web@blue"]
source = "file:$examples/echo.wasm"

[components."web@green"]
source = "file:$examples/hello.wasm"
health = "/web/"

[routing]
"alpha" = [{ path = "/hello/...", component = "hello" }]
"tag:web" = [{ path = "/web/...", component = "web", weights = { blue = 100, green = 0 }, replicas = 2 }]
EOF
show apply "$place/realm.toml" --yes
until_true "blue and green" replicas_are web@green beta=1 gamma=1
answers "$old" && fail "green answers before it is promoted"
show promote web@green --percent 50
show promote web@green
until_true "green alone" answers "$old"
show status
show rollback web
show abort web
until_true "green alone again" answers "$old"
show status

kill "$load"
wait "$load"
counts=$(cat "$place/load")
say "the clients: $counts"
python3 -c 'import json,sys
counts = json.loads(sys.argv[1])
sys.exit(0 if counts["lost"] == 0 and counts["answered"] > 100 else 1)' "$counts" || fail "requests were lost"
printf '\nno request was lost\n'
