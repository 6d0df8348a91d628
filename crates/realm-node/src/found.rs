//! Founding a realm: a folder with keys, the genesis, and the owner's approval of this node.
//!
//! Everything is made in a temporary folder beside the final one and renamed as the last step: a
//! realm folder is whole or not there.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use realm_model::entry::{ApproveNode, Body, ChainId, Payload, RealmId, Rotate, found_realm};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::name::NodeName;
use realm_model::refusal::Refusal;
use realm_store::files::{DIRECTORY_MODE, Files as _, RealFiles};
use realm_store::folder::{FolderError, RealmFolder, write_atomic, write_secret};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;
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
    /// A key that can take the realm back.
    pub recovery: Option<PublicKey>,
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
    /// Something is there already, or appeared while the realm was made; it is left as it is.
    #[error("`{}` is there already", path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// The finished folder could not be put into place.
    #[error("failed to put the folder into place")]
    Place(#[source] io::Error),
}

/// Makes a realm folder and returns the realm's id.
pub fn found(founding: Founding<'_>) -> Result<RealmId, FoundError> {
    let parent = parent(&founding.folder);
    RealFiles.create_dir(parent).map_err(FoundError::Place)?;
    let temporary = temporary_beside(&founding.folder, parent).map_err(FoundError::Place)?;
    let realm = fill(&founding, temporary.path())?;
    place(temporary.path(), &founding.folder).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            FoundError::Exists {
                path: founding.folder.clone(),
            }
        } else {
            FoundError::Place(error)
        }
    })?;
    // It has another name by this time, and whatever may have the old one is not ours.
    let _ = temporary.keep();
    RealFiles.sync_dir(parent).map_err(FoundError::Place)?;
    Ok(realm)
}

/// A new folder with a name that nobody can guess: in a folder where others may write, they could
/// make one with a known name first and keep a hand in it. It goes with what is returned.
pub(crate) fn temporary_beside(folder: &Path, parent: &Path) -> io::Result<TempDir> {
    let mut prefix = folder.file_name().unwrap_or_default().to_owned();
    prefix.push(".new-");
    tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(DIRECTORY_MODE))
        .tempdir_in(parent)
}

/// Gives the folder its name, and takes nobody's: a rename alone would replace an empty folder.
pub(crate) fn place(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => place_over_own(from, to),
        placed => Ok(placed?),
    }
}

/// [`place`] on a file system that cannot rename without replacing: what is replaced is an empty
/// folder that was made here a moment before, exclusively.
fn place_over_own(from: &Path, to: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY_MODE).create(to)?;
    std::fs::rename(from, to).inspect_err(|_| {
        // An empty folder; if it stays, the next founding says so.
        let _ = std::fs::remove_dir(to);
    })
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
    let approval = Body::ApproveNode(ApproveNode {
        key: founding.node.public(),
        name: founding.name.clone(),
        tags: Vec::new(),
    });
    let recovery = founding.recovery.map(|key| {
        Body::Rotate(Rotate {
            owners: vec![founding.owner.public()],
            threshold: 1,
            recovery: vec![key],
            fences: Vec::new(),
        })
    });
    for body in std::iter::once(approval).chain(recovery) {
        let head = ledger.head(ChainId::Authority);
        let payload = Payload {
            seq: head.seq + 1,
            prev: head.hash,
            authority: head,
            created_unix_s: founding.created_unix_s,
            body,
        };
        let bytes = payload.sign(realm, ChainId::Authority, founding.owner);
        let checked = ledger.check(ChainId::Authority, &bytes, None);
        let admitted = checked.map_err(|error| error.refusal())?;
        journal.append(&admitted)?;
        let applied = ledger.apply(admitted);
        debug_assert!(!applied.rebuild, "a new realm has nothing to abandon");
    }
    Ok(realm)
}

pub(crate) fn parent(path: &Path) -> &Path {
    let parent = path.parent();
    let named = parent.filter(|parent| !parent.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// This machine's host name as a node name; `node` if it is none.
pub fn host_name() -> NodeName {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    name.parse()
        .unwrap_or_else(|_| "node".parse().expect("`node` is a name"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn found_at(folder: &Path) -> Result<RealmId, FoundError> {
        let owner = SecretKey::from_seed(&[1; 32]);
        found(Founding {
            folder: folder.to_owned(),
            owner: &owner,
            owner_file: owner.to_text(),
            node: &SecretKey::from_seed(&[2; 32]),
            recovery: None,
            nonce: [3; 32],
            name: "node-1".parse().unwrap(),
            created_unix_s: 0,
        })
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_realm_is_founded_with_both_marks() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("deep/er/.realm");
        found_at(&folder).unwrap();
        assert_eq!(names(folder.parent().unwrap()), [".realm"]);
        assert_eq!(folder.metadata().unwrap().mode() & 0o7777, 0o700);
        assert_eq!(
            names(&folder.join("marks")),
            ["authority.a", "authority.b", "default.a", "default.b"]
        );
        let folder = RealmFolder::open(folder).unwrap();
        Journal::open(&folder).unwrap();
        folder.check_safe().unwrap();
    }

    #[test]
    fn the_name_of_the_unfinished_folder_cannot_be_guessed_and_it_is_private() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join(".realm");
        // What an attacker could make beforehand: it is left alone.
        let guessed = place
            .path()
            .join(format!(".realm.new-{}", std::process::id()));
        std::fs::create_dir(&guessed).unwrap();
        std::fs::set_permissions(&guessed, Permissions::from_mode(0o777)).unwrap();
        found_at(&folder).unwrap();
        assert_eq!(names(&guessed), [""; 0]);
        let made = [
            temporary_beside(&folder, place.path()).unwrap(),
            temporary_beside(&folder, place.path()).unwrap(),
        ];
        assert_ne!(made[0].path(), made[1].path());
        for made in made {
            let name = made.path().file_name().unwrap().to_str().unwrap();
            let random = name.strip_prefix(".realm.new-").unwrap();
            assert!(random.len() >= 6, "{name}");
            assert_eq!(made.path().metadata().unwrap().mode() & 0o7777, 0o700);
        }
    }

    #[test]
    fn nothing_that_is_there_is_replaced() {
        type Place = fn(&Path, &Path) -> io::Result<()>;
        for (name, placed) in [
            ("place", place as Place),
            ("place_over_own", place_over_own),
        ] {
            let place = tempfile::tempdir().unwrap();
            let (from, to) = (place.path().join("from"), place.path().join("to"));
            std::fs::create_dir(&from).unwrap();
            std::fs::write(from.join("file"), "").unwrap();
            let check = |kind: &str| {
                let error = placed(&from, &to).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name} {kind}");
                assert_eq!(names(&from), ["file"]);
            };
            std::fs::create_dir(&to).unwrap();
            check("an empty folder");
            std::fs::remove_dir(&to).unwrap();
            std::fs::write(&to, "").unwrap();
            check("a file");
            std::fs::remove_file(&to).unwrap();
            symlink("nowhere", &to).unwrap();
            check("a link");
            std::fs::remove_file(&to).unwrap();
            placed(&from, &to).unwrap();
            assert_eq!(names(place.path()), ["to"]);
            assert_eq!(names(&to), ["file"]);
            assert!(placed(&from, &place.path().join("other")).is_err());
            assert_eq!(names(place.path()), ["to"], "{name} leaves nothing behind");
        }
    }

    #[test]
    fn a_founding_that_fails_leaves_nothing_behind() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join(".realm");
        std::fs::create_dir(&folder).unwrap();
        let error = found_at(&folder).unwrap_err();
        assert!(matches!(error, FoundError::Exists { .. }), "{error:?}");
        assert_eq!(names(place.path()), [".realm"]);
        assert_eq!(names(&folder), [""; 0]);
    }
}
