//! Files of the user's, read with a cap and written whole, and what a verb says when that fails.
//! Not the realm folder, which is the store's.

use std::io;
use std::path::Path;

use realm_model::manifest::MANIFEST_BYTES_MAX;
use realm_store::folder::{FolderError, read_small, write_atomic};

use crate::failure::Failure;

/// A text that is read here is at most this large: more than a manifest may have, so that the
/// parser says by how much.
const TEXT_BYTES_MAX: u64 = 4 * MANIFEST_BYTES_MAX as u64;

/// Reads a file or a pipe of at most `bytes_max` bytes.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    read_small(path, bytes_max).map_err(|error| failure(&error))
}

/// Reads a text file of bounded size.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path, TEXT_BYTES_MAX)?).map_err(|error| {
        Failure::from_error("not-text", &error)
            .context(format!("`{}` is not a text in UTF-8", path.display()))
    })
}

/// Writes a file as a whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_atomic(path, bytes).map_err(|error| {
        Failure::from_error("not-written", &error)
            .context(format!("failed to write `{}`", path.display()))
    })
}

/// Whether the file is not there at all.
pub(crate) fn is_missing(error: &FolderError) -> bool {
    matches!(error, FolderError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// A file that could not be read.
pub(crate) fn failure(error: &FolderError) -> Failure {
    let code = match error {
        FolderError::TooLarge { .. } => "oversized",
        FolderError::Unsafe { .. } => "bad-realm-folder",
        FolderError::TooOpen { .. } => "key-exposed",
        FolderError::Io { .. }
        | FolderError::Missing { .. }
        | FolderError::Occupied { .. }
        | FolderError::Exists { .. }
        | FolderError::NotAFile { .. }
        | FolderError::Locked { .. } => "no-file",
    };
    let failure = Failure::from_error(code, error);
    match what_to_do(error) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What a person does next about a file that is not read.
fn what_to_do(error: &FolderError) -> Option<&'static str> {
    match error {
        FolderError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(
            "a path begins at the folder that you are in: go where the file is, or name it in full",
        ),
        FolderError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some("look at the permissions of the file, and of the folders above it")
        }
        FolderError::NotAFile { .. } => Some("name the file itself"),
        FolderError::Io { .. }
        | FolderError::TooLarge { .. }
        | FolderError::Unsafe { .. }
        | FolderError::TooOpen { .. }
        | FolderError::Missing { .. }
        | FolderError::Occupied { .. }
        | FolderError::Exists { .. }
        | FolderError::Locked { .. } => None,
    }
}
