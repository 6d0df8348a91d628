//! One handshake: from a socket to HTTP over TLS, or to what its client is told instead.
//!
//! Not how long it may take: that is the caller's.

use std::io;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Identity, clients};
use crate::wire::Wire;

/// Most clients begin with less: one read for all of it.
const HELLO_BYTES: usize = 2 * 1024;
/// What a handshake begins with (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 0x16;

/// What became of it.
pub(crate) enum Accepted {
    /// A client over TLS.
    Client {
        stream: Box<TlsStream<Wire>>,
        is_http2: bool,
        /// What guests are told.
        told: HeaderMap,
    },
    /// A client that speaks HTTP without TLS.
    Plain(Wire),
    /// An authority that has seen what it looked for, or somebody who tells its protocol.
    Challenged,
}

/// Runs it.
pub(crate) async fn accept(identity: &Identity, wire: Wire) -> io::Result<Accepted> {
    let (mut tcp, mut ahead) = wire.into_parts();
    if ahead.is_empty() {
        let mut start = BytesMut::with_capacity(HELLO_BYTES);
        if tcp.read_buf(&mut start).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        ahead = start.freeze();
    }
    let is_plain = speaks_http(&ahead);
    let wire = Wire::with_ahead(tcp, ahead);
    if is_plain {
        return Ok(Accepted::Plain(wire));
    }
    let start = LazyConfigAcceptor::new(Acceptor::default(), wire).await?;
    let asking = identity.for_client(&start.client_hello());
    let asking = asking.ok_or_else(|| io::Error::other("who may come in is not known"))?;
    let stream = start.into_stream(asking.config.clone()).await?;
    let session = stream.get_ref().1;
    let is_http2 = match session.alpn_protocol() {
        Some(b"h2") => true,
        Some(b"http/1.1") | None => false,
        Some(_) => return Ok(Accepted::Challenged),
    };
    let told = clients::told(session, asking.clients);
    Ok(Accepted::Client {
        stream: Box::new(stream),
        is_http2,
        told,
    })
}

/// Whether somebody begins as requests do: with a method, of which a letter is here already.
fn speaks_http(start: &Bytes) -> bool {
    start[0] != HANDSHAKE_RECORD && start[0].is_ascii_alphabetic()
}
