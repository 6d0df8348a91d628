//! Places that callers share: a number for all together, and a smaller one for each, so that nobody
//! takes them all. Not here: what a place is for, and how long it is held.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Places for holders of kind `K`; cheap to clone.
pub(crate) struct Places<K: Ord> {
    all_max: usize,
    each_max: usize,
    shared: Arc<Shared<K>>,
}

struct Shared<K: Ord> {
    taken: Mutex<BTreeMap<K, usize>>,
    freed: Notify,
}

/// One of them, until it is dropped.
pub(crate) struct Place<K: Ord> {
    holder: K,
    shared: Arc<Shared<K>>,
}

impl<K: Ord> Shared<K> {
    fn taken(&self) -> MutexGuard<'_, BTreeMap<K, usize>> {
        // Numbers alone change under the lock: a panic cannot leave them half changed.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone> Places<K> {
    pub(crate) fn new(all_max: usize, each_max: usize) -> Self {
        Self {
            all_max,
            each_max,
            shared: Arc::new(Shared {
                taken: Mutex::default(),
                freed: Notify::new(),
            }),
        }
    }

    /// A place, if `spared` more than that stay free for others.
    pub(crate) fn take(&self, holder: K, spared: usize) -> Option<Place<K>> {
        let mut taken = self.shared.taken();
        let all: usize = taken.values().sum();
        let own = taken.get(&holder).copied().unwrap_or(0);
        if all + spared >= self.all_max || own >= self.each_max {
            return None;
        }
        taken.insert(holder.clone(), own + 1);
        Some(Place {
            holder,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Who holds any.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        self.shared.taken().len()
    }

    /// [`Places::take`], or one that becomes free in this time.
    pub(crate) async fn wait(&self, holder: K, time_max: Duration) -> Option<Place<K>> {
        let taking = async {
            loop {
                let mut freed = std::pin::pin!(self.shared.freed.notified());
                freed.as_mut().enable();
                if let Some(place) = self.take(holder.clone(), 0) {
                    return place;
                }
                freed.await;
            }
        };
        tokio::time::timeout(time_max, taking).await.ok()
    }
}

impl<K: Ord> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self {
            all_max: self.all_max,
            each_max: self.each_max,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.shared.taken();
        match taken.get_mut(&self.holder) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => drop(taken.remove(&self.holder)),
        }
        drop(taken);
        self.shared.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `n` places this holder gets.
    fn check(places: &Places<u8>, holder: u8, spared: usize, expected: usize) -> Vec<Place<u8>> {
        let got: Vec<_> = (0..100)
            .filter_map(|_| places.take(holder, spared))
            .collect();
        assert_eq!(got.len(), expected, "holder {holder}");
        got
    }

    #[tokio::test]
    async fn nobody_takes_them_all() {
        let places = Places::new(8, 3);
        let first = check(&places, 1, 1, 3);
        let _second = check(&places, 2, 1, 3);
        let _third = check(&places, 3, 1, 1);
        // The one that is spared.
        let _own = check(&places, 0, 0, 1);
        let wait = |holder| places.wait(holder, Duration::from_secs(60));
        assert!(places.wait(4, Duration::ZERO).await.is_none());
        let (place, ()) = tokio::join!(wait(4), async { drop(first) });
        assert!(place.is_some());
        drop(place);
        check(&places, 1, 0, 3);
        // Who holds nothing takes no memory.
        assert_eq!(places.holders(), 3);
    }
}
