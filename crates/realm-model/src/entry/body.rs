//! What an entry says: the kinds, each with a number of its own. Not who may say it: that is control.

use minicbor::{Decode, Encode};

use super::wire::{decode, encode};
use crate::digest::Digest;
use crate::key::PublicKey;
use crate::name::{ComponentName, NodeName};
use crate::refusal::{Refusal, RefusalCode};

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

impl Body {
    pub(super) fn encode(&self) -> (u32, Vec<u8>) {
        match self {
            Self::Genesis(body) => (0, encode(body)),
            Self::ApproveNode(body) => (1, encode(body)),
            Self::RevokeNode(body) => (2, encode(body)),
            Self::Manifest(body) => (16, encode(body)),
            Self::Push(body) => (17, encode(body)),
            Self::Restart(body) => (18, encode(body)),
        }
    }

    pub(super) fn decode(kind: u32, bytes: &[u8]) -> Result<Self, Refusal> {
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
