//! What scripts read: `--json` of the listings has the keys and types that `shapes.txt` promises, and
//! what the API answers is what docs/openapi.yaml describes, on real agents.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use realm_model::key::SecretKey;
use realm_test_guests::HELLO;
use serde_json::Value;

use crate::realms::{Realms, pinned, write_key};
use crate::support::{Running, eventually, said};

const SHAPES: &str = include_str!("shapes.txt");
const OPENAPI: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml"));

/// Objects whose keys are names or codes, and no promise.
const MAPS: [&str; 2] = ["refusals", "components[].nodes"];

/// Path → the types that are there.
type Shape = BTreeMap<String, BTreeSet<String>>;

fn shape(value: &Value, path: &str, into: &mut Shape) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) => {
            let path = format!("{path}[]");
            items.iter().for_each(|item| shape(item, &path, into));
            "array"
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = match path {
                    _ if MAPS.contains(&path) => format!("{path}{{}}"),
                    "" => name.clone(),
                    _ => format!("{path}.{name}"),
                };
                shape(field, &path, into);
            }
            "object"
        }
    };
    if !path.is_empty() {
        let kinds = into.entry(path.to_owned()).or_default();
        kinds.insert(kind.to_owned());
    }
}

/// What the section of a listing promises: path → types; and which of them need not be seen.
fn promised(listing: &str) -> (Shape, BTreeSet<String>) {
    let (mut shape, mut seldom) = (Shape::new(), BTreeSet::new());
    let heading = format!("# {listing}");
    let lines = SHAPES.lines().skip_while(|line| **line != heading).skip(1);
    for line in lines.take_while(|line| !line.starts_with('#')) {
        let Some((path, kinds)) = line.split_once(": ") else {
            continue;
        };
        let kinds = match kinds.strip_suffix(" (seldom)") {
            Some(kinds) => {
                seldom.insert(path.to_owned());
                kinds
            }
            None => kinds,
        };
        let kinds = kinds.split(" | ").map(str::to_owned).collect();
        shape.insert(path.to_owned(), kinds);
    }
    (shape, seldom)
}

/// What of a listing is not as it was promised, as lines of `shapes.txt`.
fn broken(listing: &str, value: &Value) -> Vec<String> {
    let mut seen = Shape::new();
    shape(value, "", &mut seen);
    let (promised, seldom) = promised(listing);
    let words = |kinds: &BTreeSet<String>| Vec::from_iter(kinds.iter().cloned()).join(" | ");
    let mut wrong = Vec::new();
    for (path, kinds) in &seen {
        match promised.get(path) {
            None => wrong.push(format!("new:     {path}: {}", words(kinds))),
            Some(known) if !kinds.is_subset(known) => {
                wrong.push(format!("changed: {path}: {}", words(kinds)));
            }
            Some(_) => {}
        }
    }
    let gone = promised
        .keys()
        .filter(|path| !seen.contains_key(*path) && !seldom.contains(*path));
    wrong.extend(gone.map(|path| format!("gone:    {path}")));
    if !wrong.is_empty() {
        wrong.insert(0, format!("# {listing}"));
    }
    wrong
}

/// docs/openapi.yaml, as far as answers need it.
struct Description(Value);

impl Description {
    fn read() -> Self {
        Self(serde_saphyr::from_str(OPENAPI).expect("YAML"))
    }

    /// The schema of an answer: method, path as described, status.
    fn of(&self, method: &str, path: &str, status: u64) -> &Value {
        let answer = &self.0["paths"][path][method]["responses"][status.to_string()];
        let schema = &self.resolved(answer)["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} {status} has no schema");
        schema
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(place) => self.0.pointer(place.strip_prefix('#').unwrap()).unwrap(),
            None => schema,
        }
    }

    /// What of a value is not as the schema says. Fields that it does not name are wrong as well.
    fn wrong(&self, value: &Value, schema: &Value, at: &str, wrong: &mut Vec<String>) {
        let schema = self.resolved(schema);
        let known = [
            "type",
            "enum",
            "properties",
            "required",
            "items",
            "additionalProperties",
        ];
        if !known.iter().any(|key| schema.get(key).is_some()) {
            return wrong.push(format!("{at}: the schema says nothing"));
        }
        if let Some(values) = schema["enum"].as_array() {
            if !values.contains(value) {
                wrong.push(format!("{at}: {value} is none of {values:?}"));
            }
            return;
        }
        // One, or a list of them.
        let written = &schema["type"];
        let kinds: Vec<&str> = written.as_array().map_or_else(
            || written.as_str().into_iter().collect(),
            |kinds| kinds.iter().filter_map(Value::as_str).collect(),
        );
        let is = |kind: &&str| match *kind {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => false,
        };
        if !kinds.iter().any(is) {
            return wrong.push(format!("{at}: {value} is no {kinds:?}"));
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.wrong(item, &schema["items"], &format!("{at}[{index}]"), wrong);
        }
        let Some(fields) = value.as_object() else {
            return;
        };
        for (name, field) in fields {
            let rest = schema.get("additionalProperties");
            let at = format!("{at}.{name}");
            match schema["properties"].get(name).or(rest) {
                Some(schema) => self.wrong(field, schema, &at, wrong),
                None => wrong.push(format!("{at} is not described")),
            }
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if !fields.contains_key(name.as_str().unwrap()) {
                wrong.push(format!("{at}.{name} is missing"));
            }
        }
    }
}

/// What the agent answers on its socket.
fn answer(realms: &Realms, path: &str, body: Option<&str>) -> (u64, Value) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "-w", "\n%{http_code}"]);
    curl.arg("--unix-socket")
        .arg(realms.first().realm.path(".realm/agent.sock"));
    if let Some(body) = body {
        curl.args(["--data-binary", body]);
    }
    curl.arg(format!("http://realm{path}"));
    let stdout = said(curl).ok().stdout;
    let (body, status) = stdout.rsplit_once('\n').unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("{path}: {stdout}"));
    (status.parse().unwrap(), body)
}

fn json(realms: &Realms, args: &[&str]) -> Value {
    // `plan` says by its code that something would change.
    let code = if args == ["plan"] { 2 } else { 0 };
    let said = realms.first().run(&[args, &["--json"]].concat());
    serde_json::from_str(&said.code_is(code).stdout).unwrap()
}

/// Two nodes, somebody who asks to join, a beacon that came and is overdue, an entry that was refused.
async fn eventful() -> (Realms, Running) {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    let beacon = SecretKey::from_seed(&[77; 32]);
    write_key(&realms.first().realm, "beacon.key", &beacon);
    let key = beacon.public().to_string();
    let set = ["delegate", "add", "watch", &key, "--beacon", "--yes"];
    let first = realms.first();
    first.run(&[&set[..], &["--every", "1s"]].concat()).ok();
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    realms.run_there(&[("hello", "beta")]).await;
    realms.converge().await;
    let first = realms.first();
    first.run(&["--key", "beacon.key", "beacon"]).ok();
    first.realm.write("entry", "no entry");
    first.run(&["submit", "entry"]).fails(3, "malformed");
    realms.add("gamma");
    realms.invite(2);
    let gamma = realms.nodes[2].begin();
    eventually("everything is to be seen", async || {
        let status = realms.first().status().await;
        let counter = status.beacon.as_ref().and_then(|beacon| beacon.counter);
        let beta = status
            .nodes
            .iter()
            .find(|node| node.name.as_str() == "beta")?;
        let all = counter.is_some()
            && !status.pending.is_empty()
            && !status.alarms.is_empty()
            && beta.reach.rtt_us.is_some()
            && beta.sealing.is_some();
        all.then_some(())
    })
    .await;
    (realms, gamma)
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_the_listings_keeps_its_keys_and_types_and_the_api_its_description() {
    let (realms, _gamma) = eventful().await;
    let more = pinned(&[("hello", HELLO, "beta"), ("more", HELLO, "alpha")]);
    realms.first().realm.write("realm.toml", &more);
    let listings = [
        ("status", &["status"][..]),
        ("nodes ls", &["nodes", "ls"]),
        ("explain", &["explain", "hello"]),
        ("plan", &["plan"]),
    ];
    let broken: Vec<String> = listings
        .iter()
        .flat_map(|(name, args)| broken(name, &json(&realms, args)))
        .collect();
    assert!(
        broken.is_empty(),
        "not as in shapes.txt:\n{}",
        broken.join("\n")
    );

    let description = Description::read();
    let in_force = realms.first().realm.heads().await;
    let ask = serde_json::json!({
        "namespace": "default",
        "manifest": in_force.manifest,
        "lock": in_force.lock,
    })
    .to_string();
    let mut wrong = Vec::new();
    for (method, path, described, status, body) in [
        ("get", "/v1/status", "/v1/status", 200, None),
        (
            "get",
            "/v1/explain/hello",
            "/v1/explain/{component}",
            200,
            None,
        ),
        (
            "get",
            "/v1/explain/nobody",
            "/v1/explain/{component}",
            404,
            None,
        ),
        (
            "get",
            "/v1/heads?namespace=default&history=hello",
            "/v1/heads",
            200,
            None,
        ),
        (
            "get",
            "/v1/entries/authority",
            "/v1/entries/{chain}",
            200,
            None,
        ),
        (
            "get",
            "/v1/entries/default",
            "/v1/entries/{chain}",
            200,
            None,
        ),
        ("get", "/v1/forks/default", "/v1/forks/{chain}", 404, None),
        ("get", "/v1/audit", "/v1/audit", 200, None),
        ("get", "/v1/invitation", "/v1/invitation", 200, None),
        (
            "post",
            "/v1/placement",
            "/v1/placement",
            200,
            Some(ask.as_str()),
        ),
        (
            "post",
            "/v1/entries/default",
            "/v1/entries/{chain}",
            400,
            Some("no entry"),
        ),
    ] {
        let (code, value) = answer(&realms, path, body);
        let before = wrong.len();
        if code == status {
            let schema = description.of(method, described, status);
            description.wrong(&value, schema, path, &mut wrong);
        } else {
            wrong.push(format!("{path}: {code}"));
        }
        if wrong.len() > before {
            wrong.push(format!("{value:#}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "not as in openapi.yaml:\n{}",
        wrong.join("\n")
    );
}
