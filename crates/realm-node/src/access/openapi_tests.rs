//! docs/openapi.yaml against the router's own table: no call is missing there, and none is made up.

use std::collections::BTreeSet;

use realm_model::refusal::RefusalCode;
use serde_json::Value;

use super::Call;

const TEXT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/openapi.yaml"
));
/// Keys of a path that are no methods.
const NO_METHODS: [&str; 1] = ["parameters"];

fn document() -> Value {
    serde_saphyr::from_str(TEXT).expect("docs/openapi.yaml is YAML")
}

#[test]
fn every_call_is_described_and_no_other() {
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    let described: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("a path").keys();
            methods
                .filter(|key| !NO_METHODS.contains(&key.as_str()))
                .map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let routed: BTreeSet<(String, String)> = Call::ALL
        .into_iter()
        .map(Call::route)
        .map(|(method, path)| (method.to_string(), path.to_owned()))
        .collect();
    assert_eq!(described, routed);
}

#[test]
fn the_description_holds_together() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for call in Call::ALL {
        let (method, path) = call.route();
        let item = &document["paths"][path];
        let operation = &item[method.as_str().to_lowercase()];
        let id = operation["operationId"].as_str().expect(path);
        assert!(ids.insert(id.to_owned()), "`{id}` is there twice");
        assert!(operation["summary"].is_string(), "{path}");
        let answers = operation["responses"].as_object().expect(path);
        // The gate's answers are those of every call.
        for status in ["401", "403", "409", "421", "429", "503"] {
            assert!(answers.contains_key(status), "{path} has no {status}");
        }
        let done = if call.wants_signature() { "101" } else { "200" };
        assert!(answers.contains_key(done), "{path} has no {done}");
        // Each part of the path is a parameter.
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')) {
            let name = name.trim_end_matches('}');
            let of = |value: &Value| {
                let all = value["parameters"].as_array();
                all.is_some_and(|all| {
                    all.iter()
                        .any(|one| one["name"] == name && one["in"] == "path")
                })
            };
            assert!(
                of(item) || of(operation),
                "{path}: `{name}` is no parameter"
            );
        }
    }
    references(&document, &document);
}

/// Every `$ref` leads somewhere.
fn references(document: &Value, value: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(place)) = fields.get("$ref") {
                let pointer = place.strip_prefix('#').expect("within the file");
                assert!(document.pointer(pointer).is_some(), "{place} leads nowhere");
            }
            fields
                .values()
                .for_each(|field| references(document, field));
        }
        Value::Array(items) => items.iter().for_each(|item| references(document, item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_code_is_described() {
    let refusals = RefusalCode::ALL.into_iter().map(|code| code.as_str());
    let others = [
        "unauthorized",
        "forbidden",
        "clock",
        "wrong-target",
        "replayed-request",
        "too-many-requests",
        "oversized",
        "exec-off",
        "run-off",
        "too-many-commands",
        "upgrade-required",
        "bad-request",
        "bad-digest",
        "bad-name",
        "bad-query",
        "no-chain",
        "no-fork",
        "too-many-readers",
        "stopping",
        "internal",
    ];
    for code in refusals.chain(others) {
        assert!(
            TEXT.contains(&format!("`{code}`")),
            "`{code}` is not described"
        );
    }
}
