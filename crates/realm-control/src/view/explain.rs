//! Everything about one component at once: where it shall be and why, what each node says of it, and
//! what to do. It puts together what others decided or said, and decides nothing.

mod words;

pub use words::failure_hint;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use realm_model::action::{ComponentReport, WaitingOn};
use realm_model::entry::ChainId;
use realm_model::manifest::Mode;
use realm_model::name::{ComponentName, NodeName};
use realm_model::record::{NodeBody, ROLLOUT_FAILED, SeatSummary};
use realm_model::view::{AlarmView, ComponentState, ComponentView, ReachState, StatusView};
use realm_model::why::{ExplainView, ExplainedNode, ListedRoute, Obstacle, ReasonView};

use crate::authority::Authority;
use crate::desired::Desired;
use crate::place::{Explained, Place, Reason, written};
use crate::records::Records;

/// What is known where somebody asks.
#[derive(Clone, Copy)]
pub struct Looked<'a> {
    /// What shall run.
    pub desired: &'a Desired,
    /// The nodes.
    pub authority: &'a Authority,
    /// The status, with what is known of the others.
    pub status: &'a StatusView,
    /// What the node that answers reports of itself.
    pub reports: &'a [ComponentReport],
    /// What the others say of themselves; `None`: the node is alone.
    pub records: Option<&'a Records>,
}

/// Puts everything about a component together; `None`: it is in no manifest.
pub fn explain(
    component: &ComponentName,
    explained: &Explained,
    looked: &Looked<'_>,
) -> Option<ExplainView> {
    let (namespace, entry) = looked.desired.edition(component)?;
    let manifest = looked.desired.manifest.as_deref()?;
    let spec = manifest.components.get(component)?;
    let settings = looked.desired.settings(component);
    let scene = Scene {
        component,
        looked,
        chain: ChainId::Namespace(namespace),
        entry,
        version: settings.map(|(version, _)| version),
    };
    // Where no route leads to it, that says it all.
    let nobody = explained.wanted == 0 && !explained.reasons.contains(&Reason::NoRoute);
    let (mut nodes, mut reasons) = (Vec::new(), Vec::new());
    for (node, place) in &explained.nodes {
        let (one, behind) = scene.node(node, place);
        scene.obstacles(place, &one, behind, nobody, &mut reasons);
        nodes.push(one);
    }
    let general = explained.reasons.iter().map(|reason| Obstacle {
        node: None,
        reason: reason.view(None),
    });
    reasons.extend(general);
    reasons.sort_by_key(|one| words::rank(&one.reason.code));
    let sum = |count: &dyn Fn(&ExplainedNode) -> u32| -> u32 {
        let each = nodes.iter().map(count);
        each.fold(0, u32::saturating_add)
    };
    let (running, current) = (sum(&|one| one.running), sum(&|one| one.current));
    let counts = words::Counts {
        wanted: explained.wanted,
        running,
        current,
        version: scene.version,
        is_job: matches!(spec.mode(), Mode::Once | Mode::Scheduled),
    };
    // What a node withholds is none of what is wanted, unless nothing is.
    let is_withheld = |one: &&Obstacle| {
        let mut withheld = nodes.iter().filter(|node| node.withheld);
        withheld.any(|node| Some(&node.node) == one.node.as_ref())
    };
    let mut telling = reasons.iter();
    let first = telling.find(|one| explained.wanted == 0 || !is_withheld(one));
    Some(ExplainView {
        component: component.clone(),
        namespace,
        node: looked.status.node.clone(),
        verdict: words::verdict(&counts, first),
        wanted: explained.wanted,
        running,
        current,
        unplaced: explained.unplaced,
        version: scene.version,
        digest: looked.desired.digest(component),
        routes: scene.routes(),
        alarms: scene.alarms(&nodes),
        nodes,
        reasons,
    })
}

/// One component, looked at from one node.
struct Scene<'a> {
    component: &'a ComponentName,
    looked: &'a Looked<'a>,
    /// The chain of its namespace.
    chain: ChainId,
    /// The entry that brought what is wanted.
    entry: u64,
    version: Option<u64>,
}

/// What one node says of the component.
#[derive(Default)]
struct Said {
    state: Option<ComponentState>,
    running: u32,
    current: u32,
    seats: Vec<SeatSummary>,
    waiting_on: Vec<WaitingOn>,
    /// Whether it has not heard of the version that is wanted.
    behind: bool,
}

impl Scene<'_> {
    /// A node, and whether it has not heard of what is wanted.
    fn node(&self, node: &NodeName, place: &Place) -> (ExplainedNode, bool) {
        let view = self
            .looked
            .status
            .nodes
            .iter()
            .find(|one| one.name == *node);
        let reach = view.map_or(ReachState::Unknown, |view| view.reach.state);
        let is_here = *node == self.looked.status.node;
        let is_there = match reach {
            ReachState::Here | ReachState::Direct | ReachState::Indirect => true,
            ReachState::Lost | ReachState::Unknown => is_here,
        };
        let said = match (is_here, is_there) {
            (true, _) => self.own(),
            (false, true) => self.other(node),
            (false, false) => None,
        };
        let said = said.unwrap_or_default();
        let (mut versions, unproven) = self.versions(&said.seats);
        // What takes no turns, and nodes of older versions, say nothing of places.
        if said.seats.is_empty() && said.current > 0 {
            versions.extend(self.version);
        }
        let reasons = place.reasons.iter().map(|one| one.view(Some(node)));
        let one = ExplainedNode {
            node: node.clone(),
            replicas: place.replicas,
            withheld: place.withheld,
            reasons: reasons.collect(),
            reach: if is_here { ReachState::Here } else { reach },
            state: said.state,
            running: said.running,
            current: said.current,
            versions,
            unproven,
            waiting_on: said.waiting_on,
        };
        (one, said.behind)
    }

    /// What the node that answers says.
    fn own(&self) -> Option<Said> {
        let mut views = self.looked.status.components.iter();
        let view: &ComponentView = views.find(|view| view.name == *self.component)?;
        let mut reports = self.looked.reports.iter();
        let report = reports.find(|report| report.component == *self.component);
        // Of the whole component, and told as such.
        let general = ["node-absent", "name-taken"];
        let waiting_on = view.waiting_on.iter();
        let waiting_on = waiting_on.filter(|one| !general.contains(&one.code.as_str()));
        let is_idle = view.wanted == 0 && view.healthy == 0 && view.old == 0;
        Some(Said {
            state: (!is_idle).then_some(view.state),
            running: view.healthy.saturating_add(view.old),
            current: view.healthy,
            seats: report.map_or_else(Vec::new, |report| report.seats.clone()),
            waiting_on: waiting_on.cloned().collect(),
            behind: false,
        })
    }

    /// What another node says.
    fn other(&self, node: &NodeName) -> Option<Said> {
        let body = self.body(node)?;
        let mut heads = body.heads.iter();
        let head = heads.find(|head| head.chain == self.chain);
        let behind = head.is_none_or(|head| head.head.seq < self.entry);
        let mut summaries = body.components.iter();
        let summary = summaries.find(|one| one.name == self.component.as_str());
        let Some(summary) = summary else {
            return Some(Said {
                behind,
                ..Said::default()
            });
        };
        let state = serde_json::from_value(serde_json::Value::String(summary.state.clone()));
        let waits = (!summary.code.is_empty()).then(|| WaitingOn {
            code: summary.code.clone(),
            message: summary.reason.clone(),
        });
        Some(Said {
            state: state.ok(),
            running: summary.healthy.max(summary.serving.unwrap_or_default()),
            current: if behind { 0 } else { summary.healthy },
            seats: summary.seats.clone().unwrap_or_default(),
            waiting_on: waits.into_iter().collect(),
            behind,
        })
    }

    fn body(&self, node: &NodeName) -> Option<&NodeBody> {
        let approved = self.looked.authority.nodes.get(node)?;
        let record = self.looked.records?.get(approved.key)?;
        Some(&record.body)
    }

    /// The versions that have proven themselves, and the places that answer with another one.
    fn versions(&self, seats: &[SeatSummary]) -> (Vec<u64>, u32) {
        let (mut versions, mut unproven) = (BTreeSet::new(), 0);
        for seat in seats.iter().filter(|seat| seat.up) {
            let version = (seat.ready > 0)
                .then(|| self.looked.desired.version_at(self.component, seat.ready));
            match version.flatten() {
                Some(version) => drop(versions.insert(version)),
                None => unproven += 1,
            }
        }
        (versions.into_iter().collect(), unproven)
    }

    /// What is in the way on one node. Where nobody shall have the component, every reason counts.
    fn obstacles(
        &self,
        place: &Place,
        one: &ExplainedNode,
        behind: bool,
        nobody: bool,
        obstacles: &mut Vec<Obstacle>,
    ) {
        let mut add = |reason: ReasonView| {
            obstacles.push(Obstacle {
                node: Some(one.node.clone()),
                reason,
            });
        };
        let concerned = place.replicas > 0 || one.running > 0;
        let mut told = BTreeSet::new();
        for reason in place.reasons.iter().filter(|reason| !reason.is_having()) {
            told.insert(reason.code());
            if place.replicas > 0 || nobody || matches!(reason, Reason::Lost { .. }) {
                add(reason.view(Some(&one.node)));
            }
        }
        if concerned && behind {
            add(words::behind(self.version));
        }
        let waits = one.waiting_on.iter();
        for waiting in waits.filter(|one| concerned && !told.contains(one.code.as_str())) {
            if words::is_obstacle(&waiting.code) {
                add(words::waiting(self.component, &one.node, waiting));
            }
        }
    }

    fn routes(&self) -> Vec<ListedRoute> {
        let state = self.chain.namespace();
        let state = state.and_then(|name| self.looked.desired.namespaces.get(&name));
        let manifest = state.and_then(|state| state.manifest.as_deref());
        let lists = manifest.into_iter().flat_map(|manifest| &manifest.routing);
        let routes = lists.flat_map(|(list, routes)| {
            let own = routes.iter().filter(|one| one.leads_to(self.component));
            own.map(move |route| ListedRoute {
                list: list.to_string(),
                route: written(route),
            })
        });
        routes.collect()
    }

    /// Alarms of the nodes that have to do with it, without those about other components.
    fn alarms(&self, nodes: &[ExplainedNode]) -> Vec<AlarmView> {
        let about = format!("`{}`:", self.component);
        let concerns = |alarm: &&AlarmView| match alarm.code.as_str() {
            ROLLOUT_FAILED => alarm.message.starts_with(&about),
            _ => {
                let mut nodes = nodes.iter().filter(|one| one.node == alarm.node);
                nodes.any(|one| one.replicas > 0 || one.running > 0)
            }
        };
        let alarms = self.looked.status.alarms.iter().filter(concerns);
        alarms.cloned().collect()
    }
}
