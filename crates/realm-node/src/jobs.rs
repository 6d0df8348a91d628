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

impl File {
    fn read(bytes: &[u8]) -> Self {
        let file = serde_json::from_slice::<Self>(bytes).ok();
        file.filter(|file| file.format == FORMAT).unwrap_or(Self {
            format: FORMAT,
            ends: BTreeMap::new(),
            schedules: BTreeMap::new(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    revision: Revision,
    state: ReplicaState,
}

impl Jobs {
    pub(crate) fn open(folder: &RealmFolder) -> Self {
        Self::open_at(folder.root().join("jobs.json"))
    }

    fn open_at(path: PathBuf) -> Self {
        let bytes = std::fs::read(&path).unwrap_or_default();
        Self {
            file: File::read(&bytes),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of format 1: a later version reads them.
    const FORMAT_1: &str = r#"{"format":1,"ends":{"a":{"revision":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","state":{"state":"done","ok":true,"reason":"exit code 0"}}},"schedules":{"b":{"schedule":"@daily UTC","until_unix_ms":1795176000000}}}"#;

    fn name(text: &str) -> ComponentName {
        text.parse().expect("a name")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_done_is_known_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("jobs.json");
        let mut jobs = Jobs::open_at(path.clone());
        let id = ReplicaId {
            component: name("a"),
            revision: Revision(realm_model::digest::Digest::of(b"")),
            slot: 0,
        };
        let done = ReplicaState::Done {
            ok: true,
            reason: "exit code 0".to_owned(),
        };
        jobs.ended(&id, &done);
        let handled = Handled {
            schedule: "@daily UTC".to_owned(),
            until_unix_ms: 1_795_176_000_000,
        };
        jobs.handled(&name("b"), &handled);
        let written = std::fs::read_to_string(&path).expect("it is there");
        assert_eq!(written, FORMAT_1);
        let mut again = Jobs::open_at(path);
        assert_eq!(again.file.ends[&name("a")].state, done);
        assert_eq!(again.file.schedules[&name("b")], handled);
        again.retain(|component| component.as_str() == "b");
        assert!(again.file.ends.is_empty() && again.file.schedules.len() == 1);
    }

    #[test]
    fn a_damaged_file_says_nothing() {
        let newer = FORMAT_1.replace("\"format\":1", "\"format\":2");
        for text in ["", "{", "[]", "{\"format\":1}", &newer, &FORMAT_1[1..]] {
            let file = File::read(text.as_bytes());
            assert!(file.ends.is_empty() && file.schedules.is_empty(), "{text}");
        }
    }
}
