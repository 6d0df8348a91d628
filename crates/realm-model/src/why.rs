//! Why things run where they run: what `realm explain` shows, and the placement in `realm plan`.

use serde::{Deserialize, Serialize};

use crate::action::WaitingOn;
use crate::digest::Digest;
use crate::entry::NamespaceName;
use crate::name::{ComponentName, NodeName};
use crate::view::{AlarmView, ComponentState, ReachState};

/// Why something is as it is: a stable code, a sentence, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonView {
    /// Stable code.
    pub code: String,
    /// What a person reads behind the name of what it is about.
    pub message: String,
    /// What to do about it; null where nothing is to be done.
    pub hint: Option<String>,
}

impl ReasonView {
    /// Whether it says why a node has replicas, and not why it has none or what is in their way.
    pub fn is_having(&self) -> bool {
        ["pinned", "placed", "stands-in", "everywhere"].contains(&self.code.as_str())
    }
}

/// Everything about one component at once. `realm explain --json` prints this; fields are added, not
/// changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// Its name.
    pub component: ComponentName,
    /// The namespace that has the name.
    pub namespace: NamespaceName,
    /// The node that answers.
    pub node: NodeName,
    /// How it is, in a word and a sentence.
    pub verdict: VerdictView,
    /// Replicas that shall run, on all nodes together.
    pub wanted: u32,
    /// Replicas that run, of whatever version, by the word of the nodes that are reached.
    pub running: u32,
    /// Those of the version that is wanted.
    pub current: u32,
    /// Replicas that no node can have at present.
    pub unplaced: u32,
    /// The version that brought what is wanted.
    pub version: Option<u64>,
    /// Its bytes.
    pub digest: Option<Digest>,
    /// The routes that lead to it, on whatever nodes.
    pub routes: Vec<ListedRoute>,
    /// Every approved node, and those without approval that a list of the component names.
    pub nodes: Vec<ExplainedNode>,
    /// Everything that is in its way, the most important first.
    pub reasons: Vec<Obstacle>,
    /// Alarms of the nodes that have to do with it.
    pub alarms: Vec<AlarmView>,
}

/// How a component is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictView {
    /// In a word.
    pub code: Verdict,
    /// In a sentence.
    pub message: String,
}

/// How a component is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As many replicas as wanted have the version that is wanted, or are done, or wait for their time.
    AsWanted,
    /// As many as wanted run, not all of them with the version that is wanted.
    Updating,
    /// Some run, fewer than wanted.
    Degraded,
    /// None runs.
    Down,
    /// No node shall have it.
    Nowhere,
}

/// A route and the list that it is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListedRoute {
    /// The list as written: a node, `tag:…`, `*`.
    pub list: String,
    /// Host and path as written.
    pub route: String,
}

/// A component on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedNode {
    /// The node.
    pub node: NodeName,
    /// Replicas that it shall have.
    pub replicas: u32,
    /// Whether it runs none of them because of how it stands in the realm.
    pub withheld: bool,
    /// Why it shall have them, and what is in their way; or every reason why it shall have none.
    pub reasons: Vec<ReasonView>,
    /// How it is reached.
    pub reach: ReachState,
    /// The state as one word, as the node says; null: it has nothing to do with it, or is not reached.
    pub state: Option<ComponentState>,
    /// Replicas that run there, of whatever version.
    pub running: u32,
    /// Healthy ones of the version that is wanted.
    pub current: u32,
    /// Versions that have proven themselves there and answer.
    pub versions: Vec<u64>,
    /// Places that answer with another version, or with one that has just begun.
    pub unproven: u32,
    /// What it waits on, as the node says: all of the node that answers, the first of others.
    pub waiting_on: Vec<WaitingOn>,
}

/// Something that is in the way of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// The node that it is about; null: the component as a whole.
    pub node: Option<NodeName>,
    /// What, and what to do.
    #[serde(flatten)]
    pub reason: ReasonView,
}

/// What would run where if a manifest were in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementView {
    /// The node that answers, or whose folder was looked into.
    pub node: NodeName,
    /// Every component of the namespace, and those of others that would move, by name.
    pub components: Vec<ProposedView>,
    /// Whether reasons are left out of nodes that have no replicas, since there are too many.
    pub abridged: bool,
}

/// Where one component would run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposedView {
    /// Its name.
    pub component: ComponentName,
    /// Replicas that would be wanted, on all nodes together.
    pub wanted: u32,
    /// Replicas that no node could have at present.
    pub unplaced: u32,
    /// The version of what is in force; null: it is not there yet.
    pub version_in_force: Option<u64>,
    /// The version that it would have; null: it goes.
    pub version: Option<u64>,
    /// Whether its replicas would be replaced.
    pub replaced: bool,
    /// The nodes.
    pub nodes: Vec<ProposedPlace>,
    /// Reasons that concern no single node.
    pub reasons: Vec<ReasonView>,
}

/// What one node would have of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposedPlace {
    /// The node.
    pub node: NodeName,
    /// Replicas that it shall have by what is in force.
    pub in_force: u32,
    /// Replicas that it would have.
    pub replicas: u32,
    /// Whether it would run none of them because of how it stands in the realm.
    pub withheld: bool,
    /// Why it would have them, and what is in their way; or every reason why it would have none.
    pub reasons: Vec<ReasonView>,
}
