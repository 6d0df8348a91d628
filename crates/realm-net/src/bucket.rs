//! Token buckets: how often a peer may do something. Time is an argument, in milliseconds.

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens per second.
    pub per_second: u32,
    /// Tokens that may be saved up.
    pub burst: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    rate: Rate,
    /// Thousandths of a token, so that slow rates fill by the millisecond.
    milli: u64,
    at_ms: u64,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now_ms: u64) -> Self {
        Self {
            rate,
            milli: u64::from(rate.burst) * 1_000,
            at_ms: now_ms,
        }
    }

    /// Whether it is as if it had never been used.
    pub(crate) fn is_full(&self, now_ms: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        let grown = passed_ms.saturating_mul(u64::from(self.rate.per_second));
        self.milli.saturating_add(grown) >= u64::from(self.rate.burst) * 1_000
    }

    /// Takes one token; false when there is none.
    pub(crate) fn take(&mut self, now_ms: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let grown = passed_ms.saturating_mul(u64::from(self.rate.per_second));
        self.milli = self
            .milli
            .saturating_add(grown)
            .min(u64::from(self.rate.burst) * 1_000);
        let has = self.milli >= 1_000;
        if has {
            self.milli -= 1_000;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            per_second in 1u32..1_000, burst in 1u32..1_000,
            steps in prop::collection::vec(0u64..200, 1..400),
        ) {
            let mut bucket = Bucket::new(Rate { per_second, burst }, 0);
            let (mut now_ms, mut taken) = (0, 0u64);
            for step in steps {
                now_ms += step;
                taken += u64::from(bucket.take(now_ms));
                let allowed = u64::from(burst) + now_ms * u64::from(per_second) / 1_000;
                prop_assert!(taken <= allowed, "{taken} of {allowed} after {now_ms} ms");
            }
        }
    }

    #[test]
    fn a_clock_that_stands_or_steps_back_gives_nothing() {
        let mut bucket = Bucket::new(
            Rate {
                per_second: 1_000,
                burst: 1,
            },
            500,
        );
        assert!(bucket.take(500));
        assert!(!bucket.take(500));
        assert!(!bucket.take(0));
        assert!(!bucket.take(500));
        assert!(bucket.take(501));
    }
}
