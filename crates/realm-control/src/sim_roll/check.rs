//! What is looked at after every step, and in the end.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::observed::ReplicaState;

use super::Sim;
use super::lists::Lists;
use crate::place::place;
use crate::testing::{Realm, component_name, node_name};

/// Whether a node is drained by what was signed.
pub(super) fn is_drained(realm: &Realm, node: usize) -> bool {
    let nodes = &realm.ledger.authority().nodes;
    nodes[&node_name(&format!("n{node}"))].drained
}

impl Sim {
    /// Notes where what was signed last wants replicas.
    pub(super) fn want(&mut self) {
        let realm = self.states.last().expect("the first one");
        let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
        let placement = place(desired, authority, &|_, _| false);
        let drained: Vec<bool> = (0..self.kind.nodes)
            .map(|node| is_drained(realm, node))
            .collect();
        let share = |node: usize| {
            let share = placement.share(&component_name("app"), &self.nodes[node].name);
            share as usize
        };
        match self.kind.lists.wanted(&self.kind, &drained, share) {
            Ok(wanted) => self.wanted = wanted,
            Err(why) => self.violations.push(why),
        }
        self.was_empty |= drained.iter().all(|drained| *drained);
        // What stops because it is drained serves no more until it is back.
        let is_empty = drained.iter().all(|drained| *drained);
        for (steady, drained) in self.steady.iter_mut().zip(&drained) {
            *steady &= match self.kind.lists {
                Lists::Together | Lists::Both => !is_empty,
                Lists::PerNode | Lists::Pinned => !drained,
            };
        }
    }

    /// Whether a node is not drained by what was signed last.
    pub(crate) fn open(&self, node: usize) -> bool {
        !is_drained(self.states.last().expect("the first one"), node)
    }

    /// So many shall serve at any time.
    pub(crate) fn least(&self) -> usize {
        let all: usize = self.wanted.iter().sum();
        all.saturating_sub(self.kind.unavailable as usize)
    }

    /// Whether so many serve as have to, once as many did as shall and all nodes know of it.
    fn check_floor(&mut self) {
        let newest = self.states.len() - 1;
        let serving: Vec<usize> = (0..self.nodes.len())
            .map(|index| self.serving_slots(index).len())
            .collect();
        let (all, serving) = match self.kind.lists {
            Lists::Together | Lists::Both => {
                let all_know = self.nodes.iter().all(|node| node.version == newest);
                let serving = serving.iter().sum();
                // What is named besides may come and go.
                let all = match self.wanted.iter().sum() {
                    0usize => 0,
                    _ => self.kind.replicas as usize,
                };
                if all_know && all > 0 && serving >= all {
                    self.steady.fill(true);
                }
                (if self.steady.contains(&false) { 0 } else { all }, serving)
            }
            // Each for itself: nobody stands in for what is pinned.
            Lists::PerNode | Lists::Pinned => {
                for (index, node) in self.nodes.iter().enumerate() {
                    let wanted = self.wanted[index];
                    let is_whole = wanted > 0 && serving[index] >= wanted;
                    self.steady[index] |= node.version == newest && is_whole;
                }
                let steady = (0..self.nodes.len()).filter(|index| self.steady[*index]);
                let both = steady.map(|index| (self.wanted[index], serving[index]));
                both.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
            }
        };
        let floor = all.saturating_sub(self.kind.unavailable as usize);
        if serving < floor {
            let now = self.now;
            self.violations
                .push(format!("at {now} ms {serving} of {floor} serve"));
        }
    }

    /// Slots of a node that take requests.
    pub(super) fn serving_slots(&self, index: usize) -> BTreeSet<u32> {
        let world = &self.nodes[index].world;
        let backends = world.backends(&component_name("app")).iter();
        backends
            .filter(|id| world.healthy().any(|healthy| healthy == *id))
            .map(|id| id.slot)
            .collect()
    }

    /// What nobody may decide: more replicas missing, or doubled, than the manifest allows.
    pub(super) fn check(&mut self, index: usize, before: &BTreeSet<u32>) {
        let after = self.serving_slots(index);
        if self.kind.calm {
            self.check_floor();
        }
        let node = &self.nodes[index];
        let share = match is_drained(&self.states[node.version], index) {
            true => 0,
            false => {
                let placement = &node.around.placement;
                placement.share(&component_name("app"), &node.name)
            }
        };
        // A node took a replica down while another one stood in for it. That one by now has a place of its
        // own: it stands in no more, and what was right then is no mistake now. As many serve all over as
        // shall, since who has given that place up goes on until it is taken: the node lacks no replica that
        // it took down, but one that it shall have in addition.
        if self.serving() >= self.least() {
            let is_new = |slot: &&u32| (self.shares[index]..share).contains(*slot);
            let placed = before.intersection(&after).filter(is_new).count();
            let places = self.taken_down.keys().filter(|(of, _)| *of == index);
            for place in places.take(placed).copied().collect::<Vec<_>>() {
                self.taken_down.remove(&place);
            }
        }
        self.shares[index] = share;
        let is_disturbed = self.is_disturbed();
        let (mut takes, mut takes_away) = (false, false);
        // A slot that served and was healthy, and that is wanted: it is down by decision.
        for slot in before.difference(&after) {
            let world = &self.nodes[index].world;
            let gone_by_itself = world.observed.replicas.iter().any(|(id, state)| {
                id.slot == *slot
                    && matches!(
                        state,
                        ReplicaState::Backoff { .. } | ReplicaState::Failed { .. }
                    )
            });
            if gone_by_itself {
                self.apart.loses(index, 1, self.now);
                continue;
            }
            takes_away = true;
            if *slot < share {
                takes = true;
                self.taken_down.insert((index, *slot), !is_disturbed);
            }
        }
        self.taken_down
            .retain(|(of, slot), _| *of != index || !after.contains(slot) && *slot < share);
        self.stand_ins[index] = after.iter().filter(|slot| **slot >= share).count();
        let mut by_slot: BTreeMap<u32, BTreeSet<_>> = BTreeMap::new();
        for (id, state) in &self.nodes[index].world.observed.replicas {
            let runs = matches!(
                state,
                ReplicaState::Starting { .. } | ReplicaState::Healthy { .. }
            );
            if runs && id.slot < share {
                by_slot.entry(id.slot).or_default().insert(id.revision);
            }
        }
        by_slot.retain(|_, revisions| revisions.len() > 1);
        self.doubled
            .retain(|(of, slot), _| *of != index || by_slot.contains_key(slot));
        let mut doubles = false;
        for slot in by_slot.keys() {
            let before = self.doubled.insert((index, *slot), !is_disturbed);
            doubles |= before.is_none();
        }
        if !self.kind.singleton {
            self.check_side(index, takes, doubles);
            if takes_away {
                self.check_heard(index);
            }
        }
        // Of who is drained the others wait for nothing, whether it has heard of it or not.
        let doubled = self.doubled.iter();
        let doubled = doubled.filter(|((of, _), counts)| **counts && self.open(*of));
        let doubled = doubled.count();
        // What serves in a place that is no more stands in for what is missing on its node.
        let missing: usize = (0..self.nodes.len())
            .filter(|index| self.open(*index))
            .map(|index| {
                let down = self.taken_down.iter();
                let down = down.filter(|((of, _), counts)| *of == index && **counts);
                down.count().saturating_sub(self.stand_ins[index])
            })
            .sum();
        if is_disturbed || self.kind.singleton {
            return;
        }
        if missing > self.kind.unavailable as usize || doubled > self.kind.surge as usize {
            self.violations.push(format!(
                "at {} ms {missing} are missing and {doubled} are doubled",
                self.now
            ));
        }
    }

    /// What is wrong in the end: `healthy` of the wanted build shall run, where they shall, and no others.
    pub(crate) fn end(&self, build: &str) -> Result<(), String> {
        let app = component_name("app");
        for (node, wanted) in self.nodes.iter().zip(self.wanted.iter().copied()) {
            let replicas = &node.world.observed.replicas;
            let healthy = replicas
                .values()
                .filter(|state| matches!(state, ReplicaState::Healthy { .. }));
            let (all, healthy) = (replicas.len(), healthy.count());
            let serving = node.world.backends(&app).len();
            let right = node.world.backends(&app).iter().all(|id| {
                node.world
                    .revisions
                    .get(&id.revision)
                    .is_some_and(|(artifact, _)| {
                        artifact.digest == crate::testing::pin(build).digest
                    })
            });
            if (all, healthy, serving) != (wanted, wanted, wanted) || !right {
                return Err(format!(
                    "{} has {all} replicas, {healthy} healthy, {serving} serving, {wanted} wanted, of the right build: {right}; {:?}",
                    node.name, replicas
                ));
            }
        }
        Ok(())
    }

    /// Replicas that take requests on nodes that are up.
    pub(crate) fn serving(&self) -> usize {
        (0..self.nodes.len())
            .filter(|index| self.nodes[*index].is_up)
            .map(|index| self.serving_slots(index).len())
            .sum()
    }
}
