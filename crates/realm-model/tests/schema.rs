//! The JSON schema against the parser: what the parser takes, the schema takes.

use realm_model::manifest;
use serde_json::Value;

const SPECIFICATION: &str = include_str!("fixtures/3-realm.toml");
const FULL: &str = include_str!("fixtures/full.toml");

fn json(text: &str) -> Value {
    toml::from_str(text).expect("TOML")
}

/// Whether the schema and the parser take the text.
fn taken(text: &str) -> (bool, bool) {
    let schema = manifest::schema();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let problems: Vec<String> = validator
        .iter_errors(&json(text))
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    let (parsed, diagnostics) = manifest::parse(text);
    if parsed.is_some() {
        assert_eq!(problems, Vec::<String>::new(), "{text}: {diagnostics:?}");
    }
    (problems.is_empty(), parsed.is_some())
}

#[test]
fn the_schema_is_one_of_draft_2020_12() {
    let schema = manifest::schema();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert!(jsonschema::meta::is_valid(&schema));
}

#[test]
fn what_the_parser_takes_the_schema_takes() {
    for text in [
        "",
        SPECIFICATION,
        FULL,
        "[components.a]\nsource = 'file:a'\nhealth = 'export'",
        "[components.a]\nupstream = 'fastcgi:127.0.0.1:9000'\nroot = '/'\nindex = 'a.php'",
        "[components.a]\nsource = 'file:///a b.wasm'\nhealth = '/a?b=%20'\ndirs = ['/a:b::/c']",
        "[components.a]\nsource = 'p2p:x'\nallowed_outbound = ['http://[fd00::/8]:80', 'http://10.0.0.0/8', '*://*:1..9']",
        "[nodes.a]\naddr_hint = '/ip6/::1/tcp/1'\n[routing]\n'tag:x.y' = []\n'*' = []\n'a.b' = []",
        "[components.a]\nsource = 'HTTPS://a/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'\n[routing]\na = [{ path = '/...', component = 'a', host = '[::1]' }]",
    ] {
        assert_eq!(taken(text), (true, true), "{text}");
    }
}

#[test]
fn the_schema_refuses_what_an_editor_can_see() {
    for text in [
        "versoin = 1",
        "version = 0",
        "version = '1'",
        "[owner]",
        "[owner]\npubkey = 'BASE58'",
        "[components.a]",
        "[components.'a b']\nsource = 'file:a'",
        "[components.a]\nsource = 'a'",
        "[components.a]\nsource = 'file:a'\nupstream = 'http://a:1'",
        "[components.a]\nupstream = '/run/a.sock'",
        "[components.a]\nsource = 'file:a'\nmemory_max_mb = 0",
        "[components.a]\nsource = 'file:a'\nmemory_max_mb = 1.5",
        "[components.a]\nsource = 'file:a'\nserve = 'https'",
        "[components.a]\nsource = 'file:a'\nworld = 'wasi:http'",
        "[components.a]\nsource = 'file:a'\nhealth = { interval = 1 }",
        "[components.a]\nsource = 'file:a'\nenv = { A = 1 }",
        "[components.a]\nsource = 'file:a'\nallowed_outbound = ['example.com']",
        "[components.a]\nsource = 'file:a'\ndirs = ['/a']",
        "[routing]\n'*' = { path = '/', component = 'a' }",
        "[routing]\n'a b' = []",
        "[routing]\n'*' = [{ path = 'a', component = 'a' }]",
        "[routing]\n'*' = [{ path = '/' }]",
        "[secrets]\na = 'in the clear'",
    ] {
        assert_eq!(taken(text), (false, false), "{text}");
    }
}

#[test]
fn every_property_is_described() {
    fn walk(value: &Value, count: &mut usize) {
        if let Some(properties) = value["properties"].as_object() {
            for (name, property) in properties {
                assert!(property["description"].is_string(), "{name}");
                *count += 1;
            }
        }
        match value {
            Value::Object(map) => map.values().for_each(|value| walk(value, count)),
            Value::Array(items) => items.iter().for_each(|value| walk(value, count)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut count = 0;
    walk(&manifest::schema(), &mut count);
    let keys: usize = manifest::keys::SECTIONS
        .iter()
        .map(|section| section.keys.len())
        .sum();
    assert_eq!(count, keys);
}

#[test]
fn the_examples_of_the_schema_match_their_patterns() {
    let schema = manifest::schema();
    let source =
        &schema["properties"]["components"]["additionalProperties"]["properties"]["source"];
    assert!(source["pattern"].is_string());
    fn walk(value: &Value) {
        if let (Some(examples), Some(_)) = (value["examples"].as_array(), value["pattern"].as_str())
        {
            for example in examples {
                assert!(jsonschema::is_valid(value, example), "{value}");
            }
        }
        match value {
            Value::Object(map) => map.values().for_each(walk),
            Value::Array(items) => items.iter().for_each(walk),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    walk(&schema);
}
