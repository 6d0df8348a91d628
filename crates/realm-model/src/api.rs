//! What the control API carries (JSON over HTTP on the Unix socket). Described in docs/api.md.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::entry::{ChainId, Delegate, Head, NamespaceName, RealmId};
use crate::key::PublicKey;
use crate::name::{ComponentName, NodeName};
use crate::view::BeaconView;

/// The answer to an entry that was taken: it is on the disk, fsynced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The chain it extends.
    pub chain: ChainId,
    /// That chain's new head.
    pub head: Head,
    /// Version of the desired state now in force.
    pub version: u64,
}

/// A manifest and its pins, to be told what would run where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskPlacement {
    /// The namespace that it is for.
    pub namespace: NamespaceName,
    /// The text of realm.toml.
    pub manifest: String,
    /// The text of realm.lock.
    pub lock: String,
}

/// Every error of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Stable code.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// Where the realm stands: what a signer must know before it signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// The realm.
    pub realm: RealmId,
    /// Its owners.
    pub owners: Vec<PublicKey>,
    /// Head of the authority chain.
    pub authority: Head,
    /// Head of the namespace chain.
    pub default: Head,
    /// Version in force; 0: nothing was applied yet.
    pub version: u64,
    /// The manifest in force, byte for byte.
    pub manifest: Option<String>,
    /// The lock in force, byte for byte.
    pub lock: Option<String>,
    /// The node that answers.
    pub node: NodeName,
    /// That node's key.
    pub node_key: PublicKey,
    /// Whether that node is approved.
    pub approved: bool,
    /// How many owners must sign each entry.
    #[serde(default = "one")]
    pub threshold: u32,
    /// Keys that are kept offline, to recover and resolve.
    #[serde(default)]
    pub recovery: Vec<PublicKey>,
    /// Every namespace, that of the owners included.
    #[serde(default)]
    pub namespaces: BTreeMap<NamespaceName, NamespaceHead>,
    /// Who signs for a namespace in place of the owners, or may look.
    #[serde(default)]
    pub delegates: Vec<DelegateView>,
    /// The nodes that the owners approved, with the tags that count of each.
    #[serde(default)]
    pub nodes: BTreeMap<NodeName, Vec<String>>,
    /// Chains that stand still, because they have two histories.
    #[serde(default)]
    pub forks: Vec<ForkHeads>,
    /// The beacon, if the owners want one.
    #[serde(default)]
    pub beacon: Option<BeaconView>,
    /// What the component or app that was asked for ran with, as far as it is remembered.
    #[serde(default)]
    pub history: Option<HistoryView>,
    /// Components of the namespace that was asked for that run with other settings than its manifest says:
    /// they were rolled back.
    #[serde(default)]
    pub rolled_back: Vec<ComponentName>,
    /// Components of the namespace that was asked for whose bytes are not those that came with its
    /// manifest: they were pushed since, or rolled back to.
    #[serde(default)]
    pub pushed: Vec<ComponentName>,
}

/// What a component ran with, or how the requests of an app were divided. The newest is last, and in
/// force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryView {
    /// Of a component.
    pub versions: Vec<PastView>,
    /// Of an app.
    pub divisions: Vec<DivisionView>,
}

/// What a component ran with from one entry on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastView {
    /// The version of the desired state.
    pub version: u64,
    /// The entry of its namespace that brought it.
    pub entry: u64,
    /// Its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Whether its rollout failed, as far as the node that answers knows.
    #[serde(default)]
    pub failed: bool,
}

/// How the requests of an app were divided from one entry on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivisionView {
    /// The entry of its namespace that brought it.
    pub entry: u64,
    /// Version → how many requests of all together.
    pub weights: BTreeMap<ComponentName, u32>,
}

/// The answer to a beacon that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconTaken {
    /// Its number.
    pub counter: u64,
}

/// Of agents from before there was more than one.
const fn one() -> u32 {
    1
}

/// Where a namespace stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceHead {
    /// The last entry of its chain.
    pub head: Head,
    /// Version in force; 0: nothing was applied yet.
    pub version: u64,
    /// The manifest in force, byte for byte; only of the namespace that was asked for.
    pub manifest: Option<String>,
    /// The lock in force, byte for byte; only of the namespace that was asked for.
    pub lock: Option<String>,
}

/// A delegate, as its entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegateView {
    /// The namespace.
    pub namespace: NamespaceName,
    /// The key that signs for it.
    pub key: PublicKey,
    /// `delegate`, or `reader`: without components and powers.
    pub role: String,
    /// Names of components, `*` for any characters.
    pub apps: Vec<String>,
    /// Hosts of routes; empty: any.
    pub hosts: Vec<String>,
    /// Tags of nodes; empty: any node.
    pub tags: Vec<String>,
    /// What its manifests may grant.
    pub capabilities: Vec<String>,
    /// Replicas that one route may ask for; null: any number.
    pub replicas_max: Option<u32>,
    /// Whether it may run commands on nodes.
    pub may_exec: bool,
    /// Whether it may approve nodes.
    pub may_approve: bool,
    /// The end, in seconds since 1970; null: none.
    pub not_after_unix_s: Option<u64>,
}

impl From<&Delegate> for DelegateView {
    fn from(delegate: &Delegate) -> Self {
        let Delegate {
            namespace,
            key,
            apps,
            hosts,
            tags,
            capabilities,
            may_exec,
            may_approve,
            fences: _,
            replicas_max,
            not_after_unix_s,
        } = delegate;
        let role = if delegate.is_reader() {
            "reader"
        } else {
            "delegate"
        };
        Self {
            namespace: *namespace,
            key: *key,
            role: role.to_owned(),
            apps: apps.clone(),
            hosts: hosts.clone(),
            tags: tags.clone(),
            capabilities: capabilities.clone(),
            replicas_max: *replicas_max,
            may_exec: *may_exec,
            may_approve: *may_approve,
            not_after_unix_s: *not_after_unix_s,
        }
    }
}

/// A chain that stands still, and the two entries of one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkHeads {
    /// The chain.
    pub chain: ChainId,
    /// The place.
    pub seq: u64,
    /// The two entries.
    pub heads: [Head; 2],
}

/// The two entries that prove that a chain has two histories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkView {
    /// The chain.
    pub chain: ChainId,
    /// The two, with their bytes; the one with the lower hash first.
    pub entries: [EntryView; 2],
}

/// Dead letters of a binding, as a node keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// The binding.
    pub binding: String,
    /// The newest first.
    pub letters: Vec<DeadLetter>,
}

/// A message that nobody could deal with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// What tells it from the others of the binding on that node.
    pub number: u64,
    /// Where it was sent.
    pub topic: String,
    /// The group in which it died.
    pub group: String,
    /// When, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died_unix_ms: Option<u64>,
    /// How often it was delivered.
    pub deliveries: u32,
    /// What the last delivery came to.
    pub why: String,
    /// Bytes that it takes.
    pub bytes: u64,
    /// What it says, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<DeadMessage>,
}

/// What a dead letter says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadMessage {
    /// MIME type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Pairs that its sender set.
    pub metadata: Vec<(String, String)>,
    /// Its bytes, in base64.
    pub data: String,
}

impl DeadMessage {
    /// What a message says.
    pub fn new(content_type: Option<String>, metadata: Vec<(String, String)>, data: &[u8]) -> Self {
        Self {
            content_type,
            metadata,
            data: STANDARD.encode(data),
        }
    }

    /// Its bytes; `None`: they are no base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.data).ok()
    }
}

/// What is to become of dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleDead {
    /// The binding.
    pub binding: String,
    /// What.
    pub act: DeadAct,
    /// Which one; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
}

/// What becomes of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeadAct {
    /// It is delivered again, as if it were new.
    Retry,
    /// It is gone.
    Drop,
}

/// What became of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadSettled {
    /// How many it was done to.
    pub done: u64,
    /// How many are there still, as their group or their bytes are gone.
    #[serde(default, skip_serializing_if = "is_none_left")]
    pub left: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes what it looks at by reference"
)]
const fn is_none_left(left: &u64) -> bool {
    *left == 0
}

/// Entries of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntriesPage {
    /// The chain.
    pub chain: ChainId,
    /// In order, without gaps and without their bytes.
    pub entries: Vec<EntryView>,
    /// The last entry of the chain; there are more after these if it is none of them.
    pub head: Head,
}

/// An entry, as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// Its place.
    pub seq: u64,
    /// SHA-256 of its payload.
    pub hash: Digest,
    /// SHA-256 of the payload before it.
    pub prev: Digest,
    /// The authority head that its signer saw.
    pub authority: Head,
    /// Its kind in a word.
    pub kind: String,
    /// The namespace that it gives away, takes back or settles.
    #[serde(default)]
    pub namespace: Option<NamespaceName>,
    /// What it says, in words.
    pub says: String,
    /// Seconds since 1970 by the signer's clock.
    pub created_unix_s: u64,
    /// Whose signatures it has.
    pub signers: Vec<PublicKey>,
    /// Whether it is in the chain of the node that answers.
    pub here: bool,
    /// Its exact bytes in base64; null in a list.
    pub bytes: Option<String>,
}

/// What a ticket of this realm is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The realm.
    pub realm: RealmId,
    /// The head of its authority chain.
    pub floor: Head,
    /// Where its nodes answer, the one that is asked first; multiaddrs with the node's key.
    pub addresses: Vec<String>,
}

/// A request to call on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddPeer {
    /// Where it is, as a multiaddr.
    pub address: String,
}

/// What a call on a machine found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAdded {
    /// The address.
    pub address: String,
    /// In one word.
    pub outcome: PeerOutcome,
    /// The key of whoever is there.
    pub key: Option<PublicKey>,
    /// The name of a member.
    pub name: Option<NodeName>,
    /// Why not.
    pub why: Option<String>,
}

/// How a call on a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerOutcome {
    /// A node of this realm.
    Member,
    /// A machine without a realm, which asks to join this one.
    Offered,
    /// A machine that does not take this realm.
    Declined,
    /// Nobody answered; a node of the realm there is found later.
    Unreached,
}

/// The answer to an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// SHA-256 of what was received.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// Who changed or ran what on a node: the newest, in the agent's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// The oldest first.
    pub entries: Vec<AuditEntry>,
}

/// One call or command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Position in the audit of the node, which outlives its agent; a gap at the beginning is what was
    /// forgotten.
    pub seq: u64,
    /// The caller's key; `local`: the agent's user on this machine.
    pub caller: String,
    /// The caller's role.
    pub role: String,
    /// `submit`, `upload`, `exec` or `run`.
    pub call: String,
    /// The path, or the command, made printable and cut.
    pub what: String,
    /// Milliseconds since 1970 by the node's clock.
    pub began_unix_ms: u64,
    /// Null while it runs.
    pub ended_unix_ms: Option<u64>,
    /// The exit code, the code of an error, or the status of the answer; null while it runs.
    pub outcome: Option<String>,
}

/// One line of a guest's stdout or stderr, or a marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Position in the component's ring; a gap in it is a gap in the lines.
    pub seq: u64,
    /// Milliseconds since 1970 by the node's clock.
    pub unix_ms: u64,
    /// The component.
    pub component: ComponentName,
    /// The replica's slot.
    pub slot: u32,
    /// Where it was written.
    pub stream: LogStream,
    /// The text, made printable, without the newline.
    pub text: String,
    /// For [`LogStream::Gap`]: how many lines are missing here.
    pub dropped: u64,
}

/// Where a log line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    /// The guest's stdout.
    Stdout,
    /// The guest's stderr.
    Stderr,
    /// realm's own word about the component (started, trapped, limit hit).
    Agent,
    /// Lines were dropped here.
    Gap,
}
