//! What guests measured, in Prometheus' text format 0.0.4.
//!
//! Components may use one name for instruments of different kinds. Then no kind is written, and each line
//! stands for itself: nobody's figures go because another one took their name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use realm_model::cloud::telemetry::Signal;

use super::series::{Family, Figure, Kind, Total};
use super::{Fate, Guest};

const ITEMS: &str = "telemetry_items_total";

/// What tells one family from another: components may use one name for instruments of different kinds.
type Key = (String, Kind);

/// The page. A component may change its figures while this is written: what is new then is there the next
/// time.
pub(crate) fn page(guests: &[Arc<Guest>]) -> String {
    let mut text = items(guests);
    let mut helps: BTreeMap<Key, String> = BTreeMap::new();
    for guest in guests {
        for (name, family) in guest.series().families() {
            let help = helps.entry((name.clone(), family.kind)).or_default();
            if help.is_empty() {
                *help = escaped(&family.help);
            }
        }
    }
    // By the name of a line: the families that have such lines.
    let mut claims: BTreeMap<String, BTreeSet<Key>> = BTreeMap::new();
    for key in helps.keys() {
        let names = key.1.suffixes().iter().chain(std::iter::once(&""));
        for suffix in names {
            let claim = claims.entry(format!("{}{suffix}", key.0)).or_default();
            claim.insert(key.clone());
        }
    }
    let alone = |(name, kind): &Key| {
        let mut names = kind.suffixes().iter().chain(std::iter::once(&""));
        names.all(|suffix| {
            let claim = claims.get(&format!("{name}{suffix}"));
            claim.is_none_or(|claim| claim.len() == 1)
        })
    };
    // Lines by the name that they begin with.
    let mut rest: BTreeMap<String, String> = BTreeMap::new();
    for (key, help) in &helps {
        let (name, kind) = key;
        let is_alone = alone(key);
        if is_alone {
            if !help.is_empty() {
                let _ = writeln!(text, "# HELP {name} {help}");
            }
            let _ = writeln!(text, "# TYPE {name} {}", kind.as_str());
        }
        for guest in guests {
            let series = guest.series();
            let family = series.families().get(name);
            let Some(family) = family.filter(|family| family.kind == *kind) else {
                continue;
            };
            lines(&guest.component, name, family, |name, line| {
                if is_alone {
                    text += &line;
                } else {
                    *rest.entry(name).or_default() += &line;
                }
            });
        }
    }
    for lines in rest.values() {
        text += lines;
    }
    text
}

/// Writing to a String does not fail: results of `write!` here say nothing.
fn lines(component: &str, name: &str, family: &Family, mut say: impl FnMut(String, String)) {
    for (labels, figure) in &family.series {
        let all = format!("component=\"{component}\"{labels}");
        let Figure { total, .. } = figure;
        match family.kind {
            Kind::Gauge | Kind::Counter => {
                say(
                    name.to_owned(),
                    format!("{name}{{{all}}} {}\n", float(total.sum)),
                );
            }
            Kind::Histogram => {
                let text = buckets(name, &all, total);
                say(format!("{name}_bucket"), text);
                summary(name, &all, total, &mut say);
            }
            Kind::Summary => summary(name, &all, total, &mut say),
        }
    }
}

fn buckets(name: &str, labels: &str, total: &Total) -> String {
    let mut text = String::new();
    let mut sum = 0_u64;
    let bounds = total.bounds.iter().copied().chain([f64::INFINITY]);
    for (bound, count) in bounds.zip(&total.counts) {
        sum = sum.saturating_add(*count);
        let _ = writeln!(
            text,
            "{name}_bucket{{{labels},le=\"{}\"}} {sum}",
            float(bound)
        );
    }
    text
}

fn summary(name: &str, labels: &str, total: &Total, say: &mut impl FnMut(String, String)) {
    let sum = format!("{name}_sum{{{labels}}} {}\n", float(total.sum));
    say(format!("{name}_sum"), sum);
    let count = format!("{name}_count{{{labels}}} {}\n", total.count);
    say(format!("{name}_count"), count);
}

/// What became of everything that guests said.
fn items(guests: &[Arc<Guest>]) -> String {
    if guests.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "# HELP {ITEMS} Spans, exports of metrics and records of logs that guests gave, by what became of them.\n\
         # TYPE {ITEMS} counter\n"
    );
    for guest in guests {
        for signal in Signal::ALL {
            for fate in Fate::ALL {
                let _ = writeln!(
                    text,
                    "{ITEMS}{{component=\"{}\",signal=\"{}\",result=\"{}\"}} {}",
                    guest.component,
                    signal.as_str(),
                    fate.as_str(),
                    guest.counted(signal, fate)
                );
            }
        }
    }
    text
}

fn escaped(help: &str) -> String {
    help.replace('\\', "\\\\").replace('\n', "\\n")
}

/// As Prometheus reads it.
fn float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else if value != 0.0 && !(1e-6..1e17).contains(&value.abs()) {
        // Written out it has hundreds of digits.
        format!("{value:e}")
    } else {
        value.to_string()
    }
}
