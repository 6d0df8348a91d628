//! A disk that takes nothing: entries are refused meanwhile, and what runs goes on. The owner hears of it,
//! from any node, until the disk takes something again; it is tried every few seconds, since the next
//! entry may not come for long.

use realm_model::observed::Millis;
use realm_model::record::{Alarm, NOT_DURABLE};
use realm_model::refusal::{Refusal, RefusalCode};

use super::Core;
use crate::error::with_causes;

/// How often a disk that took nothing is tried again, with a file as large as what it did not take.
const TRY_INTERVAL_MS: u64 = 5_000;
/// No smaller one: entries that follow find room as well.
const TRY_BYTES_MIN: usize = 64 * 1024;

/// What the disk did not take last.
#[derive(Debug)]
pub(crate) struct Trouble {
    reason: String,
    bytes: usize,
    try_at: Millis,
}

impl Core {
    /// Of an entry so many bytes could not be written down. While that stands, nothing else is tried.
    pub(super) fn disk_failed(&mut self, reason: &str, bytes: usize) {
        tracing::error!(
            code = NOT_DURABLE,
            reason,
            "the disk takes nothing: no entry is taken until it does"
        );
        self.stale = true;
        self.disk = Some(Trouble {
            reason: reason.to_owned(),
            bytes: bytes.max(TRY_BYTES_MIN),
            try_at: self.now().plus(TRY_INTERVAL_MS),
        });
    }

    /// While the disk takes nothing, no entry is taken, however small: one that finds room beside one that did
    /// not would be a second one of its place.
    pub(super) fn disk_takes(&self) -> Result<(), Refusal> {
        match &self.disk {
            Some(trouble) => Err(Refusal::new(
                RefusalCode::NotDurable,
                trouble.reason.clone(),
            )),
            None => Ok(()),
        }
    }

    /// Raises the marks of what was written down, which keep this node from going back.
    pub(super) fn raise_marks(&mut self) {
        if self.disk.is_some() {
            return;
        }
        if let Err(error) = tokio::task::block_in_place(|| self.journal.raise_marks()) {
            self.disk_failed(&with_causes(&error), 0);
        }
    }

    /// Tries a disk that took nothing, when it is time.
    pub(super) fn try_disk_if_due(&mut self) {
        let now = self.now();
        let Some(trouble) = self.disk.as_mut().filter(|trouble| trouble.try_at <= now) else {
            return;
        };
        match tokio::task::block_in_place(|| self.journal.try_disk(trouble.bytes)) {
            Ok(()) => {
                tracing::info!("the disk takes what is written again");
                self.disk = None;
                self.stale = true;
            }
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
