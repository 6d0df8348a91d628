//! How many replicas a route's component has, how they are replaced by another version, and when
//! others stand in for a lost node. Not where they run: that is `place` (control).

use std::fmt;

use serde::Serialize;
use toml::de::DeValue;

use super::REPLICAS_MAX;
use super::value::ValueError;
use crate::codes;
use crate::fields::{Fields, Report, cut};

/// A node that is not reached for this long has its replicas placed elsewhere.
const LOST_AFTER_MS: u64 = 30_000;
/// Less than the time in which nodes notice a death is no time at all; more than a day is never.
const LOST_AFTER_MS_RANGE: (u64, u64) = (1_000, 86_400_000);
/// Longer than most of what fails at once takes to fail.
const MIN_READY_MS: u64 = 2_000;
const MIN_READY_MS_MAX: u64 = 3_600_000;
/// As in Kubernetes.
const PROGRESS_DEADLINE_MS: u64 = 600_000;
const PROGRESS_DEADLINE_MS_RANGE: (u64, u64) = (1_000, 86_400_000);
/// As in Kubernetes. That none is missing meanwhile is the other default: a replica that waits for
/// requests costs little, and a broken build takes nothing down.
const QUARTER: Amount = Amount::Percent(25);

/// The keys of a route that concern its component: written on one route of a list, they hold for all
/// routes of the component there.
const KEYS: [&str; 8] = [
    "replicas",
    "per_node",
    "max_surge",
    "max_unavailable",
    "min_ready",
    "progress_deadline",
    "on_fail",
    "lost_after",
];

/// How the replicas of a component are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Upkeep {
    /// Replicas on these nodes together, or on each of them.
    pub replicas: u32,
    /// Whether `replicas` counts for each node.
    pub per_node: bool,
    /// Replicas beyond `replicas` while a version replaces another.
    pub max_surge: Amount,
    /// Replicas that may be missing while a version replaces another.
    pub max_unavailable: Amount,
    /// Milliseconds that a new replica is healthy before the next ones are replaced.
    pub min_ready_ms: u64,
    /// Milliseconds that a replica is tried without getting healthy until the rollout has failed.
    pub progress_deadline_ms: u64,
    /// What follows then.
    pub on_fail: OnFail,
    /// Milliseconds after which the replicas of a node that is not reached are placed elsewhere.
    pub lost_after_ms: u64,
}

/// A number of replicas, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// So many.
    Number(u32),
    /// So many of a hundred.
    Percent(u32),
}

/// What follows when a rollout failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFail {
    /// It stands still.
    #[default]
    Halt,
    /// What was replaced comes back: the version before, which was signed as well.
    Revert,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            replicas: 1,
            per_node: false,
            max_surge: QUARTER,
            max_unavailable: Amount::Number(0),
            min_ready_ms: MIN_READY_MS,
            progress_deadline_ms: PROGRESS_DEADLINE_MS,
            on_fail: OnFail::Halt,
            lost_after_ms: LOST_AFTER_MS,
        }
    }
}

impl Upkeep {
    /// How many of `replicas` may be there in addition, and how many may be missing, while a version
    /// replaces another: shares of the first round up, of the second down, as in Kubernetes. Never
    /// both 0: nothing could be replaced.
    pub fn budget(&self, replicas: u32) -> Budget {
        let surge = match self.max_surge {
            Amount::Number(number) => u64::from(number),
            Amount::Percent(percent) => share(replicas, percent).div_ceil(100),
        };
        let unavailable = match self.max_unavailable {
            Amount::Number(number) => u64::from(number),
            Amount::Percent(percent) => share(replicas, percent) / 100,
        };
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).min(replicas);
        let (surge, unavailable) = (number(surge), number(unavailable));
        Budget {
            surge: if unavailable == 0 {
                surge.max(1)
            } else {
                surge
            },
            unavailable,
        }
    }

    /// Takes a key over from another route of the same component, and says whether both can hold.
    fn take(&mut self, key: &str, from: &Self) {
        match key {
            "replicas" => self.replicas = from.replicas,
            "per_node" => self.per_node = from.per_node,
            "max_surge" => self.max_surge = from.max_surge,
            "max_unavailable" => self.max_unavailable = from.max_unavailable,
            "min_ready" => self.min_ready_ms = from.min_ready_ms,
            "progress_deadline" => self.progress_deadline_ms = from.progress_deadline_ms,
            "on_fail" => self.on_fail = from.on_fail,
            "lost_after" => self.lost_after_ms = from.lost_after_ms,
            _ => debug_assert!(false, "a key of the list above"),
        }
    }
}

/// What a rollout may do to the number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Replicas in addition.
    pub surge: u32,
    /// Replicas that may be missing.
    pub unavailable: u32,
}

fn share(replicas: u32, percent: u32) -> u64 {
    u64::from(replicas) * u64::from(percent)
}

/// The upkeep as one route writes it, and which keys it writes.
pub(super) struct Written {
    pub(super) upkeep: Upkeep,
    keys: Vec<&'static str>,
}

/// The upkeep of one component in one list of routes, and where each key stands first.
#[derive(Default)]
pub(super) struct Merged {
    pub(super) upkeep: Upkeep,
    written: Vec<&'static str>,
}

impl Merged {
    /// Adds what another route of the component writes: the keys on which they do not agree.
    pub(super) fn add(&mut self, route: &Written) -> Vec<&'static str> {
        let mut disagreeing = Vec::new();
        for key in &route.keys {
            let before = self.upkeep;
            if self.written.contains(key) {
                self.upkeep.take(key, &route.upkeep);
                if self.upkeep != before {
                    disagreeing.push(*key);
                    self.upkeep = before;
                }
                continue;
            }
            self.upkeep.take(key, &route.upkeep);
            self.written.push(key);
        }
        disagreeing
    }
}

/// Reads what a route says of its replicas.
pub(super) fn read(report: &mut Report<'_>, fields: &Fields<'_, '_>) -> Written {
    let default = Upkeep::default();
    let upkeep = Upkeep {
        replicas: fields.number_u32(report, "replicas"),
        per_node: fields.boolean(report, "per_node"),
        max_surge: amount(report, fields, "max_surge").unwrap_or(default.max_surge),
        max_unavailable: amount(report, fields, "max_unavailable")
            .unwrap_or(default.max_unavailable),
        min_ready_ms: time(report, fields, "min_ready", (0, MIN_READY_MS_MAX))
            .unwrap_or(default.min_ready_ms),
        progress_deadline_ms: time(
            report,
            fields,
            "progress_deadline",
            PROGRESS_DEADLINE_MS_RANGE,
        )
        .unwrap_or(default.progress_deadline_ms),
        on_fail: fields
            .choice(report, "on_fail", &[OnFail::Halt, OnFail::Revert])
            .unwrap_or_default(),
        lost_after_ms: time(report, fields, "lost_after", LOST_AFTER_MS_RANGE)
            .unwrap_or(default.lost_after_ms),
    };
    let nothing = |amount| matches!(amount, Amount::Number(0) | Amount::Percent(0));
    if nothing(upkeep.max_surge) && nothing(upkeep.max_unavailable) {
        report.error(
            codes::OUT_OF_RANGE,
            fields.value_span("max_unavailable"),
            "`max_surge` and `max_unavailable` are both 0: nothing could be replaced".to_owned(),
            Some("write 1 for one of them".to_owned()),
        );
    }
    Written {
        upkeep,
        keys: KEYS
            .into_iter()
            .filter(|key| fields.key_span(key).is_some())
            .collect(),
    }
}

fn amount(report: &mut Report<'_>, fields: &Fields<'_, '_>, key: &str) -> Option<Amount> {
    let value = fields.value(report, key)?;
    if matches!(value.get_ref(), DeValue::Integer(_)) {
        let number = fields.integer(report, key)?;
        return u32::try_from(number).ok().map(Amount::Number);
    }
    fields.text(report, key, |text| {
        let percent = text.strip_suffix('%').and_then(|text| text.parse().ok());
        match percent {
            Some(percent @ 0..=100) => Ok(Amount::Percent(percent)),
            Some(_) | None => {
                let message = format!(
                    "`{key}` is `{}`, expected a number from 0 to {REPLICAS_MAX}, or a share like `25%`",
                    cut(text)
                );
                Err(ValueError::new(codes::BAD_VALUE, message))
            }
        }
    })
}

/// A time span in milliseconds.
pub(super) fn time(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    key: &str,
    (min, max): (u64, u64),
) -> Option<u64> {
    fields.text(report, key, |text| {
        let span: Option<jiff::SignedDuration> = text.parse().ok();
        let ms = span.and_then(|span| u64::try_from(span.as_millis()).ok());
        match ms {
            Some(ms) if (min..=max).contains(&ms) => Ok(ms),
            Some(_) => {
                let message = format!(
                    "`{key}` is `{}`, expected from {} to {}",
                    cut(text),
                    seconds(min),
                    seconds(max)
                );
                Err(ValueError::new(codes::OUT_OF_RANGE, message))
            }
            None => {
                let message = format!("`{}` is not a time span like `30s` or `5m`", cut(text));
                Err(ValueError::new(codes::BAD_VALUE, message))
            }
        }
    })
}

fn seconds(ms: u64) -> String {
    format!("{}s", ms / 1_000)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(surge: Amount, unavailable: Amount, replicas: u32, expected: (u32, u32)) {
        let upkeep = Upkeep {
            max_surge: surge,
            max_unavailable: unavailable,
            ..Upkeep::default()
        };
        let budget = upkeep.budget(replicas);
        assert_eq!((budget.surge, budget.unavailable), expected);
    }

    #[test]
    fn surge_rounds_up_unavailable_rounds_down_and_something_can_always_be_replaced() {
        use Amount::{Number, Percent};
        for (replicas, expected) in [
            (1, (1, 0)),
            (3, (1, 0)),
            (4, (1, 1)),
            (5, (2, 1)),
            (10, (3, 2)),
            (1_000, (250, 250)),
        ] {
            check(Percent(25), Percent(25), replicas, expected);
        }
        check(Percent(100), Percent(0), 7, (7, 0));
        check(Number(0), Percent(25), 3, (1, 0));
        check(Number(0), Number(1), 3, (0, 1));
        check(Number(50), Number(50), 3, (3, 3));
    }
}
