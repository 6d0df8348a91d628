//! The client of the control API, for the CLI: HTTP over whatever leads to the agent.
//!
//! One connection per call: calls are rare, and a restarted agent is met afresh each time.

mod signer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream as Items, StreamExt as _};
use http::request::Builder;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use realm_model::api::{
    Accepted, AddPeer, ApiError, AskPlacement, AuditPage, BeaconTaken, DeadLetters, DeadSettled,
    EntriesPage, ForkView, Heads, Invitation, LogLine, PeerAdded, SettleDead, Uploaded,
};
use realm_model::digest::Digest;
use realm_model::entry::{ChainId, NamespaceName};
use realm_model::frame::{ExecRequest, RunRequest};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::name::ComponentName;
use realm_model::request::{AUTH_HEADER, TIME_HEADER};
use realm_model::view::StatusView;
use realm_model::why::{ExplainView, PlacementView};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

pub use signer::Signer;

use crate::connect::{self, Connect, Socket};
use crate::remote::PROTOCOL;

/// An answer larger than this is not from an agent: a status of 20,000 components fits.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A line of a log stream: text of 8 KiB, escaped, and its fields.
const LOG_LINE_BYTES_MAX: usize = 128 * 1024;
/// An agent that is alive answers its own socket at once; a fsync of a busy disk takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type RequestBody = BoxBody<Bytes, BoxError>;

/// Talks to one agent.
#[derive(Debug, Clone)]
pub struct Client {
    connector: Arc<dyn Connect>,
    /// For connections that prove no key.
    signer: Option<Arc<Signer>>,
}

/// What is sent.
enum Payload {
    Bytes(Vec<u8>),
    /// A body that is there once, and its digest.
    Stream(RequestBody, Digest),
}

/// A call did not work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("no agent answers at `{}`", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answers at the address.
    #[error("no agent answers at `{place}`")]
    Unreachable {
        /// The address.
        place: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another node than the one that was meant.
    #[error("the node that answers says its key is {said}, and it proved {proven}")]
    AnotherNode {
        /// What it says.
        said: PublicKey,
        /// What its connection proved.
        proven: PublicKey,
    },
    /// The connection broke, or the answer is not HTTP.
    #[error("failed to talk to the agent")]
    Connection(#[source] BoxError),
    /// What came cannot be written.
    #[error("the output cannot be written")]
    Output(#[source] std::io::Error),
    /// No answer in time.
    #[error("the agent did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// The agent said no.
    #[error("{}", .0.message)]
    Refused(ApiError),
    /// The answer is not what this version understands.
    #[error("the agent's answer is not understood: it may be of another version")]
    Answer(#[source] BoxError),
}

impl Client {
    /// A client of the agent that listens on the Unix socket `socket`.
    pub fn new(socket: &Path) -> Self {
        Self::over(Arc::new(Socket::new(socket)))
    }

    /// A client over connections that prove who calls, or of the agent of this machine.
    pub fn over(connector: Arc<dyn Connect>) -> Self {
        Self {
            connector,
            signer: None,
        }
    }

    /// A client over connections that somebody passes on: every request is signed.
    pub fn signed(connector: Arc<dyn Connect>, signer: Arc<Signer>) -> Self {
        Self {
            connector,
            signer: Some(signer),
        }
    }

    /// A signer for the node that answers: for calls that want a signature on every way.
    pub async fn signer(&self, key: SecretKey) -> Result<Arc<Signer>, ClientError> {
        if let Some(signer) = &self.signer {
            return Ok(Arc::clone(signer));
        }
        let heads = self.heads().await?;
        match self.connector.proven() {
            Some(proven) if proven != heads.node_key => Err(ClientError::AnotherNode {
                said: heads.node_key,
                proven,
            }),
            Some(_) | None => Ok(Arc::new(Signer::new(key, heads.realm, heads.node_key))),
        }
    }

    /// Begins a command on the node; what it returns is for [`crate::attach`].
    pub async fn exec(
        &self,
        signer: &Signer,
        command: &ExecRequest,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + use<>, ClientError> {
        let body =
            serde_json::to_vec(command).map_err(|error| ClientError::Answer(error.into()))?;
        self.upgraded(signer, "/v1/exec", body).await
    }

    /// Whether an agent answers.
    pub async fn is_running(&self) -> bool {
        self.heads().await.is_ok()
    }

    /// Begins a component on the node, whose bytes are there; what it returns is for
    /// [`crate::attach`].
    pub async fn run(
        &self,
        signer: &Signer,
        asked: &RunRequest,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + use<>, ClientError> {
        let body = serde_json::to_vec(asked).map_err(|error| ClientError::Answer(error.into()))?;
        self.upgraded(signer, "/v1/run", body).await
    }

    /// Where the realm stands.
    pub async fn heads(&self) -> Result<Heads, ClientError> {
        self.get("/v1/heads").await
    }

    /// Where a namespace stands, with its texts in force and the past of a component or an app.
    pub async fn heads_with_history(
        &self,
        namespace: NamespaceName,
        of: &ComponentName,
    ) -> Result<Heads, ClientError> {
        self.get(&format!("/v1/heads?namespace={namespace}&history={of}"))
            .await
    }

    /// Where a namespace stands, with its texts in force.
    pub async fn heads_of(&self, namespace: NamespaceName) -> Result<Heads, ClientError> {
        self.get(&format!("/v1/heads?namespace={namespace}")).await
    }

    /// Entries of a chain from a number on, as many as one answer has.
    pub async fn entries(&self, chain: ChainId, from: u64) -> Result<EntriesPage, ClientError> {
        self.get(&format!("/v1/entries/{chain}?from={from}")).await
    }

    /// Both histories of a chain that stands still.
    pub async fn fork(&self, chain: ChainId) -> Result<ForkView, ClientError> {
        self.get(&format!("/v1/forks/{chain}")).await
    }

    /// The status as the agent sees it.
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/v1/status").await
    }

    /// Everything about one component at once.
    pub async fn explain(&self, component: &ComponentName) -> Result<ExplainView, ClientError> {
        self.get(&format!("/v1/explain/{component}")).await
    }

    /// What would run where with another manifest.
    pub async fn placement(&self, asked: &AskPlacement) -> Result<PlacementView, ClientError> {
        let body = serde_json::to_vec(asked).map_err(|error| ClientError::Answer(error.into()))?;
        self.call(Method::POST, "/v1/placement", Payload::Bytes(body))
            .await
    }

    /// What a ticket is made of.
    pub async fn invitation(&self) -> Result<Invitation, ClientError> {
        self.get("/v1/invitation").await
    }

    /// Lets the agent call on a machine; `address` is a multiaddr.
    pub async fn add_peer(&self, address: &str) -> Result<PeerAdded, ClientError> {
        let peer = AddPeer {
            address: address.to_owned(),
        };
        let body = serde_json::to_vec(&peer).map_err(|error| ClientError::Answer(error.into()))?;
        self.call(Method::POST, "/v1/peers", Payload::Bytes(body))
            .await
    }

    /// Dead letters of a binding there, whose name has letters, digits, `-`, `_` and `/`; `number`: that one, with what it says.
    pub async fn dead_letters(
        &self,
        binding: &str,
        number: Option<u64>,
    ) -> Result<DeadLetters, ClientError> {
        let number = number.map_or_else(String::new, |number| format!("&number={number}"));
        let path = format!("/v1/dead-letters?binding={binding}{number}");
        self.get(&path).await
    }

    /// Has dead letters delivered again, or dropped.
    pub async fn settle_dead(&self, asked: &SettleDead) -> Result<DeadSettled, ClientError> {
        let body = serde_json::to_vec(asked).map_err(|error| ClientError::Answer(error.into()))?;
        self.call(Method::POST, "/v1/dead-letters", Payload::Bytes(body))
            .await
    }

    /// Who changed or ran what there.
    pub async fn audit(&self) -> Result<AuditPage, ClientError> {
        self.get("/v1/audit").await
    }

    /// Submits the bytes of a signed entry; it is durable when this returns.
    pub async fn submit(&self, chain: ChainId, entry: Vec<u8>) -> Result<Accepted, ClientError> {
        let path = format!("/v1/entries/{}", chain.as_str());
        self.call(Method::POST, &path, Payload::Bytes(entry)).await
    }

    /// Hands in a beacon.
    pub async fn beacon(&self, bytes: Vec<u8>) -> Result<BeaconTaken, ClientError> {
        self.call(Method::POST, "/v1/beacon", Payload::Bytes(bytes))
            .await
    }

    /// Whether the agent holds the bytes of a digest.
    pub async fn has(&self, digest: &Digest) -> Result<bool, ClientError> {
        let path = format!("/v1/blobs/{digest}");
        // Not HEAD: an answer to that says nothing of what went wrong.
        let request = self.send(Method::GET, &path, Payload::empty());
        let response = within(request).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refusal(response).await),
        }
    }

    /// Uploads bytes under the digest that they must have. No time limit but the transfer's own.
    pub async fn upload(
        &self,
        digest: &Digest,
        bytes: impl Items<Item = Result<Bytes, std::io::Error>> + Send + Sync + 'static,
    ) -> Result<Uploaded, ClientError> {
        let frames = bytes.map(|chunk| chunk.map(Frame::data).map_err(BoxError::from));
        let body = BoxBody::new(StreamBody::new(frames));
        let path = format!("/v1/blobs/{digest}");
        let body = Payload::Stream(body, *digest);
        let response = self.send(Method::PUT, &path, body).await?;
        answer(response).await
    }

    /// The lines of a component's ring; with `follow` the stream ends only with the agent.
    pub async fn logs(
        &self,
        component: &ComponentName,
        since_unix_ms: Option<u64>,
        follow: bool,
    ) -> Result<impl Items<Item = Result<LogLine, ClientError>> + use<>, ClientError> {
        let since = since_unix_ms.unwrap_or(0);
        let path = format!("/v1/logs/{component}?since={since}&follow={follow}");
        let request = self.send(Method::GET, &path, Payload::empty());
        let response = within(request).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(lines(response.into_body()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Payload::empty()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Payload,
    ) -> Result<T, ClientError> {
        within(async { answer(self.send(method, path, body).await?).await }).await
    }

    /// Sends a request, signed where the connection proves nobody.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Payload,
    ) -> Result<Response<Incoming>, ClientError> {
        let head = Request::builder().method(method).uri(path);
        let signer = self.signer.as_deref();
        match body {
            Payload::Bytes(bytes) => self.send_bytes(head, signer, bytes).await,
            Payload::Stream(body, digest) => self.send_once(head, signer, body, digest).await,
        }
    }

    /// Asks for an interactive stream.
    async fn upgraded(
        &self,
        signer: &Signer,
        path: &str,
        body: Vec<u8>,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + use<>, ClientError> {
        let head = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(http::header::CONNECTION, "upgrade")
            .header(http::header::UPGRADE, PROTOCOL);
        let response = within(self.send_bytes(head, Some(signer), body)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let upgraded = hyper::upgrade::on(response).await;
        let upgraded = upgraded.map_err(|error| ClientError::Connection(error.into()))?;
        Ok(TokioIo::new(upgraded))
    }

    /// Where the node's clock is another one, once more by that.
    async fn send_bytes(
        &self,
        head: Builder,
        signer: Option<&Signer>,
        bytes: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let digest = Digest::of(&bytes);
        let again = copy(&head);
        let response = self
            .send_once(head, signer, full(bytes.clone()), digest)
            .await?;
        let told = response.headers().get(TIME_HEADER);
        let told = told.and_then(|time| time.to_str().ok()?.parse().ok());
        match (signer, told, again) {
            (Some(signer), Some(time), Some(again)) if signer.follow(time) => {
                self.send_once(again, Some(signer), full(bytes), digest)
                    .await
            }
            _ => Ok(response),
        }
    }

    async fn send_once(
        &self,
        mut head: Builder,
        signer: Option<&Signer>,
        body: RequestBody,
        digest: Digest,
    ) -> Result<Response<Incoming>, ClientError> {
        if let (Some(signer), Some(method), Some(uri)) = (signer, head.method_ref(), head.uri_ref())
        {
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            let header = signer.header(method.as_str(), path, digest)?;
            head = head.header(AUTH_HEADER, header);
        }
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ClientError::Connection(error.into()))?;
        // The task ends with the connection; its errors reach the caller through the response.
        tokio::spawn(connection.with_upgrades());
        let request = head
            .header(http::header::HOST, "realm")
            .body(body)
            .map_err(|error| ClientError::Connection(error.into()))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| ClientError::Connection(error.into()))
    }

    async fn connect(&self) -> Result<Box<dyn connect::Stream>, ClientError> {
        let place = self.connector.place();
        let connected = self.connector.connect().await;
        connected.map_err(|source| match self.connector.is_local() {
            true => ClientError::NotRunning {
                path: PathBuf::from(place),
                source,
            },
            false => ClientError::Unreachable { place, source },
        })
    }
}

impl Payload {
    const fn empty() -> Self {
        Self::Bytes(Vec::new())
    }
}

/// The same head once more: a builder cannot be cloned.
fn copy(head: &Builder) -> Option<Builder> {
    let mut copy = Request::builder()
        .method(head.method_ref()?.clone())
        .uri(head.uri_ref()?.clone());
    *copy.headers_mut()? = head.headers_ref()?.clone();
    Some(copy)
}

async fn within<T>(call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    tokio::time::timeout(ANSWER_TIMEOUT, call)
        .await
        .map_err(|_| ClientError::Timeout)?
}

async fn answer<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let bytes = collect(response.into_body()).await?;
    serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer(error.into()))
}

async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status();
    match collect(response.into_body()).await {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(error) => ClientError::Refused(error),
            Err(_) => ClientError::Answer(format!("status {status}").into()),
        },
        Err(error) => error,
    }
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    let limited = http_body_util::Limited::new(body, ANSWER_BYTES_MAX);
    let collected = limited.collect().await.map_err(ClientError::Connection)?;
    Ok(collected.to_bytes())
}

/// Cuts a body into JSON lines.
fn lines(body: Incoming) -> impl Items<Item = Result<LogLine, ClientError>> {
    let state = (body, Vec::new(), false);
    futures_util::stream::unfold(state, |(mut body, mut buffer, mut ended)| async move {
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let parsed = serde_json::from_slice(&line)
                    .map_err(|error| ClientError::Answer(error.into()));
                return Some((parsed, (body, buffer, ended)));
            }
            if ended {
                return None;
            }
            if buffer.len() > LOG_LINE_BYTES_MAX {
                let error = ClientError::Answer("a log line has no end".into());
                return Some((Err(error), (body, Vec::new(), true)));
            }
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    let error = ClientError::Connection(error.into());
                    return Some((Err(error), (body, Vec::new(), true)));
                }
                None => ended = true,
            }
        }
    })
}

fn full(bytes: Vec<u8>) -> RequestBody {
    Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed()
}
