//! The one read model: desired state, authority and the plan's reports as one [`StatusView`].
//! Decides nothing, and does not know how it is drawn.

mod across;
mod explain;

use std::collections::{BTreeMap, BTreeSet};

use realm_model::action::{ComponentReport, Plan, WaitingOn};
use realm_model::manifest::{Manifest, Mode, NodeSelector, RouteSpec};
use realm_model::name::{ComponentName, NodeName};
use realm_model::refusal::RefusalCode;
use realm_model::route::share_in_words;
use realm_model::view::{ComponentState, ComponentView, NodeView, ReachView, StatusView};

use crate::authority::Authority;
use crate::desired::Desired;
use crate::place::written;
use crate::plan::selects;
pub use across::{Across, across, alarm_hint};
pub use explain::{Looked, explain, failure_hint};

/// What only the node that answers knows.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// Its name.
    pub node: &'a NodeName,
    /// The version of realm that it runs.
    pub agent_version: &'a str,
    /// Base URLs that it answers on.
    pub urls: &'a [String],
    /// Times that a replica was started again after a failure, by component.
    pub restarts: &'a BTreeMap<ComponentName, u64>,
    /// Refused entries since the agent started.
    pub refusals: &'a BTreeMap<RefusalCode, u64>,
}

/// Builds the status of the realm as one node sees it; `plan` is that node's newest one.
pub fn view(desired: &Desired, authority: &Authority, plan: &Plan, here: &Here<'_>) -> StatusView {
    let refusals = here.refusals.iter();
    StatusView {
        realm: authority.realm,
        owners: authority.owners.clone(),
        node: here.node.clone(),
        agent_version: here.agent_version.to_owned(),
        version: desired.version,
        authority_head: authority.head,
        head: desired.head,
        urls: here.urls.to_vec(),
        components: components(desired, authority, plan, here),
        nodes: nodes(desired.manifest.as_deref(), authority, here.node),
        pending: Vec::new(),
        alarms: Vec::new(),
        beacon: None,
        refusals: refusals
            .map(|(code, number)| (code.to_string(), *number))
            .collect(),
    }
}

fn components(
    desired: &Desired,
    authority: &Authority,
    plan: &Plan,
    here: &Here<'_>,
) -> Vec<ComponentView> {
    let manifest = desired.manifest.as_deref();
    let reports: BTreeMap<&ComponentName, &ComponentReport> = plan
        .reports
        .iter()
        .map(|report| (&report.component, report))
        .collect();
    let mut absent = manifest.map_or_else(BTreeMap::new, |manifest| {
        absent_nodes(manifest, authority, here.node)
    });
    let mut routes = manifest.map_or_else(BTreeMap::new, |manifest| {
        routes_here(manifest, authority, here.node)
    });
    let named = manifest.iter().flat_map(|m| m.components.keys());
    let all: BTreeSet<&ComponentName> = named.chain(reports.keys().copied()).collect();
    all.into_iter()
        .map(|name| {
            let report = reports.get(name).copied();
            let routes = routes.remove(name).unwrap_or_default();
            let mut waiting_on = report.map_or_else(Vec::new, |r| r.waiting_on.clone());
            waiting_on.extend(absent.remove(name).unwrap_or_default());
            waiting_on.extend(taken(desired, name));
            ComponentView {
                name: name.clone(),
                state: state(report),
                wanted: report.map_or(0, |report| report.wanted),
                healthy: report.map_or(0, |report| report.healthy),
                old: report.map_or(0, |report| report.old),
                digest: desired.digest(name),
                routes,
                waiting_on,
                restarts: here.restarts.get(name).copied().unwrap_or_default(),
                nodes: BTreeMap::new(),
            }
        })
        .collect()
}

/// Namespaces that want the same name, and do not get it.
fn taken(desired: &Desired, name: &ComponentName) -> Option<WaitingOn> {
    let owner = desired.namespace_of(name)?;
    let others: Vec<String> = desired.displaced(name).map(|n| format!("`{n}`")).collect();
    (!others.is_empty()).then(|| WaitingOn {
        code: "name-taken".to_owned(),
        message: format!(
            "namespace `{owner}` has the name; {} gets no component of it",
            others.join(", ")
        ),
    })
}

fn state(report: Option<&ComponentReport>) -> ComponentState {
    let Some(report) = report else {
        return ComponentState::Idle;
    };
    let waits = |code: &str| report.waiting_on.first().is_some_and(|w| w.code == code);
    if waits("not-approved") {
        return ComponentState::Failed;
    }
    let withheld = ["drained", "cordoned", "approval-expired"];
    let runs = report.healthy > 0 || report.old > 0;
    if !runs && withheld.into_iter().any(waits) {
        return ComponentState::Idle;
    }
    let Some(mode) = report.mode else {
        return ComponentState::Draining;
    };
    match (report.healthy, report.old) {
        (_, 0) if mode.is_job() && report.running => ComponentState::Running,
        (healthy, 0) if healthy == report.wanted => match mode {
            Mode::Scheduled => ComponentState::Scheduled,
            Mode::Once => ComponentState::Done,
            Mode::Service if !report.running => ComponentState::Done,
            Mode::Answers | Mode::Server | Mode::Upstream | Mode::Service | Mode::Worker => {
                ComponentState::Healthy
            }
        },
        (_, 1..) => ComponentState::Updating,
        (1.., 0) => ComponentState::Degraded,
        (0, 0) if waits("failed") => ComponentState::Failed,
        (0, 0) if waits("backoff") => ComponentState::Backoff,
        (0, 0) => ComponentState::Starting,
    }
}

fn routes_here(
    manifest: &Manifest,
    authority: &Authority,
    node: &NodeName,
) -> BTreeMap<ComponentName, Vec<String>> {
    let mut routes: BTreeMap<ComponentName, Vec<String>> = BTreeMap::new();
    let selected = manifest
        .routing
        .iter()
        .filter(|(selector, _)| selects(selector, node, manifest, authority));
    for route in selected.flat_map(|(_, routes)| routes) {
        let all: u32 = route.weights.values().sum();
        for component in route.answering() {
            let texts = routes.entry(component.clone()).or_default();
            let text = match route.weights.get(component) {
                Some(weight) => format!("{} ({})", written(route), share_in_words(*weight, all)),
                None => written(route),
            };
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
    }
    routes
}

/// Component → the nodes it has routes for and that are not in the realm.
fn absent_nodes(
    manifest: &Manifest,
    authority: &Authority,
    here: &NodeName,
) -> BTreeMap<ComponentName, Vec<WaitingOn>> {
    let mut absent: BTreeMap<ComponentName, Vec<WaitingOn>> = BTreeMap::new();
    for (selector, routes) in &manifest.routing {
        // This node speaks for itself in the plan's report.
        let anyone = selects(selector, here, manifest, authority)
            || authority
                .nodes
                .keys()
                .any(|node| selects(selector, node, manifest, authority));
        let whom = match selector {
            NodeSelector::Node(name) if !anyone => format!("node `{name}`"),
            NodeSelector::Tag(tag) if !anyone => format!("a node with the tag `{tag}`"),
            NodeSelector::All | NodeSelector::Node(_) | NodeSelector::Tag(_) => continue,
        };
        let waiting = WaitingOn {
            code: "node-absent".to_owned(),
            message: format!("waiting for {whom}"),
        };
        for component in routes.iter().flat_map(RouteSpec::answering) {
            let list = absent.entry(component.clone()).or_default();
            if !list.contains(&waiting) {
                list.push(waiting.clone());
            }
        }
    }
    absent
}

fn nodes(manifest: Option<&Manifest>, authority: &Authority, here: &NodeName) -> Vec<NodeView> {
    let mut names: BTreeSet<&NodeName> = authority.nodes.keys().collect();
    names.extend(manifest.iter().flat_map(|manifest| manifest.nodes.keys()));
    let routed = manifest.iter().flat_map(|manifest| manifest.routing.keys());
    names.extend(routed.filter_map(|selector| match selector {
        NodeSelector::Node(name) => Some(name),
        NodeSelector::All | NodeSelector::Tag(_) => None,
    }));
    names.insert(here);
    names
        .into_iter()
        .map(|name| {
            let approved = authority.nodes.get(name);
            let vouched = approved.into_iter().flat_map(|node| &node.tags);
            let spec = manifest.and_then(|manifest| manifest.nodes.get(name));
            let written = spec.into_iter().flat_map(|node| &node.tags);
            let mut tags: Vec<String> = Vec::new();
            for tag in vouched.chain(written) {
                if !tags.contains(tag) {
                    tags.push(tag.clone());
                }
            }
            NodeView {
                name: name.clone(),
                key: approved.map(|node| node.key),
                tags,
                here: name == here,
                vouched_tags: approved.map_or_else(Vec::new, |node| node.tags.clone()),
                cordoned: approved.is_some_and(|node| node.cordoned.is_some()),
                drained: approved.is_some_and(|node| node.drained),
                not_after_unix_s: approved.and_then(|node| node.not_after_unix_s),
                reach: ReachView::default(),
                said: None,
                sealing: None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
