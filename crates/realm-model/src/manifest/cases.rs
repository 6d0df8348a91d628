//! Texts with problems: each with the codes, places and hints that are told. Every code has one.

/// One text for each code; [`every_code_has_a_case`] keeps it whole.
pub(super) const CASES: &[(&str, &[&str])] = &[
    ("a = [", &["syntax 1:6"]),
    ("[owner]\n[owner]\n", &["duplicate-key 2:2"]),
    (
        "versoin = 1\n[component.a]\nsource = 1",
        &[
            "unknown-key 1:1 | did you mean `version`?",
            "unknown-key 2:2 | did you mean `components`?",
        ],
    ),
    (
        "[components.a]\nmemory = 64",
        &[
            "missing-key 1:13",
            "unknown-key 2:1 | did you mean `memory_max_mb`?",
        ],
    ),
    (
        "[components.a]\nsource = 'file:a'\nallowed_outbound_hosts = []",
        &["unknown-key 3:1 | did you mean `allowed_outbound`?"],
    ),
    ("[components]\na = 'file:a'", &["wrong-type 2:5"]),
    ("components = 5", &["wrong-type 1:14"]),
    ("version = 0", &["out-of-range 1:11"]),
    (
        "[components.'a b']\nsource = 'file:a'\n[nodes.'/']\n[secrets]\n'' = 'age-encrypted:AAAA'",
        &["bad-name 1:13", "bad-name 3:8", "bad-name 5:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nenv = { 'A=' = '', '' = '' }\nvars = { '' = '' }",
        &["bad-name 3:9", "bad-name 3:20", "bad-name 4:10"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nserve = 'service'\nrestart = 'alway'\nargs = [\"a\\u0000\"]",
        &[
            "bad-value 4:11 | did you mean `\"always\"`?",
            "bad-value 5:9",
        ],
    ),
    (
        "[owner]\npubkey = 'ed25519:BASE58...'",
        &["bad-key 2:10 | `realm key show` prints the owner's key"],
    ),
    (
        "[components.a]\nsource = './a.wasm'",
        &["bad-source 2:10 | write `file:./a.wasm`"],
    ),
    (
        "[bindings.a]\ninterface = 'wasi:sql'\nbackend = 'redis://a'\n[bindings.b]\ninterface = 'wasi:keyvalue'\nbackend = 'redis://u:p@a'",
        &[
            "bad-binding 3:11 | write `embedded` or `postgres://…`",
            "bad-binding 6:11 | keep it under `[secrets]` (`realm secret set NAME`), and name it: `secret = \"NAME\"`",
        ],
    ),
    (
        // A schema of PostgreSQL begins with it.
        "[bindings.a]\ninterface = 'wasi:sql'\nbackend = 'embedded'\nprefix = 'x'\n[bindings.b]\ninterface = 'wasi:sql'\nbackend = 'postgres://u@a/d'\nprefix = 'x'",
        &["no-effect 4:10"],
    ),
    (
        "[bindings.cache]\ninterface = 'wasi:keyvalue'\nbackend = 'embedded'\n[components.a]\nsource = 'file:a'\nbind = { default = 'cash', secrets = 'cache', 'sql:x' = 'cache' }\nwatch = ['default']\n[components.a.subscribe.'a..b']",
        &[
            "unknown-binding 6:20 | did you mean `cache`?",
            "bad-name 6:28 | take another one",
            "bad-binding 6:57",
            "unknown-binding 7:10 | write `bind = { \"default\" = \"…\" }`, with the name of a binding",
            "bad-value 8:25",
        ],
    ),
    (
        "[bindings.a]\ninterface = 'wasi:config'\nbackend = 'embedded'\n[bindings.b]\ninterface = 'wasi:keyvalue'\nbackend = 'redis://a'\n[bindings.c]\ninterface = 'wasi:config'\nbackend = 's3://objects'\n[components.a]\nsource = 'file:a'\nbind = { config = 'a', 'keyvalue:default' = 'a', 'config:too' = 'b', 'sql:x' = 'a' }\nwatch = ['default', 'too']",
        &[
            "bad-binding 9:11 | write `embedded`, `redis://…` or `nats://…`",
            "duplicate-value 12:50 | keep one; `vars` stand beside what is in it",
            "bad-binding 12:80",
            "unknown-binding 13:21 | write `bind = { \"too\" = \"…\" }`, with the name of a binding",
        ],
    ),
    (
        "[bindings.a]\ninterface = 'wasi:otel'\nbackend = 'embedded'\n[bindings.b]\ninterface = 'wasi:otel'\nbackend = 'otlp+http://a'\n[bindings.c]\ninterface = 'wasi:otel'\nbackend = 'nats://a'\n[components.a]\nsource = 'file:a'\nbind = { one = 'a', two = 'b' }",
        &[
            "bad-binding 9:11 | write `embedded`, `otlp+http://…` or `otlp+https://…`",
            "duplicate-value 12:21 | keep one; a collector passes on to several",
        ],
    ),
    (
        "[bindings.k]\ninterface = 'realm:cloud/keys'\nbackend = 'embedded'\n[bindings.i]\ninterface = 'realm:cloud/identity'\nbackend = 'redis://a'\n[bindings.j]\ninterface = 'realm:cloud/identity'\nbackend = 'embedded'\nissuer = 'a b'\nsecret = 's'\n[secrets]\ns = 'age-encrypted:AAAA'",
        &[
            "bad-binding 2:13 | `openssl rand -base64 32 | realm secret set NAME` makes one: write `secret = \"NAME\"`",
            "bad-binding 6:11 | write `embedded`",
            "bad-binding 10:10 | write the URL below which `/.well-known/jwks.json` is served",
        ],
    ),
    (
        "[bindings.i]\ninterface = 'realm:cloud/identity'\nbackend = 'embedded'\nsecret = 's'\n[bindings.k]\ninterface = 'realm:cloud/keys'\nbackend = 'embedded'\nsecret = 's'\nissuer = 'https://a.example'\n[components.a]\nsource = 'file:a'\nbind = { '*' = 'k', 'identity:*' = 'i' }\n[secrets]\ns = 'age-encrypted:AAAA'",
        &[
            "bad-binding 2:13 | write the URL below which `/.well-known/jwks.json` is served: `issuer = \"https://shop.example.org\"`",
            "no-effect 9:10",
            "bad-binding 12:21",
        ],
    ),
    (
        "[bindings.m]\ninterface = 'realm:cloud/mail'\nbackend = 'embedded'\n[bindings.n]\ninterface = 'realm:cloud/mail'\nbackend = 'smtp://mail.internal?tls=none'\nsecret = 's'\n[bindings.k]\ninterface = 'wasi:keyvalue'\nbackend = 'embedded'\nsenders = ['a@b.c']\n[secrets]\ns = 'age-encrypted:AAAA'",
        &[
            "bad-binding 3:11 | write `smtp://…` or `smtps://…`",
            "bad-binding 5:13 | write whom the mail may come from: `senders = [\"shop@example.org\"]`",
            "bad-binding 7:10 | leave `?tls=none` out, or `secret`",
            "no-effect 11:11",
        ],
    ),
    (
        "[bindings.m]\ninterface = 'realm:cloud/mail'\nbackend = 'smtps://localhost'\nsenders = ['*', 'a b@c', 'a@b.c', 'a@b.c', '*@b.c']\n[components.a]\nsource = 'file:a'\nbind = { 'mail:*' = 'm' }",
        &[
            "bad-binding 4:12",
            "bad-binding 4:17",
            "duplicate-value 4:35",
            "bad-binding 7:10",
        ],
    ),
    (
        "[bindings.f]\ninterface = 'realm:cloud/workflows'\nbackend = 'redis://a'\n[bindings.g]\ninterface = 'realm:cloud/workflows'\nbackend = 'embedded'\n[bindings.m]\ninterface = 'wasi:messaging'\nbackend = 'embedded'\n[components.a]\nsource = 'file:a'\nbind = { 'workflows:*' = 'g', default = 'm', flows = 'g' }\n[components.a.workflows.order]\nlease = '1ms'\n[components.a.workflows.'a b']\n[components.a.workflows.fits]\nfrom = 'flows'",
        &[
            "bad-binding 3:11 | write `embedded` or `postgres://…`",
            "bad-binding 12:10",
            "unknown-binding 13:25",
            "out-of-range 14:9",
            "bad-name 15:25",
        ],
    ),
    (
        "[bindings.m]\ninterface = 'realm:cloud/inference'\nbackend = 'embedded'\n[bindings.n]\ninterface = 'realm:cloud/inference'\nbackend = 'openai+http://gpu.internal:8000'\nsecret = 's'\n[bindings.k]\ninterface = 'wasi:keyvalue'\nbackend = 'embedded'\nmodel = 'a'\n[secrets]\ns = 'age-encrypted:AAAA'",
        &[
            "bad-binding 3:11 | write `openai+http://…` or `openai+https://…`",
            "bad-binding 5:13 | write what the engine calls it: `model = \"llama3.2:3b\"`",
            "bad-binding 7:10 | write `openai+https://…`, or leave `secret` out",
            "no-effect 11:9",
        ],
    ),
    (
        "[bindings.m]\ninterface = 'realm:cloud/inference'\nbackend = 'openai+https://a/v1'\nmodel = 'a b'\nprefix = 'x'\n[components.a]\nsource = 'file:a'\nbind = { '*' = 'm' }",
        &["bad-binding 4:9", "no-effect 5:10", "bad-binding 8:10"],
    ),
    (
        "[bindings.a]\ninterface = 'wasi:sql'\nbackend = 'postgres://u@h/d'\n[bindings.b]\ninterface = 'realm:cloud/workflows'\nbackend = 'postgres://u@H:5432/d'\n[bindings.c]\ninterface = 'wasi:sql'\nbackend = 'postgres://v@h/d'\n[bindings.d]\ninterface = 'wasi:sql'\nbackend = 'postgres://u@h/e'\n[bindings.e]\ninterface = 'wasi:sql'\nbackend = 'embedded'\n[bindings.f]\ninterface = 'wasi:sql'\nbackend = 'embedded'",
        &[
            "shared-database 6:11 | give each a user and a database of its own, or bind one name where they shall share",
        ],
    ),
    (
        "[bindings.a]\ninterface = 'realm:cloud/workflows'\nbackend = 'postgres://u@h/d'\n[bindings.b]\ninterface = 'realm:cloud/workflows'\nbackend = 'postgres://u@h/d'\n[bindings.c]\ninterface = 'wasi:sql'\nbackend = 'postgres://h/d'\nsecret = 's'\n[bindings.d]\ninterface = 'wasi:sql'\nbackend = 'postgres://h/d?sslmode=disable'\nsecret = 's'\n[bindings.e]\ninterface = 'wasi:sql'\nbackend = 'postgres://h/d'\nsecret = 't'\n[secrets]\ns = 'age-encrypted:AAAA'\nt = 'age-encrypted:AAAA'",
        &["shared-database 13:11"],
    ),
    (
        "[bindings.b]\ninterface = 'wasi:blobstore'\nbackend = 'embedded'\nevents = 'queu/a'\n[bindings.c]\ninterface = 'wasi:blobstore'\nbackend = 'embedded'\nevents = 'b/a'\n[bindings.d]\ninterface = 'wasi:blobstore'\nbackend = 'embedded'\nevents = 'queue'\n[bindings.e]\ninterface = 'wasi:blobstore'\nbackend = 'embedded'\nevents = 'queue/a.*'\n[bindings.queue]\ninterface = 'wasi:messaging'\nbackend = 'embedded'\nevents = 'queue/a'",
        &[
            "unknown-binding 4:10 | did you mean `queue`?",
            "bad-binding 8:10",
            "bad-binding 12:10 | write a binding of `wasi:messaging`, `/` and a topic: `queue/objects.changed`",
            "bad-value 16:10",
            "no-effect 20:10",
        ],
    ),
    (
        "[bindings.q]\ninterface = 'wasi:messaging'\nbackend = 'embedded'\n[components.a]\nsource = 'file:a'\nbind = { default = 'q' }\n[components.a.subscribe.t.where]\nbody.total.above = 100\nmetadata.kind = 'x'\n'body.a' = { abve = 1 }\n'body..b' = 1\n'body.c' = []\n'body.d' = { exists = true, above = 1 }\n'body.e' = { not = { not = 1 } }\n'body.f' = { not = [{ exists = true }] }\n'body.g' = { above = 'x' }\n'body.h' = {}\n'body.i' = 9223372036854775808\n'body.j' = inf\n'body.k' = [[1]]\n'body.l' = 2026-11-22",
        &[
            "unknown-key 8:6 | a field with dots is one key, in quotes: `\"body.total\"`; operators are equals, prefix, suffix, above, below, exists, not",
            "bad-value 9:1 | write `topic`, `content_type`, `\"metadata.KEY\"`, `body` or `\"body.PATH\"`, in quotes where it has a dot",
            "unknown-key 9:10",
            "unknown-key 10:14 | did you mean `above`?",
            "bad-value 11:1",
            "bad-value 12:12",
            "bad-value 13:12 | what is compared is there; for \"or there is none\" write a list: `[{ exists = false }, { above = 1 }]`",
            "bad-value 14:22",
            "bad-value 15:23 | write `exists` by itself",
            "wrong-type 16:22",
            "bad-value 17:12",
            "out-of-range 18:12",
            "out-of-range 19:12",
            "wrong-type 20:13",
            "wrong-type 21:12 | quote it",
        ],
    ),
    (
        "[bindings.q]\ninterface = 'wasi:messaging'\nbackend = 'embedded'\n[components.a]\nsource = 'file:a'\nbind = { default = 'q' }\nsubscribe = { t = { group = 'g', where = { 'body.n' = 1 } } }\n[components.b]\nsource = 'file:b'\nbind = { other = 'q' }\nsubscribe = { t = { from = 'other', group = 'g', where = { 'body.n' = 1.0 } } }\n[components.c]\nsource = 'file:c'\nbind = { default = 'q' }\nsubscribe = { t = { group = 'g' } }\n[components.d]\nsource = 'file:d'\nbind = { default = 'q' }\nsubscribe = { t = {} }",
        &[
            "subscriptions-disagree 15:1 | write the same `where`, or give one of them a `group` of its own",
        ],
    ),
    (
        "[components.a]\nsource = 'https://a.example/a.wasm'",
        &["pin-required 2:10"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nworld = 'wasi:http/prox'",
        &["unknown-world 3:9 | did you mean `wasi:http/proxy`?"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nworld = 'wasi:cli/command'\nserve = 'http'",
        &["serve-mismatch 4:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nworld = 'wasi:http/service'\nserve = 'cgi'",
        &["serve-mismatch 4:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nworld = 'wasi:http/proxy'\nschedule = '@daily'",
        &[
            "serve-mismatch 1:13 | leave out `serve`, `listen` and `schedule`, or write `serve = \"http\"`",
        ],
    ),
    (
        "[components.a]\nsource = 'file:a'\nserve = 'service'\nschedule = '@daily'",
        &["serve-mismatch 4:1 | write `serve = \"job\"`"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nserve = 'job'\nrestart = 'always'",
        &["serve-mismatch 4:1 | write `serve = \"service\"`"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nschedule = '@daily'\nrestart = 'never'\nhealth = '/'",
        &["no-effect 4:1", "no-effect 5:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nserve = 'service'\nepoch_timeout_ms = 5\nmax_concurrency = 1\nmax_request_bytes = 1\nreuse = true\nwall_timeout_ms = 5\nmax_response_bytes = 1",
        &[
            "no-effect 4:1",
            "no-effect 5:1",
            "no-effect 6:1",
            "no-effect 7:1",
            "no-effect 8:1",
            "no-effect 9:1",
        ],
    ),
    (
        "[components.a]\nsource = 'file:a'\nserve = 'job'\nepoch_timeout_ms = 5\nmax_concurrency = 1\nmax_request_bytes = 1\nwall_timeout_ms = 5",
        &["no-effect 4:1", "no-effect 5:1", "no-effect 6:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nserve = 'socket'\nepoch_timeout_ms = 5\nmax_concurrency = 1\nmax_request_bytes = 1\nmax_response_bytes = 1\nrestart = 'never'",
        &["no-effect 4:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nrestart = 'never'\n[components.b]\nsource = 'file:b'\nworld = 'wasi:cli/command'\nrestart = 'never'",
        &["no-effect 3:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nserve = 'sockt'\nrestart = 'never'",
        &["bad-value 3:9 | did you mean `\"socket\"`?"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nlisten = 80\n[components.b]\nsource = 'file:b'\nlisten = 80\n[routing]\n'*' = [{ path = '/a', component = 'a' }, { path = '/b', component = 'b' }]",
        &[
            "duplicate-port 6:10 | give it another port, or let it read the port from `PORT` and leave `listen` out",
        ],
    ),
    (
        "[components.a]\nsource = 'file:a'\nserve = 'socket'\nhealth = 'export'",
        &["serve-mismatch 4:1 | write `health = \"/healthz\"`, a path that it answers"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nserve = 'job'\n[routing]\n'*' = [{ path = '/', component = 'a' }]",
        &["serve-mismatch 5:34 | take the route away, or `serve` and `schedule`"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nlisten = 80\n[routing]\n'*' = [{ path = '/', component = 'a', replicas = 2 }]",
        &["out-of-range 5:34 | let it read the port from `PORT` and leave `listen` out"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nsingleton = true\n[routing]\n'*' = [{ path = '/', component = 'a', replicas = 2 }, { path = '/b', component = 'a', per_node = true }]",
        &[
            "singleton-replicas 5:50 | take `replicas` away, or `singleton`",
            "singleton-replicas 5:98 | take `per_node` away, or `singleton`",
        ],
    ),
    (
        "[components.a]\nsource = 'file:a'\nsingleton = true\n[routing]\n'*' = [{ path = '/', component = 'a' }]\n'tag:x' = [{ path = '/', component = 'a', replicas = 1 }]",
        &["unlisted-tag 6:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nschedule = '0 3 * *'",
        &["bad-schedule 3:12 | every day at three: `0 3 * * *`"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nschedule = { cron = '0 0 30 2 *', timezone = 'UTC' }",
        &["bad-schedule 3:21"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nschedule = { cron = '@daily', timezone = 'Berlin' }",
        &["bad-schedule 3:42 | a name like `Europe/Berlin`, or `UTC`"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nschedule = { cron = '60 * * * *', timezone = 'Berlin' }",
        &["bad-schedule 3:21", "bad-schedule 3:46"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nschedule = { timezone = 'UTC' }",
        &["missing-key 3:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nallowed_outbound = ['example.com', 'https://*']",
        &["bad-outbound 3:21 | write `https://example.com`"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nallowed_outbound = 'https://a'",
        &["wrong-type 3:20 | write a list: `allowed_outbound = [\"https://a\"]`"],
    ),
    (
        "[components.a]\nsource = 'file:a'\ndirs = ['data::/data', '/a::/x', '/b::/x/::rw']",
        &["bad-dir 3:9", "duplicate-value 3:34"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nlisten = 80\nserve = 'http'",
        &["no-effect 3:1"],
    ),
    (
        "[components.a]\nsource = 'file:a'\n[routing]\n'*' = [{ path = 'x', component = 'a' }, { path = '/', component = 'a', host = 'a:1' }]",
        &["bad-path 4:17 | write `/x`", "bad-host 4:79"],
    ),
    (
        "[components.a]\nsource = 'file:a'\n[routing]\n'*' = { path = '/x', component = 'a' }",
        &["wrong-type 4:7 | write a list: `\"*\" = [{ … }]`"],
    ),
    (
        "[routing]\n'*' = [{}]",
        &["missing-key 2:8", "missing-key 2:8"],
    ),
    (
        "[routing]\n'*' = [1]\n'tag:' = []\n'a b' = []",
        &["wrong-type 2:8", "bad-name 3:1", "bad-name 4:1"],
    ),
    (
        "[nodes.a]\naddr_hint = 'a.example:443'",
        &["bad-address 2:13"],
    ),
    (
        "[nodes.a]\naddr_hint = '/dns4/a/tcp/443/quic'",
        &["address-spelling 2:13 | write `addr_hint = \"/dns4/a/udp/443/quic-v1\"`"],
    ),
    ("[nodes.a]\ntags = ['x', 'x']", &["duplicate-value 2:14"]),
    (
        "[secrets]\na = 'hunter2'\nb = 'age-encrypted:...'",
        &[
            "bad-secret 2:5 | write a ciphertext, never the secret itself: this file is signed and sent to every node",
            "bad-secret 3:5",
        ],
    ),
    (
        "[components.a]\nsource = 'file:a'\nsecrets = ['x', 'x']\n[secrets]\nx = 'age-encrypted:AAAA'",
        &["duplicate-value 3:17"],
    ),
    (
        "[components.a]\nsource = 'file:a'\nsecrets = ['x']",
        &["unknown-secret 3:12"],
    ),
    (
        "[components.a]\nsource = 'file:a'\n[routing]\n'*' = [{ path = '/', component = 'a', replicas = 1 }, { path = '/', component = 'a', replicas = 2 }]",
        &["duplicate-route 4:64", "replicas-disagree 4:97"],
    ),
    (
        "[components.'a@b']\nsource = 'file:a'\n[routing]\n'*' = [{ path = '/', component = 'a', weights = { b = 1 } }, { path = '/x', component = 'a', weights = { b = 2 } }]",
        &["weights-disagree 4:104"],
    ),
    (
        "[routing]\n'*' = [{ path = '/', component = 'a' }]",
        &["unknown-component 2:34"],
    ),
    (
        "[routing]\na = []\n'tag:a' = []",
        &["unlisted-node 2:1", "unlisted-tag 3:1"],
    ),
    (
        "[components.a]\nupstream = 'https://a.example'\n[components.b]\nupstream = 'fastcgi:unix:/a'\nroot = 'www'\nsplit = 'php'\nindex = '../a'\n[components.c]\nupstream = 'http://c:1'\nhealth = 'export'",
        &[
            "bad-upstream 2:12 | reach it over `http://`, by a proxy on that machine that speaks TLS, or by a component with `allowed_outbound`",
            "bad-upstream 5:8",
            "bad-upstream 6:9 | write `split = \".php\"`",
            "bad-upstream 7:9 | write `index = \"index.php\"`, or `\"/index.php\"` for all paths that name no script",
            "serve-mismatch 10:1 | write `health = \"/healthz\"`, a path that it answers",
        ],
    ),
    (
        "[components.a]\nsource = 'file:a'\nupstream = 'http://a:1'\nroot = '/a'\nmemory_max_mb = 1\nserve = 'http'\nsecrets = []\nsingleton = true\n[components.b]\nsource = 'file:b'\nsplit = '.php'\nkeep_connections = 1\n[components.c]\nupstream = 'fastcgi://127.0.0.1:9000'",
        &[
            "upstream-mismatch 3:1 | keep one of them; two versions of an app (`NAME@LABEL`) may have one each",
            "upstream-mismatch 4:1 | take it away",
            "upstream-mismatch 5:1 | take it away: the service has its own settings",
            "upstream-mismatch 6:1 | take it away: the service has its own settings",
            "upstream-mismatch 7:1 | take it away: the service has its own settings",
            "upstream-mismatch 8:1 | take it away: the service has its own settings",
            "upstream-mismatch 11:1 | add `upstream`, or take it away",
            "upstream-mismatch 12:1 | add `upstream`, or take it away",
            "missing-key 13:13 | add `root = \"/srv/www\"`, the document root as the application sees it",
        ],
    ),
    (
        "[components.a]\nsource = 'file:a'\n[routing]\n'*' = [{ path = '/', component = 'a', upstream = 'fastcgi:unix:/a' }]",
        &[
            "unknown-key 4:39 | an upstream is a component: write `[components.legacy]` with `upstream = …`, and `component = \"legacy\"` here",
        ],
    ),
];
