//! Which nodes may come to run a component: for whom its secrets are sealed. Not which of them do.

use std::collections::BTreeSet;

use realm_model::manifest::Manifest;
use realm_model::name::{ComponentName, NodeName};

use super::in_precedence;
use crate::authority::Authority;

/// The nodes that may come to run a component of `manifest`: those that its routes select, whoever has the
/// replicas at this moment; of what runs by itself all.
pub fn may_run(
    manifest: &Manifest,
    authority: &Authority,
    component: &ComponentName,
) -> BTreeSet<NodeName> {
    let Some(spec) = manifest.components.get(component) else {
        return BTreeSet::new();
    };
    let nodes = authority.nodes.keys();
    let everywhere = !spec.mode().takes_requests();
    let nodes =
        nodes.filter(|node| everywhere || is_routed_to(manifest, authority, component, node));
    nodes.cloned().collect()
}

/// Whether a route that counts on a node leads to a component.
fn is_routed_to(
    manifest: &Manifest,
    authority: &Authority,
    component: &ComponentName,
    node: &NodeName,
) -> bool {
    let lists = in_precedence(manifest).into_iter();
    let lists =
        lists.filter(|(selector, _)| crate::plan::selects(selector, node, manifest, authority));
    let mut taken: BTreeSet<_> = BTreeSet::new();
    let mut routes = lists.flat_map(|(_, routes)| routes);
    routes.any(|route| taken.insert((&route.host, &route.path)) && route.leads_to(component))
}
