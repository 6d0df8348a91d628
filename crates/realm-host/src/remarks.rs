//! What the log says of an end that is no trap: which key of the manifest set the bound.
//!
//! What clients cause (too many at once, too much, gone) is said once a second at most, with the
//! number of what was left unsaid: a client must not be able to push a component's own lines out
//! of its log. Not here: what a client reads, which names no figure ([`Outcome`]).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use realm_model::limits::Limits;

use crate::invocation::Shared;
use crate::outcome::Outcome;

/// Between two lines of one kind: a person who follows the log sees that it goes on.
const PAUSE: Duration = Duration::from_secs(1);
const MIB: u64 = 1024 * 1024;

/// Why this end, in terms of the limits; `shared`: of the guest, if one was run.
pub(crate) fn limit_words(
    outcome: Outcome,
    shared: Option<&Shared>,
    limits: &Limits,
) -> Option<String> {
    match outcome {
        Outcome::MemoryLimit => shared?.growth_denied().map(|bytes| {
            format!(
                "the guest wanted {} MiB, `memory_max_mb` is {}",
                bytes.div_ceil(MIB),
                limits.memory_max_mb
            )
        }),
        Outcome::EpochTimeout => Some(format!(
            "the guest ran for {} ms, `epoch_timeout_ms` is {}",
            shared?.running().as_millis(),
            limits.epoch_timeout_ms
        )),
        Outcome::WallTimeout => Some(format!(
            "not done after the {} ms of `wall_timeout_ms`",
            limits.wall_timeout_ms
        )),
        Outcome::Overloaded => Some(format!(
            "no room: `max_concurrency` is {}, and `instances_max` in node.toml is for all components together",
            limits.max_concurrency
        )),
        Outcome::RequestTooLarge => Some(format!(
            "the body is larger than the {} bytes of `max_request_bytes`",
            limits.max_request_bytes
        )),
        Outcome::RequestTimeout => {
            Some("the client sent nothing more of the body for too long".to_owned())
        }
        Outcome::ResponseTooLarge => Some(format!(
            "the answer is larger than the {} bytes of `max_response_bytes`",
            limits.max_response_bytes?
        )),
        Outcome::Cancelled => Some("the client went away".to_owned()),
        Outcome::Stopped => Some("this node may not run it any longer".to_owned()),
        Outcome::Ok
        | Outcome::Trap
        | Outcome::Exit
        | Outcome::NoResponse
        | Outcome::GuestError
        | Outcome::BadResponse
        | Outcome::BadRequest
        | Outcome::StartFailed => None,
    }
}

/// When which kind was last said.
pub(crate) struct Remarks {
    began: Instant,
    kinds: [Kind; Outcome::ALL.len()],
}

#[derive(Default)]
struct Kind {
    next_ms: AtomicU64,
    unsaid: AtomicU64,
}

impl Remarks {
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            kinds: Default::default(),
        }
    }

    /// How many were left unsaid before this one, where it is to be said.
    pub(crate) fn due(&self, outcome: Outcome, now: Instant) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let kind = &self.kinds[outcome as usize];
        let now_ms = millis(now.saturating_duration_since(self.began));
        let next_ms = kind.next_ms.load(Relaxed);
        let after = now_ms.saturating_add(millis(PAUSE));
        let due = now_ms >= next_ms
            && kind
                .next_ms
                .compare_exchange(next_ms, after, Relaxed, Relaxed)
                .is_ok();
        if due {
            return Some(kind.unsaid.swap(0, Relaxed));
        }
        kind.unsaid.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_said_once_a_second_and_nothing_is_lost() {
        let began = Instant::now();
        let remarks = Remarks::new(began);
        let at = |ms| began + Duration::from_millis(ms);
        let check = |outcome, ms, expected| {
            assert_eq!(remarks.due(outcome, at(ms)), expected, "{outcome:?} {ms}");
        };
        check(Outcome::Overloaded, 0, Some(0));
        check(Outcome::Overloaded, 1, None);
        check(Outcome::Cancelled, 1, Some(0));
        check(Outcome::Overloaded, 999, None);
        check(Outcome::Overloaded, 1_000, Some(2));
        check(Outcome::Overloaded, 5_000, Some(0));
    }

    #[test]
    fn each_limit_names_its_key() {
        let shared = Shared::new();
        shared.deny_growth(16 * MIB + 1);
        let limits = Limits {
            max_response_bytes: Some(7),
            ..Limits::default()
        };
        for (outcome, words) in [
            (
                Outcome::MemoryLimit,
                "wanted 17 MiB, `memory_max_mb` is 128",
            ),
            (Outcome::EpochTimeout, "`epoch_timeout_ms` is 1000"),
            (Outcome::WallTimeout, "30000 ms of `wall_timeout_ms`"),
            (Outcome::Overloaded, "`max_concurrency` is 64"),
            (
                Outcome::RequestTooLarge,
                "33554432 bytes of `max_request_bytes`",
            ),
            (Outcome::RequestTimeout, "the client sent nothing more"),
            (Outcome::ResponseTooLarge, "7 bytes of `max_response_bytes`"),
        ] {
            let said = limit_words(outcome, Some(&shared), &limits).unwrap();
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(limit_words(Outcome::Trap, Some(&shared), &limits), None);
    }
}
