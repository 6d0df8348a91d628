//! What is left of a body whose request is answered: for how long, and for how much of it, the end of the
//! request waits. Not the answer, nor the bytes, which nobody reads.
//!
//! HAProxy takes no end in the middle of what it sends: it then reads nothing more of its client, and both
//! wait until the times of HAProxy are over. nginx takes no other: it may send nothing more of a body while
//! it waits for the end. So it is for who asks to say.

use std::time::Duration;

use tokio::time::Instant;

use crate::serve::LINGER_BYTES_MAX;

/// A pause of a client on a bad line.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// However it moves: a client that sends byte by byte has a place among the requests of its connection.
const ALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The rest of one body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    bytes_left: usize,
    moved: Instant,
    until: Instant,
}

impl Rest {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bytes_left: LINGER_BYTES_MAX,
            moved: now,
            until: now + ALL_TIMEOUT,
        }
    }

    /// Counts what came; whether more of it is waited for.
    pub(super) fn came(&mut self, bytes: usize, now: Instant) -> bool {
        self.moved = now;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.bytes_left > 0
    }

    /// When it is not waited for any more, unless something comes before.
    pub(super) fn ends(&self) -> Instant {
        self.until.min(self.moved + PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_waited_for_while_it_moves_and_not_for_ever() {
        let began = Instant::now();
        let after = |millis| began + Duration::from_millis(millis);
        let mut rest = Rest::new(began);
        assert_eq!(rest.ends(), after(5_000));
        for millis in (1_000..=29_000).step_by(1_000) {
            assert!(rest.came(1, after(millis)));
        }
        assert_eq!(rest.ends(), after(30_000));
        let mut rest = Rest::new(began);
        assert!(rest.came(LINGER_BYTES_MAX - 1, after(0)));
        assert!(!rest.came(1, after(0)));
    }
}
