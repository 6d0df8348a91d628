//! The frames of request and response: bytes up to the end of the sender's half of the stream.
//!
//! The first byte of a response says whether there is one. Nothing is believed about a size: a body
//! is read as it comes, and ends the exchange when it is too long.

use std::io;

use futures_util::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::StreamProtocol;
use libp2p::request_response;

/// Largest request: a list of what is known already.
pub(crate) const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Largest response: two entries of the largest size (8 MiB), which prove a fork, and what stands around them.
pub(crate) const RESPONSE_BYTES_MAX: usize = 18 * 1024 * 1024;

/// What comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Body(Vec<u8>),
    Busy,
}

#[derive(Clone, Default)]
pub(crate) struct Codec;

async fn read_all(io: &mut (impl AsyncRead + Unpin + Send), max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.take(max as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more bytes than allowed",
        ));
    }
    Ok(bytes)
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Answer;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read_all(io, REQUEST_BYTES_MAX).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Answer> {
        let mut kind = [0];
        io.read_exact(&mut kind).await?;
        match kind[0] {
            0 => Ok(Answer::Body(read_all(io, RESPONSE_BYTES_MAX).await?)),
            1 => Ok(Answer::Busy),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "unknown kind of answer",
            )),
        }
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&request).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: Answer,
    ) -> io::Result<()> {
        match answer {
            Answer::Body(bytes) => {
                io.write_all(&[0]).await?;
                io.write_all(&bytes).await
            }
            Answer::Busy => io.write_all(&[1]).await,
        }
    }
}
