//! Names of OpenTelemetry as Prometheus spells them, so that none of a guest's is one of realm's own.
//!
//! Source: OpenTelemetry's specification of the compatibility with Prometheus, with [`PREFIX`] before all.

use std::collections::BTreeMap;

use realm_model::cloud::telemetry::{Attributes, Value};
use realm_model::text::{cut, printable};

/// Stands before the name of everything that guests measure; no family of realm's own begins with it.
const PREFIX: &str = "app_";
/// Bytes of a label's value.
const LABEL_BYTES_MAX: usize = 256;
/// Labels of one series.
const LABELS_MAX: usize = 32;
/// Labels that realm gives, or that mean something in the format.
const RESERVED: [&str; 3] = ["component", "le", "quantile"];

/// The name of a family: of the instrument, its unit, and `_total` where it only grows.
pub(crate) fn family(name: &str, unit: &str, grows: bool) -> Option<String> {
    let plain = plain(name);
    if !plain.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let mut family = format!("{PREFIX}{}", plain.trim_matches('_'));
    if grows && let Some(short) = family.strip_suffix("_total") {
        family = short.to_owned();
    }
    if let Some(word) = unit_word(unit)
        && !family.ends_with(&format!("_{word}"))
    {
        family += "_";
        family += word;
    }
    if grows {
        family += "_total";
    }
    Some(family)
}

/// Units as Prometheus writes them out; the others are left out.
fn unit_word(unit: &str) -> Option<&'static str> {
    Some(match unit {
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "min" => "minutes",
        "h" => "hours",
        "d" => "days",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "kBy" => "kilobytes",
        "MBy" => "megabytes",
        "%" => "percent",
        "Cel" => "celsius",
        "m" => "meters",
        "V" => "volts",
        "A" => "amperes",
        "J" => "joules",
        "W" => "watts",
        "g" => "grams",
        _ => return None,
    })
}

/// Letters, digits and `_`.
fn plain(name: &str) -> String {
    let char_of = |char: char| match char {
        'a'..='z' | 'A'..='Z' | '0'..='9' => char,
        _ => '_',
    };
    name.chars().map(char_of).collect()
}

/// Labels as they follow `{component="…"`, sorted by name; `None`: there are too many.
pub(crate) fn labels(attributes: &Attributes) -> Option<String> {
    if attributes.len() > LABELS_MAX {
        return None;
    }
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in attributes {
        let name = label_name(key);
        let value = label_value(value);
        // Names that differ in what a label cannot have: their values together.
        match labels.get_mut(&name) {
            Some(other) => {
                other.push(';');
                other.push_str(&value);
            }
            None => drop(labels.insert(name, value)),
        }
    }
    let mut text = String::new();
    for (name, value) in labels {
        text += &format!(",{name}=\"{value}\"");
    }
    Some(text)
}

fn label_name(key: &str) -> String {
    let plain = plain(cut(key, 128));
    let name = plain.trim_start_matches('_');
    let digit = name.starts_with(|char: char| char.is_ascii_digit());
    if name.is_empty() || digit || RESERVED.contains(&name) {
        return format!("exported_{name}");
    }
    name.to_owned()
}

/// Printable, cut, and with what the format gives a meaning behind a backslash.
fn label_value(value: &Value) -> String {
    let plain = value.plain();
    let shown = printable(cut(&plain, LABEL_BYTES_MAX)).into_owned();
    shown.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, unit: &str, grows: bool, expected: Option<&str>) {
        assert_eq!(family(name, unit, grows).as_deref(), expected, "{name}");
    }

    #[test]
    fn families_are_spelt_as_prometheus_does_and_are_never_realms() {
        check(
            "http.server.duration",
            "s",
            false,
            Some("app_http_server_duration_seconds"),
        );
        check("orders", "1", true, Some("app_orders_total"));
        check("orders_total", "{order}", true, Some("app_orders_total"));
        check("size_bytes", "By", true, Some("app_size_bytes_total"));
        check("realm_version", "", false, Some("app_realm_version"));
        check("app_x", "", false, Some("app_app_x"));
        check(
            "a\nrealm_version 7",
            "",
            false,
            Some("app_a_realm_version_7"),
        );
        check("größe", "", false, Some("app_gr__e"));
        check("", "", false, None);
        check("___", "", false, None);
        check("💥", "", true, None);
    }

    #[test]
    fn labels_cannot_be_forged() {
        let text = |value: &str| Value::Text(value.to_owned());
        let attributes = vec![
            ("component".to_owned(), text("other")),
            ("__name__".to_owned(), text("x")),
            ("a.b".to_owned(), text("1\"} realm_version 7\n")),
            ("a_b".to_owned(), text("2\\")),
            ("9".to_owned(), Value::Int(9)),
        ];
        assert_eq!(
            labels(&attributes).as_deref(),
            Some(
                ",a_b=\"1\\\"} realm_version 7\\\\u{a};2\\\\\",exported_9=\"9\",\
                 exported_component=\"other\",name__=\"x\""
            )
        );
        let many = vec![("a".to_owned(), Value::Empty); LABELS_MAX + 1];
        assert_eq!(labels(&many), None);
        let long = vec![("a".to_owned(), text(&"x".repeat(10_000)))];
        assert!(labels(&long).is_some_and(|labels| labels.len() < 300));
    }
}
