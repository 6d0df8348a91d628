//! The file of a queue: for this user alone, and in its folder for good before anything is in it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use redb::{Builder, Database};

/// Bytes of the file that are kept in memory: what is sent and taken at once fits.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

pub(super) fn open(path: &Path) -> Result<Database, redb::Error> {
    let fresh = !path.exists();
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let database = Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
    if fresh {
        sync_folder(path)?;
    }
    Ok(database)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// An error with its causes, for the operator.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}
