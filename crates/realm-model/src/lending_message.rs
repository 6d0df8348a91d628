//! What two nodes say to each other while one lends messages of its queue to the other: bytes and values.
//! Not who may, and not when.
//!
//! The *lender* is where messages were sent; they stay in its queue until the *borrower*, where a replica
//! of the group runs, says that they are dealt with. One stream is about one group. Each is a kind (1 byte)
//! and what belongs to it; numbers are little-endian, texts and bytes have their length before them (4
//! bytes). A message is as [`crate::cloud::Message::to_bytes`] writes it.

use std::fmt;

use crate::cloud::limits::{MESSAGE_BYTES_MAX, METADATA_BYTES_MAX};
use crate::cloud::rest::{Rest, put};

/// Bytes of one of them: a message with all that is beside its data, which takes less than 8 KiB more.
pub const BYTES_MAX: usize = MESSAGE_BYTES_MAX + METADATA_BYTES_MAX + 8 * 1024;

/// What the lender says.
#[derive(Clone, PartialEq, Eq)]
pub enum ToBorrower {
    /// First of all: which group this stream is about.
    Offer {
        /// The name of the binding.
        binding: String,
        /// The topic that the group is subscribed to.
        topic: String,
        /// The name of the group.
        group: String,
    },
    /// Whether anything waits that may be taken.
    Waits(bool),
    /// A message that was asked for.
    Given {
        /// Which one, and which delivery of it.
        which: Lent,
        /// The first is 1.
        attempt: u32,
        /// The message.
        body: Vec<u8>,
    },
    /// So many that were asked for are not there.
    Nothing(u32),
    /// How it went with what was said of a message.
    Settled {
        /// The number of [`ToLender::Settle`].
        ticket: u64,
        /// What came of it.
        came: Came,
    },
    /// A request, which is for now.
    Asked {
        /// Its number on this stream.
        number: u64,
        /// Milliseconds until nobody waits any more.
        timeout_ms: u32,
        /// Replies that are waited for.
        n_replies: u32,
        /// The request.
        body: Vec<u8>,
    },
}

/// What the borrower says.
#[derive(Clone, PartialEq, Eq)]
pub enum ToLender {
    /// The group has a member here.
    Ready,
    /// It has none, or this node knows no such group.
    NotHere,
    /// So many messages can be worked on at once.
    Take(u32),
    /// How it went with a message, or that it still goes.
    Settle {
        /// Its number on this stream, for the answer.
        ticket: u64,
        /// Which message.
        which: Lent,
        /// How it went.
        how: How,
    },
    /// A reply to a request.
    Reply {
        /// The number of the request.
        number: u64,
        /// The reply.
        body: Vec<u8>,
    },
}

/// One delivery of one message. What is said of it is good on any later stream about the same group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lent {
    /// The number of the message in the lender's queue.
    pub message: u64,
    /// The number of the delivery.
    pub delivery: u64,
}

/// How it went with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It is dealt with.
    Done,
    /// To be delivered again after a while, or dead.
    Retry {
        /// Milliseconds.
        after_ms: u64,
        /// What it came to.
        why: String,
    },
    /// Back to the queue.
    Return {
        /// Nobody looked at it: that was no delivery.
        untouched: bool,
    },
    /// It is still worked on.
    Extend,
}

/// What came of a word about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It is so.
    Well,
    /// The message is dead.
    Dead,
    /// The queue could not do it, or knows no such delivery.
    Failed,
}

const OFFER: u8 = 0;
const WAITS: u8 = 1;
const GIVEN: u8 = 2;
const NOTHING: u8 = 3;
const SETTLED: u8 = 4;
const ASKED: u8 = 5;

const READY: u8 = 0;
const NOT_HERE: u8 = 1;
const TAKE: u8 = 2;
const SETTLE: u8 = 3;
const REPLY: u8 = 4;

const DONE: u8 = 0;
const RETRY: u8 = 1;
const RETURN: u8 = 2;
const EXTEND: u8 = 3;

impl ToBorrower {
    /// Reads one; `None`: it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        let said = match rest.byte()? {
            OFFER => Self::Offer {
                binding: rest.text()?,
                topic: rest.text()?,
                group: rest.text()?,
            },
            WAITS => Self::Waits(rest.flag()?),
            GIVEN => Self::Given {
                which: Lent::read(&mut rest)?,
                attempt: rest.u32()?,
                body: rest.bytes()?.to_vec(),
            },
            NOTHING => Self::Nothing(rest.u32()?),
            SETTLED => Self::Settled {
                ticket: rest.u64()?,
                came: match rest.byte()? {
                    0 => Came::Well,
                    1 => Came::Dead,
                    2 => Came::Failed,
                    _ => return None,
                },
            },
            ASKED => Self::Asked {
                number: rest.u64()?,
                timeout_ms: rest.u32()?,
                n_replies: rest.u32()?,
                body: rest.bytes()?.to_vec(),
            },
            _ => return None,
        };
        rest.0.is_empty().then_some(said)
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Offer {
                binding,
                topic,
                group,
            } => {
                let mut bytes = vec![OFFER];
                for text in [binding, topic, group] {
                    put(&mut bytes, text.as_bytes());
                }
                bytes
            }
            Self::Waits(waits) => vec![WAITS, u8::from(*waits)],
            Self::Given {
                which,
                attempt,
                body,
            } => {
                let mut bytes = begun(GIVEN, body.len());
                which.write(&mut bytes);
                bytes.extend(attempt.to_le_bytes());
                put(&mut bytes, body);
                bytes
            }
            Self::Nothing(n) => with_u32(NOTHING, *n),
            Self::Settled { ticket, came } => {
                let mut bytes = vec![SETTLED];
                bytes.extend(ticket.to_le_bytes());
                bytes.push(match came {
                    Came::Well => 0,
                    Came::Dead => 1,
                    Came::Failed => 2,
                });
                bytes
            }
            Self::Asked {
                number,
                timeout_ms,
                n_replies,
                body,
            } => {
                let mut bytes = begun(ASKED, body.len());
                bytes.extend(number.to_le_bytes());
                bytes.extend(timeout_ms.to_le_bytes());
                bytes.extend(n_replies.to_le_bytes());
                put(&mut bytes, body);
                bytes
            }
        }
    }
}

impl ToLender {
    /// Reads one; `None`: it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        let said = match rest.byte()? {
            READY => Self::Ready,
            NOT_HERE => Self::NotHere,
            TAKE => Self::Take(rest.u32()?),
            SETTLE => Self::Settle {
                ticket: rest.u64()?,
                which: Lent::read(&mut rest)?,
                how: match rest.byte()? {
                    DONE => How::Done,
                    RETRY => How::Retry {
                        after_ms: rest.u64()?,
                        why: rest.text()?,
                    },
                    RETURN => How::Return {
                        untouched: rest.flag()?,
                    },
                    EXTEND => How::Extend,
                    _ => return None,
                },
            },
            REPLY => Self::Reply {
                number: rest.u64()?,
                body: rest.bytes()?.to_vec(),
            },
            _ => return None,
        };
        rest.0.is_empty().then_some(said)
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ready => vec![READY],
            Self::NotHere => vec![NOT_HERE],
            Self::Take(n) => with_u32(TAKE, *n),
            Self::Settle { ticket, which, how } => {
                let mut bytes = vec![SETTLE];
                bytes.extend(ticket.to_le_bytes());
                which.write(&mut bytes);
                match how {
                    How::Done => bytes.push(DONE),
                    How::Retry { after_ms, why } => {
                        bytes.push(RETRY);
                        bytes.extend(after_ms.to_le_bytes());
                        put(&mut bytes, why.as_bytes());
                    }
                    How::Return { untouched } => bytes.extend([RETURN, u8::from(*untouched)]),
                    How::Extend => bytes.push(EXTEND),
                }
                bytes
            }
            Self::Reply { number, body } => {
                let mut bytes = begun(REPLY, body.len());
                bytes.extend(number.to_le_bytes());
                put(&mut bytes, body);
                bytes
            }
        }
    }
}

impl Lent {
    fn read(rest: &mut Rest<'_>) -> Option<Self> {
        Some(Self {
            message: rest.u64()?,
            delivery: rest.u64()?,
        })
    }

    fn write(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.message.to_le_bytes());
        bytes.extend(self.delivery.to_le_bytes());
    }
}

fn begun(kind: u8, n_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(n_bytes + 32);
    bytes.push(kind);
    bytes
}

fn with_u32(kind: u8, n: u32) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(n.to_le_bytes());
    bytes
}

// What guests say to each other is nobody's to read in a log.
impl fmt::Debug for ToBorrower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offer { .. } => "Offer",
            Self::Waits(_) => "Waits",
            Self::Given { .. } => "Given",
            Self::Nothing(_) => "Nothing",
            Self::Settled { .. } => "Settled",
            Self::Asked { .. } => "Asked",
        })
    }
}

impl fmt::Debug for ToLender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "Ready",
            Self::NotHere => "NotHere",
            Self::Take(_) => "Take",
            Self::Settle { .. } => "Settle",
            Self::Reply { .. } => "Reply",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cloud::{Message, limits};

    const WHICH: Lent = Lent {
        message: 7,
        delivery: u64::MAX,
    };

    fn to_borrower() -> Vec<ToBorrower> {
        let came = [Came::Well, Came::Dead, Came::Failed];
        let settled = came.map(|came| ToBorrower::Settled { ticket: 3, came });
        let others = [
            ToBorrower::Offer {
                binding: "shop/orders".to_owned(),
                topic: "orders.>".to_owned(),
                group: "packer".to_owned(),
            },
            ToBorrower::Waits(true),
            ToBorrower::Waits(false),
            ToBorrower::Given {
                which: WHICH,
                attempt: 2,
                body: b"message".to_vec(),
            },
            ToBorrower::Nothing(4),
            ToBorrower::Asked {
                number: 9,
                timeout_ms: 10_000,
                n_replies: 1,
                body: b"request".to_vec(),
            },
        ];
        others.into_iter().chain(settled).collect()
    }

    fn to_lender() -> Vec<ToLender> {
        let hows = [
            How::Done,
            How::Retry {
                after_ms: 1_000,
                why: "größer".to_owned(),
            },
            How::Return { untouched: true },
            How::Return { untouched: false },
            How::Extend,
        ];
        let settle = hows.map(|how| ToLender::Settle {
            ticket: 5,
            which: WHICH,
            how,
        });
        let others = [
            ToLender::Ready,
            ToLender::NotHere,
            ToLender::Take(16),
            ToLender::Reply {
                number: 9,
                body: b"reply".to_vec(),
            },
        ];
        others.into_iter().chain(settle).collect()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_shorter_or_longer() {
        for said in to_borrower() {
            let bytes = said.to_bytes();
            assert!(
                ToBorrower::from_bytes(&bytes) == Some(said.clone()),
                "{said:?}"
            );
            for n in 0..bytes.len() {
                assert!(
                    ToBorrower::from_bytes(&bytes[..n]).is_none(),
                    "{said:?} {n}"
                );
            }
            assert!(ToBorrower::from_bytes(&[bytes, vec![0]].concat()).is_none());
        }
        for said in to_lender() {
            let bytes = said.to_bytes();
            assert!(
                ToLender::from_bytes(&bytes) == Some(said.clone()),
                "{said:?}"
            );
            for n in 0..bytes.len() {
                assert!(ToLender::from_bytes(&bytes[..n]).is_none(), "{said:?} {n}");
            }
            assert!(ToLender::from_bytes(&[bytes, vec![0]].concat()).is_none());
        }
    }

    #[test]
    fn version_1_stays_as_it_is() {
        let borrower = to_borrower().into_iter().map(|said| said.to_bytes());
        let lender = to_lender().into_iter().map(|said| said.to_bytes());
        let lines = borrower.chain(lender).map(|bytes| {
            let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
            hex.collect::<String>() + "\n"
        });
        let expected = include_str!("../tests/fixtures/lending-version-1.txt");
        assert_eq!(lines.collect::<String>(), expected);
    }

    #[test]
    fn the_largest_message_fits() {
        let message = Message {
            topic: Some("x".repeat(limits::NAME_BYTES_MAX)),
            content_type: Some("x".repeat(limits::NAME_BYTES_MAX)),
            data: vec![0; limits::MESSAGE_BYTES_MAX],
            metadata: vec![("k".repeat(limits::METADATA_BYTES_MAX), String::new()); 1]
                .into_iter()
                .chain((1..limits::METADATA_PAIRS_MAX).map(|_| (String::new(), String::new())))
                .collect(),
            reply_to: None,
        };
        let given = ToBorrower::Given {
            which: WHICH,
            attempt: 1,
            body: message.to_bytes(),
        };
        assert!(given.to_bytes().len() <= BYTES_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_are_one_of_them_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..8) {
            let bytes = [vec![kind], bytes].concat();
            if let Some(said) = ToBorrower::from_bytes(&bytes) {
                prop_assert_eq!(said.to_bytes(), bytes.clone());
            }
            if let Some(said) = ToLender::from_bytes(&bytes) {
                prop_assert_eq!(said.to_bytes(), bytes.clone());
            }
            if let Some(message) = Message::from_bytes(&bytes) {
                prop_assert!(Message::from_bytes(&message.to_bytes()) == Some(message));
            }
        }
    }
}
