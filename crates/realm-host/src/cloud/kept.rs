//! Bytes that the host keeps for a guest: counted as long as they are there, for its instance and for all
//! instances of its component.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use realm_model::cloud::CloudError;

use super::{Cloud, KEPT_BY_ALL_BYTES_MAX, KEPT_BYTES_MAX};

/// What is kept for an instance, and for all of its component.
pub(super) struct Tally {
    n_bytes: AtomicUsize,
    by_all: Arc<AtomicUsize>,
}

impl Tally {
    pub(super) const fn new(by_all: Arc<AtomicUsize>) -> Self {
        Self {
            n_bytes: AtomicUsize::new(0),
            by_all,
        }
    }

    fn take(&self, n_bytes: usize) -> Result<(), CloudError> {
        let own = self.n_bytes.fetch_add(n_bytes, Ordering::Relaxed);
        let all = self.by_all.fetch_add(n_bytes, Ordering::Relaxed);
        let fits = |before: usize, n_max| before.saturating_add(n_bytes) <= n_max;
        let error = if !fits(own, KEPT_BYTES_MAX) {
            let words = "too many large values are held: drop some";
            CloudError::Invalid(words.to_owned())
        } else if !fits(all, KEPT_BY_ALL_BYTES_MAX) {
            // Nothing that this instance did or can mend: there is room again once others are done.
            let words = "the host keeps enough for other instances of this component";
            CloudError::Failed(words.to_owned())
        } else {
            return Ok(());
        };
        self.give(n_bytes);
        Err(error)
    }

    fn give(&self, n_bytes: usize) {
        self.n_bytes.fetch_sub(n_bytes, Ordering::Relaxed);
        self.by_all.fetch_sub(n_bytes, Ordering::Relaxed);
    }
}

/// So many bytes of what an instance may have the host keep; they are given back when this is dropped.
pub(crate) struct Kept {
    tally: Arc<Tally>,
    n_bytes: usize,
}

impl Kept {
    /// Nothing yet.
    pub(crate) fn none(cloud: &Cloud) -> Self {
        Self {
            tally: Arc::clone(&cloud.kept),
            n_bytes: 0,
        }
    }

    /// So many, if they fit beside what else the instance has.
    pub(crate) fn new(cloud: &Cloud, n_bytes: usize) -> Result<Self, CloudError> {
        let mut kept = Self::none(cloud);
        kept.set(n_bytes)?;
        Ok(kept)
    }

    /// So many more.
    pub(crate) fn more(&mut self, n_bytes: usize) -> Result<(), CloudError> {
        self.set(self.n_bytes.saturating_add(n_bytes))
    }

    /// So many fewer.
    pub(crate) fn less(&mut self, n_bytes: usize) {
        let n_bytes = n_bytes.min(self.n_bytes);
        self.tally.give(n_bytes);
        self.n_bytes -= n_bytes;
    }

    /// Another number than before. Where it does not fit, it stays as it is.
    pub(crate) fn set(&mut self, n_bytes: usize) -> Result<(), CloudError> {
        match n_bytes.checked_sub(self.n_bytes) {
            Some(more) => self.tally.take(more)?,
            None => self.tally.give(self.n_bytes - n_bytes),
        }
        self.n_bytes = n_bytes;
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.tally.give(self.n_bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_kept_is_counted_until_it_is_gone() {
        let component = "guest".parse().unwrap();
        let cloud = Cloud::new(component, Arc::default(), None, 0);
        let mut first = Kept::new(&cloud, KEPT_BYTES_MAX - 10).unwrap();
        assert!(Kept::new(&cloud, 11).is_err());
        let second = Kept::new(&cloud, 10).unwrap();
        assert!(first.set(KEPT_BYTES_MAX).is_err());
        drop(second);
        first.set(KEPT_BYTES_MAX).unwrap();
        first.set(1).unwrap();
        first.more(KEPT_BYTES_MAX - 1).unwrap();
        assert!(first.more(1).is_err());
        first.set(1).unwrap();
        assert!(Kept::new(&cloud, KEPT_BYTES_MAX).is_err());
        drop(first);
        assert!(Kept::new(&cloud, KEPT_BYTES_MAX).is_ok());
    }

    #[test]
    fn what_others_hold_is_no_error_of_whoever_asks() {
        let stores = Arc::default();
        let instance = || {
            let component = "guest".parse().unwrap();
            Cloud::new(component, Arc::clone(&stores), None, 0)
        };
        let others: Vec<Kept> = (0..KEPT_BY_ALL_BYTES_MAX / KEPT_BYTES_MAX)
            .map(|_| Kept::new(&instance(), KEPT_BYTES_MAX).unwrap())
            .collect();
        let one = instance();
        let code = |n_bytes| Kept::new(&one, n_bytes).err().map(|error| error.code());
        assert_eq!(code(KEPT_BYTES_MAX), Some("backend-failed"));
        assert_eq!(code(KEPT_BYTES_MAX + 1), Some("invalid"));
        drop(others);
        assert_eq!(code(KEPT_BYTES_MAX), None);
    }
}
