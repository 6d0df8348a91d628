//! What the control API carries (JSON over HTTP on the Unix socket). Described in docs/api.md.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::entry::{ChainId, Head, RealmId};
use crate::key::PublicKey;
use crate::name::{ComponentName, NodeName};

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
    /// Position since the agent started; a gap at the beginning is what was forgotten.
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
