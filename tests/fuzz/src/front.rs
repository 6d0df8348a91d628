//! Any bytes on a connection to the edge: it answers in HTTP or closes, and serves on.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use realm_edge::fastcgi::{FastCgi, FastCgiAddress, Listen};
use realm_edge::{Answered, Backend, Body, BoxFuture, CallError, Config, Observer, Table};
use realm_model::block::Block;
use realm_model::name::ComponentName;
use realm_model::route::{PathPattern, Route};
use tokio::runtime::Runtime;

/// Only an edge that hangs lets anybody wait so long: with its input at an end it has no reason to.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than any refusal; what a backend answers is short here.
const ANSWERS_BYTES_MAX: u64 = 1 << 20;
/// What tells HTTP/2 from a request: the rest is read by who speaks it.
const PREFACE: &[u8] = b"PRI ";
const GOOD: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// An edge that lives as long as the process.
pub(crate) struct Edge {
    address: SocketAddr,
    pub(crate) fastcgi: SocketAddr,
    _runtime: Runtime,
    _handle: realm_edge::Handle,
}

pub(crate) fn edge() -> &'static Edge {
    static EDGE: OnceLock<Edge> = OnceLock::new();
    EDGE.get_or_init(start)
}

/// One connection that sends these bytes and no more.
pub fn http_front(bytes: &[u8]) {
    let edge = edge();
    let answer = exchange(edge.address, bytes, true);
    let is_http1 = answer.starts_with(b"HTTP/1.");
    // The other thing an edge may say: its settings, to who begins as HTTP/2 does.
    let preface = &PREFACE[..PREFACE.len().min(bytes.len())];
    let is_http2 = bytes.starts_with(preface) && answer.get(3) == Some(&4);
    assert!(answer.is_empty() || is_http1 || is_http2, "{answer:?}");
    let after = exchange(edge.address, GOOD, false);
    assert!(after.starts_with(b"HTTP/1.1 200 "), "it serves on");
}

/// `ends`: nothing comes after these bytes, and a server may stop answering for that.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("settable");
    // No connection is left waiting in the system: thousands come one after the other.
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("settable");
    // It may close before it has read everything.
    let _ = stream.write_all(bytes);
    if ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let mut limited = stream.take(ANSWERS_BYTES_MAX);
    if let Err(error) = limited.read_to_end(&mut answer) {
        let hangs = matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        );
        assert!(!hangs, "no end within {PATIENCE:?}");
    }
    answer
}

fn start() -> Edge {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a thread");
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        fastcgi: FastCgi {
            listen: vec![Listen::Tcp("127.0.0.1:0".parse().expect("an address"))],
            allow: vec![Block::of(Ipv4Addr::LOCALHOST.into())],
            ..FastCgi::default()
        },
        ..Config::default()
    };
    let handle = runtime
        .block_on(realm_edge::spawn(config, Arc::new(Nobody)))
        .expect("a free port");
    let name: ComponentName = "app".parse().expect("a name");
    let route = Route {
        host: None,
        path: PathPattern::Prefix(String::new()),
        component: name.clone(),
        weights: BTreeMap::new(),
    };
    let backends: BTreeMap<_, Vec<Arc<dyn Backend>>> =
        BTreeMap::from([(name, vec![Arc::new(Reader) as Arc<dyn Backend>])]);
    handle.set_table(Table::new(vec![route], backends));
    let FastCgiAddress::Tcp(fastcgi) = handle.fastcgi_addresses()[0].clone() else {
        unreachable!("it is a port");
    };
    Edge {
        address: handle.addresses()[0],
        fastcgi,
        _runtime: runtime,
        _handle: handle,
    }
}

struct Nobody;

impl Observer for Nobody {
    fn answered(&self, _: &Answered<'_>) {}
}

/// Reads the whole request, and says how long it was.
struct Reader;

impl Backend for Reader {
    fn call(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        Box::pin(async move {
            let read = request.into_body().collect().await;
            let length = read.map_or(0, |body| body.to_bytes().len());
            let text = Full::new(Bytes::from(length.to_string()));
            let body = text.map_err(|never| match never {}).boxed_unsync();
            Ok(Response::new(body))
        })
    }

    fn load(&self) -> u32 {
        0
    }
}
