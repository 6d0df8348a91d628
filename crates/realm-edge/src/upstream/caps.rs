//! What is taken of a service beside this process, of whatever kind: how long it may take to answer, how
//! much it may say. Not what a component's requests are held to: [`super::UpstreamLimits`].

use std::time::Duration;

/// The caps of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamCaps {
    /// Connections that are kept for the next request.
    pub kept_max: u32,
    /// How long a kept one is: of an application it holds a process, and a server may close it.
    pub kept_age_max: Duration,
    /// How long it may take to take a connection. Who is there answers at once, or is full.
    pub connect_timeout: Duration,
    /// Bytes of the head of an answer: what is kept of it in memory.
    pub head_bytes_max: usize,
    /// Fields of a head.
    pub head_fields_max: usize,
    /// FastCGI: bytes of a request body without a length that are collected, because the application must
    /// be told one first: a large form. What is longer has to come with its length.
    pub collected_bytes_max: u64,
    /// FastCGI: bytes for the log that one request may say: a trace of an error, not a dump.
    pub log_bytes_max: usize,
}

impl UpstreamCaps {
    /// The usual ones, with so many kept connections.
    pub const fn keeping(kept_max: u32) -> Self {
        Self {
            kept_max,
            kept_age_max: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(5),
            head_bytes_max: 64 * 1024,
            head_fields_max: 256,
            collected_bytes_max: 1024 * 1024,
            log_bytes_max: 64 * 1024,
        }
    }
}
