//! Which keys of a listing were given already, for servers that may name one twice.
//!
//! Kept here, in memory, by the number of the listing, which its cursor carries. Guests choose what
//! cursors they come with: a number cannot be guessed, and means nothing in another bucket than its own.
//! Listings that are not gone on with make room for new ones: who goes on with such a one may see a key
//! again, and misses none. Not here: how a server lists.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use realm_model::cloud::CloudError;

/// Keys that are remembered, of all listings of a binding: 8 bytes each, and as much again for the table.
const KEYS_MAX: usize = 2_000_000;
/// Listings that are remembered.
const LISTINGS_MAX: usize = 256;

/// All listings of one binding.
#[derive(Default)]
pub(super) struct Iterations {
    /// Nobody outside can make keys that meet in a hash.
    hasher: RandomState,
    /// Of the numbers, so that nothing that is said of keys says anything of them.
    numbers: RandomState,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    /// By number.
    listings: HashMap<u64, Listing>,
    /// The numbers by their age.
    ages: BTreeMap<u64, u64>,
    n_keys: usize,
}

struct Listing {
    bucket: String,
    age: u64,
    seen: HashSet<u64>,
}

impl Iterations {
    /// The number of a new one.
    pub(super) fn begin(&self, bucket: &str) -> u64 {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let age = kept.last;
        let number = self.numbers.hash_one(age);
        let listing = Listing {
            bucket: bucket.to_owned(),
            age,
            seen: HashSet::new(),
        };
        kept.listings.insert(number, listing);
        kept.ages.insert(age, number);
        kept.make_room(number);
        number
    }

    /// Leaves those keys that this listing has not given, and remembers them.
    pub(super) fn only_new(&self, number: u64, bucket: &str, keys: &mut Vec<String>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(listing) = kept.of(number, bucket) else {
            return;
        };
        keys.retain(|key| listing.seen.insert(self.hasher.hash_one(key)));
        kept.n_keys += keys.len();
        kept.make_room(number);
    }

    /// A listing came to its end.
    pub(super) fn end(&self, number: u64, bucket: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.of(number, bucket).is_some() {
            kept.forget(number);
        }
    }
}

/// The number of a listing, and where the server goes on with it, of a guest's cursor.
pub(super) fn place_of(cursor: &str) -> Result<(u64, u64), CloudError> {
    let place = cursor.split_once('.');
    place
        .and_then(|(number, at)| Some((number.parse().ok()?, at.parse().ok()?)))
        .ok_or_else(|| CloudError::Invalid("the cursor is none".to_owned()))
}

impl Kept {
    fn of(&mut self, number: u64, bucket: &str) -> Option<&mut Listing> {
        let listing = self.listings.get_mut(&number)?;
        (listing.bucket == bucket).then_some(listing)
    }

    fn make_room(&mut self, but: u64) {
        while self.listings.len() > LISTINGS_MAX || self.n_keys > KEYS_MAX {
            let Some(oldest) = self.ages.values().copied().find(|one| *one != but) else {
                // One alone that is too large: from here on it may name a key twice.
                self.forget(but);
                return;
            };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some(listing) = self.listings.remove(&number) {
            self.n_keys -= listing.seen.len();
            self.ages.remove(&listing.age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(all: &Iterations, number: u64, keys: &[&str]) -> Vec<String> {
        given_in(all, number, "a", keys)
    }

    fn given_in(all: &Iterations, number: u64, bucket: &str, keys: &[&str]) -> Vec<String> {
        let mut keys = keys.iter().map(|key| (*key).to_owned()).collect();
        all.only_new(number, bucket, &mut keys);
        keys
    }

    #[test]
    fn each_listing_names_a_key_once() {
        let all = Iterations::default();
        let (one, other) = (all.begin("a"), all.begin("a"));
        assert_eq!(given(&all, one, &["a", "b", "a"]), ["a", "b"]);
        assert_eq!(given(&all, one, &["b", "c"]), ["c"]);
        assert_eq!(given(&all, other, &["b"]), ["b"]);
        all.end(one, "a");
        assert_eq!(given(&all, one, &["a"]), ["a"], "it is not remembered");
        let kept = all.kept.lock().unwrap();
        assert_eq!((kept.n_keys, kept.ages.len()), (1, 1));
    }

    #[test]
    fn a_number_means_nothing_in_another_bucket() {
        let all = Iterations::default();
        let one = all.begin("a");
        assert_eq!(given_in(&all, one, "b", &["x"]), ["x"]);
        assert_eq!(given_in(&all, one, "b", &["x"]), ["x"]);
        assert_eq!(given(&all, one, &["x"]), ["x"], "it was not given in `a`");
        all.end(one, "b");
        assert_eq!(given(&all, one, &["x", "y"]), ["y"], "it goes on");
    }

    #[test]
    fn numbers_are_not_to_be_guessed() {
        let all = Iterations::default();
        let numbers: Vec<u64> = (0..8).map(|_| all.begin("a")).collect();
        let small = numbers.iter().filter(|one| **one < 1 << 32).count();
        assert!(small < 3, "{numbers:?}");
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let all = Iterations::default();
        let first = all.begin("a");
        given(&all, first, &["a"]);
        for _ in 0..LISTINGS_MAX {
            all.begin("a");
        }
        assert_eq!(given(&all, first, &["a"]), ["a"], "the oldest is forgotten");
        let kept = all.kept.lock().unwrap();
        assert_eq!((kept.listings.len(), kept.n_keys), (LISTINGS_MAX, 0));
        assert_eq!(kept.ages.len(), LISTINGS_MAX);
    }
}
