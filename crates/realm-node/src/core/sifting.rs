//! Records that make whoever reads them panic. After a panic of the loop everything that reads records
//! is tried with each of them; the one that does it is set aside, named, and not read again, and the
//! loop goes on with all others. What its node says next is tried before anybody reads it. Not here: bytes
//! that do not read. Their decoder tells them, and has to be held to that by tests.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use realm_control::reach::{self, Reached};
use realm_control::records::Records;
use realm_control::ways::Way;
use realm_control::{Across, Around, across, lease, plan, ways};
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_model::name::ComponentName;
use realm_model::record::{KeyBytes, RECORD_POISON};

use super::Core;
use super::strangers::theirs;
use crate::network::{Network, WHY_ASIDE};

/// What those who fetch, dial and pass requests on take from the records of the others.
pub(super) struct Learned {
    pub(super) addresses: Vec<(PublicKey, Vec<String>)>,
    /// Digest → who has its bytes.
    pub(super) holders: BTreeMap<Digest, Vec<PublicKey>>,
    pub(super) ways: BTreeMap<ComponentName, Vec<Way>>,
    pub(super) running: BTreeMap<ComponentName, Vec<Way>>,
}

impl Learned {
    pub(super) fn of(
        records: &Records,
        reached: &BTreeMap<PublicKey, Reached>,
        own: PublicKey,
    ) -> Self {
        let mut addresses = Vec::new();
        let mut holders: BTreeMap<_, Vec<PublicKey>> = BTreeMap::new();
        let own = KeyBytes::from(own);
        for record in records.iter().filter(|one| KeyBytes::from(one.node) != own) {
            #[cfg(debug_assertions)]
            crate::planted::panic_if_planted(record);
            addresses.push((record.node, record.body.addresses.clone()));
            for digest in &record.body.blobs {
                holders.entry(*digest).or_default().push(record.node);
            }
        }
        Self {
            addresses,
            holders,
            ways: ways::ways(records, reached),
            running: ways::running(records, reached),
        }
    }
}

impl Core {
    /// After a panic: sets aside the records that make their readers panic, if it was one.
    pub(super) fn sift(&mut self) {
        let Some(network) = &self.network else {
            return;
        };
        let records = network.sync.records().clone();
        self.sift_of(records);
    }

    /// Tries what came of nodes that had a record set aside, before anybody reads it.
    pub(super) fn sift_again(&mut self) {
        loop {
            let Some(network) = &mut self.network else {
                return;
            };
            network.aside.tidy(network.sync.records());
            // What stands in the place of one that was set aside may have been read by nobody either.
            if !network.aside.untried(network.sync.records()) {
                return;
            }
            let suspects = |node: &KeyBytes| network.aside.suspects(node);
            let few = network.sync.records().only(&suspects);
            self.sift_of(few);
        }
    }

    /// Each turn takes a record away from `records`, or is the last.
    fn sift_of(&mut self, mut records: Records) {
        loop {
            let Some(network) = &self.network else {
                return;
            };
            let mut cause = String::new();
            let mut panics = |some: &Records| {
                let read = AssertUnwindSafe(|| self.read_all(network, some));
                let panic = catch_unwind(read).err();
                if let Some(panic) = &panic {
                    cause = said(panic.as_ref());
                }
                panic.is_some()
            };
            let poisonous = records.poisonous(&mut panics);
            if poisonous.is_empty() {
                return;
            }
            for node in poisonous {
                records.quarantine(node, WHY_ASIDE);
                self.set_aside(node, &cause);
            }
        }
    }

    fn set_aside(&mut self, node: KeyBytes, cause: &str) {
        let now = self.now();
        let Some(network) = &mut self.network else {
            return;
        };
        let version = network.sync.records().get(node).map(|held| held.version);
        let Some(bytes) = network.sync.quarantine(node, WHY_ASIDE) else {
            return;
        };
        let newest = network.sync.records().quarantined().get(&node);
        let is_newest = newest.map(|aside| aside.version) == version;
        let key = PublicKey::from_bytes(*node.as_bytes()).ok();
        let name = key.and_then(|key| self.ledger.authority().name_of(&key));
        tracing::error!(
            code = RECORD_POISON,
            node = name.map(tracing::field::display),
            key = key.map(tracing::field::display),
            digest = %Digest::of(&bytes),
            cause,
            "a record of this node makes the loop panic: it is set aside, and its record before counts"
        );
        if is_newest {
            tokio::task::block_in_place(|| network.aside.keep(node, &bytes));
        }
        network.changed(now);
        network.learn_at.get_or_insert(now);
    }

    /// Reads these records as everything does that reads records, and does nothing with it.
    fn read_all(&self, network: &Network, records: &Records) {
        let (desired, authority) = (self.ledger.desired(), self.ledger.authority());
        let members = network.sync.members();
        let reached = reach::reach(self.node_key, network.links(), records, members);
        drop(Learned::of(records, &reached, self.node_key));
        theirs(records, self.node_key).for_each(drop);
        drop(lease::said(records));
        let lost = reach::lost(&reached);
        let nodes = authority.nodes.iter();
        let lost: BTreeSet<_> = nodes
            .filter(|(_, node)| lost.contains(&node.key.into()))
            .map(|(name, _)| name.clone())
            .collect();
        let before = &self.surroundings.around;
        let placement = Arc::clone(&before.placement);
        let (node, observed) = (&self.node, &self.observed);
        let around = Around::new(placement, records, authority, node, &lost, observed);
        let plan = plan(
            desired,
            authority,
            node,
            observed,
            &around.after(before),
            self.now(),
        );
        let mut status = self.status_of(&plan);
        let others = Across {
            own: self.node_key,
            heads: &self.ledger.heads(),
            records,
            reached: &reached,
            connections: &network.connections(),
            pending: &[],
            placement: &before.placement,
        };
        across(&mut status, authority, &others);
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it said nothing".to_owned())
}
