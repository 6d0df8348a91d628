//! What stands behind the edge: something that answers a request, here or on another node.
//!
//! Not how it is chosen (`table`) nor how it runs.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use realm_model::name::NodeName;
use tokio::net::TcpStream;

use crate::upstream::{Io, Place};

/// The cause of a failed body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that streams: data frames, then at most one frame of trailers.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The future of a call.
pub use futures_util::future::BoxFuture;

/// One replica of a component.
pub trait Backend: Send + Sync + 'static {
    /// Answers a request whose URI is absolute and whose headers are those a guest may see.
    ///
    /// The call is cancelled by dropping the future, or the body of the response.
    fn call(&self, request: Request<Body>)
    -> BoxFuture<'static, Result<Response<Body>, CallError>>;

    /// The number of calls in flight, in any unit that compares between replicas of a component.
    fn load(&self) -> u32;

    /// A connection of bytes to it, where it is a server that takes some.
    fn connect(&self) -> Option<BoxFuture<'static, Result<Connected, CallError>>> {
        None
    }

    /// The node where it runs; `None`: here.
    fn node(&self) -> Option<&NodeName> {
        None
    }
}

/// A connection to a server that was made for a client.
pub struct Connected(pub(crate) Server);

/// Where that server is.
pub(crate) enum Server {
    /// On this machine. The place counts among its requests.
    Here(TcpStream, Place),
    /// At the end of a stream to another node.
    There(Box<dyn Io>, crate::far::Place),
}

/// How many bytes of the request's path its route names: an extension of the request, absent where
/// that is none (a route for all paths).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutePrefix(pub usize);

/// If this backend has no answer, another one is asked: an extension of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elsewhere;

/// A backend has no answer; the edge makes one of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The status that the client gets.
    pub status: StatusCode,
    /// A stable code, as `wall-timeout`.
    pub code: &'static str,
    /// What happened. The client sees it, so it holds no secret.
    pub message: String,
    /// What the reader can do about it.
    pub hint: Option<&'static str>,
    /// Seconds after which the same request may succeed.
    pub retry_after_s: Option<u32>,
    /// Whether another replica may get the request: it reached no guest, or changes nothing.
    pub retryable: bool,
    /// Whether a guest may have had it all the same.
    pub perhaps_taken: bool,
}

impl CallError {
    /// An error without hint that must not be retried.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            hint: None,
            retry_after_s: None,
            retryable: false,
            perhaps_taken: false,
        }
    }
}

/// What was done for a request that realm answers so was in vain: its component trapped, was ended at a limit of
/// its own, or gave no answer.
pub(crate) fn is_in_vain(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
    )
}
