//! What the network tells: closed lists, and nothing that must be kept in order across peers.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use libp2p::PeerId;
use libp2p::gossipsub::MessageId;
use libp2p::request_response::{InboundRequestId, ResponseChannel};
use realm_model::key::PublicKey;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::class::{Class, Protocol, Topic};
use crate::codec::Answer;
use crate::stream::Incoming;

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Directly, QUIC (TLS 1.3).
    Quic,
    /// Directly, TCP (Noise).
    Tcp,
    /// Through another member, which sees only ciphertext.
    Relay {
        /// That member, where it is known.
        via: Option<PublicKey>,
    },
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A member or client is connected; told again when the best way to it changes.
    Up {
        /// Its key.
        peer: PublicKey,
        /// What it is to us.
        class: Class,
        /// The best way.
        how: How,
        /// Its address on that way.
        address: String,
    },
    /// The last connection to a member or client is gone.
    Down {
        /// Its key.
        peer: PublicKey,
        /// Why.
        reason: DownReason,
    },
    /// A hint, signed by its author. Without a verdict within five seconds it goes no further.
    Hint(Hint),
    /// A member asks something.
    Request {
        /// Who.
        from: PublicKey,
        /// At most 256 KiB.
        bytes: Vec<u8>,
        /// Takes the answer; dropped, the peer hears "busy".
        reply: Reply,
    },
    /// A peer wants to open a stream; its class allows the protocol.
    Stream {
        /// Who.
        from: PublicKey,
        /// What it is to us.
        class: Class,
        /// Its address on this connection.
        address: String,
        /// What for.
        protocol: Protocol,
        /// Accept or refuse it; dropped, it is declined.
        incoming: Incoming,
    },
    /// This node can be reached at an address.
    Listening {
        /// The address, without the key.
        address: String,
    },
    /// This node can be reached at an address no more.
    Expired {
        /// The address, without the key.
        address: String,
    },
    /// An address cannot be listened on; it is tried again for ever.
    ListenFailed {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// Addresses of a key were found by multicast or look-up. Nothing about them is proven.
    Found {
        /// The key, as claimed.
        peer: PublicKey,
        /// At most eight.
        addresses: Vec<String>,
    },
    /// Whether this node can be reached from outside, as members say.
    Reachability {
        /// True behind a NAT.
        behind_nat: bool,
    },
    /// The network panicked and was started anew: all peers are down, and come back.
    Restarted {
        /// What the panic said.
        cause: String,
    },
}

/// Why a peer is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownReason {
    /// It, or the system, closed the connection.
    Closed,
    /// It gave no sign of life for six seconds.
    NoAnswer,
    /// Its class changed.
    ClassChanged,
    /// It came back as another process on the same key, or our streams to it were stale.
    Stale,
    /// The network of this process was started anew.
    Restarted,
    /// The connection failed.
    Failed(String),
}

/// A hint: bytes that a neighbour wrote or passed on; whom they speak for, they say themselves.
#[derive(Debug)]
pub struct Hint {
    /// Who sent it here; a member.
    pub via: PublicKey,
    /// What it is about.
    pub topic: Topic,
    /// At most 64 KiB.
    pub bytes: Vec<u8>,
    pub(crate) id: HintId,
    /// Room in the queue, given back when the hint is dropped.
    pub(crate) _room: OwnedSemaphorePermit,
}

impl Hint {
    /// What [`crate::Transport::verdict`] takes; the hint itself may be dropped before.
    pub fn id(&self) -> HintId {
        self.id.clone()
    }
}

/// Names one hint until its verdict.
#[derive(Debug, Clone)]
pub struct HintId {
    pub(crate) message: MessageId,
    pub(crate) via: PeerId,
}

/// What becomes of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is good: pass it on.
    Accept,
    /// It is not for us, or too old: go no further, blame nobody.
    Ignore,
    /// It is wrong, and whoever passed it on could have known: blame the neighbour.
    Reject,
}

/// An answer on its way to the loop.
pub(crate) struct Answered {
    pub(crate) request: InboundRequestId,
    pub(crate) channel: ResponseChannel<Answer>,
    pub(crate) answer: Answer,
}

/// Takes the answer of one request.
pub struct Reply {
    pub(crate) request: InboundRequestId,
    pub(crate) channel: Option<ResponseChannel<Answer>>,
    pub(crate) answers: mpsc::UnboundedSender<Answered>,
    pub(crate) _room: OwnedSemaphorePermit,
}

impl Reply {
    /// Sends the answer, at most 18 MiB; a longer one, or one too many, becomes "busy".
    pub fn send(mut self, bytes: Vec<u8>) {
        self.end(Answer::Body(bytes));
    }

    fn end(&mut self, answer: Answer) {
        if let Some(channel) = self.channel.take() {
            let request = self.request;
            let _ = self.answers.send(Answered {
                request,
                channel,
                answer,
            });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.end(Answer::Busy);
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// A peer as a status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Its key.
    pub peer: PublicKey,
    /// What it is to us.
    pub class: Class,
    /// How it is reached; none when it is not.
    pub how: Option<How>,
    /// Its address on that way.
    pub address: Option<String>,
    /// Whether this node made the connection.
    pub dialled: bool,
    /// Round trip of the last ping.
    pub rtt_us: Option<u64>,
    /// Age of the oldest connection.
    pub up_ms: u64,
    /// Connections to it.
    pub connections: usize,
    /// Whether hints flow to it.
    pub hints: bool,
    /// Whether this node keeps up a connection to it by itself.
    pub wanted: bool,
    /// Why it is not reached directly, or not at all.
    pub why: Option<String>,
}

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts since the start of the process.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Figures {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Figures {
            /// Each count with its name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Figures {
                Figures { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

figures! {
    /// Connections that were not taken: denied, or broken in their handshake.
    connections_denied,
    /// Dials that failed.
    dials_failed,
    /// Streams that were refused.
    streams_refused,
    /// Requests that were refused.
    requests_refused,
    /// Hints handed to the agent.
    hints_taken,
    /// Hints dropped: too many, too fast, or of no member.
    hints_dropped,
    /// Hints that were called wrong.
    hints_rejected,
    /// Connections cut since no hints flowed over them.
    cuts,
    /// Peers that gave no sign of life.
    peers_lost,
    /// Restarts of the network after a panic.
    restarts,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
