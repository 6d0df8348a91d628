//! The table of docs/security.md, row by row: who goes beyond a limit gets the status and the code,
//! and the operator the metric and the log line that stand there.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use realm_test_guests as guests;

use crate::support::{Agent, Realm, eventually, figure, get, raw};

/// name, guest, lines of its table.
const COMPONENTS: [(&str, &str, &str); 16] = [
    ("spin", guests::SPIN, "epoch_timeout_ms = 100"),
    ("park", guests::PARK, "wall_timeout_ms = 300"),
    ("memory", guests::MEMORY_BOMB, "memory_max_mb = 16"),
    ("handles", guests::HANDLE_BOMB, ""),
    ("deaf", guests::NEVER_READS, ""),
    ("busy", guests::PARK, "max_concurrency = 1"),
    ("small", guests::ECHO, "max_request_bytes = 1_000"),
    ("large", guests::BIG_BODY, "max_response_bytes = 1_000"),
    ("copied", guests::CGI_ECHO, "max_response_bytes = 1_000"),
    ("left", guests::PARK, ""),
    // Longer than the edge waits for a client.
    ("slow", guests::ECHO, "wall_timeout_ms = 150_000"),
    ("unread", guests::BIG_BODY, "wall_timeout_ms = 150_000"),
    (
        "huge",
        guests::BIG_BODY,
        "epoch_timeout_ms = 100_000\nwall_timeout_ms = 100_000",
    ),
    ("many", guests::OUTBOUND, ""),
    ("start", guests::TRAP_START, ""),
    ("middle", guests::TRAP_MID_RESPONSE, ""),
];

/// A realm with a component of each row at `/NAME/...`.
fn realm() -> (Realm, Agent) {
    let realm = Realm::new();
    let mut manifest = String::new();
    let mut routes = String::from("[routing]\n\"*\" = [\n");
    for (name, guest, more) in COMPONENTS {
        realm.guest(guest, &format!("{name}.wasm"));
        manifest += &format!("[components.{name}]\nsource = \"file:./{name}.wasm\"\n{more}\n\n");
        routes += &format!("  {{ path = \"/{name}/...\", component = \"{name}\" }},\n");
    }
    std::fs::write(realm.path("deep.wasm"), CALLS_ITSELF).unwrap();
    manifest += "[components.deep]\nsource = \"file:./deep.wasm\"\n\n";
    routes += "  { path = \"/deep/...\", component = \"deep\" },\n";
    realm.write("realm.toml", &format!("{manifest}{routes}]\n"));
    let agent = realm.agent();
    realm.run(&["apply", "--yes", "--timeout", "2m"]).ok();
    (realm, agent)
}

/// Waits for what the operator sees of an end: the outcome in the metrics, words in the log.
async fn is_told(realm: &Realm, agent: &Agent, name: &str, outcome: &str, words: &str) {
    let series = format!("wasm_invocations_total{{component=\"{name}\",outcome=\"{outcome}\"}}");
    eventually(&series, async || {
        let page = get(&agent.metrics_url).await.1;
        (figure(&page, &series) >= 1.0).then_some(())
    })
    .await;
    eventually(words, async || {
        let log = realm.run(&["logs", name]).ok().stdout;
        let line = format!("realm: {outcome}: ");
        let told = |text: &str| text.contains(&line) && text.contains(words);
        // A trap has a backtrace: its reason comes some lines later.
        (log.lines().any(told) || told(&log.replace('\n', " "))).then_some(())
    })
    .await;
}

pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    /// What a client sends, as it goes over the wire.
    pub(crate) request: &'a str,
    pub(crate) status: u16,
    pub(crate) code: &'a str,
    pub(crate) words: &'a str,
}

/// One request, its answer, and what the operator is told.
pub(crate) async fn check(realm: &Realm, agent: &Agent, row: &Row<'_>) {
    let answer = tokio::task::block_in_place(|| raw(&agent.url, row.request.as_bytes()));
    check_answer(realm, agent, row, &answer).await;
}

async fn check_answer(realm: &Realm, agent: &Agent, row: &Row<'_>, answer: &str) {
    let Row {
        name,
        request: _,
        status,
        code,
        words,
    } = row;
    let answered = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&answered), "{name}: {answer}");
    let header = format!("realm-error: {code}\r\n");
    assert!(answer.contains(&header), "{name}: {answer}");
    is_told(realm, agent, name, code, words).await;
    let series = format!("realm_http_requests_total{{component=\"{name}\",status=\"{status}\"}}");
    let page = get(&agent.metrics_url).await.1;
    assert!(figure(&page, &series) >= 1.0, "{series}");
}

pub(crate) fn request(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_ends_as_documented() {
    let (realm, agent) = realm();
    for row in [
        Row {
            name: "spin",
            request: &request("GET", "/spin/spin", ""),
            status: 504,
            code: "epoch-timeout",
            words: " ms, `epoch_timeout_ms` is 100",
        },
        Row {
            name: "park",
            request: &request("GET", "/park/?ms=600000", ""),
            status: 504,
            code: "wall-timeout",
            words: "not done after the 300 ms of `wall_timeout_ms`",
        },
        Row {
            name: "memory",
            request: &request("GET", "/memory/", ""),
            status: 500,
            code: "memory-limit",
            words: " MiB, `memory_max_mb` is 16",
        },
        Row {
            name: "handles",
            request: &request("GET", "/handles/", ""),
            status: 500,
            code: "trap",
            words: "table has no free keys",
        },
        Row {
            name: "small",
            request: &request("POST", "/small/", "Content-Length: 1001\r\n"),
            status: 413,
            code: "request-too-large",
            words: "larger than the 1000 bytes of `max_request_bytes`",
        },
        Row {
            name: "large",
            request: &request("GET", "/large/?bytes=1001&length=1", ""),
            status: 502,
            code: "response-too-large",
            words: "larger than the 1000 bytes of `max_response_bytes`",
        },
        Row {
            name: "many",
            request: &request("GET", "/many/?answer=257", ""),
            status: 502,
            code: "bad-response",
            words: "the answer has 257 header fields, of at most 256",
        },
        Row {
            name: "deep",
            request: &request("GET", "/deep/", ""),
            status: 500,
            code: "trap",
            words: "call stack exhausted",
        },
        Row {
            name: "start",
            request: &request("GET", "/start/", ""),
            status: 500,
            code: "trap",
            words: "wasm `unreachable` instruction executed",
        },
    ] {
        check(&realm, &agent, &row).await;
    }
    no_room(&realm, &agent).await;
    unread(&realm, &agent).await;
    client_goes_away(&realm, &agent).await;
    breaks_off(&realm, &agent).await;
    grows_too_large(&realm, &agent).await;
    // Whatever happened: every neighbour serves on.
    assert_eq!(get(&agent.url("/spin/")).await.0, 200);
    assert_eq!(get(&agent.url("/memory/hold")).await.0, 200);
}

async fn no_room(realm: &Realm, agent: &Agent) {
    let url = agent.url("/busy/?ms=600000");
    // One runs, one waits, the third is refused.
    let [first, second] = [(); 2].map(|()| tokio::spawn(reqwest::get(url.clone())));
    agent.in_flight_of("busy").await;
    let row = Row {
        name: "busy",
        request: &request("GET", "/busy/?ms=1", ""),
        status: 503,
        code: "overloaded",
        words: "no room: `max_concurrency` is 1",
    };
    check(realm, agent, &row).await;
    let refused = raw(&agent.url, row.request.as_bytes());
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    first.abort();
    second.abort();
}

/// A guest that answers without a look at the body: the answer is whole, and the body is not kept.
async fn unread(realm: &Realm, agent: &Agent) {
    let body = vec![0; 8 << 20];
    let sent = reqwest::Client::new().post(agent.url("/deaf/")).body(body);
    let answer = sent.send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.text().await.unwrap()),
        (200, "not read\n".to_owned())
    );
    let page = get(&agent.metrics_url).await.1;
    let read = figure(&page, "realm_http_request_bytes_total{component=\"deaf\"}");
    assert!(read <= 1e6, "{read} bytes of the body were taken in");
    // One that does not even answer meets the wall, whatever the client still sends.
    let row = Row {
        name: "park",
        request: &request("POST", "/park/?ms=600000", "Content-Length: 1000\r\n"),
        status: 504,
        code: "wall-timeout",
        words: "`wall_timeout_ms`",
    };
    check(realm, agent, &row).await;
}

/// While it waits for the answer, and in the middle of an upload that is read.
async fn client_goes_away(realm: &Realm, agent: &Agent) {
    let address = agent.url.trim_start_matches("http://");
    for (name, request) in [
        ("left", request("GET", "/left/?ms=600000", "")),
        (
            "small",
            request("POST", "/small/", "Content-Length: 1000\r\n"),
        ),
    ] {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        agent.in_flight_of(name).await;
        drop(client);
        is_told(realm, agent, name, "cancelled", "the client went away").await;
        eventually("its instance is gone", async || {
            let page = get(&agent.metrics_url).await.1;
            let held = format!("mem_current_bytes{{component=\"{name}\"}}");
            (figure(&page, &held) == 0.0).then_some(())
        })
        .await;
    }
}

async fn breaks_off(realm: &Realm, agent: &Agent) {
    let answer = async {
        let response = reqwest::get(agent.url("/middle/?bytes=100000")).await?;
        response.bytes().await
    };
    assert!(answer.await.is_err(), "taken for a whole answer");
    is_told(
        realm,
        agent,
        "middle",
        "trap",
        "wasm `unreachable` instruction executed",
    )
    .await;
}

/// An answer that does not say how long it is: broken off where it gets too large, in each world.
async fn grows_too_large(realm: &Realm, agent: &Agent) {
    let post = |path: &str, bytes: usize| {
        let client = reqwest::Client::new();
        client.post(agent.url(path)).body(vec![b'x'; bytes]).send()
    };
    let fits = post("/copied/", 1_000).await.unwrap();
    assert_eq!(fits.bytes().await.unwrap().len(), 1_000);
    for (name, answer) in [
        (
            "large",
            reqwest::get(agent.url("/large/?bytes=100000")).await,
        ),
        ("copied", post("/copied/", 1_001).await),
    ] {
        // The head may not have left either.
        let whole = async { answer?.bytes().await };
        assert!(whole.await.is_err(), "{name}: taken for a whole answer");
        let words = "larger than the 1000 bytes of `max_response_bytes`";
        is_told(realm, agent, name, "response-too-large", words).await;
    }
}

/// For so long the edge waits for the next byte of a body, either way.
const STILL_MAX: Duration = Duration::from_secs(60);

/// A client that stops in the middle of its upload, and one that reads nothing of its answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stands_still_is_cut_off_and_the_operator_is_told() {
    let (realm, agent) = realm();
    let address = agent.url.trim_start_matches("http://");
    let upload = request("POST", "/slow/?whole=1", "Content-Length: 10\r\n") + "half";
    let row = Row {
        name: "slow",
        request: &upload,
        status: 408,
        code: "request-timeout",
        words: "the client sent nothing more of the body",
    };
    let reader = {
        let mut reader = TcpStream::connect(address).unwrap();
        let request = request("GET", "/unread/?bytes=1073741824", "");
        reader.write_all(request.as_bytes()).unwrap();
        reader
    };
    let mut sender = TcpStream::connect(address).unwrap();
    sender.set_read_timeout(Some(STILL_MAX * 2)).unwrap();
    sender.write_all(row.request.as_bytes()).unwrap();
    let began = Instant::now();
    let mut answer = String::new();
    tokio::task::block_in_place(|| sender.read_to_string(&mut answer)).unwrap();
    let took = began.elapsed();
    assert!(took > STILL_MAX - Duration::from_secs(1), "{took:?}");
    check_answer(&realm, &agent, &row, &answer).await;
    is_told(
        &realm,
        &agent,
        "unread",
        "cancelled",
        "the client went away",
    )
    .await;
    drop(reader);
    for name in ["slow", "unread"] {
        eventually("its instance is gone", async || {
            let page = get(&agent.metrics_url).await.1;
            let held = format!("mem_current_bytes{{component=\"{name}\"}}");
            (figure(&page, &held) == 0.0).then_some(())
        })
        .await;
    }
    // A slow one that moves is served.
    let whole = reqwest::Client::new().post(agent.url("/slow/?whole=1"));
    let whole = whole.body("all of it").send().await.unwrap();
    assert_eq!(whole.text().await.unwrap(), "all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instances_of_all_components_have_an_end() {
    let realm = Realm::new();
    realm.app(guests::PARK, "");
    realm.write(".realm/node.toml", "[guests]\ninstances_max = 2\n");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let url = agent.url("/?ms=600000");
    let parked: Vec<_> = [(); 2]
        .map(|()| tokio::spawn(reqwest::get(url.clone())))
        .into();
    eventually("both run", async || {
        let page = get(&agent.metrics_url).await.1;
        let held = figure(
            &page,
            "realm_replica_requests_in_flight{component=\"app\",slot=\"0\"}",
        );
        (held == 2.0).then_some(())
    })
    .await;
    let row = Row {
        name: "app",
        request: &request("GET", "/?ms=1", ""),
        status: 503,
        code: "overloaded",
        words: "`instances_max` in node.toml is for all components together",
    };
    check(&realm, &agent, &row).await;
    for one in parked {
        one.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_of_a_gigabyte_passes_through() {
    let (_realm, agent) = realm();
    const BYTES: u64 = 1 << 30;
    let mut response = reqwest::get(agent.url(&format!("/huge/?bytes={BYTES}")))
        .await
        .unwrap();
    let mut read = 0;
    while let Some(piece) = response.chunk().await.unwrap() {
        read += piece.len() as u64;
    }
    assert_eq!(read, BYTES);
    let page = get(&agent.metrics_url).await.1;
    let peak = figure(&page, "mem_peak_bytes{component=\"huge\"}");
    assert!(peak > 0.0 && peak < 4e6, "{peak}");
    let resident = figure(&page, "process_resident_memory_bytes");
    assert!(resident < 300e6, "{resident}");
}

/// `(module (memory (export "memory") 1) (func $f (export "_start") call $f unreachable))`
const CALLS_ITSELF: &[u8] = &[
    0, b'a', b's', b'm', 1, 0, 0, 0, // magic, version
    1, 4, 1, 0x60, 0, 0, // type 0: () -> ()
    3, 2, 1, 0, // a function of it
    5, 3, 1, 0, 1, // a memory of one page
    7, 19, 2, 6, b'm', b'e', b'm', b'o', b'r', b'y', 2, 0, 6, b'_', b's', b't', b'a', b'r', b't',
    0, 0, // exports
    10, 7, 1, 5, 0, 0x10, 0, 0, 0x0b, // call 0; unreachable
];

/// `(module (func $f unreachable) (start $f) (memory (export "memory") 1) (func (export "_start")))`
const START_TRAPS: &[u8] = &[
    0, b'a', b's', b'm', 1, 0, 0, 0, // magic, version
    1, 4, 1, 0x60, 0, 0, // type 0: () -> ()
    3, 3, 2, 0, 0, // two functions of it
    5, 3, 1, 0, 1, // a memory of one page
    7, 19, 2, 6, b'm', b'e', b'm', b'o', b'r', b'y', 2, 0, 6, b'_', b's', b't', b'a', b'r', b't',
    0, 1, 8, 1, 0, // start: function 0
    10, 8, 2, 3, 0, 0, 0x0b, 2, 0, 0x0b, // unreachable; nothing
];

#[tokio::test(flavor = "multi_thread")]
async fn what_traps_while_it_is_instantiated_never_takes_a_request() {
    let realm = Realm::new();
    realm.app(guests::HELLO, "");
    std::fs::write(realm.path("app.wasm"), START_TRAPS).unwrap();
    let agent = realm.agent();
    let said = realm.run(&["apply", "--yes", "--timeout", "1s"]);
    said.fails(1, "not-running");
    let why = format!("{:?}", realm.component("app").await);
    assert!(
        why.contains("probe-failed") && why.contains("(trap)"),
        "{why}"
    );
    let answer = reqwest::get(agent.url("/")).await.unwrap();
    let code = answer.headers()["realm-error"].to_str().unwrap().to_owned();
    assert_eq!((answer.status().as_u16(), &*code), (503, "no-backend"));
}
