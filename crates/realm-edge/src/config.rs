//! What the edge listens on, whom it trusts, and its limits.
//!
//! Limits of a single component (its concurrency, its request size, its time) are not here: its
//! host enforces them. These protect the process from its clients.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use realm_model::block::Block;

use crate::fastcgi::FastCgi;
use crate::tls::Https;

/// What [`crate::spawn`] needs.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Where web servers bring requests over FastCGI.
    pub fastcgi: FastCgi,
    /// Peers whose `Forwarded` and `X-Forwarded-*` headers are believed. A trusted proxy must set
    /// or drop these headers itself: what it passes on unread is believed as well.
    pub trusted_proxies: Vec<IpAddr>,
    /// HTTPS: its listeners, its certificates, and what else belongs to it.
    pub https: Option<Https>,
    /// Peers that say by the PROXY protocol whose each connection is, and must say so. Who else begins
    /// with its header is refused.
    pub proxy_protocol_from: Vec<Block>,
    /// Bytes of answers that are kept, of all components that want that; 0 keeps none.
    pub cache_bytes_max: usize,
    /// Threads that serve connections; 0 serves them on the runtime that [`crate::spawn`] is
    /// called on.
    pub workers: usize,
    /// The limits.
    pub limits: EdgeLimits,
}

/// Limits on what one client, or all of them, can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeLimits {
    /// Files that the process may have open (`RLIMIT_NOFILE`): lowers `connections_max` so that
    /// clients cannot take them all. `None` lowers nothing.
    pub files_max: Option<u64>,
    /// Connections open at once, over all listeners. One more takes the place of the one that
    /// was idle for longest, or is refused with 503 where all are in use.
    pub connections_max: usize,
    /// The same for one client address (an IPv6 client is its /64); `None` is a quarter of
    /// `connections_max`, but at least 64. Trusted proxies and loopback have no such limit.
    pub connections_per_address_max: Option<usize>,
    /// A connection is not closed for a newcomer before it was idle for this time.
    pub eviction_idle_min: Duration,
    /// Connections the kernel queues before the edge accepts them.
    pub backlog: u32,
    /// From the first byte of a request's head to its last, HTTP/1. A part of a head that came in
    /// one packet with the request before it counts as idle until more comes.
    pub header_read_timeout: Duration,
    /// A connection without a request in flight is closed after this time.
    pub idle_timeout: Duration,
    /// A connection whose client takes no byte of what waits for it is cut after this time; an
    /// HTTP/2 stream whose client leaves no room for the next part of its response is reset.
    pub write_stall_timeout: Duration,
    /// The longest pause of a client within its request body.
    pub body_read_timeout: Duration,
    /// A request that was held back for longer, because other components were to have their turn, is refused.
    pub turn_timeout: Duration,
    /// A connection that was told to finish is cut when it then is idle for this time.
    pub drain_linger: Duration,
    /// Header fields of a request.
    pub header_count_max: usize,
    /// Bytes of a request's head: request line and header fields.
    pub header_bytes_max: usize,
    /// Bytes that HTTP/1 buffers per connection and direction.
    pub buffer_bytes_max: usize,
    /// Bytes of a request body, whatever the component allows.
    pub request_bytes_max: u64,
    /// HTTP/2: requests in flight on one connection.
    pub streams_max: u32,
    /// HTTP/2: bytes that a client may send on one stream before the backend reads them.
    pub stream_window_bytes: u32,
    /// HTTP/2: the same over all streams of a connection.
    pub connection_window_bytes: u32,
    /// HTTP/2: response bytes buffered per stream.
    pub stream_send_buffer_bytes: usize,
    /// HTTP/2: streams reset by the client before the edge took them; then the connection ends.
    pub pending_resets_max: usize,
    /// HTTP/2: streams the edge reset for a client's mistakes; then the connection ends.
    pub error_resets_max: usize,
    /// HTTP/2: a ping after this time without a frame finds dead peers.
    pub ping_interval: Duration,
    /// HTTP/2: the connection ends when the ping has no answer in this time.
    pub ping_timeout: Duration,
}

/// Each idle connection costs about 10 kB here and a socket; 10,000 stay near 100 MB with the
/// kernel's part.
const CONNECTIONS_MAX: usize = 10_000;
/// Files that clients cannot take: listeners, stores, logs, runtimes, outbound calls, connections
/// that are about to close.
const FILES_RESERVE: u64 = 256;
/// Where the reserve is more than that, half of the files are for clients.
const FILES_SHARE_MIN: u64 = 2;
/// Four addresses must work together to fill the edge, and one still serves an office behind NAT.
const ADDRESS_SHARE: usize = 4;
/// A small edge's share would be less than a few browsers open.
const CONNECTIONS_PER_ADDRESS_MIN: usize = 64;
/// A client that just connected has its request on the way: longer than slow round trips.
const EVICTION_IDLE_MIN: Duration = Duration::from_secs(1);
/// The kernel's own cap (`net.core.somaxconn`) is 4,096 on Linux; a burst should wait, not fail.
const BACKLOG: u32 = 4_096;
/// A head fits a few packets; a client on a bad line needs seconds, a slowloris wants minutes.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Above the 60 s at which common load balancers let idle connections go, so that they close
/// first and never send into a closed connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// As common servers do (nginx `send_timeout`): long enough for a phone in a tunnel.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for uploads (nginx `client_body_timeout`).
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Thousands of requests later: who would wait for so long each time had better come again later.
pub(crate) const TURN_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than a few round trips, so that a slow client still gets the end of its last answer.
const DRAIN_LINGER: Duration = Duration::from_secs(5);
/// hyper keeps up to 100 on the stack; browsers send about 20, proxies add about 20.
pub(crate) const HEADER_COUNT_MAX: usize = 100;
/// Headers beside those that a client or a guest may send: what another node wrote.
pub(crate) const HEADERS_MORE: usize = 16;
/// Of an answer from a component or from another node: as many as a guest may make, and those.
pub(crate) const ANSWER_FIELDS_MAX: usize = 256 + HEADERS_MORE;
/// Large cookies reach 8 KiB, common servers take 32 KiB for all fields.
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Twice the largest head: no head is cut by the buffer, and bodies stream through it.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// A backstop above every component's own `max_request_bytes`.
const REQUEST_BYTES_MAX: u64 = 1 << 30;
/// RFC 9113 §6.5.2 asks for at least 100.
const STREAMS_MAX: u32 = 128;
/// Fills 20 Mbit/s at 100 ms round trip; times `STREAMS_MAX` it is capped by the next line.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// What one HTTP/2 client can make the edge hold in unread request bodies.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// A few frames: back-pressure reaches the guest early.
const STREAM_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// h2's own default; the rapid reset attack (CVE-2023-44487) ends after this many.
const PENDING_RESETS_MAX: usize = 20;
/// A tenth of h2's default: a client in good faith makes almost none.
const ERROR_RESETS_MAX: usize = 100;
/// Finds a peer that vanished while its guest runs, well before TCP does.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// hyper's default.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            files_max: None,
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: None,
            eviction_idle_min: EVICTION_IDLE_MIN,
            backlog: BACKLOG,
            header_read_timeout: HEADER_READ_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            write_stall_timeout: WRITE_STALL_TIMEOUT,
            body_read_timeout: BODY_READ_TIMEOUT,
            turn_timeout: TURN_TIMEOUT,
            drain_linger: DRAIN_LINGER,
            header_count_max: HEADER_COUNT_MAX,
            header_bytes_max: HEADER_BYTES_MAX,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            request_bytes_max: REQUEST_BYTES_MAX,
            streams_max: STREAMS_MAX,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            stream_send_buffer_bytes: STREAM_SEND_BUFFER_BYTES,
            pending_resets_max: PENDING_RESETS_MAX,
            error_resets_max: ERROR_RESETS_MAX,
            ping_interval: PING_INTERVAL,
            ping_timeout: PING_TIMEOUT,
        }
    }
}

impl EdgeLimits {
    /// The limits as a process keeps them that may have `files_max` files open.
    pub(crate) fn within(mut self, files_max: Option<u64>) -> Self {
        if let Some(files_max) = files_max {
            let free = files_max.saturating_sub(FILES_RESERVE);
            let most = free.max(files_max / FILES_SHARE_MIN).max(1);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            self.connections_max = self.connections_max.min(most);
        }
        self
    }

    /// The limit per address that is kept.
    pub(crate) fn per_address(&self) -> usize {
        self.connections_per_address_max
            .unwrap_or((self.connections_max / ADDRESS_SHARE).max(CONNECTIONS_PER_ADDRESS_MIN))
            // None at all would shut out everybody.
            .max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_files_for_others() {
        let check = |files_max, expected| {
            let limits = EdgeLimits::default().within(files_max);
            assert_eq!(limits.connections_max, expected, "{files_max:?}");
        };
        check(None, 10_000);
        check(Some(u64::MAX), 10_000);
        check(Some(10_256), 10_000);
        check(Some(10_255), 9_999);
        check(Some(1_024), 768);
        check(Some(512), 256);
        check(Some(256), 128);
        check(Some(0), 1);
    }

    #[test]
    fn an_address_has_a_share_of_what_is_kept() {
        let check = |connections_max, explicit, expected| {
            let limits = EdgeLimits {
                connections_max,
                connections_per_address_max: explicit,
                ..EdgeLimits::default()
            };
            assert_eq!(limits.per_address(), expected, "{connections_max}");
        };
        check(10_000, None, 2_500);
        check(768, None, 192);
        check(100, None, 64);
        check(100, Some(7), 7);
        check(100, Some(0), 1);
    }
}
