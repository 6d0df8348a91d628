//! The clocks that a guest sees, as granted.
//!
//! Not a way to wait: timers work under every grant, since a guest that can wait learns nothing.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use realm_model::grants::ClockGrant;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

/// The resolution under [`ClockGrant::Coarse`].
const COARSE: Duration = Duration::from_millis(1);

/// Monotonic time counts from the first use in this process.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Both clocks under one grant.
#[derive(Clone, Copy)]
pub(crate) struct Clock(pub(crate) ClockGrant);

impl Clock {
    fn cut(self, time: Duration) -> Duration {
        match self.0 {
            ClockGrant::None => Duration::ZERO,
            ClockGrant::Coarse => {
                let step = COARSE.as_nanos();
                let nanos = time.as_nanos() / step * step;
                // 584 years fit; a clock set beyond that stands still.
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            ClockGrant::Precise => time,
        }
    }

    fn resolution(self) -> Duration {
        match self.0 {
            ClockGrant::None | ClockGrant::Precise => Duration::from_nanos(1),
            ClockGrant::Coarse => COARSE,
        }
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        (*self).resolution()
    }

    fn now(&self) -> Duration {
        // A machine clock before 1970 is a broken one: the guest sees 1970.
        self.cut(
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        nanos((*self).resolution())
    }

    fn now(&self) -> u64 {
        nanos(self.cut(START.elapsed()))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_decides_what_is_left_of_a_time() {
        let time = Duration::from_nanos(1_234_567);
        assert_eq!(Clock(ClockGrant::None).cut(time), Duration::ZERO);
        assert_eq!(
            Clock(ClockGrant::Coarse).cut(time),
            Duration::from_millis(1)
        );
        assert_eq!(Clock(ClockGrant::Precise).cut(time), time);
    }
}
