//! Granted directories: checked against what the operator allows, and kept open.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use realm_model::grants::DirGrant;
use rustix::fs::{Mode, OFlags};

use crate::component::LoadError;

/// A directory that was allowed when it was opened.
pub(crate) struct Dir {
    pub(crate) handle: OwnedFd,
    pub(crate) guest: String,
    pub(crate) writable: bool,
}

/// Opens what is granted, and checks where each *opened* directory is: a link that changes
/// between a check and an opening leads nowhere.
///
/// A directory that is, holds or lies in one of `forbidden` is refused, whatever is allowed: keys
/// and compiled code are there.
pub(crate) fn open(
    grants: &[DirGrant],
    allowed: &[String],
    forbidden: &[PathBuf],
) -> Result<Vec<Dir>, LoadError> {
    grants
        .iter()
        .map(|grant| open_one(grant, allowed, forbidden))
        .collect()
}

fn open_one(grant: &DirGrant, allowed: &[String], forbidden: &[PathBuf]) -> Result<Dir, LoadError> {
    let unavailable = |source| LoadError::Dir {
        path: PathBuf::from(&grant.host),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(&grant.host, flags, Mode::empty())
        .map_err(|error| unavailable(error.into()))?;
    let place =
        std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd())).map_err(unavailable)?;
    if !allowed.iter().any(|root| is_below(&place, root)) {
        return Err(LoadError::DirDenied { path: place });
    }
    for forbidden in forbidden {
        // One that cannot be resolved cannot be told apart: refuse.
        let Ok(forbidden) = std::fs::canonicalize(forbidden) else {
            return Err(LoadError::DirDenied { path: place });
        };
        if place.starts_with(&forbidden) || forbidden.starts_with(&place) {
            return Err(LoadError::DirDenied { path: place });
        }
    }
    Ok(Dir {
        handle,
        guest: grant.guest.clone(),
        writable: grant.writable,
    })
}

/// Whether `place`, which has no links in it, is `root` or below it.
fn is_below(place: &Path, root: &str) -> bool {
    let Ok(root) = File::open(root) else {
        return false;
    };
    std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))
        .is_ok_and(|root| place.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(host: &Path) -> DirGrant {
        DirGrant {
            host: host.to_str().unwrap().to_owned(),
            guest: "/data".to_owned(),
            writable: false,
        }
    }

    #[test]
    fn only_what_is_below_an_allowed_directory_opens() {
        let root = tempfile::tempdir().unwrap();
        let allowed = root.path().join("allowed");
        let beside = root.path().join("allowed-not");
        let link = allowed.join("link");
        std::fs::create_dir_all(allowed.join("inner")).unwrap();
        std::fs::create_dir(&beside).unwrap();
        std::os::unix::fs::symlink(&beside, &link).unwrap();
        let code = |path: &Path| {
            open(&[grant(path)], &[allowed.to_str().unwrap().to_owned()], &[])
                .map(|_| "opened")
                .unwrap_or_else(|error| error.code())
        };
        assert_eq!(code(&allowed), "opened");
        assert_eq!(code(&allowed.join("inner")), "opened");
        assert_eq!(code(&allowed.join("inner/../../allowed-not")), "dir-denied");
        assert_eq!(code(&beside), "dir-denied");
        assert_eq!(code(&link), "dir-denied");
        assert_eq!(code(&allowed.join("absent")), "dir-unavailable");
        assert!(open(&[grant(&allowed)], &[], &[]).is_err());
    }

    #[test]
    fn what_holds_or_lies_in_a_forbidden_directory_stays_shut() {
        let root = tempfile::tempdir().unwrap();
        let realm = root.path().join("project/.realm");
        let data = root.path().join("project/data");
        std::fs::create_dir_all(realm.join("cache")).unwrap();
        std::fs::create_dir_all(&data).unwrap();
        let allowed = [root.path().to_str().unwrap().to_owned()];
        let opens =
            |path: &Path| open(&[grant(path)], &allowed, std::slice::from_ref(&realm)).is_ok();
        assert!(opens(&data));
        for path in [
            &realm,
            &realm.join("cache"),
            &root.path().join("project"),
            root.path(),
        ] {
            assert!(!opens(path), "{}", path.display());
        }
    }
}
