//! What a key is to the realm: for whoever asks something of a node. Not for entries: those are judged
//! by what held at the authority head that their signer saw.

use realm_model::entry::NamespaceName;
use realm_model::key::PublicKey;
use realm_model::name::NodeName;

use super::{ApprovedNode, Authority, CLOCK_TOLERANCE_S};

/// What a key is to the realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// One of the owners.
    Owner,
    /// A key that may resolve and recover, and nothing else.
    Recovery,
    /// An approved node.
    Node(NodeName),
    /// Signs for a namespace, or has a power of its own.
    Delegate {
        /// The namespace.
        namespace: NamespaceName,
        /// Whether it may run commands on nodes.
        may_exec: bool,
        /// Whether it may approve nodes.
        may_approve: bool,
    },
    /// May look at status, logs and figures.
    Reader,
    /// Says every so often that the realm goes on, and nothing else.
    Beacon,
}

impl Authority {
    /// What `key` is to the realm at this time; `None` for a stranger, and for whom the time is over.
    pub fn role_of(&self, key: &PublicKey, now_unix_s: u64) -> Option<Role> {
        if self.owners.contains(key) {
            return Some(Role::Owner);
        }
        if self.recovery.contains(key) {
            return Some(Role::Recovery);
        }
        if let Some(name) = self.name_of(key) {
            let node = self.nodes.get(name);
            let current = node.is_some_and(|node| !node.is_expired(now_unix_s));
            return current.then(|| Role::Node(name.clone()));
        }
        if self.beacon.is_some_and(|beacon| beacon.key == *key) {
            return Some(Role::Beacon);
        }
        let delegate = self
            .delegates
            .values()
            .find(|delegate| delegate.key == *key)?;
        if is_over(delegate.not_after_unix_s, now_unix_s) {
            return None;
        }
        if delegate.is_reader() {
            return Some(Role::Reader);
        }
        Some(Role::Delegate {
            namespace: delegate.namespace,
            may_exec: delegate.may_exec,
            may_approve: delegate.may_approve,
        })
    }
}

impl Authority {
    /// Keys of the nodes whose approval holds at this time.
    pub fn members(&self, now_unix_s: u64) -> impl Iterator<Item = PublicKey> {
        let nodes = self.nodes.values();
        nodes
            .filter(move |node| !node.is_expired(now_unix_s))
            .map(|node| node.key)
    }

    /// Keys that may call a node at this time and are no node: owners, delegates, readers,
    /// the beacon.
    pub fn callers(&self, now_unix_s: u64) -> impl Iterator<Item = PublicKey> {
        let delegates = self.delegates.values();
        let current = delegates.filter(move |one| !is_over(one.not_after_unix_s, now_unix_s));
        let owners = self.owners.iter().chain(&self.recovery).copied();
        let beacon = self.beacon.map(|beacon| beacon.key);
        owners
            .chain(current.map(|delegate| delegate.key))
            .chain(beacon)
    }

    /// Whether `key` was approved once, and is not any longer.
    pub fn was_revoked(&self, key: &PublicKey) -> bool {
        self.revocation(key).is_some()
    }

    /// Under which name `key` was approved last, and the entry that ended it; `None`: it never was
    /// approved, or is.
    pub fn revocation(&self, key: &PublicKey) -> Option<(&NodeName, u64)> {
        if self.name_of(key).is_some() {
            return None;
        }
        let ends = self.tenures.iter().flat_map(|(name, turns)| {
            turns
                .windows(2)
                .filter(|pair| pair[0].1.as_ref().is_some_and(|node| node.key == *key))
                .map(move |pair| (name, pair[1].0))
        });
        ends.max_by_key(|(_, seq)| *seq)
    }
}

impl ApprovedNode {
    /// Whether the approval is over, by a clock that may be some minutes wrong.
    pub fn is_expired(&self, now_unix_s: u64) -> bool {
        is_over(self.not_after_unix_s, now_unix_s)
    }
}

/// Whether a time is over, by a clock that may be some minutes wrong.
pub(crate) fn is_over(not_after_unix_s: Option<u64>, now_unix_s: u64) -> bool {
    not_after_unix_s.is_some_and(|end| end.saturating_add(CLOCK_TOLERANCE_S) < now_unix_s)
}
