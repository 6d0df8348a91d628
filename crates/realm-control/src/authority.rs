//! The folded authority chain: who owns the realm, and which node's key acts under which name.
//! Not how an entry gets admitted: that is the ledger's.

use std::collections::BTreeMap;

use realm_model::digest::Digest;
use realm_model::entry::{ApproveNode, Genesis, Head, RealmId};
use realm_model::key::PublicKey;
use realm_model::name::NodeName;

/// A node that the owners approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovedNode {
    /// Its key.
    pub key: PublicKey,
    /// Tags the owners vouch for.
    pub tags: Vec<String>,
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
    /// Approved nodes by name; no key stands here twice.
    pub nodes: BTreeMap<NodeName, ApprovedNode>,
    /// The last entry.
    pub head: Head,
    /// Hash of each entry by sequence number, the genesis first.
    hashes: Vec<Digest>,
    /// Name → (sequence number, whether it was approved from there on), ascending.
    tenures: BTreeMap<NodeName, Vec<(u64, bool)>>,
}

impl Authority {
    pub(crate) fn found(genesis: &Genesis, head: Head) -> Self {
        Self {
            realm: RealmId::new(head.hash),
            owners: genesis.owners.clone(),
            threshold: genesis.threshold,
            nodes: BTreeMap::new(),
            head,
            hashes: vec![head.hash],
            tenures: BTreeMap::new(),
        }
    }

    /// The name under which `key` is approved.
    pub fn name_of(&self, key: &PublicKey) -> Option<&NodeName> {
        self.nodes
            .iter()
            .find_map(|(name, node)| (node.key == *key).then_some(name))
    }

    /// The hash of the entry at `seq`, if that entry is here.
    pub fn hash_at(&self, seq: u64) -> Option<Digest> {
        let index = usize::try_from(seq).ok()?;
        self.hashes.get(index).copied()
    }

    /// Whether a node of this name was approved when `seq` was the last entry. Answers about the
    /// past stay as they are, whatever follows: so every node judges an old entry alike.
    pub fn was_approved(&self, name: &NodeName, seq: u64) -> bool {
        self.tenures.get(name).is_some_and(|turns| {
            let turn = turns.iter().rev().find(|(from, _)| *from <= seq);
            turn.is_some_and(|(_, approved)| *approved)
        })
    }

    pub(crate) fn approve(&mut self, approval: &ApproveNode, head: Head) {
        self.advance(head);
        self.remove(&approval.key);
        let node = ApprovedNode {
            key: approval.key,
            tags: approval.tags.clone(),
        };
        self.nodes.insert(approval.name.clone(), node);
        self.turn(&approval.name, true);
    }

    pub(crate) fn revoke(&mut self, key: &PublicKey, head: Head) {
        self.advance(head);
        self.remove(key);
    }

    fn remove(&mut self, key: &PublicKey) {
        if let Some(name) = self.name_of(key).cloned() {
            self.nodes.remove(&name);
            self.turn(&name, false);
        }
    }

    fn turn(&mut self, name: &NodeName, approved: bool) {
        let turns = self.tenures.entry(name.clone()).or_default();
        // Of two turns at one entry (approved anew) the last one counts.
        turns.push((self.head.seq, approved));
    }

    fn advance(&mut self, head: Head) {
        self.head = head;
        self.hashes.push(head.hash);
    }
}
