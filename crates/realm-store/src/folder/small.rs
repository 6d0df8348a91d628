//! Small files of a realm: secrets, and files that are replaced whole. Not the log and the marks,
//! which have their own rules.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::{FolderError, io_error};
use crate::files::{self, Files as _, PRIVATE_MODE, RealFiles, SHARED_MODE};

/// A secret file larger than this is no key: an armoured one has less than 1 KiB.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// Bits of a mode that let others than the owner in.
const OTHERS: u32 = 0o077;

/// Writes a secret that only its owner may read, durably; an existing file is never overwritten.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let written = temporary_beside(path, bytes, PRIVATE_MODE)?;
    if let Err(error) = written.persist_noclobber(path) {
        if error.error.kind() == io::ErrorKind::AlreadyExists {
            return Err(FolderError::Exists {
                path: path.to_owned(),
            });
        }
        return Err(io_error("name", path, error.error));
    }
    sync_folder_of(path)
}

/// Reads a secret; one that others may read is refused, as ssh does.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, FolderError> {
    let failed = |operation, error| io_error(operation, path, error);
    let file = File::open(path).map_err(|error| failed("open", error))?;
    let metadata = file.metadata().map_err(|error| failed("look at", error))?;
    if metadata.mode() & OTHERS != 0 {
        return Err(FolderError::TooOpen {
            path: path.to_owned(),
            mode: metadata.mode() & 0o7777,
        });
    }
    // Room for all of it at once: a buffer that grows would leave copies in memory.
    let mut text = Zeroizing::new(String::with_capacity(SECRET_BYTES_MAX as usize));
    file.take(SECRET_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| failed("read", error))?;
    Ok(text)
}

/// Puts `bytes` in place of a small file, durably: readers see the old content or the new. A
/// symbolic link stays, and its target is replaced; an existing file keeps its mode.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = fs::metadata(&target).map_or(SHARED_MODE, |metadata| metadata.mode() & 0o7777);
    temporary_beside(&target, bytes, mode)?
        .persist(&target)
        .map_err(|error| io_error("name", &target, error.error))?;
    sync_folder_of(&target)
}

/// In the same folder, since a rename does not cross file systems.
fn temporary_beside(
    path: &Path,
    bytes: &[u8],
    mode: u32,
) -> Result<tempfile::NamedTempFile, FolderError> {
    let failed = |operation, error| io_error(operation, path, error);
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(files::parent(path))
        .map_err(|error| failed("create a file beside", error))?;
    file.write_all(bytes)
        .and_then(|()| {
            file.as_file()
                .set_permissions(fs::Permissions::from_mode(mode))
        })
        .map_err(|error| failed("write", error))?;
    file.as_file()
        .sync_all()
        .map_err(|error| failed("sync", error))?;
    Ok(file)
}

fn sync_folder_of(path: &Path) -> Result<(), FolderError> {
    RealFiles
        .sync_dir(files::parent(path))
        .map_err(|error| io_error("sync the folder of", path, error))
}
