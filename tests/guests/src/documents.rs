//! Asks `realm:cloud/documents` what every database has to answer, a line for each check: `ok NAME` or
//! `FAIL NAME: why`. `/?db=` names the database; the checks empty their collections first.
//!
//! `/put?db=&id=&body=` puts one document into `kept`, `/get?db=&id=` reads one: what came of it.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/realm-cloud/documents.wit", world: "realm:cloud/document-imports" });
}

use bindings::realm::cloud::documents::{
    Collection, Error, Expected, FieldTest, Node, Order, Query, Scalar, Test,
};

guests::serve!(handle);

type Check = fn(&Collection) -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("as-it-was-put", as_it_was_put),
    ("revisions", revisions),
    ("conflicts", conflicts),
    ("deleted-and-back", deleted_and_back),
    ("tests-of-fields", tests_of_fields),
    ("any-and-all", any_and_all),
    ("orders", orders),
    ("cursors", cursors),
    ("indexes", indexes),
    ("injection", injection),
    ("limits", limits),
];

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let word = |name| guests::parameter(&request, name).unwrap_or_default();
    let db = guests::parameter(&request, "db").unwrap_or("default".to_owned());
    let answer = match guests::path(&request).as_str() {
        "/put" => open(&db, "kept").and_then(|kept| {
            let put = kept.put(&word("id"), &word("body"), Expected::Anything);
            put.map(|_| "put".to_owned()).map_err(code)
        }),
        "/get" => open(&db, "kept").and_then(|kept| {
            let found = kept.get(&word("id")).map_err(code)?;
            Ok(found.map_or("nothing".to_owned(), |found| found.body))
        }),
        _ => Ok(checks(&db)),
    };
    match answer {
        Ok(text) => guests::text(out, 200, &text),
        Err(why) => guests::text(out, 500, &why),
    }
}

fn open(db: &str, name: &str) -> Result<Collection, String> {
    Collection::open(db, name).map_err(code)
}

fn checks(db: &str) -> String {
    let mut answer = String::new();
    for (check, run) in CHECKS {
        let result = open(db, check).and_then(|own| {
            empty(&own)?;
            run(&own)
        });
        answer += &match result {
            Ok(()) => format!("ok {check}\n"),
            Err(why) => format!("FAIL {check}: {why}\n"),
        };
    }
    answer
}

/// What a guest can tell an error by.
fn code(error: Error) -> String {
    match error {
        Error::NoSuchDatabase => "no-such-database".to_owned(),
        Error::AccessDenied => "access-denied".to_owned(),
        Error::Quota(which) => format!("quota {which}"),
        Error::TooLarge(_) => "too-large".to_owned(),
        Error::Invalid(_) => "invalid".to_owned(),
        Error::Conflict => "conflict".to_owned(),
        Error::Timeout => "timeout".to_owned(),
        Error::Unavailable => "unavailable".to_owned(),
        Error::Unsupported(why) => format!("unsupported {why}"),
        Error::Other(why) => format!("other {why}"),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{found:?} instead of {wanted:?}"))
}

fn fails<T: std::fmt::Debug>(result: Result<T, Error>, wanted: &str) -> Result<(), String> {
    match result {
        Ok(value) => Err(format!("{value:?} instead of {wanted}")),
        Err(error) => same(code(error).as_str(), wanted),
    }
}

fn query(filter: Vec<Node>) -> Query {
    Query {
        filter,
        order: Vec::new(),
        limit: 100,
        cursor: None,
    }
}

fn by(field: &str, descending: bool) -> Order {
    Order {
        field: field.to_owned(),
        descending,
    }
}

fn field(field: &str, test: Test) -> Node {
    Node::Field(FieldTest {
        field: field.to_owned(),
        test,
    })
}

fn text(text: &str) -> Scalar {
    Scalar::Text(text.to_owned())
}

fn put(own: &Collection, id: &str, body: &str) -> Result<u64, String> {
    own.put(id, body, Expected::Anything).map_err(code)
}

fn ids(own: &Collection, query: &Query) -> Result<Vec<String>, String> {
    let page = own.find(query).map_err(code)?;
    Ok(page.documents.into_iter().map(|one| one.id).collect())
}

fn empty(own: &Collection) -> Result<(), String> {
    loop {
        let found = ids(own, &query(Vec::new()))?;
        if found.is_empty() {
            return Ok(());
        }
        for id in found {
            own.delete(&id, Expected::Anything).map_err(code)?;
        }
    }
}

fn people(own: &Collection) -> Result<(), String> {
    for (id, body) in [
        (
            "ann",
            r#"{"name": "Ann", "age": 41, "address": {"city": "Oslo"}, "tags": ["x", "y"], "ok": true}"#,
        ),
        (
            "bob",
            r#"{"name": "Bob", "age": 7.5, "address": {"city": "Bern"}, "tags": [], "ok": false}"#,
        ),
        (
            "cyd",
            r#"{"name": "cyd", "age": null, "tags": [1, 1.5, null], "ok": true}"#,
        ),
        ("dan", r#"{"name": "Änne", "age": "41"}"#),
        ("eve", r#"{"name": "Eve", "age": 41.0, "address": "Oslo"}"#),
    ] {
        put(own, id, body)?;
    }
    Ok(())
}

fn as_it_was_put(own: &Collection) -> Result<(), String> {
    let body = "{ \"a\":1.0,\n\"b\" : \"\\u00e9\\u0000\" , \"c\":[[]] }";
    put(own, "one", body)?;
    let found = own.get("one").map_err(code)?.ok_or("nothing is there")?;
    same(found.body.as_str(), body)?;
    same(own.get("two").map_err(code)?.is_none(), true)
}

fn revisions(own: &Collection) -> Result<(), String> {
    let first = put(own, "one", "{}")?;
    let second = own
        .put("one", "{}", Expected::Revision(first))
        .map_err(code)?;
    same(second > first, true)?;
    let found = own.get("one").map_err(code)?.ok_or("nothing is there")?;
    same(found.revision, second)
}

fn conflicts(own: &Collection) -> Result<(), String> {
    let first = own.put("one", "{}", Expected::Absent).map_err(code)?;
    fails(own.put("one", "{}", Expected::Absent), "conflict")?;
    put(own, "one", r#"{"by": "another"}"#)?;
    fails(own.put("one", "{}", Expected::Revision(first)), "conflict")?;
    fails(own.delete("one", Expected::Revision(first)), "conflict")?;
    fails(own.put("two", "{}", Expected::Revision(first)), "conflict")?;
    let found = own.get("one").map_err(code)?.ok_or("nothing is there")?;
    same(found.body.as_str(), r#"{"by": "another"}"#)
}

fn deleted_and_back(own: &Collection) -> Result<(), String> {
    let first = put(own, "one", "{}")?;
    same(own.delete("one", Expected::Anything).map_err(code)?, true)?;
    same(own.delete("one", Expected::Anything).map_err(code)?, false)?;
    put(own, "one", "{}")?;
    fails(own.put("one", "{}", Expected::Revision(first)), "conflict")
}

fn expect(own: &Collection, filter: Vec<Node>, wanted: &[&str]) -> Result<(), String> {
    let found = ids(own, &query(filter.clone()))?;
    same(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        wanted.to_vec(),
    )
    .map_err(|why| format!("{filter:?}: {why}"))?;
    same(own.count(&filter).map_err(code)?, wanted.len() as u64)
}

fn answers(own: &Collection) -> Result<(), String> {
    let many = vec![text("Ann"), Scalar::Integer(1), text("Eve")];
    for (name, test, wanted) in [
        ("age", Test::Eq(Scalar::Integer(41)), &["ann", "eve"][..]),
        ("age", Test::Eq(Scalar::Real(7.5)), &["bob"]),
        ("age", Test::Eq(text("41")), &["dan"]),
        ("age", Test::Eq(Scalar::Null), &["cyd"]),
        ("age", Test::Ne(Scalar::Integer(41)), &["bob", "cyd", "dan"]),
        ("age", Test::Lt(Scalar::Real(41.5)), &["ann", "bob", "eve"]),
        ("age", Test::Gt(Scalar::Real(7.5)), &["ann", "eve"]),
        ("age", Test::Ge(Scalar::Real(7.5)), &["ann", "bob", "eve"]),
        ("age", Test::Le(text("5")), &["dan"]),
        ("name", Test::Lt(text("a")), &["ann", "bob", "eve"]),
        ("name", Test::Ge(text("c")), &["cyd", "dan"]),
        ("name", Test::In(many), &["ann", "eve"]),
        ("name", Test::In(Vec::new()), &[]),
        ("ok", Test::Eq(Scalar::Boolean(true)), &["ann", "cyd"]),
        ("ok", Test::Lt(Scalar::Boolean(true)), &["bob"]),
        ("address.city", Test::Eq(text("Oslo")), &["ann"]),
        ("address.city", Test::Exists(false), &["cyd", "dan", "eve"]),
        ("address", Test::Exists(true), &["ann", "bob", "eve"]),
        ("tags", Test::Contains(text("y")), &["ann"]),
        ("tags", Test::Contains(Scalar::Real(1.0)), &["cyd"]),
        ("tags", Test::Contains(Scalar::Null), &["cyd"]),
        ("name", Test::Contains(text("Ann")), &[]),
    ] {
        expect(own, vec![field(name, test)], wanted)?;
    }
    Ok(())
}

fn tests_of_fields(own: &Collection) -> Result<(), String> {
    people(own)?;
    answers(own)
}

fn any_and_all(own: &Collection) -> Result<(), String> {
    people(own)?;
    let parts = || {
        vec![
            field("age", Test::Eq(Scalar::Integer(41))),
            field("name", Test::Eq(text("Bob"))),
            field("ok", Test::Exists(true)),
        ]
    };
    let tree = |more: Vec<Node>| [parts(), more].concat();
    expect(
        own,
        tree(vec![Node::Any(vec![0, 1]), Node::All(vec![2, 3])]),
        &["ann", "bob"],
    )?;
    expect(own, tree(vec![Node::All(vec![0, 1, 2])]), &[])?;
    expect(
        own,
        tree(vec![Node::All(vec![0, 2]), Node::Any(vec![1, 3])]),
        &["ann", "bob"],
    )?;
    expect(own, vec![Node::Any(Vec::new())], &[])?;
    expect(own, Vec::new(), &["ann", "bob", "cyd", "dan", "eve"])?;
    for wrong in [
        vec![Node::All(vec![0])],
        parts(),
        tree(vec![Node::All(vec![0, 0])]),
    ] {
        fails(own.count(&wrong), "invalid")?;
    }
    Ok(())
}

fn orders(own: &Collection) -> Result<(), String> {
    people(own)?;
    put(own, "fay", "{}")?;
    for (order, wanted) in [
        (vec![], ["ann", "bob", "cyd", "dan", "eve", "fay"]),
        (
            vec![by("age", false)],
            ["fay", "cyd", "bob", "ann", "eve", "dan"],
        ),
        (
            vec![by("age", true)],
            ["dan", "eve", "ann", "bob", "cyd", "fay"],
        ),
        (
            vec![by("name", false)],
            ["fay", "ann", "bob", "eve", "cyd", "dan"],
        ),
        (
            vec![by("ok", false), by("name", true)],
            ["dan", "eve", "fay", "bob", "cyd", "ann"],
        ),
    ] {
        let found = ids(
            own,
            &Query {
                order: order.clone(),
                ..query(Vec::new())
            },
        )?;
        same(found, wanted.map(str::to_owned).to_vec())
            .map_err(|why| format!("{order:?}: {why}"))?;
    }
    Ok(())
}

fn cursors(own: &Collection) -> Result<(), String> {
    for n in 0..50 {
        put(own, &format!("{n:02}"), &format!("{{\"n\": {}}}", n % 5))?;
    }
    let mut asked = Query {
        order: vec![by("n", true)],
        limit: 7,
        ..query(Vec::new())
    };
    let mut found = Vec::new();
    loop {
        let page = own.find(&asked).map_err(code)?;
        found.extend(page.documents.into_iter().map(|one| one.id));
        // What comes before the cursor changes nothing behind it.
        put(own, "99", r#"{"n": 9}"#)?;
        asked.cursor = page.cursor;
        if asked.cursor.is_none() {
            break;
        }
    }
    let mut wanted: Vec<_> = (0..50).map(|n| format!("{n:02}")).collect();
    wanted.sort_by_key(|id| id.parse::<i64>().map_or((0, 0), |n| (-(n % 5), -n)));
    same(found, wanted)?;
    fails(
        own.find(&Query {
            cursor: Some("x".to_owned()),
            ..query(Vec::new())
        }),
        "invalid",
    )
}

fn indexes(own: &Collection) -> Result<(), String> {
    people(own)?;
    own.index("name").map_err(code)?;
    for field in ["age", "ok", "tags", "address.city", "name"] {
        own.index(field).map_err(code)?;
        answers(own).map_err(|why| format!("with an index over {field}: {why}"))?;
    }
    people(own)?;
    answers(own)?;
    put(own, "ann", r#"{"name": "Anna"}"#)?;
    expect(own, vec![field("name", Test::Eq(text("Ann")))], &[])?;
    expect(own, vec![field("name", Test::Eq(text("Anna")))], &["ann"])?;
    own.delete("ann", Expected::Anything).map_err(code)?;
    expect(own, vec![field("name", Test::Eq(text("Anna")))], &[])
}

fn injection(own: &Collection) -> Result<(), String> {
    let words = [
        "'; DROP TABLE realm_documents; --",
        "$1",
        "\"",
        "%",
        "x' OR '1'='1",
    ];
    for word in words {
        let quoted = word.replace('"', "\\\"");
        put(own, word, &format!("{{\"{quoted}\": \"{quoted}\"}}"))?;
    }
    for word in words {
        expect(own, vec![field(word, Test::Eq(text(word)))], &[word])?;
    }
    same(own.count(&Vec::new()).map_err(code)?, words.len() as u64)
}

fn limits(own: &Collection) -> Result<(), String> {
    let long = |n| format!("{{\"a\": \"{}\"}}", "x".repeat(n));
    fails(
        own.put("a", &long(1 << 20), Expected::Anything),
        "too-large",
    )?;
    put(own, "a", &long(1_000_000))?;
    for bad in [
        "",
        "[]",
        "{",
        "{\"a\": 1, \"a\": 2}",
        &"{\"a\":".repeat(1_000),
    ] {
        fails(own.put("a", bad, Expected::Anything), "invalid")?;
    }
    fails(own.put("", "{}", Expected::Anything), "invalid")?;
    fails(
        own.put(&"x".repeat(257), "{}", Expected::Anything),
        "too-large",
    )?;
    fails(own.index("a..b"), "invalid")?;
    fails(
        own.find(&Query {
            limit: 0,
            ..query(Vec::new())
        }),
        "invalid",
    )?;
    fails(
        own.find(&Query {
            limit: 1_001,
            ..query(Vec::new())
        }),
        "invalid",
    )?;
    let none = [Scalar::Real(f64::NAN), Scalar::Real(f64::INFINITY)];
    for none in none {
        fails(own.count(&[field("a", Test::Eq(none))]), "invalid")?;
    }
    fails(Collection::open("default", "No Name").map(drop), "invalid")
}
