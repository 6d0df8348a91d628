//! How many requests one connection may abort: as many in a second as the limits say, and as many at once.
//! Not what aborting is: `serve`.

use std::time::Duration;

use tokio::time::Instant;

/// The aborts of one connection.
#[derive(Debug)]
pub(super) struct Aborts {
    /// One of them is allowed again after so long.
    each: Duration,
    /// All of them.
    all: Duration,
    /// From then on as many as may be at once are allowed again.
    settled: Instant,
}

impl Aborts {
    pub(super) fn new(per_second_max: u32, now: Instant) -> Self {
        let per_second_max = per_second_max.max(1);
        let each = Duration::from_secs(1) / per_second_max;
        Self {
            each,
            all: each * per_second_max,
            settled: now,
        }
    }

    /// Counts one; whether it is allowed.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let settled = self.settled.max(now) + self.each;
        let is_allowed = settled <= now + self.all;
        if is_allowed {
            self.settled = settled;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_allowed_at_once_as_in_a_second() {
        let began = Instant::now();
        let mut aborts = Aborts::new(3, began);
        let after = |millis| began + Duration::from_millis(millis);
        for (millis, expected) in [
            (0, true),
            (0, true),
            (0, true),
            (0, false),
            (300, false),
            (340, true),
            (340, false),
            (5_000, true),
            (5_000, true),
            (5_000, true),
            (5_000, false),
        ] {
            assert_eq!(aborts.allow(after(millis)), expected, "{millis}");
        }
        let mut none = Aborts::new(0, began);
        assert!(none.allow(began) && !none.allow(began));
    }
}
