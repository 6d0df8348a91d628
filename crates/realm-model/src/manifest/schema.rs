//! The JSON schema of `realm.toml` (draft 2020-12), made from the table of keys, for editors.
//!
//! It never refuses what [`super::parse`] accepts; the parser is stricter (cross references,
//! exact grammars).

use serde_json::{Map, Value, json};

use super::{keys, rules};
use crate::section::{Absent, Form, Key, Kind, Section};

/// The schema of the manifest.
pub fn schema() -> Value {
    let mut schema = table(&keys::ROOT);
    let root = schema.as_object_mut().expect("a table is an object");
    root.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    root.insert("title".to_owned(), json!("realm.toml"));
    schema
}

fn table(section: &Section) -> Value {
    let mut properties = Map::new();
    for key in section.keys {
        properties.insert(key.name.to_owned(), property(key));
    }
    let required: Vec<&str> = section
        .keys
        .iter()
        .filter(|key| key.absent == Absent::Refused)
        .map(|key| key.name)
        .collect();
    let mut table = json!({
        "type": "object",
        "description": section.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    let either = section.keys.iter().find_map(|key| match key.absent {
        Absent::Or(other) => Some([key.name, other]),
        Absent::Refused | Absent::Number(_) | Absent::Word(_) | Absent::Means(_) => None,
    });
    if let Some(either) = either {
        table["oneOf"] = json!(either.map(|name| json!({"required": [name]})));
    }
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn property(key: &Key) -> Value {
    let mut value = of_kind(&key.kind);
    let absent = match key.absent {
        Absent::Refused | Absent::Or(_) | Absent::Number(_) | Absent::Word(_) => String::new(),
        Absent::Means(words) => format!(" When absent: {words}."),
    };
    value["description"] = json!(format!("{}.{absent}", key.doc));
    match key.absent {
        Absent::Number(number) => value["default"] = json!(number),
        Absent::Word(word) => {
            value["default"] = match key.kind {
                Kind::Boolean => json!(word == "true"),
                Kind::Integer { .. }
                | Kind::Text(_)
                | Kind::OneOf(_)
                | Kind::Texts(_)
                | Kind::TextTable(_)
                | Kind::Table(_)
                | Kind::Named(..)
                | Kind::Lists(..)
                | Kind::Rows(_)
                | Kind::TextOrTable(..)
                | Kind::IntegerOrText { .. }
                | Kind::IntegerTable { .. }
                | Kind::Rules(_) => json!(word),
            }
        }
        Absent::Refused | Absent::Or(_) | Absent::Means(_) => {}
    }
    value
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        Kind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Text(form) => text(form),
        Kind::OneOf(words) => json!({"enum": words}),
        Kind::Texts(form) => json!({"type": "array", "items": text(form)}),
        Kind::TextTable(form) => json!({"type": "object", "additionalProperties": text(form)}),
        Kind::Table(section) => table(section),
        Kind::Named(form, section) => named(form, table(section)),
        Kind::Lists(form, section) => {
            named(form, json!({"type": "array", "items": table(section)}))
        }
        Kind::Rows(section) => json!({"type": "array", "items": table(section)}),
        Kind::TextOrTable(form, section) => json!({"anyOf": [text(form), table(section)]}),
        Kind::IntegerOrText { min, max, form } => json!({
            "anyOf": [{"type": "integer", "minimum": min, "maximum": max}, text(form)],
        }),
        Kind::IntegerTable { min, max, names } => named(
            names,
            json!({"type": "integer", "minimum": min, "maximum": max}),
        ),
        Kind::Rules(names) => named(names, rule()),
    }
}

/// What one field of a message has to be.
fn rule() -> Value {
    let value = json!({"type": ["string", "number", "boolean"]});
    let test = json!({
        "type": "object",
        "description": rules::OPERATORS_HELP,
        "propertyNames": {"enum": rules::OPERATORS},
        "minProperties": 1,
    });
    let one = json!({"anyOf": [value, test]});
    json!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
}

fn named(form: &Form, value: Value) -> Value {
    json!({
        "type": "object",
        "propertyNames": {"pattern": form.pattern},
        "additionalProperties": value,
    })
}

fn text(form: &Form) -> Value {
    let mut value = json!({"type": "string", "examples": [form.example]});
    if !form.pattern.is_empty() {
        value["pattern"] = json!(form.pattern);
    }
    value
}
