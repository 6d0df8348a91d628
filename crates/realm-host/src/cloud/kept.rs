//! Bytes that the host keeps for a guest: counted as long as they are there.

use realm_model::cloud::CloudError;

use super::Cloud;

/// So many bytes of what an instance may have the host keep; they are given back when this is dropped.
pub(crate) struct Kept {
    cloud: Cloud,
    n_bytes: usize,
}

impl Kept {
    /// Nothing yet.
    pub(crate) fn none(cloud: &Cloud) -> Self {
        Self {
            cloud: cloud.clone(),
            n_bytes: 0,
        }
    }

    /// So many, if they fit beside what else the instance has.
    pub(crate) fn new(cloud: &Cloud, n_bytes: usize) -> Result<Self, CloudError> {
        let mut kept = Self::none(cloud);
        kept.set(n_bytes)?;
        Ok(kept)
    }

    /// Another number than before. Where it does not fit, it stays as it is.
    pub(crate) fn set(&mut self, n_bytes: usize) -> Result<(), CloudError> {
        match n_bytes.checked_sub(self.n_bytes) {
            Some(more) => self.cloud.keep(more)?,
            None => self.cloud.unkeep(self.n_bytes - n_bytes),
        }
        self.n_bytes = n_bytes;
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.cloud.unkeep(self.n_bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::KEPT_BYTES_MAX;
    use super::*;

    #[test]
    fn what_is_kept_is_counted_until_it_is_gone() {
        let cloud = Cloud::new(Arc::default(), None, 0);
        let mut first = Kept::new(&cloud, KEPT_BYTES_MAX - 10).unwrap();
        assert!(Kept::new(&cloud, 11).is_err());
        let second = Kept::new(&cloud, 10).unwrap();
        assert!(first.set(KEPT_BYTES_MAX).is_err());
        drop(second);
        first.set(KEPT_BYTES_MAX).unwrap();
        first.set(1).unwrap();
        assert!(Kept::new(&cloud, KEPT_BYTES_MAX).is_err());
        drop(first);
        assert!(Kept::new(&cloud, KEPT_BYTES_MAX).is_ok());
    }
}
