//! Asks `realm:cloud/vectors` what every database has to answer, a line for each check: `ok NAME` or
//! `FAIL NAME: why`. `/?db=` names the database.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/realm-cloud/vectors.wit", world: "realm:cloud/vector-imports" });
}

use bindings::realm::cloud::vectors::{Collection, Error, Having, Metric, Scalar};

guests::serve!(handle);

type Check = fn(&str) -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("shapes", shapes),
    ("as-they-were-put", as_they_were_put),
    ("nearest", nearest),
    ("metrics", metrics),
    ("attributes", attributes),
    ("many", many),
    ("no-numbers", no_numbers),
    ("limits", limits),
];

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let db = guests::parameter(&request, "db").unwrap_or("default".to_owned());
    let mut answer = String::new();
    for (check, run) in CHECKS {
        answer += &match run(&db) {
            Ok(()) => format!("ok {check}\n"),
            Err(why) => format!("FAIL {check}: {why}\n"),
        };
    }
    guests::text(out, 200, &answer);
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

fn open(db: &str, name: &str, dimension: u32, metric: Metric) -> Result<Collection, String> {
    Collection::open(db, name, dimension, metric).map_err(code)
}

fn put(own: &Collection, id: &str, vector: &[f32], attributes: &str) -> Result<(), String> {
    own.upsert(id, vector, attributes).map_err(code)
}

fn ids(own: &Collection, vector: &[f32], k: u32, having: &[Having]) -> Result<Vec<String>, String> {
    let found = own.nearest(vector, k, having).map_err(code)?;
    Ok(found.into_iter().map(|one| one.id).collect())
}

fn shapes(db: &str) -> Result<(), String> {
    open(db, "shapes", 3, Metric::Cosine)?;
    open(db, "shapes", 3, Metric::Cosine)?;
    fails(
        Collection::open(db, "shapes", 4, Metric::Cosine).map(drop),
        "conflict",
    )?;
    fails(
        Collection::open(db, "shapes", 3, Metric::Dot).map(drop),
        "conflict",
    )?;
    fails(
        Collection::open("other", "shapes", 3, Metric::Dot).map(drop),
        "no-such-database",
    )
}

fn as_they_were_put(db: &str) -> Result<(), String> {
    let own = open(db, "put", 2, Metric::Euclidean)?;
    let vector = [1.0 / 3.0, -2.5e-8];
    let attributes = "{ \"a\" : [1.0] }";
    put(&own, "one", &[0.0, 0.0], "{}")?;
    put(&own, "one", &vector, attributes)?;
    let found = own.get("one").map_err(code)?.ok_or("nothing is there")?;
    same(found.vector, vector.to_vec())?;
    same(found.attributes.as_str(), attributes)?;
    same(own.delete("one").map_err(code)?, true)?;
    same(own.delete("one").map_err(code)?, false)?;
    same(own.get("one").map_err(code)?.is_none(), true)
}

fn nearest(db: &str) -> Result<(), String> {
    let own = open(db, "nearest", 2, Metric::Euclidean)?;
    same(ids(&own, &[0.0, 0.0], 10, &[])?.len() <= 4, true)?;
    for (id, x, y) in [
        ("d", 3.0, 4.0),
        ("b", 0.0, 1.0),
        ("c", 1.0, 0.0),
        ("a", 0.0, 0.0),
    ] {
        put(&own, id, &[x, y], "{}")?;
    }
    same(ids(&own, &[0.0, 0.0], 10, &[])?.join(""), "abcd".to_owned())?;
    same(ids(&own, &[9.0, 9.0], 1, &[])?.join(""), "d".to_owned())?;
    let found = own.nearest(&[0.0, 0.0], 4, &[]).map_err(code)?;
    same((found[3].distance - 5.0).abs() < 1e-5, true)
}

fn metrics(db: &str) -> Result<(), String> {
    for (name, metric, wanted, far) in [
        ("cosine", Metric::Cosine, "long,near,side,back", 2.0),
        ("dot", Metric::Dot, "long,near,side,back", 1.0),
        ("euclidean", Metric::Euclidean, "near,side,back,long", 9.0),
    ] {
        let own = open(db, name, 2, metric)?;
        for (id, vector) in [
            ("near", [2.0, 0.5]),
            ("long", [10.0, 0.0]),
            ("side", [0.0, 1.0]),
            ("back", [-1.0, 0.0]),
        ] {
            put(&own, id, &vector, "{}")?;
        }
        let found = own.nearest(&[1.0, 0.0], 4, &[]).map_err(code)?;
        let order: Vec<_> = found.iter().map(|one| one.id.as_str()).collect();
        same(order.join(","), wanted.to_owned()).map_err(|why| format!("{name}: {why}"))?;
        same((found[3].distance - far).abs() < 1e-5, true)
            .map_err(|_| format!("{name}: {found:?}"))?;
    }
    Ok(())
}

fn attributes(db: &str) -> Result<(), String> {
    let own = open(db, "attributes", 1, Metric::Euclidean)?;
    let long = "x".repeat(1_000);
    for (id, at, attributes) in [
        ("a", 1.0, r#"{"lang": "en", "n": 1, "ok": true}"#.to_owned()),
        (
            "b",
            2.0,
            r#"{"lang": "en", "n": 1.0, "none": null}"#.to_owned(),
        ),
        (
            "c",
            3.0,
            r#"{"lang": "de", "n": "1", "in": {"lang": "en"}}"#.to_owned(),
        ),
        ("d", 4.0, format!("{{\"lang\": \"{long}\"}}")),
    ] {
        put(&own, id, &[at], &attributes)?;
    }
    let having = |name: &str, value| Having {
        name: name.to_owned(),
        value,
    };
    let text = |text: &str| Scalar::Text(text.to_owned());
    for (asked, wanted) in [
        (vec![having("lang", text("en"))], "ab"),
        (vec![having("lang", text(&long))], "d"),
        (vec![having("n", Scalar::Integer(1))], "ab"),
        (vec![having("n", text("1"))], "c"),
        (
            vec![
                having("ok", Scalar::Boolean(true)),
                having("lang", text("en")),
            ],
            "a",
        ),
        (vec![having("none", Scalar::Null)], "b"),
        (vec![having("x' OR '1'='1", Scalar::Null)], ""),
        (vec![], "abcd"),
    ] {
        let found = ids(&own, &[0.0], 10, &asked)?.join("");
        same(found, wanted.to_owned()).map_err(|why| format!("{asked:?}: {why}"))?;
    }
    Ok(())
}

fn many(db: &str) -> Result<(), String> {
    let own = open(db, "many", 32, Metric::Cosine)?;
    let vector = |n: u16| {
        (0..32_u16)
            .map(|i| (f32::from(n) * 0.7 + f32::from(i)).sin())
            .collect::<Vec<_>>()
    };
    for n in 0..120 {
        put(&own, &format!("{n:03}"), &vector(n), "{}")?;
    }
    for n in [0, 60, 119] {
        same(ids(&own, &vector(n), 1, &[])?, vec![format!("{n:03}")])?;
    }
    same(ids(&own, &vector(5), 1_000, &[])?.len(), 120)
}

fn no_numbers(db: &str) -> Result<(), String> {
    let own = open(db, "numbers", 2, Metric::Cosine)?;
    for bad in [
        &[f32::NAN, 1.0][..],
        &[f32::INFINITY, 1.0],
        &[1.0, f32::NEG_INFINITY],
        &[f32::MAX, 1.0],
        &[0.0, 0.0],
        &[1.0],
        &[1.0; 3],
        &[],
    ] {
        fails(own.upsert("a", bad, "{}"), "invalid")?;
        fails(own.nearest(bad, 1, &[]), "invalid")?;
    }
    let nan = Having {
        name: "a".to_owned(),
        value: Scalar::Real(f64::NAN),
    };
    fails(own.nearest(&[1.0, 0.0], 1, &[nan]), "invalid")
}

fn limits(db: &str) -> Result<(), String> {
    let widest = open(db, "widest", 4_096, Metric::Dot)?;
    put(&widest, "one", &[0.5; 4_096], "{}")?;
    same(ids(&widest, &[0.5; 4_096], 1, &[])?, vec!["one".to_owned()])?;
    fails(
        Collection::open(db, "wider", 4_097, Metric::Dot).map(drop),
        "invalid",
    )?;
    fails(
        Collection::open(db, "none", 0, Metric::Dot).map(drop),
        "invalid",
    )?;
    fails(
        Collection::open(db, "No Name", 1, Metric::Dot).map(drop),
        "invalid",
    )?;
    let own = open(db, "limits", 1, Metric::Dot)?;
    fails(own.upsert("a", &[1.0], "[]"), "invalid")?;
    fails(
        own.upsert(
            "a",
            &[1.0],
            &format!("{{\"a\": \"{}\"}}", "x".repeat(70_000)),
        ),
        "too-large",
    )?;
    fails(own.upsert("", &[1.0], "{}"), "invalid")?;
    fails(own.upsert(&"x".repeat(257), &[1.0], "{}"), "too-large")?;
    fails(own.nearest(&[1.0], 0, &[]), "invalid")?;
    fails(own.nearest(&[1.0], 1_001, &[]), "invalid")
}
