//! The status beyond the node that answers: what the records of the others say, and how each is
//! reached. It adds to the view of one node, and decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::entry::{ChainId, Head};
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_model::record::{ChainHead, ComponentSummary, NodeRecord};
use realm_model::view::{
    AlarmView, ComponentView, NodeSaidView, NodeView, OnNodeView, PendingView, ReachState,
    ReachView, StatusView,
};

use crate::authority::Authority;
use crate::place::Placement;
use crate::reach::Reached;
use crate::records::Records;

/// Why nothing is known of what a node has: it does not answer.
const NOT_REACHED: &str = "the node is not reached";
/// The same: it never did.
const NOT_HEARD_OF: &str = "the node was not heard of yet";

/// What is known of the other nodes.
#[derive(Debug, Clone, Copy)]
pub struct Across<'a> {
    /// The key of the node that answers.
    pub own: PublicKey,
    /// What it has in force.
    pub heads: &'a BTreeMap<ChainId, Head>,
    /// The records of all nodes.
    pub records: &'a Records,
    /// How each is reached.
    pub reached: &'a BTreeMap<PublicKey, Reached>,
    /// The connections of the node that answers.
    pub connections: &'a BTreeMap<PublicKey, ReachView>,
    /// Who asks that node to join.
    pub pending: &'a [PendingView],
    /// What each node shall have.
    pub placement: &'a Placement,
}

/// Adds what is known of the other nodes.
pub fn across(status: &mut StatusView, authority: &Authority, others: &Across<'_>) {
    let names: BTreeMap<PublicKey, &NodeName> = authority
        .nodes
        .iter()
        .map(|(name, node)| (node.key, name))
        .collect();
    for node in &mut status.nodes {
        reach_of(node, &names, others);
    }
    status.pending = pending(authority, &names, others);
    for record in others.records.iter() {
        let Some(name) = names.get(&record.node) else {
            continue;
        };
        let heard = others.reached.get(&record.node);
        let there = !matches!(heard, None | Some(Reached::Lost));
        for alarm in record.body.alarms.iter().filter(|_| there) {
            status.alarms.push(AlarmView {
                code: alarm.code.clone(),
                message: alarm.about.clone(),
                hint: alarm_hint(&alarm.code).to_owned(),
                node: (*name).clone(),
            });
        }
        if record.node != others.own {
            let all = &record.body.components;
            summaries(status, name, all, there, others.placement);
        }
    }
    status.alarms.sort();
    status.alarms.dedup();
    unsaid(status, others.placement);
    own_components(status);
}

fn reach_of(node: &mut NodeView, names: &BTreeMap<PublicKey, &NodeName>, others: &Across<'_>) {
    let Some(key) = node.key else { return };
    let connection = others.connections.get(&key).cloned().unwrap_or_default();
    node.reach = match others.reached.get(&key) {
        _ if node.here => ReachView {
            state: ReachState::Here,
            ..ReachView::default()
        },
        Some(Reached::Here) => ReachView {
            state: ReachState::Here,
            ..ReachView::default()
        },
        Some(Reached::Linked(_)) => ReachView {
            state: ReachState::Direct,
            ..connection
        },
        Some(Reached::Through { first, rtt_ms, .. }) => ReachView {
            state: ReachState::Indirect,
            rtt_us: Some(u64::from(*rtt_ms) * 1_000),
            via: names.get(first).map(|name| (*name).clone()),
            ..connection
        },
        Some(Reached::Lost) | None => ReachView {
            state: match others.records.get(key) {
                Some(_) => ReachState::Lost,
                None => ReachState::Unknown,
            },
            ..connection
        },
    };
    let record = others.records.get(key);
    node.said = record.map(|record| said(record, others.heads));
    node.sealing = record.and_then(|record| record.body.sealing.clone());
}

fn said(record: &NodeRecord, heads: &BTreeMap<ChainId, Head>) -> NodeSaidView {
    let theirs: BTreeSet<ChainHead> = record.body.heads.iter().copied().collect();
    let mut ours = heads.iter().map(|(chain, head)| head.of(*chain));
    NodeSaidView {
        agent_version: record.body.agent.clone(),
        addresses: record.body.addresses.clone(),
        in_step: ours.all(|head| theirs.contains(&head)),
        cpus: record.body.machine.cpus,
        memory_bytes: record.body.machine.memory_mb.saturating_mul(1024 * 1024),
        cpu_percent: record.body.load.cpu_percent,
        instances: record.body.load.instances,
    }
}

/// Who asks to join, at this node and at those that report it; once each, with the node that was
/// asked first by name.
fn pending(
    authority: &Authority,
    names: &BTreeMap<PublicKey, &NodeName>,
    others: &Across<'_>,
) -> Vec<PendingView> {
    let mut all: BTreeMap<PublicKey, PendingView> = BTreeMap::new();
    let reported = others
        .records
        .iter()
        .filter(|record| record.node != others.own);
    for record in reported {
        let Some(seen_by) = names.get(&record.node) else {
            continue;
        };
        for join in &record.body.pending {
            let Ok(key) = PublicKey::from_bytes(*join.key.as_bytes()) else {
                continue;
            };
            all.entry(key).or_insert_with(|| PendingView {
                key,
                name: join.name.clone(),
                tags: join
                    .tags
                    .iter()
                    .flatten()
                    .map(ToString::to_string)
                    .collect(),
                address: join.address.clone(),
                seen_by: (*seen_by).clone(),
                voucher_proof: join.proof.map(|proof| proof.hex()),
            });
        }
    }
    // What this node heard itself says more.
    all.extend(
        others
            .pending
            .iter()
            .map(|pending| (pending.key, pending.clone())),
    );
    all.into_values()
        .filter(|pending| authority.name_of(&pending.key).is_none())
        .collect()
}

/// What a node says of its components. What it said before it was lost holds for what is placed nowhere else
/// meanwhile.
fn summaries(
    status: &mut StatusView,
    node: &NodeName,
    all: &[ComponentSummary],
    there: bool,
    placement: &Placement,
) {
    for summary in all {
        let Some(component) = component(status, &summary.name) else {
            continue;
        };
        if !there && placement.places(&component.name) {
            continue;
        }
        let state = serde_json::from_value(serde_json::Value::String(summary.state.clone()));
        let why = match there {
            true => summary.reason.as_str(),
            false => NOT_REACHED,
        };
        component.nodes.insert(
            node.clone(),
            OnNodeView {
                state: state.ok().filter(|_| there),
                wanted: summary.wanted,
                healthy: if there { summary.healthy } else { 0 },
                why: (!why.is_empty()).then(|| why.to_owned()),
            },
        );
    }
}

/// What other nodes shall have and do not speak of: since they are not reached, were never heard of, or have
/// not heard of it themselves.
fn unsaid(status: &mut StatusView, placement: &Placement) {
    let nodes = status.nodes.iter();
    let nodes = nodes.filter(|node| !node.here && node.key.is_some() && !node.drained);
    let nodes: Vec<(NodeName, bool, &str)> = nodes
        .map(|node| {
            let is_behind = node.said.as_ref().is_none_or(|said| !said.in_step);
            let (is_told, why) = match node.reach.state {
                ReachState::Unknown => (false, NOT_HEARD_OF),
                ReachState::Lost => (false, NOT_REACHED),
                ReachState::Here | ReachState::Direct | ReachState::Indirect => {
                    (!is_behind, "the node does not have the change yet")
                }
            };
            (node.name.clone(), is_told, why)
        })
        .collect();
    for (node, is_told, why) in nodes {
        // Who has all that is in force says what it wants itself, and says it in a moment if it has just heard.
        for (name, wanted) in placement.shares(&node).filter(|_| !is_told) {
            let Some(component) = component(status, name.as_str()) else {
                continue;
            };
            let said = component.nodes.entry(node.clone());
            let said = said.or_insert_with(|| OnNodeView {
                state: None,
                wanted,
                healthy: 0,
                why: Some(why.to_owned()),
            });
            said.wanted = said.wanted.max(wanted);
        }
    }
}

/// They are in the order of their names.
fn component<'a>(status: &'a mut StatusView, name: &str) -> Option<&'a mut ComponentView> {
    let components = &mut status.components;
    let found = components.binary_search_by(|one| one.name.as_str().cmp(name));
    found.ok().map(|index| &mut components[index])
}

/// The node that answers, in the same form as the others.
fn own_components(status: &mut StatusView) {
    for component in &mut status.components {
        if component.wanted == 0 && component.healthy == 0 && component.old == 0 {
            continue;
        }
        component.nodes.insert(
            status.node.clone(),
            OnNodeView {
                state: Some(component.state),
                wanted: component.wanted,
                healthy: component.healthy,
                why: component
                    .waiting_on
                    .first()
                    .map(|waiting| waiting.message.clone()),
            },
        );
    }
}

/// What a person does about an alarm, by its code.
pub fn alarm_hint(code: &str) -> &'static str {
    match code {
        "forked" => "`realm resolve` shows both histories, and ends the one that you do not want",
        realm_model::record::STALE => {
            "see that `realm beacon` runs; if other nodes are not stale, look at the network of that node"
        }
        realm_model::record::UPGRADE_NEEDED => {
            "install a newer realm on that node: it goes on where it stopped"
        }
        realm_model::record::ROLLOUT_FAILED => {
            "`realm logs COMPONENT` says why; push what mends it, or apply the version before"
        }
        realm_model::record::NOT_DURABLE => {
            "look at the disk of that node (`df`, `dmesg`): it goes on by itself when it can write"
        }
        realm_model::record::PORT_BUSY => {
            "end what listens there (`ss -ltnp`), or change `ports` under [listen] in node.toml"
        }
        realm_model::record::CERTIFICATE_BROKEN => {
            "`realm doctor` on that node reads its certificates, and says what is wrong with them"
        }
        realm_model::record::BACKEND_DOWN => {
            "see that the server runs, that node reaches it, and its password is right: what is waited for goes on by itself"
        }
        realm_model::record::CERTIFICATE_EXPIRES => {
            "put a new certificate in place of that file: the agent takes it up by itself"
        }
        realm_model::record::ACME_FAILED => {
            "see that the name leads to that node from outside, and its ports 80 and 443 too; it is tried again by itself"
        }
        realm_model::record::SECRET_SEALED_AWAY => {
            "`realm secret reseal` seals it to the nodes that may run the component, then `realm apply`"
        }
        realm_model::record::ACME_NAMELESS => {
            "name hosts in the routes of the manifest, or in `names` under [tls.acme] in node.toml"
        }
        realm_model::record::RECORD_POISON => {
            "install the newest realm on both nodes, and report it; if you do not trust the other one, revoke it"
        }
        realm_model::record::PEER_MUTED => {
            "install the newest realm on that node, and look at its machine; if you do not trust it, `realm nodes revoke` it"
        }
        "isolated" => "look at the network of that node, and at `realm nodes ls` on another one",
        realm_model::record::CLONED_KEY => {
            "stop one of the two machines; if you know of one only, revoke the node"
        }
        _ => "look at the log of that node's agent",
    }
}
