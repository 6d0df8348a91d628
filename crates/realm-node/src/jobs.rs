//! What jobs have done, on the disk: so that after kill -9 a job that is done is not run again, and
//! no time of a schedule is run twice.
//!
//! A job is run at least once for each version: what was killed on its way begins again. A time of
//! a schedule is run at most once: it is written down before. A missing or damaged file only means
//! that nothing is known.

use std::collections::BTreeMap;
use std::path::PathBuf;

use realm_control::Desired;
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Handled, Observed, ReplicaId, ReplicaState, Revision};
use realm_store::folder::{RealmFolder, write_atomic};
use serde::{Deserialize, Serialize};

use crate::error::with_causes;

/// The format that is written, and the only one that is read.
const FORMAT: u32 = 1;

/// The file of one realm folder, and what it says.
#[derive(Debug)]
pub(crate) struct Jobs {
    path: PathBuf,
    file: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    /// The end of each job that runs once.
    ends: BTreeMap<ComponentName, Ended>,
    /// How far each schedule is dealt with.
    schedules: BTreeMap<ComponentName, Handled>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    revision: Revision,
    state: ReplicaState,
}

impl Jobs {
    pub(crate) fn open(folder: &RealmFolder) -> Self {
        let path = folder.root().join("jobs.json");
        let file = std::fs::read(&path).ok();
        let file = file.and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok());
        Self {
            file: file.filter(|file| file.format == FORMAT).unwrap_or(File {
                format: FORMAT,
                ends: BTreeMap::new(),
                schedules: BTreeMap::new(),
            }),
            path,
        }
    }

    /// Adds what a node observes of its jobs when it starts.
    pub(crate) fn observe(&self, observed: &mut Observed, desired: &Desired, node: &NodeName) {
        for (component, ended) in &self.file.ends {
            if desired.revision_of(component, node) == Some(ended.revision) {
                let id = ReplicaId {
                    component: component.clone(),
                    revision: ended.revision,
                    slot: 0,
                };
                observed.replicas.insert(id, ended.state.clone());
            }
        }
        observed.schedules = self.file.schedules.clone();
    }

    /// A job that runs once has come to its last end.
    pub(crate) fn ended(&mut self, id: &ReplicaId, state: &ReplicaState) {
        let ended = Ended {
            revision: id.revision,
            state: state.clone(),
        };
        self.file.ends.insert(id.component.clone(), ended);
        self.keep();
    }

    /// A schedule is dealt with so far.
    pub(crate) fn handled(&mut self, component: &ComponentName, handled: &Handled) {
        self.file
            .schedules
            .insert(component.clone(), handled.clone());
        self.keep();
    }

    /// Forgets the jobs that `known` does not know; the file follows with the next change.
    pub(crate) fn retain(&mut self, known: impl Fn(&ComponentName) -> bool) {
        self.file.ends.retain(|name, _| known(name));
        self.file.schedules.retain(|name, _| known(name));
    }

    fn keep(&self) {
        let bytes = serde_json::to_vec(&self.file).expect("names, texts and integers");
        let written = tokio::task::block_in_place(|| write_atomic(&self.path, &bytes));
        if let Err(error) = written {
            let reason = with_causes(&error);
            tracing::warn!(reason, "what the jobs have done could not be written down");
        }
    }
}
