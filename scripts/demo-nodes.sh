#!/usr/bin/env bash
# Three agents on this machine become one realm, with no server between them: join, approve, and a manifest
# that pins each component to a node. One agent is killed with -9, is missed by the others, and is back in its
# place when it starts again. Exit code 0: everything was seen.
. "$(dirname "$0")/common.sh"
. scripts/agents.sh

three_agents
cat >"$place/realm.toml" <<EOF
[components.hello]
source = "file:$examples/hello.wasm"

[components.echo]
source = "file:$examples/echo.wasm"

[routing]
"alpha" = [{ path = "/hello/...", component = "hello" }]
"beta" = [{ path = "/echo/...", component = "echo" }]
EOF
show apply "$place/realm.toml" --yes
until_true "what was applied" runs_on hello=alpha echo=beta
show status

# echoes: whether gamma, which runs nothing, answers for beta.
echoes() { [ "$(curl -fsS --max-time 10 --data-binary "$1" "$(urls_of gamma)/echo/")" = "$1" ]; }
until_true "an answer of beta's component, asked of gamma" echoes "from gamma to beta"

printf '\n$ kill -9 %s   # the agent of beta\n' "${agents[beta]}"
kill -9 "${agents[beta]}"
wait "${agents[beta]}" 2>/dev/null || true
until_true "the news that beta is lost" state_is beta lost
show status
echoes "nobody is there" && fail "a component answers that is pinned to a dead node"

printf '\n$ realm agent   # on beta again\n'
start beta
until_true "the return of beta" state_is beta direct
until_true "its component" runs_on hello=alpha echo=beta
until_true "its answers" echoes "back in place"
show status
printf '\nbeta is back in its place\n'
