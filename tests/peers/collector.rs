//! A collector of OpenTelemetry for tests: takes OTLP over HTTP/1.1, answers as it is told, and keeps what
//! it got. Included by the tests that need it, which read the bodies strictly.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;

/// For conditions that come soon, unless the machine is busy.
const SOON: Duration = Duration::from_secs(60);

/// A request as it came.
#[derive(Clone)]
pub(crate) struct Got {
    pub(crate) path: String,
    /// In lower case, `NAME: VALUE`.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Got {
    /// The body as a message: each byte of it has to be one that the message has a name for.
    pub(crate) fn read<M: Message + Default>(&self) -> M {
        assert!(
            self.headers
                .contains(&"content-type: application/x-protobuf".to_owned()),
            "{:?}",
            self.headers
        );
        let message = M::decode(self.body.as_slice()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            message.encoded_len(),
            self.body.len(),
            "fields that nobody knows"
        );
        message
    }
}

/// What the collector does with a request.
#[derive(Clone)]
pub(crate) enum Does {
    /// Takes it.
    Takes,
    /// Answers with a status, headers and a body.
    Answers(u16, &'static str, Vec<u8>),
    /// Says nothing until it is told otherwise.
    Waits,
}

struct Inner {
    does: Mutex<Does>,
    got: Mutex<Vec<Got>>,
    news: Condvar,
}

/// Listens until the test ends.
pub(crate) struct Collector {
    inner: Arc<Inner>,
    address: SocketAddr,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    /// Where one was before: it is back.
    pub(crate) fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            does: Mutex::new(Does::Takes),
            got: Mutex::default(),
            news: Condvar::new(),
        });
        let shared = Arc::clone(&inner);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (Ok(connection), shared) = (connection, Arc::clone(&shared)) else {
                    return;
                };
                std::thread::spawn(move || while serve(&connection, &shared).is_some() {});
            }
        });
        Self { inner, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn does(&self, does: Does) {
        *lock(&self.inner.does) = does;
        self.inner.news.notify_all();
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        lock(&self.inner.got).clone()
    }

    /// Waits until what came fits; from the requests to a path.
    pub(crate) fn until<T>(&self, path: &str, find: impl Fn(&[Got]) -> Option<T>) -> T {
        let end = Instant::now() + SOON;
        let mut got = lock(&self.inner.got);
        loop {
            let there: Vec<Got> = got.iter().filter(|one| one.path == path).cloned().collect();
            if let Some(found) = find(&there) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{path}: {} requests, none that fits",
                there.len()
            );
            let waited = self.inner.news.wait_timeout(got, left);
            got = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One request of a connection; `None`: it is over.
fn serve(connection: &TcpStream, shared: &Inner) -> Option<()> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("POST"));
    let path = words.next().unwrap().to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.push(format!("{}: {}", name.to_lowercase(), value.trim()));
    }
    let length = headers
        .iter()
        .find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    lock(&shared.got).push(Got {
        path,
        headers,
        body,
    });
    shared.news.notify_all();
    let mut does = lock(&shared.does);
    while matches!(*does, Does::Waits) {
        does = shared
            .news
            .wait(does)
            .unwrap_or_else(PoisonError::into_inner);
    }
    let (status, more, body) = match &*does {
        Does::Answers(status, more, body) => (*status, *more, body.clone()),
        Does::Takes | Does::Waits => (200, "", Vec::new()),
    };
    drop(does);
    let head = format!(
        "HTTP/1.1 {status} x\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut connection = connection;
    connection.write_all(head.as_bytes()).ok()?;
    connection.write_all(&body).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
