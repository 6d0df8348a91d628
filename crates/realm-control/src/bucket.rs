//! A token bucket over an argument for time: how often something may happen. Not who counts what.

use realm_model::observed::Millis;

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// At once, after a pause.
    pub(crate) burst: u64,
    /// And then one per this time.
    pub(crate) per_ms: u64,
}

/// What was used of a rate. A new one is full.
///
/// It keeps the time at which it is full again: so there is nothing to update while nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bucket {
    full_at_ms: u64,
}

impl Bucket {
    /// Takes one, or says after how many milliseconds one can be taken.
    pub(crate) fn take(&mut self, rate: Rate, now: Millis) -> Option<u64> {
        let missing_ms = self.full_at_ms.saturating_sub(now.0);
        let room_ms = (rate.burst - 1) * rate.per_ms;
        if missing_ms > room_ms {
            return Some(missing_ms - room_ms);
        }
        self.full_at_ms = now.0 + missing_ms + rate.per_ms;
        None
    }

    /// Whether it is as good as new.
    pub(crate) const fn is_full(&self, now: Millis) -> bool {
        self.full_at_ms <= now.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_then_one_at_a_time() {
        let rate = Rate {
            burst: 3,
            per_ms: 10,
        };
        let mut bucket = Bucket::default();
        let mut take = |now| bucket.take(rate, Millis(now));
        assert_eq!([take(0), take(0), take(0)], [None; 3]);
        assert_eq!(take(0), Some(10));
        assert_eq!(take(9), Some(1));
        assert_eq!([take(10), take(10)], [None, Some(10)]);
        assert_eq!([take(1_000), take(1_000), take(1_000)], [None; 3]);
        // A clock that goes back gives nothing away.
        assert_eq!(take(0), Some(1_010));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate(steps in proptest::collection::vec(0u64..50, 1..200)) {
            let rate = Rate { burst: 4, per_ms: 20 };
            let mut bucket = Bucket::default();
            let (mut now, mut taken) = (0, 0);
            for step in steps {
                now += step;
                taken += u64::from(bucket.take(rate, Millis(now)).is_none());
                prop_assert!(taken <= rate.burst + now / rate.per_ms);
            }
        }
    }
}
