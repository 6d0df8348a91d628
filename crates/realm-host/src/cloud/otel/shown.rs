//! Spans and records as lines of a component's log.

use std::fmt::Write as _;

use realm_model::cloud::telemetry::{Attributes, LogRecord, Span, Status, hex};
use realm_model::text::{one_line, printable};
use serde_json::{Map, Value, json};

use crate::logs::LINE_BYTES_MAX;

/// A span as a line of JSON behind the word `span`.
pub(super) fn span(span: &Span) -> String {
    let whole = json_of(span, true);
    let text = format!("span {whole}");
    if text.len() <= LINE_BYTES_MAX {
        return printable(&text).into_owned();
    }
    // What is too long for a line is told without its parts: it stays JSON.
    printable(&format!("span {}", json_of(span, false))).into_owned()
}

fn json_of(span: &Span, whole: bool) -> Value {
    let mut object = Map::new();
    let mut add = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
    add("name", json!(one_line(&span.name, 256)));
    add("kind", json!(span.kind.as_str()));
    add("trace", json!(hex(&span.context.trace)));
    add("span", json!(hex(&span.context.span)));
    if let Some(parent) = &span.parent {
        add("parent", json!(hex(parent)));
    }
    add("start_unix_ns", json!(span.start_unix_ns));
    let took = span.end_unix_ns.saturating_sub(span.start_unix_ns);
    add("took_us", json!(took / 1_000));
    match &span.status {
        Status::Unset => {}
        Status::Ok => add("status", json!("ok")),
        Status::Error(words) => {
            add("status", json!("error"));
            add("error", json!(one_line(words, 256)));
        }
    }
    if !whole {
        add("cut", json!(true));
        return Value::Object(object);
    }
    if !span.attributes.is_empty() {
        add("attributes", attributes(&span.attributes));
    }
    if !span.events.is_empty() {
        let event = |event: &realm_model::cloud::telemetry::SpanEvent| {
            let after = event.unix_ns.saturating_sub(span.start_unix_ns);
            json!({
                "name": event.name,
                "after_us": after / 1_000,
                "attributes": attributes(&event.attributes),
            })
        };
        add("events", span.events.iter().map(event).collect());
    }
    if !span.links.is_empty() {
        let link = |link: &realm_model::cloud::telemetry::Link| {
            json!({
                "trace": hex(&link.context.trace),
                "span": hex(&link.context.span),
                "attributes": attributes(&link.attributes),
            })
        };
        add("links", span.links.iter().map(link).collect());
    }
    if !span.scope.name.is_empty() {
        add("scope", json!(span.scope.name));
    }
    Value::Object(object)
}

fn attributes(attributes: &Attributes) -> Value {
    let pair = |(key, value): &(String, realm_model::cloud::telemetry::Value)| {
        (key.clone(), Value::String(value.plain()))
    };
    Value::Object(attributes.iter().map(pair).collect())
}

/// The level, who says it, and what.
pub(super) fn record(record: &LogRecord) -> (&'static str, String, String) {
    let level = match record.severity {
        1..=4 => "trace",
        5..=8 => "debug",
        13..=16 => "warn",
        17..=20 => "error",
        21..=24 => "critical",
        _ => "info",
    };
    let mut message = record.body.plain();
    if message == "null" {
        message.clear();
    }
    if !record.event_name.is_empty() {
        let before = if message.is_empty() { "" } else { " " };
        message = format!("{}{before}{message}", one_line(&record.event_name, 256));
    }
    for (key, value) in &record.attributes {
        let (key, value) = (one_line(key, 256), one_line(&value.plain(), 1_024));
        // Writing to a String does not fail.
        let _ = write!(message, " {key}={value}");
    }
    if let (Some(trace), Some(span)) = (&record.trace, &record.span) {
        let _ = write!(message, " trace={} span={}", hex(trace), hex(span));
    }
    (level, record.scope.name.clone(), message)
}
