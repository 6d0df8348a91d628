//! `operations_per_sec`: a bucket that holds one second's worth. An operation that finds it empty is
//! refused, not delayed: the guest knows best what can wait.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use realm_model::cloud::{CloudError, Quota};

pub(crate) struct Operations {
    per_sec: u32,
    level: Mutex<Level>,
}

struct Level {
    left: f64,
    at: Instant,
}

impl Operations {
    pub(crate) fn new(per_sec: u32, now: Instant) -> Self {
        Self {
            per_sec,
            level: Mutex::new(Level {
                left: f64::from(per_sec),
                at: now,
            }),
        }
    }

    pub(crate) fn take(&self) -> Result<(), CloudError> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Result<(), CloudError> {
        // Two numbers that are written together: no panic can leave them torn.
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let per_sec = f64::from(self.per_sec);
        let earned = now.saturating_duration_since(level.at).as_secs_f64() * per_sec;
        level.left = (level.left + earned).min(per_sec);
        level.at = level.at.max(now);
        if level.left < 1.0 {
            return Err(CloudError::Quota(Quota::Operations));
        }
        level.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_has_as_many_as_it_may_and_no_more() {
        let start = Instant::now();
        let operations = Operations::new(10, start);
        let taken = |at: Duration| {
            let at = start + at;
            (0..100).filter(|_| operations.take_at(at).is_ok()).count()
        };
        assert_eq!(taken(Duration::ZERO), 10);
        assert_eq!(taken(Duration::from_millis(500)), 5);
        assert_eq!(taken(Duration::from_millis(500)), 0);
        // What was not used in an hour is not there all at once.
        assert_eq!(taken(Duration::from_secs(3_600)), 10);
        // A clock that seems to go back gives nothing.
        assert_eq!(taken(Duration::ZERO), 0);
    }
}
