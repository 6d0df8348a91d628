//! How long to wait before the next attempt. Not when that is: the executor adds it to its clock.

/// The wait after the first failure: shorter than a person notices, longer than a hiccup.
pub const FIRST_MS: u64 = 250;

/// The longest wait: a fixed cause is picked up within half a minute, and a broken component
/// costs two starts a minute.
pub const LONGEST_MS: u64 = 30_000;

/// Milliseconds to wait after `attempts` failures in a row: 250 ms, doubled each time, at most 30 s;
/// up to a quarter less by `jitter_seed`, so that replicas that failed together start apart.
pub fn delay_ms(attempts: u32, jitter_seed: u64) -> u64 {
    let doublings = attempts.saturating_sub(1).min(LONGEST_MS.ilog2());
    let full = (FIRST_MS << doublings).min(LONGEST_MS);
    full - mix(jitter_seed) % (full / 4 + 1)
}

/// The finaliser of SplitMix64: seeds that differ in one bit give unlike numbers.
const fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        for (attempts, full) in [
            (0, 250),
            (1, 250),
            (2, 500),
            (3, 1_000),
            (7, 16_000),
            (8, 30_000),
            (9, 30_000),
            (u32::MAX, 30_000),
        ] {
            for seed in 0..1_000 {
                let delay = delay_ms(attempts, seed);
                assert!(
                    (full * 3 / 4..=full).contains(&delay),
                    "{attempts} failures, seed {seed}: {delay} ms"
                );
            }
        }
    }

    #[test]
    fn seeds_spread_the_starts() {
        let mut delays: Vec<u64> = (0..100).map(|seed| delay_ms(8, seed)).collect();
        delays.sort_unstable();
        delays.dedup();
        assert!(delays.len() > 90, "{} different delays", delays.len());
    }
}
