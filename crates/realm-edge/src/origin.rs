//! Where a request is meant to go and whence it came: the host and scheme that the client asked
//! for, and the headers that tell a guest so.
//!
//! The host comes from an absolute target or `:authority`, else from `Host`; a trusted proxy may
//! say that its client asked for another one.

use std::net::IpAddr;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Uri, Version};

use crate::connection::{Connection, KnownHost};
use crate::forwarded::{self, Chain, Scheme};
use crate::gate::Client;
use crate::headers::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, strip_forwarded};
use crate::host::route_key;
use crate::refusal::Refusal;

/// The host, the scheme and the way of a request.
pub(crate) struct Origin {
    host: KnownHost,
    scheme: Scheme,
    /// Who asks, as far as it can be believed.
    client: IpAddr,
    /// Who it may be, where two accounts of its way differ.
    either: Option<[IpAddr; 2]>,
    forwarded_for: HeaderValue,
    forwarded: HeaderValue,
}

/// Reads the origin of a request, and removes the client's own tale of it.
pub(crate) fn origin(
    connection: &Connection,
    parts: &mut Parts,
    trusted_proxies: &[IpAddr],
) -> Result<Origin, Refusal> {
    check_target(&parts.uri)?;
    let host = requested_host(connection, parts)?;
    let (mut chain, other) = match connection.is_trusted {
        true => (
            forwarded::read(&parts.headers),
            forwarded::read_other(&parts.headers),
        ),
        false => (Chain::default(), None),
    };
    strip_forwarded(&mut parts.headers);
    let is_trusted = |address| trusted_proxies.contains(&address);
    let client = chain.client(connection.peer, is_trusted);
    // A proxy that writes one of them passes on what a client says in the other, and which it is that it
    // writes is not known: neither is believed.
    let other = other.map(|other| other.client(connection.peer, is_trusted));
    let either = other.filter(|other| *other != client);
    let either = either.map(|other| [client, other]);
    let client = either.map_or(client, |_| connection.peer);
    if chain.hops.is_empty() {
        return Ok(Origin {
            scheme: connection.scheme,
            client,
            either,
            forwarded_for: connection.peer_value.clone(),
            forwarded: host.forwarded.clone(),
            host,
        });
    }
    chain.forget_tales(is_trusted);
    let asked = chain.asked(is_trusted);
    let received = host.value.to_str().expect("a checked host is ASCII");
    let forwarded = chain.forwarded(connection.peer, connection.scheme, received);
    let value = |text: String| HeaderValue::try_from(text).expect("a checked chain is ASCII");
    Ok(Origin {
        scheme: asked.scheme.unwrap_or(connection.scheme),
        client,
        either,
        forwarded_for: value(chain.x_forwarded_for(connection.peer)),
        forwarded: value(forwarded),
        host: match asked.host {
            Some(asked) => {
                known_host(connection, &HeaderValue::from_str(asked).expect("as above"))?
            }
            None => host,
        },
    })
}

impl Origin {
    /// Whether the client asked over plain HTTP.
    pub(crate) fn is_plain(&self) -> bool {
        self.scheme == Scheme::Http
    }

    /// The host as it was asked for, without a port.
    pub(crate) fn host(&self) -> &str {
        self.host.authority.host()
    }

    /// The host as routes match it.
    pub(crate) fn route_key(&self) -> &str {
        &self.host.key
    }

    /// Who asks for what, for those that are asked whether it may.
    pub(crate) fn client(&self) -> Client {
        Client {
            address: self.client,
            either: self.either,
            host: self.host.key.clone(),
        }
    }

    /// The absolute URI: path and query as they were sent.
    pub(crate) fn uri(&self, target: Uri) -> Result<Uri, Refusal> {
        let path = match target.into_parts().path_and_query {
            Some(path) if path.as_str().starts_with('/') => path,
            // `http://host?query` has an empty path, which is `/` (RFC 9110 §4.2.3).
            Some(path) => PathAndQuery::try_from(format!("/{}", path.as_str()))
                .map_err(|error| Refusal::bad_path(error.to_string()))?,
            None => PathAndQuery::from_static("/"),
        };
        let scheme = match self.scheme {
            Scheme::Http => http::uri::Scheme::HTTP,
            Scheme::Https => http::uri::Scheme::HTTPS,
        };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(self.host.authority.clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).map_err(|error| Refusal::bad_path(error.to_string()))
    }

    /// Writes the headers that a guest may believe.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert(X_FORWARDED_FOR, self.forwarded_for);
        headers.insert(
            X_FORWARDED_PROTO,
            HeaderValue::from_static(self.scheme.as_str()),
        );
        headers.insert(X_FORWARDED_HOST, self.host.value.clone());
        headers.insert(FORWARDED, self.forwarded);
        headers.insert(HOST, self.host.value);
    }
}

/// Origin form, absolute form with a scheme that is spoken here, or `*`.
fn check_target(uri: &Uri) -> Result<(), Refusal> {
    match (uri.scheme_str(), uri.authority()) {
        (None, Some(_)) => Err(Refusal::bad_path("the target is no path")),
        (Some("http" | "https") | None, _) => Ok(()),
        (Some(_), _) => Err(Refusal::bad_path("the scheme is neither http nor https")),
    }
}

fn requested_host(connection: &Connection, parts: &Parts) -> Result<KnownHost, Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Refusal::bad_host("there is more than one `Host` header"));
    }
    let authority = parts.uri.authority();
    match (host, authority) {
        (None, None) if parts.version < Version::HTTP_11 => {
            let local =
                HeaderValue::try_from(connection.local.to_string()).expect("an address is ASCII");
            known_host(connection, &local)
        }
        (None, _) if parts.version == Version::HTTP_11 => {
            Err(Refusal::bad_host("there is no `Host` header"))
        }
        (None, None) => Err(Refusal::bad_host("there is no `:authority`")),
        (Some(host), None) => known_host(connection, host),
        (host, Some(authority)) => {
            if let Some(host) = host
                && parts.version == Version::HTTP_2
                && !host
                    .as_bytes()
                    .eq_ignore_ascii_case(authority.as_str().as_bytes())
            {
                return Err(Refusal::bad_host("`Host` and `:authority` differ"));
            }
            // In HTTP/1.1 the target wins over `Host` (RFC 9112 §3.2.2), which must be sound.
            if let Some(host) = host {
                known_host(connection, host)?;
            }
            let value = HeaderValue::from_str(authority.as_str())
                .map_err(|_| Refusal::bad_host("the host is no text"))?;
            known_host(connection, &value)
        }
    }
}

/// Checks a host, or finds it checked: the first one of a connection is remembered.
fn known_host(connection: &Connection, value: &HeaderValue) -> Result<KnownHost, Refusal> {
    if let Some(known) = connection.host.get()
        && known.value.as_bytes() == value.as_bytes()
    {
        return Ok(known.clone());
    }
    let text = value
        .to_str()
        .map_err(|_| Refusal::bad_host("the host is no text"))?;
    let key = route_key(text).map_err(|error| Refusal::bad_host(error.to_string()))?;
    let authority =
        Authority::try_from(text).map_err(|_| Refusal::bad_host("the host is no authority"))?;
    let forwarded = Chain::default().forwarded(connection.peer, connection.scheme, text);
    let known = KnownHost {
        value: value.clone(),
        key: key.into(),
        authority,
        forwarded: HeaderValue::try_from(forwarded).expect("a checked host is ASCII"),
    };
    // The first one stays: a client that alternates hosts pays for its own checks.
    let _ = connection.host.set(known.clone());
    Ok(known)
}
