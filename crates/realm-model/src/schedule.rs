//! When a job falls due: a cron form and a time zone, read strictly. Pure: the time is an
//! argument, and the zones are the copy in this binary, so that every node finds the same times.
//!
//! A clock change: a fixed time that the change skips falls due at the first moment after it, one
//! that comes twice falls due once, the first time. What repeats within the hour (`*`, `*/5` as the
//! minute or the hour) goes on by the clock on the wall: nothing in a skipped hour, and all of it
//! in both of two hours with one name. Not here: what is done about times that were missed (control).

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Serialize, Serializer};

use crate::text::one_line;

/// The zone of a schedule that names none.
pub const DEFAULT_TIMEZONE: &str = "UTC";
/// A cron form longer than this is no schedule that a person wrote: `0,1,2,…,59` has 170.
const CRON_BYTES_MAX: usize = 256;
/// Characters of a form that a message repeats.
const SHOWN_CHARS_MAX: usize = 80;
/// The longest name of a zone has 32 bytes.
const TIMEZONE_BYTES_MAX: usize = 64;
/// Where the search for a first time begins: 2024 is a leap year, so that the 29th of February is found.
const SEARCH_FROM_MS: u64 = 1_704_067_200_000;
/// A schedule that never falls due within this is a slip: eight years hold a 29th of February.
const SEARCH_MS_MAX: u64 = 9 * 366 * 24 * 60 * 60 * 1_000;

/// A cron form in a time zone.
#[derive(Clone)]
pub struct Schedule {
    cron: String,
    timezone: String,
    times: Cron,
    zone: TimeZone,
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not a cron form.
    #[error("`{cron}` is not a cron form: {reason}")]
    Cron {
        /// As written, cut.
        cron: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a name of the time zone database.
    #[error("`{0}` is not a time zone")]
    Timezone(String),
    /// No time ever matches, as on the 30th of February.
    #[error("`{0}` never falls due")]
    Never(String),
}

impl Schedule {
    /// Reads five fields (minute, hour, day of the month, month, day of the week), six with seconds
    /// before them, or a word like `@daily`; the zone is a name like `Europe/Berlin`.
    ///
    /// # Errors
    /// Anything else, and a form that matches no time: every reason that was found.
    pub fn new(cron: &str, timezone: &str) -> Result<Self, Vec<ScheduleError>> {
        let (times, zone) = match (times(cron), zone(timezone)) {
            (Ok(times), Ok(zone)) => (times, zone),
            (times, zone) => return Err(times.err().into_iter().chain(zone.err()).collect()),
        };
        let schedule = Self {
            cron: cron.to_owned(),
            timezone: timezone.to_owned(),
            times,
            zone,
        };
        match schedule.next_after(SEARCH_FROM_MS) {
            Some(time) if time < SEARCH_FROM_MS + SEARCH_MS_MAX => Ok(schedule),
            Some(_) | None => Err(vec![ScheduleError::Never(one_line(cron, SHOWN_CHARS_MAX))]),
        }
    }

    /// The cron form as written.
    pub fn cron(&self) -> &str {
        &self.cron
    }

    /// The name of the zone as written.
    pub fn timezone(&self) -> &str {
        &self.timezone
    }

    /// The first time after `unix_ms` at which it falls due, in milliseconds since 1970; `None`
    /// beyond the calendar.
    pub fn next_after(&self, unix_ms: u64) -> Option<u64> {
        let after = self.at(unix_ms)?;
        let next = self.times.find_next_occurrence(&after, false).ok()?;
        // Whole seconds: what is found is later, whatever the fraction of the second asked about.
        let next = u64::try_from(next.timestamp().as_second()).ok()? * 1_000;
        (next > unix_ms).then_some(next)
    }

    /// A time as a person in the zone reads it: `2026-11-22 03:00:00 Europe/Berlin`.
    pub fn local(&self, unix_ms: u64) -> String {
        self.at(unix_ms).map_or_else(
            || "beyond the calendar".to_owned(),
            |time| format!("{} {}", time.strftime("%F %T"), self.timezone),
        )
    }

    fn at(&self, unix_ms: u64) -> Option<jiff::Zoned> {
        let time = Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
        Some(time.to_zoned(self.zone.clone()))
    }
}

/// The fields of a cron form: what each is, and what it may hold.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of the week", "0 to 7, or SUN to SAT"),
];

fn times(cron: &str) -> Result<Cron, ScheduleError> {
    let refused = |reason: String| ScheduleError::Cron {
        cron: one_line(cron, SHOWN_CHARS_MAX),
        reason,
    };
    if cron.len() > CRON_BYTES_MAX || !cron.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(refused(format!(
            "it has other characters than those of ASCII, or more than {CRON_BYTES_MAX} of them"
        )));
    }
    parse(cron).ok_or_else(|| refused(fault(cron)))
}

fn parse(cron: &str) -> Option<Cron> {
    let parser = CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build();
    parser.parse(cron).ok()
}

/// What is wrong with a cron form that does not parse, in words of its writer: the parser's own
/// speak of its insides. Each field is tried alone.
fn fault(cron: &str) -> String {
    if cron.contains('@') {
        return "the words are @yearly, @annually, @monthly, @weekly, @daily and @hourly"
            .to_owned();
    }
    let fields: Vec<&str> = cron.split_whitespace().collect();
    let kinds = match fields.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        count => return format!("it has {count} fields, expected 5, or 6 that begin with seconds"),
    };
    for (at, (field, (kind, range))) in fields.iter().zip(kinds).enumerate() {
        let mut alone = vec!["*"; fields.len()];
        alone[at] = field;
        if parse(&alone.join(" ")).is_none() {
            let field = one_line(field, SHOWN_CHARS_MAX);
            return format!("`{field}` is no {kind}, which is {range}, a list, a range or a step");
        }
    }
    "its fields do not go together".to_owned()
}

fn zone(name: &str) -> Result<TimeZone, ScheduleError> {
    let refused = || ScheduleError::Timezone(one_line(name, TIMEZONE_BYTES_MAX));
    if name.len() > TIMEZONE_BYTES_MAX {
        return Err(refused());
    }
    // Never the system's own files: two nodes with other versions of them would not agree.
    TimeZoneDatabase::bundled().get(name).map_err(|_| refused())
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        (&self.cron, &self.timezone) == (&other.cron, &other.timezone)
    }
}

impl Eq for Schedule {}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

/// `0 3 * * * Europe/Berlin`.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.cron, self.timezone)
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unix_ms(time: &str) -> u64 {
        let time: Timestamp = time.parse().expect("a time");
        u64::try_from(time.as_millisecond()).expect("after 1970")
    }

    /// The next times after a moment, in UTC.
    #[track_caller]
    fn check(cron: &str, timezone: &str, after: &str, expected: &[&str]) {
        let schedule = Schedule::new(cron, timezone).expect("a schedule");
        let mut time = unix_ms(after);
        for expected in expected {
            time = schedule.next_after(time).expect("a time");
            assert_eq!(
                time,
                unix_ms(expected),
                "{schedule}: {}",
                schedule.local(time)
            );
        }
    }

    #[test]
    fn the_next_time_is_found() {
        let day = "2026-11-20T12:00:00.500Z";
        check(
            "30 3 * * *",
            "UTC",
            day,
            &["2026-11-21T03:30:00Z", "2026-11-22T03:30:00Z"],
        );
        check(
            "*/20 * * * *",
            "UTC",
            day,
            &["2026-11-20T12:20:00Z", "2026-11-20T12:40:00Z"],
        );
        check(
            "*/20 * * * * *",
            "UTC",
            day,
            &["2026-11-20T12:00:20Z", "2026-11-20T12:00:40Z"],
        );
        check("0 9 * * MON-FRI", "UTC", day, &["2026-11-23T09:00:00Z"]);
        check("@daily", "UTC", day, &["2026-11-21T00:00:00Z"]);
        check("0 0 29 2 *", "UTC", day, &["2028-02-29T00:00:00Z"]);
        check(
            "0 3 * * *",
            "America/New_York",
            day,
            &["2026-11-21T08:00:00Z"],
        );
        // The very moment is over.
        check(
            "0 12 * * *",
            "UTC",
            "2026-11-20T12:00:00Z",
            &["2026-11-21T12:00:00Z"],
        );
        check(
            "0 12 * * *",
            "UTC",
            "2026-11-20T11:59:59.999Z",
            &["2026-11-20T12:00:00Z"],
        );
    }

    /// Berlin, 29 March 2026: 02:00 becomes 03:00 at 01:00 UTC.
    #[test]
    fn a_fixed_time_that_a_clock_change_skips_falls_due_right_after_it() {
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        );
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            &[
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:30:00Z",
            ],
        );
    }

    /// Berlin, 25 October 2026: 03:00 becomes 02:00 at 01:00 UTC.
    #[test]
    fn a_fixed_time_that_comes_twice_falls_due_once() {
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        );
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:00:00Z",
            &[
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z",
            ],
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for (cron, timezone, expected) in [
            ("", "UTC", "is not a cron form"),
            ("* * * *", "UTC", "is not a cron form"),
            ("* * * * * * *", "UTC", "is not a cron form"),
            ("60 * * * *", "UTC", "is not a cron form"),
            ("0 3 * * *\n", "UTC", "is not a cron form"),
            ("ä", "UTC", "is not a cron form"),
            ("0 0 30 2 *", "UTC", "never falls due"),
            ("0 3 * * *", "Berlin", "is not a time zone"),
            ("0 3 * * *", "", "is not a time zone"),
            ("0 3 * * *", "../../etc/passwd", "is not a time zone"),
        ] {
            let errors = Schedule::new(cron, timezone).expect_err(cron);
            let [error] = errors.as_slice() else {
                panic!("{cron:?} {timezone:?}: {errors:?}");
            };
            assert!(error.to_string().contains(expected), "{cron:?}: {error}");
        }
        let both = Schedule::new("60 * * * *", "Berlin").expect_err("both are wrong");
        assert_eq!(both.len(), 2, "{both:?}");
        let long = "0".repeat(CRON_BYTES_MAX + 1);
        assert!(Schedule::new(&long, "UTC").is_err());
    }

    #[test]
    fn a_fault_is_told_in_words_of_its_writer() {
        for (cron, expected) in [
            ("60 * * * *", "`60` is no minute, which is 0 to 59"),
            ("* 24 * * *", "`24` is no hour, which is 0 to 23"),
            ("* * 32 * *", "`32` is no day of the month"),
            ("* * * 13 *", "`13` is no month"),
            ("* * * * MOO", "`MOO` is no day of the week"),
            ("61 * * * * *", "`61` is no second"),
            ("0 3 * *", "it has 4 fields, expected 5, or 6"),
            ("", "it has 0 fields"),
            ("@dayly", "the words are @yearly"),
        ] {
            let errors = Schedule::new(cron, "UTC").expect_err(cron);
            let text = errors[0].to_string();
            assert!(text.contains(expected), "{cron:?}: {text}");
            assert!(!text.contains("omponent"), "{cron:?}: {text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(cron in "[0-9A-Za-z*/,#?L@ +-]{0,20}", timezone in "[A-Za-z/_]{0,20}") {
            let _ = Schedule::new(&cron, &timezone);
            let _ = Schedule::new(&cron, "UTC");
        }

        /// Time goes forward through every change of every zone.
        #[test]
        fn the_next_time_is_later_and_the_same_however_it_is_asked(
            cron in prop::sample::select(vec![
                "*/7 * * * *", "30 2 * * *", "0 0 * * *", "59 23 31 12 *", "0 */5 * * SUN", "15 1-3 * * *",
            ]),
            timezone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca",
            ]),
            after in SEARCH_FROM_MS..SEARCH_FROM_MS * 12 / 10,
            part in 0..1_000u64,
        ) {
            let schedule = Schedule::new(cron, timezone).expect("a schedule");
            let next = schedule.next_after(after).expect("a time");
            prop_assert!(next > after);
            // Asked from anywhere in between, it is the same.
            let between = after + (next - after - 1) * part / 1_000;
            prop_assert_eq!(schedule.next_after(between), Some(next));
        }
    }
}
