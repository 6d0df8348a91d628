//! The folded authority chain: who owns the realm, who may sign for which namespace, and which node's
//! key acts under which name, at its head and at any entry before. Not how an entry gets admitted: that
//! is the ledger's.

mod fences;
mod roles;

use std::collections::BTreeMap;

use realm_model::entry::{Delegate, Genesis, Head, NamespaceName, RealmId, SetNode};
use realm_model::key::PublicKey;
use realm_model::name::NodeName;

use crate::lease::Electorate;

pub use fences::PlacedFence;
pub(crate) use fences::Verdict;
pub use roles::Role;
pub(crate) use roles::is_over;

/// Seconds that two clocks may differ before an end in time counts.
pub const CLOCK_TOLERANCE_S: u64 = 600;

/// A node that the owners approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovedNode {
    /// Its key.
    pub key: PublicKey,
    /// Tags the owners vouch for.
    pub tags: Vec<String>,
    /// When the approval ends, in seconds since 1970; `None`: it does not.
    pub not_after_unix_s: Option<u64>,
    /// The authority entry since which nothing new starts there.
    pub cordoned: Option<u64>,
    /// Whether nothing shall run there.
    pub drained: bool,
}

/// Who signs beacons, and how often: one key of a realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeaconRule {
    /// What people call it.
    pub name: NamespaceName,
    /// The key.
    pub key: PublicKey,
    /// Seconds between two beacons.
    pub every_s: u32,
}

/// Who signs for the realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerSet {
    /// Keys that may sign entries.
    pub owners: Vec<PublicKey>,
    /// How many of them must sign each.
    pub threshold: u32,
    /// Keys that are kept offline: each alone may resolve and recover.
    pub recovery: Vec<PublicKey>,
}

/// What a key is to the realm, as far as keys have to differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Owner,
    Recovery,
    Node,
    Delegate,
    Beacon,
}

impl Part {
    /// Whether it has nothing to do with owning the realm.
    pub(crate) const fn is_other(self) -> bool {
        match self {
            Self::Owner | Self::Recovery => false,
            Self::Node | Self::Delegate | Self::Beacon => true,
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Owner => "an owner's key",
            Self::Recovery => "a recovery key",
            Self::Node => "a node's key",
            Self::Delegate => "a delegate's key",
            Self::Beacon => "the beacon's key",
        })
    }
}

/// Who may sign, and which nodes belong to the realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The realm.
    pub realm: RealmId,
    /// Keys that may sign entries.
    pub owners: Vec<PublicKey>,
    /// How many of them must sign each.
    pub threshold: u32,
    /// Keys that are kept offline.
    pub recovery: Vec<PublicKey>,
    /// Approved nodes by name; no key stands here twice.
    pub nodes: BTreeMap<NodeName, ApprovedNode>,
    /// Delegates by namespace; no key stands here twice.
    pub delegates: BTreeMap<NamespaceName, Delegate>,
    /// Who signs beacons, if the owners want any.
    pub beacon: Option<BeaconRule>,
    /// The last entry.
    pub head: Head,
    /// (Sequence number, owners from there on), ascending.
    owner_sets: Vec<(u64, OwnerSet)>,
    /// Name → (sequence number, what was approved from there on), ascending.
    tenures: BTreeMap<NodeName, Vec<(u64, Option<ApprovedNode>)>>,
    /// Namespace → (sequence number, who signs from there on; `None`: the owners), ascending.
    writers: BTreeMap<NamespaceName, Vec<(u64, Option<Delegate>)>>,
    /// Namespace → where it stood, ascending.
    fences: BTreeMap<NamespaceName, Vec<PlacedFence>>,
}

impl Authority {
    pub(crate) fn found(genesis: &Genesis, head: Head) -> Self {
        let mut authority = Self {
            realm: RealmId::new(head.hash),
            owners: Vec::new(),
            threshold: 0,
            recovery: Vec::new(),
            nodes: BTreeMap::new(),
            delegates: BTreeMap::new(),
            beacon: None,
            head,
            owner_sets: Vec::new(),
            tenures: BTreeMap::new(),
            writers: [(NamespaceName::DEFAULT, vec![(0, None)])].into(),
            fences: BTreeMap::new(),
        };
        authority.set_owners(OwnerSet {
            owners: genesis.owners.clone(),
            threshold: genesis.threshold,
            recovery: Vec::new(),
        });
        authority
    }

    /// The name under which `key` is approved.
    pub fn name_of(&self, key: &PublicKey) -> Option<&NodeName> {
        self.nodes
            .iter()
            .find_map(|(name, node)| (node.key == *key).then_some(name))
    }

    /// Whether a node of this name was approved when `seq` was the last entry. Answers about the
    /// past stay as they are, whatever follows: so every node judges an old entry alike.
    pub fn was_approved(&self, name: &NodeName, seq: u64) -> bool {
        self.node_at(name, seq).is_some()
    }

    /// The node of this name when `seq` was the last entry.
    pub fn node_at(&self, name: &NodeName, seq: u64) -> Option<&ApprovedNode> {
        at(self.tenures.get(name)?, seq)?.as_ref()
    }

    /// The approved nodes as the chain has them: an approval that is over by the clock counts until it
    /// is revoked, since clocks differ.
    pub fn electorate(&self) -> Electorate {
        let turns = self.tenures.values();
        Electorate {
            nodes: self.nodes.values().map(|node| node.key.into()).collect(),
            changes: turns.map(|turns| changes_of(turns)).sum(),
        }
    }

    /// Who owned the realm when `seq` was the last entry.
    pub fn owners_at(&self, seq: u64) -> &OwnerSet {
        at(&self.owner_sets, seq).expect("the genesis names owners")
    }

    /// Who signed for a namespace when `seq` was the last entry; `None`: the owners.
    pub fn delegate_at(&self, namespace: NamespaceName, seq: u64) -> Option<&Delegate> {
        at(self.writers.get(&namespace)?, seq)?.as_ref()
    }

    /// Whether there was such a namespace when `seq` was the last entry.
    pub fn has_namespace_at(&self, namespace: NamespaceName, seq: u64) -> bool {
        let turns = self.writers.get(&namespace);
        turns.is_some_and(|turns| at(turns, seq).is_some())
    }

    /// Every namespace that there ever was, the owners' first.
    pub fn namespaces(&self) -> impl Iterator<Item = NamespaceName> {
        self.writers.keys().copied()
    }

    /// Namespaces for which the owners signed when `seq` was the last entry.
    pub(crate) fn owned_at(&self, seq: u64) -> impl Iterator<Item = NamespaceName> {
        let writers = self.writers.iter();
        writers
            .filter(move |(_, turns)| matches!(at(turns, seq), Some(None)))
            .map(|(name, _)| *name)
    }

    /// Whether the owners changed after `seq`.
    pub(crate) fn owners_changed_after(&self, seq: u64) -> bool {
        let last = self.owner_sets.last();
        last.is_some_and(|(changed, _)| *changed > seq)
    }

    /// Every owner's and recovery key that there ever was.
    pub(crate) fn owners_ever(&self) -> impl Iterator<Item = PublicKey> {
        let sets = self.owner_sets.iter();
        sets.flat_map(|(_, set)| set.owners.iter().chain(&set.recovery).copied())
    }

    /// Every delegate that there ever was, of one namespace or of all.
    pub(crate) fn delegates_ever(
        &self,
        namespace: Option<NamespaceName>,
    ) -> impl Iterator<Item = &Delegate> {
        let writers = self.writers.iter();
        writers
            .filter(move |(name, _)| namespace.is_none_or(|only| only == **name))
            .flat_map(|(_, turns)| turns)
            .filter_map(|(_, delegate)| delegate.as_ref())
    }

    pub(crate) fn advance(&mut self, head: Head) {
        self.head = head;
    }

    /// Approves a key under a name. What was set for the node of this key stays.
    pub(crate) fn approve(&mut self, name: &NodeName, node: ApprovedNode) {
        let before = self.remove(&node.key);
        let node = ApprovedNode {
            cordoned: before.as_ref().and_then(|node| node.cordoned),
            drained: before.is_some_and(|node| node.drained),
            ..node
        };
        self.put(name.clone(), node);
    }

    pub(crate) fn set_node(&mut self, setting: &SetNode) {
        let Some(name) = self.name_of(&setting.key).cloned() else {
            return;
        };
        let Some(mut node) = self.nodes.get(&name).cloned() else {
            return;
        };
        node.cordoned = setting
            .cordoned
            .then(|| node.cordoned.unwrap_or(self.head.seq));
        node.drained = setting.drained;
        self.put(name, node);
    }

    /// Ends the approval of a key.
    pub(crate) fn remove(&mut self, key: &PublicKey) -> Option<ApprovedNode> {
        let name = self.name_of(key).cloned()?;
        let turn = (self.head.seq, None);
        self.tenures.entry(name.clone()).or_default().push(turn);
        self.nodes.remove(&name)
    }

    pub(crate) fn set_owners(&mut self, set: OwnerSet) {
        self.owners = set.owners.clone();
        self.threshold = set.threshold;
        self.recovery = set.recovery.clone();
        self.owner_sets.push((self.head.seq, set));
    }

    pub(crate) fn set_writer(&mut self, namespace: NamespaceName, delegate: Option<Delegate>) {
        let turn = (self.head.seq, delegate.clone());
        self.writers.entry(namespace).or_default().push(turn);
        match delegate {
            Some(delegate) => self.delegates.insert(namespace, delegate),
            None => self.delegates.remove(&namespace),
        };
    }

    fn put(&mut self, name: NodeName, node: ApprovedNode) {
        // Of two turns at one entry (approved anew) the last one counts.
        let turn = (self.head.seq, Some(node.clone()));
        self.tenures.entry(name.clone()).or_default().push(turn);
        self.nodes.insert(name, node);
    }

    /// What a key is already: each key is one thing to the realm.
    pub(crate) fn parts_of(&self, key: &PublicKey) -> Vec<Part> {
        let delegates = &mut self.delegates.values();
        [
            (Part::Owner, self.owners.contains(key)),
            (Part::Recovery, self.recovery.contains(key)),
            (Part::Node, self.name_of(key).is_some()),
            (Part::Delegate, delegates.any(|one| one.key == *key)),
            (Part::Beacon, self.beacon.is_some_and(|one| one.key == *key)),
        ]
        .into_iter()
        .filter_map(|(part, is)| is.then_some(part))
        .collect()
    }
}

/// How often a key came or went under one name: at each entry its last turn counts.
fn changes_of(turns: &[(u64, Option<ApprovedNode>)]) -> u64 {
    let key = |turn: &(u64, Option<ApprovedNode>)| turn.1.as_ref().map(|node| node.key);
    let mut before = None;
    let mut changes = 0;
    for entry in turns.chunk_by(|one, next| one.0 == next.0) {
        let after = entry.last().and_then(key);
        if after != before {
            changes += u64::from(before.is_some()) + u64::from(after.is_some());
        }
        before = after;
    }
    changes
}

/// What held when `seq` was the last entry, of what holds from a sequence number on.
fn at<T>(turns: &[(u64, T)], seq: u64) -> Option<&T> {
    let turn = turns.iter().rev().find(|(from, _)| *from <= seq);
    turn.map(|(_, value)| value)
}
