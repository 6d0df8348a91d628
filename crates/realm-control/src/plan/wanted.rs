//! What the manifest wants of one node: routes, components, replicas. Not what runs there.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::entry::NamespaceName;
use realm_model::lock::Pin;
use realm_model::manifest::{ComponentSpec, Manifest, Mode, NodeSelector, RouteSpec};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Artifact, Observed, Revision};
use realm_model::route::Route;
use realm_model::sealing::Sealed;

use crate::around::Around;
use crate::authority::Authority;
use crate::desired::Desired;
use crate::place::{in_precedence, tags};

/// One component as it shall run on this node.
pub(super) struct Wanted<'a> {
    pub(super) spec: &'a ComponentSpec,
    pub(super) pin: Pin,
    pub(super) revision: Revision,
    pub(super) artifact: Artifact,
    /// The secrets that it may open, sealed.
    pub(super) secrets: Option<&'a BTreeMap<String, Sealed>>,
    /// The places that this node has; one of what runs by itself.
    pub(super) replicas: u32,
    /// The entry that brought it: not the one that is wanted, if the rollout of that one failed and is
    /// undone.
    pub(super) entry: u64,
    /// Whether it runs on one node at a time.
    pub(super) singleton: bool,
}

impl Wanted<'_> {
    /// The secrets that it may open and this node cannot.
    pub(super) fn unopened<'s>(&'s self, observed: &'s Observed) -> impl Iterator<Item = &'s str> {
        let secrets = self.secrets.into_iter().flatten();
        secrets
            .filter(|(_, sealed)| observed.unopened.contains(&sealed.digest()))
            .map(|(name, _)| name.as_str())
    }

    pub(super) const fn mode(&self) -> Mode {
        self.spec.mode()
    }

    /// Whether it insists on something that two cannot have: the old one ends before the new one
    /// begins.
    pub(super) const fn stops_first(&self) -> bool {
        self.singleton || matches!(self.mode(), Mode::Server) && self.spec.listen.is_some()
    }
}

pub(super) struct WantedHere<'a> {
    pub(super) components: BTreeMap<ComponentName, Wanted<'a>>,
    /// Components of which others have all replicas: their bytes are kept here as well.
    kept: Vec<Wanted<'a>>,
    standing: Standing,
    routes: Vec<Route>,
}

/// How the node stands in the realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Everything that is wanted runs.
    Approved,
    /// A node without approval runs nothing: its name may be another's.
    NotApproved,
    /// Its approval is over: what runs goes on, and nothing else begins.
    Expired,
    /// What came to the realm after this authority entry does not begin here.
    Cordoned(u64),
    /// Nothing runs.
    Drained,
}

impl Standing {
    pub(crate) fn of(authority: &Authority, node: &NodeName, unix_s: u64) -> Self {
        match authority.nodes.get(node) {
            None => Self::NotApproved,
            Some(node) if node.drained => Self::Drained,
            Some(node) if node.is_expired(unix_s) => Self::Expired,
            Some(node) => node.cordoned.map_or(Self::Approved, Self::Cordoned),
        }
    }

    /// Why the node does not run a component that came to the realm at `since`: a code and a reason.
    /// `is_here`: something of it runs, or is on its way.
    pub(crate) fn withholds(
        self,
        since: Option<u64>,
        is_here: bool,
    ) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Approved => None,
            Self::NotApproved => Some((
                "not-approved",
                "is not approved: it runs nothing until its owner approves it",
            )),
            Self::Drained => Some(("drained", "is drained: it runs nothing")),
            Self::Expired if !is_here => Some((
                "approval-expired",
                "has an approval that is over by the clock here: what runs goes on, nothing new begins",
            )),
            // What is older than the cordon comes back after a restart of the agent.
            Self::Cordoned(cordon) if !is_here && since.is_none_or(|came| came >= cordon) => {
                Some(("cordoned", "is cordoned: nothing new begins there"))
            }
            Self::Expired | Self::Cordoned(_) => None,
        }
    }
}

impl<'a> WantedHere<'a> {
    /// `None` before the first manifest.
    pub(super) fn of(
        desired: &'a Desired,
        authority: &Authority,
        node: &NodeName,
        around: &Around,
        unix_s: u64,
    ) -> Option<Self> {
        let manifest = desired.manifest.as_deref()?;
        let specs = routes_of(desired, manifest, authority, node);
        let mut components: BTreeMap<ComponentName, Wanted<'_>> = BTreeMap::new();
        let shares: Vec<(&ComponentName, u32)> = match authority.nodes.contains_key(node) {
            true => around.placement.shares(node).collect(),
            // It has no places; what it might have is told, with the reason.
            false => {
                let named = specs.iter().flat_map(|route| route.answering());
                named.map(|component| (component, 1)).collect()
            }
        };
        for (name, replicas) in shares {
            // Admission keeps routes, components and pins together; a route without them
            // stays in the table and answers 503.
            if let Some(wanted) = wanted(desired, manifest, around, name, node) {
                let wanted = Wanted { replicas, ..wanted };
                components.insert(name.clone(), wanted);
            }
        }
        // What runs by itself runs on every node, unless there is to be one of it.
        for (name, spec) in &manifest.components {
            if !spec.mode().takes_requests()
                && !spec.singleton
                && let Some(mut wanted) = wanted(desired, manifest, around, name, node)
            {
                wanted.replicas = 1;
                components.insert(name.clone(), wanted);
            }
        }
        let mut routes: Vec<Route> = specs
            .into_iter()
            .chain(routes_elsewhere(desired, manifest, authority, node))
            .map(route)
            .collect();
        let mut taken = BTreeSet::new();
        routes.retain(|route| taken.insert((route.host.clone(), route.path.clone())));
        Route::sort(&mut routes);
        let standbys = around.placement.standbys(node);
        let kept = standbys.filter_map(|name| {
            let wanted = wanted(desired, manifest, around, name, node)?;
            Some(Wanted {
                replicas: 1,
                ..wanted
            })
        });
        Some(Self {
            kept: kept.collect(),
            components,
            standing: Standing::of(authority, node, unix_s),
            routes,
        })
    }

    /// The routes of the node, in order of precedence. Those of a drained node stay: who asks gets 503
    /// and not 404.
    pub(super) fn routes(&self) -> Vec<Route> {
        match self.standing {
            Standing::NotApproved => Vec::new(),
            Standing::Approved | Standing::Expired | Standing::Cordoned(_) | Standing::Drained => {
                self.routes.clone()
            }
        }
    }

    /// Whether what runs here and shall not may go on until others have taken over from it.
    pub(super) fn may_linger(&self) -> bool {
        self.standing != Standing::NotApproved
    }

    /// Components whose bytes this node keeps for the case that it is the next to run them.
    pub(super) fn kept(&self) -> &[Wanted<'a>] {
        match self.standing {
            Standing::Approved => &self.kept,
            Standing::NotApproved
            | Standing::Expired
            | Standing::Cordoned(_)
            | Standing::Drained => &[],
        }
    }

    /// The component as it shall run, unless the node may not run it.
    pub(super) fn to_run(
        &self,
        component: &ComponentName,
        desired: &Desired,
        is_here: bool,
    ) -> Option<&Wanted<'a>> {
        let wanted = self.components.get(component);
        wanted.filter(|_| self.withheld(component, desired, is_here).is_none())
    }

    /// Why the node does not run the component, although it is wanted: a code and a reason. `is_here`:
    /// something of it runs, or is on its way.
    pub(super) fn withheld(
        &self,
        component: &ComponentName,
        desired: &Desired,
        is_here: bool,
    ) -> Option<(&'static str, &'static str)> {
        self.standing.withholds(desired.since(component), is_here)
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
            let approved = authority.nodes.get(node);
            tags(node, approved, manifest).any(|of_node| of_node == tag)
        }
    }
}

/// The routes of a node: those of an earlier namespace before those of a later one, and of each those
/// for the node itself before those for a tag before those for all: of two for the same host and path
/// the first counts, so that a node can be made an exception, and nobody takes a route of the owners.
fn routes_of<'a>(
    desired: &'a Desired,
    all: &Manifest,
    authority: &Authority,
    node: &NodeName,
) -> Vec<&'a RouteSpec> {
    let mut taken = BTreeSet::new();
    desired
        .parts()
        .flat_map(in_precedence)
        .filter(|(selector, _)| selects(selector, node, all, authority))
        .flat_map(|(_, routes)| routes)
        .filter(|route| taken.insert((&route.host, &route.path)))
        .collect()
}

/// The owners' routes of other nodes: any node answers them, by asking one of those. Not those of
/// delegates: a path that is for a delegate's nodes is not to take requests of the others.
fn routes_elsewhere<'a>(
    desired: &'a Desired,
    all: &'a Manifest,
    authority: &'a Authority,
    node: &'a NodeName,
) -> impl Iterator<Item = &'a RouteSpec> {
    let owners = desired.namespaces.get(&NamespaceName::DEFAULT);
    let owners = owners.and_then(|state| state.manifest.as_deref());
    let lists = owners.into_iter().flat_map(|part| &part.routing);
    lists
        .filter(|(selector, _)| !selects(selector, node, all, authority))
        .flat_map(|(_, routes)| routes)
}

fn route(spec: &RouteSpec) -> Route {
    let former = &spec.former;
    let mut weights = spec.weights.clone();
    if weights.is_empty() && !former.is_empty() {
        weights.insert(spec.component.clone(), 1);
    }
    weights.extend(former.iter().map(|name| (name.clone(), 0)));
    Route {
        host: spec.host.clone(),
        path: spec.path.clone(),
        component: spec.component.clone(),
        weights,
    }
}

fn wanted<'a>(
    desired: &'a Desired,
    manifest: &'a Manifest,
    around: &Around,
    component: &ComponentName,
    node: &NodeName,
) -> Option<Wanted<'a>> {
    // What left the manifest is not wanted, whatever failed.
    manifest.components.get(component)?;
    let aim = around.aim(desired, component, node)?;
    Some(Wanted {
        spec: aim.spec,
        pin: aim.pin,
        revision: aim.revision,
        artifact: Artifact {
            digest: aim.pin.digest,
            fuel: aim.spec.limits.fuel_per_sec.is_some(),
        },
        secrets: desired.secrets_of(component, node, aim.revision),
        replicas: 0,
        entry: aim.entry,
        singleton: desired.is_singleton(component),
    })
}
