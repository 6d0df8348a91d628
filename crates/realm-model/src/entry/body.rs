//! What an entry says: the kinds, each with a number of its own. Not who may say it: that is control.
//! The kinds that give power away and take it back are in `power`.

use minicbor::{Decode, Encode};

use super::power::{
    ApproveUntil, Delegate, Fence, Recover, Resolve, Rotate, SetBeacon, SetNode, Undelegate,
};
use super::wire::{decode, encode};
use super::{ChainId, NamespaceName};
use crate::digest::Digest;
use crate::key::PublicKey;
use crate::name::{ComponentName, NodeName};
use crate::refusal::{Refusal, RefusalCode};

/// The kind that may stand at a place where another entry stands already.
pub(super) const RECOVER: u32 = 10;

/// What an entry says. Each variant has a number of its own for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Kind 0, authority: the first entry of a realm.
    Genesis(Genesis),
    /// Kind 1, authority: a node's key may act under a name.
    ApproveNode(ApproveNode),
    /// Kind 2, authority: a node's key may not act any longer.
    RevokeNode(RevokeNode),
    /// Kind 3, authority: what a node may be given.
    SetNode(SetNode),
    /// Kind 4, authority: an approval that ends by itself.
    ApproveUntil(ApproveUntil),
    /// Kind 5, authority: other owners.
    Rotate(Rotate),
    /// Kind 6, authority: a key of its own for a namespace.
    Delegate(Delegate),
    /// Kind 7, authority: a namespace comes back to the owners.
    Undelegate(Undelegate),
    /// Kind 9, authority: which of two histories of a namespace holds.
    Resolve(Resolve),
    /// Kind 10, authority: replaces what stands at its place, and all that follows.
    Recover(Recover),
    /// Kind 11, authority: who says every so often that the realm goes on.
    SetBeacon(SetBeacon),
    /// Kind 16, namespace: the whole desired state.
    Manifest(ManifestBody),
    /// Kind 17, namespace: one component's pin changes.
    Push(PushBody),
    /// Kind 18, namespace: replicas of a component start afresh.
    Restart(RestartBody),
    /// Kind 19, namespace: requests are divided otherwise between the versions of an app.
    Weigh(WeighBody),
    /// Kind 20, namespace: a component goes back to what it ran with before.
    Rollback(RollbackBody),
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

/// Kind 19: how the requests of an app are divided from now on, until the manifest says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct WeighBody {
    /// The app: a component's name without a label.
    #[n(0)]
    pub app: ComponentName,
    /// Versions of it; those of its routes that are not named get nothing.
    #[n(1)]
    pub weights: Vec<Weight>,
}

/// What one version gets.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Weight {
    /// The version.
    #[n(0)]
    pub component: ComponentName,
    /// How many requests of all together.
    #[n(1)]
    pub weight: u32,
}

/// Kind 20: a component runs again with the bytes and the settings of an earlier entry, until the next
/// manifest or push.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RollbackBody {
    /// The component.
    #[n(0)]
    pub component: ComponentName,
    /// The entry of this chain that brought what it goes back to.
    #[n(1)]
    pub to: u64,
    /// The bytes of the new lock file: the version, and at most this component's pin, differ.
    #[n(2)]
    pub lock: String,
}

impl Body {
    pub(super) fn encode(&self) -> (u32, Vec<u8>) {
        match self {
            Self::Genesis(body) => (0, encode(body)),
            Self::ApproveNode(body) => (1, encode(body)),
            Self::RevokeNode(body) => (2, encode(body)),
            Self::SetNode(body) => (3, encode(body)),
            Self::ApproveUntil(body) => (4, encode(body)),
            Self::Rotate(body) => (5, encode(body)),
            Self::Delegate(body) => (6, encode(body)),
            Self::Undelegate(body) => (7, encode(body)),
            Self::Resolve(body) => (9, encode(body)),
            Self::Recover(body) => (RECOVER, encode(body)),
            Self::SetBeacon(body) => (11, encode(body)),
            Self::Manifest(body) => (16, encode(body)),
            Self::Push(body) => (17, encode(body)),
            Self::Restart(body) => (18, encode(body)),
            Self::Weigh(body) => (19, encode(body)),
            Self::Rollback(body) => (20, encode(body)),
        }
    }

    pub(super) fn decode(kind: u32, bytes: &[u8]) -> Result<Self, Refusal> {
        Ok(match kind {
            0 => Self::Genesis(decode(bytes, "genesis")?),
            1 => Self::ApproveNode(decode(bytes, "approval")?),
            2 => Self::RevokeNode(decode(bytes, "revocation")?),
            3 => Self::SetNode(decode(bytes, "setting of a node")?),
            4 => Self::ApproveUntil(decode(bytes, "approval")?),
            5 => Self::Rotate(decode(bytes, "rotation")?),
            6 => Self::Delegate(decode(bytes, "delegation")?),
            7 => Self::Undelegate(decode(bytes, "end of a delegation")?),
            9 => Self::Resolve(decode(bytes, "resolution")?),
            RECOVER => Self::Recover(decode(bytes, "recovery")?),
            11 => Self::SetBeacon(decode(bytes, "setting of the beacon")?),
            16 => Self::Manifest(decode(bytes, "manifest body")?),
            17 => Self::Push(decode(bytes, "push")?),
            18 => Self::Restart(decode(bytes, "restart")?),
            19 => Self::Weigh(decode(bytes, "division of requests")?),
            20 => Self::Rollback(decode(bytes, "rollback")?),
            _ => {
                return Err(Refusal::new(
                    RefusalCode::NeedsNewerAgent,
                    format!("entry kind {kind} is not known to this version"),
                ));
            }
        })
    }

    /// The chain that it belongs into; for what a namespace says, that of `namespace`.
    pub const fn chain(&self, namespace: NamespaceName) -> ChainId {
        if self.is_authority() {
            ChainId::Authority
        } else {
            ChainId::Namespace(namespace)
        }
    }

    /// Whether it belongs into the authority chain, and not into that of a namespace.
    pub const fn is_authority(&self) -> bool {
        match self {
            Self::Genesis(_)
            | Self::ApproveNode(_)
            | Self::RevokeNode(_)
            | Self::SetNode(_)
            | Self::ApproveUntil(_)
            | Self::Rotate(_)
            | Self::Delegate(_)
            | Self::Undelegate(_)
            | Self::Resolve(_)
            | Self::Recover(_)
            | Self::SetBeacon(_) => true,
            Self::Manifest(_)
            | Self::Push(_)
            | Self::Restart(_)
            | Self::Weigh(_)
            | Self::Rollback(_) => false,
        }
    }

    /// What it says about where namespaces stand.
    pub fn fences(&self) -> &[Fence] {
        match self {
            Self::Rotate(body) => &body.fences,
            Self::Delegate(body) => &body.fences,
            Self::Undelegate(body) => &body.fences,
            Self::Resolve(body) => std::slice::from_ref(&body.fence),
            Self::Recover(body) => &body.fences,
            Self::Genesis(_)
            | Self::ApproveNode(_)
            | Self::RevokeNode(_)
            | Self::SetNode(_)
            | Self::ApproveUntil(_)
            | Self::SetBeacon(_)
            | Self::Manifest(_)
            | Self::Push(_)
            | Self::Restart(_)
            | Self::Weigh(_)
            | Self::Rollback(_) => &[],
        }
    }

    /// A short word for logs and listings.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Genesis(_) => "genesis",
            Self::ApproveNode(_) => "approve-node",
            Self::RevokeNode(_) => "revoke-node",
            Self::SetNode(_) => "set-node",
            Self::ApproveUntil(_) => "approve-until",
            Self::Rotate(_) => "rotate",
            Self::Delegate(_) => "delegate",
            Self::Undelegate(_) => "undelegate",
            Self::Resolve(_) => "resolve",
            Self::Recover(_) => "recover",
            Self::SetBeacon(_) => "set-beacon",
            Self::Manifest(_) => "manifest",
            Self::Push(_) => "push",
            Self::Restart(_) => "restart",
            Self::Weigh(_) => "weigh",
            Self::Rollback(_) => "rollback",
        }
    }
}
