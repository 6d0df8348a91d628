//! `fuel_per_sec` as a token bucket: one per replica, shared by its instances.
//!
//! A guest is charged after the fact (at each epoch tick and at its end), so the bucket can be in
//! debt; while it is, guests are suspended and new ones wait. Nothing is ever killed for fuel.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A bucket that holds one second's worth, and starts full.
pub(crate) struct Bucket {
    per_sec: u64,
    level: Mutex<Level>,
}

struct Level {
    /// Negative: debt.
    tokens: i128,
    /// When `tokens` was right.
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(per_sec: u64, now: Instant) -> Self {
        Self {
            per_sec: per_sec.max(1),
            level: Mutex::new(Level {
                tokens: i128::from(per_sec),
                at: now,
            }),
        }
    }

    /// Takes `fuel`, into debt if need be.
    pub(crate) fn charge(&self, fuel: u64, now: Instant) {
        self.refilled(now).tokens -= i128::from(fuel);
    }

    /// How long until the debt is paid; `None`: there is none.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let tokens = self.refilled(now).tokens;
        if tokens >= 0 {
            return None;
        }
        let nanos = (-tokens * 1_000_000_000).div_euclid(i128::from(self.per_sec)) + 1;
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }

    fn refilled(&self, now: Instant) -> MutexGuard<'_, Level> {
        // Two numbers that are written together: no panic can leave them torn.
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(level.at);
        let earned = elapsed.as_nanos().saturating_mul(u128::from(self.per_sec)) / 1_000_000_000;
        if earned > 0 {
            let earned = i128::try_from(earned).unwrap_or(i128::MAX);
            level.tokens = level
                .tokens
                .saturating_add(earned)
                .min(i128::from(self.per_sec));
            // What was not enough for a whole token stays for the next time.
            level.at = now;
        }
        level
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn debt_is_paid_at_the_rate() {
        let start = Instant::now();
        let bucket = Bucket::new(1_000, start);
        assert_eq!(bucket.wait(start), None);
        bucket.charge(1_500, start);
        let wait = bucket.wait(start).unwrap();
        assert!(wait > Duration::from_millis(499) && wait < Duration::from_millis(501));
        assert_eq!(bucket.wait(start + Duration::from_millis(501)), None);
    }

    #[test]
    fn a_bucket_holds_one_second() {
        let start = Instant::now();
        let bucket = Bucket::new(1_000, start);
        let later = start + Duration::from_secs(3_600);
        bucket.charge(1_001, later);
        assert!(bucket.wait(later).is_some());
    }

    proptest! {
        #[test]
        fn waiting_as_told_always_ends_the_debt(
            per_sec in 1u64..=u64::MAX / 2,
            charges in proptest::collection::vec(0u64..=u64::MAX / 2, 1..8),
        ) {
            let start = Instant::now();
            let bucket = Bucket::new(per_sec, start);
            for fuel in charges {
                bucket.charge(fuel, start);
            }
            if let Some(wait) = bucket.wait(start)
                && let Some(later) = start.checked_add(wait)
            {
                prop_assert_eq!(bucket.wait(later), None);
            }
        }
    }
}
