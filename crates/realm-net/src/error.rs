//! Why something did not reach a peer.

/// What a peer said instead of taking a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many streams or requests at once, or too fast.
    #[error("it is busy")]
    Busy,
    /// Its agent decided against it.
    #[error("it does not take this stream")]
    Declined,
    /// A number that this version does not know.
    #[error("it refused with the unknown code {0}")]
    Other(u8),
}

impl Refusal {
    /// The number on the wire; 0 means "accepted" and belongs to none.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Busy => 1,
            Self::Declined => 2,
            Self::Other(code) => code,
        }
    }

    pub(crate) const fn of(code: u8) -> Self {
        match code {
            1 => Self::Busy,
            2 => Self::Declined,
            other => Self::Other(other),
        }
    }
}

/// Why a call of the network failed. Nothing here is a bug of the caller: networks fail.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network of this process has ended, or was started anew while the call was under way.
    #[error("the network of this agent was stopped or restarted")]
    Stopped,
    /// No address of the peer is known, or it is not a member.
    #[error("no way to this peer is known")]
    Unknown,
    /// No connection could be made.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The peer does not offer this to us: another version, or it does not know our key.
    #[error("the peer does not offer this to us")]
    Unsupported,
    /// The peer said no.
    #[error("the peer refused: {0}")]
    Refused(Refusal),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// More than one message may have.
    #[error("a message of {size} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// Too many calls wait already.
    #[error("too many calls wait for the network")]
    Overloaded,
    /// A text is not an address.
    #[error("`{0}` is not an address such as `/ip4/192.0.2.1/udp/4433/quic-v1`")]
    Address(String),
    /// A realm id that does not fit into a protocol name.
    #[error("`{0}` cannot be part of a protocol name")]
    Realm(String),
    /// The transports could not be made.
    #[error("the network could not be set up: {0}")]
    Setup(String),
}
