//! FastCGI 1.0 as bytes: what a web server sends becomes events, what an application says becomes
//! records. No sockets, no clocks, no requests of HTTP.
//!
//! Everything a peer declares is a claim: nothing is allocated from a length before the bytes are there,
//! each thing that a peer can make more of has a limit, and the same bytes give the same events however
//! they are cut.

mod aborts;
mod client;
mod decode;
mod head;
mod hearing;
mod listen;
mod log;
mod params;
mod record;
mod request;
mod rest;
mod serve;
mod stdin;
#[cfg(test)]
mod tests;
mod writing;

use std::time::Duration;

use bytes::{Bytes, BytesMut};

pub use client::{Application, Remarks, fuzzing};
pub use decode::Decoder;
pub(crate) use hearing::{Hearing, Through};
pub(crate) use listen::{Accepted, Bound, Listener};
pub use listen::{CONNECTIONS_MAX, FastCgi, FastCgiAddress, Listen};
pub use log::GuestLog;
pub use params::{BadParams, Params};
use record::Kind;
pub(crate) use serve::serve;
pub(crate) use stdin::Stdin;

/// What a web server may ask of an application. It may filter files as well, which nobody does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// To answer a request.
    Responder,
    /// To say whether a request may pass.
    Authorizer,
}

/// How much of the parameters of one request is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamsLimits {
    /// Bytes of all names and values.
    pub bytes_max: usize,
    /// Pairs.
    pub pairs_max: usize,
    /// Bytes of one name.
    pub name_bytes_max: usize,
}

impl Default for ParamsLimits {
    fn default() -> Self {
        Self {
            bytes_max: 64 * 1024,
            pairs_max: 200,
            name_bytes_max: 256,
        }
    }
}

/// How much of one connection is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once on one connection; one more hears `OVERLOADED`.
    pub requests_max: usize,
    /// Of each request.
    pub params: ParamsLimits,
    /// Bytes of a question about the application (`FCGI_GET_VALUES`), or of a record of no known kind.
    pub question_bytes_max: u16,
    /// What `FCGI_MAX_CONNS` says: connections at once of all peers.
    pub connections_told: usize,
    /// Bytes of the body of one request that wait to be read; then the connection is read no further.
    /// Counted in buffers of 16 KiB, of which a part holds one however few bytes it has.
    pub stdin_waiting_bytes_max: usize,
    /// Bytes of answers that wait to be written, of all requests of the connection together; then the
    /// guests wait. Counted in pieces of 32 KiB.
    pub stdout_waiting_bytes_max: usize,
    /// Bytes of a guest's standard error that one request may write.
    pub stderr_bytes_max: usize,
    /// Requests that may be aborted in a second; the connection ends with one more. Each may have begun a
    /// guest, which costs who aborts it nothing.
    pub aborts_per_second_max: u32,
    /// How long it may stand still; `None`: as long as any other connection.
    pub times: Option<Times>,
}

/// How long a connection may stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Between the first byte of a request and the last of its parameters, while no other is under way.
    pub head: Duration,
    /// Within the body of a request that is read.
    pub body: Duration,
    /// Without a request under way.
    pub idle: Duration,
    /// While its other end takes nothing of what waits for it.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 32,
            params: ParamsLimits::default(),
            question_bytes_max: 1024,
            connections_told: 1024,
            stdin_waiting_bytes_max: 128 * 1024,
            stdout_waiting_bytes_max: 512 * 1024,
            stderr_bytes_max: 16 * 1024,
            aborts_per_second_max: 100,
            times: None,
        }
    }
}

/// What a web server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request, with all its parameters.
    Request {
        /// By which it is told from others of the connection until it has ended.
        id: u16,
        /// What is asked.
        role: Role,
        /// What it is about.
        params: Params,
    },
    /// A request whose parameters are not taken: it is to be answered and ended like any other.
    Bad {
        /// The request.
        id: u16,
        /// Why.
        reason: BadParams,
    },
    /// Bytes of the body of a request.
    Stdin {
        /// The request.
        id: u16,
        /// At least one.
        bytes: Bytes,
    },
    /// The body has ended.
    StdinEnd {
        /// The request.
        id: u16,
    },
    /// Nobody waits for the answer any more; the request is to be ended as soon as it can be.
    Abort {
        /// The request.
        id: u16,
    },
    /// To be written before anything else is read, so that who asks without end waits for himself.
    Reply(Bytes),
}

/// Why a connection cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// It is no FastCGI, or of a version that nobody has.
    #[error("a record of version {0}: the peer does not speak FastCGI 1.0")]
    Version(u8),
    /// A record of a request with the id of the connection itself.
    #[error("a record of a request has the id 0")]
    NoId,
    /// A record has a length that its kind cannot have.
    #[error("a record is shorter or longer than its kind can be")]
    Length,
    /// A request begins that has begun.
    #[error("a request begins a second time")]
    Twice,
    /// Parameters after their end, or a body before that or after its own.
    #[error("a record comes out of turn")]
    Order,
}

/// How a request ended, for the web server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It was carried out.
    Complete,
    /// There is no room for it.
    Overloaded,
    /// Nobody has this role here.
    UnknownRole,
}

impl Status {
    const fn byte(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Overloaded => 2,
            Self::UnknownRole => 3,
        }
    }
}

/// Writes bytes of an answer, head or body, to `out`; nothing for none.
pub fn put_stdout(out: &mut BytesMut, id: u16, bytes: &[u8]) {
    record::put_stream(out, Kind::Stdout, id, bytes);
}

/// Writes bytes for the log of the web server; nothing for none.
pub fn put_stderr(out: &mut BytesMut, id: u16, bytes: &[u8]) {
    record::put_stream(out, Kind::Stderr, id, bytes);
}

/// Writes the end of a request, and of its answer: `app_status` is 0 unless something went wrong after
/// the head of the answer had left.
pub fn put_end(out: &mut BytesMut, id: u16, status: Status, app_status: u32) {
    put_stdout_end(out, id);
    put_end_request(out, id, status, app_status);
}

/// Writes the end of an answer whose request has not ended.
fn put_stdout_end(out: &mut BytesMut, id: u16) {
    record::put(out, Kind::Stdout, id, &[]);
}

/// Writes what is no record of any version, in place of the end of an answer that broke off: the
/// connection is of no use any more, and every web server sees that.
fn put_break(out: &mut BytesMut) {
    out.extend_from_slice(&[0; record::HEAD_BYTES]);
}

fn put_end_request(out: &mut BytesMut, id: u16, status: Status, app_status: u32) {
    let [a, b, c, d] = app_status.to_be_bytes();
    let body = [a, b, c, d, status.byte(), 0, 0, 0];
    record::put(out, Kind::EndRequest, id, &body);
}
