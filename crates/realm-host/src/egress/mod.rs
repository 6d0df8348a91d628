//! Outbound http: what a guest may reach, checked twice.
//!
//! First the rules of `allowed_outbound`, against the name that the guest wrote; then every
//! address that this name resolves to, against the ranges that are open. The address that was
//! checked is the one that is dialled, so a name cannot change its mind in between. TCP, UDP and
//! name look-ups are not granted at all.

mod ranges;
mod send;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::uri::{Scheme, Uri};
use realm_model::grants::OutboundRule;
use realm_model::text::one_line;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode as ErrorCodeP2;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode as ErrorCodeP3;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

pub(crate) use ranges::Ranges;

use crate::component::Settings;
use crate::logs::{LogSink, say};
use crate::meter::Meter;

/// Connections that one instance may have open: a page of parallel calls, not a flood.
const CONNECTIONS_MAX: u32 = 32;
/// Name look-ups of one component at once. Each takes a thread until the system's resolver gives
/// up, even when nobody waits for it any more.
const LOOKUPS_MAX: usize = 16;
/// Bytes of an outgoing body (responses included) that are copied out of a guest at once, and of
/// which two pieces may wait: what a slow reader can make the host hold.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Characters of a denied host in the log: a name of the DNS has 253 at most, but a guest may ask
/// for 64 KiB.
const HOST_CHARS_MAX: usize = 256;

/// What one component may reach.
pub(crate) struct Policy {
    rules: Vec<OutboundRule>,
    ranges: Arc<Ranges>,
    lookups: Arc<Semaphore>,
    meter: Arc<Meter>,
    log: Arc<dyn LogSink>,
}

/// The hooks of one instance.
pub(crate) struct Egress {
    policy: Arc<Policy>,
    slot: u32,
    connections: Arc<AtomicU32>,
}

/// One of the connections of an instance.
struct Connection(Arc<AtomicU32>);

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    tls: bool,
    /// A name in lower case without a trailing dot, or an address without brackets.
    host: String,
    port: u16,
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl Egress {
    pub(crate) fn new(policy: Arc<Policy>, slot: u32) -> Self {
        Self {
            policy,
            slot,
            connections: Arc::new(AtomicU32::new(0)),
        }
    }

    fn admit(&self, uri: &Uri) -> Result<(Target, Connection), Error> {
        let target = Target::of(uri).ok_or(Error::HttpRequestUriInvalid)?;
        if !self.policy.rules.iter().any(|rule| target.matches(rule)) {
            self.policy
                .deny(self.slot, &target, "no rule of `allowed_outbound` names it");
            return Err(Error::HttpRequestDenied);
        }
        let connection = Connection(Arc::clone(&self.connections));
        if connection.0.fetch_add(1, Relaxed) >= CONNECTIONS_MAX {
            return Err(Error::ConnectionLimitReached);
        }
        Ok((target, connection))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Policy {
    pub(crate) fn new(settings: &Settings, ranges: Arc<Ranges>) -> Self {
        Self {
            rules: settings.grants.allowed_outbound.clone(),
            ranges,
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            meter: Arc::clone(&settings.meter),
            log: Arc::clone(&settings.log),
        }
    }

    /// Tells the component's owner what to grant, and counts.
    fn deny(&self, slot: u32, target: &Target, why: &str) {
        self.meter.outbound_denied();
        let scheme = target.scheme();
        let host = one_line(&target.host, HOST_CHARS_MAX);
        let port = target.port;
        let words = format_args!("outbound-denied: {scheme}://{host}:{port}: {why}");
        say(&*self.log, slot, words);
    }
}

impl Target {
    /// `None`: not http(s), no host, or a host that hides another (`https://trusted@evil`).
    fn of(uri: &Uri) -> Option<Self> {
        let tls = match uri.scheme()? {
            scheme if *scheme == Scheme::HTTPS => true,
            scheme if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or_else(|| host.strip_suffix('.').unwrap_or(host));
        // A port that is not a number has no `port_u16`, but does have a `port`.
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str().ends_with(authority.host()) => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return None,
        };
        (!host.is_empty()).then(|| Self {
            tls,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    const fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    fn matches(&self, rule: &OutboundRule) -> bool {
        rule.matches(self.scheme(), &self.host, self.port)
    }
}

impl WasiHttpHooks for Egress {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _received: Io,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io), Error>> + Send> {
        let admitted = self.admit(request.uri());
        let policy = Arc::clone(&self.policy);
        let slot = self.slot;
        Box::new(async move {
            let (target, connection) = admitted?;
            let options = options.unwrap_or_default();
            let sent = send::send(&policy, &target, request, options).await;
            if matches!(sent, Err(Error::DestinationIpProhibited)) {
                policy.deny(
                    slot,
                    &target,
                    "no open address; see `guests.private_ranges` in node.toml",
                );
            }
            let (response, io) = sent?;
            // The place is taken as long as the connection lives.
            let io: Io = Box::new(async move {
                let ended = io.await;
                drop(connection);
                ended
            });
            Ok((response, io))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }

    // The defaults of these write a warning into realm's own log for each failure, which a guest
    // can cause as often as it likes.

    fn p2_error_from_hyper(&mut self, _: &hyper::Error) -> ErrorCodeP2 {
        ErrorCodeP2::HttpProtocolError
    }

    fn p2_error_from_connect(&mut self, error: &std::io::Error) -> ErrorCodeP2 {
        if error.kind() == std::io::ErrorKind::ConnectionRefused {
            return ErrorCodeP2::ConnectionRefused;
        }
        ErrorCodeP2::DestinationUnavailable
    }

    fn p2_error_from_tls(&mut self, _: &std::io::Error) -> ErrorCodeP2 {
        ErrorCodeP2::TlsProtocolError
    }

    fn p3_error_from_hyper(&mut self, _: &hyper::Error) -> ErrorCodeP3 {
        ErrorCodeP3::HttpProtocolError
    }

    fn p3_error_from_connect(&mut self, error: &std::io::Error) -> ErrorCodeP3 {
        if error.kind() == std::io::ErrorKind::ConnectionRefused {
            return ErrorCodeP3::ConnectionRefused;
        }
        ErrorCodeP3::DestinationUnavailable
    }

    fn p3_error_from_tls(&mut self, _: &std::io::Error) -> ErrorCodeP3 {
        ErrorCodeP3::TlsProtocolError
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realm_model::grants::{OutboundHost, PortRange};

    fn rule(scheme: Option<&str>, host: OutboundHost, first: u16, last: u16) -> OutboundRule {
        OutboundRule {
            scheme: scheme.map(str::to_owned),
            host,
            ports: PortRange { first, last },
        }
    }

    #[track_caller]
    fn check(rule: &OutboundRule, uri: &str, expected: bool) {
        let target = Target::of(&uri.parse().unwrap());
        assert_eq!(
            target.is_some_and(|target| target.matches(rule)),
            expected,
            "{uri}"
        );
    }

    #[test]
    fn a_name_is_that_name_only() {
        let rule = rule(
            Some("https"),
            OutboundHost::Name("api.example.com".into()),
            443,
            443,
        );
        check(&rule, "https://api.example.com/", true);
        check(&rule, "https://API.example.com./", true);
        check(&rule, "https://api.example.com:443/", true);
        check(&rule, "http://api.example.com/", false);
        check(&rule, "https://api.example.com:444/", false);
        check(&rule, "https://example.com/", false);
        check(&rule, "https://api.example.com.evil.net/", false);
        check(&rule, "https://api.example.com@evil.net/", false);
        check(&rule, "https://evil.net@api.example.com/", false);
    }

    #[test]
    fn a_wildcard_covers_what_is_below() {
        let rule = rule(None, OutboundHost::Below("example.com".into()), 1, 65_535);
        check(&rule, "http://a.example.com/", true);
        check(&rule, "https://a.b.example.com:8443/", true);
        check(&rule, "http://example.com/", false);
        check(&rule, "http://.example.com/", false);
        check(&rule, "http://evilexample.com/", false);
    }

    #[test]
    fn a_block_covers_literals_only() {
        let ten = OutboundHost::Block {
            address: [10, 0, 0, 0].into(),
            prefix: 8,
        };
        let rule = rule(None, ten, 80, 80);
        check(&rule, "http://10.1.2.3/", true);
        check(&rule, "http://[::ffff:10.1.2.3]/", true);
        check(&rule, "http://11.1.2.3/", false);
        check(&rule, "http://ten.example.com/", false);
    }

    #[test]
    fn what_is_not_http_has_no_target() {
        for uri in ["ftp://a/", "/relative", "http://a:99999/", "http://a:/"] {
            let target = uri.parse().ok().and_then(|uri| Target::of(&uri));
            assert_eq!(target, None, "{uri}");
        }
    }
}
