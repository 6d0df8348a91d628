//! Bodies that give power away and take it back: nodes' settings, owners, delegates, and the fences
//! that say where a namespace stood. Not who may say it, and not what follows: that is control.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::{Head, NamespaceName};
use crate::key::PublicKey;
use crate::name::NodeName;

/// Where a namespace's chain stands at an entry of the authority chain. What was signed with an older
/// authority head and stands beyond `head`, or beside it, is abandoned: so taking power away
/// cannot be undone by signing with an old date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Fence {
    /// The namespace.
    #[n(0)]
    pub namespace: NamespaceName,
    /// The last entry that is known to be common to all histories.
    #[n(1)]
    pub base: Head,
    /// The last entry that holds.
    #[n(2)]
    pub head: Head,
}

/// Kind 3: what a node may be given. Each entry names the whole setting.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SetNode {
    /// The node's key.
    #[n(0)]
    pub key: PublicKey,
    /// No component starts there that was not wanted there before.
    #[n(1)]
    pub cordoned: bool,
    /// Nothing runs there.
    #[n(2)]
    pub drained: bool,
}

/// Kind 4: [`ApproveNode`](super::ApproveNode) with an end.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ApproveUntil {
    /// The node's key.
    #[n(0)]
    pub key: PublicKey,
    /// The name it may use.
    #[n(1)]
    pub name: NodeName,
    /// Tags the owner vouches for.
    #[n(2)]
    pub tags: Vec<String>,
    /// The end, in seconds since 1970.
    #[n(3)]
    pub not_after_unix_s: u64,
}

/// Kind 5: from here on these are the owners. The threshold of the owners before it signs, and that of
/// the owners in it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Rotate {
    /// Keys that may sign.
    #[n(0)]
    pub owners: Vec<PublicKey>,
    /// How many of them must sign each entry.
    #[n(1)]
    pub threshold: u32,
    /// Keys that are kept offline: each alone may resolve and recover.
    #[n(2)]
    pub recovery: Vec<PublicKey>,
    /// Where the namespaces of the owners stand.
    #[n(3)]
    pub fences: Vec<Fence>,
}

/// Kind 6: one key signs for a namespace, within a scope. A delegate without components and powers
/// is a reader.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Delegate {
    /// The namespace.
    #[n(0)]
    pub namespace: NamespaceName,
    /// The key that signs for it.
    #[n(1)]
    pub key: PublicKey,
    /// Names of components, `*` for any characters; each component must match one.
    #[n(2)]
    pub apps: Vec<String>,
    /// Hosts of routes, `*` for any characters; empty: any host, or none.
    #[n(3)]
    pub hosts: Vec<String>,
    /// Tags of nodes that routes may name; empty: any node.
    #[n(4)]
    pub tags: Vec<String>,
    /// What its manifests may grant; see [`Capability`](crate::grants::Capability).
    #[n(5)]
    pub capabilities: Vec<String>,
    /// Whether it may run commands on nodes.
    #[n(6)]
    pub may_exec: bool,
    /// Whether it may approve nodes.
    #[n(7)]
    pub may_approve: bool,
    /// Where the namespace stands; none for one that is new.
    #[n(8)]
    pub fences: Vec<Fence>,
    /// Replicas that one route may ask for.
    #[n(9)]
    pub replicas_max: Option<u32>,
    /// The end, in seconds since 1970.
    #[n(10)]
    pub not_after_unix_s: Option<u64>,
}

impl Delegate {
    /// Whether it may look, and nothing else.
    pub fn is_reader(&self) -> bool {
        self.apps.is_empty() && !self.may_exec && !self.may_approve
    }
}

/// Kind 7: the owners sign for the namespace again. What runs goes on.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Undelegate {
    /// The namespace.
    #[n(0)]
    pub namespace: NamespaceName,
    /// Where it stands.
    #[n(1)]
    pub fences: Vec<Fence>,
}

/// Kind 9: of two histories of a namespace, that of the fence's head holds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Resolve {
    /// The last common entry, and the winner.
    #[n(0)]
    pub fence: Fence,
}

/// Kind 10: stands at a sequence number where another entry may stand already, which is abandoned
/// with all that follow it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Recover {
    /// Keys that may sign.
    #[n(0)]
    pub owners: Vec<PublicKey>,
    /// How many of them must sign each entry.
    #[n(1)]
    pub threshold: u32,
    /// Keys that are kept offline.
    #[n(2)]
    pub recovery: Vec<PublicKey>,
    /// Where the namespaces of the owners stand.
    #[n(3)]
    pub fences: Vec<Fence>,
    /// Two entries at this very place. The owners need them; a recovery key does not.
    #[n(4)]
    pub fork: Option<TwoEntries>,
}

/// Kind 11: which key signs beacons, and how often. Each entry names the whole setting.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SetBeacon {
    /// What people call it; no namespace has this name.
    #[n(0)]
    pub name: NamespaceName,
    /// Seconds between two beacons; [`BEACON_EVERY_S`](crate::beacon::BEACON_EVERY_S).
    #[n(1)]
    pub every_s: u32,
    /// The key; absent: nobody signs beacons, and none is missed.
    #[n(2)]
    pub key: Option<PublicKey>,
}

/// Two entries of one chain with one sequence number and one parent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TwoEntries {
    /// The bytes of one.
    #[n(0)]
    pub first: ByteVec,
    /// The bytes of the other.
    #[n(1)]
    pub second: ByteVec,
}
