//! HTTPS: what the edge shows and asks for in a handshake, and what guests are told of it.
//!
//! TLS 1.2 and 1.3 by rustls, with its defaults: forward secrecy and authenticated ciphers alone, no
//! renegotiation, no compression, no early data. Where certificates come from is for the caller, who
//! may change them at any time: see [`Identity`].

mod accept;
mod certificate;
mod clients;
mod handshakes;
mod identity;
mod names;

use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use accept::{Accepted, accept};
pub use certificate::{Certificate, CertificateError, Validity};
pub use clients::Clients;
pub(crate) use handshakes::Handshakes;
pub use identity::{Challenge, Identity};

/// HTTPS of an edge.
#[derive(Debug, Clone)]
pub struct Https {
    /// Addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// What is shown and asked for.
    pub identity: Identity,
    /// The port that requests over plain HTTP are sent to, instead of being answered; 0: that of the
    /// first address; `None`: they are answered.
    pub redirect: Option<u16>,
    /// How long browsers shall ask for nothing but HTTPS (RFC 6797); `None`: they are not told.
    pub hsts: Option<Duration>,
    /// Its limits.
    pub limits: TlsLimits,
}

/// Limits of handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsLimits {
    /// From the connection to the end of the handshake, the header of the PROXY protocol included.
    pub handshake_timeout: Duration,
    /// Handshakes under way at once; for one more, the one that began first ends.
    pub handshakes_max: usize,
}

/// Two round trips, of a client on a bad line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A thousand clients with a round trip of 100 ms finish 5,000 handshakes in a second, which is more than
/// most machines can sign.
const HANDSHAKES_MAX: usize = 1_024;

impl Default for TlsLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: HANDSHAKE_TIMEOUT,
            handshakes_max: HANDSHAKES_MAX,
        }
    }
}

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refuses a setting.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// Certificates of authorities that vouch for clients do not do.
    #[error("the certificates that clients are checked with do not do")]
    Clients(#[source] rustls::server::VerifierBuilderError),
}
