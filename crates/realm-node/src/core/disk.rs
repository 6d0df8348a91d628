//! A disk that takes nothing: entries are refused meanwhile, and what runs goes on. The owner hears of it,
//! from any node, until the disk takes something again; it is tried every few seconds, since the next
//! entry may not come for long.

use realm_model::observed::Millis;
use realm_model::record::{Alarm, NOT_DURABLE};

use super::Core;

/// How often a disk that took nothing is tried again: a write of a few kilobytes.
const TRY_INTERVAL_MS: u64 = 5_000;

/// What the disk did not take last.
#[derive(Debug)]
pub(crate) struct Trouble {
    reason: String,
    try_at: Millis,
}

impl Core {
    /// An entry could not be written down.
    pub(super) fn disk_failed(&mut self, reason: &str) {
        let try_at = self.now().plus(TRY_INTERVAL_MS);
        if self.disk.is_none() {
            tracing::error!(
                code = NOT_DURABLE,
                reason,
                "the disk takes nothing: no entry is taken until it does"
            );
            self.stale = true;
        }
        self.disk = Some(Trouble {
            reason: reason.to_owned(),
            try_at,
        });
    }

    /// It took something.
    pub(super) fn disk_works(&mut self) {
        if self.disk.take().is_some() {
            tracing::info!("the disk takes what is written again");
            self.stale = true;
        }
    }

    /// Tries a disk that took nothing, when it is time.
    pub(super) fn try_disk_if_due(&mut self) {
        let now = self.now();
        let Some(trouble) = self.disk.as_mut().filter(|trouble| trouble.try_at <= now) else {
            return;
        };
        match tokio::task::block_in_place(|| self.journal.try_disk()) {
            Ok(()) => self.disk_works(),
            Err(_) => trouble.try_at = now.plus(TRY_INTERVAL_MS),
        }
    }

    /// When it is to be tried again.
    pub(super) fn try_disk_at(&self) -> Option<Millis> {
        self.disk.as_ref().map(|trouble| trouble.try_at)
    }

    pub(super) fn disk_alarm(&self) -> Option<Alarm> {
        self.disk.as_ref().map(|trouble| Alarm {
            code: NOT_DURABLE.to_owned(),
            about: format!("no entry is taken: {}", trouble.reason),
        })
    }
}
