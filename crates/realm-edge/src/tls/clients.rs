//! Certificates of clients: who vouches for them, and what guests are told.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ProtocolVersion, RootCertStore, ServerConnection};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::{CertificateError, chain_of, provider};
use super::{TlsError, names};

const PROTOCOL: HeaderName = HeaderName::from_static("x-realm-ssl-protocol");
const CIPHER: HeaderName = HeaderName::from_static("x-realm-ssl-cipher");
const SNI: HeaderName = HeaderName::from_static("x-realm-ssl-tls-sni");
const VERIFY: HeaderName = HeaderName::from_static("x-realm-ssl-client-verify");
const SUBJECT: HeaderName = HeaderName::from_static("x-realm-ssl-client-s-dn");
const ISSUER: HeaderName = HeaderName::from_static("x-realm-ssl-client-i-dn");
const SERIAL: HeaderName = HeaderName::from_static("x-realm-ssl-client-m-serial");

/// Who may come: certificates that one of these authorities vouches for.
#[derive(Debug, Clone)]
pub struct Clients {
    roots: Arc<RootCertStore>,
    /// Whether a client without a certificate comes in.
    optional: bool,
}

impl Clients {
    /// Reads the certificates of the authorities. `optional`: who has no certificate comes in too, and
    /// guests are told so; a certificate that nobody vouches for is refused all the same.
    ///
    /// # Errors
    ///
    /// No certificate, or one that is broken.
    pub fn from_pem(authorities: &[u8], optional: bool) -> Result<Self, CertificateError> {
        let mut roots = RootCertStore::empty();
        for certificate in chain_of(authorities)? {
            roots
                .add(certificate)
                .map_err(|_| CertificateError::Malformed)?;
        }
        Ok(Self {
            roots: Arc::new(roots),
            optional,
        })
    }

    pub(super) fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider());
        let builder = match self.optional {
            true => builder.allow_unauthenticated(),
            false => builder,
        };
        builder
            .build()
            .map(|built| built as Arc<_>)
            .map_err(TlsError::Clients)
    }
}

/// What guests are told of a handshake, in headers that a client cannot send itself. `asks`: whether
/// certificates of clients were asked for.
pub(super) fn told(session: &ServerConnection, asks: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let protocol = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    headers.insert(PROTOCOL, HeaderValue::from_static(protocol));
    let suite = session.negotiated_cipher_suite();
    if let Some(name) = suite.and_then(|suite| suite.suite().as_str()) {
        // As OpenSSL writes those of TLS 1.3.
        let name = name.strip_prefix("TLS13_").map_or_else(
            || HeaderValue::from_static(name),
            |rest| HeaderValue::try_from(format!("TLS_{rest}")).expect("a suite's name is ASCII"),
        );
        headers.insert(CIPHER, name);
    }
    if let Some(Ok(name)) = session.server_name().map(HeaderValue::from_str) {
        headers.insert(SNI, name);
    }
    if asks {
        let first = session.peer_certificates().and_then(<[_]>::first);
        match first.and_then(client) {
            Some(client) => headers.extend(client),
            None => {
                headers.insert(VERIFY, HeaderValue::from_static("NONE"));
            }
        }
    }
    headers
}

/// What is told of a client's certificate, which was checked; `None`: not all of it can be told, and so it
/// is told as none.
fn client(certificate: &CertificateDer<'_>) -> Option<[(HeaderName, HeaderValue); 4]> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = names::text(certificate.subject())?;
    let issuer = names::text(certificate.issuer())?;
    let mut serial = String::new();
    names::hex(&mut serial, certificate.raw_serial(), "");
    Some([
        (VERIFY, HeaderValue::from_static("SUCCESS")),
        (SUBJECT, HeaderValue::try_from(subject).ok()?),
        (ISSUER, HeaderValue::try_from(issuer).ok()?),
        (SERIAL, HeaderValue::try_from(serial).ok()?),
    ])
}
