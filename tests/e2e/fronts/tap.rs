//! Between a web server and the agent: passes all bytes on, and counts connections and the requests on them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::servers::{Behind, Door};

const BEGIN: u8 = 1;
const ABORT: u8 = 2;
const END: u8 = 3;

/// What has passed so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) connections: usize,
    /// Those of FastCGI.
    pub(crate) requests: usize,
    /// The most requests that one connection had under way.
    pub(crate) at_once: usize,
    /// Requests that the server took back, its connection staying as it is.
    pub(crate) aborts: usize,
}

/// Ends with the runtime of its test.
pub(crate) struct Tap {
    /// Where it is met, as `realm edge --at` takes it.
    pub(crate) address: String,
    seen: Arc<Mutex<Seen>>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Tap {
    /// In front of one of the agent's listeners of FastCGI.
    pub(crate) async fn of(behind: &Behind, door: Door) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let to = behind.address(door).to_owned();
        let address = match door {
            Door::Tcp => accept_tcp(to, Arc::clone(&seen), true).await,
            Door::Unix => accept_unix(behind, to, Arc::clone(&seen)),
        };
        Self { address, seen }
    }

    /// In front of its HTTP.
    pub(crate) async fn of_http(behind: &Behind) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let address = accept_tcp(behind.http().to_owned(), Arc::clone(&seen), false).await;
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

async fn accept_tcp(to: String, seen: Arc<Mutex<Seen>>, has_records: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((server, _)) = listener.accept().await {
            let agent = TcpStream::connect(&to).await.unwrap();
            tokio::spawn(pass(server, agent, Arc::clone(&seen), has_records));
        }
    });
    address
}

fn accept_unix(behind: &Behind, to: String, seen: Arc<Mutex<Seen>>) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = behind.realm.path("tap.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // Web servers run as others.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    tokio::spawn(async move {
        let to = to.trim_start_matches("unix:");
        while let Ok((server, _)) = listener.accept().await {
            let agent = UnixStream::connect(to).await.unwrap();
            tokio::spawn(pass(server, agent, Arc::clone(&seen), true));
        }
    });
    format!("unix:{}", path.display())
}

async fn pass(server: impl Stream, agent: impl Stream, seen: Arc<Mutex<Seen>>, has_records: bool) {
    seen.lock().unwrap().connections += 1;
    let (from_server, to_server) = split(server);
    let (from_agent, to_agent) = split(agent);
    let under_way = Mutex::new(BTreeSet::new());
    let asked = |kind, id| {
        let mut seen = seen.lock().unwrap();
        let mut under_way = under_way.lock().unwrap();
        match kind {
            BEGIN => {
                under_way.insert(id);
                seen.requests += 1;
                seen.at_once = seen.at_once.max(under_way.len());
            }
            ABORT => seen.aborts += 1,
            _ => {}
        }
    };
    let answered = |kind, id| {
        if kind == END {
            under_way.lock().unwrap().remove(&id);
        }
    };
    tokio::join!(
        pump(from_server, to_agent, has_records.then_some(asked)),
        pump(from_agent, to_server, has_records.then_some(answered)),
    );
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut told: Option<impl FnMut(u8, u16)>,
) {
    let mut piece = vec![0; 64 * 1024];
    let mut records = Records::default();
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        if let Some(told) = &mut told {
            records.read(&piece[..read], told);
        }
        if to.write_all(&piece[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// The heads of records, however they are cut.
#[derive(Default)]
struct Records {
    head: Vec<u8>,
    /// Bytes of content and padding that are to come.
    left: usize,
}

impl Records {
    fn read(&mut self, mut bytes: &[u8], told: &mut impl FnMut(u8, u16)) {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let more = (8 - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..more]);
            bytes = &bytes[more..];
            if let [_, kind, id_high, id_low, high, low, padding, _] = self.head[..] {
                self.left = usize::from(u16::from_be_bytes([high, low])) + usize::from(padding);
                self.head.clear();
                told(kind, u16::from_be_bytes([id_high, id_low]));
            }
        }
    }
}
