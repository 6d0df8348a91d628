//! A file of a store: made whole, opened, never made anew over what is there.
//!
//! Not here: what lies in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError};

use super::{Fault, Format};

/// Why a file is not opened. It stays as it is in each case.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("`{}` is in use by another process", .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error("`{}` is damaged ({what}); it is left as it is: restore a copy, or move it away to begin anew", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A later version of realm wrote it.
    #[error("`{}` is of a later version of realm (format {version})", .path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u64,
    },
    /// The system does not let it be read or written.
    #[error("`{}` cannot be opened", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "store-locked",
            Self::Damaged { .. } => "store-damaged",
            Self::Later { .. } => "store-later",
            Self::Io { .. } => "store-io",
        }
    }
}

/// Opens a file, and makes one if there is none.
pub(crate) fn open<F: Format>(path: &Path) -> Result<Database, OpenError> {
    let io = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => make::<F>(path)?,
        Err(error) => return Err(io(error)),
    }
    let mut builder = Database::builder();
    builder.set_cache_size(F::CACHE_BYTES);
    // The engine trusts what it wrote, and may panic over what it did not.
    let database = catch_unwind(AssertUnwindSafe(|| builder.open(path)))
        .map_err(|_| damaged(path, "the storage engine panicked"))?
        .map_err(|error| open_error(path, error))?;
    match catch_unwind(AssertUnwindSafe(|| version::<F>(&database))) {
        Ok(Ok(version)) if version == F::VERSION => Ok(database),
        Ok(Ok(0)) => Err(damaged(path, "it has no format")),
        Ok(Ok(version)) => Err(OpenError::Later {
            path: path.to_owned(),
            version,
        }),
        Ok(Err(fault)) => Err(damaged(path, &fault.to_string())),
        Err(_) => Err(damaged(path, "the storage engine panicked")),
    }
}

fn version<F: Format>(database: &Database) -> Result<u64, Fault> {
    // All of them are made at once: a file that lacks one is not what was written.
    F::version(&database.begin_read()?)
}

/// Under another name first: the file is there with all its tables, or not at all.
fn make<F: Format>(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(io)?;
    let database = FileBackend::new(file)
        .and_then(|file| Builder::new().create_with_backend(file))
        .map_err(|error| open_error(path, error))?;
    fill::<F>(&database).map_err(|fault| io(io::Error::other(fault)))?;
    drop(database);
    // A link, not a rename: it does not replace what came to be meanwhile.
    fs::hard_link(&new, path).map_err(io)?;
    fs::remove_file(&new).map_err(io)?;
    let folder = path.parent().filter(|one| !one.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
        .and_then(|folder| folder.sync_all())
        .map_err(io)?;
    // Its folder may have been made just now as well, and the one around it. Those that this process may
    // not read it did not make.
    for above in path.ancestors().skip(2).filter(|one| one.is_dir()) {
        if let Ok(above) = File::open(above) {
            above.sync_all().map_err(io)?;
        }
    }
    Ok(())
}

fn fill<F: Format>(database: &Database) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    F::make(&transaction)?;
    transaction.commit()?;
    Ok(())
}

fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    if matches!(error, DatabaseError::DatabaseAlreadyOpen) {
        return OpenError::Locked {
            path: path.to_owned(),
        };
    }
    if let DatabaseError::Storage(StorageError::Io(source)) = error {
        // Bytes that are no file of the engine's come as an error of input.
        let is_of_bytes = matches!(
            source.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        );
        if is_of_bytes {
            return damaged(path, &source.to_string());
        }
        return OpenError::Io {
            path: path.to_owned(),
            source,
        };
    }
    damaged(path, &error.to_string())
}

fn damaged(path: &Path, what: &str) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}
