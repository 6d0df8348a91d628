//! When keys end on a server, which ends single messages after whole seconds.
//!
//! A time is one since 1970, by the clock of the server. Not here: what time it is there (`clock`).

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_TTL;
use realm_model::cloud::{CloudError, increased};

/// When a number ends that was set for a time and added to since: milliseconds since 1970, by the clock of
/// the server. Each message has a time of its own, in whole seconds: without this they would add up.
pub(super) const ENDS: &str = "Realm-Ends";

/// When a message of that time ends: with its own time to live, and what it carries of one before.
pub(super) fn of(headers: &HeaderMap, written: Duration) -> Option<Duration> {
    let ttl = headers.get(NATS_MESSAGE_TTL)?.as_str();
    let ttl = ttl.trim_end_matches('s').parse::<u64>().ok()?;
    let end = written.saturating_add(Duration::from_secs(ttl));
    let carried = headers
        .get(ENDS)
        .and_then(|text| text.as_str().parse().ok());
    Some(carried.map_or(end, |ms| end.min(Duration::from_millis(ms))))
}

/// A number after something was added to it, with the time that it has left.
pub(super) fn added(
    value: Option<&[u8]>,
    ends: Option<Duration>,
    delta: i64,
    now: Duration,
) -> Result<(i64, Option<Duration>), CloudError> {
    let left = ends.map(|ends| ends.saturating_sub(now));
    if left == Some(Duration::ZERO) {
        // The server keeps it for what its seconds were rounded up by.
        return Ok((increased(None, delta)?, None));
    }
    Ok((increased(value, delta)?, left))
}

/// Whole ones, and none too few.
pub(super) fn seconds(ttl: Duration) -> u64 {
    ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderValue;
    use bytes::Bytes;

    use super::*;

    /// A server that keeps one message, with the headers that it was given.
    struct Kept {
        headers: HeaderMap,
        written: Duration,
        value: Bytes,
    }

    impl Kept {
        fn new(value: &str, ttl: Option<Duration>, ends: Option<Duration>, now: Duration) -> Self {
            let mut headers = HeaderMap::new();
            if let Some(ttl) = ttl {
                let ttl = HeaderValue::from(seconds(ttl));
                headers.insert(NATS_MESSAGE_TTL, ttl);
            }
            if let Some(ends) = ends {
                headers.insert(ENDS, ends.as_millis().to_string());
            }
            Self {
                headers,
                written: now,
                value: Bytes::copy_from_slice(value.as_bytes()),
            }
        }

        fn ends(&self) -> Option<Duration> {
            of(&self.headers, self.written)
        }
    }

    /// As a limit of calls per minute does it: a number for 60 s, added to all the time.
    #[test]
    fn a_number_that_is_added_to_ends_when_it_should() {
        let began = Duration::from_secs(1_700_000_000);
        for step_ms in [1_u64, 300, 500, 999, 1_000, 1_001, 7_000] {
            let mut kept = Kept::new("1", Some(Duration::from_secs(60)), None, began);
            let mut now = began;
            let sum = loop {
                now += Duration::from_millis(step_ms);
                let ends = kept.ends();
                let (sum, left) = added(Some(&kept.value), ends, 1, now).unwrap();
                if left.is_none() {
                    break sum;
                }
                kept = Kept::new(&sum.to_string(), left, ends, now);
                assert!(now - began < Duration::from_secs(60), "every {step_ms} ms");
            };
            assert_eq!(sum, 1, "it begins anew");
            assert!(now - began < Duration::from_secs(68), "every {step_ms} ms");
        }
    }

    #[test]
    fn a_message_ends_no_later_than_the_server_says() {
        let written = Duration::from_secs(100);
        let later = Some(Duration::from_secs(1_000));
        let kept = Kept::new("1", Some(Duration::from_secs(5)), later, written);
        assert_eq!(kept.ends(), Some(Duration::from_secs(105)));
        let stays = Kept::new("1", None, later, written);
        assert_eq!(stays.ends(), None);
    }
}
