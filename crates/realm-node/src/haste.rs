//! What a slow other end may cost: time by the bytes that moved, and no long pause. A byte every ten
//! seconds would hold a place for ever otherwise.

use std::time::Duration;

use tokio::time::Instant;

/// Of a transfer.
pub(crate) struct Haste {
    began: Instant,
    idle: Duration,
    bytes_per_s: u64,
    bytes: u64,
}

impl Haste {
    /// Whoever moves `bytes_per_s` is never too slow; before that there is `idle`, once.
    pub(crate) fn new(idle: Duration, bytes_per_s: u64) -> Self {
        Self {
            began: Instant::now(),
            idle,
            bytes_per_s,
            bytes: 0,
        }
    }

    pub(crate) fn moved(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// `None`: it was too slow.
    pub(crate) async fn within<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        let end = self.end(Instant::now());
        tokio::time::timeout_at(end, step).await.ok()
    }

    /// When a step that begins now is too slow.
    fn end(&self, now: Instant) -> Instant {
        let earned = Duration::from_millis(self.bytes.saturating_mul(1_000) / self.bytes_per_s);
        (self.began + self.idle + earned).min(now + self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves `bytes` each `pause_ms`; after how many seconds it is cut off.
    fn check(bytes: usize, pause_ms: u64, expected_s: Option<u64>) {
        let mut haste = Haste::new(Duration::from_secs(30), 1_000);
        let mut now = haste.began;
        let mut cut_off = None;
        for _ in 0..1_000 {
            let end = haste.end(now);
            now += Duration::from_millis(pause_ms);
            if now > end {
                cut_off = Some((end - haste.began).as_secs());
                break;
            }
            haste.moved(bytes);
        }
        assert_eq!(cut_off, expected_s, "{bytes} bytes each {pause_ms} ms");
    }

    #[test]
    fn who_drips_is_cut_off_and_who_is_slow_is_not() {
        check(1, 10_000, Some(30));
        check(500, 1_000, Some(59));
        check(1_000, 1_000, None);
        check(1_000_000, 31_000, Some(30));
    }

    #[tokio::test]
    async fn a_step_without_an_end_is_ended() {
        let haste = Haste::new(Duration::ZERO, 1);
        assert!(haste.within(std::future::pending::<()>()).await.is_none());
    }
}
