//! An invitation as text: which realm, from which head on, where it answers, and perhaps a voucher.
//!
//! A ticket proves the realm to the node: whoever answers must show the genesis with this id, and
//! a chain that passes the floor. A voucher proves the invitation to the owner: the node sends a
//! keyed hash of its own key, never the voucher. Not here: how long somebody waits for it.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::address::{ADDRESS_BYTES_MAX, NodeAddress};
use crate::cbor;
use crate::entry::{Head, RealmId};
use crate::key::PublicKey;

/// What a ticket begins with.
pub const PREFIX: &str = "realm-ticket:";
/// The format written by this version.
pub const FORMAT: u8 = 1;
/// Addresses in a ticket: one that answers is enough, and a ticket is pasted by hand.
pub const ADDRESSES_MAX: usize = 8;
/// Bytes of a voucher: more than can be tried out.
pub const VOUCHER_BYTES: usize = 16;

/// Bytes behind the content that tell a slip of the pen: the start of a SHA-256.
const CHECK_BYTES: usize = 4;
/// A longer text is not decoded, since that takes time with the square of the length: base58 has
/// 1.37 characters per byte.
const CHARS_MAX: usize = ADDRESSES_MAX * ADDRESS_BYTES_MAX * 3 / 2;

/// An invitation into a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The realm.
    pub realm: RealmId,
    /// A head of its authority chain: a chain that does not reach it is a rollback.
    pub floor: Head,
    /// Where its nodes answer, at most [`ADDRESSES_MAX`].
    pub addresses: Vec<NodeAddress>,
    /// A secret that whoever invites shares with the node alone.
    pub voucher: Option<Voucher>,
}

/// A secret of whoever invites and of the invited node; wiped from memory, never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Voucher([u8; VOUCHER_BYTES]);

/// What a node shows in place of a voucher: good for its own key and this realm alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proof([u8; 32]);

/// A text is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Another text.
    #[error("a ticket begins with `{PREFIX}`")]
    Prefix,
    /// A character is wrong, or some are missing.
    #[error("the ticket is incomplete, or a character of it is wrong")]
    Check,
    /// Whole, and not what this version writes.
    #[error("the ticket has format {0}, this version reads {FORMAT}")]
    Newer(u8),
    /// Whole, and not a ticket.
    #[error("the ticket does not read: {0}")]
    Malformed(String),
}

impl TicketError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Prefix | Self::Check | Self::Malformed(_) => "bad-ticket",
            Self::Newer(_) => "needs-newer-agent",
        }
    }

    /// What to do next.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Prefix => "copy the line that `realm invite` prints",
            Self::Check => "copy the whole line that `realm invite` prints",
            Self::Newer(_) => "install the version of realm here that `realm invite` ran with",
            Self::Malformed(_) => "make a new one with `realm invite`",
        }
    }
}

impl Ticket {
    /// The text of the ticket: whoever reads it knows the voucher.
    pub fn to_text(&self) -> Zeroizing<String> {
        let wire = Wire {
            format: FORMAT,
            realm: self.realm,
            floor: self.floor,
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            voucher: self.voucher.as_ref().map(|voucher| voucher.0.into()),
        };
        let mut bytes = Zeroizing::new(cbor::encode(&wire));
        let check = check_of(&bytes);
        bytes.extend_from_slice(&check);
        let base58 = Zeroizing::new(bs58::encode(bytes.as_slice()).into_string());
        Zeroizing::new(format!("{PREFIX}{}", base58.as_str()))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Blanks and line breaks in the text are passed over: mail programs wrap long words.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let kept = |c: &char| !c.is_ascii_whitespace();
        let text: Zeroizing<String> = Zeroizing::new(text.chars().filter(kept).collect());
        let base58 = text.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?;
        if base58.len() > CHARS_MAX {
            return Err(TicketError::Check);
        }
        let bytes = bs58::decode(base58).into_vec();
        let bytes = Zeroizing::new(bytes.map_err(|_| TicketError::Check)?);
        let (bytes, check) = bytes
            .split_last_chunk::<CHECK_BYTES>()
            .ok_or(TicketError::Check)?;
        if *check != check_of(bytes) {
            return Err(TicketError::Check);
        }
        read(bytes)
    }
}

fn read(bytes: &[u8]) -> Result<Ticket, TicketError> {
    let malformed = |why: &str| TicketError::Malformed(why.to_owned());
    let mut decoder = minicbor::Decoder::new(bytes);
    // It stands first, so that it can be read whatever follows it.
    let format = decoder.array().and_then(|_| decoder.u8());
    match format {
        Ok(FORMAT) => {}
        Ok(format) => return Err(TicketError::Newer(format)),
        Err(_) => return Err(malformed("it has no format")),
    }
    let wire: Wire = cbor::decode(bytes).map_err(TicketError::Malformed)?;
    if cbor::encode(&wire) != bytes {
        return Err(malformed("it is not in its one encoding"));
    }
    if wire.addresses.len() > ADDRESSES_MAX {
        return Err(malformed("it has more than 8 addresses"));
    }
    let addresses: Result<_, _> = wire.addresses.iter().map(|text| text.parse()).collect();
    Ok(Ticket {
        realm: wire.realm,
        floor: wire.floor,
        addresses: addresses.map_err(|_| malformed("an address in it does not read"))?,
        voucher: wire.voucher.map(|bytes| Voucher(bytes.into())),
    })
}

impl Voucher {
    /// Takes bytes that must come from a cryptographic source.
    pub const fn from_bytes(bytes: [u8; VOUCHER_BYTES]) -> Self {
        Self(bytes)
    }

    /// What the node with this key shows.
    pub fn proof(&self, realm: RealmId, node: &PublicKey) -> Proof {
        Proof(self.mac(realm, node).finalize().into_bytes().into())
    }

    /// Whether the node with this key was given the voucher. Takes the same time for every wrong
    /// proof.
    pub fn vouches(&self, realm: RealmId, node: &PublicKey, proof: &Proof) -> bool {
        self.mac(realm, node).verify_slice(&proof.0).is_ok()
    }

    fn mac(&self, realm: RealmId, node: &PublicKey) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length makes an HMAC");
        mac.update(b"realm.voucher.v1");
        mac.update(realm.digest().as_bytes());
        mac.update(node.as_bytes());
        mac
    }
}

impl Proof {
    /// Takes 32 bytes as they are; whether they prove anything is another question.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Voucher(…)")
    }
}

#[derive(Encode, Decode)]
struct Wire {
    #[n(0)]
    format: u8,
    #[n(1)]
    realm: RealmId,
    #[n(2)]
    floor: Head,
    #[n(3)]
    addresses: Vec<String>,
    #[n(4)]
    voucher: Option<minicbor::bytes::ByteArray<VOUCHER_BYTES>>,
}

fn check_of(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = Sha256::new();
    hasher.update(b"realm.ticket.v1");
    hasher.update(bytes);
    let hash: [u8; 32] = hasher.finalize().into();
    [hash[0], hash[1], hash[2], hash[3]]
}

impl<C> Encode<C> for Proof {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Proof {
    fn decode(
        decoder: &mut minicbor::Decoder<'b>,
        _: &mut C,
    ) -> Result<Self, minicbor::decode::Error> {
        let bytes = decoder.bytes()?.try_into();
        bytes
            .map(Self)
            .map_err(|_| minicbor::decode::Error::message("a proof has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digest;
    use crate::key::SecretKey;

    fn realm(number: u8) -> RealmId {
        RealmId::new(Digest::from_bytes([number; 32]))
    }

    fn node(seed: u8) -> PublicKey {
        SecretKey::from_seed(&[seed; 32]).public()
    }

    fn ticket(addresses: usize, voucher: bool) -> Ticket {
        let address = |number| format!("/dns4/bm-{number:02}/udp/443/quic-v1");
        Ticket {
            realm: realm(7),
            floor: Head {
                seq: 12,
                hash: Digest::from_bytes([9; 32]),
            },
            addresses: (0..addresses)
                .map(|number| address(number).parse().expect("proper"))
                .collect(),
            voucher: voucher.then(|| Voucher::from_bytes([5; VOUCHER_BYTES])),
        }
    }

    #[test]
    fn format_1_stays_as_it_is() {
        let text = ticket(1, true).to_text();
        assert_eq!(text.as_str(), FIXTURE);
        assert_eq!(FIXTURE.parse(), Ok(ticket(1, true)));
    }

    const FIXTURE: &str = "realm-ticket:ULFUJSja9eBGFS78KXYqF22hS374qSokerc2DWL81nDFnG3eXbPyfN1DHfYVVCc8uCwePrzRDnY2RUyMCvLpNdt6LdMgweNc14BRwcUv5t1dUAa2NVm3fewZosti4dQTyvqDVowdUa4Shy17oppFGbePrY4psF6ep9UTrXHS";

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = text.parse::<Ticket>().expect_err(text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }

    fn text_of(bytes: &[u8]) -> String {
        let mut bytes = bytes.to_vec();
        let check = check_of(&bytes);
        bytes.extend(check);
        format!("{PREFIX}{}", bs58::encode(bytes).into_string())
    }

    #[test]
    fn a_ticket_that_a_mail_program_wrapped_is_read() {
        let text = ticket(3, true).to_text();
        let (first, second) = text.split_at(40);
        assert_eq!(
            format!(" {first}\r\n {second}\n").parse(),
            Ok(ticket(3, true))
        );
    }

    #[test]
    fn other_texts_are_refused() {
        let text = ticket(1, false).to_text();
        check("", "begins with");
        check("realm:abc", "begins with");
        check(PREFIX, "incomplete");
        check(&text[..text.len() - 1], "incomplete");
        check(&text.replacen("CH1", "CH2", 1), "incomplete");
        check(&format!("{PREFIX}{}", "1".repeat(1_000_000)), "incomplete");
        check(&text_of(&[]), "no format");
        check(&text_of(&[0x81, 2]), "format 2");
        check(&text_of(&[0x81, 1]), "does not read");
        check(&ticket(9, false).to_text(), "more than 8");
        // The same value in a longer encoding, and with something behind it.
        let text = ticket(1, true).to_text();
        let bytes = bs58::decode(&text[PREFIX.len()..])
            .into_vec()
            .expect("base58");
        let bytes = &bytes[..bytes.len() - CHECK_BYTES];
        check(&text_of(&[bytes, &[0]].concat()), "bytes follow");
        assert_eq!(bytes[..2], [0x85, 1]);
        check(
            &text_of(&[&[0x98, 5, 1], &bytes[2..]].concat()),
            "one encoding",
        );
    }

    #[test]
    fn a_proof_is_good_for_one_voucher_one_realm_and_one_key() {
        let voucher = Voucher::from_bytes([1; VOUCHER_BYTES]);
        let proof = voucher.proof(realm(1), &node(1));
        assert!(voucher.vouches(realm(1), &node(1), &proof));
        assert!(!voucher.vouches(realm(2), &node(1), &proof));
        assert!(!voucher.vouches(realm(1), &node(2), &proof));
        let other = Voucher::from_bytes([2; VOUCHER_BYTES]);
        assert!(!other.vouches(realm(1), &node(1), &proof));
        // HMAC-SHA256 of RFC 2104, computed with another implementation: nodes of other versions
        // must reach the same one.
        assert_eq!(Digest::from_bytes(proof.0).hex(), PROOF);
        assert!(!format!("{voucher:?}").contains('1'));
    }

    const PROOF: &str = "eb1ad70edf0ce2f159136cc62acec992c3a6a35992acfc0e2ac237c7d74e4fd1";

    proptest! {
        #[test]
        fn any_ticket_reads_back_as_written(
            realm in any::<[u8; 32]>(),
            hash in any::<[u8; 32]>(),
            seq: u64,
            addresses in 0usize..=ADDRESSES_MAX,
            voucher in any::<Option<[u8; VOUCHER_BYTES]>>(),
        ) {
            let ticket = Ticket {
                realm: RealmId::new(Digest::from_bytes(realm)),
                floor: Head { seq, hash: Digest::from_bytes(hash) },
                voucher: voucher.map(Voucher::from_bytes),
                ..ticket(addresses, false)
            };
            prop_assert_eq!(ticket.to_text().parse(), Ok(ticket));
        }

        #[test]
        fn any_bytes_are_a_ticket_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut whole = vec![0x85, 1];
            whole.extend(&bytes);
            for bytes in [bytes, whole] {
                let text = text_of(&bytes);
                if let Ok(ticket) = text.parse::<Ticket>() {
                    let again = ticket.to_text();
                    prop_assert_eq!(again.as_str(), text);
                }
            }
        }

        #[test]
        fn a_wrong_character_is_noticed(at in 0usize..100, with in "[1-9A-HJ-NP-Za-km-z]") {
            let text = ticket(2, true).to_text();
            let at = PREFIX.len() + at;
            let other = format!("{}{with}{}", &text[..at], &text[at + 1..]);
            prop_assume!(other != text.as_str());
            prop_assert_eq!(other.parse::<Ticket>(), Err(TicketError::Check));
        }
    }
}
