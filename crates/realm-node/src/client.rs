//! The client of the control API, for the CLI: HTTP over the agent's Unix socket.
//!
//! One connection per call: calls are rare, and a restarted agent is met afresh each time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use realm_model::api::{Accepted, ApiError, Heads, LogLine, Uploaded};
use realm_model::digest::Digest;
use realm_model::entry::ChainId;
use realm_model::name::ComponentName;
use realm_model::view::StatusView;
use serde::de::DeserializeOwned;

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
    socket: PathBuf,
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
    /// The connection broke, or the answer is not HTTP.
    #[error("failed to talk to the agent")]
    Connection(#[source] BoxError),
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
    /// A client of the agent that listens on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Whether an agent answers.
    pub async fn is_running(&self) -> bool {
        self.heads().await.is_ok()
    }

    /// Where the realm stands.
    pub async fn heads(&self) -> Result<Heads, ClientError> {
        self.get("/v1/heads").await
    }

    /// The status as the agent sees it.
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/v1/status").await
    }

    /// Submits the bytes of a signed entry; it is durable when this returns.
    pub async fn submit(&self, chain: ChainId, entry: Vec<u8>) -> Result<Accepted, ClientError> {
        let path = format!("/v1/entries/{}", chain.as_str());
        self.call(Method::POST, &path, full(entry)).await
    }

    /// Whether the agent holds the bytes of a digest.
    pub async fn has(&self, digest: &Digest) -> Result<bool, ClientError> {
        let path = format!("/v1/blobs/{digest}");
        // Not HEAD: an answer to that says nothing of what went wrong.
        let request = self.send(Method::GET, &path, full(Vec::new()));
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
        bytes: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync + 'static,
    ) -> Result<Uploaded, ClientError> {
        let frames = bytes.map(|chunk| chunk.map(Frame::data).map_err(BoxError::from));
        let body = BoxBody::new(StreamBody::new(frames));
        let path = format!("/v1/blobs/{digest}");
        let response = self.send(Method::PUT, &path, body).await?;
        answer(response).await
    }

    /// The lines of a component's ring; with `follow` the stream ends only with the agent.
    pub async fn logs(
        &self,
        component: &ComponentName,
        since_unix_ms: Option<u64>,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<LogLine, ClientError>> + use<>, ClientError> {
        let since = since_unix_ms.unwrap_or(0);
        let path = format!("/v1/logs/{component}?since={since}&follow={follow}");
        let request = self.send(Method::GET, &path, full(Vec::new()));
        let response = within(request).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(lines(response.into_body()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, full(Vec::new())).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
    ) -> Result<T, ClientError> {
        within(async { answer(self.send(method, path, body).await?).await }).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = crate::socket::connect(&self.socket)
            .await
            .map_err(|source| ClientError::NotRunning {
                path: self.socket.clone(),
                source,
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ClientError::Connection(error.into()))?;
        // The task ends with the connection; its errors reach the caller through the response.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "realm")
            .body(body)
            .map_err(|error| ClientError::Connection(error.into()))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| ClientError::Connection(error.into()))
    }
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
fn lines(body: Incoming) -> impl Stream<Item = Result<LogLine, ClientError>> {
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
