//! The node's clock: milliseconds since its agent started, which count while the machine sleeps.
//!
//! A lease is a promise among machines: the others' time goes on while this one sleeps. Timers of the
//! runtime do not know of such a sleep: who has a deadline looks at this clock every so often.

use std::time::Duration;

use realm_model::observed::Millis;
use rustix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const SLEEPLESS: ClockId = ClockId::Boottime;
/// Elsewhere it counts a sleep by itself.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SLEEPLESS: ClockId = ClockId::Monotonic;

/// A clock that never goes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    zero: Duration,
}

impl Clock {
    /// A clock that begins at this moment.
    pub(crate) fn start() -> Self {
        Self { zero: since_boot() }
    }

    pub(crate) fn now(self) -> Millis {
        let since = since_boot().saturating_sub(self.zero);
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

fn since_boot() -> Duration {
    // Neither field is negative, nor are there more nanoseconds than a second has.
    Duration::try_from(clock_gettime(SLEEPLESS)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_zero() {
        let clock = Clock::start();
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(5));
        let second = clock.now();
        assert!(first.0 < 5_000 && second > first, "{first:?} {second:?}");
    }
}
