//! The newest beacon on the disk, and whether this node is stale by it. A file that is gone is no
//! harm: the others have it, and no older one counts as newer than theirs.

use std::path::{Path, PathBuf};

use realm_control::reach;
use realm_model::beacon::BEACON_BYTES_MAX;
use realm_model::observed::Millis;
use realm_store::folder::{RealmFolder, read_small, write_atomic};

use super::Network;

/// Where a folder has it.
pub(super) fn file(folder: &RealmFolder) -> PathBuf {
    folder.root().join("beacon")
}

/// What was kept, believed by nobody yet.
pub(super) fn kept(file: &Path) -> Option<Vec<u8>> {
    read_small(file, BEACON_BYTES_MAX as u64).ok()
}

impl Network {
    /// Keeps a beacon in place of the one before.
    pub(crate) fn keep_beacon(&self, bytes: &[u8]) {
        let kept = tokio::task::block_in_place(|| write_atomic(&self.beacon_file, bytes));
        if let Err(error) = kept {
            let reason = crate::error::with_causes(&error);
            tracing::warn!(
                reason,
                "the beacon could not be kept: it counts until the next start"
            );
        }
    }

    /// What the view of the realm says of this node.
    pub(crate) fn signals(&self, now: Millis) -> reach::Signals {
        let beacon = self.sync.beacon(now.0);
        let age_ms = beacon.map_or(0, |state| state.age_ms);
        let every_ms = beacon.map(|state| u64::from(state.rule.every_s) * 1_000);
        reach::signals(&self.reached(), age_ms, every_ms)
    }

    /// Whether the beacon is missed here.
    pub(crate) fn is_stale(&self, now: Millis) -> bool {
        self.sync.beacon(now.0).is_some() && self.signals(now).stale
    }
}
