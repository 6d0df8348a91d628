//! Which replicas serve, on the disk: so that after kill -9 an older version that still serves,
//! because the wanted one does not start, serves again.
//!
//! A hint, not a truth: what the file names is looked up in the signed log, and a missing or
//! damaged file only means that nothing is known.

use std::path::PathBuf;

use realm_control::Desired;
use realm_model::name::NodeName;
use realm_model::observed::{Millis, Observed, ReplicaId, ReplicaState, RouteTable};
use realm_store::folder::{RealmFolder, write_atomic};
use serde::{Deserialize, Serialize};

use crate::error::with_causes;

/// The format that is written, and the only one that is read.
const FORMAT: u32 = 1;

/// The file of one realm folder; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    replicas: Vec<ReplicaId>,
}

impl Serving {
    pub(crate) fn new(folder: &RealmFolder) -> Self {
        Self {
            path: folder.root().join("serving.json"),
        }
    }

    /// Keeps who serves by this table.
    pub(crate) fn keep(&self, table: &RouteTable) {
        let replicas = table.backends.values().flatten().cloned().collect();
        let bytes = serde_json::to_vec(&File {
            format: FORMAT,
            replicas,
        })
        .expect("replica ids have only strings and integers");
        let written = tokio::task::block_in_place(|| write_atomic(&self.path, &bytes));
        if let Err(error) = written {
            let reason = with_causes(&error);
            tracing::warn!(reason, "who serves could not be written down");
        }
    }

    /// What a node observes of itself when it starts: older replicas that served, to be started
    /// again for as long as they are needed. The wanted ones start anyway.
    pub(crate) fn observed(&self, desired: &Desired, node: &NodeName, now: Millis) -> Observed {
        let mut observed = Observed::default();
        for replica in self.read() {
            let (component, revision) = (&replica.component, replica.revision);
            let wanted = desired.revision_of(component, node);
            let known = desired.settings_of(component, node, revision).is_some();
            if known && wanted.is_some_and(|wanted| wanted != revision) {
                let state = ReplicaState::Backoff {
                    until: now,
                    attempts: 1,
                    code: "agent-restarted".to_owned(),
                    reason: "the agent was restarted".to_owned(),
                };
                observed.replicas.insert(replica, state);
            }
        }
        observed
    }

    fn read(&self) -> Vec<ReplicaId> {
        let file = std::fs::read(&self.path).ok();
        let file = file.and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok());
        file.filter(|file| file.format == FORMAT)
            .map_or_else(Vec::new, |file| file.replicas)
    }
}
