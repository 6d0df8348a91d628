//! What is known of one connection while it lives: who is there, what is in flight, since when
//! nothing moves. The socket writes it, the sweep reads it.
//!
//! Not the protocol: hyper speaks that. Times are nanoseconds since the connection's start,
//! plus one, so that zero means "not so".

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};

use crate::config::EdgeLimits;
use crate::fastcgi::Times;
use crate::forwarded::Scheme;
use crate::websocket::Switching;
use crate::wire::Stream;

/// Whom a peer counts as, where that is limited: an IPv6 client is its /64, and who is on this machine is
/// not limited.
pub(crate) fn client_of(peer: IpAddr) -> Option<IpAddr> {
    const NETWORK: u128 = !(u64::MAX as u128);
    match peer.to_canonical() {
        peer if peer.is_loopback() => None,
        peer @ IpAddr::V4(_) => Some(peer),
        IpAddr::V6(address) => Some(IpAddr::from((address.to_bits() & NETWORK).to_be_bytes())),
    }
}

/// Those that share a limit of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    /// The clients of one address.
    Address(IpAddr),
    /// The web servers.
    WebServers,
}

/// One client connection.
pub(crate) struct Connection {
    pub(crate) peer: IpAddr,
    pub(crate) local: SocketAddr,
    pub(crate) scheme: Scheme,
    /// The peer as `X-Forwarded-For` says it, made once.
    pub(crate) peer_value: HeaderValue,
    pub(crate) is_trusted: bool,
    /// What a web server in front vouches for; `None`: the client itself is connected.
    vouched: Option<HeaderMap>,
    /// How long it may stand still, where that is not what the limits say.
    times: Option<Times>,
    /// Whether a web server is connected, and not its clients.
    is_web_server: bool,
    /// What a handshake of TLS showed, for guests; without one there is none.
    tls: OnceLock<HeaderMap>,
    /// The host of the first request: nearly all others name the same one.
    pub(crate) host: OnceLock<KnownHost>,
    started: Instant,
    is_http2: AtomicBool,
    in_flight: AtomicU32,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    write_blocked_since: AtomicU64,
    drained_since: AtomicU64,
    /// Whether bytes that the service answered with may still wait to be written.
    has_output: AtomicBool,
    /// What follows is a WebSocket's: hyper has nothing more to say.
    is_switched: AtomicBool,
    ending: AtomicU8,
    /// What the client still sends is not its component's fault.
    is_excused: AtomicBool,
    order: AtomicU8,
    waker: AtomicWaker,
    returned: Mutex<Option<Stream>>,
    /// What becomes of it after its last answer.
    switching: Mutex<Option<Switching>>,
}

/// A host that was checked, with what is made of it.
#[derive(Debug, Clone)]
pub(crate) struct KnownHost {
    pub(crate) value: HeaderValue,
    pub(crate) key: Box<str>,
    pub(crate) authority: Authority,
    pub(crate) forwarded: HeaderValue,
}

/// What a connection is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    Serve = 0,
    /// Finish what is in flight, take nothing new.
    Drain = 1,
    /// End at once where nothing is in flight, else as `Drain`: another client needs the place.
    Evict = 2,
    /// End at once.
    Cut = 3,
}

/// How the socket is closed when hyper is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ending {
    Close = 0,
    /// Read what the client still sends for a moment: closing a socket with unread bytes resets
    /// it, and the reset can overtake the answer.
    Linger = 1,
    /// Reset: the only way to show an HTTP/1.0 client that a body without length is cut short.
    Reset = 2,
}

impl Connection {
    pub(crate) fn new(
        peer: SocketAddr,
        local: SocketAddr,
        is_trusted: impl Fn(IpAddr) -> bool,
    ) -> Self {
        // A client on a dual-stack socket is the IPv4 client that it is.
        let peer = peer.ip().to_canonical();
        Self {
            peer,
            local,
            scheme: Scheme::Http,
            peer_value: HeaderValue::from_str(&peer.to_string()).expect("an address is ASCII"),
            is_trusted: is_trusted(peer),
            vouched: None,
            times: None,
            is_web_server: false,
            tls: OnceLock::new(),
            host: OnceLock::new(),
            started: Instant::now(),
            is_http2: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            write_blocked_since: AtomicU64::new(0),
            drained_since: AtomicU64::new(0),
            has_output: AtomicBool::new(false),
            is_switched: AtomicBool::new(false),
            ending: AtomicU8::new(Ending::Close as u8),
            is_excused: AtomicBool::new(false),
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
            returned: Mutex::new(None),
            switching: Mutex::new(None),
        }
    }

    /// The same connection, on a listener of this scheme.
    pub(crate) fn on(self, scheme: Scheme) -> Self {
        Self { scheme, ..self }
    }

    /// The same connection, with times of its own.
    pub(crate) fn within(self, times: Option<Times>) -> Self {
        Self { times, ..self }
    }

    /// The connection of a web server.
    pub(crate) fn of_web_server(self) -> Self {
        Self {
            is_web_server: true,
            ..self
        }
    }

    /// The longest pause within the body of a request.
    pub(crate) fn body_pause_max(&self, limits: &EdgeLimits) -> Duration {
        let times = self.times.as_ref();
        times.map_or(limits.body_read_timeout, |times| times.body)
    }

    /// A handshake of TLS is done, which showed this to guests.
    pub(crate) fn shook_hands(&self, told: HeaderMap) {
        let _ = self.tls.set(told);
    }

    /// Whether its bytes are encrypted on their way here.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.get().is_some()
    }

    /// One request of a client that is connected with a web server in front.
    pub(crate) fn behind(
        client: IpAddr,
        scheme: Scheme,
        vouched: HeaderMap,
        is_trusted: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let none = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            scheme,
            vouched: Some(vouched),
            ..Self::new(SocketAddr::new(client, 0), none, is_trusted)
        }
    }

    /// Whether a web server is in front.
    pub(crate) const fn is_behind(&self) -> bool {
        self.vouched.is_some()
    }

    /// Adds what a web server vouches for, or a handshake showed.
    pub(crate) fn vouch(&self, headers: &mut HeaderMap) {
        let told = self.vouched.iter().chain(self.tls.get());
        for (name, value) in told.flatten() {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// A request's head was read.
    pub(crate) fn begin_request(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// A request's response ended.
    pub(crate) fn end_request(&self) {
        if self.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.idle_since.store(self.now(), Relaxed);
        }
    }

    /// The service gave hyper something to send.
    pub(crate) fn mark_output(&self) {
        self.has_output.store(true, Relaxed);
    }

    /// Whether the client may see where its requests go: it is on this machine, or a proxy of it.
    pub(crate) fn may_trace(&self) -> bool {
        self.is_trusted || self.peer.is_loopback()
    }

    /// Asks for a way to close; a reset outranks lingering.
    pub(crate) fn end_with(&self, ending: Ending) {
        self.ending.fetch_max(ending as u8, Relaxed);
    }

    pub(crate) fn ending(&self) -> Ending {
        match self.ending.load(Relaxed) {
            0 => Ending::Close,
            1 => Ending::Linger,
            _ => Ending::Reset,
        }
    }

    /// The last request was refused for no fault of its component's: the rest of it is not held against that.
    pub(crate) fn excuse(&self) {
        self.is_excused.store(true, Relaxed);
    }

    pub(crate) fn is_excused(&self) -> bool {
        self.is_excused.load(Relaxed)
    }

    /// The client speaks HTTP/2.
    pub(crate) fn mark_http2(&self) {
        self.is_http2.store(true, Relaxed);
    }

    pub(crate) fn speaks_http2(&self) -> bool {
        self.is_http2.load(Relaxed)
    }

    /// The socket read bytes.
    pub(crate) fn saw_read(&self) {
        if self.in_flight.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    /// What was read has its end, and is no request: there is nothing to do.
    pub(crate) fn saw_no_request(&self) {
        if self.head_since.swap(0, Relaxed) != 0 {
            self.idle_since.store(self.now(), Relaxed);
        }
    }

    pub(crate) fn saw_write(&self, is_blocked: bool) {
        match (is_blocked, self.write_blocked_since.load(Relaxed)) {
            (true, 0) => self.write_blocked_since.store(self.now(), Relaxed),
            (true, _) | (false, 0) => {}
            (false, _) => self.write_blocked_since.store(0, Relaxed),
        }
    }

    /// All output is on its way.
    pub(crate) fn saw_flush(&self) {
        self.has_output.store(false, Relaxed);
    }

    /// Whether bytes to be written can only be hyper's own.
    pub(crate) fn is_hypers_output(&self) -> bool {
        !self.has_output.load(Relaxed) && !self.speaks_http2() && !self.is_switched.load(Relaxed)
    }

    pub(crate) fn give_order(&self, order: Order) {
        if order != Order::Serve && self.drained_since.load(Relaxed) == 0 {
            self.drained_since.store(self.now(), Relaxed);
        }
        if self.order.fetch_max(order as u8, Relaxed) < order as u8 {
            self.waker.wake();
        }
    }

    /// The order; the task that asks is woken by the next one.
    pub(crate) fn poll_order(&self, context: &std::task::Context<'_>) -> Order {
        // Registered before the look: an order in between wakes the task.
        self.waker.register(context.waker());
        match self.order.load(Relaxed) {
            0 => Order::Serve,
            1 => Order::Drain,
            2 => Order::Evict,
            _ => Order::Cut,
        }
    }

    /// Requests under way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Whether there is an order to obey.
    pub(crate) fn is_to_end(&self) -> bool {
        self.order.load(Relaxed) != Order::Serve as u8
    }

    /// Since when there is nothing to do; `None` while there is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let is_busy =
            self.in_flight.load(Relaxed) != 0 || self.write_blocked_since.load(Relaxed) != 0;
        let nanos = self.idle_since.load(Relaxed).saturating_sub(1);
        (!is_busy).then(|| self.started + Duration::from_nanos(nanos))
    }

    /// Whom the connection counts for, where that is limited: an IPv6 client is its /64, which is
    /// what providers give to one of them. Proxies speak for many, and loopback is this machine.
    pub(crate) fn counted_for(&self) -> Option<IpAddr> {
        client_of(self.peer).filter(|_| !self.is_trusted)
    }

    /// With which others it shares a limit.
    pub(crate) fn group(&self) -> Option<Group> {
        match self.is_web_server {
            true => Some(Group::WebServers),
            false => self.counted_for().map(Group::Address),
        }
    }

    /// What the limits demand of the connection as it is.
    pub(crate) fn verdict(&self, limits: &EdgeLimits) -> Order {
        let now = self.now();
        let is_over = |since: &AtomicU64, limit: Duration| {
            let since = since.load(Relaxed);
            since != 0 && u128::from(now.saturating_sub(since)) >= limit.as_nanos()
        };
        let Times {
            head, idle, stall, ..
        } = self.times.unwrap_or(Times {
            head: limits.header_read_timeout,
            body: limits.body_read_timeout,
            idle: limits.idle_timeout,
            stall: limits.write_stall_timeout,
        });
        let is_idle = self.in_flight.load(Relaxed) == 0;
        let is_writing = self.write_blocked_since.load(Relaxed) != 0;
        if is_over(&self.write_blocked_since, stall) {
            return Order::Cut;
        }
        // Both: HTTP/2 frames may wait for the client's window after the last response ended here.
        let is_lingering = is_over(&self.drained_since, limits.drain_linger)
            && is_over(&self.idle_since, limits.drain_linger);
        if is_idle && !is_writing && is_lingering {
            return Order::Cut;
        }
        let is_slow_head = is_over(&self.head_since, head);
        if is_idle && is_slow_head && !self.speaks_http2() {
            return Order::Cut;
        }
        if is_idle && is_over(&self.idle_since, idle) {
            return Order::Drain;
        }
        Order::Serve
    }

    /// Takes the socket back from hyper.
    pub(crate) fn return_socket(&self, socket: Stream) {
        if let Ok(mut returned) = self.returned.lock() {
            *returned = Some(socket);
        }
    }

    /// The answer that is on its way is the last one: what follows are bytes of a WebSocket.
    pub(crate) fn switch(&self, to: Switching) {
        self.is_switched.store(true, Relaxed);
        if let Ok(mut switching) = self.switching.lock() {
            *switching = Some(to);
        }
    }

    pub(crate) fn take_switching(&self) -> Option<Switching> {
        self.switching.lock().ok()?.take()
    }

    pub(crate) fn take_socket(&self) -> Option<Stream> {
        self.returned.lock().ok()?.take()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).map_or(u64::MAX, |nanos| nanos + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_a_dual_stack_socket_is_the_ipv4_client_that_it_is() {
        let peer = "[::ffff:192.0.2.7]:99".parse().expect("an address");
        let local = "[::]:80".parse().expect("an address");
        let trusted: IpAddr = "192.0.2.7".parse().expect("an address");
        let connection = Connection::new(peer, local, |address| address == trusted);
        assert_eq!(connection.peer_value, "192.0.2.7");
        assert!(connection.is_trusted);
    }

    #[test]
    fn the_stronger_order_and_ending_stay() {
        let address = "127.0.0.1:1".parse().expect("an address");
        let connection = Connection::new(address, address, |_| false);
        let context = std::task::Context::from_waker(std::task::Waker::noop());
        for (given, expected) in [
            (Order::Serve, Order::Serve),
            (Order::Drain, Order::Drain),
            (Order::Serve, Order::Drain),
            (Order::Evict, Order::Evict),
            (Order::Drain, Order::Evict),
            (Order::Cut, Order::Cut),
            (Order::Drain, Order::Cut),
        ] {
            connection.give_order(given);
            assert_eq!(connection.poll_order(&context), expected, "{given:?}");
        }
        for (asked, expected) in [
            (Ending::Linger, Ending::Linger),
            (Ending::Reset, Ending::Reset),
            (Ending::Linger, Ending::Reset),
        ] {
            connection.end_with(asked);
            assert_eq!(connection.ending(), expected, "{asked:?}");
        }
    }
}
