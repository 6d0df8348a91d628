//! What time it is at a server: it ends what it keeps by its own clock, whatever that of a node says.
//!
//! Not here: who asks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time of a server's answer, since 1970. Its last field is `ts`, in RFC 3339 and UTC; a quote within
/// a text has a `\` before it, so that none looks like this one.
pub(super) fn time_of(answer: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(answer).ok()?;
    let (_, rest) = text.rsplit_once("\"ts\":\"")?;
    let (text, _) = rest.split_once('"')?;
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    let mut time = time.splitn(3, ':');
    let (hour, minute, second) = (time.next()?, time.next()?, time.next()?);
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    let days = days(
        number(year, 1970, 9999)?,
        number(month, 1, 12)?,
        number(day, 1, 31)?,
    );
    let seconds = ((days * 24 + number(hour, 0, 23)?) * 60 + number(minute, 0, 59)?) * 60;
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(Duration::new(seconds + number(second, 0, 60)?, nanos))
}

/// By this machine's clock.
pub(super) fn here() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

fn number(text: &str, min: u64, max: u64) -> Option<u64> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_digits.then(|| text.parse().ok())??;
    (min..=max).contains(&number).then_some(number)
}

/// Days since 1970, of the Gregorian calendar. Years begin with March here, so that a leap day is the last.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    // From the first of March of the year 0; 719,468 days before 1970.
    (year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_time_of_an_answer_is_read() {
        for (text, expect) in [
            ("1970-01-01T00:00:00Z", Some((0, 0))),
            ("2000-02-29T12:34:56.5Z", Some((951_827_696, 500_000_000))),
            (
                "2024-12-31T23:59:59.123456789Z",
                Some((1_735_689_599, 123_456_789)),
            ),
            (
                "2100-03-01T00:00:00.1234567891Z",
                Some((4_107_542_400, 123_456_789)),
            ),
            ("1969-12-31T23:59:59Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-12-01T00:00:00+01:00", None),
            ("2024-12-01T00:00:00.xZ", None),
            ("2024-12-01", None),
            ("", None),
        ] {
            let answer = format!(r#"{{"type":"x","text":"a\"ts\":\"b","ts":"{text}"}}"#);
            let expect = expect.map(|(seconds, nanos)| Duration::new(seconds, nanos));
            assert_eq!(time_of(answer.as_bytes()), expect, "{text}");
        }
        assert_eq!(time_of(b"{}"), None, "before 2.10 it is not said");
    }

    proptest! {
        #[test]
        fn bytes_of_a_server_are_read_or_refused(text in "[-0-9TZ:.é]{0,40}") {
            let _ = time_of(format!(r#""ts":"{text}""#).as_bytes());
            let _ = time_of(text.as_bytes());
        }
    }
}
