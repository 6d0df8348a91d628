//! Which rollouts failed: by what this node remembers, and by the word of others.
//!
//! Every node has to come to the same answer, or nodes go back to different versions and stay there. So a
//! claim counts for whatever is carried out, and once a node has believed it that stays: entries are only
//! ever added, each at most once. Nobody's word counts against what was healthy everywhere.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::manifest::OnFail;
use realm_model::name::{ComponentName, NodeName};

use super::Around;
use crate::desired::Desired;

/// Component → entries that brought versions of it.
pub(super) type Entries = BTreeMap<ComponentName, BTreeSet<u64>>;

impl Around {
    /// Rollouts that failed by what this node remembers, as far as the versions are remembered; and
    /// those of what is carried out here by the word of nodes that have a place, unless it was in
    /// `settled`. What is carried out then may have failed by their word as well.
    pub(super) fn failures(&self, desired: &Desired, own: &NodeName, settled: &Entries) -> Entries {
        let mut failures = brought(&self.memory.failed, desired);
        for (name, claims) in self.claims() {
            let settled = settled.get(name);
            let is_settled = |entry| settled.is_some_and(|settled| settled.contains(&entry));
            let failed = failures.entry(name.clone()).or_default();
            while let Some(entry) = self.next_to_fail(desired, name, own, failed)
                && claims.contains(&entry)
                && !is_settled(entry)
            {
                failed.insert(entry);
            }
        }
        failures.retain(|_, failed| !failed.is_empty());
        failures
    }

    /// Versions that were healthy at all places at once, each of them on its own node: what this node
    /// remembers of it, as far as the versions are remembered.
    pub(super) fn settled(&self, desired: &Desired) -> Entries {
        brought(&self.memory.settled, desired)
    }

    /// What is carried out after these failures, if it can fail.
    fn next_to_fail(
        &self,
        desired: &Desired,
        component: &ComponentName,
        own: &NodeName,
        failed: &BTreeSet<u64>,
    ) -> Option<u64> {
        let (_, edition) = desired.edition(component)?;
        let entry = match failed.contains(&edition) {
            false => edition,
            true => desired.before(component, own, failed)?.0,
        };
        let can_fail = self.can_fail(desired, component, own, failed, entry);
        can_fail.then_some(entry)
    }

    /// Whether it makes sense to say of an entry that is carried out that its rollout failed: it is what
    /// is wanted, or something before it can come back in its stead. Where a rollout stands still
    /// nothing does.
    pub(super) fn can_fail(
        &self,
        desired: &Desired,
        component: &ComponentName,
        own: &NodeName,
        failed: &BTreeSet<u64>,
        entry: u64,
    ) -> bool {
        if desired
            .edition(component)
            .is_some_and(|(_, edition)| edition == entry)
        {
            return true;
        }
        let placed = self.placement.of(component);
        let mut failed = failed.clone();
        failed.insert(entry);
        placed.is_some_and(|placed| placed.upkeep.on_fail == OnFail::Revert)
            && desired.before(component, own, &failed).is_some()
    }

    /// What nodes that have a place of a component say of its rollouts.
    fn claims(&self) -> BTreeMap<&ComponentName, BTreeSet<u64>> {
        let mut claims: BTreeMap<&ComponentName, BTreeSet<u64>> = BTreeMap::new();
        for (node, said) in &self.nodes {
            let components = said.components.iter();
            let claiming = components.filter(|(_, one)| !one.failed.is_empty());
            for (name, one) in claiming.filter(|(name, _)| self.placement.share(name, node) > 0) {
                claims.entry(name).or_default().extend(&one.failed);
            }
        }
        claims
    }

    /// Whether every place of another node is healthy with the version of an entry, by its own word, and
    /// each is on the node that has it by what is signed: what one side of a cut sees is not everything.
    pub(super) fn is_ready_elsewhere(
        &self,
        component: &ComponentName,
        own: &NodeName,
        entry: u64,
    ) -> bool {
        let seats = (0u32..).zip(self.placement.seats(component));
        let mut open = seats.filter_map(|(number, seat)| Some((number, seat?)));
        open.all(|(number, (holder, is_base))| {
            is_base && (holder == own || self.is_ready_at(component, holder, number, entry))
        })
    }

    fn is_ready_at(
        &self,
        component: &ComponentName,
        node: &NodeName,
        seat: u32,
        entry: u64,
    ) -> bool {
        let Some(said) = self.nodes.get(node).filter(|said| said.is_reached) else {
            return false;
        };
        match said.components.get(component) {
            // Of what found no room in a record nothing is heard: nobody waits for it.
            None => said.is_cut,
            Some(one) => match &one.seats {
                Some(seats) => seats.get(&seat).is_some_and(|(_, ready)| *ready == entry),
                None => one.whole,
            },
        }
    }
}

/// Those of entries that are remembered in the chain.
fn brought(entries: &Entries, desired: &Desired) -> Entries {
    let known = entries.iter().map(|(name, entries)| {
        let entries = entries.iter().copied();
        let known = entries.filter(|entry| desired.brought(name, *entry));
        (name.clone(), known.collect::<BTreeSet<u64>>())
    });
    known.filter(|(_, entries)| !entries.is_empty()).collect()
}
