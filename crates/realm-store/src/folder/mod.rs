//! The realm folder: what lies where, how it is made, found and locked, and how small files in it
//! are written.
//!
//! The genesis has no file of its own: it is the first record of the authority log. Not here: what
//! is in the files, and the manifest, which lies wherever its author keeps it.

mod safe;
mod small;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use realm_model::entry::ChainId;

use crate::files::{DIRECTORY_MODE, Files, PRIVATE_MODE, RealFiles};
pub use small::{read_secret, read_small, replace_secret, write_atomic, write_secret};

/// The folder's name beside a manifest.
pub const NAME: &str = ".realm";
/// The folder's name in the data home of the user.
const NAME_IN_DATA_HOME: &str = "realm";

/// A folder that holds a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealmFolder {
    root: PathBuf,
}

/// Where a realm folder may be, in this order.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// `--realm DIR`.
    pub explicit: Option<&'a Path>,
    /// The value of the environment variable that names one.
    pub environment: Option<&'a Path>,
    /// The current folder: `.realm` is searched in it and in its parents.
    pub here: &'a Path,
    /// `XDG_DATA_HOME`, or what stands for it.
    pub data_home: Option<&'a Path>,
    /// The user: a `.realm` that belongs to somebody else is passed over, since whoever may write
    /// in a common parent folder (`/tmp`) could plant one.
    pub user: u32,
}

/// Why a realm folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refused an operation.
    #[error("failed to {operation} `{path}`")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No realm is there.
    #[error("`{path}` is no realm folder")]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something else, and is left as it is.
    #[error("`{path}` is not empty and is no realm folder")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A secret is there already, and is left as it is.
    #[error("`{path}` exists and is not overwritten")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A folder, device or socket where a file was expected.
    #[error("`{path}` is neither a file nor a pipe")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file has more bytes than are taken.
    #[error("`{path}` has more than {bytes_max} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The cap.
        bytes_max: u64,
    },
    /// Others may read a secret.
    #[error("`{path}` has mode {mode:o}: others than its owner can use it")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else can change what the agent trusts.
    #[error("`{path}` {why}")]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// Whose it is, or what its mode allows.
        why: String,
    },
    /// Another agent runs on this folder.
    #[error("another agent holds `{path}`{}", holder(*.process))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The agent's process id, if it could be read.
        process: Option<u32>,
    },
}

/// Finds the realm folder: explicit, else named by the environment, else the nearest `.realm` of
/// this user upwards from here, else the place in the data home. Whether a realm is there is
/// another question.
pub fn discover(places: &Places<'_>) -> PathBuf {
    if let Some(named) = places.explicit.or(places.environment) {
        return named.to_owned();
    }
    let near = places.here.ancestors().map(|folder| folder.join(NAME));
    for candidate in near {
        let ours = fs::symlink_metadata(&candidate)
            .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == places.user);
        if ours && is_realm(&candidate) {
            return candidate;
        }
    }
    places.data_home.map_or_else(
        || places.here.join(NAME),
        |home| home.join(NAME_IN_DATA_HOME),
    )
}

impl RealmFolder {
    /// Makes a realm folder, or what is missing in one. A folder with other things in it is
    /// refused, and so is one that others can change.
    pub fn create(root: PathBuf) -> Result<Self, FolderError> {
        let make = |path: &Path| {
            RealFiles
                .create_dir(path)
                .map_err(|error| io_error("create", path, error))
        };
        make(&root)?;
        if !is_realm(&root) {
            let mut entries =
                fs::read_dir(&root).map_err(|error| io_error("list", &root, error))?;
            if entries.next().is_some() {
                return Err(FolderError::Occupied { path: root });
            }
            // It may have been empty and open to others.
            fs::set_permissions(&root, fs::Permissions::from_mode(DIRECTORY_MODE))
                .map_err(|error| io_error("set the mode of", &root, error))?;
        }
        let folder = Self { root };
        folder.check_safe()?;
        make(&folder.logs())?;
        for path in [
            folder.marks(),
            folder.blobs(),
            folder.cache(),
            folder.temporary(),
        ] {
            make(&path)?;
        }
        Ok(folder)
    }

    /// Opens a realm folder that exists.
    pub fn open(root: PathBuf) -> Result<Self, FolderError> {
        if is_realm(&root) {
            Ok(Self { root })
        } else {
            Err(FolderError::Missing { path: root })
        }
    }

    /// Refuses a folder in which others than this user can put things: whoever can write in `log`
    /// and `marks` can set the realm back, and what lies in `cache` runs as machine code.
    pub fn check_safe(&self) -> Result<(), FolderError> {
        safe::check(&self.trusted_folders(), rustix::process::geteuid().as_raw())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The owner's secret key (on the owner's machine only).
    pub fn owner_key(&self) -> PathBuf {
        self.root.join("owner.key")
    }

    /// The node's secret key.
    pub fn node_key(&self) -> PathBuf {
        self.root.join("node.key")
    }

    /// The key that opens the secrets which are sealed to this node.
    pub fn sealing_key(&self) -> PathBuf {
        self.root.join("sealing.key")
    }

    /// The node operator's settings.
    pub fn node_config(&self) -> PathBuf {
        self.root.join("node.toml")
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("agent.sock")
    }

    /// The file that a running agent holds locked.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("agent.lock")
    }

    /// The log of a chain. The authority log's first record is the genesis.
    pub fn log(&self, chain: ChainId) -> PathBuf {
        self.logs().join(format!("{}.log", chain.as_str()))
    }

    /// A copy of the genesis, beside the log that begins with it: whoever lost that log needs the
    /// realm's id to ask for the rest.
    pub fn genesis(&self) -> PathBuf {
        self.logs().join("genesis")
    }

    /// The chains that have a log here, the authority chain first.
    pub fn chains<F: Files>(&self, files: &F) -> Result<Vec<ChainId>, FolderError> {
        let directory = self.logs();
        let names = match files.names(&directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_error("list", &directory, error)),
        };
        let logs = names.iter().filter_map(|name| name.strip_suffix(".log"));
        let mut chains: Vec<ChainId> = logs.filter_map(ChainId::of).collect();
        chains.sort_unstable();
        Ok(chains)
    }

    /// The folder of proofs that a chain has two histories: one file per chain.
    pub fn forks(&self) -> PathBuf {
        self.root.join("forks")
    }

    /// The proof that a chain has two histories, if one was seen.
    pub fn fork(&self, chain: ChainId) -> PathBuf {
        self.forks().join(chain.as_str())
    }

    /// The folder of the high-water marks.
    pub fn marks(&self) -> PathBuf {
        self.root.join("marks")
    }

    /// The folder of the blobs.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The folder of embedded stores, with a folder for each binding in it.
    pub fn stores(&self) -> PathBuf {
        self.root.join("stores")
    }

    /// The folder of what an engine with this fingerprint compiled; see
    /// [`RealmFolder::create_compiled`].
    pub fn compiled(&self, fingerprint: &str) -> PathBuf {
        self.all_compiled().join(fingerprint)
    }

    /// Makes the folder of what an engine with this fingerprint compiled, for this user alone
    /// whatever the umask says; one that others can write in is refused.
    pub fn create_compiled(&self, fingerprint: &str) -> Result<PathBuf, FolderError> {
        let path = self.compiled(fingerprint);
        RealFiles
            .create_dir(&path)
            .map_err(|error| io_error("create", &path, error))?;
        self.check_safe()?;
        safe::check(
            std::slice::from_ref(&path),
            rustix::process::geteuid().as_raw(),
        )?;
        Ok(path)
    }

    /// The folder of files that mean nothing after a restart.
    pub fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Takes the agent's lock and empties the folder of temporary files. A folder that is not
    /// [safe](RealmFolder::check_safe) is refused and left as it is.
    pub fn lock(&self) -> Result<AgentLock, FolderError> {
        self.check_safe()?;
        let lock = AgentLock::take(&self.lock_file())?;
        let temporary = self.temporary();
        match empty(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => RealFiles
                .create_dir(&temporary)
                .map_err(|error| io_error("create", &temporary, error))?,
            emptied => emptied.map_err(|error| io_error("empty", &temporary, error))?,
        }
        Ok(lock)
    }

    fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    fn all_compiled(&self) -> PathBuf {
        self.cache().join("compiled")
    }

    fn trusted_folders(&self) -> [PathBuf; 6] {
        [
            self.root.clone(),
            self.logs(),
            self.marks(),
            self.blobs(),
            self.cache(),
            self.all_compiled(),
        ]
    }
}

/// The exclusive right to run an agent on a folder; the system takes it back when the process ends,
/// however it ends.
#[derive(Debug)]
pub struct AgentLock {
    // Held, never read: closing it is what releases the lock.
    _file: File,
}

impl AgentLock {
    /// Takes the lock or says who holds it.
    pub fn take(path: &Path) -> Result<Self, FolderError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_MODE)
            .open(path)
            .map_err(|error| io_error("open", path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The number is a courtesy: without it the message is still true.
                let _ = file.take(32).read_to_string(&mut text);
                return Err(FolderError::Locked {
                    path: path.to_owned(),
                    process: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", path, error)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|error| io_error("write", path, error))?;
        Ok(Self { _file: file })
    }
}

/// Removes what is in a folder, and leaves the folder: to make it again would be a sync more.
fn empty(folder: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(folder)?.is_dir() {
        // A link to a place of somebody's: that is not ours to empty.
        fs::remove_file(folder)?;
        return Err(io::ErrorKind::NotFound.into());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A link is removed, not followed.
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The folder of the logs is made first and never removed: it is what makes a folder a realm's.
fn is_realm(root: &Path) -> bool {
    root.join("log").is_dir()
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(String::new, |process| format!(" (process {process})"))
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> FolderError {
    FolderError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
