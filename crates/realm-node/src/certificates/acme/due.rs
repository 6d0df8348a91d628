//! When a certificate is ordered: pure, with time as an argument.

use realm_edge::tls::Validity;
use realm_model::digest::Digest;

/// A certificate is renewed when this part of its life is left, as Let's Encrypt asks for.
const LEFT_PART: i64 = 3;
/// Nodes and names that began together do not all ask together: up to this part of a life sooner.
const SPREAD_PART: i64 = 30;
/// After an order that failed; four times as long after each further one.
const AGAIN_S: i64 = 60;
const AGAIN_FACTOR: i64 = 4;
/// At most. Authorities count failures by the hour: five are too many there.
const AGAIN_S_MAX: i64 = 12 * 3_600;

/// When the next order is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Due {
    Now,
    /// In so many seconds.
    In(u64),
}

/// When one for `name` is: `has` says when the present one is valid, `failed` how often orders failed in
/// turn, and when the last one did.
pub(in super::super) fn due(
    name: &str,
    has: Option<Validity>,
    failed: Option<(u32, i64)>,
    now_s: i64,
) -> Due {
    let wanted_s = has.map_or(now_s, |validity| {
        let life = validity
            .not_after_s
            .saturating_sub(validity.not_before_s)
            .max(0);
        let sooner = life / SPREAD_PART * share(name) / 256;
        validity.not_after_s - life / LEFT_PART - sooner
    });
    let allowed_s = failed.map_or(now_s, |(times, at_s)| {
        let factor = AGAIN_FACTOR.saturating_pow(times.saturating_sub(1));
        let pause = AGAIN_S.saturating_mul(factor).min(AGAIN_S_MAX);
        // A clock that was set back must not make it wait for longer.
        (at_s + pause + pause * share(name) / 1024).min(now_s + AGAIN_S_MAX * 2)
    });
    match wanted_s.max(allowed_s) - now_s {
        ..=0 => Due::Now,
        seconds => Due::In(seconds.unsigned_abs()),
    }
}

/// From 0 to 255, another one for another name.
fn share(name: &str) -> i64 {
    Digest::of(name.as_bytes()).as_bytes()[0].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn check(has: Option<(i64, i64)>, failed: Option<(u32, i64)>, now_s: i64) -> Due {
        let has = has.map(|(not_before_s, not_after_s)| Validity {
            not_before_s,
            not_after_s,
        });
        due("a.example", has, failed, now_s)
    }

    #[test]
    fn a_certificate_is_renewed_with_a_third_of_its_life_left() {
        assert_eq!(check(None, None, 7), Due::Now);
        let ninety = Some((0, 90 * DAY));
        assert_eq!(check(ninety, None, 60 * DAY), Due::Now);
        let Due::In(seconds) = check(ninety, None, 0) else {
            panic!("it is new");
        };
        let days = i64::try_from(seconds).unwrap() / DAY;
        assert!((57..=60).contains(&days), "{days}");
        // Of one of six days likewise.
        assert_eq!(check(Some((0, 6 * DAY)), None, 4 * DAY), Due::Now);
        assert!(check(Some((0, 6 * DAY)), None, 3 * DAY) > Due::Now);
        // One that ended, or makes no sense.
        assert_eq!(check(ninety, None, 100 * DAY), Due::Now);
        assert_eq!(check(Some((9, 3)), None, 10), Due::Now);
    }

    #[test]
    fn names_that_began_together_are_renewed_apart() {
        let at = |name: &str| {
            let validity = Validity {
                not_before_s: 0,
                not_after_s: 90 * DAY,
            };
            due(name, Some(validity), None, 0)
        };
        assert_ne!(at("a.example"), at("b.example"));
    }

    #[test]
    fn what_failed_waits_for_longer_each_time() {
        let wait = |times| match check(None, Some((times, 1_000)), 1_000) {
            Due::Now => 0,
            Due::In(seconds) => seconds,
        };
        for (times, least) in [
            (1, 60),
            (2, 240),
            (3, 960),
            (4, 3_840),
            (5, 15_360),
            (6, 43_200),
        ] {
            let seconds = wait(times);
            assert!(
                (least..=least * 5 / 4).contains(&seconds),
                "{times} {seconds}"
            );
        }
        assert_eq!(wait(6), wait(u32::MAX));
        assert_eq!(check(None, Some((1, 1_000)), 1_100), Due::Now);
        // The clock was set back by a year.
        let Due::In(seconds) = check(None, Some((1, 400 * DAY)), 35 * DAY) else {
            panic!("it failed");
        };
        assert!(seconds <= 86_400);
    }
}
