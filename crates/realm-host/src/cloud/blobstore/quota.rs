//! What a component may have in a store of objects, while it writes one.
//!
//! What is there, and what is written over, changes while the bytes come: both are looked at anew each
//! time. Not here: what a store counts.

use std::sync::Arc;

use realm_model::cloud::limits::OBJECT_OVERHEAD_BYTES;
use realm_model::cloud::{Answer, BlobSource, Blobs, CloudError};

use crate::cloud::within_quota;

/// Bytes after which it is looked at again: others write into the store meanwhile.
const LOOK_EVERY: u64 = 1024 * 1024;

/// Of one object that is written.
pub(super) struct Quota {
    store: Arc<dyn Blobs>,
    container: String,
    object: String,
    bytes_max: u64,
    until_look: u64,
}

impl Quota {
    /// For the object that `container` has under that name, or will have.
    pub(super) fn new(
        store: &Arc<dyn Blobs>,
        (container, object): (&str, &str),
        bytes_max: u64,
    ) -> Self {
        Self {
            store: Arc::clone(store),
            container: container.to_owned(),
            object: object.to_owned(),
            bytes_max,
            until_look: 0,
        }
    }

    /// Whether an object with so many bytes more than those that came fits beside what is there.
    pub(super) async fn look(&self, n_bytes: u64) -> Result<(), CloudError> {
        let Some(there) = self.store.used().await? else {
            return Ok(());
        };
        let replaced = self.store.object(&self.container, &self.object).await?;
        let replaced = replaced.map_or(0, |info| info.n_bytes + OBJECT_OVERHEAD_BYTES);
        let there = there.saturating_sub(replaced);
        let more = n_bytes.saturating_add(OBJECT_OVERHEAD_BYTES);
        within_quota(Some(there), more, self.bytes_max)
    }

    /// A piece on its way, or the end of them: after it nothing is asked any more.
    pub(super) async fn passes(&mut self, piece: Option<&[u8]>) -> Result<(), CloudError> {
        let n_bytes = piece.map_or(0, <[u8]>::len) as u64;
        if piece.is_some()
            && let Some(left) = self.until_look.checked_sub(n_bytes)
        {
            self.until_look = left;
            return Ok(());
        }
        self.until_look = LOOK_EVERY;
        self.look(n_bytes).await
    }
}

/// Bytes of another store, as far as they fit.
pub(super) struct Metered {
    pub(super) source: Box<dyn BlobSource>,
    pub(super) quota: Quota,
}

impl BlobSource for Metered {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>, CloudError> {
        Box::pin(async move {
            let piece = self.source.next().await?;
            self.quota.passes(piece.as_deref()).await?;
            Ok(piece)
        })
    }
}
