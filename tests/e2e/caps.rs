//! A real agent and web servers that ask for more than they may, take nothing, or are very many: what
//! node.toml says is kept, a guest is stopped and goes on, and memory has a bound.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use realm_test_guests::{FRONT, HELLO};

use crate::fastcgi::{ask, reached};
use crate::support::{Agent, Load, PATIENCE, eventually, figure, get};

const BEGIN: u8 = 1;
const ABORT: u8 = 2;
const END: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const GET_VALUES: u8 = 9;

fn record(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    let [id_high, id_low] = id.to_be_bytes();
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = [1, kind, id_high, id_low, high, low, 0, 0];
    [&head[..], content].concat()
}

/// The beginning of a request on a connection that is kept, and its parameters.
fn head(id: u16, method: &str, uri: &str) -> Vec<u8> {
    let mut pairs = Vec::new();
    let said = [
        ("REQUEST_METHOD", method),
        ("REQUEST_URI", uri),
        ("HTTP_HOST", "a"),
    ];
    for (name, value) in said {
        pairs.extend([name, value].map(|text| u8::try_from(text.len()).unwrap()));
        pairs.extend(name.bytes().chain(value.bytes()));
    }
    [
        record(BEGIN, id, &[0, 1, 1, 0, 0, 0, 0, 0]),
        record(PARAMS, id, &pairs),
        record(PARAMS, id, b""),
    ]
    .concat()
}

fn whole(id: u16, uri: &str) -> Vec<u8> {
    [head(id, "GET", uri), record(STDIN, id, b"")].concat()
}

/// A web server's end of a connection.
struct Wire(UnixStream);

impl Wire {
    fn to(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next record: its kind and its content; `None`: the connection ended.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 8];
        self.0.read_exact(&mut head).ok()?;
        let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let mut content = vec![0; length + usize::from(head[6])];
        self.0.read_exact(&mut content).ok()?;
        content.truncate(length);
        Some((head[1], content))
    }

    /// Bytes of an answer up to its end, and what the end says of the protocol.
    fn answer(&mut self) -> (Vec<u8>, u8) {
        let mut answer = Vec::new();
        loop {
            let (kind, content) = self.next().expect("an end");
            match kind {
                STDOUT => answer.extend(content),
                END => return (answer, content[4]),
                _ => {}
            }
        }
    }
}

/// What the process holds in memory, in KiB.
fn memory_kib(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.unwrap().trim().trim_end_matches(" kB").to_owned();
    figure.parse().unwrap()
}

/// The time that processors worked for it.
fn worked(agent: &Agent) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.id())).unwrap();
    let (_, after) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks: u64 = [11, 12]
        .iter()
        .map(|at| fields[*at].parse::<u64>().unwrap())
        .sum();
    // A hundred in a second, as far as programs are told.
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_node_toml_allows_of_a_web_server_is_what_it_gets() {
    let settings = "connections_max = 100\n[fastcgi]\nconnections_max = 30\n\
                    requests_per_connection = 3\naborts_per_second_max = 5\n\
                    params_bytes_max = 2_000\nparams_max = 20\nparam_name_bytes_max = 40\n\
                    question_bytes_max = 90\nhead_timeout_ms = 300\nidle_timeout_ms = 600_000\n";
    let (realm, _agent) = reached(FRONT, "", settings);
    let socket = realm.path("fastcgi.sock");

    // What it says of itself.
    let names: [&[u8]; 2] = [b"\x0e\x00FCGI_MAX_CONNS", b"\x0d\x00FCGI_MAX_REQS"];
    let mut idle = Wire::to(&socket);
    idle.send(&record(GET_VALUES, 0, &names.concat()));
    let (_, told) = idle.next().unwrap();
    assert_eq!(told, b"\x0e\x02FCGI_MAX_CONNS30\x0d\x02FCGI_MAX_REQS90");
    let mut asks_long = Wire::to(&socket);
    asks_long.send(&record(GET_VALUES, 0, &[0; 91]));
    assert_eq!(asks_long.next(), None);

    // Parameters: five stand in each request.
    let status = |params: &[(&str, &str)]| ask(&socket, params).stdout[8..11].to_owned();
    let names: Vec<String> = (0..16).map(|number| format!("HTTP_X_{number}")).collect();
    let mut more: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(status(&more), "431", "one more than twenty");
    more.pop();
    assert_eq!(status(&more), "200");
    let name = |bytes: usize| "HTTP_".to_owned() + &"N".repeat(bytes - 5);
    assert_eq!(status(&[(&name(40), "1")]), "200");
    assert_eq!(status(&[(&name(41), "1")]), "431");
    assert_eq!(status(&[("HTTP_X", &"y".repeat(1_700))]), "200");
    assert_eq!(status(&[("HTTP_X", &"y".repeat(2_000))]), "431");

    // At once: those that wait for their body, and one more.
    let mut many = Wire::to(&socket);
    for id in 1..=3 {
        many.send(&head(id, "POST", "/app/length"));
    }
    many.send(&head(4, "POST", "/app/length"));
    let (answer, status) = many.answer();
    assert_eq!((answer.len(), status), (0, 2), "it is overloaded");

    // Aborts: five at once, and not fifty.
    let mut aborts = Wire::to(&socket);
    for _ in 0..5 {
        aborts.send(&[head(1, "POST", "/app/length"), record(ABORT, 1, b"")].concat());
        assert_eq!(aborts.answer().1, 0);
    }
    let mut flood = Wire::to(&socket);
    let aborted = [head(1, "POST", "/app/length"), record(ABORT, 1, b"")].concat();
    let _ = flood.0.write_all(&aborted.repeat(50));
    let mut ends = 0;
    while let Some((kind, _)) = flood.next() {
        ends += usize::from(kind == END);
    }
    assert!(ends < 50, "{ends}");

    // Times: half of a request is not waited for, a connection without one is.
    let mut half = Wire::to(&socket);
    half.send(&record(BEGIN, 1, &[0, 1, 1, 0, 0, 0, 0, 0]));
    assert_eq!(half.next(), None);
    idle.send(&whole(1, "/app/x"));
    assert!(idle.answer().0.ends_with(b"a text\n"));

    // Connections: thirty, all of them busy.
    drop((many, aborts, flood, half, idle));
    let mut busy = Vec::new();
    eventually("thirty connections are busy", async || {
        let mut wire = Wire::to(&socket);
        wire.send(&head(1, "POST", "/app/length"));
        wire.send(&whole(2, "/app/x"));
        // One that is over still has its place for a moment.
        let (kind, _) = wire.next()?;
        assert_eq!(kind, STDOUT);
        busy.push(wire);
        (busy.len() == 30).then_some(())
    })
    .await;
    let mut refused = Wire::to(&socket);
    let _ = refused.0.write_all(&whole(1, "/app/x"));
    assert_eq!(refused.next(), None);
}

/// The body comes back as it goes there: who does not read that stops the component, which then takes
/// nothing of what is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_that_does_not_read_stops_the_component_until_it_reads_on() {
    const PARTS: usize = 512;
    const PART_BYTES: usize = 32 * 1024;
    let keys = "max_request_bytes = 33_554_432\nwall_timeout_ms = 120_000";
    let (realm, agent) = reached(FRONT, keys, "");
    let mut wire = Wire::to(&realm.path("fastcgi.sock"));
    wire.send(&head(1, "POST", "/app/echo"));
    let sent = Arc::new(AtomicUsize::new(0));
    let (count, mut stream) = (Arc::clone(&sent), wire.0.try_clone().unwrap());
    let sending = std::thread::spawn(move || {
        for part in 0..PARTS {
            let part = vec![u8::try_from(part % 251).unwrap(); PART_BYTES];
            stream.write_all(&record(STDIN, 1, &part)).unwrap();
            count.fetch_add(PART_BYTES, Relaxed);
        }
        stream.write_all(&record(STDIN, 1, b"")).unwrap();
    });
    // It stands still once nothing moved for long beside what a part takes.
    let mut before = (0, Instant::now());
    let at_rest = eventually("it stands still", async || {
        let seen = sent.load(Relaxed);
        if seen != before.0 {
            before = (seen, Instant::now());
        }
        let still = before.1.elapsed() > Duration::from_secs(1);
        (seen > 0 && still).then_some(seen)
    })
    .await;
    // Answers that wait (512 KiB), the body (128 KiB), what the sockets hold both ways, the component's own.
    assert!(at_rest < 3 * 1024 * 1024, "{at_rest} bytes were taken");
    // Others are answered meanwhile.
    assert_eq!(
        get(&agent.url("/app/x")).await,
        (200, "a text\n".to_owned())
    );
    let (answer, status) = wire.answer();
    sending.join().unwrap();
    assert_eq!(status, 0);
    let body = answer.len() - PARTS * PART_BYTES;
    assert!(answer.starts_with(b"Status: 200 ") && answer[..body].ends_with(b"\r\n\r\n"));
    let mut parts = answer[body..].chunks(PART_BYTES).enumerate();
    assert!(parts.all(|(at, part)| part.iter().all(|byte| usize::from(*byte) == at % 251)));
}

/// Each begins a guest and gives it up, as fast as it goes, from several connections that come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_that_are_aborted_costs_little_and_disturbs_nobody() {
    const FLOODERS: usize = 4;
    const TIMES: usize = 5;
    // By default a hundred at once, and in each second.
    const ALLOWED: f64 = 100.0;
    let (realm, agent) = reached(FRONT, "wall_timeout_ms = 60_000", "");
    // The one that is flooded has room for 64; who is disturbed by that is another one.
    let other = "[components.other]\nsource = \"file:./app.wasm\"\n";
    let manifest = realm.read("realm.toml").replace(
        "component = \"app\" }",
        "component = \"app\" }, { path = \"/other/...\", component = \"other\" }",
    );
    realm.write("realm.toml", &format!("{other}\n{manifest}"));
    realm.run(&["apply", "--yes"]).ok();
    let socket = realm.path("fastcgi.sock");
    let good = |status: u16, body: &str| (status, body) == (200, "a text\n");
    let load = Load::start(agent.url("/other/x"), 2, good);
    load.more(50).await;
    let (memory, work, began) = (memory_kib(&agent), worked(&agent), Instant::now());
    let flooders = (0..FLOODERS).map(|_| {
        let socket = socket.clone();
        std::thread::spawn(move || {
            let mut ended = 0;
            for _ in 0..TIMES {
                let mut wire = Wire::to(&socket);
                let mut stream = wire.0.try_clone().unwrap();
                let writing = std::thread::spawn(move || {
                    for id in (1..=u16::MAX).cycle() {
                        let request = [whole(id, "/app/stream?ms=50000"), record(ABORT, id, b"")];
                        if stream.write_all(&request.concat()).is_err() {
                            return;
                        }
                    }
                });
                while let Some((kind, _)) = wire.next() {
                    ended += usize::from(kind == END);
                }
                let _ = wire.0.shutdown(std::net::Shutdown::Both);
                writing.join().unwrap();
            }
            ended
        })
    });
    let flooders: Vec<_> = flooders.collect();
    // All of them come to their end, which is that of their connections.
    while flooders.iter().any(|flooder| !flooder.is_finished()) {
        assert!(began.elapsed() < PATIENCE, "a connection goes on for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lasted = began.elapsed();
    let ends: usize = flooders.into_iter().map(|one| one.join().unwrap()).sum();
    load.more(50).await;
    let (_, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "{first_bad:?}");
    let (memory, work) = (
        memory_kib(&agent).saturating_sub(memory),
        worked(&agent) - work,
    );
    let page = eventually("no guest is left of them", async || {
        let page = get(&agent.metrics_url).await.1;
        let held = figure(&page, "mem_current_bytes{component=\"app\"}");
        (held == 0.0).then_some(page)
    })
    .await;
    assert_eq!(
        get(&agent.url("/app/x")).await,
        (200, "a text\n".to_owned())
    );
    // Some of those that ended were told that there is no room for them, which begins nothing.
    let seconds = lasted.as_secs_f64() + 1.0;
    let most = FLOODERS as f64 * (TIMES as f64 + seconds) * ALLOWED;
    let series = "wasm_invocations_total{component=\"app\",outcome=\"cancelled\"}";
    let begun = figure(&page, series);
    assert!(
        (1.0..=most).contains(&begun),
        "{begun} guests of {most}, and {ends} ends"
    );
    // Where this was written, in a debug build: 11 MiB, and a millisecond for each guest with all that the
    // load took.
    assert!(memory < 64 * 1024, "{memory} KiB more");
    let bound = Duration::from_secs_f64(0.003 * begun) + 2 * lasted;
    assert!(work < bound, "{work:?} for {begun} guests in {lasted:?}");
}

/// As a web server keeps them while nobody asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_that_are_kept_and_idle_cost_little_and_no_more_with_time() {
    const CONNECTIONS: usize = 1_000;
    let files = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(files);
    limit.current = limit.maximum;
    rustix::process::setrlimit(files, limit).unwrap();
    let (realm, agent) = reached(HELLO, "", "[fastcgi]\nidle_timeout_ms = 600_000\n");
    let socket = realm.path("fastcgi.sock");
    // What the first requests make is not what connections cost.
    for _ in 0..100 {
        assert!(ask(&socket, &[]).stdout.ends_with("hello\n"));
    }
    let before = memory_kib(&agent);
    let mut kept: Vec<Wire> = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut wire = Wire::to(&socket);
        wire.send(&whole(1, "/app/x"));
        assert!(wire.answer().0.ends_with(b"hello\n"));
        kept.push(wire);
    }
    let mut samples = Vec::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        samples.push(memory_kib(&agent));
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let (least, most) = (samples.iter().min().unwrap(), samples.iter().max().unwrap());
    assert!(most - least < 4 * 1024, "{samples:?}");
    // Twenty-four of each are more than thrice of what there is.
    let more = most.saturating_sub(before);
    assert!(
        more < 24 * CONNECTIONS as u64,
        "{more} KiB more than {before}"
    );
    // Each of them is there, and goes on.
    for wire in &mut kept {
        wire.send(&whole(2, "/app/x"));
        assert!(wire.answer().0.ends_with(b"hello\n"));
    }
    let after = memory_kib(&agent);
    assert!(after < most + 8 * 1024, "{after} after {most}");
}
