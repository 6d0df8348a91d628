//! Who this realm and this node are: read from the realm folder at start.

use std::path::PathBuf;

use realm_model::entry::RealmId;
use realm_model::key::{KeyError, PublicKey, SecretKey};
use realm_store::folder::{FolderError, RealmFolder, read_secret};

use crate::journal::{Journal, JournalError};

/// The realm and the node of a realm folder.
#[derive(Debug)]
pub struct Identity {
    /// The realm.
    pub realm: RealmId,
    /// Its owners.
    pub owners: Vec<PublicKey>,
    /// This node's key.
    pub node_key: SecretKey,
}

/// The realm folder does not say who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The node key could not be read.
    #[error("failed to read the node key")]
    Read(#[source] FolderError),
    /// The file holds no key.
    #[error("`{}` holds no node key", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The log could not be read.
    #[error("failed to read the log of the realm")]
    Journal(#[from] JournalError),
}

impl Identity {
    /// Reads the realm folder; changes nothing in it.
    pub fn load(folder: &RealmFolder) -> Result<Self, IdentityError> {
        let ledger = Journal::read_only(folder)?;
        let authority = ledger.authority();
        Ok(Self {
            realm: authority.realm,
            owners: authority.owners.clone(),
            node_key: node_key(folder)?,
        })
    }
}

/// The node's key.
pub(crate) fn node_key(folder: &RealmFolder) -> Result<SecretKey, IdentityError> {
    let path = folder.node_key();
    let text = read_secret(&path).map_err(IdentityError::Read)?;
    SecretKey::from_text(&text).map_err(|source| IdentityError::NotAKey { path, source })
}
