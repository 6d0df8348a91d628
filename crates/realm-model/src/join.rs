//! The messages of `/realm/join/1`: what a machine that is no member yet may say, and hear.
//!
//! A request is `ask` (let me in), `page` (more of the authority chain) or `offer` (a member to a
//! machine that waits for an owner). Who speaks is known from the connection, never from a
//! message; so are the words that people compare: each side makes them from the key it sees.
//! Not here: who is listed, approved or refused.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::address::NodeAddress;
use crate::cbor;
use crate::entry::{ENTRY_BYTES_MAX, RealmId};
use crate::name::NodeName;
use crate::text::one_line;
use crate::ticket::{ADDRESSES_MAX, Proof};

/// The wire version, the first byte of each message.
pub const VERSION: u8 = 1;
/// A larger request is refused before it is read: the largest is an `offer` with a genesis of 16
/// owners, some 3 KiB.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Bytes of entries after which a page ends. One entry that is larger goes alone.
pub const PAGE_BYTES: usize = 64 * 1024;
/// A larger answer is not read: a page of one entry of the largest size.
pub const ANSWER_BYTES_MAX: usize = ENTRY_BYTES_MAX + 4 * 1024;
/// Tags that a node proposes; as many as an approval takes.
pub const TAGS_MAX: usize = 32;
/// Characters of the name of an agent's version.
pub const AGENT_CHARS_MAX: usize = 64;
/// Characters of a message for people.
pub const MESSAGE_CHARS_MAX: usize = 300;
/// Entries in a page: none has fewer than a hundred bytes.
const ENTRIES_MAX: usize = 1_024;

/// What a stranger asks of a member, or a member of a machine without a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Let me in; asked again until there is an answer.
    Ask(Ask),
    /// More entries of the authority chain, after an approval.
    Page(Page),
    /// To a machine that waits for an owner: this realm takes you.
    Offer(Offer),
}

/// A node asks to be approved.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ask {
    /// The realm it means, if it knows: from a ticket, or from an answer before.
    #[n(0)]
    pub realm: Option<RealmId>,
    /// The name it proposes.
    #[n(1)]
    pub name: NodeName,
    /// The tags it proposes, at most [`TAGS_MAX`]; those that are no names are passed over.
    #[cbor(n(2), with = "lenient")]
    pub tags: Vec<NodeName>,
    /// Where it listens, at most [`ADDRESSES_MAX`]; those of kinds that this version does not know
    /// are passed over.
    #[cbor(n(3), with = "lenient")]
    pub addresses: Vec<NodeAddress>,
    /// Its version of realm.
    #[n(4)]
    pub agent: String,
    /// That it was invited.
    #[n(5)]
    pub proof: Option<Proof>,
    /// The first entry of the authority chain that it lacks; 0: all.
    #[n(6)]
    pub from: u64,
}

/// More of the authority chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Page {
    /// The realm.
    #[n(0)]
    pub realm: RealmId,
    /// The first entry that is wanted.
    #[n(1)]
    pub from: u64,
}

/// A realm takes a machine that waits for an owner.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Offer {
    /// The realm.
    #[n(0)]
    pub realm: RealmId,
    /// Its first entry, whose hash the realm id is: the machine learns the owners from it.
    #[n(1)]
    pub genesis: ByteVec,
    /// Where members answer, at most [`ADDRESSES_MAX`].
    #[cbor(n(2), with = "lenient")]
    pub addresses: Vec<NodeAddress>,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Listed, or listed already: an owner decides.
    Pending(Waiting),
    /// A member; also the answer to `page`.
    Approved(Approved),
    /// No.
    Refused(Refused),
    /// The machine takes the offer, and asks by itself.
    Taken,
}

/// An owner decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Waiting {
    /// The realm of the one who answers.
    #[n(0)]
    pub realm: RealmId,
    /// When to ask again.
    #[n(1)]
    pub retry_after_s: u32,
}

/// The authority chain from where it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Approved {
    /// The realm.
    #[n(0)]
    pub realm: RealmId,
    /// The name under which the key is approved; in an answer to `page` also one under which it was.
    #[n(1)]
    pub name: NodeName,
    /// The sequence number of the first entry here.
    #[n(2)]
    pub from: u64,
    /// Entries, one after the other.
    #[n(3)]
    pub entries: Vec<ByteVec>,
    /// Whether there are more.
    #[n(4)]
    pub more: bool,
}

/// No.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Why.
    pub code: JoinCode,
    /// What happened; one printable line.
    pub message: String,
    /// When asking again may help; `None`: not before somebody does something.
    pub retry_after_s: Option<u32>,
}

/// Why a request is refused, as a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JoinCode {
    /// The member is in another realm.
    WrongRealm,
    /// The key was revoked.
    Revoked,
    /// Too many requests of late, from this address or in all.
    TooMany,
    /// The list of those who wait is full.
    ListFull,
    /// Whoever was asked has no realm itself.
    NoRealm,
    /// The machine has a realm already.
    Claimed,
    /// The machine takes another realm or owner only.
    NotExpected,
    /// A request that this version does not know.
    NeedsNewerAgent,
    /// The bytes are no request.
    Malformed,
    /// A code of a later version.
    Other,
}

impl JoinCode {
    /// Every code, for metrics and documentation.
    pub const ALL: [Self; 10] = [
        Self::WrongRealm,
        Self::Revoked,
        Self::TooMany,
        Self::ListFull,
        Self::NoRealm,
        Self::Claimed,
        Self::NotExpected,
        Self::NeedsNewerAgent,
        Self::Malformed,
        Self::Other,
    ];

    /// The stable spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WrongRealm => "wrong-realm",
            Self::Revoked => "revoked",
            Self::TooMany => "too-many-joins",
            Self::ListFull => "join-list-full",
            Self::NoRealm => "no-realm",
            Self::Claimed => "has-a-realm",
            Self::NotExpected => "not-expected",
            Self::NeedsNewerAgent => "needs-newer-agent",
            Self::Malformed => "malformed",
            Self::Other => "other",
        }
    }

    /// What a person does next; one line without a full stop.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::WrongRealm => "compare the realm of the ticket with `realm status` of that node",
            Self::Revoked => {
                "give this machine a new key: `realm join TICKET` makes one in an empty realm folder"
            }
            Self::TooMany => "nothing to do: it is tried again",
            Self::ListFull => {
                "the owner approves this key directly: `realm nodes approve KEY --name NAME`"
            }
            Self::NoRealm => "join through a node that is in the realm",
            Self::Claimed => {
                "stop the agent there and remove its realm folder, if that realm is not wanted"
            }
            Self::NotExpected => "install the agent there with the key of this realm's owner",
            Self::NeedsNewerAgent => "install a newer realm on the node that was asked",
            Self::Malformed => "install the same version of realm on both machines",
            Self::Other => "install a newer realm here to see what it means",
        }
    }

    fn of(text: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| code.as_str() == text)
            .unwrap_or(Self::Other)
    }
}

impl std::fmt::Display for JoinCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// More than the cap; nothing was read.
    #[error("{bytes} bytes, at most {bytes_max} are taken")]
    Oversized {
        /// The size.
        bytes: usize,
        /// The cap.
        bytes_max: usize,
    },
    /// Another wire version, or a kind of message that this version does not know.
    #[error("version {version} with message {kind:?} is not known to this version")]
    Unknown {
        /// The first byte.
        version: u8,
        /// The kind, if the version is known.
        kind: Option<u32>,
    },
    /// Anything else.
    #[error("this is no message: {0}")]
    Malformed(String),
}

impl MessageError {
    /// The answer to bytes that are no request.
    pub fn to_answer(&self) -> Answer {
        let code = match self {
            Self::Unknown { .. } => JoinCode::NeedsNewerAgent,
            Self::Oversized { .. } | Self::Malformed(_) => JoinCode::Malformed,
        };
        Answer::Refused(Refused::new(code, self.to_string(), None))
    }
}

impl Refused {
    /// Makes a refusal; the message becomes one printable line.
    pub fn new(code: JoinCode, message: impl AsRef<str>, retry_after_s: Option<u32>) -> Self {
        Self {
            code,
            message: one_line(message.as_ref(), MESSAGE_CHARS_MAX),
            retry_after_s,
        }
    }
}

impl Approved {
    /// A page of at most [`PAGE_BYTES`] from entries that begin at `from`; one entry at least, if
    /// there is any. An iterator that ends is the end of the chain.
    pub fn page<E: AsRef<[u8]>>(
        realm: RealmId,
        name: NodeName,
        from: u64,
        entries: impl IntoIterator<Item = E>,
    ) -> Self {
        let mut page = Self {
            realm,
            name,
            from,
            entries: Vec::new(),
            more: false,
        };
        let mut bytes = 0;
        for entry in entries {
            let entry = entry.as_ref();
            bytes += entry.len();
            if page.entries.len() == ENTRIES_MAX || bytes > PAGE_BYTES && !page.entries.is_empty() {
                page.more = true;
                break;
            }
            page.entries.push(entry.to_vec().into());
        }
        page
    }

    /// The first entry after these.
    pub fn next(&self) -> u64 {
        self.from.saturating_add(self.entries.len() as u64)
    }
}

// Numbers are never used again.
const ASK: u32 = 0;
const PAGE: u32 = 1;
const OFFER: u32 = 2;
const PENDING: u32 = 0;
const APPROVED: u32 = 1;
const REFUSED: u32 = 2;
const TAKEN: u32 = 3;

impl Request {
    /// The bytes of the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ask(ask) => message(ASK, ask),
            Self::Page(page) => message(PAGE, page),
            Self::Offer(offer) => message(OFFER, offer),
        }
    }

    /// Reads what came from anybody.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        let (kind, body) = open(bytes, REQUEST_BYTES_MAX)?;
        match kind {
            ASK => {
                let mut ask: Ask = read(body)?;
                ask.tags.truncate(TAGS_MAX);
                ask.addresses.truncate(ADDRESSES_MAX);
                ask.agent = one_line(&ask.agent, AGENT_CHARS_MAX);
                Ok(Self::Ask(ask))
            }
            PAGE => Ok(Self::Page(read(body)?)),
            OFFER => {
                let mut offer: Offer = read(body)?;
                offer.addresses.truncate(ADDRESSES_MAX);
                Ok(Self::Offer(offer))
            }
            kind => Err(unknown(kind)),
        }
    }
}

impl Answer {
    /// The bytes of the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Pending(waiting) => message(PENDING, waiting),
            Self::Approved(approved) => message(APPROVED, approved),
            Self::Refused(refused) => message(
                REFUSED,
                &WireRefused {
                    code: refused.code.as_str().to_owned(),
                    message: refused.message.clone(),
                    retry_after_s: refused.retry_after_s,
                },
            ),
            Self::Taken => message(TAKEN, &WireTaken {}),
        }
    }

    /// Reads what came from anybody.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        let (kind, body) = open(bytes, ANSWER_BYTES_MAX)?;
        match kind {
            PENDING => Ok(Self::Pending(read(body)?)),
            APPROVED => Ok(Self::Approved(read(body)?)),
            REFUSED => {
                let refused: WireRefused = read(body)?;
                let code = JoinCode::of(&refused.code);
                let retry_after_s = refused.retry_after_s;
                let refused = Refused::new(code, refused.message, retry_after_s);
                Ok(Self::Refused(refused))
            }
            TAKEN => read::<WireTaken>(body).map(|_| Self::Taken),
            kind => Err(unknown(kind)),
        }
    }
}

#[derive(Encode, Decode)]
struct WireRefused {
    #[n(0)]
    code: String,
    #[n(1)]
    message: String,
    #[n(2)]
    retry_after_s: Option<u32>,
}

#[derive(Encode, Decode)]
struct WireTaken {}

/// Version, then an array of kind and body.
fn message<T: Encode<()>>(kind: u32, body: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(cbor::encode(&(kind, ByteVec::from(cbor::encode(body)))));
    bytes
}

fn open(bytes: &[u8], bytes_max: usize) -> Result<(u32, &[u8]), MessageError> {
    if bytes.len() > bytes_max {
        let bytes = bytes.len();
        return Err(MessageError::Oversized { bytes, bytes_max });
    }
    let malformed = |why: &str| MessageError::Malformed(why.to_owned());
    let (version, rest) = bytes
        .split_first()
        .ok_or_else(|| malformed("it is empty"))?;
    if *version != VERSION {
        return Err(MessageError::Unknown {
            version: *version,
            kind: None,
        });
    }
    let (kind, body): (u32, &minicbor::bytes::ByteSlice) =
        cbor::decode(rest).map_err(MessageError::Malformed)?;
    Ok((kind, body))
}

/// Fields behind those that are known are those of a later version, and passed over.
fn read<'b, T: Decode<'b, ()>>(body: &'b [u8]) -> Result<T, MessageError> {
    cbor::decode(body).map_err(MessageError::Malformed)
}

const fn unknown(kind: u32) -> MessageError {
    MessageError::Unknown {
        version: VERSION,
        kind: Some(kind),
    }
}

/// Lists of texts of which those that do not read are passed over: a later version may know more.
mod lenient {
    use std::fmt::Display;
    use std::str::FromStr;

    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub(super) fn encode<T: Display, C, W: Write>(
        values: &[T],
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        encoder.array(values.len() as u64)?;
        for value in values {
            encoder.str(&value.to_string())?;
        }
        Ok(())
    }

    pub(super) fn decode<T: FromStr, C>(
        decoder: &mut Decoder<'_>,
        _: &mut C,
    ) -> Result<Vec<T>, DecodeError> {
        let mut values = Vec::new();
        for text in decoder.array_iter::<&str>()? {
            values.extend(text?.parse().ok());
        }
        Ok(values)
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
