//! What HTTPS means for requests: plain ones are sent over to it, browsers are told to stay with it, and
//! an authority that looks whether a host leads here gets its proof.
//!
//! Not the handshake, which is `tls`'s.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    STRICT_TRANSPORT_SECURITY,
};
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri};

use crate::answer::Edge;
use crate::connection::Connection;
use crate::observe::MethodClass;
use crate::origin::Origin;
use crate::refusal::Refusal;
use crate::response_body::{Record, Reply};
use crate::tls::{Handshakes, Https, Identity, TlsLimits};

/// Where an authority asks for proof (RFC 8555 §8.3).
const PROOFS: &str = "/.well-known/acme-challenge/";
/// The port that no URL needs to say.
const USUAL_PORT: u16 = 443;

/// HTTPS as connections and requests need it.
pub(crate) struct Front {
    pub(crate) identity: Identity,
    pub(crate) handshakes: Handshakes,
    pub(crate) limits: TlsLimits,
    redirect: Option<u16>,
    strictness: Option<HeaderValue>,
}

impl Front {
    /// HTTPS that is listened for at `addresses`.
    pub(crate) fn new(https: &Https, addresses: &[SocketAddr]) -> Self {
        let first = addresses.first().map_or(USUAL_PORT, SocketAddr::port);
        let strictness = https.hsts.map(|age| {
            let text = format!("max-age={}", age.as_secs());
            HeaderValue::try_from(text).expect("digits are ASCII")
        });
        Self {
            identity: https.identity.clone(),
            handshakes: Handshakes::new(https.limits.handshakes_max),
            limits: https.limits,
            redirect: https
                .redirect
                .map(|port| if port == 0 { first } else { port }),
            strictness,
        }
    }
}

impl Edge {
    /// Tells a browser that came over HTTPS to stay with it, unless the guest said something of its own
    /// (RFC 6797 §7.2: never over plain HTTP).
    pub(crate) fn tell_strictness(&self, connection: &Connection, headers: &mut HeaderMap) {
        let told = self
            .https
            .as_ref()
            .and_then(|front| front.strictness.as_ref());
        if let Some(told) = told
            && connection.is_tls()
            && !headers.contains_key(STRICT_TRANSPORT_SECURITY)
        {
            headers.insert(STRICT_TRANSPORT_SECURITY, told.clone());
        }
    }

    /// The proof that an authority asks for, if there is one. What else stands under that path is for
    /// the routes.
    pub(crate) fn proof(&self, origin: &Origin, parts: &Parts) -> Option<String> {
        let front = self.https.as_ref()?;
        let token = parts.uri.path().strip_prefix(PROOFS)?;
        match parts.method {
            Method::GET | Method::HEAD => front.identity.http_answer(origin.route_key(), token),
            _ => None,
        }
    }

    /// Where a plain request is to be asked instead; `None`: it is answered here. One whose client came
    /// over HTTPS to who is in front is not plain, nor is what a web server brings by FastCGI: there the
    /// server decides.
    pub(crate) fn elsewhere(
        &self,
        connection: &Connection,
        origin: &Origin,
        target: &Uri,
    ) -> Result<Option<HeaderValue>, Refusal> {
        let port = self.https.as_ref().and_then(|front| front.redirect);
        let Some(port) = port.filter(|_| origin.is_plain() && !connection.is_behind()) else {
            return Ok(None);
        };
        let path = match target.path_and_query() {
            Some(path) if path.as_str().starts_with('/') => path.as_str().to_owned(),
            Some(path) => format!("/{}", path.as_str()),
            None => "/".to_owned(),
        };
        let host = origin.host();
        let location = match port {
            USUAL_PORT => format!("https://{host}{path}"),
            port => format!("https://{host}:{port}{path}"),
        };
        let location = HeaderValue::try_from(location);
        location
            .map(Some)
            .map_err(|_| Refusal::bad_path("the target is no text"))
    }
}

/// Sends a client there, with the same method and body (RFC 9110 §15.4.9).
pub(crate) fn moved(location: HeaderValue, record: Record) -> Response<Reply> {
    let text = Bytes::from_static(b"ask over HTTPS\n");
    answer(
        StatusCode::PERMANENT_REDIRECT,
        (LOCATION, location),
        text,
        record,
    )
}

/// Shows an authority that the host leads here.
pub(crate) fn proof(proof: String, record: Record) -> Response<Reply> {
    let uncached = (CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer(StatusCode::OK, uncached, proof.into(), record)
}

fn answer(
    status: StatusCode,
    (name, value): (HeaderName, HeaderValue),
    text: Bytes,
    mut record: Record,
) -> Response<Reply> {
    record.status = Some(status);
    let length = text.len();
    let is_head = record.method == MethodClass::Head;
    let mut response = Response::new(match is_head {
        true => Reply::nothing(record),
        false => Reply::whole(text, record),
    });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(name, value);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}
