//! Points in time as people write them: `10m`, `2h30m`, or a timestamp.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;

/// Milliseconds since 1970 of `text`: a time span before now, or an RFC 3339 timestamp.
pub(crate) fn parse_since(text: &str) -> Result<u64, String> {
    if let Ok(span) = text.parse::<jiff::SignedDuration>() {
        return Ok(now_unix_ms().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(0)));
    }
    let timestamp: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("`{text}` is neither a time span (`10m`, `2h30m`) nor a timestamp (`2026-01-31T12:00:00Z`)"))?;
    Ok(u64::try_from(timestamp.as_millisecond()).unwrap_or(0))
}

/// A time span such as `90s` or `2m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|_| format!("`{text}` is not a time span such as `90s` or `2m`"))?;
    Duration::try_from(span).map_err(|_| format!("`{text}` is negative"))
}

/// A time span that may be long: also `90d` and `12w`, by days of 24 hours.
pub(crate) fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let days = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(days), _) => days.parse::<u32>().ok(),
        (None, Some(weeks)) => weeks
            .parse::<u32>()
            .ok()
            .and_then(|weeks| weeks.checked_mul(7)),
        (None, None) => None,
    };
    match days {
        Some(days) => Ok(Duration::from_secs(u64::from(days) * SECONDS_PER_DAY)),
        None => {
            parse_duration(text).map_err(|error| format!("{error}, nor one such as `90d` or `12w`"))
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-01-31T12:00:00.123Z`.
pub(crate) fn timestamp(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| unix_ms.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_and_timestamps_are_understood() {
        let now = now_unix_ms();
        let ten_minutes_ago = parse_since("10m").unwrap();
        assert!(now.abs_diff(ten_minutes_ago + 600_000) < 5_000);
        assert_eq!(parse_since("1970-01-01T00:00:01Z"), Ok(1_000));
        assert!(parse_since("yesterday").is_err());
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("-1s").is_err());
        assert_eq!(parse_lifetime("90d"), Ok(Duration::from_secs(7_776_000)));
        assert_eq!(parse_lifetime("2w"), Ok(Duration::from_secs(1_209_600)));
        assert_eq!(parse_lifetime("36h"), Ok(Duration::from_secs(129_600)));
        assert!(parse_lifetime("-1d").is_err());
        assert!(parse_lifetime("9999999999w").is_err());
        assert_eq!(timestamp(1_000), "1970-01-01T00:00:01.000Z");
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_an_error(
            text in "-?[0-9]{0,20}(\\.[0-9]{0,12})?( ?(ns|us|ms|s|m|h|d|w|y|mo)){0,2}|\\PC{0,40}"
        ) {
            let _ = parse_since(&text);
            if let Ok(duration) = parse_duration(&text) {
                prop_assert!(duration == Duration::ZERO || !text.starts_with('-'), "{}", text);
            }
        }

        #[test]
        fn a_timestamp_reads_back_as_written(unix_ms in 0u64..4_000_000_000_000) {
            prop_assert_eq!(parse_since(&timestamp(unix_ms)), Ok(unix_ms));
        }

        #[test]
        fn a_number_of_seconds_is_that_long(seconds in 0u32..) {
            let text = format!("{seconds}s");
            prop_assert_eq!(parse_duration(&text), Ok(Duration::from_secs(seconds.into())));
            let since = parse_since(&text).unwrap();
            let expected = now_unix_ms().saturating_sub(u64::from(seconds) * 1_000);
            prop_assert!(since.abs_diff(expected) < 5_000);
        }
    }
}
