//! A rig of one edge, clients, and what the observer was told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use realm_edge::{
    Answered, Backend, Body, BoxFuture, Config, Dial, EdgeLimits, Handle, Io, MethodClass,
    Observer, Outcome, Protocol, Table,
};

use realm_model::name::ComponentName;
use realm_model::route::{HostPattern, PathPattern, Route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle as Runtime};
use tokio::sync::mpsc;

pub(crate) use crate::backends::{backend, channel, data, empty, mirror, named, text, trailers};

/// Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits what must come.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it comes in time")
}

/// What the observer was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) component: Option<String>,
    pub(crate) method: MethodClass,
    pub(crate) protocol: Protocol,
    pub(crate) status: u16,
    pub(crate) code: Option<&'static str>,
    pub(crate) outcome: Outcome,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) retried: bool,
}

struct Recorder(mpsc::UnboundedSender<Seen>);

impl Observer for Recorder {
    fn answered(&self, record: &Answered<'_>) {
        let _ = self.0.send(Seen {
            component: record.component.map(ToString::to_string),
            method: record.method,
            protocol: record.protocol,
            status: record.status.as_u16(),
            code: record.code,
            outcome: record.outcome,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            retried: record.retried,
        });
    }
}

pub(crate) const SOCKETS_NAME: &str = "sockets";

/// The thread on which the bytes of other nodes come and go.
pub(crate) fn sockets() -> &'static Runtime {
    static SOCKETS: LazyLock<Runtime> = LazyLock::new(|| {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name(SOCKETS_NAME.to_owned());
        let thread = thread.spawn(move || runtime.block_on(std::future::pending::<()>()));
        thread.expect("a thread");
        handle
    });
    &SOCKETS
}

/// An edge on a free port.
pub(crate) struct Rig {
    pub(crate) handle: Handle,
    pub(crate) address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
    kept: Mutex<Vec<http2::SendRequest<Body>>>,
}

impl Rig {
    /// One component behind every path.
    pub(crate) async fn new(backend: Arc<dyn Backend>) -> Self {
        Self::with_config(vec![backend], |_| {}).await
    }

    pub(crate) async fn with_limits(
        backend: Arc<dyn Backend>,
        set: impl FnOnce(&mut EdgeLimits),
    ) -> Self {
        Self::with_config(vec![backend], |config| set(&mut config.limits)).await
    }

    /// The replicas of one component, and a configuration.
    pub(crate) async fn with_config(
        replicas: Vec<Arc<dyn Backend>>,
        set: impl FnOnce(&mut Config),
    ) -> Self {
        let rig = Self::closed(replicas, set).await;
        rig.handle.open();
        rig
    }

    /// The same, and it takes no connections yet.
    pub(crate) async fn closed(
        replicas: Vec<Arc<dyn Backend>>,
        set: impl FnOnce(&mut Config),
    ) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let mut config = Config {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            ..Config::default()
        };
        set(&mut config);
        let handle = realm_edge::spawn_closed(config, Arc::new(Recorder(sender)))
            .await
            .expect("a free port");
        handle.set_table(table(&[("*/...", "app")], &[("app", replicas)]));
        let address = handle.addresses()[0];
        Self {
            handle,
            address,
            seen,
            kept: Mutex::default(),
        }
    }

    /// The next thing that the observer is told.
    pub(crate) async fn seen(&mut self) -> Seen {
        soon(self.seen.recv()).await.expect("the edge lives")
    }

    /// Whether the observer was told nothing more.
    pub(crate) fn has_seen_all(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }

    /// Sends bytes, reads to the end of the connection.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.expect("sent");
        read_all(&mut stream).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    pub(crate) async fn http1(&self) -> http1::SendRequest<Body> {
        let io = TokioIo::new(self.connect().await);
        let (sender, connection) = http1::handshake(io).await.expect("HTTP/1");
        tokio::spawn(connection);
        sender
    }

    pub(crate) async fn http2(&self) -> http2::SendRequest<Body> {
        let io = TokioIo::new(self.connect().await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }

    /// One request over HTTP/1.1.
    pub(crate) async fn send1(&self, request: Request<Body>) -> Response<Incoming> {
        let mut client = self.http1().await;
        let sent = client.send_request(for_http1(request));
        soon(sent).await.expect("an answer")
    }

    /// One request over HTTP/2.
    pub(crate) async fn send2(&self, request: Request<Body>) -> Response<Incoming> {
        let mut client = self.http2().await;
        let answer = soon(client.send_request(request)).await.expect("an answer");
        // The connection must outlive the body, which the caller reads.
        self.kept.lock().expect("no panic holds it").push(client);
        answer
    }

    /// One request over each protocol; the answers must agree on status, code and body.
    pub(crate) async fn both(
        &self,
        make: impl Fn() -> Request<Body>,
    ) -> (StatusCode, HeaderMap, Bytes) {
        let first = whole(self.send1(make()).await).await;
        let second = whole(self.send2(make()).await).await;
        assert_eq!(first.0, second.0, "the protocols agree on the status");
        assert_eq!(
            first.1.get("realm-error"),
            second.1.get("realm-error"),
            "the protocols agree on the code"
        );
        assert_eq!(first.2, second.2, "the protocols agree on the body");
        first
    }
}

pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.expect("read");
    String::from_utf8(answer).expect("text")
}

/// Reads until the text ends with `end`.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let count = soon(stream.read_buf(&mut answer)).await.expect("read");
        let text = String::from_utf8_lossy(&answer);
        assert_ne!(count, 0, "the end came before `{end}`: {text}");
    }
    String::from_utf8(answer).expect("text")
}

pub(crate) async fn whole(response: Response<Incoming>) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = response.into_parts();
    let body = soon(body.collect()).await.expect("a whole body").to_bytes();
    (parts.status, parts.headers, body)
}

/// `host/path` patterns as the manifest writes them; `*` is any host.
pub(crate) fn table(routes: &[(&str, &str)], backends: &[(&str, Vec<Arc<dyn Backend>>)]) -> Table {
    let name = |text: &str| text.parse::<ComponentName>().expect("a name");
    let routes = routes.iter().map(|(pattern, component)| {
        let at = pattern.find('/').expect("a path");
        let (host, path) = pattern.split_at(at);
        Route {
            host: match (host, host.strip_prefix("*.")) {
                ("*", _) => None,
                (_, Some(suffix)) => Some(HostPattern::Below(suffix.to_owned())),
                (host, None) => Some(HostPattern::Exact(host.to_owned())),
            },
            path: match path.strip_suffix("/...") {
                Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
                None => PathPattern::Exact(path.to_owned()),
            },
            component: name(component),
            weights: BTreeMap::new(),
        }
    });
    let backends: BTreeMap<_, _> = backends
        .iter()
        .map(|(component, replicas)| (name(component), replicas.clone()))
        .collect();
    Table::new(routes.collect(), backends)
}

/// A request with an absolute URI as HTTP/1 sends it: the authority as `Host`, the path as target.
pub(crate) fn for_http1(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri().clone();
    if let Some(authority) = uri.authority() {
        let host = authority.as_str().parse().expect("a value");
        request.headers_mut().entry("host").or_insert(host);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().expect("a path");
    }
    request
}

/// A GET of an absolute URI.
pub(crate) fn get(uri: &str) -> Request<Body> {
    request("GET", uri, empty())
}

pub(crate) fn request(method: &str, uri: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body(body)
        .expect("a request")
}

/// Streams that end at another edge.
pub(crate) struct Streams(pub(crate) Handle);

impl Dial for Streams {
    fn home(&self) -> Option<&tokio::runtime::Handle> {
        Some(sockets())
    }

    fn dial(&self) -> BoxFuture<'_, std::io::Result<Box<dyn Io>>> {
        let (near, far) = tokio::io::duplex(16 * 1024);
        self.0.serve_node(far, sockets());
        Box::pin(async { Ok(Box::new(near) as Box<dyn Io>) })
    }
}
