//! Whether folders are one user's alone to change. Not whether others may read them, which matters
//! for secrets only.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::{FolderError, io_error};

/// Bits of a mode that let others than the owner put things into a folder or take them away.
const OTHERS_WRITE: u32 = 0o022;

/// Checks the folders in this order; one that is not there is safe. Links are followed: who may
/// make one in a folder that was checked before is its user.
pub(super) fn check(folders: &[PathBuf], user: u32) -> Result<(), FolderError> {
    for path in folders {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("look at", path, error)),
        };
        let mode = metadata.mode() & 0o7777;
        let why = if !metadata.is_dir() {
            "is not a folder".to_owned()
        } else if metadata.uid() != user {
            format!(
                "belongs to user {}, and this is user {user}",
                metadata.uid()
            )
        } else if mode & OTHERS_WRITE != 0 {
            format!("has mode {mode:o}: others than its owner can change what is in it")
        } else {
            continue;
        };
        return Err(FolderError::Unsafe {
            path: path.clone(),
            why,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    use super::*;
    use crate::folder::{NAME, RealmFolder};

    fn realm() -> (tempfile::TempDir, RealmFolder) {
        let place = tempfile::tempdir().expect("a folder");
        let folder = RealmFolder::create(place.path().join(NAME)).expect("made");
        folder.create_compiled("f00").expect("made");
        (place, folder)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    }

    #[track_caller]
    fn refused(result: Result<impl Sized, FolderError>, folder: &Path, part: &str) {
        let Err(error) = result else {
            panic!("{} was taken", folder.display());
        };
        let FolderError::Unsafe { path, why } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(path, folder);
        assert!(why.contains(part), "{error}");
    }

    #[test]
    fn an_agent_does_not_start_on_what_others_can_change() {
        let (_place, folder) = realm();
        for path in folder.trusted_folders() {
            for (mode, sound) in [
                (0o700, true),
                (0o755, true),
                (0o770, false),
                (0o720, false),
                (0o702, false),
                (0o1777, false),
            ] {
                set_mode(&path, mode);
                if sound {
                    folder.lock().expect("safe");
                } else {
                    refused(folder.lock(), &path, &format!("has mode {mode:o}"));
                    let root = folder.root().to_owned();
                    refused(RealmFolder::create(root), &path, "has mode");
                }
            }
            set_mode(&path, 0o700);
        }
        assert!(folder.lock_file().exists());
        fs::remove_file(folder.lock_file()).expect("removed");
        set_mode(folder.root(), 0o777);
        refused(folder.lock(), folder.root(), "has mode 777");
        assert!(!folder.lock_file().exists(), "nothing was made in it");
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let (_place, folder) = realm();
        let user = rustix::process::geteuid().as_raw();
        let folders = folder.trusted_folders();
        check(&folders, user).expect("ours");
        let part = format!("belongs to user {user}, and this is user {}", user + 1);
        refused(check(&folders, user + 1), folder.root(), &part);
        // Each of them is looked at.
        for path in &folders {
            let one = std::slice::from_ref(path);
            refused(check(one, user + 1), path, "belongs to user");
        }
    }

    #[test]
    fn what_is_missing_is_safe_and_a_link_is_what_it_leads_to() {
        let (place, folder) = realm();
        fs::remove_dir(folder.blobs()).expect("removed");
        folder.lock().expect("without blobs");
        let elsewhere = place.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("made");
        symlink(&elsewhere, folder.blobs()).expect("linked");
        folder.lock().expect("on another disk");
        set_mode(&elsewhere, 0o777);
        refused(folder.lock(), &folder.blobs(), "has mode 777");
        fs::remove_file(folder.blobs()).expect("removed");
        fs::write(folder.blobs(), "").expect("written");
        refused(folder.lock(), &folder.blobs(), "is not a folder");
    }

    #[test]
    fn the_folders_of_compiled_code_are_private() {
        let (_place, folder) = realm();
        let path = folder.compiled("f00");
        for made in [&path, &folder.all_compiled()] {
            let mode = fs::metadata(made).expect("there").mode() & 0o7777;
            assert_eq!(mode, 0o700, "{}", made.display());
        }
        assert_eq!(folder.create_compiled("f00").expect("again"), path);
        set_mode(&path, 0o770);
        refused(folder.create_compiled("f00"), &path, "has mode 770");
    }
}
