//! Small files of a realm: secrets, and files that are replaced whole. Not the log and the marks,
//! which have their own rules.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
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

/// Puts a secret that only its owner may read in place of one that may be there, durably: readers see
/// the old one or the new.
pub fn replace_secret(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    temporary_beside(path, bytes, PRIVATE_MODE)?
        .persist(path)
        .map_err(|error| io_error("name", path, error.error))?;
    sync_folder_of(path)
}

/// Reads a secret; one that others may read is refused, as ssh does.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, FolderError> {
    let failed = |operation, error| io_error(operation, path, error);
    let (file, metadata) = open(path)?;
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

/// Reads a file of at most `bytes_max` bytes whole. Files and pipes are read (a shell hands over a
/// pipe in `<(command)`); a pipe that nobody writes to is empty, not a wait. A file that says that
/// it is larger is refused before it is read.
pub fn read_small(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FolderError> {
    let too_large = || FolderError::TooLarge {
        path: path.to_owned(),
        bytes_max,
    };
    let (file, metadata) = open(path)?;
    if metadata.len() > bytes_max {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // One byte beyond: a pipe has no length, and a file may grow while it is read.
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| io_error("read", path, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Opens a file or a pipe for reading, without waiting; folders, devices and sockets are refused.
fn open(path: &Path) -> Result<(File, fs::Metadata), FolderError> {
    let failed = |operation, error| io_error(operation, path, error);
    let check = |metadata: &fs::Metadata| {
        let kind = metadata.file_type();
        (kind.is_file() || kind.is_fifo())
            .then_some(())
            .ok_or_else(|| FolderError::NotAFile {
                path: path.to_owned(),
            })
    };
    // Before it is opened, because opening a device may do something; after it, because the name
    // may have changed hands in between. Non-blocking, because opening a pipe waits for a writer.
    check(&fs::metadata(path).map_err(|error| failed("open", error))?)?;
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)
        .map_err(|error| failed("open", error))?;
    let metadata = file.metadata().map_err(|error| failed("look at", error))?;
    check(&metadata)?;
    // A writer that is there may take its time.
    fcntl_getfl(&file)
        .and_then(|flags| fcntl_setfl(&file, flags - OFlags::NONBLOCK))
        .map_err(|error| failed("open", error.into()))?;
    Ok((file, metadata))
}

/// Puts `bytes` in place of a small file, durably: readers see the old content or the new. An
/// existing file keeps its permissions. A symbolic link is itself replaced: it may come with
/// somebody's checkout and lead to a file that nobody meant.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let mode = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.mode() & 0o777,
        Ok(_) | Err(_) => SHARED_MODE,
    };
    temporary_beside(path, bytes, mode)?
        .persist(path)
        .map_err(|error| io_error("name", path, error.error))?;
    sync_folder_of(path)
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
