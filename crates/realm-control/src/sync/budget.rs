//! Token buckets, and numbers that look random: both from arguments alone.

/// A bucket that fills with time. It may go into debt once, so that one large answer is possible
/// and then has to be paid.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    level: i64,
    size: i64,
    per_s: i64,
    at_ms: u64,
}

impl Bucket {
    pub(super) const fn full(size: i64, per_s: i64) -> Self {
        Self {
            level: size,
            size,
            per_s,
            at_ms: 0,
        }
    }

    /// Whether there is anything left.
    pub(super) fn has(&mut self, now_ms: u64) -> bool {
        let passed_ms = i64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(i64::MAX);
        let gained = passed_ms.saturating_mul(self.per_s) / 1_000;
        if gained > 0 {
            self.level = self.level.saturating_add(gained).min(self.size);
            self.at_ms = now_ms;
        }
        self.level > 0
    }

    pub(super) fn take(&mut self, n: usize) {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        self.level = self.level.saturating_sub(n);
    }

    /// Milliseconds until there is something left.
    pub(super) fn wait_ms(&self) -> u32 {
        let missing = self.level.saturating_neg().max(0).saturating_add(1);
        u32::try_from(missing.saturating_mul(1_000) / self.per_s + 1).unwrap_or(u32::MAX)
    }
}

/// SplitMix64: spreads work in time and over peers. Not for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 if there is nothing below it.
    pub(crate) const fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    /// `ms`, up to so many percent more or less.
    pub(crate) const fn jitter(&mut self, ms: u64, percent: u64) -> u64 {
        let spread = ms * percent / 100;
        ms - spread + self.below(2 * spread + 1)
    }
}
