//! Which replicas serve, on the disk: so that after kill -9 an older version that still serves,
//! because the wanted one does not start, serves again.
//!
//! A hint, not a truth: what the file names is looked up in the signed log, and a missing or
//! damaged file only means that nothing is known. So it is written beside the loop, the newest table
//! alone, and only the next entry waits for it.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use realm_control::Desired;
use realm_model::digest::Digest;
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
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    state: Mutex<State>,
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Who serves, if that is still to be written.
    next: Option<Vec<ReplicaId>>,
    writing: bool,
    /// The digest of what is on the disk, as far as it is known.
    on_disk: Option<Digest>,
    /// Files that were written.
    writes: u64,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    replicas: Vec<ReplicaId>,
}

impl Serving {
    pub(crate) fn new(folder: &RealmFolder) -> Self {
        Self {
            inner: Arc::new(Inner {
                path: folder.root().join("serving.json"),
                state: Mutex::default(),
                written: Condvar::new(),
            }),
        }
    }

    /// Keeps who serves by this table, soon. A table in which nobody serves tells nothing: at the start
    /// of an agent it is the first one, and who served before is still to be started.
    pub(crate) fn keep(&self, table: &RouteTable) {
        let replicas: Vec<ReplicaId> = table.backends.values().flatten().cloned().collect();
        if replicas.is_empty() {
            return;
        }
        let mut state = self.inner.lock();
        state.next = Some(replicas);
        if !std::mem::replace(&mut state.writing, true) {
            let inner = Arc::clone(&self.inner);
            tokio::task::spawn_blocking(move || inner.write());
        }
    }

    /// Waits until what was to be kept is on the disk: before another version comes into force, since
    /// from then on nothing else tells who served.
    pub(crate) fn settle(&self) {
        tokio::task::block_in_place(|| {
            let state = self.inner.lock();
            let settled = self.inner.written.wait_while(state, |state| state.writing);
            drop(settled);
        });
    }

    /// What a node observes of itself when it starts: older replicas that served, to be started
    /// again for as long as they are needed. The wanted ones start anyway.
    pub(crate) fn observed(&self, desired: &Desired, node: &NodeName, now: Millis) -> Observed {
        let mut observed = Observed::default();
        for replica in self.read() {
            let (component, revision) = (&replica.component, replica.revision);
            let is_wanted = desired.revision_of(component, node) == Some(revision);
            let known = desired.settings_of(component, node, revision).is_some();
            if known && !is_wanted {
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
        let bytes = std::fs::read(&self.inner.path).unwrap_or_default();
        self.inner.lock().on_disk = Some(Digest::of(&bytes));
        let file = serde_json::from_slice::<File>(&bytes).ok();
        file.filter(|file| file.format == FORMAT)
            .map_or_else(Vec::new, |file| file.replicas)
    }
}

impl Inner {
    /// Writes until there is nothing newer.
    fn write(&self) {
        loop {
            let mut state = self.lock();
            let Some(replicas) = state.next.take() else {
                state.writing = false;
                self.written.notify_all();
                return;
            };
            let before = state.on_disk;
            drop(state);
            let bytes = serde_json::to_vec(&File {
                format: FORMAT,
                replicas,
            })
            .expect("replica ids have only strings and integers");
            let digest = Digest::of(&bytes);
            // An agent that starts again finds that the same replicas serve.
            if before == Some(digest) {
                continue;
            }
            let written = write_atomic(&self.path, &bytes);
            let mut state = self.lock();
            state.writes += 1;
            state.on_disk = written.is_ok().then_some(digest);
            drop(state);
            if let Err(error) = written {
                let reason = with_causes(&error);
                tracing::warn!(reason, "who serves could not be written down");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use realm_model::observed::Revision;

    use super::*;

    fn table(number: u32) -> RouteTable {
        let component: realm_model::name::ComponentName = "app".parse().expect("a name");
        let id = |slot| ReplicaId {
            component: component.clone(),
            revision: Revision(Digest::of(b"")),
            slot,
        };
        RouteTable {
            backends: [(component.clone(), (0..number).map(id).collect())].into(),
            ..RouteTable::default()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_newest_table_is_kept_and_an_unchanged_one_is_not_written() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = RealmFolder::create(place.path().join(".realm")).expect("made");
        let serving = Serving::new(&folder);
        assert_eq!(serving.read(), []);
        // What comes while the disk is busy costs one write for all of it.
        serving.inner.lock().writing = true;
        for number in 1..=500 {
            serving.keep(&table(number));
        }
        serving.inner.write();
        serving.settle();
        assert_eq!(
            (serving.read().len(), serving.inner.lock().writes),
            (500, 1)
        );

        let inode = || std::fs::metadata(&serving.inner.path).expect("there").ino();
        let before = inode();
        let again = Serving::new(&folder);
        assert_eq!(again.read().len(), 500);
        again.keep(&table(500));
        again.settle();
        assert_eq!((inode(), again.inner.lock().writes), (before, 0));
        again.keep(&table(1));
        again.settle();
        again.keep(&table(0));
        again.settle();
        assert_eq!((again.read().len(), again.inner.lock().writes), (1, 1));
    }
}
