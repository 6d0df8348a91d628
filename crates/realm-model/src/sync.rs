//! What agents say to each other to reach one state: hints that are published, requests, answers.
//!
//! A message is a version byte, a kind byte, and CBOR. Whoever does not know a version or a kind
//! says so ([`Answer::Unknown`]) and goes on; fields it does not know are passed over. Nothing in a
//! message is believed: entries and records carry their own signatures. Format: docs/formats.md.
//! Not here: when something is asked, and what follows from an answer (control).

#[cfg(test)]
mod tests;

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

use crate::beacon::{BEACON_BYTES_MAX, BeaconMark};
use crate::cbor::{decode, encode};
use crate::digest::Digest;
use crate::entry::{ChainId, ENTRY_BYTES_MAX, Head};
use crate::record::{ChainFork, ChainHead, KeyBytes, RECORD_BYTES_MAX, Version, limits};

/// The version that this agent speaks, in the first byte of each message.
pub const WIRE_VERSION: u8 = 1;

/// A larger request is not read: room for the versions of all records of [`KNOWN_MAX`] nodes.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// A larger answer is not read: a page, or one entry of any size, with its frame.
pub const ANSWER_BYTES_MAX: usize = 2 * ENTRY_BYTES_MAX + PAGE_BYTES_MAX;

/// A larger hint is neither published nor read: gossip forwards it many times over. What does not
/// fit is announced by its head alone, and fetched.
pub const HINT_BYTES_MAX: usize = 60 * 1024;

/// Entries or records in one answer, in bytes; at least one of them is sent whatever its size.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Hashes in one answer.
pub const HASHES_MAX: u32 = 1_024;

/// Records whose versions one request names.
pub const KNOWN_MAX: usize = 4_096;

/// Entries in one answer: small ones in a long chain are asked for again.
pub const ENTRIES_MAX: usize = 1_024;

/// Records are compared in this many groups: the first byte of the key modulo this.
pub const BUCKETS: u8 = 64;

/// What one agent has, in little: heads, forks it can prove, and a digest per group of records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Summary {
    /// The last entry of each chain.
    #[n(0)]
    pub heads: Vec<ChainHead>,
    /// Forks that it holds a proof of.
    #[n(1)]
    pub forks: Vec<ChainFork>,
    /// The groups that have records.
    #[n(2)]
    pub buckets: Vec<Bucket>,
    /// The newest beacon. Agents from before there were beacons pass over it.
    #[n(3)]
    pub beacon: Option<BeaconMark>,
}

/// The digest of a group of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Bucket {
    /// Below [`BUCKETS`].
    #[n(0)]
    pub index: u8,
    /// The first 16 bytes of the SHA-256 of the group's keys and versions.
    #[n(1)]
    pub digest: ByteArray<16>,
}

/// The version of a node's record that the asking side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Known {
    /// Whose record.
    #[n(0)]
    pub key: KeyBytes,
    /// Its version.
    #[n(1)]
    pub version: Version,
}

/// Something published to all; at most [`HINT_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// A node's chains have these last entries, or forked, or many records of others are new there.
    /// It is not passed on: who fetched what it announces announces that itself.
    Heads {
        /// Which node says so: two of them never publish the same bytes.
        by: KeyBytes,
        /// The last entry of each chain.
        heads: Vec<ChainHead>,
        /// Forks that can be proven.
        forks: Vec<ChainFork>,
        /// SHA-256 of the digests of its groups of records, if many of them changed: whose own is
        /// another asks.
        records: Option<Digest>,
    },
    /// A node's newest record.
    Record(Vec<u8>),
    /// A new entry.
    Entry {
        /// Its chain and its place, by the sender's word.
        at: ChainHead,
        /// Its exact bytes.
        bytes: Vec<u8>,
    },
    /// The newest beacon. Agents from before there were beacons do not pass it on.
    Beacon(Vec<u8>),
}

/// A question to one peer; at most [`REQUEST_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// "This is what I have; what do you have?"
    Summary(Summary),
    /// Hashes of a chain's entries, every `step`th one from `from` on.
    Hashes {
        /// Of this chain.
        chain: ChainId,
        /// The first sequence number.
        from: u64,
        /// Distance of two, at least 1.
        step: u64,
        /// How many, at most [`HASHES_MAX`].
        count: u32,
    },
    /// Entries of a chain in order.
    Entries {
        /// Of this chain.
        chain: ChainId,
        /// The first sequence number.
        from: u64,
        /// Bytes of entries in the answer; one entry comes however large it is.
        bytes_max: u32,
    },
    /// Records of some groups that are newer than those known.
    Records {
        /// A bit per group.
        buckets: u64,
        /// What the asking side has of these groups.
        known: Vec<Known>,
    },
    /// The proof that a chain forked.
    Fork {
        /// This chain.
        chain: ChainId,
    },
    /// The newest beacon. Agents from before there were beacons answer [`Answer::Unknown`].
    Beacon,
}

/// What comes back; at most [`ANSWER_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The version or the kind of the request is not known there.
    Unknown {
        /// The version spoken there.
        version: u8,
    },
    /// What is there.
    Summary(Summary),
    /// Hashes as they were asked for, cut at the end of the chain.
    Hashes(Vec<Digest>),
    /// Entries in order from the sequence number asked for; empty: there are none.
    Entries(Vec<Vec<u8>>),
    /// Records.
    Records(Vec<Vec<u8>>),
    /// The proof, if there is one.
    Fork(Option<Vec<u8>>),
    /// Too much was asked; again after so many milliseconds.
    Busy {
        /// How long to wait.
        retry_ms: u32,
    },
    /// The request did not read, or its sender has no say there.
    Refused,
    /// The newest beacon, if there is one.
    Beacon(Option<Vec<u8>>),
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Beyond the cap of its kind.
    #[error("a message of {0} bytes")]
    Oversized(usize),
    /// A version that this agent does not speak.
    #[error("wire version {0} is not known to this version")]
    Version(u8),
    /// A kind that this agent does not know.
    #[error("kind {0} is not known to this version")]
    Kind(u8),
    /// It does not read, or breaks a cap.
    #[error("this is no message: {0}")]
    Malformed(String),
}

#[derive(Encode, Decode)]
struct RawHeads {
    #[n(0)]
    by: KeyBytes,
    #[n(1)]
    heads: Vec<ChainHead>,
    #[n(2)]
    forks: Vec<ChainFork>,
    #[n(3)]
    records: Option<Digest>,
}

#[derive(Encode, Decode)]
struct RawEntry {
    #[n(0)]
    at: ChainHead,
    #[n(1)]
    bytes: ByteVec,
}

#[derive(Encode, Decode)]
struct RawHashes {
    #[n(0)]
    chain: ChainId,
    #[n(1)]
    from: u64,
    #[n(2)]
    step: u64,
    #[n(3)]
    count: u32,
}

#[derive(Encode, Decode)]
struct RawEntries {
    #[n(0)]
    chain: ChainId,
    #[n(1)]
    from: u64,
    #[n(2)]
    bytes_max: u32,
}

#[derive(Encode, Decode)]
struct RawRecords {
    #[n(0)]
    buckets: u64,
    #[n(1)]
    known: Vec<Known>,
}

#[derive(Encode, Decode)]
struct RawChain {
    #[n(0)]
    chain: ChainId,
}

#[derive(Encode, Decode)]
struct RawList {
    #[n(0)]
    items: Vec<ByteVec>,
}

#[derive(Encode, Decode)]
struct RawDigests {
    #[n(0)]
    digests: Vec<Digest>,
}

#[derive(Encode, Decode)]
struct RawOption {
    #[n(0)]
    bytes: Option<ByteVec>,
}

#[derive(Encode, Decode)]
struct RawNumber {
    #[n(0)]
    number: u32,
}

impl Hint {
    /// Whether the bytes of a hint of this version are those of a record.
    pub fn is_record(bytes: &[u8]) -> bool {
        matches!(Self::from_bytes(bytes), Ok(Self::Record(_)))
    }

    /// The bytes to publish.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Heads {
                by,
                heads,
                forks,
                records,
            } => frame(
                1,
                &RawHeads {
                    by: *by,
                    heads: heads.clone(),
                    forks: forks.clone(),
                    records: *records,
                },
            ),
            Self::Record(bytes) => frame(2, &ByteVec::from(bytes.clone())),
            Self::Entry { at, bytes } => frame(
                3,
                &RawEntry {
                    at: *at,
                    bytes: bytes.clone().into(),
                },
            ),
            Self::Beacon(bytes) => frame(4, &ByteVec::from(bytes.clone())),
        }
    }

    /// Reads published bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        let (kind, body) = open(bytes, HINT_BYTES_MAX)?;
        match kind {
            1 => {
                let raw: RawHeads = body_of(body)?;
                at_most("heads", raw.heads.len(), limits::CHAINS_MAX)?;
                at_most("forks", raw.forks.len(), limits::CHAINS_MAX)?;
                Ok(Self::Heads {
                    by: raw.by,
                    heads: raw.heads,
                    forks: raw.forks,
                    records: raw.records,
                })
            }
            2 => body_of(body).map(|bytes: ByteVec| Self::Record(bytes.into())),
            3 => body_of(body).map(|RawEntry { at, bytes }| Self::Entry {
                at,
                bytes: bytes.into(),
            }),
            4 => beacon(body_of(body)?).map(Self::Beacon),
            other => Err(MessageError::Kind(other)),
        }
    }
}

impl Request {
    /// The bytes to send.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Summary(summary) => frame(1, summary),
            Self::Hashes {
                chain,
                from,
                step,
                count,
            } => frame(
                2,
                &RawHashes {
                    chain: *chain,
                    from: *from,
                    step: *step,
                    count: *count,
                },
            ),
            Self::Entries {
                chain,
                from,
                bytes_max,
            } => frame(
                3,
                &RawEntries {
                    chain: *chain,
                    from: *from,
                    bytes_max: *bytes_max,
                },
            ),
            Self::Records { buckets, known } => frame(
                4,
                &RawRecords {
                    buckets: *buckets,
                    known: known.clone(),
                },
            ),
            Self::Fork { chain } => frame(5, &RawChain { chain: *chain }),
            Self::Beacon => frame(6, &RawNumber { number: 0 }),
        }
    }

    /// Reads what a peer asks.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        let (kind, body) = open(bytes, REQUEST_BYTES_MAX)?;
        match kind {
            1 => summary(body).map(Self::Summary),
            2 => {
                let raw: RawHashes = body_of(body)?;
                if raw.step == 0 || !(1..=HASHES_MAX).contains(&raw.count) {
                    let why = format!("every {}th of {} hashes", raw.step, raw.count);
                    return Err(MessageError::Malformed(why));
                }
                Ok(Self::Hashes {
                    chain: raw.chain,
                    from: raw.from,
                    step: raw.step,
                    count: raw.count,
                })
            }
            3 => body_of(body).map(|raw: RawEntries| Self::Entries {
                chain: raw.chain,
                from: raw.from,
                bytes_max: raw.bytes_max,
            }),
            4 => {
                let RawRecords { buckets, known } = body_of(body)?;
                at_most("known records", known.len(), KNOWN_MAX)?;
                Ok(Self::Records { buckets, known })
            }
            5 => body_of(body).map(|raw: RawChain| Self::Fork { chain: raw.chain }),
            6 => Ok(Self::Beacon),
            other => Err(MessageError::Kind(other)),
        }
    }
}

impl Answer {
    /// The bytes to send.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Unknown { version } => frame(
                0,
                &RawNumber {
                    number: (*version).into(),
                },
            ),
            Self::Summary(summary) => frame(1, summary),
            Self::Hashes(digests) => frame(
                2,
                &RawDigests {
                    digests: digests.clone(),
                },
            ),
            Self::Entries(entries) => frame(3, &list(entries)),
            Self::Records(records) => frame(4, &list(records)),
            Self::Fork(proof) => frame(
                5,
                &RawOption {
                    bytes: proof.clone().map(ByteVec::from),
                },
            ),
            Self::Busy { retry_ms } => frame(6, &RawNumber { number: *retry_ms }),
            Self::Refused => frame(7, &RawNumber { number: 0 }),
            Self::Beacon(bytes) => frame(
                8,
                &RawOption {
                    bytes: bytes.clone().map(ByteVec::from),
                },
            ),
        }
    }

    /// Reads what a peer answers.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        let (kind, body) = open(bytes, ANSWER_BYTES_MAX)?;
        match kind {
            0 => body_of(body).map(|raw: RawNumber| Self::Unknown {
                version: u8::try_from(raw.number).unwrap_or(u8::MAX),
            }),
            1 => summary(body).map(Self::Summary),
            2 => {
                let RawDigests { digests } = body_of(body)?;
                at_most("hashes", digests.len(), HASHES_MAX as usize)?;
                Ok(Self::Hashes(digests))
            }
            3 => items(body, ENTRIES_MAX, ENTRY_BYTES_MAX).map(Self::Entries),
            4 => items(body, KNOWN_MAX, RECORD_BYTES_MAX).map(Self::Records),
            5 => body_of(body).map(|raw: RawOption| Self::Fork(raw.bytes.map(Into::into))),
            6 => body_of(body).map(|raw: RawNumber| Self::Busy {
                retry_ms: raw.number,
            }),
            7 => Ok(Self::Refused),
            8 => {
                let RawOption { bytes } = body_of(body)?;
                bytes.map(beacon).transpose().map(Self::Beacon)
            }
            other => Err(MessageError::Kind(other)),
        }
    }
}

fn frame<T: Encode<()>>(kind: u8, body: &T) -> Vec<u8> {
    let mut bytes = vec![WIRE_VERSION, kind];
    bytes.append(&mut encode(body));
    bytes
}

fn open(bytes: &[u8], bytes_max: usize) -> Result<(u8, &[u8]), MessageError> {
    if bytes.len() > bytes_max {
        return Err(MessageError::Oversized(bytes.len()));
    }
    match bytes {
        [version, ..] if *version != WIRE_VERSION => Err(MessageError::Version(*version)),
        [_, kind, body @ ..] => Ok((*kind, body)),
        [] | [_] => Err(MessageError::Malformed("it ends early".to_owned())),
    }
}

fn body_of<'b, T: Decode<'b, ()>>(body: &'b [u8]) -> Result<T, MessageError> {
    decode(body).map_err(MessageError::Malformed)
}

fn summary(body: &[u8]) -> Result<Summary, MessageError> {
    let summary: Summary = body_of(body)?;
    at_most("heads", summary.heads.len(), limits::CHAINS_MAX)?;
    at_most("forks", summary.forks.len(), limits::CHAINS_MAX)?;
    // In order and each once, so that nobody makes a reader compare a group twice.
    let indexes = || summary.buckets.iter().map(|bucket| bucket.index);
    if !indexes().is_sorted_by(|a, b| a < b) || indexes().any(|index| index >= BUCKETS) {
        return Err(MessageError::Malformed("groups out of order".to_owned()));
    }
    Ok(summary)
}

fn list(items: &[Vec<u8>]) -> RawList {
    RawList {
        items: items.iter().cloned().map(ByteVec::from).collect(),
    }
}

fn items(body: &[u8], n_max: usize, bytes_max: usize) -> Result<Vec<Vec<u8>>, MessageError> {
    let RawList { items } = body_of(body)?;
    at_most("items", items.len(), n_max)?;
    let largest = items.iter().map(|item| item.len()).max().unwrap_or(0);
    at_most("bytes in one item", largest, bytes_max)?;
    Ok(items.into_iter().map(Into::into).collect())
}

fn beacon(bytes: ByteVec) -> Result<Vec<u8>, MessageError> {
    at_most("bytes of a beacon", bytes.len(), BEACON_BYTES_MAX)?;
    Ok(bytes.into())
}

fn at_most(what: &str, n: usize, max: usize) -> Result<(), MessageError> {
    if n <= max {
        return Ok(());
    }
    let why = format!("{n} {what}, at most {max} are taken");
    Err(MessageError::Malformed(why))
}

impl Head {
    /// This head as that of `chain`.
    pub const fn of(self, chain: ChainId) -> ChainHead {
        ChainHead { chain, head: self }
    }
}
