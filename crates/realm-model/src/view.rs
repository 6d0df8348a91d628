//! The one read model: what `realm status`, the terminal view and the web page show.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::action::WaitingOn;
use crate::digest::Digest;
use crate::entry::{Head, RealmId};
use crate::key::PublicKey;
use crate::name::{ComponentName, NodeName};

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
    /// In the manifest, with no route on this node.
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
}

impl ComponentView {
    /// The URLs under which the component answers, given the base URLs of the node.
    pub fn urls(&self, bases: &[String]) -> Vec<String> {
        let paths = self.routes.iter().map(|route| {
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
