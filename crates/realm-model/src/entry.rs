//! Signed entries of the realm's chains: the envelope, the payload, and the one way to a
//! [`VerifiedEntry`]. Not the chains themselves (who may sign, what is in force): that is control.
//!
//! An entry is signed, stored and sent as the exact bytes that were made once. The signature
//! covers PAE(`realm.entry.v1`, realm id, chain, payload); the payload carries the user's files
//! byte for byte. Format: docs/formats.md.

use std::fmt;
use std::str::FromStr;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::key::{PublicKey, SecretKey, Signature};
use crate::name::{ComponentName, NodeName};
use crate::refusal::{Refusal, RefusalCode};

/// An entry larger than this is refused before it is parsed: room for a manifest of thousands of
/// lines, and little enough to keep whole in memory, on disk and in one message.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024;

/// Signatures beyond this are refused: no realm has more owners, and each costs a verification.
pub const SIGNATURES_MAX: usize = 16;

/// The format written by this version.
pub const FORMAT: u8 = 1;

const DOMAIN: &[u8] = b"realm.entry.v1";

/// The identity of a realm: the SHA-256 of its genesis payload, written `realm:` and base58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmId(Digest);

/// A chain of a realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainId {
    /// Who may sign what: owners, nodes.
    Authority,
    /// What shall run: manifests, pushes, restarts.
    Default,
}

/// The last entry of a chain: its sequence number and the SHA-256 of its payload.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Encode, Decode,
)]
pub struct Head {
    /// 0 for the origin, then +1 for each entry.
    #[n(0)]
    pub seq: u64,
    /// SHA-256 of the payload.
    #[n(1)]
    pub hash: Digest,
}

/// What an entry says. Each variant has a number of its own for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Kind 0, authority: the first entry of a realm.
    Genesis(Genesis),
    /// Kind 1, authority: a node's key may act under a name.
    ApproveNode(ApproveNode),
    /// Kind 2, authority: a node's key may not act any longer.
    RevokeNode(RevokeNode),
    /// Kind 16, namespace: the whole desired state.
    Manifest(ManifestBody),
    /// Kind 17, namespace: one component's pin changes.
    Push(PushBody),
    /// Kind 18, namespace: replicas of a component start afresh.
    Restart(RestartBody),
}

/// Kind 0: the owners of a realm. Its payload's SHA-256 is the realm's id.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Genesis {
    /// Keys that may sign.
    #[n(0)]
    pub owners: Vec<PublicKey>,
    /// How many of them must sign each entry.
    #[n(1)]
    pub threshold: u32,
    /// 32 random bytes: two realms of one owner differ.
    #[n(2)]
    pub nonce: Digest,
}

/// Kind 1: the owner's approval of a node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ApproveNode {
    /// The node's key.
    #[n(0)]
    pub key: PublicKey,
    /// The name it may use.
    #[n(1)]
    pub name: NodeName,
    /// Tags the owner vouches for.
    #[n(2)]
    pub tags: Vec<String>,
}

/// Kind 2: the end of a node's approval.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RevokeNode {
    /// The node's key.
    #[n(0)]
    pub key: PublicKey,
}

/// Kind 16: `realm.toml` and `realm.lock`, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ManifestBody {
    /// The bytes of the manifest file (UTF-8 TOML).
    #[n(0)]
    pub manifest: String,
    /// The bytes of the lock file (UTF-8 TOML).
    #[n(1)]
    pub lock: String,
}

/// Kind 17: a new lock, in which one component's pin and the version differ from the last.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PushBody {
    /// The component whose pin changes.
    #[n(0)]
    pub component: ComponentName,
    /// SHA-256 of the manifest that stays in force.
    #[n(1)]
    pub manifest: Digest,
    /// The bytes of the new lock file.
    #[n(2)]
    pub lock: String,
}

/// Kind 18: a restart, as a fact that survives partitions (not a message).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RestartBody {
    /// The component to restart.
    #[n(0)]
    pub component: ComponentName,
    /// The nodes it concerns; empty: all.
    #[n(1)]
    pub nodes: Vec<NodeName>,
}

/// The signed part of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The previous sequence number + 1.
    pub seq: u64,
    /// SHA-256 of the previous payload; the realm id for the first entry of a namespace chain.
    pub prev: Digest,
    /// The authority chain's head that the signer saw.
    pub authority: Head,
    /// Seconds since 1970 by the signer's clock: for people, never for order.
    pub created_unix_s: u64,
    /// What it says.
    pub body: Body,
}

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

#[derive(Encode, Decode)]
struct Envelope {
    #[n(0)]
    format: u8,
    #[n(1)]
    realm: Digest,
    #[n(2)]
    chain: String,
    #[n(3)]
    payload: ByteVec,
    #[n(4)]
    signatures: Vec<KeySignature>,
}

#[derive(Encode, Decode)]
struct KeySignature {
    // Kept as bytes, not as a key: a key that is no point of the curve is a wrong owner, not a malformed entry.
    #[n(0)]
    key: Digest,
    #[n(1)]
    signature: Signature,
}

#[derive(Encode, Decode)]
struct RawPayload {
    #[n(0)]
    seq: u64,
    #[n(1)]
    prev: Digest,
    #[n(2)]
    authority: Head,
    #[n(3)]
    created_unix_s: u64,
    #[n(4)]
    kind: u32,
    #[n(5)]
    body: ByteVec,
}

impl RealmId {
    /// The id of the realm whose genesis payload has this digest.
    pub const fn new(genesis: Digest) -> Self {
        Self(genesis)
    }

    /// The digest of the genesis payload.
    pub const fn digest(&self) -> Digest {
        self.0
    }

    /// The place before the first entry of a namespace chain, and the authority chain's head
    /// right after genesis.
    pub const fn origin(&self) -> Head {
        Head {
            seq: 0,
            hash: self.0,
        }
    }
}

impl ChainId {
    /// Every chain, in the order in which they are read at start.
    pub const ALL: [Self; 2] = [Self::Authority, Self::Default];

    /// The name in signatures and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Default => "default",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chain| chain.as_str() == text)
    }
}

impl Payload {
    /// The bytes that are hashed and signed; the same payload always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, body) = self.body.encode();
        encode(&RawPayload {
            seq: self.seq,
            prev: self.prev,
            authority: self.authority,
            created_unix_s: self.created_unix_s,
            kind,
            body: body.into(),
        })
    }

    /// Reads signed bytes. Call it only after the signature held.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let raw: RawPayload = decode(bytes, "payload")?;
        Ok(Self {
            seq: raw.seq,
            prev: raw.prev,
            authority: raw.authority,
            created_unix_s: raw.created_unix_s,
            body: Body::decode(raw.kind, &raw.body)?,
        })
    }

    /// Signs with one key and returns the entry's bytes.
    pub fn sign(&self, realm: RealmId, chain: ChainId, key: &SecretKey) -> Vec<u8> {
        let payload = self.to_bytes();
        let signature = key.sign(&signed_message(realm.0, chain.as_str(), &payload));
        envelope(realm, chain, &payload, &[(key.public(), signature)])
    }

    /// Puts signatures that were made elsewhere around the payload and returns the entry's bytes.
    pub fn with_signatures(
        &self,
        realm: RealmId,
        chain: ChainId,
        signatures: &[(PublicKey, Signature)],
    ) -> Vec<u8> {
        envelope(realm, chain, &self.to_bytes(), signatures)
    }

    /// The message that a signature of this payload covers.
    pub fn message(&self, realm: RealmId, chain: ChainId) -> Vec<u8> {
        signed_message(realm.0, chain.as_str(), &self.to_bytes())
    }
}

impl Body {
    fn encode(&self) -> (u32, Vec<u8>) {
        match self {
            Self::Genesis(body) => (0, encode(body)),
            Self::ApproveNode(body) => (1, encode(body)),
            Self::RevokeNode(body) => (2, encode(body)),
            Self::Manifest(body) => (16, encode(body)),
            Self::Push(body) => (17, encode(body)),
            Self::Restart(body) => (18, encode(body)),
        }
    }

    fn decode(kind: u32, bytes: &[u8]) -> Result<Self, Refusal> {
        Ok(match kind {
            0 => Self::Genesis(decode(bytes, "genesis")?),
            1 => Self::ApproveNode(decode(bytes, "approval")?),
            2 => Self::RevokeNode(decode(bytes, "revocation")?),
            16 => Self::Manifest(decode(bytes, "manifest body")?),
            17 => Self::Push(decode(bytes, "push")?),
            18 => Self::Restart(decode(bytes, "restart")?),
            _ => {
                return Err(Refusal::new(
                    RefusalCode::NeedsNewerAgent,
                    format!("entry kind {kind} is not known to this version"),
                ));
            }
        })
    }

    /// A short word for logs and listings.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Genesis(_) => "genesis",
            Self::ApproveNode(_) => "approve-node",
            Self::RevokeNode(_) => "revoke-node",
            Self::Manifest(_) => "manifest",
            Self::Push(_) => "push",
            Self::Restart(_) => "restart",
        }
    }
}

impl VerifiedEntry {
    /// Checks the bytes of an entry, in this order: size, envelope, format, realm, chain,
    /// signatures, sequence, parent, kind. Nothing of the payload is looked at before a
    /// signature of a key that may sign holds over it.
    pub fn verify(bytes: &[u8], trust: &Trust<'_>) -> Result<Self, Refusal> {
        let envelope = open(bytes)?;
        if envelope.realm != trust.realm.0 {
            return Err(Refusal::new(
                RefusalCode::WrongRealm,
                format!(
                    "the entry is for {}, this is {}",
                    RealmId(envelope.realm),
                    trust.realm
                ),
            ));
        }
        if ChainId::of(&envelope.chain) != Some(trust.chain) {
            let chain: String = envelope.chain.chars().take(40).collect();
            return Err(Refusal::new(
                RefusalCode::WrongChain,
                format!(
                    "the entry is for chain `{chain}`, expected `{}`",
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
        let realm = RealmId(Digest::of(&envelope.payload));
        if expected.is_some_and(|expected| expected != realm) || envelope.realm != realm.0 {
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

/// Makes the first entry of a realm with one owner; `nonce` is 32 random bytes.
pub fn found_realm(owner: &SecretKey, nonce: [u8; 32], created_unix_s: u64) -> (RealmId, Vec<u8>) {
    let zero = Digest::from_bytes([0; 32]);
    let payload = Payload {
        seq: 0,
        prev: zero,
        authority: Head { seq: 0, hash: zero },
        created_unix_s,
        body: Body::Genesis(Genesis {
            owners: vec![owner.public()],
            threshold: 1,
            nonce: Digest::from_bytes(nonce),
        }),
    };
    let realm = RealmId(Digest::of(&payload.to_bytes()));
    (realm, payload.sign(realm, ChainId::Authority, owner))
}

fn open(bytes: &[u8]) -> Result<Envelope, Refusal> {
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(Refusal::new(
            RefusalCode::Oversized,
            format!("{} bytes, at most {ENTRY_BYTES_MAX} are taken", bytes.len()),
        ));
    }
    let envelope: Envelope = decode(bytes, "entry")?;
    if envelope.format != FORMAT {
        return Err(Refusal::new(
            RefusalCode::NeedsNewerAgent,
            format!(
                "entry format {} is not known to this version",
                envelope.format
            ),
        ));
    }
    if envelope.signatures.len() > SIGNATURES_MAX {
        return Err(Refusal::new(
            RefusalCode::Malformed,
            format!(
                "{} signatures, at most {SIGNATURES_MAX} are taken",
                envelope.signatures.len()
            ),
        ));
    }
    Ok(envelope)
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

/// Pre-authentication encoding: every part with its length, so that no two lists of parts give
/// the same bytes (after DSSE, with binary lengths).
fn signed_message(realm: Digest, chain: &str, payload: &[u8]) -> Vec<u8> {
    let parts = [
        DOMAIN,
        realm.as_bytes().as_slice(),
        chain.as_bytes(),
        payload,
    ];
    let mut message = Vec::with_capacity(payload.len() + 128);
    for part in parts {
        message.extend_from_slice(&(part.len() as u64).to_le_bytes());
        message.extend_from_slice(part);
    }
    message
}

fn envelope(
    realm: RealmId,
    chain: ChainId,
    payload: &[u8],
    signatures: &[(PublicKey, Signature)],
) -> Vec<u8> {
    encode(&Envelope {
        format: FORMAT,
        realm: realm.0,
        chain: chain.as_str().to_owned(),
        payload: payload.to_vec().into(),
        signatures: signatures
            .iter()
            .map(|(key, signature)| KeySignature {
                key: Digest::from_bytes(*key.as_bytes()),
                signature: *signature,
            })
            .collect(),
    })
}

fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into a Vec does not fail")
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8], what: &str) -> Result<T, Refusal> {
    let malformed =
        |why: String| Refusal::new(RefusalCode::Malformed, format!("not a {what}: {why}"));
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder
        .decode()
        .map_err(|error| malformed(error.to_string()))?;
    // Bytes after the value would be covered by no meaning: two encodings of one entry.
    if decoder.position() != bytes.len() {
        return Err(malformed("bytes follow it".to_owned()));
    }
    Ok(value)
}

impl fmt::Display for RealmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "realm:{}", bs58::encode(self.0.as_bytes()).into_string())
    }
}

impl fmt::Debug for RealmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a realm id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a realm id is `realm:` and base58 of 32 bytes")]
pub struct RealmIdError;

impl FromStr for RealmId {
    type Err = RealmIdError;

    fn from_str(text: &str) -> Result<Self, RealmIdError> {
        let base58 = text.strip_prefix("realm:").ok_or(RealmIdError)?;
        let mut bytes = [0; 32];
        match bs58::decode(base58).onto(&mut bytes) {
            Ok(32) => Ok(Self(Digest::from_bytes(bytes))),
            Ok(_) | Err(_) => Err(RealmIdError),
        }
    }
}

impl Serialize for RealmId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RealmId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
