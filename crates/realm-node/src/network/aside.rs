//! Records that made this agent panic, on the disk: after a restart they are not read again. A file that
//! is gone is no harm: its record makes the loop panic once more, and is kept again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use realm_control::records::Records;
use realm_control::sync::Sync;
use realm_model::digest::Digest;
use realm_model::record::{KeyBytes, RECORD_BYTES_MAX, Version};
use realm_store::folder::{RealmFolder, read_small, write_atomic};

use crate::error::with_causes;

/// Nodes of which a record is read back: more than a realm has.
const FILES_MAX: usize = 4_096;

/// Why a record is set aside, for a person.
pub(crate) const WHY: &str = "whoever reads it here panics";

/// Which records are kept, and whose next ones are tried before anybody reads them.
pub(crate) struct Aside {
    folder: PathBuf,
    /// Nodes that had a record put aside since the start, or before it, with the version of the record
    /// that was tried last.
    suspects: BTreeMap<KeyBytes, Option<Version>>,
    /// Nodes of which a file is there.
    kept: BTreeMap<KeyBytes, PathBuf>,
}

impl Aside {
    /// Reads what was kept, and keeps it away.
    pub(super) fn restore(folder: &RealmFolder, sync: &mut Sync) -> Self {
        let mut aside = Self {
            folder: folder.root().join("aside"),
            suspects: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        let files = std::fs::read_dir(&aside.folder).into_iter().flatten();
        for file in files.flatten().take(FILES_MAX) {
            let path = file.path();
            let read = read_small(&path, RECORD_BYTES_MAX as u64).ok();
            match read.and_then(|bytes| sync.keep_away(&bytes, WHY).ok()) {
                Some(node) => {
                    aside.suspects.insert(node, None);
                    aside.kept.insert(node, path);
                }
                // Torn, damaged, or of another realm: the record itself comes again, if it counts.
                None => remove(&path),
            }
        }
        aside
    }

    /// Keeps a record that was put aside.
    pub(crate) fn keep(&mut self, node: KeyBytes, bytes: &[u8]) {
        self.suspects.insert(node, None);
        let name = Digest::from_bytes(*node.as_bytes()).hex();
        let path = self.folder.join(name);
        let written = std::fs::create_dir_all(&self.folder)
            .map_err(|error| error.to_string())
            .and_then(|()| write_atomic(&path, bytes).map_err(|error| with_causes(&error)));
        match written {
            Ok(()) => drop(self.kept.insert(node, path)),
            Err(reason) => tracing::warn!(
                reason,
                "the record could not be kept: it is set aside until the next start"
            ),
        }
    }

    /// Whether a record came of somebody who had one put aside, and was not tried yet.
    pub(crate) fn untried(&mut self, records: &Records) -> bool {
        let mut untried = false;
        for (node, tried) in &mut self.suspects {
            let version = records.get(*node).map(|record| record.version);
            untried |= version.is_some() && version != *tried;
            *tried = version;
        }
        untried
    }

    /// Whether somebody had a record put aside.
    pub(crate) fn suspects(&self, node: &KeyBytes) -> bool {
        self.suspects.contains_key(node)
    }

    /// Forgets the files of records in whose place newer ones are, and nodes that left.
    pub(crate) fn tidy(&mut self, records: &Records) {
        let aside = records.quarantined();
        self.suspects
            .retain(|node, _| aside.contains_key(node) || records.get(*node).is_some());
        self.kept.retain(|node, path| {
            let stays = aside.contains_key(node);
            if !stays {
                remove(path);
            }
            stays
        });
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a record that was set aside could not be removed");
    }
}
