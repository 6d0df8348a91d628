//! What the manifest wants of one node: routes, components, replicas. Not what runs there.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::lock::Pin;
use realm_model::manifest::{ComponentSpec, Manifest, Mode, NodeSelector, RouteSpec};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Artifact, Revision};
use realm_model::route::Route;

use crate::authority::Authority;
use crate::desired::Desired;

/// One component as it shall run on this node.
pub(super) struct Wanted<'a> {
    pub(super) spec: &'a ComponentSpec,
    pub(super) pin: Pin,
    pub(super) revision: Revision,
    pub(super) artifact: Artifact,
    /// The most that any of its routes here asks for; one of what runs by itself.
    pub(super) replicas: u32,
}

impl Wanted<'_> {
    pub(super) const fn mode(&self) -> Mode {
        self.spec.mode()
    }

    /// Whether it insists on something that two cannot have: the old one ends before the new one
    /// begins.
    pub(super) const fn stops_first(&self) -> bool {
        matches!(self.mode(), Mode::Server) && self.spec.listen.is_some()
    }
}

pub(super) struct WantedHere<'a> {
    pub(super) components: BTreeMap<ComponentName, Wanted<'a>>,
    /// A node without approval runs nothing: its name may be another's.
    pub(super) approved: bool,
    routes: Vec<Route>,
}

impl<'a> WantedHere<'a> {
    /// `None` before the first manifest.
    pub(super) fn of(desired: &'a Desired, authority: &Authority, node: &NodeName) -> Option<Self> {
        let manifest = desired.manifest.as_deref()?;
        let specs = routes_of(manifest, authority, node);
        let mut components: BTreeMap<ComponentName, Wanted<'_>> = BTreeMap::new();
        for route in &specs {
            let name = &route.component;
            let wanted = match components.remove(name) {
                Some(wanted) => Some(wanted),
                None => wanted(desired, manifest, name, node),
            };
            // Admission keeps routes, components and pins together; a route without them
            // stays in the table and answers 503.
            if let Some(mut wanted) = wanted {
                wanted.replicas = wanted.replicas.max(route.replicas);
                components.insert(name.clone(), wanted);
            }
        }
        // What runs by itself runs on every node.
        for (name, spec) in &manifest.components {
            if !spec.mode().takes_requests()
                && let Some(mut wanted) = wanted(desired, manifest, name, node)
            {
                wanted.replicas = 1;
                components.insert(name.clone(), wanted);
            }
        }
        let mut routes: Vec<Route> = specs.iter().map(|spec| route(spec)).collect();
        Route::sort(&mut routes);
        Some(Self {
            components,
            approved: authority.nodes.contains_key(node),
            routes,
        })
    }

    /// The routes of the node, in order of precedence.
    pub(super) fn routes(&self) -> Vec<Route> {
        if self.approved {
            self.routes.clone()
        } else {
            Vec::new()
        }
    }

    /// The component as it shall run, unless the node may run nothing.
    pub(super) fn to_run(&self, component: &ComponentName) -> Option<&Wanted<'a>> {
        let wanted = self.components.get(component);
        wanted.filter(|_| self.approved)
    }
}

/// Whether routes for `selector` concern `node`: its tags are those that the owners vouched for
/// at its approval, and those of the manifest.
pub(crate) fn selects(
    selector: &NodeSelector,
    node: &NodeName,
    manifest: &Manifest,
    authority: &Authority,
) -> bool {
    match selector {
        NodeSelector::All => true,
        NodeSelector::Node(name) => name == node,
        NodeSelector::Tag(tag) => {
            let approved = authority.nodes.get(node).map(|node| &node.tags);
            let written = manifest.nodes.get(node).map(|node| &node.tags);
            approved
                .into_iter()
                .chain(written)
                .flatten()
                .any(|t| t == tag)
        }
    }
}

/// The routes of a node, those for the node itself before those for a tag before those for all:
/// of two for the same host and path the first counts, so that a node can be made an exception.
fn routes_of<'a>(
    manifest: &'a Manifest,
    authority: &Authority,
    node: &NodeName,
) -> Vec<&'a RouteSpec> {
    let mut lists: Vec<_> = manifest
        .routing
        .iter()
        .filter(|(selector, _)| selects(selector, node, manifest, authority))
        .collect();
    lists.sort_by_key(|(selector, _)| match selector {
        NodeSelector::Node(_) => 0,
        NodeSelector::Tag(_) => 1,
        NodeSelector::All => 2,
    });
    let mut taken = BTreeSet::new();
    lists
        .into_iter()
        .flat_map(|(_, routes)| routes)
        .filter(|route| taken.insert((&route.host, &route.path)))
        .collect()
}

fn route(spec: &RouteSpec) -> Route {
    Route {
        host: spec.host.clone(),
        path: spec.path.clone(),
        component: spec.component.clone(),
    }
}

fn wanted<'a>(
    desired: &Desired,
    manifest: &'a Manifest,
    component: &ComponentName,
    node: &NodeName,
) -> Option<Wanted<'a>> {
    let spec = manifest.components.get(component)?;
    let pin = desired.pin(component)?;
    Some(Wanted {
        spec,
        pin,
        revision: desired.revision_of(component, node)?,
        artifact: Artifact {
            digest: pin.digest,
            fuel: spec.limits.fuel_per_sec.is_some(),
        },
        replicas: 0,
    })
}
