//! Numbers for cursors: the older draft has no others.
//!
//! They hold for the bucket that they came from. Not here: what a cursor is.

use std::collections::VecDeque;

use realm_model::cloud::CloudError;

/// Cursors of one bucket that are remembered: a guest goes through one or two listings at a time.
const CURSORS_MAX: usize = 16;

/// The last cursors of a bucket.
#[derive(Default)]
pub(super) struct Cursors {
    last: u64,
    kept: VecDeque<(u64, String)>,
}

impl Cursors {
    pub(super) fn put(&mut self, cursor: String) -> u64 {
        self.last += 1;
        if self.kept.len() >= CURSORS_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((self.last, cursor));
        self.last
    }

    pub(super) fn get(&self, number: u64) -> Result<&str, CloudError> {
        let found = self.kept.iter().find(|(one, _)| *one == number);
        found.map(|(_, cursor)| cursor.as_str()).ok_or_else(|| {
            CloudError::Invalid("the cursor is none that this bucket gave lately".to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_found_again() {
        let mut cursors = Cursors::default();
        assert!(cursors.get(0).is_err());
        let first = cursors.put("a".to_owned());
        let second = cursors.put("b".to_owned());
        assert_eq!(cursors.get(first), Ok("a"));
        assert_eq!(cursors.get(second), Ok("b"));
        for _ in 0..CURSORS_MAX {
            cursors.put("c".to_owned());
        }
        assert!(cursors.get(second).is_err());
        assert!(cursors.get(u64::MAX).is_err());
    }
}
