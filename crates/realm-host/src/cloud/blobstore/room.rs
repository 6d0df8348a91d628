//! How many objects a component reads and writes at once on this node: each holds memory of the host.

use std::sync::Arc;

use realm_model::cloud::CloudError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Objects that are being written. Each may hold two parts for S3, 5 MiB each, and what waits for them.
const WRITTEN_MAX: usize = 16;
/// Objects that are being read. Each holds a piece.
const READ_MAX: usize = 64;

/// Shared by all instances of a component.
pub(crate) struct Room {
    written: Arc<Semaphore>,
    read: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            written: Arc::new(Semaphore::new(WRITTEN_MAX)),
            read: Arc::new(Semaphore::new(READ_MAX)),
        }
    }
}

impl Room {
    pub(super) fn to_write(&self) -> Result<OwnedSemaphorePermit, CloudError> {
        take(&self.written, || {
            format!(
                "{WRITTEN_MAX} objects are being written: the next one has to wait for one of them"
            )
        })
    }

    pub(super) fn to_read(&self) -> Result<OwnedSemaphorePermit, CloudError> {
        take(&self.read, || {
            format!("{READ_MAX} objects are being read: the next one has to wait for one of them")
        })
    }
}

fn take(
    semaphore: &Arc<Semaphore>,
    words: impl FnOnce() -> String,
) -> Result<OwnedSemaphorePermit, CloudError> {
    Arc::clone(semaphore)
        .try_acquire_owned()
        .map_err(|_| CloudError::Invalid(words()))
}
