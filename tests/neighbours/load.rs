//! A steady load of small requests, and how long each waited: an open loop, so that a server that
//! stalls is charged for every request that was due in the meantime.
//!
//! Plain threads and blocking sockets: they cost next to nothing beside the server on the same
//! cores, in any build. Every answer is checked.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Below the default of `max_concurrency`: the load alone never overloads its component.
const CONNECTIONS: u32 = 32;
/// As long as anybody waits for an answer: longer than the default of `wall_timeout_ms`.
const PATIENCE: Duration = Duration::from_secs(40);
/// How many times the planned time is waited for those who are late: the others count as failed.
const LATE_MAX: u32 = 2;
const ANSWER_BYTES_MAX: usize = 4096;
/// An answer that took longer is noted by the second in which it was due.
const SLOW_US: u32 = 2_000;

/// What to ask, and what a good answer holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'a str,
    pub(crate) text: &'a str,
}

/// What a load saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Microseconds from when a request was due to its whole answer, in order.
    latencies_us: Vec<u32>,
    /// Answers that took over 2 ms, by the second in which they were due: whether they came all at once.
    pub(crate) slow: BTreeMap<u64, u64>,
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
}

impl Measured {
    pub(crate) fn answers(&self) -> usize {
        self.latencies_us.len()
    }

    /// The value that this part of all answers does not exceed.
    pub(crate) fn percentile_us(&self, part: f64) -> u32 {
        let last = self.latencies_us.len().saturating_sub(1);
        let index = (self.latencies_us.len() as f64 * part) as usize;
        self.latencies_us.get(index.min(last)).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        self.latencies_us.sort_unstable();
        for (second, count) in other.slow {
            *self.slow.entry(second).or_default() += count;
        }
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

/// Answers per second where every connection asks again at once.
pub(crate) fn capacity(target: Target<'_>, time: Duration) -> f64 {
    let answers = AtomicU64::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut connection = Connection::new(target);
                while began.elapsed() < time {
                    connection.ask().expect("the capacity is measured alone");
                    answers.fetch_add(1, Relaxed);
                }
            });
        }
    });
    answers.load(Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// `rate` requests per second, evenly, whether or not earlier ones are answered.
pub(crate) fn steady(target: Target<'_>, rate: f64, time: Duration) -> Measured {
    let began = Instant::now() + Duration::from_millis(10);
    let mut all = Measured::default();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|client| scope.spawn(move || share(target, rate, began, time, client)))
            .collect();
        for client in clients {
            all.add(client.join().expect("a client does not panic"));
        }
    });
    all
}

/// Every 32nd request of the whole. One that is answered late makes the next one late: both count.
fn share(target: Target<'_>, rate: f64, began: Instant, time: Duration, client: u32) -> Measured {
    let mut seen = Measured::default();
    let mut connection = Connection::new(target);
    for number in 0_u32.. {
        let due = f64::from(client) + f64::from(number) * f64::from(CONNECTIONS);
        let due = Duration::from_secs_f64(due / rate);
        if due >= time {
            break;
        }
        let due = began + due;
        if began.elapsed() > time * LATE_MAX {
            seen.failures += 1;
            seen.first_failure.get_or_insert("hopelessly late".into());
            continue;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        match connection.ask() {
            Ok(()) => {
                let waited = due.elapsed().as_micros();
                let waited = u32::try_from(waited).unwrap_or(u32::MAX);
                seen.latencies_us.push(waited);
                if waited > SLOW_US {
                    let second = due.duration_since(began).as_secs();
                    *seen.slow.entry(second).or_default() += 1;
                }
            }
            Err(failure) => {
                seen.failures += 1;
                seen.first_failure.get_or_insert(failure);
                connection = Connection::new(target);
            }
        }
    }
    seen
}

struct Connection<'a> {
    target: Target<'a>,
    request: String,
    stream: Option<TcpStream>,
}

impl<'a> Connection<'a> {
    fn new(target: Target<'a>) -> Self {
        Self {
            target,
            request: format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", target.path),
            stream: None,
        }
    }

    /// One request and its whole answer.
    fn ask(&mut self) -> Result<(), String> {
        let mut buffer = [0; ANSWER_BYTES_MAX];
        let length = self
            .exchange(&mut buffer)
            .map_err(|error| error.to_string())?;
        let answer = String::from_utf8_lossy(&buffer[..length]);
        let good = answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(self.target.text);
        if good {
            Ok(())
        } else {
            Err(answer.into_owned())
        }
    }

    fn exchange(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(connect(self.target.address)?),
        };
        stream.write_all(self.request.as_bytes())?;
        let mut length = 0;
        loop {
            let read = stream.read(&mut buffer[length..])?;
            length += read;
            if read == 0 || whole(&buffer[..length]) {
                return Ok(length);
            }
        }
    }
}

/// A head and as many bytes as it announces.
fn whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return false;
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let announced = text.split_once("content-length: ").and_then(|(_, rest)| {
        let digits = rest.split("\r\n").next()?;
        digits.parse::<usize>().ok()
    });
    announced.is_some_and(|bytes| answer.len() >= head + 4 + bytes)
}

pub(crate) fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
