//! One exchange of the join protocol: a stream, a request, an answer.

use std::time::Duration;

use realm_model::join::{ANSWER_BYTES_MAX, Answer, MessageError, REQUEST_BYTES_MAX, Request};
use realm_model::key::PublicKey;
use realm_net::{Handle, Protocol, Stream, Transport as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A whole exchange; a page of entries over a slow line takes some seconds.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// An exchange did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The stream could not be opened.
    #[error("failed to reach the join protocol")]
    Open(#[source] realm_net::Error),
    /// The stream broke.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// The other side said something else.
    #[error("the answer is not understood")]
    Message(#[from] MessageError),
    /// It took too long.
    #[error("no answer within {} s", EXCHANGE_TIMEOUT.as_secs())]
    Timeout,
}

/// Asks a peer that is connected.
pub(crate) async fn ask(
    net: &Handle,
    peer: PublicKey,
    request: &Request,
) -> Result<Answer, ExchangeError> {
    let exchange = async {
        let mut stream = net
            .open(peer, Protocol::Join)
            .await
            .map_err(ExchangeError::Open)?;
        stream.write_all(&request.to_bytes()).await?;
        stream.shutdown().await?;
        let mut bytes = Vec::new();
        let limit = ANSWER_BYTES_MAX as u64 + 1;
        (&mut stream).take(limit).read_to_end(&mut bytes).await?;
        Ok(Answer::from_bytes(&bytes)?)
    };
    within(exchange).await
}

/// Reads what a peer asks.
pub(crate) async fn hear(stream: &mut Stream) -> Result<Request, ExchangeError> {
    let reading = async {
        let mut bytes = Vec::new();
        let limit = REQUEST_BYTES_MAX as u64 + 1;
        stream.take(limit).read_to_end(&mut bytes).await?;
        Ok(Request::from_bytes(&bytes)?)
    };
    within(reading).await
}

/// Answers, and ends the stream.
pub(crate) async fn answer(stream: &mut Stream, answer: &Answer) -> Result<(), ExchangeError> {
    let writing = async {
        stream.write_all(&answer.to_bytes()).await?;
        stream.shutdown().await?;
        Ok(())
    };
    within(writing).await
}

async fn within<T>(
    exchange: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, ExchangeError> {
    match tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await {
        Ok(ended) => ended,
        Err(_) => Err(ExchangeError::Timeout),
    }
}

impl ExchangeError {
    /// What is answered to a request that does not read; `None`: nobody is there to hear it.
    pub(crate) fn answer(&self) -> Option<Answer> {
        match self {
            Self::Message(error) => Some(error.to_answer()),
            Self::Open(_) | Self::Io(_) | Self::Timeout => None,
        }
    }
}
