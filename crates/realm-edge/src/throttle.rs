//! Log lines that clients can cause: at most one per second, with the number of events.
//!
//! Not metrics: a count that no later event brings out is lost.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A flood must not fill the disk, and a person reads no more than this.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// One kind of line.
#[derive(Default)]
pub(crate) struct Throttle {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Instant>,
    n_events: u64,
}

impl Throttle {
    /// Counts an event; the events since the last line where it is time for one.
    pub(crate) fn count(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.n_events += 1;
        let is_early = state
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < LINE_EVERY);
        if is_early {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.n_events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_events_is_one_line_per_second() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let at = |millis| throttle.count(start + Duration::from_millis(millis));
        assert_eq!(at(0), Some(1));
        for millis in 1..1000 {
            assert_eq!(at(millis), None, "{millis}");
        }
        assert_eq!(at(1000), Some(1000));
        assert_eq!(at(1500), None);
        assert_eq!(at(9000), Some(2));
    }
}
