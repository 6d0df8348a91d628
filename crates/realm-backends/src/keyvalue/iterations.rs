//! Which keys of a listing were given already, for servers that may name one twice.
//!
//! Kept here, in memory, by the number of the listing, which its cursor carries. Listings that are not
//! gone on with make room for new ones: who goes on with such a one may see a key again, and misses
//! none. Not here: how a server lists.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

/// Keys that are remembered, of all listings of a binding: 8 bytes each, and as much again for the table.
const KEYS_MAX: usize = 2_000_000;
/// Listings that are remembered.
const LISTINGS_MAX: usize = 256;

/// All listings of one binding.
#[derive(Default)]
pub(super) struct Iterations {
    /// Nobody outside can make keys that meet in a hash.
    hasher: RandomState,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    /// By number, and so by age.
    listings: BTreeMap<u64, HashSet<u64>>,
    n_keys: usize,
}

impl Iterations {
    /// The number of a new one.
    pub(super) fn begin(&self) -> u64 {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let number = kept.last;
        kept.listings.insert(number, HashSet::new());
        kept.make_room(number);
        number
    }

    /// Leaves those keys that this listing has not given, and remembers them.
    pub(super) fn only_new(&self, number: u64, keys: &mut Vec<String>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seen) = kept.listings.get_mut(&number) else {
            return;
        };
        let before = seen.len();
        keys.retain(|key| seen.insert(self.hasher.hash_one(key)));
        kept.n_keys += keys.len();
        debug_assert_eq!(
            kept.listings.get(&number).map_or(0, HashSet::len),
            before + keys.len()
        );
        kept.make_room(number);
    }

    /// A listing came to its end.
    pub(super) fn end(&self, number: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.forget(number);
    }
}

impl Kept {
    fn make_room(&mut self, but: u64) {
        while self.listings.len() > LISTINGS_MAX || self.n_keys > KEYS_MAX {
            let Some(oldest) = self.listings.keys().copied().find(|one| *one != but) else {
                // One alone that is too large: from here on it may name a key twice.
                self.forget(but);
                return;
            };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some(seen) = self.listings.remove(&number) {
            self.n_keys -= seen.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(all: &Iterations, number: u64, keys: &[&str]) -> Vec<String> {
        let mut keys = keys.iter().map(|key| (*key).to_owned()).collect();
        all.only_new(number, &mut keys);
        keys
    }

    #[test]
    fn each_listing_names_a_key_once() {
        let all = Iterations::default();
        let (one, other) = (all.begin(), all.begin());
        assert_eq!(given(&all, one, &["a", "b", "a"]), ["a", "b"]);
        assert_eq!(given(&all, one, &["b", "c"]), ["c"]);
        assert_eq!(given(&all, other, &["b"]), ["b"]);
        all.end(one);
        assert_eq!(given(&all, one, &["a"]), ["a"], "it is not remembered");
        assert_eq!(all.kept.lock().unwrap().n_keys, 1);
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let all = Iterations::default();
        let first = all.begin();
        given(&all, first, &["a"]);
        for _ in 0..LISTINGS_MAX {
            all.begin();
        }
        assert_eq!(given(&all, first, &["a"]), ["a"], "the oldest is forgotten");
        let kept = all.kept.lock().unwrap();
        assert_eq!((kept.listings.len(), kept.n_keys), (LISTINGS_MAX, 0));
    }
}
