//! Requests that the host sends for a guest: where they go, and the hooks of `wasmtime_wasi_http`.
//!
//! Redirects are not followed: the guest sees them, and where it follows one that request is
//! checked like any other. Not here: connections (`send`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::uri::{Scheme, Uri};
use realm_model::grants::OutboundRule;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode as ErrorCodeP2;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode as ErrorCodeP3;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::{Egress, send};
use crate::state::State;

/// Requests that one instance may have in flight: a page of parallel calls, not a flood. One more
/// is refused at once: were it to wait, a guest could wait for itself.
const REQUESTS_MAX: u32 = 32;
/// Bytes of an outgoing body (responses included) that are copied out of a guest at once, and of
/// which two pieces may wait: what a slow reader can make the host hold.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// One of the requests of an instance.
pub(super) struct Request(Arc<AtomicU32>);

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) tls: bool,
    /// A name in lower case without a trailing dot, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl Egress {
    fn admit(&mut self, uri: &Uri) -> Result<(Target, Request), Error> {
        let target = Target::of(uri).ok_or(Error::HttpRequestUriInvalid)?;
        let policy = &self.policy;
        if !policy.is_free() && !policy.rules.iter().any(|rule| target.matches(rule)) {
            policy.deny_unruled(self.slot, target.scheme(), &target.host, target.port);
            return Err(Error::HttpRequestDenied);
        }
        let request = Request(Arc::clone(self.requests.get_or_insert_default()));
        if request.0.fetch_add(1, Relaxed) >= REQUESTS_MAX {
            return Err(Error::ConnectionLimitReached);
        }
        Ok((target, request))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
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

    pub(super) const fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// `HOST` or `HOST:PORT`, as a request names it.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    pub(super) fn matches(&self, rule: &OutboundRule) -> bool {
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
            let (target, place) = admitted?;
            let options = options.unwrap_or_default();
            let sent = send::send(&policy, slot, &target, request, options, place);
            let (response, io) = sent.await?;
            Ok((response, Box::new(io) as Io))
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

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCodeP2 {
        p2_code_of_hyper(error)
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

    fn p3_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCodeP3 {
        if error.is_parse_too_large() {
            return ErrorCodeP3::HttpResponseHeaderSectionSize(None);
        }
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

fn p2_code_of_hyper(error: &hyper::Error) -> ErrorCodeP2 {
    if error.is_parse_too_large() {
        return ErrorCodeP2::HttpResponseHeaderSectionSize(None);
    }
    ErrorCodeP2::HttpProtocolError
}

/// Puts a `http-error-code` in the place of wasmtime's, which looks for codes in what its streams do not
/// fail with (48.0.8): why a body ended early was nothing that a guest could learn.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance("wasi:http/types@0.2.12")?.func_wrap(
        "http-error-code",
        |mut store, (error,)| {
            let error: Resource<wasmtime::Error> = error;
            let error = store.data_mut().network().table.get(&error)?;
            Ok((error.downcast_ref::<Error>().map(code_of_body),))
        },
    )
}

/// Why a body ended early. What else there is ends none.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "an enum of another crate, which grows"
)]
fn code_of_body(error: &Error) -> ErrorCodeP2 {
    match error {
        Error::Hyper(error) => p2_code_of_hyper(error),
        Error::ConnectionReadTimeout => ErrorCodeP2::ConnectionReadTimeout,
        Error::ConnectionTerminated => ErrorCodeP2::ConnectionTerminated,
        Error::HttpRequestBodySize(size) => ErrorCodeP2::HttpRequestBodySize(*size),
        Error::HttpResponseBodySize(size) => ErrorCodeP2::HttpResponseBodySize(*size),
        Error::HttpResponseTrailerSectionSize(size) => {
            ErrorCodeP2::HttpResponseTrailerSectionSize(*size)
        }
        other => ErrorCodeP2::InternalError(Some(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use realm_model::grants::{OutboundHost, PortRange};

    use super::*;
    use crate::config::Reach;

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
    #[test]
    fn one_instance_has_so_many_requests_in_flight() {
        let policy = crate::egress::doors::tests::policy(Reach::Public, &["https://a"]);
        let mut egress = Egress::new(policy, 0);
        let uri: Uri = "https://a/".parse().unwrap();
        let mut held: Vec<_> = (0..REQUESTS_MAX).map(|_| egress.admit(&uri).ok()).collect();
        assert!(held.iter().all(Option::is_some));
        let refused =
            |egress: &mut Egress| matches!(egress.admit(&uri), Err(Error::ConnectionLimitReached));
        assert!(refused(&mut egress) && refused(&mut egress));
        held.pop();
        assert!(egress.admit(&uri).is_ok());
    }
}
