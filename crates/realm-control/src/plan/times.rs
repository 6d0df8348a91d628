//! Which times of a schedule are run, skipped or missed.
//!
//! The rule: a time that falls due while a run is under way is skipped. Of times that fell due
//! while nobody looked (the agent was down, the bytes were not there yet, the machine slept), the
//! last one is run if it is at most a minute old; nothing is made up for beyond that, so that no
//! burst follows an outage. A schedule that is seen for the first time, or after the clock went back
//! by more than an hour, begins at that moment.

use realm_model::observed::Handled;
use realm_model::schedule::Schedule;

/// A time this old is still run: longer than a restart of the agent takes, shorter than an outage
/// that a person has to hear of.
pub(super) const MAKE_UP_MS: u64 = 60_000;
/// A clock that went back by no more than this repeats nothing: it was set right. Beyond that it
/// was set wrong before, and times written down then mean nothing.
const CLOCK_BACK_MS: u64 = 3_600_000;
/// Missed times that are counted one by one: after a long outage of a job of each second, "at least
/// so many" is all that anybody wants to know.
const COUNTED_MAX: u64 = 1_000;

/// What is to be written down of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handling {
    pub(super) handled: Handled,
    pub(super) overlapped: u64,
    pub(super) missed: u64,
}

/// What a schedule asks for at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) handle: Option<Handling>,
    pub(super) run: bool,
    /// The first time after now.
    pub(super) next: Option<u64>,
}

/// Decides at `now` (milliseconds since 1970), with what is dealt with so far. `busy`: a run is under
/// way; `ready`: a run could start.
pub(super) fn times(
    schedule: &Schedule,
    handled: Option<&Handled>,
    now: u64,
    busy: bool,
    ready: bool,
) -> Times {
    let text = schedule.to_string();
    let mut times = Times {
        next: schedule.next_after(now),
        ..Times::default()
    };
    let mut handle = |until, overlapped, missed| {
        times.handle = Some(Handling {
            handled: Handled {
                schedule: text.clone(),
                until_unix_ms: until,
            },
            overlapped,
            missed,
        });
    };
    let known = handled.filter(|handled| {
        handled.schedule == text && handled.until_unix_ms <= now.saturating_add(CLOCK_BACK_MS)
    });
    let Some(known) = known else {
        handle(now, 0, 0);
        return times;
    };
    let Some(due) = due(schedule, known.until_unix_ms, now) else {
        return times;
    };
    if busy {
        handle(due.last, due.count, 0);
    } else if now - due.last > MAKE_UP_MS {
        handle(due.last, 0, due.count);
    } else if ready {
        handle(due.last, 0, due.count - 1);
        times.run = true;
    }
    times
}

/// Times that fell due.
struct Due {
    last: u64,
    count: u64,
}

fn due(schedule: &Schedule, after: u64, now: u64) -> Option<Due> {
    let next = |time| schedule.next_after(time).filter(|next| *next <= now);
    let mut due = Due {
        last: next(after)?,
        count: 1,
    };
    while let Some(time) = next(due.last) {
        due.last = time;
        due.count += 1;
        // The rest is told as one: the search goes on where a time may still be run.
        if due.count == COUNTED_MAX {
            due.last = due.last.max(now.saturating_sub(MAKE_UP_MS + 1));
        }
    }
    Some(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    /// 2026-11-20 12:00 UTC.
    const NOON: u64 = 1_795_176_000_000;

    /// Every five minutes; dealt with up to `until` minutes after noon, asked `now` ms after it.
    fn asked(until: u64, now: u64, busy: bool, ready: bool) -> (Option<(u64, u64, u64)>, bool) {
        let schedule = Schedule::new("*/5 * * * *", "UTC").expect("a schedule");
        let handled = Handled {
            schedule: schedule.to_string(),
            until_unix_ms: NOON + until * MINUTE,
        };
        let times = times(&schedule, Some(&handled), NOON + now, busy, ready);
        let handle = times.handle.map(|handling| {
            let until = (handling.handled.until_unix_ms - NOON) / MINUTE;
            (until, handling.overlapped, handling.missed)
        });
        (handle, times.run)
    }

    #[test]
    fn a_time_is_run_once_when_it_falls_due() {
        assert_eq!(asked(0, 5 * MINUTE - 1, false, true), (None, false));
        assert_eq!(asked(0, 5 * MINUTE, false, true), (Some((5, 0, 0)), true));
        assert_eq!(asked(5, 5 * MINUTE, false, true), (None, false));
    }

    #[test]
    fn a_time_during_a_run_is_skipped() {
        assert_eq!(asked(0, 5 * MINUTE, true, true), (Some((5, 1, 0)), false));
        assert_eq!(asked(0, 16 * MINUTE, true, true), (Some((15, 3, 0)), false));
    }

    #[test]
    fn of_missed_times_the_last_is_run_if_it_is_fresh() {
        let fresh = 15 * MINUTE + MAKE_UP_MS;
        assert_eq!(asked(0, fresh, false, true), (Some((15, 0, 2)), true));
        assert_eq!(asked(0, fresh + 1, false, true), (Some((15, 0, 3)), false));
    }

    #[test]
    fn what_cannot_start_yet_is_not_given_up_at_once() {
        assert_eq!(asked(0, 5 * MINUTE + 1, false, false), (None, false));
        let late = 5 * MINUTE + MAKE_UP_MS + 1;
        assert_eq!(asked(0, late, false, false), (Some((5, 0, 1)), false));
    }

    #[test]
    fn a_long_outage_is_counted_in_bounded_time() {
        let schedule = Schedule::new("* * * * * *", "UTC").expect("a schedule");
        let handled = Handled {
            schedule: schedule.to_string(),
            until_unix_ms: 0,
        };
        let times = times(&schedule, Some(&handled), NOON + 500, false, true);
        let handling = times.handle.expect("a handling");
        assert_eq!(handling.handled.until_unix_ms, NOON);
        assert!(times.run && (COUNTED_MAX..COUNTED_MAX + 100).contains(&handling.missed));
        // Where the last minute has none, none is run.
        assert_eq!(asked_after_years(), (Some(COUNTED_MAX), false));
    }

    fn asked_after_years() -> (Option<u64>, bool) {
        let schedule = Schedule::new("*/5 * * * *", "UTC").expect("a schedule");
        let handled = Handled {
            schedule: schedule.to_string(),
            until_unix_ms: 0,
        };
        let times = times(&schedule, Some(&handled), NOON + 2 * MINUTE, false, true);
        (times.handle.map(|handling| handling.missed), times.run)
    }

    #[test]
    fn another_schedule_and_another_century_begin_anew() {
        let schedule = Schedule::new("*/5 * * * *", "UTC").expect("a schedule");
        let begins = |handled: Option<&Handled>| {
            let times = times(&schedule, handled, NOON, false, true);
            times.handle.map(|handling| handling.handled.until_unix_ms)
        };
        let handled = |schedule: &str, until_unix_ms| Handled {
            schedule: schedule.to_owned(),
            until_unix_ms,
        };
        let text = schedule.to_string();
        assert_eq!(begins(None), Some(NOON));
        assert_eq!(begins(Some(&handled("@daily UTC", 0))), Some(NOON));
        // Set back by an hour: nothing is repeated. By more: the time before meant nothing.
        assert_eq!(begins(Some(&handled(&text, NOON + CLOCK_BACK_MS))), None);
        assert_eq!(
            begins(Some(&handled(&text, NOON + CLOCK_BACK_MS + 1))),
            Some(NOON)
        );
    }
}
