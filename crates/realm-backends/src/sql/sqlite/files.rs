//! The files of a folder, one for each database.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use realm_model::cloud::{CloudError, limits};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::guard;

/// The longest name that stands in a file's name as it is.
const SHOWN_BYTES_MAX: usize = 100;

/// The databases of a folder.
pub(super) struct Files(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    /// Files that are there and have their log. Locked while one is made: two connections that turn the
    /// log on at the same time would be in each other's way.
    made: Mutex<BTreeSet<PathBuf>>,
    /// Bytes of each file, as the last of its sessions that changed it says: what is in its log alone
    /// counts as well.
    sizes: std::sync::Mutex<BTreeMap<PathBuf, u64>>,
    /// How many sessions write to a file.
    writing: std::sync::Mutex<BTreeMap<PathBuf, usize>>,
}

/// Held by a session that writes to a file.
pub(super) struct Writing {
    files: Arc<Inner>,
    path: PathBuf,
}

impl Files {
    pub(super) fn new(folder: &Path) -> Self {
        Self(Arc::new(Inner {
            folder: folder.to_owned(),
            made: Mutex::default(),
            sizes: std::sync::Mutex::default(),
            writing: std::sync::Mutex::default(),
        }))
    }

    /// The file of a database, made if it is not there.
    pub(super) async fn make(&self, name: &str) -> Result<PathBuf, CloudError> {
        let path = self.0.folder.join(file_name(name));
        let mut made = self.0.made.lock().await;
        if !made.contains(&path) {
            let (own, folder) = (path.clone(), self.0.folder.clone());
            let done = tokio::task::spawn_blocking(move || make(&folder, &own)).await;
            done.map_err(|_| CloudError::Unavailable)??;
            for (other, bytes) in databases(&self.0.folder)? {
                self.sizes().entry(other).or_insert(bytes);
            }
            made.insert(path.clone());
        }
        Ok(path)
    }

    /// Bytes of all of them.
    pub(super) async fn bytes(&self) -> Result<u64, CloudError> {
        let own = Arc::clone(&self.0);
        let counted = tokio::task::spawn_blocking(move || {
            let there = databases(&own.folder)?
                .into_iter()
                .collect::<BTreeMap<_, _>>();
            let known = own.sizes.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = |(path, bytes)| known.get(path).copied().unwrap_or(bytes);
            Ok(there.iter().map(|(path, own)| bytes((path, *own))).sum())
        });
        counted.await.map_err(|_| CloudError::Unavailable)?
    }

    /// Tells that a session writes to a file, as long as this is held.
    pub(super) fn write(&self, path: &Path) -> Writing {
        *self.0.writing().entry(path.to_owned()).or_default() += 1;
        Writing {
            files: Arc::clone(&self.0),
            path: path.to_owned(),
        }
    }

    /// What a database may grow to, where all of them may have so much. Those that are written to at the
    /// same time have equal parts of what is free: nobody knows what the others will need.
    pub(super) fn share(&self, path: &Path, bytes_max: u64) -> u64 {
        let writing = self.0.writing();
        let others = writing.keys().filter(|own| *own != path).count() as u64;
        drop(writing);
        let sizes = self.sizes();
        let free = bytes_max.saturating_sub(sizes.values().sum());
        sizes.get(path).copied().unwrap_or(0) + free / (1 + others)
    }

    /// Whether the logs of all of them are larger than they may be.
    pub(super) fn logs_are_large(&self, bytes_max: u64) -> bool {
        let paths: Vec<_> = self.sizes().keys().cloned().collect();
        guard::logs_are_large(paths.iter(), bytes_max)
    }

    /// What a database has after a change.
    pub(super) fn note(&self, path: &Path, bytes: u64) {
        self.sizes().insert(path.to_owned(), bytes);
    }

    fn sizes(&self) -> MutexGuard<'_, BTreeMap<PathBuf, u64>> {
        // Entries are written at once: no panic can leave one torn.
        self.0.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn writing(&self) -> MutexGuard<'_, BTreeMap<PathBuf, usize>> {
        // Entries are written at once: no panic can leave one torn.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut writing = self.files.writing();
        if let Some(n) = writing.get_mut(&self.path) {
            *n -= 1;
            if *n == 0 {
                writing.remove(&self.path);
            }
        }
    }
}

fn make(folder: &Path, path: &Path) -> Result<(), CloudError> {
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(|error| guard::failed(&error))?;
    if !path.exists() && databases(folder)?.len() >= limits::DATABASES_MAX {
        let most = limits::DATABASES_MAX;
        return Err(CloudError::Invalid(format!(
            "there are {most} databases already"
        )));
    }
    guard::make(path)
}

/// The files of databases, with their bytes.
fn databases(folder: &Path) -> Result<Vec<(PathBuf, u64)>, CloudError> {
    let list = || -> io::Result<Vec<_>> {
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "db") {
                let bytes = std::fs::metadata(&path)?.len();
                found.push((path, bytes));
            }
        }
        Ok(found)
    };
    list().map_err(|error| guard::failed(&error))
}

/// The name of a file, which no name can leave the folder with, nor meet another one in it, also where
/// upper and lower case are the same.
fn file_name(name: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if name.is_empty() {
        "main.db".to_owned()
    } else if name.len() <= SHOWN_BYTES_MAX && name.bytes().all(plain) {
        format!("n-{name}.db")
    } else {
        let digest = Sha256::digest(name);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("h-{hex}.db")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_leave_the_folder_or_meet() {
        assert_eq!(file_name(""), "main.db");
        assert_eq!(file_name("main"), "n-main.db");
        let long = "x".repeat(255);
        for name in ["../x", "/etc/passwd", "A", "a.db", "\u{e9}", "..", &long] {
            let file = file_name(name);
            assert!(file.starts_with("h-") && file.len() == 69, "{file}");
        }
        assert_ne!(file_name("A"), file_name("a"));
        assert_ne!(file_name("A"), file_name("B"));
    }
}
