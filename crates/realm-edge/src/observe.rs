//! What the edge tells about each answer: one record per request, when its response ended.
//!
//! Not metrics: whoever observes keeps the counters. All fields that become labels are bounded.

use std::time::Duration;

use http::{Method, StatusCode, Version};
use realm_model::name::ComponentName;

use crate::websocket::WebSocket;

/// Is told of each answer. Called on the request's own task: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// Called once per request, when its response ended, failed or was given up by the client.
    fn answered(&self, record: &Answered<'_>);

    /// Called for each WebSocket of a component when it opens, whenever bytes went through it, and when
    /// it is over. Its handshake was an answer of 101.
    fn websocket(&self, component: &ComponentName, what: WebSocket) {
        let _ = (component, what);
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Answered<'a> {
    /// The component of the route; `None` where no route was found.
    pub component: Option<&'a ComponentName>,
    /// The method, as a bounded label.
    pub method: MethodClass,
    /// The protocol of the client.
    pub protocol: Protocol,
    /// The status sent; 499 where the client went before there was one.
    pub status: StatusCode,
    /// The code of a refusal or a failed call; `None` where the backend answered.
    pub code: Option<&'static str>,
    /// How it ended.
    pub outcome: Outcome,
    /// From the request's head to the end of the response.
    pub duration: Duration,
    /// Bytes of the request body that the backend read.
    pub bytes_in: u64,
    /// Bytes of the response body handed to the connection.
    pub bytes_out: u64,
    /// Whether a second replica was asked because the first one never took the request.
    pub retried: bool,
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The whole response was handed to the connection.
    Complete,
    /// The client went, or was cut off, before that.
    ClientGone,
    /// The backend's body failed after the head was sent; the client saw a broken response.
    BodyFailed,
}

/// The protocol of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// FastCGI: a web server is in front.
    FastCgi,
}

/// A method as a bounded label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MethodClass {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// Any other.
    Other,
}

impl Outcome {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client-gone",
            Self::BodyFailed => "body-failed",
        }
    }
}

impl Protocol {
    /// The label, as OpenTelemetry writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
            Self::FastCgi => "fastcgi",
        }
    }
}

impl From<Version> for Protocol {
    fn from(version: Version) -> Self {
        if version == Version::HTTP_2 {
            Self::Http2
        } else if version == Version::HTTP_11 {
            Self::Http11
        } else {
            Self::Http10
        }
    }
}

impl MethodClass {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other => "other",
        }
    }
}

impl From<&Method> for MethodClass {
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::PATCH => Self::Patch,
            Method::DELETE => Self::Delete,
            Method::OPTIONS => Self::Options,
            _ => Self::Other,
        }
    }
}
