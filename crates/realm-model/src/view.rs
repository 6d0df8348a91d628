//! The one read model: what `realm status`, the terminal view and the web page show.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::action::WaitingOn;
use crate::digest::Digest;
use crate::entry::{Head, NamespaceName, RealmId};
use crate::key::PublicKey;
use crate::name::{ComponentName, NodeName};
use crate::sealing::Sealing;

/// A realm as one node sees it. `realm status --json` prints this; fields are added, not changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The realm.
    pub realm: RealmId,
    /// Its owners.
    pub owners: Vec<PublicKey>,
    /// The node that answers.
    pub node: NodeName,
    /// Version of realm that the node runs.
    pub agent_version: String,
    /// Version of the desired state in force; 0: nothing was applied yet.
    pub version: u64,
    /// Head of the authority chain.
    pub authority_head: Head,
    /// Head of the namespace chain.
    pub head: Head,
    /// Base URLs that the node answers on.
    pub urls: Vec<String>,
    /// Components, by name.
    pub components: Vec<ComponentView>,
    /// Nodes that are approved or named in the manifest.
    pub nodes: Vec<NodeView>,
    /// Refused entries since the agent started, by code.
    pub refusals: BTreeMap<String, u64>,
    /// Who asks to join the realm, as far as any node that is reached has heard.
    #[serde(default)]
    pub pending: Vec<PendingView>,
    /// What needs the owner's eye.
    #[serde(default)]
    pub alarms: Vec<AlarmView>,
    /// The beacon, if the owners want one.
    #[serde(default)]
    pub beacon: Option<BeaconView>,
}

/// The beacon as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconView {
    /// What people call it.
    pub name: NamespaceName,
    /// The key that signs it.
    pub key: PublicKey,
    /// Seconds between two, by the owners' word.
    pub every_s: u32,
    /// The number of the newest one here; null: none came yet.
    pub counter: Option<u64>,
    /// When that was signed, in seconds since 1970, by its signer's clock.
    pub created_unix_s: Option<u64>,
    /// Whether every entry that it names is here.
    pub met: bool,
    /// Seconds since a newer one last came, and was met, by this node's clock.
    pub age_s: u64,
}

/// Somebody who asks to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingView {
    /// Its key.
    pub key: PublicKey,
    /// The name that it proposes.
    pub name: NodeName,
    /// Tags that it proposes.
    pub tags: Vec<String>,
    /// Where it asked from.
    pub address: String,
    /// The node that it asked.
    pub seen_by: NodeName,
    /// The proof that it holds a ticket's voucher, in hex.
    pub voucher_proof: Option<String>,
}

/// Something that does not mend itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AlarmView {
    /// Stable code.
    pub code: String,
    /// What is the matter.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// The node that says so.
    pub node: NodeName,
}

/// One component in the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentView {
    /// Its name.
    pub name: ComponentName,
    /// The state as one word.
    pub state: ComponentState,
    /// Replicas wanted on this node.
    pub wanted: u32,
    /// Replicas of the wanted revision that are healthy.
    pub healthy: u32,
    /// Replicas of an older revision that still serve.
    pub old: u32,
    /// The pin in force.
    pub digest: Option<Digest>,
    /// Its routes on this node, as written.
    pub routes: Vec<String>,
    /// Why it is not as wanted; empty: it is.
    pub waiting_on: Vec<WaitingOn>,
    /// Times that a replica was started again after a failure.
    pub restarts: u64,
    /// The component on every node that has something to do with it, the one that answers included.
    #[serde(default)]
    pub nodes: BTreeMap<NodeName, OnNodeView>,
}

/// A component on one node, as that node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnNodeView {
    /// The state as one word; `None`: the node has not said, or is not reached.
    pub state: Option<ComponentState>,
    /// Replicas that it wants by what it has in force.
    pub wanted: u32,
    /// Healthy ones of the wanted revision.
    pub healthy: u32,
    /// Why it is not as wanted.
    pub why: Option<String>,
}

/// A component's state in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComponentState {
    /// On the way to its first healthy replica.
    Starting,
    /// As many healthy replicas as wanted.
    Healthy,
    /// A new revision is on its way, an old one serves.
    Updating,
    /// Some replicas are healthy, fewer than wanted.
    Degraded,
    /// Going away.
    Draining,
    /// Waiting for the next attempt after a failure.
    Backoff,
    /// Will not run until something changes.
    Failed,
    /// In the manifest; nothing of it runs or shall run on this node.
    Idle,
    /// A job that runs.
    Running,
    /// A job that waits for the next time of its schedule.
    Scheduled,
    /// It ran to its end, and is not started again.
    Done,
}

/// One node in the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Its key, once the owner approved it.
    pub key: Option<PublicKey>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether it is the node that answers.
    pub here: bool,
    /// The tags among them that the owner's approval names.
    #[serde(default)]
    pub vouched_tags: Vec<String>,
    /// Whether new components are kept away from it.
    #[serde(default)]
    pub cordoned: bool,
    /// Whether everything is taken away from it.
    #[serde(default)]
    pub drained: bool,
    /// Until when the owner approved it, in seconds since 1970.
    #[serde(default)]
    pub not_after_unix_s: Option<u64>,
    /// How it is reached.
    #[serde(default)]
    pub reach: ReachView,
    /// What it said of itself last.
    #[serde(default)]
    pub said: Option<NodeSaidView>,
    /// To which key secrets for it are sealed, in its own words, signed with its key: who seals has to
    /// check that.
    #[serde(default)]
    pub sealing: Option<Sealing>,
}

/// How a node is reached from the one that answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReachView {
    /// One word.
    pub state: ReachState,
    /// `quic`, `tcp` or `relay`, for a connection of the answering node's own.
    pub how: Option<String>,
    /// The address at the other end of that connection.
    pub address: Option<String>,
    /// Round-trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// The node that says that it is connected to it, for one that is reached through others.
    pub via: Option<NodeName>,
    /// Why there is no direct connection.
    pub why_not_direct: Option<String>,
}

/// Whether a node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReachState {
    /// It is the node that answers.
    Here,
    /// The answering node has a connection to it.
    Direct,
    /// A node that is reached has a connection to it.
    Indirect,
    /// Nobody who is reached has a connection to it.
    Lost,
    /// It was not heard of since the agent started.
    #[default]
    Unknown,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSaidView {
    /// The version of realm that it runs.
    pub agent_version: String,
    /// Where it is met.
    pub addresses: Vec<String>,
    /// Whether it has everything in force that the answering node has.
    pub in_step: bool,
    /// CPUs.
    pub cpus: u32,
    /// Memory of the machine, in bytes.
    pub memory_bytes: u64,
    /// Share of its CPUs in use, 0 to 100.
    pub cpu_percent: u32,
    /// Live instances.
    pub instances: u32,
}

impl ComponentView {
    /// The URLs under which the component answers, given the base URLs of the node.
    pub fn urls(&self, bases: &[String]) -> Vec<String> {
        let paths = self.routes.iter().map(|route| {
            // Behind a space stands the share of the requests.
            let route = route.split(' ').next().unwrap_or_default();
            let (host, path) = match route.find('/') {
                Some(slash) => (&route[..slash], &route[slash..]),
                None => ("", "/"),
            };
            (host, path.strip_suffix("...").unwrap_or(path))
        });
        let urls = paths.flat_map(|(host, path)| {
            bases.iter().map(move |base| match base.rsplit_once(':') {
                Some((_, port)) if !host.is_empty() => format!("http://{host}:{port}{path}"),
                Some(_) | None => format!("{base}{path}"),
            })
        });
        urls.collect()
    }
}
