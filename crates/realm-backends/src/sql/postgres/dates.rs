//! PostgreSQL's days and microseconds as people write them.

use std::fmt::Write as _;

/// Days from 1970 to 2000, from where PostgreSQL counts.
const EPOCH_DAYS: i64 = 10_957;
const DAY_MICROS: i64 = 86_400_000_000;

/// A day after 2000-01-01.
pub(super) fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        _ => {
            let (text, before_christ) = civil(i64::from(days));
            text + before_christ
        }
    }
}

/// Microseconds of a day.
pub(super) fn time(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    let mut text = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    );
    let fraction = micros % 1_000_000;
    if fraction != 0 {
        _ = write!(text, ".{fraction:06}");
        text.truncate(text.trim_end_matches('0').len());
    }
    text
}

/// Microseconds after 2000-01-01T00:00:00; `zone` stands behind them.
pub(super) fn timestamp(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        _ => {
            let (date, before_christ) = civil(micros.div_euclid(DAY_MICROS));
            let time = time(micros.rem_euclid(DAY_MICROS));
            format!("{date}T{time}{zone}{before_christ}")
        }
    }
}

/// Year, month and day, by the calendar of today, and ` BC` for years before the first.
fn civil(days: i64) -> (String, &'static str) {
    // Years that begin in March, so that a leap day is the last of its year; in spans of 400 years, after
    // which the calendar repeats.
    let days = days + EPOCH_DAYS + 719_468;
    let (span, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = span * 400 + year + i64::from(month <= 2);
    let (year, before_christ) = if year > 0 {
        (year, "")
    } else {
        (1 - year, " BC")
    };
    (
        format!("{year:04}-{month:02}-{day_of_month:02}"),
        before_christ,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_written_as_the_server_writes_them() {
        for (days, text) in [
            (0, "2000-01-01"),
            (-1, "1999-12-31"),
            (59, "2000-02-29"),
            (60, "2000-03-01"),
            (9_822, "2026-11-22"),
            (-10_957, "1970-01-01"),
            (36_583, "2100-02-28"),
            (36_584, "2100-03-01"),
            (-730_119, "0001-01-01"),
            (-730_120, "0001-12-31 BC"),
            (2_921_939, "9999-12-31"),
            (2_921_940, "10000-01-01"),
            (i32::MAX, "infinity"),
            (i32::MIN, "-infinity"),
        ] {
            assert_eq!(date(days), text, "{days}");
        }
    }

    #[test]
    fn moments_are_written_with_the_digits_they_have() {
        for (micros, text) in [
            (0, "2000-01-01T00:00:00Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (1_500_000, "2000-01-01T00:00:01.5Z"),
            (DAY_MICROS - 1_000, "2000-01-01T23:59:59.999Z"),
            (i64::MAX, "infinity"),
        ] {
            assert_eq!(timestamp(micros, "Z"), text, "{micros}");
        }
        assert_eq!(time(DAY_MICROS), "24:00:00");
        assert_eq!(time(10), "00:00:00.00001");
    }
}
