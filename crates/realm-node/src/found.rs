//! Founding a realm: a folder with keys, the genesis, and the owner's approval of this node.
//!
//! Everything is made in a temporary folder beside the final one and renamed as the last step: a
//! realm folder is whole or not there.

use std::io;
use std::path::{Path, PathBuf};

use realm_model::entry::{ApproveNode, Body, ChainId, Head, Payload, RealmId, found_realm};
use realm_model::key::SecretKey;
use realm_model::name::NodeName;
use realm_model::refusal::Refusal;
use realm_store::folder::{FolderError, RealmFolder, write_atomic, write_secret};
use zeroize::Zeroizing;

use crate::journal::{Journal, JournalError};

/// What a new realm is made of.
pub struct Founding<'a> {
    /// Where the realm folder will be; nothing may be there.
    pub folder: PathBuf,
    /// The owner's key.
    pub owner: &'a SecretKey,
    /// The text of the owner key file (sealed or plain).
    pub owner_file: Zeroizing<String>,
    /// The node's key.
    pub node: &'a SecretKey,
    /// 32 random bytes.
    pub nonce: [u8; 32],
    /// The node's name.
    pub name: NodeName,
    /// Seconds since 1970.
    pub created_unix_s: u64,
}

/// No realm was made; nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// The folder could not be made.
    #[error("failed to make the folder")]
    Folder(#[from] FolderError),
    /// The log could not be begun.
    #[error("failed to begin the log")]
    Journal(#[from] JournalError),
    /// The first entries were refused.
    #[error("the first entries were refused")]
    Refused(#[from] Refusal),
    /// The finished folder could not be put into place.
    #[error("failed to put the folder into place")]
    Place(#[source] io::Error),
}

/// Makes a realm folder and returns the realm's id.
pub fn found(founding: Founding<'_>) -> Result<RealmId, FoundError> {
    let mut name = founding.folder.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = founding.folder.with_file_name(name);
    let made = fill(&founding, &temporary);
    let placed = made.and_then(|realm| {
        std::fs::rename(&temporary, &founding.folder).map_err(FoundError::Place)?;
        sync_parent(&founding.folder).map_err(FoundError::Place)?;
        Ok(realm)
    });
    if placed.is_err() {
        // What cannot be removed is named like what it is.
        let _ = std::fs::remove_dir_all(&temporary);
    }
    placed
}

fn fill(founding: &Founding<'_>, temporary: &Path) -> Result<RealmId, FoundError> {
    let folder = RealmFolder::create(temporary.to_owned())?;
    write_secret(&folder.owner_key(), founding.owner_file.as_bytes())?;
    let node_file = Zeroizing::new(format!("{}\n", founding.node.to_text().as_str()));
    write_secret(&folder.node_key(), node_file.as_bytes())?;
    let settings = format!(
        "# What belongs to this machine and its operator. docs/manifest.md describes every key.\n\
         name = \"{}\"\n",
        founding.name
    );
    write_atomic(&folder.node_config(), settings.as_bytes())?;
    let (realm, genesis) = found_realm(founding.owner, founding.nonce, founding.created_unix_s);
    let (mut journal, mut ledger) = Journal::begin(&folder, &genesis)?;
    let approval = Payload {
        seq: 1,
        prev: realm.digest(),
        authority: Head {
            seq: 0,
            hash: realm.digest(),
        },
        created_unix_s: founding.created_unix_s,
        body: Body::ApproveNode(ApproveNode {
            key: founding.node.public(),
            name: founding.name.clone(),
            tags: Vec::new(),
        }),
    };
    let bytes = approval.sign(realm, ChainId::Authority, founding.owner);
    let admitted = ledger.check(ChainId::Authority, &bytes)?;
    journal.append(admitted.entry())?;
    ledger.apply(admitted);
    Ok(realm)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// This machine's host name as a node name; `node` if it is none.
pub fn host_name() -> NodeName {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    name.parse()
        .unwrap_or_else(|_| "node".parse().expect("`node` is a name"))
}
