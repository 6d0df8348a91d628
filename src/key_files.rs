//! Key files that are made here: for a person, for CI, for a drawer. Mode 0600, durable, and never
//! over another file. How a key is read is `owner`'s.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use realm_model::key::{PublicKey, SecretKey};
use realm_store::folder::{FolderError, read_secret, write_secret};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::{blocking, files, owner};

/// A key that was made, as others may see it.
#[derive(Serialize)]
pub(crate) struct Made {
    pub(crate) file: PathBuf,
    #[serde(skip)]
    pub(crate) public: PublicKey,
    pub(crate) key: String,
    pub(crate) words: Vec<&'static str>,
}

/// Makes a key in a new file.
pub(crate) async fn make(path: &Path, passphrase: bool) -> Result<Made, Failure> {
    if path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    let key = owner::generate()?;
    let text = text_of(&key, passphrase).await?;
    write(path, text.as_bytes())?;
    Ok(Made {
        file: path.to_owned(),
        public: key.public(),
        key: key.public().to_string(),
        words: key.public().words().to_vec(),
    })
}

/// The text of a file for this key; asks for a new passphrase to seal it.
pub(crate) async fn text_of(key: &SecretKey, sealed: bool) -> Result<Zeroizing<String>, Failure> {
    if !sealed {
        let plain = key.to_text();
        let text = format!(
            "# A key of a realm: who has it, acts with it.\n{}\n",
            plain.as_str()
        );
        return Ok(Zeroizing::new(text));
    }
    let passphrase = owner::new_passphrase().await?;
    let key = key.clone();
    blocking::run(move || owner::to_file_text(&key, Some(passphrase))).await
}

/// Writes a key file that is not there yet.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_secret(path, bytes).map_err(|error| {
        if let FolderError::Exists { .. } = error {
            return exists(path);
        }
        Failure::from_error("not-written", &error)
            .context(format!("failed to write `{}`", path.display()))
    })
}

/// The text of a key file, as it is.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    read_secret(path).map_err(|error| files::failure(&error))
}

/// `owner.key` with `.old` or `.new` behind it.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

fn exists(path: &Path) -> Failure {
    Failure::new("exists", format!("`{}` is there already", path.display()))
        .hint("a key is never written over: choose another name")
}
