//! What would run where if another manifest were in force: the placement of both, side by side. It has
//! no effect, and is no promise: who is away, and what else is signed, may change until then.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use realm_model::entry::NamespaceName;
use realm_model::name::{ComponentName, NodeName};
use realm_model::why::{PlacementView, ProposedPlace, ProposedView};

use crate::desired::Desired;
use crate::place::{Asked, Explained, Place, Reason, Why};

/// Pairs of a component and a node for which every reason is told: some megabytes. Beyond, only the
/// nodes that have replicas, or had.
pub const PAIRS_MAX: usize = 20_000;

/// Compares what is in force with `next`, in which a namespace has another manifest. `node` answers.
pub fn proposed(
    now: &Asked<'_>,
    next: &Desired,
    namespace: NamespaceName,
    node: &NodeName,
) -> PlacementView {
    let then = Asked {
        desired: next,
        ..*now
    };
    let (before, after) = (Why::of(*now), Why::of(then));
    let names = components(now.desired).chain(components(next));
    let names: BTreeSet<&ComponentName> = names.collect();
    let abridged = names.len().saturating_mul(now.authority.nodes.len()) > PAIRS_MAX;
    let proposal = Proposal {
        in_force: now.desired,
        next,
        namespace,
        abridged,
    };
    let components = names.into_iter().filter_map(|name| {
        let explained = |why: &Option<Why<'_>>| why.as_ref()?.explain(name);
        proposal.component(name, explained(&before), explained(&after))
    });
    PlacementView {
        node: node.clone(),
        components: components.collect(),
        abridged,
    }
}

fn components(desired: &Desired) -> impl Iterator<Item = &ComponentName> {
    let manifests = desired.namespaces.values();
    let manifests = manifests.filter_map(|state| state.manifest.as_deref());
    manifests.flat_map(|manifest| manifest.components.keys())
}

struct Proposal<'a> {
    in_force: &'a Desired,
    next: &'a Desired,
    namespace: NamespaceName,
    abridged: bool,
}

impl Proposal<'_> {
    /// `None`: it is of another namespace, and stays as it is.
    fn component(
        &self,
        name: &ComponentName,
        before: Option<Explained>,
        after: Option<Explained>,
    ) -> Option<ProposedView> {
        let is_of = |desired: &Desired| {
            let state = desired.namespaces.get(&self.namespace);
            state.is_some_and(|state| state.has(name))
        };
        let before = before.unwrap_or_default();
        let goes = after.is_none();
        let mut after = after.unwrap_or_default();
        let concerns = is_of(self.in_force) || is_of(self.next);
        // Another namespace has the name: what is said of its component is no news of this one.
        if is_of(self.next) && self.next.namespace_of(name) != Some(self.namespace) {
            let taken = |reason: &Reason| matches!(reason, Reason::NameTaken { .. });
            let reasons = std::mem::take(&mut after.reasons);
            return Some(ProposedView {
                component: name.clone(),
                wanted: 0,
                unplaced: 0,
                version_in_force: None,
                version: None,
                replaced: false,
                nodes: Vec::new(),
                reasons: reasons
                    .iter()
                    .filter(|one| taken(one))
                    .map(|one| one.view(None))
                    .collect(),
            });
        }
        let nodes = self.nodes(&before.nodes, after.nodes);
        let moves = nodes.iter().any(|place| place.in_force != place.replicas);
        if !concerns && !moves {
            return None;
        }
        let (old, new) = (self.in_force.settings(name), self.next.settings(name));
        let replaced = match (old, new) {
            (Some((_, old)), Some((_, new))) => old != new,
            (None, _) | (_, None) => false,
        };
        Some(ProposedView {
            component: name.clone(),
            wanted: after.wanted,
            unplaced: after.unplaced,
            version_in_force: old.map(|(version, _)| version),
            version: new.map(|(version, _)| version).filter(|_| !goes),
            replaced,
            nodes,
            reasons: after.reasons.iter().map(|one| one.view(None)).collect(),
        })
    }

    fn nodes(
        &self,
        before: &BTreeMap<NodeName, Place>,
        mut after: BTreeMap<NodeName, Place>,
    ) -> Vec<ProposedPlace> {
        let names: BTreeSet<&NodeName> = before.keys().collect();
        let names: BTreeSet<NodeName> = names.into_iter().chain(after.keys()).cloned().collect();
        let places = names.into_iter().filter_map(|node| {
            let in_force = before.get(&node).map_or(0, |place| place.replicas);
            let place = after.remove(&node).unwrap_or_default();
            if self.abridged && in_force == 0 && place.replicas == 0 {
                return None;
            }
            let reasons = place.reasons.iter().map(|one| one.view(Some(&node)));
            let reasons = reasons.collect();
            Some(ProposedPlace {
                node,
                in_force,
                replicas: place.replicas,
                withheld: place.withheld,
                reasons,
            })
        });
        places.collect()
    }
}
