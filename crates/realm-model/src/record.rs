//! What a node says of itself: one signed record per node, written by that node alone.
//!
//! A record is ordered by its [`Version`] and by nothing else; no clock is in it. The envelope has
//! one encoding, its body may have fields that this version does not know. Format:
//! docs/formats.md. Not here: which record of a key counts, and who is reached (control).

mod body;
mod lease;
#[cfg(test)]
mod tests;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::cbor::{decode, encode};
use crate::digest::Digest;
use crate::entry::RealmId;
use crate::key::{PublicKey, SecretKey, Signature};
use crate::wire::authenticated;

pub use crate::wire::KeyBytes;
pub use body::{
    Alarm, ChainFork, ChainHead, ComponentSummary, Load, Machine, NodeBody, PeerLink, PendingJoin,
    ReachedBy, RefusalCount, SeatSummary, limits,
};
pub use lease::{LeaseAsk, LeaseGrant, LeaseState};

/// A larger record is neither made nor read: room for 4,096 blobs and 500 components with a
/// reason each, and a hundred of them are still little to send after a partition.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;

/// The body's share of [`RECORD_BYTES_MAX`]: the rest is the envelope.
pub const BODY_BYTES_MAX: usize = RECORD_BYTES_MAX - 256;

/// The format written by this version.
pub const RECORD_FORMAT: u8 = 1;

/// The alarm of a node that found another machine with its key.
pub const CLONED_KEY: &str = "cloned-key";

/// The alarm of a node to which no newer beacon came for long, or not what the newest one names.
pub const STALE: &str = "stale";

/// The alarm of a node that stopped at an entry of a kind that it does not know.
pub const UPGRADE_NEEDED: &str = "upgrade-needed";

/// The alarm of a node that put a record of another one aside: it does not read, or whoever read it
/// panicked.
pub const RECORD_POISON: &str = "record-poison";

/// The alarm of a node that does not listen to another one for a while: what came of it was bad again and again.
pub const PEER_MUTED: &str = "peer-muted";

/// The alarm of a node at which a new version of a component did not get healthy by its deadline.
pub const ROLLOUT_FAILED: &str = "rollout-failed";

/// The alarm of a node whose disk takes nothing.
pub const NOT_DURABLE: &str = "not-durable";

/// The alarm of a node that cannot listen on the port of a server.
pub const PORT_BUSY: &str = "port-busy";

/// The alarm of a node that cannot read a certificate, its key, or who vouches for clients.
pub const CERTIFICATE_BROKEN: &str = "certificate-broken";
/// An alarm: what stands behind a binding does not answer.
pub const BACKEND_DOWN: &str = "backend-down";

/// The alarm of a node with a certificate that ended, or ends soon.
pub const CERTIFICATE_EXPIRES: &str = "certificate-expires";

/// The alarm of a node that an authority gave no certificate.
pub const ACME_FAILED: &str = "acme-failed";

/// The alarm of a node that shall run a component and cannot open a secret of it.
pub const SECRET_SEALED_AWAY: &str = "secret-sealed-away";

/// The alarm of a node that is to order certificates, and knows no name for one.
pub const ACME_NAMELESS: &str = "acme-nameless";

const DOMAIN: &[u8] = b"realm.record.v1";

/// Which of two records of one key is the newer one: compared field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Version {
    /// Counts the starts of the agent; durable at the node before the first record with it.
    #[n(0)]
    pub epoch: u64,
    /// A random number of this start. It orders nothing but two machines that count alike, so
    /// that a copied key is noticed, and does not make the record flap.
    #[n(1)]
    pub boot: u64,
    /// Counts the records of this start.
    #[n(2)]
    pub counter: u64,
}

/// A record as its node signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Whose it is.
    pub node: PublicKey,
    /// Its place among the records of that node.
    pub version: Version,
    /// SHA-256 of the encoded body.
    pub digest: Digest,
    /// What it says.
    pub body: NodeBody,
}

/// What can be said of a record before its signature is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whose it claims to be.
    pub node: KeyBytes,
    /// Its claimed place.
    pub version: Version,
    /// SHA-256 of the encoded body.
    pub digest: Digest,
}

/// Why bytes are not a record that counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Larger than [`RECORD_BYTES_MAX`].
    #[error("a record of {0} bytes, at most {RECORD_BYTES_MAX} are taken")]
    Oversized(usize),
    /// Another format than [`RECORD_FORMAT`].
    #[error("record format {0} is not known to this version")]
    Format(u8),
    /// The envelope does not read.
    #[error("this is no record: {0}")]
    Malformed(String),
    /// Made for another realm.
    #[error("the record is for another realm")]
    WrongRealm,
    /// The signature of the key that it names does not hold.
    #[error("the signature does not hold over these bytes")]
    BadSignature,
    /// Signed by its node, but the body does not read or breaks a cap.
    #[error("its node signed something that is no record: {0}")]
    Poison(String),
}

#[derive(Encode, Decode)]
struct Envelope {
    #[n(0)]
    format: u8,
    #[n(1)]
    realm: Digest,
    #[n(2)]
    node: KeyBytes,
    #[n(3)]
    version: Version,
    #[n(4)]
    body: ByteVec,
    #[n(5)]
    signature: Signature,
}

/// An envelope that was read: [`Opened::claim`] is cheap, [`Opened::verify`] is not.
pub struct Opened {
    envelope: Envelope,
    claim: Claim,
}

impl NodeRecord {
    /// Signs what a node says of itself and returns the record's bytes. The body is made to fit
    /// its caps first ([`NodeBody::fit`]).
    pub fn sign(realm: RealmId, key: &SecretKey, version: Version, body: NodeBody) -> Vec<u8> {
        seal(realm, key, version, encode(&body.fit()))
    }

    /// Reads the envelope: size, form and realm. Nothing of it is believed yet.
    pub fn open(bytes: &[u8], realm: RealmId) -> Result<Opened, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::Oversized(bytes.len()));
        }
        if let Some(format) = format_of(bytes)
            && format != RECORD_FORMAT
        {
            return Err(RecordError::Format(format));
        }
        let envelope: Envelope = decode(bytes).map_err(RecordError::Malformed)?;
        // One encoding: otherwise anybody could make other bytes of a good record.
        if encode(&envelope) != bytes {
            let why = "it is not in its one encoding";
            return Err(RecordError::Malformed(why.to_owned()));
        }
        if envelope.realm != realm.digest() {
            return Err(RecordError::WrongRealm);
        }
        let claim = Claim {
            node: envelope.node,
            version: envelope.version,
            digest: Digest::of(&envelope.body),
        };
        Ok(Opened { envelope, claim })
    }
}

impl Opened {
    /// What it says of itself, which anybody could have written.
    pub const fn claim(&self) -> Claim {
        self.claim
    }

    /// Checks the signature of `node`, which must be the key that the record names.
    pub fn is_signed_by(&self, node: PublicKey) -> Result<(), RecordError> {
        let envelope = &self.envelope;
        let message = message(
            &envelope.realm,
            node.into(),
            self.claim.version,
            &envelope.body,
        );
        if KeyBytes::from(node) != envelope.node || !node.verifies(&message, &envelope.signature) {
            return Err(RecordError::BadSignature);
        }
        Ok(())
    }

    /// Checks the signature of `node`, and only then reads the body.
    pub fn verify(&self, node: PublicKey) -> Result<NodeRecord, RecordError> {
        self.is_signed_by(node)?;
        let body: NodeBody = decode(&self.envelope.body).map_err(RecordError::Poison)?;
        body.check().map_err(RecordError::Poison)?;
        Ok(NodeRecord {
            node,
            version: self.claim.version,
            digest: self.claim.digest,
            body,
        })
    }
}

fn seal(realm: RealmId, key: &SecretKey, version: Version, body: Vec<u8>) -> Vec<u8> {
    let node = KeyBytes::from(key.public());
    let signature = key.sign(&message(&realm.digest(), node, version, &body));
    encode(&Envelope {
        format: RECORD_FORMAT,
        realm: realm.digest(),
        node,
        version,
        body: body.into(),
        signature,
    })
}

fn message(realm: &Digest, node: KeyBytes, version: Version, body: &[u8]) -> Vec<u8> {
    authenticated(&[
        DOMAIN,
        realm.as_bytes(),
        node.as_bytes(),
        &version.epoch.to_le_bytes(),
        &version.boot.to_le_bytes(),
        &version.counter.to_le_bytes(),
        body,
    ])
}

fn format_of(bytes: &[u8]) -> Option<u8> {
    let mut decoder = minicbor::Decoder::new(bytes);
    decoder.array().ok()?;
    decoder.u8().ok()
}
