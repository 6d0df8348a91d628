//! The ten bad neighbours: guests and clients that do what they should not, each in its own way,
//! and how each of them is to end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use realm_test_guests as guests;

use super::load::connect;

/// How one bad request ended: a status, a code in `realm-error`, whether the answer was whole.
pub(crate) type Ending = String;

/// One kind of bad neighbour.
pub(crate) struct Bad {
    pub(crate) name: &'static str,
    pub(crate) guest: &'static str,
    /// More lines of its table in the manifest.
    manifest: &'static str,
    act: fn(&SocketAddr, &AtomicBool) -> std::io::Result<Ending>,
    /// The endings that are documented.
    pub(crate) endings: &'static [&'static str],
    /// The label of `wasm_invocations_total` that counts it.
    pub(crate) outcome: &'static str,
}

pub(crate) const ALL: [Bad; 10] = [
    Bad {
        name: "spin",
        guest: guests::SPIN,
        manifest: "",
        act: |address, _| get(address, "/spin/spin"),
        // Where others leave no processor to it, its time comes later.
        endings: &["504 epoch-timeout", "504 wall-timeout"],
        outcome: "epoch-timeout",
    },
    Bad {
        name: "park",
        guest: guests::PARK,
        // So that some come to their end while it is watched.
        manifest: "wall_timeout_ms = 3_000",
        act: |address, _| get(address, "/park/?ms=600000"),
        endings: &["504 wall-timeout"],
        outcome: "wall-timeout",
    },
    Bad {
        name: "memory-bomb",
        guest: guests::MEMORY_BOMB,
        manifest: "",
        act: |address, _| get(address, "/memory-bomb/"),
        endings: &["500 memory-limit", "504 wall-timeout"],
        outcome: "memory-limit",
    },
    Bad {
        name: "resource-bomb",
        guest: guests::HANDLE_BOMB,
        manifest: "",
        act: |address, _| get(address, "/resource-bomb/"),
        endings: &["500 trap"],
        outcome: "trap",
    },
    Bad {
        name: "never-reads",
        guest: guests::NEVER_READS,
        manifest: "",
        act: |address, _| upload(address, "/never-reads/", 1 << 20),
        endings: &["200"],
        outcome: "ok",
    },
    Bad {
        name: "slow-client",
        guest: guests::ECHO,
        manifest: "",
        act: slowly,
        endings: &["200", "stopped"],
        outcome: "ok",
    },
    Bad {
        name: "client-goes-away",
        guest: guests::PARK,
        manifest: "",
        act: |address, _| go_away(address, "/client-goes-away/?ms=600000"),
        endings: &["gone"],
        outcome: "cancelled",
    },
    Bad {
        name: "huge-response",
        guest: guests::BIG_BODY,
        manifest: "",
        act: |address, stop| drain(address, "/huge-response/?bytes=1073741824", stop),
        // A gigabyte may take longer than a guest may run: then it breaks off.
        endings: &["200", "200, broken off", "stopped"],
        outcome: "",
    },
    Bad {
        name: "trap-at-start",
        guest: guests::TRAP_START,
        manifest: "",
        act: |address, _| get(address, "/trap-at-start/"),
        endings: &["500 trap"],
        outcome: "trap",
    },
    Bad {
        name: "trap-mid-response",
        guest: guests::TRAP_MID_RESPONSE,
        manifest: "",
        act: |address, _| get(address, "/trap-mid-response/?bytes=1000"),
        // The head may be on its way already or not.
        endings: &["200, broken off", "no answer"],
        outcome: "trap",
    },
];

/// After each 64 KiB: some 16 MB a second.
const DRAIN_PAUSE: Duration = Duration::from_millis(4);

/// The manifest of all of them beside the component `healthy`.
pub(crate) fn manifest() -> String {
    let mut text = String::from("[components.healthy]\nsource = \"file:./healthy.wasm\"\n\n");
    let mut routes = String::from(
        "[routing]\n\"*\" = [\n  { path = \"/healthy/...\", component = \"healthy\" },\n",
    );
    for Bad { name, manifest, .. } in &ALL {
        let _ = writeln!(
            text,
            "[components.{name}]\nsource = \"file:./{name}.wasm\"\n{manifest}\n"
        );
        let _ = writeln!(
            routes,
            "  {{ path = \"/{name}/...\", component = \"{name}\" }},"
        );
    }
    text + &routes + "]\n"
}

/// How often each kind ended how.
pub(crate) type Endings = BTreeMap<&'static str, BTreeMap<Ending, u64>>;

/// What became of the bad requests of a while.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) endings: Endings,
    /// The time that each client had one under way, in sum.
    under_way: Duration,
    took: Duration,
}

impl Done {
    /// How many there were at once, on average.
    pub(crate) fn in_flight(&self) -> f64 {
        self.under_way.as_secs_f64() / self.took.as_secs_f64().max(f64::EPSILON)
    }
}

/// Keeps `clients` bad requests in flight, these kinds in turn, until `stop`: whoever is done begins
/// again at once, or `pace` after it began, if that is later.
pub(crate) fn run(
    address: SocketAddr,
    kinds: &[Bad],
    clients: usize,
    pace: Duration,
    stop: &AtomicBool,
) -> Done {
    let done = Mutex::new(Done::default());
    let began = Instant::now();
    thread::scope(|scope| {
        for bad in kinds.iter().cycle().take(clients) {
            let done = &done;
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    let ending = (bad.act)(&address, stop)
                        .unwrap_or_else(|error| format!("error: {}", error.kind()));
                    let took = began.elapsed();
                    let mut done = done.lock().expect("nobody panics with it");
                    done.under_way += took;
                    let endings = done.endings.entry(bad.name).or_default();
                    *endings.entry(ending).or_default() += 1;
                    drop(done);
                    thread::sleep(pace.saturating_sub(took));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody panics with it");
    done.took = began.elapsed();
    done
}

fn get(address: &SocketAddr, path: &str) -> std::io::Result<Ending> {
    let mut stream = connect(*address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    ending(stream, &AtomicBool::new(false))
}

/// As much as may be sent, whether or not anybody reads it.
fn upload(address: &SocketAddr, path: &str, bytes: usize) -> std::io::Result<Ending> {
    let mut stream = connect(*address)?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n"
    )?;
    let piece = [0; 64 << 10];
    for _ in 0..bytes / piece.len() {
        // The answer may come before the end, and the connection may close with it.
        if stream.write_all(&piece).is_err() {
            break;
        }
    }
    ending(stream, &AtomicBool::new(false))
}

/// A byte at a time, with a breath in between.
fn slowly(address: &SocketAddr, stop: &AtomicBool) -> std::io::Result<Ending> {
    let mut stream = connect(*address)?;
    let head = "POST /slow-client/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 20\r\n\r\n";
    for byte in head.bytes().chain([b'x'; 20]) {
        if stop.load(Relaxed) {
            return Ok("stopped".to_owned());
        }
        stream.write_all(&[byte])?;
        thread::sleep(Duration::from_millis(50));
    }
    ending(stream, stop)
}

fn go_away(address: &SocketAddr, path: &str) -> std::io::Result<Ending> {
    let mut stream = connect(*address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    thread::sleep(Duration::from_millis(20));
    stream.shutdown(Shutdown::Both)?;
    Ok("gone".to_owned())
}

/// As quickly as a good line: the two cores are the server's, not the readers'.
fn drain(address: &SocketAddr, path: &str, stop: &AtomicBool) -> std::io::Result<Ending> {
    let mut stream = connect(*address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    ending_of(stream, DRAIN_PAUSE, stop)
}

fn ending(stream: TcpStream, stop: &AtomicBool) -> std::io::Result<Ending> {
    ending_of(stream, Duration::ZERO, stop)
}

/// Reads to the end of the connection, and says what came.
fn ending_of(mut stream: TcpStream, pause: Duration, stop: &AtomicBool) -> std::io::Result<Ending> {
    let mut start = Vec::new();
    let mut last = [0; 5];
    let mut buffer = vec![0; 64 << 10];
    loop {
        if stop.load(Relaxed) {
            return Ok("stopped".to_owned());
        }
        let read = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            // What was answered before the reset counts.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && !start.is_empty() => break,
            Err(error) => return Err(error),
        };
        thread::sleep(pause);
        if start.len() < 4096 {
            start.extend_from_slice(&buffer[..read.min(4096)]);
        }
        let tail = &buffer[read.saturating_sub(last.len())..read];
        last.rotate_left(tail.len());
        let kept = last.len() - tail.len();
        last[kept..].copy_from_slice(tail);
    }
    let text = String::from_utf8_lossy(&start);
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or("no answer");
    let code = head
        .lines()
        .find_map(|line| line.strip_prefix("realm-error: "));
    let broken = head.contains("transfer-encoding: chunked") && &last != b"0\r\n\r\n";
    Ok(match (code, broken) {
        (Some(code), _) => format!("{status} {code}"),
        (None, true) => format!("{status}, broken off"),
        (None, false) => status.to_owned(),
    })
}
