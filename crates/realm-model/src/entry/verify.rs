//! The one way to a [`VerifiedEntry`]: size, form, signatures and place are checked here, and
//! nowhere else. What the entry then means is control's question.

use std::collections::BTreeSet;

use super::body::RECOVER;
use super::wire::{Envelope, RawPayload, decode, open, signed_message};
use super::{Body, ChainId, Head, Payload, RealmId, SIGNATURES_MAX};
use crate::digest::Digest;
use crate::key::PublicKey;
use crate::refusal::{Refusal, RefusalCode};
use crate::text::printable;

/// Characters of a foreign chain's name in a message: no chain has more than 32.
const CHAIN_CHARS_SHOWN_MAX: usize = 40;

/// What a new entry is checked against.
#[derive(Debug, Clone)]
pub struct Trust<'a> {
    /// The realm this agent belongs to.
    pub realm: RealmId,
    /// The chain the entry shall extend.
    pub chain: ChainId,
    /// That chain's last entry here.
    pub head: Head,
    /// Keys that may sign it.
    pub keys: &'a [PublicKey],
    /// How many different ones must have signed.
    pub threshold: u32,
}

/// The bytes of an entry whose size, form, realm and chain were checked. Nobody vouches for it yet.
pub struct Opened<'a> {
    bytes: &'a [u8],
    envelope: Envelope,
    chain: ChainId,
    hash: Digest,
}

/// An entry that was signed by at least one key of those that were asked for. What it says is not read
/// yet, and whether that many signatures are enough is not decided.
pub struct Signed<'a> {
    opened: Opened<'a>,
    raw: RawPayload,
    signers: Vec<PublicKey>,
}

/// An entry whose size, signatures, realm, chain, sequence and parent were checked.
///
/// [`Signed::verify`] and [`VerifiedEntry::genesis`] (for the first entry, which vouches for
/// itself and *is* the realm id) share the one constructor.
#[derive(Debug, Clone)]
pub struct VerifiedEntry {
    bytes: Vec<u8>,
    realm: RealmId,
    chain: ChainId,
    head: Head,
    payload: Payload,
    signers: Vec<PublicKey>,
}

impl<'a> Opened<'a> {
    /// Checks size, format, envelope, realm and chain; nothing of the payload is looked at.
    pub fn open(bytes: &'a [u8], realm: RealmId, chain: ChainId) -> Result<Self, Refusal> {
        let envelope = open(bytes)?;
        if envelope.realm != realm.digest() {
            return Err(Refusal::new(
                RefusalCode::WrongRealm,
                format!(
                    "the entry is for {}, this is {realm}",
                    RealmId::new(envelope.realm),
                ),
            ));
        }
        if ChainId::of(&envelope.chain) != Some(chain) {
            // Nobody vouches for these bytes yet.
            let foreign: String = envelope.chain.chars().take(CHAIN_CHARS_SHOWN_MAX).collect();
            return Err(Refusal::new(
                RefusalCode::WrongChain,
                format!(
                    "the entry is for chain `{}`, expected `{chain}`",
                    printable(&foreign)
                ),
            ));
        }
        let hash = Digest::of(&envelope.payload);
        Ok(Self {
            bytes,
            envelope,
            chain,
            hash,
        })
    }

    /// SHA-256 of the payload: what tells one entry from another.
    pub const fn hash(&self) -> Digest {
        self.hash
    }

    /// Its place, its parent and the authority head that its signer saw, by its own word: for entries
    /// that were verified before, as those of a log, and to look one up.
    pub fn claimed(&self) -> Result<(Head, Digest, Head), Refusal> {
        let raw: RawPayload = decode(&self.envelope.payload, "payload")?;
        let head = Head {
            seq: raw.seq,
            hash: self.hash,
        };
        Ok((head, raw.prev, raw.authority))
    }

    /// What it says, and whose signatures it has, by its own word: to show what was verified before.
    pub fn claims(&self) -> Result<(Payload, Vec<PublicKey>), Refusal> {
        let payload = Payload::from_bytes(&self.envelope.payload)?;
        let keys = self.envelope.signatures.iter();
        let keys = keys.filter_map(|one| PublicKey::from_bytes(*one.key.as_bytes()).ok());
        Ok((payload, keys.collect()))
    }

    /// Checks the signatures of these keys. One at least must have signed, and none of their
    /// signatures may be wrong; those of other keys count for nothing.
    pub fn signed(self, keys: &[PublicKey]) -> Result<Signed<'a>, Refusal> {
        let signers = check_signatures(&self.envelope, keys)?;
        let raw: RawPayload = decode(&self.envelope.payload, "payload")?;
        Ok(Signed {
            opened: self,
            raw,
            signers,
        })
    }
}

impl Signed<'_> {
    /// Its place in its chain.
    pub const fn head(&self) -> Head {
        Head {
            seq: self.raw.seq,
            hash: self.opened.hash,
        }
    }

    /// SHA-256 of the payload before it.
    pub const fn prev(&self) -> Digest {
        self.raw.prev
    }

    /// The authority chain's head that the signer saw.
    pub const fn authority(&self) -> Head {
        self.raw.authority
    }

    /// Seconds since 1970 by the signer's clock.
    pub const fn created_unix_s(&self) -> u64 {
        self.raw.created_unix_s
    }

    /// Whether it may stand where another entry stands already.
    pub const fn is_recover(&self) -> bool {
        self.raw.kind == RECOVER
    }

    /// The exact bytes.
    pub const fn bytes(&self) -> &[u8] {
        self.opened.bytes
    }

    /// The keys whose signatures held.
    pub fn signers(&self) -> &[PublicKey] {
        &self.signers
    }

    /// Checks that `threshold` of these keys signed.
    pub fn require(&self, keys: &[PublicKey], threshold: u32) -> Result<(), Refusal> {
        require(&self.opened.envelope, &self.signers, keys, threshold)
    }

    /// Checks the place after `head`, then reads what the entry says. The order matters: a replay of a
    /// kind that this version does not know is a replay.
    pub fn verify(self, head: Head) -> Result<VerifiedEntry, Refusal> {
        let place = self.head();
        check_position(place, self.raw.prev, head)?;
        let payload = Payload::from_raw(self.raw)?;
        Ok(VerifiedEntry::new(
            self.opened.bytes,
            RealmId::new(self.opened.envelope.realm),
            self.opened.chain,
            place,
            payload,
            self.signers,
        ))
    }
}

impl VerifiedEntry {
    /// Checks the bytes of an entry, in this order: size, envelope, format, realm, chain,
    /// signatures, sequence, parent, kind. Nothing of the payload is looked at before a
    /// signature of a key that may sign holds over it.
    pub fn verify(bytes: &[u8], trust: &Trust<'_>) -> Result<Self, Refusal> {
        let signed = Opened::open(bytes, trust.realm, trust.chain)?.signed(trust.keys)?;
        signed.require(trust.keys, trust.threshold)?;
        signed.verify(trust.head)
    }

    /// Checks that `threshold` of these keys signed as well, which nobody asked for before.
    pub fn require(&self, keys: &[PublicKey], threshold: u32) -> Result<(), Refusal> {
        require(&open(&self.bytes)?, &self.signers, keys, threshold)
    }

    /// Checks a realm's first entry: signed by the owners that it names itself. With `expected`,
    /// it must be the genesis of that realm.
    pub fn genesis(bytes: &[u8], expected: Option<RealmId>) -> Result<Self, Refusal> {
        let envelope = open(bytes)?;
        let payload = Payload::from_bytes(&envelope.payload)?;
        let Body::Genesis(genesis) = &payload.body else {
            return Err(Refusal::new(
                RefusalCode::Malformed,
                format!(
                    "the first entry is a {}, expected a genesis",
                    payload.body.kind()
                ),
            ));
        };
        let realm = RealmId::new(Digest::of(&envelope.payload));
        if expected.is_some_and(|expected| expected != realm) || envelope.realm != realm.digest() {
            return Err(Refusal::new(
                RefusalCode::WrongRealm,
                format!("the genesis is that of {realm}"),
            ));
        }
        if ChainId::of(&envelope.chain) != Some(ChainId::Authority) || payload.seq != 0 {
            return Err(Refusal::new(
                RefusalCode::Malformed,
                "a genesis stands at sequence 0 of the authority chain",
            ));
        }
        check_owners(&genesis.owners, genesis.threshold)?;
        let signers = check_signatures(&envelope, &genesis.owners)?;
        require(&envelope, &signers, &genesis.owners, genesis.threshold)?;
        Ok(Self::new(
            bytes,
            realm,
            ChainId::Authority,
            realm.origin(),
            payload,
            signers,
        ))
    }

    // The one constructor.
    fn new(
        bytes: &[u8],
        realm: RealmId,
        chain: ChainId,
        head: Head,
        payload: Payload,
        signers: Vec<PublicKey>,
    ) -> Self {
        Self {
            bytes: bytes.to_vec(),
            realm,
            chain,
            head,
            payload,
            signers,
        }
    }

    /// The exact bytes: what is stored and sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The realm it is for.
    pub const fn realm(&self) -> RealmId {
        self.realm
    }

    /// The chain it extends.
    pub const fn chain(&self) -> ChainId {
        self.chain
    }

    /// The chain's head once this entry is in it.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// What was signed.
    pub const fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The keys whose signatures held.
    pub fn signers(&self) -> &[PublicKey] {
        &self.signers
    }
}

/// A list of owners that can sign: 1 to 16 of them, and a threshold that they can reach.
pub fn check_owners(owners: &[PublicKey], threshold: u32) -> Result<(), Refusal> {
    let threshold_fits =
        usize::try_from(threshold).is_ok_and(|threshold| (1..=owners.len()).contains(&threshold));
    if !threshold_fits || owners.len() > SIGNATURES_MAX {
        return Err(Refusal::new(
            RefusalCode::Malformed,
            "a realm has 1 to 16 owners, and a threshold of at least 1 and at most their number",
        ));
    }
    Ok(())
}

/// The keys among `keys` that signed. A signature of one of them that does not hold is an error, however
/// many others do.
fn check_signatures(envelope: &Envelope, keys: &[PublicKey]) -> Result<Vec<PublicKey>, Refusal> {
    if envelope.signatures.is_empty() {
        return Err(Refusal::new(
            RefusalCode::Unsigned,
            "the entry carries no signature",
        ));
    }
    let message = signed_message(envelope.realm, &envelope.chain, &envelope.payload);
    let mut signers = Vec::new();
    for signature in &envelope.signatures {
        let Some(key) = keys
            .iter()
            .find(|key| *key.as_bytes() == *signature.key.as_bytes())
        else {
            continue;
        };
        if !key.verifies(&message, &signature.signature) {
            return Err(Refusal::new(
                RefusalCode::BadSignature,
                format!("the signature of {key} does not hold over these bytes"),
            ));
        }
        // A key that is listed twice counts once.
        if !signers.contains(key) {
            signers.push(*key);
        }
    }
    if signers.is_empty() {
        return Err(Refusal::new(
            RefusalCode::WrongOwner,
            format!("signed by {}, which may not sign here", given(envelope)),
        ));
    }
    Ok(signers)
}

fn require(
    envelope: &Envelope,
    signers: &[PublicKey],
    keys: &[PublicKey],
    threshold: u32,
) -> Result<(), Refusal> {
    let (seen, unseen): (Vec<PublicKey>, Vec<PublicKey>) =
        keys.iter().copied().partition(|key| signers.contains(key));
    let seen: BTreeSet<PublicKey> = seen.into_iter().collect();
    let mut number = seen.len();
    let named = |key: &PublicKey| {
        let mut signatures = envelope.signatures.iter();
        signatures.any(|signature| *signature.key.as_bytes() == *key.as_bytes())
    };
    if unseen.iter().any(named) {
        number += check_signatures(envelope, &unseen)?.len();
    }
    if number < usize::try_from(threshold).unwrap_or(usize::MAX).max(1) {
        return Err(Refusal::new(
            RefusalCode::WrongOwner,
            format!(
                "signed by {}; {number} of the {threshold} signatures that are needed",
                given(envelope)
            ),
        ));
    }
    Ok(())
}

/// Who signed, by the envelope's own word.
fn given(envelope: &Envelope) -> String {
    let keys: Vec<String> = envelope
        .signatures
        .iter()
        .map(|signature| {
            format!(
                "ed25519:{}",
                bs58::encode(signature.key.as_bytes()).into_string()
            )
        })
        .collect();
    keys.join(", ")
}

fn check_position(entry: Head, prev: Digest, head: Head) -> Result<(), Refusal> {
    if entry == head {
        return Err(Refusal::new(
            RefusalCode::Replayed,
            format!("entry {} was accepted already", entry.seq),
        ));
    }
    if entry.seq <= head.seq {
        return Err(Refusal::new(
            RefusalCode::Stale,
            format!(
                "entry {} is not above {}, the last one here",
                entry.seq, head.seq
            ),
        ));
    }
    // `head.seq + 1` cannot wrap: a head at u64::MAX would have needed 2^64 accepted entries.
    if entry.seq != head.seq.saturating_add(1) {
        return Err(Refusal::new(
            RefusalCode::Gap,
            format!(
                "entry {} does not follow {}, the last one here",
                entry.seq, head.seq
            ),
        ));
    }
    if prev != head.hash {
        return Err(Refusal::new(
            RefusalCode::WrongParent,
            format!(
                "entry {} follows another entry {} than the one here",
                entry.seq, head.seq
            ),
        ));
    }
    Ok(())
}
