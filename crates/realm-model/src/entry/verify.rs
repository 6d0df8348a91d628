//! The one way to a [`VerifiedEntry`]: size, form, signatures and place are checked here, and
//! nowhere else. What the entry then means is control's question.

use super::wire::{Envelope, RawPayload, decode, open, signed_message};
use super::{Body, ChainId, Head, Payload, RealmId, SIGNATURES_MAX};
use crate::digest::Digest;
use crate::key::PublicKey;
use crate::refusal::{Refusal, RefusalCode};
use crate::text::printable;

/// Characters of a foreign chain's name in a message: those of this realm have at most nine.
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

/// An entry whose size, signatures, realm, chain, sequence and parent were checked.
///
/// [`VerifiedEntry::verify`] and [`VerifiedEntry::genesis`] (for the first entry, which vouches
/// for itself and *is* the realm id) share the one constructor.
#[derive(Debug, Clone)]
pub struct VerifiedEntry {
    bytes: Vec<u8>,
    chain: ChainId,
    head: Head,
    payload: Payload,
    signers: Vec<PublicKey>,
}

impl VerifiedEntry {
    /// Checks the bytes of an entry, in this order: size, envelope, format, realm, chain,
    /// signatures, sequence, parent, kind. Nothing of the payload is looked at before a
    /// signature of a key that may sign holds over it.
    pub fn verify(bytes: &[u8], trust: &Trust<'_>) -> Result<Self, Refusal> {
        let envelope = open(bytes)?;
        if envelope.realm != trust.realm.digest() {
            return Err(Refusal::new(
                RefusalCode::WrongRealm,
                format!(
                    "the entry is for {}, this is {}",
                    RealmId::new(envelope.realm),
                    trust.realm
                ),
            ));
        }
        if ChainId::of(&envelope.chain) != Some(trust.chain) {
            // Nobody vouches for these bytes yet.
            let chain: String = envelope.chain.chars().take(CHAIN_CHARS_SHOWN_MAX).collect();
            return Err(Refusal::new(
                RefusalCode::WrongChain,
                format!(
                    "the entry is for chain `{}`, expected `{}`",
                    printable(&chain),
                    trust.chain.as_str()
                ),
            ));
        }
        let signers = check_signatures(&envelope, trust.keys, trust.threshold)?;
        // The order matters: a raw look at seq and prev first, so that a replay of a kind this
        // version does not know is a replay.
        let raw: RawPayload = decode(&envelope.payload, "payload")?;
        let head = Head {
            seq: raw.seq,
            hash: Digest::of(&envelope.payload),
        };
        check_position(head, raw.prev, trust.head)?;
        let payload = Payload::from_bytes(&envelope.payload)?;
        Ok(Self::new(bytes, trust.chain, head, payload, signers))
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
        let threshold_fits = usize::try_from(genesis.threshold)
            .is_ok_and(|threshold| (1..=genesis.owners.len()).contains(&threshold));
        if !threshold_fits || genesis.owners.len() > SIGNATURES_MAX {
            return Err(Refusal::new(
                RefusalCode::Malformed,
                "a genesis names 1 to 16 owners, and a threshold of at least 1 and at most their number",
            ));
        }
        let signers = check_signatures(&envelope, &genesis.owners, genesis.threshold)?;
        Ok(Self::new(
            bytes,
            ChainId::Authority,
            realm.origin(),
            payload,
            signers,
        ))
    }

    // The one constructor.
    fn new(
        bytes: &[u8],
        chain: ChainId,
        head: Head,
        payload: Payload,
        signers: Vec<PublicKey>,
    ) -> Self {
        Self {
            bytes: bytes.to_vec(),
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

fn check_signatures(
    envelope: &Envelope,
    keys: &[PublicKey],
    threshold: u32,
) -> Result<Vec<PublicKey>, Refusal> {
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
    if signers.len() < usize::try_from(threshold).unwrap_or(usize::MAX).max(1) {
        let given: Vec<String> = envelope
            .signatures
            .iter()
            .map(|signature| {
                format!(
                    "ed25519:{}",
                    bs58::encode(signature.key.as_bytes()).into_string()
                )
            })
            .collect();
        return Err(Refusal::new(
            RefusalCode::WrongOwner,
            format!(
                "signed by {}; {} of the {threshold} owner signatures that are needed",
                given.join(", "),
                signers.len()
            ),
        ));
    }
    Ok(signers)
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
