//! Who calls, and what they may: one table of calls, and the gate before each of them.
//!
//! A caller is who its key says: by a signature over the request, or by the connection where that
//! proves a key. What a key may do is the authority chain's word. Not here: what a call does.

mod gate;
mod nonces;
#[cfg(test)]
mod openapi_tests;

use axum::http::Method;
use realm_model::key::PublicKey;

pub(crate) use gate::{Gate, authorize};

/// How a connection came in: what it proves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mouth {
    /// The Unix socket: the agent's user, or root.
    Socket,
    /// A connection whose other end proved this key: mutual TLS, or a stream of that peer.
    Peer(PublicKey),
    /// Somebody passes it on: it proves nothing, only signatures count.
    Relayed,
}

/// What the authority chain says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// An owner of the realm.
    Owner,
    /// A recovery key: it signs entries, and nothing else.
    Recovery,
    /// An approved node.
    Node,
    /// Somebody to whom the owners gave a namespace.
    Delegate {
        /// Whether it may run commands on nodes.
        may_exec: bool,
    },
    /// Somebody who may look.
    Reader,
    /// It signs beacons.
    Beacon,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The agent's user, on this machine.
    Local,
    /// Somebody with a key.
    Key { key: PublicKey, role: Role },
}

/// The calls of the API. The router is made of this list, and docs/openapi.yaml is held to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Status,
    Explain,
    Placement,
    Heads,
    Entries,
    Fork,
    Submit,
    HasBlob,
    PutBlob,
    Logs,
    Exec,
    Run,
    Audit,
    Metrics,
    Invitation,
    AddPeer,
    Beacon,
    DeadLetters,
    SettleDead,
}

impl Call {
    pub(crate) const ALL: [Self; 19] = [
        Self::Status,
        Self::Explain,
        Self::Placement,
        Self::Heads,
        Self::Entries,
        Self::Fork,
        Self::Submit,
        Self::HasBlob,
        Self::PutBlob,
        Self::Logs,
        Self::Exec,
        Self::Run,
        Self::Audit,
        Self::Metrics,
        Self::Invitation,
        Self::AddPeer,
        Self::Beacon,
        Self::DeadLetters,
        Self::SettleDead,
    ];

    /// Method and path, as the router matches them.
    pub(crate) const fn route(self) -> (Method, &'static str) {
        match self {
            Self::Status => (Method::GET, "/v1/status"),
            Self::Explain => (Method::GET, "/v1/explain/{component}"),
            Self::Placement => (Method::POST, "/v1/placement"),
            Self::Heads => (Method::GET, "/v1/heads"),
            Self::Entries => (Method::GET, "/v1/entries/{chain}"),
            Self::Fork => (Method::GET, "/v1/forks/{chain}"),
            Self::Submit => (Method::POST, "/v1/entries/{chain}"),
            Self::HasBlob => (Method::GET, "/v1/blobs/{digest}"),
            Self::PutBlob => (Method::PUT, "/v1/blobs/{digest}"),
            Self::Logs => (Method::GET, "/v1/logs/{component}"),
            Self::Exec => (Method::POST, "/v1/exec"),
            Self::Run => (Method::POST, "/v1/run"),
            Self::Audit => (Method::GET, "/v1/audit"),
            Self::Metrics => (Method::GET, "/metrics"),
            Self::Invitation => (Method::GET, "/v1/invitation"),
            Self::AddPeer => (Method::POST, "/v1/peers"),
            Self::Beacon => (Method::POST, "/v1/beacon"),
            Self::DeadLetters => (Method::GET, "/v1/dead-letters"),
            Self::SettleDead => (Method::POST, "/v1/dead-letters"),
        }
    }

    /// The call in a word: for the audit, and for figures.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Explain => "explain",
            Self::Placement => "placement",
            Self::Heads => "heads",
            Self::Entries => "entries",
            Self::Fork => "fork",
            Self::Submit => "submit",
            Self::HasBlob => "has",
            Self::PutBlob => "upload",
            Self::Logs => "logs",
            Self::Exec => "exec",
            Self::Run => "run",
            Self::Audit => "audit",
            Self::Metrics => "metrics",
            Self::Invitation => "invitation",
            Self::AddPeer => "add-peer",
            Self::Beacon => "beacon",
            Self::DeadLetters => "dead-letters",
            Self::SettleDead => "settle-dead",
        }
    }

    /// Whether it changes something, or runs something: then it leaves a line in the audit.
    pub(crate) const fn changes(self) -> bool {
        match self {
            Self::Submit
            | Self::PutBlob
            | Self::Exec
            | Self::Run
            | Self::AddPeer
            | Self::SettleDead => true,
            Self::Status
            | Self::Explain
            | Self::Placement
            | Self::Heads
            | Self::Entries
            | Self::Fork
            | Self::HasBlob
            | Self::Logs
            | Self::Audit
            | Self::Metrics
            | Self::Invitation
            | Self::DeadLetters
            // One comes every few minutes, for ever: it would push everything else out.
            | Self::Beacon => false,
        }
    }

    /// Whether it needs a signature of its own whatever the connection proves: a command is run for
    /// a key, on this node, once, and soon.
    pub(crate) const fn wants_signature(self) -> bool {
        matches!(self, Self::Exec | Self::Run)
    }

    /// Whether a key of this role may call it. The policy of the node may still say no.
    pub(crate) const fn allows(self, role: Role) -> bool {
        match (role, self) {
            // Who signs what runs may see and send all of it.
            (Role::Owner, _) => true,
            (Role::Delegate { may_exec }, Self::Exec | Self::Run) => may_exec,
            // What a queue holds may be anybody's of the realm.
            (
                Role::Delegate { .. },
                Self::Audit | Self::AddPeer | Self::Beacon | Self::DeadLetters | Self::SettleDead,
            ) => false,
            (Role::Delegate { .. }, _) => true,
            // It is kept offline, and taken out to mend the chain.
            (
                Role::Recovery,
                Self::Status
                | Self::Explain
                | Self::Heads
                | Self::Entries
                | Self::Fork
                | Self::Submit,
            ) => true,
            (Role::Recovery, _) => false,
            (
                Role::Reader,
                Self::Status
                | Self::Explain
                | Self::Placement
                | Self::Heads
                | Self::Entries
                | Self::Logs
                | Self::Metrics,
            ) => true,
            (Role::Reader, _) => false,
            // Its key lies on a machine that is on all the time: whoever steals it gets little.
            (Role::Beacon, Self::Status | Self::Explain | Self::Heads | Self::Beacon) => true,
            (Role::Beacon, _) => false,
            // What a component writes is for people.
            (Role::Node, Self::Status | Self::Explain | Self::Heads | Self::HasBlob) => true,
            (Role::Node, _) => false,
        }
    }
}

impl From<&realm_control::Role> for Role {
    fn from(role: &realm_control::Role) -> Self {
        use realm_control::Role as Said;
        match role {
            Said::Owner => Self::Owner,
            Said::Recovery => Self::Recovery,
            Said::Node(_) => Self::Node,
            Said::Delegate { may_exec, .. } => Self::Delegate {
                may_exec: *may_exec,
            },
            Said::Reader => Self::Reader,
            Said::Beacon => Self::Beacon,
        }
    }
}

impl Role {
    /// A word for messages and the audit.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Recovery => "recovery",
            Self::Node => "node",
            Self::Delegate { .. } => "delegate",
            Self::Reader => "reader",
            Self::Beacon => "beacon",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_may_what_the_table_says() {
        // Columns: owner, delegate, delegate with exec, reader, node, recovery, beacon.
        let roles = [
            Role::Owner,
            Role::Delegate { may_exec: false },
            Role::Delegate { may_exec: true },
            Role::Reader,
            Role::Node,
            Role::Recovery,
            Role::Beacon,
        ];
        let table = "
            Status   yes yes yes yes yes yes yes
            Explain  yes yes yes yes yes yes yes
            Placement yes yes yes yes - - -
            Heads    yes yes yes yes yes yes yes
            Entries  yes yes yes yes -   yes -
            Fork     yes yes yes -   -   yes -
            Submit   yes yes yes -   -   yes -
            HasBlob  yes yes yes -   yes -   -
            PutBlob  yes yes yes -   -   -   -
            Logs     yes yes yes yes -   -   -
            Exec     yes -   yes -   -   -   -
            Run      yes -   yes -   -   -   -
            Audit    yes -   -   -   -   -   -
            Metrics  yes yes yes yes -   -   -
            Invitation yes yes yes - -   -   -
            AddPeer  yes -   -   -   -   -   -
            Beacon   yes -   -   -   -   -   yes
            DeadLetters yes - -  -   -   -   -
            SettleDead yes - -   -   -   -   -";
        let lines: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), Call::ALL.len());
        for (line, call) in lines.iter().zip(Call::ALL) {
            assert_eq!(line[0], format!("{call:?}"));
            for (word, role) in line[1..].iter().zip(roles) {
                assert_eq!(call.allows(role), *word == "yes", "{call:?} {role:?}");
            }
        }
    }
}
