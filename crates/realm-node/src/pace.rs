//! How often the loop plans: at once as a rule, in a flood of events for a part of the time only.
//!
//! A plan looks at every component. While thousands of them start, each start would call for one;
//! the longer a plan takes, the more events the next one answers. Not how long a plan takes.

use std::time::{Duration, Instant};

/// Of a flood's time one part in so many goes into planning; the rest is the starts' and the guests'.
const PART: u32 = 4;
/// What planning may take at once after a quiet time, in its own time: a deploy of one component
/// among thousands does not wait.
const BURST: Duration = Duration::from_millis(250);

/// Until when the time spent on planning is paid for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    paid_until: Instant,
}

impl Pace {
    /// Nothing was planned so far.
    pub(crate) const fn new(now: Instant) -> Self {
        Self { paid_until: now }
    }

    /// How long the next plan has to wait.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.paid_until
            .saturating_duration_since(now)
            .saturating_sub(BURST * PART)
    }

    /// Planning took so long, up to `now`.
    pub(crate) fn worked(&mut self, took: Duration, now: Instant) {
        self.paid_until = self.paid_until.max(now) + took.saturating_mul(PART);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Milliseconds of planning out of `total` where each plan takes `plan` and there is always
    /// something to plan.
    fn check(plan: u32, total: u32, expected: std::ops::RangeInclusive<u32>) {
        let start = Instant::now();
        let (mut pace, mut now, mut planned) = (Pace::new(start), start, 0);
        while now < start + MS * total {
            now += pace.wait(now) + MS * plan;
            pace.worked(MS * plan, now);
            planned += plan;
        }
        assert!(expected.contains(&planned), "{planned} of {total} ms");
    }

    #[test]
    fn a_flood_leaves_most_of_the_time_to_others() {
        for plan in [1, 20, 100] {
            // A quarter, and what may be done at once.
            check(plan, 100_000, 25_000..=25_600);
        }
    }

    #[test]
    fn what_comes_alone_does_not_wait() {
        check(20, 250, 250..=270);
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for second in 1..100 {
            let now = start + Duration::from_secs(second);
            assert_eq!(pace.wait(now), Duration::ZERO);
            pace.worked(MS * 200, now);
        }
    }

    #[test]
    fn a_plan_that_took_forever_is_paid_off_in_the_end() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.worked(MS * 1_000, start);
        assert_eq!(pace.wait(start), MS * 3_000);
        assert_eq!(pace.wait(start + MS * 3_000), Duration::ZERO);
    }
}
