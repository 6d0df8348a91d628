//! Clients that mean harm, each in its own way, against a running agent: while they are at it its
//! memory and its processor time stay within figures, each is refused cleanly, and whoever asks as one
//! should is answered meanwhile.
//!
//! Time is counted in good requests: what a hostile connection takes of the agent's processors is
//! compared with what a good one takes that asks once, in the same build on the same machine.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use realm_test_guests as guests;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::support::{Agent, PATIENCE, Realm, cpu_seconds, eventually, figure, get};

/// How long they are at it.
const TIME: Duration = Duration::from_secs(4);
/// Hostile connections at a time, where each ends soon and is made again.
const CLIENTS: usize = 32;
/// Good requests that are answered while they are at it.
const GOOD_MIN: u32 = 5;
/// Between two good requests.
const PAUSE: Duration = Duration::from_millis(50);
/// Requests that say what one takes.
const SAMPLE: u32 = 200;
/// What the allocator keeps, the runtime's threads and the answers on their way, whoever asks.
const SLACK_MB: f64 = 24.0;

const KIB: f64 = 1024.0;

/// What the agent may take of the machine.
struct Bounds {
    /// Memory for each connection that is open at a time.
    kib_each: f64,
    /// Processor time for each connection, in good requests.
    requests_each: f64,
}

struct Rig {
    _realm: Realm,
    agent: Agent,
    address: String,
    /// Processor time of a good request on a connection of its own.
    request_s: f64,
    /// Good requests that were answered while somebody was watched.
    n_good: Cell<u32>,
}

impl Rig {
    async fn new() -> Self {
        let realm = Realm::new();
        let mut manifest = String::new();
        let mut routes = String::from("[routing]\n\"*\" = [\n");
        for (name, guest) in [
            ("good", guests::HELLO),
            ("never", guests::PARK),
            ("large", guests::BIG_BODY),
        ] {
            realm.guest(guest, &format!("{name}.wasm"));
            manifest += &format!("[components.{name}]\nsource = \"file:./{name}.wasm\"\n");
            routes += &format!("  {{ path = \"/{name}/...\", component = \"{name}\" }},\n");
        }
        realm.write("realm.toml", &format!("{manifest}{routes}]\n"));
        let agent = realm.agent();
        realm.run(&["apply", "--yes", "--timeout", "2m"]).ok();
        let address = agent.url.trim_start_matches("http://").to_owned();
        let mut rig = Self {
            _realm: realm,
            agent,
            address,
            request_s: 0.0,
            n_good: Cell::new(0),
        };
        // What is made once is made by now, and memory is what it is with requests.
        join_all((0..CLIENTS).map(|_| rig.good())).await;
        let before = rig.cpu_s();
        for _ in 0..SAMPLE {
            rig.good().await;
        }
        rig.request_s = (rig.cpu_s() - before) / f64::from(SAMPLE);
        rig
    }

    fn cpu_s(&self) -> f64 {
        cpu_seconds(self.agent.id())
    }

    fn resident_mb(&self) -> f64 {
        let path = format!("/proc/{}/status", self.agent.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<f64>().unwrap() / KIB
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// One good request on a connection of its own.
    async fn good(&self) {
        let answer = self
            .exchange(b"GET /good/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello\n"),
            "{answer}"
        );
    }

    /// Sends it all, whether or not it is wanted, and reads to the end of the connection.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        let writing = async {
            let _ = writer.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        let exchanged = timeout(PATIENCE, async {
            tokio::select! {
                // The end may be a reset: what came before it was read all the same.
                _ = reader.read_to_end(&mut answer) => {}
                () = writing => {}
            }
        });
        exchanged.await.expect("the connection ends");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Lets `act` have its way with a number of connections, one after the other on each of the
    /// clients, for a while; meanwhile good requests are answered, and afterwards the bounds held.
    async fn endures(&self, bounds: &Bounds, act: impl AsyncFn(usize)) {
        let (began, n_connections) = (Instant::now(), Cell::new(0_u32));
        let clients = (0..CLIENTS).map(async |client| {
            while began.elapsed() < TIME || self.n_good.get() < GOOD_MIN {
                act(client).await;
                n_connections.set(n_connections.get() + 1);
            }
        });
        let watched = self.watched(join_all(clients)).await;
        assert!(
            n_connections.get() >= CLIENTS as u32,
            "{} connections",
            n_connections.get()
        );
        watched.check(CLIENTS, f64::from(n_connections.get()), bounds);
    }

    /// Until others were answered meanwhile, however busy the machine is.
    async fn others_are_answered(&self) {
        while self.n_good.get() < GOOD_MIN {
            sleep(PAUSE).await;
        }
    }

    /// What it costs the agent while `attack` lasts; good requests are answered all the time.
    async fn watched(&self, attack: impl Future) -> Watched {
        let (before_mb, before_s) = (self.resident_mb(), self.cpu_s());
        let peak_mb = Cell::new(before_mb);
        self.n_good.set(0);
        let asking = async {
            loop {
                self.good().await;
                self.n_good.set(self.n_good.get() + 1);
                sleep(PAUSE).await;
            }
        };
        let looking = async {
            loop {
                peak_mb.set(peak_mb.get().max(self.resident_mb()));
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = attack => {}
            () = async { tokio::join!(asking, looking); } => {}
        }
        let n_good = self.n_good.get();
        assert!(n_good >= GOOD_MIN, "{n_good} good requests");
        let good_s = f64::from(n_good) * self.request_s;
        Watched {
            grown_mb: peak_mb.get() - before_mb,
            cpu_s: self.cpu_s() - before_s - good_s,
            request_s: self.request_s,
        }
    }
}

struct Watched {
    grown_mb: f64,
    cpu_s: f64,
    request_s: f64,
}

impl Watched {
    #[track_caller]
    fn check(&self, at_once: usize, connections: f64, bounds: &Bounds) {
        let Self {
            grown_mb,
            cpu_s,
            request_s,
        } = self;
        let mb_max = SLACK_MB + bounds.kib_each * at_once as f64 / KIB;
        assert!(*grown_mb <= mb_max, "{grown_mb} MB, {mb_max} allowed");
        // A tick of the kernel's clock and a good request more or less are no matter.
        let requests = (cpu_s - 0.1) / request_s / connections;
        assert!(
            requests <= bounds.requests_each,
            "{cpu_s} s for {connections} connections: {requests} good requests of {request_s} s each, {} allowed",
            bounds.requests_each
        );
    }
}

/// One answer, which refuses with this status and code, and after which nothing comes.
#[track_caller]
fn is_refused(answer: &str, (status, code): (u16, &str), what: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let is_clean = head.starts_with(&format!("HTTP/1.1 {status} "))
        && head.contains(&format!("\r\nrealm-error: {code}"))
        && head.contains("\r\nconnection: close")
        && body.starts_with(&format!("error[{code}]: "))
        && answer.matches("HTTP/1.1 ").count() == 1;
    let what: String = what.chars().take(200).collect();
    assert!(is_clean, "{what:?}: {answer}");
}

/// Sends each of these again and again, from many connections at once; all are refused.
async fn are_refused(requests: Vec<String>, refusal: (u16, &str), bounds: &Bounds) {
    let rig = Rig::new().await;
    let next = Cell::new(0);
    let act = async |_| {
        let at = next.replace(next.get() + 1);
        let request = &requests[at % requests.len()];
        let answer = rig.exchange(request.as_bytes()).await;
        is_refused(&answer, refusal, request);
    };
    rig.endures(bounds, act).await;
    assert!(next.get() >= requests.len(), "each was sent");
}

/// Heads that trickle, so many at a time that each could be a visitor.
const SLOW: usize = 400;
/// The edge waits 15 s for a head, and looks every second.
const SLOW_MIN: Duration = Duration::from_secs(14);

#[tokio::test]
async fn slow_heads_are_closed_and_take_next_to_nothing() {
    let rig = Rig::new().await;
    let began = Instant::now();
    let connections = join_all((0..SLOW).map(|_| rig.connect())).await;
    let trickles = connections.into_iter().map(async |mut stream| {
        let (mut reader, mut writer) = stream.split();
        let writing = async {
            let _ = writer
                .write_all(b"GET /good/ HTTP/1.1\r\nHost: h\r\n")
                .await;
            while writer.write_all(b"X-A: b\r\n").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        tokio::select! {
            _ = reader.read_to_end(&mut answer) => {}
            () = writing => {}
        }
        // Nobody asked anything yet.
        assert_eq!(answer, b"");
        began.elapsed()
    });
    let ends = RefCell::new(Vec::new());
    let attack = async {
        let all = timeout(PATIENCE, join_all(trickles)).await;
        ends.replace(all.expect("each is closed"));
    };
    let watched = rig.watched(attack).await;
    let took = began.elapsed().as_secs_f64();
    let first = ends.into_inner().into_iter().min().unwrap();
    assert!(first >= SLOW_MIN, "one was closed after {first:?}");
    // Some twenty writes each: less than two good requests in all that time.
    let bounds = Bounds {
        kib_each: 48.0,
        requests_each: 4.0,
    };
    watched.check(SLOW, SLOW as f64, &bounds);
    assert!(
        watched.cpu_s / took < 0.5,
        "{} s in {took} s",
        watched.cpu_s
    );
}

#[tokio::test]
async fn large_heads_are_refused_before_they_are_read() {
    let head = "GET /good/ HTTP/1.1\r\nHost: h\r\n";
    let many: String = (0..20_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let requests = vec![
        // A megabyte in one field, in many, in the target; and one that never ends.
        format!("{head}x-large: {}\r\n\r\n", "y".repeat(1 << 20)),
        format!("{head}{many}\r\n"),
        format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "y".repeat(1 << 20)),
        format!("{head}x-endless: {}", "y".repeat(1 << 20)),
        // Small ones that are too many.
        format!("{head}{}\r\n", &many[..1_500]),
    ];
    let bounds = Bounds {
        kib_each: 768.0,
        requests_each: 4.0,
    };
    are_refused(requests, (431, "headers-too-large"), &bounds).await;
}

/// To be refused is cheaper than to be answered: no guest is asked.
const AS_CHEAP_AS_AN_ANSWER: Bounds = Bounds {
    kib_each: 128.0,
    requests_each: 1.5,
};

#[tokio::test]
async fn malformed_heads_are_refused_at_no_more_than_an_answer_costs() {
    let requests = [
        "\0\r\n\r\n",
        "G\x01T / HTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /good/ HTTP/1.1\r\nHost h\r\n\r\n",
        "GET /good/ HTTP/1.1\r\nHost: h\r\nX Y: z\r\n\r\n",
        "GET /good/ HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n",
        "GET /good/ HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        "GET /good/ HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        "GET /go od/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03",
    ];
    let requests = requests.map(str::to_owned).to_vec();
    are_refused(requests, (400, "bad-request"), &AS_CHEAP_AS_AN_ANSWER).await;
}

#[tokio::test]
async fn smuggling_shapes_are_refused_at_no_more_than_an_answer_costs() {
    let fields = [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3, 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ];
    let requests = fields.map(|fields| {
        // What hides behind it would be answered, and is not.
        format!(
            "POST /good/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n0\r\n\r\n\
             GET /good/ HTTP/1.1\r\nHost: h\r\n\r\n"
        )
    });
    let requests = requests.to_vec();
    are_refused(requests, (400, "bad-request"), &AS_CHEAP_AS_AN_ANSWER).await;
}

/// Of requests one behind the other for answers that nobody reads.
const PIPELINED: usize = 5_000;
const ANSWER_BYTES: usize = 64 << 10;

/// 320 MB of answers are asked for on each connection: as many are made as the line takes, and the
/// rest waits with the client.
#[tokio::test]
async fn pipelined_requests_wait_until_their_answers_are_read() {
    let rig = Rig::new().await;
    let request = format!("GET /large/?bytes={ANSWER_BYTES}&length=1 HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut connections = join_all((0..CLIENTS).map(|_| rig.connect())).await;
    let all = request.repeat(PIPELINED);
    let stuffed = async {
        let writes = connections.iter_mut().map(async |stream| {
            // What is not taken in this time is not taken.
            let _ = timeout(TIME, stream.write_all(all.as_bytes())).await;
        });
        join_all(writes).await;
        sleep(TIME).await;
        rig.others_are_answered().await;
    };
    let watched = rig.watched(stuffed).await;
    let bounds = Bounds {
        kib_each: 512.0,
        // What the kernel's buffers hold: some megabytes.
        requests_each: 400.0,
    };
    watched.check(CLIENTS, CLIENTS as f64, &bounds);
    // Once what could be taken was taken nobody moves, and that costs nothing.
    let began = Instant::now();
    let still = loop {
        let nothing = async {
            sleep(TIME).await;
            rig.others_are_answered().await;
        };
        let still = rig.watched(nothing).await;
        if still.cpu_s / TIME.as_secs_f64() < 0.25 {
            break still;
        }
        let cpu_s = still.cpu_s;
        assert!(began.elapsed() < PATIENCE, "{cpu_s} s for nothing");
    };
    assert!(still.grown_mb < SLACK_MB, "{} MB", still.grown_mb);
    let page = get(&rig.agent.metrics_url).await.1;
    let answered = figure(
        &page,
        "wasm_invocations_total{component=\"large\",outcome=\"ok\"}",
    );
    assert!(answered < (CLIENTS * PIPELINED) as f64 / 4.0, "{answered}");
    // Whoever reads gets what was asked for, in order and whole.
    let mut stream = connections.swap_remove(0);
    let mut read = Vec::new();
    for n in 0..200 {
        let (head, rest) = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break (String::from_utf8_lossy(&read[..at]).into_owned(), at + 4);
            }
            let more = timeout(PATIENCE, stream.read_buf(&mut read)).await;
            assert!(more.expect("an answer").unwrap() > 0, "{n} answers");
        };
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{n}: {head}");
        let length = format!("content-length: {ANSWER_BYTES}");
        assert!(head.contains(&length), "{n}: {head}");
        while read.len() < rest + ANSWER_BYTES {
            let more = timeout(PATIENCE, stream.read_buf(&mut read)).await;
            assert!(more.expect("a body").unwrap() > 0, "{n} answers");
        }
        read.drain(..rest + ANSWER_BYTES);
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The frame that says why a connection ends, and what it says of a flood (RFC 9113 §7).
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// The codes with which a connection of HTTP/2 was ended.
fn codes(mut answer: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = answer {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (frame, rest) = rest.split_at(length.min(rest.len()));
        if let (GOAWAY, [_, _, _, _, a, b, c, d, ..]) = (*kind, frame) {
            codes.push(u32::from_be_bytes([*a, *b, *c, *d]));
        }
        answer = rest;
    }
    codes
}

/// A flood ends its connection with the reason, however often it comes.
async fn floods_end(rig: &Rig, flood: &[u8], bounds: &Bounds) {
    let bytes = [PREFACE, flood].concat();
    let act = async |_| {
        let mut stream = rig.connect().await;
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        let writing = async {
            let _ = writer.write_all(&bytes).await;
            std::future::pending::<()>().await;
        };
        let ended = timeout(PATIENCE, async {
            tokio::select! {
                _ = reader.read_to_end(&mut answer) => {}
                () = writing => {}
            }
        });
        ended.await.expect("the connection ends");
        assert_eq!(codes(&answer), [ENHANCE_YOUR_CALM], "{answer:?}");
    };
    rig.endures(bounds, act).await;
}

/// CVE-2023-44487: streams opened and reset at once, each for a guest that never ends by itself.
#[tokio::test]
async fn rapid_resets_end_their_connections_and_leave_no_guest_behind() {
    let rig = Rig::new().await;
    // HPACK: `:method GET`, `:scheme http` indexed; `:path`, `:authority h` literal.
    let path = b"/never/?ms=600000";
    let block = [
        &[0x82, 0x86, 0x04, path.len() as u8],
        &path[..],
        b"\x41\x01h",
    ]
    .concat();
    let mut flood = Vec::new();
    for id in (1..20_000_u32).step_by(2) {
        flood.extend([0, 0, block.len() as u8, 0x01, 0x05]);
        flood.extend(id.to_be_bytes());
        flood.extend(&block);
        flood.extend([0, 0, 4, 0x03, 0]);
        flood.extend(id.to_be_bytes());
        flood.extend([0, 0, 0, 0x08]);
    }
    let bounds = Bounds {
        kib_each: 256.0,
        requests_each: 8.0,
    };
    floods_end(&rig, &flood, &bounds).await;
    eventually("no guest is left", async || {
        let page = get(&rig.agent.metrics_url).await.1;
        let held = figure(&page, "mem_current_bytes{component=\"never\"}");
        (held == 0.0).then_some(())
    })
    .await;
}

/// CONTINUATION frames without end.
#[tokio::test]
async fn continuation_floods_end_their_connections() {
    let rig = Rig::new().await;
    // HEADERS without END_HEADERS, then continuations that never end it.
    let mut flood = vec![0, 0, 1, 0x01, 0x01, 0, 0, 0, 1, 0x82];
    for _ in 0..50_000 {
        flood.extend([0, 0, 6, 0x09, 0, 0, 0, 0, 1]);
        flood.extend([0x40, 0x01, b'a', 0x02, b'b', b'c']);
    }
    let bounds = Bounds {
        kib_each: 256.0,
        requests_each: 4.0,
    };
    floods_end(&rig, &flood, &bounds).await;
}
