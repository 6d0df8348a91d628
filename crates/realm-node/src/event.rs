//! Everything that can happen to a node, as one closed list: one loop takes them in one order.

use std::path::PathBuf;

use realm_control::restart::End;
use realm_model::api::{
    Accepted, BeaconTaken, EntriesPage, ForkView, Heads, Invitation, PeerAdded,
};
use realm_model::digest::Digest;
use realm_model::entry::{ChainId, NamespaceName};
use realm_model::join::Approved;
use realm_model::key::PublicKey;
use realm_model::name::ComponentName;
use realm_model::observed::{Artifact, ReplicaId};
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::view::StatusView;
use realm_model::why::ExplainView;
use tokio::sync::oneshot;

use crate::access::Role;
use crate::compile::CompileFailure;
use crate::core::{Prospect, Unknown};
use crate::metrics::NodeFigures;
use crate::network::{Knock, Network};
use crate::replica::Started;
use crate::stores::Shelf;

/// Something that happened.
pub(crate) enum Event {
    /// Somebody hands over an entry.
    Submitted {
        chain: ChainId,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Result<Accepted, Refusal>>,
    },
    /// Somebody hands in a beacon.
    Beacon {
        bytes: Vec<u8>,
        reply: oneshot::Sender<Result<BeaconTaken, Refusal>>,
    },
    /// The admin API refused something before the ledger saw it.
    Refused(RefusalCode),
    /// Bytes arrived that may be waited for.
    Uploaded(Digest),
    /// A fetch or a compilation got its turn.
    Began { artifact: Artifact, stage: Stage },
    /// A fetch ended.
    Fetched {
        artifact: Artifact,
        result: Result<(), StepFailure>,
    },
    /// A compilation ended.
    Compiled {
        artifact: Artifact,
        result: Result<(), CompileFailure>,
    },
    /// A compiled file was unloaded, and cannot be loaded again.
    Lost(PathBuf),
    /// A replica answered its first probe, or did not; or a program has begun to run, or ended.
    Started {
        replica: ReplicaId,
        start: StartId,
        result: Result<Started, StepFailure>,
    },
    /// A program that ran by itself came to its end.
    Ended {
        replica: ReplicaId,
        start: StartId,
        end: End,
    },
    /// A replica failed its health checks.
    Unhealthy {
        replica: ReplicaId,
        start: StartId,
        reason: String,
    },
    /// A draining replica has no request in flight.
    Idle { replica: ReplicaId, start: StartId },
    /// The node's part in the network is there.
    Met(Box<Network>),
    /// The network tells something.
    Network(realm_net::Event),
    /// The connections of this node are other ones.
    Looked,
    /// A member answered a question of the sync, or did not.
    Answered { id: u64, answer: Option<Vec<u8>> },
    /// A member refuses what members may ask.
    Shut { by: PublicKey },
    /// It said why: a part of the authority chain.
    Told { by: PublicKey, page: Approved },
    /// A stranger asks to be let in.
    Knocked(Knock),
    /// Somebody wants to look into a store.
    AskShelf(oneshot::Sender<Shelf>),
    /// Somebody wants to invite a machine.
    AskInvitation(oneshot::Sender<Invitation>),
    /// Somebody wants a machine to be called on.
    Call {
        address: String,
        reply: oneshot::Sender<Result<PeerAdded, Refusal>>,
    },
    /// Somebody asks how things are.
    AskStatus(oneshot::Sender<StatusView>),
    /// Somebody asks why a component is as it is.
    AskWhy {
        component: ComponentName,
        reply: oneshot::Sender<Result<ExplainView, Unknown>>,
    },
    /// Somebody wants to see what would run where.
    AskProspect(oneshot::Sender<Box<Prospect>>),
    /// Somebody asks what to sign on.
    AskHeads {
        /// Whose texts in force are wanted as well.
        namespace: Option<NamespaceName>,
        /// The component or the app whose past is wanted as well.
        of: Option<ComponentName>,
        reply: oneshot::Sender<Heads>,
    },
    /// Somebody wants to read a chain.
    AskEntries {
        chain: ChainId,
        from: u64,
        reply: oneshot::Sender<Result<EntriesPage, Refusal>>,
    },
    /// Somebody wants to see both histories of a chain.
    AskFork {
        chain: ChainId,
        reply: oneshot::Sender<Result<Option<ForkView>, Refusal>>,
    },
    /// The gate of the API asks what a key may do.
    AskRole {
        key: PublicKey,
        reply: oneshot::Sender<Option<Role>>,
    },
    /// Somebody asks whether the loop goes round.
    AskAlive(oneshot::Sender<()>),
    /// Shows that the loop survives a panic.
    #[cfg(test)]
    Panic,
    /// The metrics page is asked for.
    AskFigures(oneshot::Sender<NodeFigures>),
}

/// What is done to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Fetch,
    Compile,
}

/// One attempt to start a replica: news of an attempt that was given up are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartId(pub(crate) u64);

impl StepFailure {
    /// A task panicked: a mistake of realm's own, which another attempt may not meet.
    pub(crate) fn panicked() -> Self {
        Self {
            code: "panicked".to_owned(),
            reason: "a task of the agent panicked; its log says where".to_owned(),
            permanent: false,
        }
    }
}

/// A step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepFailure {
    /// Stable code.
    pub(crate) code: String,
    /// What happened.
    pub(crate) reason: String,
    /// Whether another attempt would fail in the same way.
    pub(crate) permanent: bool,
}
