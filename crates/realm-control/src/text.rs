//! Numbers as a person reads them, for the sentences of reports.

/// `850 ms`, `3.2 s`, `12 s`, `2 min 5 s`, `3 h 20 min`.
pub(crate) fn duration(ms: u64) -> String {
    let s = ms / 1_000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{s}.{} s", ms % 1_000 / 100),
        10_000..60_000 => format!("{s} s"),
        60_000..3_600_000 => format!("{} min {} s", s / 60, s % 60),
        3_600_000.. => format!("{} h {} min", s / 3_600, s / 60 % 60),
    }
}

/// `1 replica`, `2 replicas`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// `once`, `4 times`.
pub(crate) fn times(number: u32) -> String {
    match number {
        0 | 1 => "once".to_owned(),
        number => format!("{number} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_precision_a_person_wants() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1.0 s"),
            (3_250, "3.2 s"),
            (10_000, "10 s"),
            (59_999, "59 s"),
            (125_000, "2 min 5 s"),
            (12_000_000, "3 h 20 min"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
