//! Names in the order of their bytes, from a file system that has them in none.
//!
//! A page costs a look at every name of the folder, and memory for a bounded number of them. So that a
//! long listing is not looked at anew for each page, the names behind a page are kept for the next one,
//! and hold as long as nothing changed in the container.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::time::Instant;

use realm_model::cloud::CloudError;

use super::super::names::{is_digest, name_of_file};
use super::place::{Fault, Inner, lock};
use super::{CALL_TIMEOUT, found};

/// Names that a look at the folder takes along.
const AHEAD: usize = 10_000;
/// Bytes of them.
const AHEAD_BYTES: usize = 1024 * 1024;
/// Names after which the clock is looked at.
const LOOK_EVERY: usize = 100;
/// Listings that go on at once; others look at the folder for each page.
const LISTINGS: usize = 8;

/// What is kept for next pages, the latest last.
#[derive(Default)]
pub(super) struct Listings(VecDeque<Run>);

struct Run {
    container: String,
    generation: u64,
    /// The name that the next page has to come after.
    after: String,
    names: Names,
}

#[derive(Default)]
struct Names {
    names: BTreeSet<String>,
    n_bytes: usize,
    /// There are others behind them.
    is_cut: bool,
}

impl Listings {
    fn take(&mut self, container: &str, generation: u64, after: &str) -> Option<Names> {
        let at = self.0.iter().position(|run| {
            run.container == container && run.generation == generation && run.after == after
        })?;
        self.0.remove(at).map(|run| run.names)
    }

    fn keep(&mut self, run: Run) {
        if self.0.len() == LISTINGS {
            self.0.pop_front();
        }
        self.0.push_back(run);
    }
}

impl Names {
    /// Keeps the first ones: at least `n_min`, if there are.
    fn insert(&mut self, name: String, n_min: usize) {
        if self.is_cut && self.names.last().is_some_and(|last| name > *last) {
            return;
        }
        self.n_bytes += name.len();
        self.names.insert(name);
        while self.names.len() > n_min
            && (self.names.len() > AHEAD || self.n_bytes > AHEAD_BYTES)
            && let Some(last) = self.names.pop_last()
        {
            self.n_bytes -= last.len();
            self.is_cut = true;
        }
    }
}

impl Inner {
    pub(super) fn list(
        &self,
        container: &str,
        after: Option<String>,
        n_max: usize,
    ) -> Result<Vec<String>, Fault> {
        if n_max == 0 {
            return self.is_there(container).map(|()| Vec::new());
        }
        let generation = self.alone(container, |state| Ok(state.generation))?;
        let kept = after
            .as_deref()
            .and_then(|after| lock(&self.listings).take(container, generation, after));
        let mut names = match kept {
            Some(names) if names.names.len() >= n_max || !names.is_cut => names,
            // Nobody waits for it any longer than for a call.
            Some(_) | None => self.look(
                container,
                after.as_deref(),
                n_max,
                Instant::now() + CALL_TIMEOUT,
            )?,
        };
        let mut page = Vec::new();
        while page.len() < n_max
            && let Some(name) = names.names.pop_first()
        {
            names.n_bytes -= name.len();
            page.push(name);
        }
        if let Some(last) = page.last()
            && (names.is_cut || !names.names.is_empty())
        {
            lock(&self.listings).keep(Run {
                container: container.to_owned(),
                generation,
                after: last.clone(),
                names,
            });
        }
        Ok(page)
    }

    fn look(
        &self,
        container: &str,
        after: Option<&str>,
        n_min: usize,
        until: Instant,
    ) -> Result<Names, Fault> {
        let mut names = Names::default();
        let Some(entries) = found(fs::read_dir(self.objects(container)))? else {
            return Err(CloudError::NotFound("the container").into());
        };
        for (nth, entry) in entries.enumerate() {
            // Who asked is gone: a folder with very many names holds no thread up.
            if nth % LOOK_EVERY == 0 && Instant::now() >= until {
                return Err(CloudError::Timeout.into());
            }
            let file = entry?.file_name();
            // What no name leads to is somebody else's.
            let Some(file) = file.to_str() else { continue };
            let name = match is_digest(file) {
                true => self.kept_name(container, file),
                false => name_of_file(file),
            };
            let Some(name) = name else { continue };
            if after.is_none_or(|after| name.as_str() > after) {
                names.insert(name, n_min);
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use realm_model::cloud::Blobs;

    use super::super::Directory;
    use super::*;
    use crate::Unwatched;

    #[tokio::test]
    async fn who_looks_at_a_folder_stops_when_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Directory::open(folder.path(), Arc::new(Unwatched)).unwrap();
        blobs.create("c").await.unwrap();
        let objects = folder.path().join("containers/c/objects");
        for nth in 0..3 * LOOK_EVERY {
            fs::write(objects.join(nth.to_string()), b"").unwrap();
        }
        let now = Instant::now();
        let look = |until| blobs.inner.look("c", None, 10, until);
        let over = look(now).map(|names| names.names.len());
        assert!(matches!(over, Err(Fault::Cloud(CloudError::Timeout))));
        let names = look(now + CALL_TIMEOUT).map(|names| names.names.len());
        assert!(matches!(names, Ok(n) if n == 3 * LOOK_EVERY));
    }
}
