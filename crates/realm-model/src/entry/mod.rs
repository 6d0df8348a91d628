//! Signed entries of the realm's chains: the envelope, the payload, and the one way to a
//! [`VerifiedEntry`]. Not the chains themselves (who may sign, what is in force): that is control.
//!
//! An entry is signed, stored and sent as the exact bytes that were made once. The signature
//! covers PAE(`realm.entry.v1`, realm id, chain, payload); the payload carries the user's files
//! byte for byte. Format: docs/formats.md.

mod body;
mod fork;
mod id;
mod power;
mod verify;
mod wire;
mod words;

#[cfg(test)]
mod byte_tests;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::key::{PublicKey, SecretKey, Signature};
use crate::refusal::Refusal;

pub use body::{
    ApproveNode, Body, Genesis, ManifestBody, PushBody, RestartBody, RevokeNode, RollbackBody,
    WeighBody, Weight,
};
pub use fork::{ForkProof, ForkProofError};
pub use id::{
    ChainId, NAMESPACE_LENGTH_MAX, NamespaceName, NamespaceNameError, RealmId, RealmIdError,
};
pub use power::{
    ApproveUntil, Delegate, Fence, Recover, Resolve, Rotate, SetBeacon, SetNode, TwoEntries,
    Undelegate,
};
pub use verify::{Opened, Signed, Trust, VerifiedEntry, check_owners};
use wire::{RawPayload, decode, encode, envelope, signed_message};

/// An entry larger than this is refused before it is parsed: room for the largest manifest and for a
/// lock with a pin (some 130 bytes) of each of its components, and little enough to keep whole in
/// memory and in one message. To raise it breaks no reader of what was written before.
pub const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Signatures beyond this are refused: no realm has more owners, and each costs a verification.
pub const SIGNATURES_MAX: usize = 16;

/// The format written by this version.
pub const FORMAT: u8 = 1;

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
        Self::from_raw(decode(bytes, "payload")?)
    }

    fn from_raw(raw: RawPayload) -> Result<Self, Refusal> {
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
        let signature = key.sign(&signed_message(realm.digest(), chain.as_str(), &payload));
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
        signed_message(realm.digest(), chain.as_str(), &self.to_bytes())
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
    let realm = RealmId::new(Digest::of(&payload.to_bytes()));
    (realm, payload.sign(realm, ChainId::Authority, owner))
}
