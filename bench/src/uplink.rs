//! A line that carries so many bytes in a second and no more, as the uplink of an office or of a small
//! server does: an HTTP origin behind it, and a relay through it for whoever brings bytes instead.
//! Only what goes up is counted and slowed. Who asks, and what for, is not known here.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Bytes that pass in one go: below a millisecond at 20 MB/s, so that those who share it share it evenly.
const PIECE_BYTES: usize = 16 * 1024;
/// More than the head of any request that is made here.
const HEAD_BYTES_MAX: u64 = 16 * 1024;

/// The line.
#[derive(Debug)]
pub(crate) struct Uplink {
    bytes_per_s: u32,
    free_at: Mutex<Instant>,
    sent: AtomicU64,
}

impl Uplink {
    pub(crate) fn new(bytes_per_s: u32) -> Arc<Self> {
        Arc::new(Self {
            bytes_per_s,
            free_at: Mutex::new(Instant::now()),
            sent: AtomicU64::new(0),
        })
    }

    /// Bytes that went up so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes have passed, behind all that came before.
    fn pass(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let takes = Duration::from_secs_f64(f64::from(bytes) / f64::from(self.bytes_per_s));
        let until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            *free_at = (*free_at).max(Instant::now()) + takes;
            *free_at
        };
        thread::sleep(until.saturating_duration_since(Instant::now()));
        self.sent.fetch_add(u64::from(bytes), Ordering::Relaxed);
    }
}

/// Somebody who listens on loopback; ends when this is dropped. A thread for each connection.
#[derive(Debug)]
struct Door {
    address: SocketAddr,
    closes: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    fn open(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let address = listener.local_addr()?;
        let closes = Arc::new(AtomicBool::new(false));
        let (is_closed, answer) = (Arc::clone(&closes), Arc::new(answer));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_closed.load(Ordering::Relaxed) {
                    return;
                }
                let answer = Arc::clone(&answer);
                thread::spawn(move || answer(stream));
            }
        });
        Ok(Self {
            address,
            closes,
            thread: Some(thread),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closes.store(true, Ordering::Relaxed);
        // It looks at the next connection.
        let knocked = TcpStream::connect(self.address).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| knocked) {
            let _ = thread.join();
        }
    }
}

/// A plain HTTP server of files, behind an uplink.
#[derive(Debug)]
pub(crate) struct Origin {
    door: Door,
    files: Arc<Files>,
}

type Files = Mutex<BTreeMap<String, Arc<[u8]>>>;

impl Origin {
    pub(crate) fn open(uplink: &Arc<Uplink>) -> Result<Self> {
        let files: Arc<Files> = Arc::default();
        let (served, uplink) = (Arc::clone(&files), Arc::clone(uplink));
        let door = Door::open(move |stream| {
            // Who goes away in the middle has what it wanted.
            let _ = serve(stream, &served, &uplink);
        })?;
        Ok(Self { door, files })
    }

    /// Puts a file there instead of all others; gives its URL.
    pub(crate) fn offer(&self, name: &str, bytes: Vec<u8>) -> String {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.clear();
        files.insert(format!("/{name}"), bytes.into());
        format!("http://{}/{name}", self.door.address)
    }
}

fn serve(stream: TcpStream, files: &Files, uplink: &Uplink) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = BufReader::new(&stream).take(HEAD_BYTES_MAX).lines();
    let request = head.next().transpose()?.unwrap_or_default();
    for header in head {
        if header?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let files = files.lock().unwrap_or_else(PoisonError::into_inner);
    let found = files.get(path).cloned();
    drop(files);
    let mut stream = &stream;
    let Some(bytes) = found else {
        return stream.write_all(
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        );
    };
    let length = bytes.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    for piece in bytes.chunks(PIECE_BYTES) {
        uplink.pass(piece.len());
        stream.write_all(piece)?;
    }
    Ok(())
}

/// A way to a server through an uplink.
#[derive(Debug)]
pub(crate) struct Relay {
    door: Door,
}

impl Relay {
    pub(crate) fn open(uplink: &Arc<Uplink>, to: SocketAddr) -> Result<Self> {
        let uplink = Arc::clone(uplink);
        let door = Door::open(move |stream| {
            // Both ends see for themselves that the other one went away.
            let _ = relay(&stream, to, &uplink);
        })?;
        Ok(Self { door })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.door.address
    }
}

fn relay(near: &TcpStream, to: SocketAddr, uplink: &Uplink) -> io::Result<()> {
    let far = TcpStream::connect(to)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &far, &mut &*near);
            let _ = near.shutdown(Shutdown::Write);
        });
        let up = || -> io::Result<()> {
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let read = (&mut &*near).read(&mut piece)?;
                if read == 0 {
                    return Ok(());
                }
                uplink.pass(read);
                (&far).write_all(&piece[..read])?;
            }
        };
        let ended = up();
        let _ = far.shutdown(Shutdown::Write);
        ended
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    #[test]
    fn an_uplink_carries_what_it_can_for_all_together() {
        let uplink = Uplink::new(1_000_000);
        let origin = Origin::open(&uplink).unwrap();
        let url = origin.offer("file", vec![7; 100_000]);
        let path = "/file";
        assert!(url.ends_with(path));
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let answer = http::ask(origin.door.address, "GET", path, b"").unwrap();
                    assert_eq!(answer.body, vec![7; 100_000]);
                });
            }
        });
        // Never sooner; later on a machine that is busy.
        assert!(began.elapsed() >= Duration::from_millis(200));
        assert_eq!(uplink.sent(), 200_000);
        let nothing = http::ask(origin.door.address, "GET", "/other", b"").unwrap();
        assert_eq!((nothing.status, uplink.sent()), (404, 200_000));
    }

    #[test]
    fn a_relay_counts_what_goes_up() {
        let uplink = Uplink::new(1_000_000);
        let door = Door::open(|mut stream| {
            let mut question = [0; 60_000];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&[1; 90_000]).unwrap();
        })
        .unwrap();
        let relay = Relay::open(&uplink, door.address).unwrap();
        let began = Instant::now();
        let mut stream = TcpStream::connect(relay.address()).unwrap();
        stream.write_all(&[2; 60_000]).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), 90_000);
        assert!(began.elapsed() >= Duration::from_millis(60));
        assert_eq!(uplink.sent(), 60_000);
    }
}
