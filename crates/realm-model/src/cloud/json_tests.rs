//! The reader of JSON against serde's, and the order of keys against the order of values.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;

fn same(own: &Json<'_>, other: &serde_json::Value) -> bool {
    match (own, other) {
        (Json::Null, serde_json::Value::Null) => true,
        (Json::Boolean(a), serde_json::Value::Bool(b)) => a == b,
        (Json::Integer(a), serde_json::Value::Number(b)) => b.as_i64() == Some(*a),
        // serde's may be off by the last bit.
        (Json::Real(a), serde_json::Value::Number(b)) => {
            let b = b.as_f64().unwrap();
            *a == b || ((a - b) / a).abs() < 1e-15
        }
        (Json::Text(a), serde_json::Value::String(b)) => a == b,
        (Json::Array(a), serde_json::Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Json::Object(a), serde_json::Value::Object(b)) => {
            let found = |(name, value): &(Cow<'_, str>, Json<'_>)| {
                b.get(&**name).is_some_and(|other| same(value, other))
            };
            a.len() == b.len() && a.iter().all(found)
        }
        _ => false,
    }
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>()
            .prop_filter("finite", |value| value.is_finite())
            .prop_map(Into::into),
        ".{0,6}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(".{0,3}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_writes_is_read(value in values()) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let own = Json::parse(&text).unwrap();
            prop_assert!(same(&own, &value), "{text}");
        }
    }

    /// Near JSON: taken by both or by neither, but for what is refused on purpose.
    #[test]
    fn any_text_has_an_answer(text in r#"([\[\]{}:,"\\ue\-+.0-9a ]|null|true|"a":|\\u00e9|\\ud83d\\ude00){0,12}"#) {
        let own = Json::parse(&text);
        let other: Result<serde_json::Value, _> = serde_json::from_str(&text);
        match (&own, &other) {
            (Ok(own), Ok(other)) => prop_assert!(same(own, other), "{text}"),
            (Err(_), Err(_)) => {}
            (Err(error), Ok(_)) => {
                let why = error.to_string();
                prop_assert!(why.contains("twice") || why.contains("too large"), "{text}: {why}");
            }
            (Ok(_), Err(error)) => prop_assert!(false, "{text}: {error}"),
        }
    }

    #[test]
    fn keys_of_numbers_sort_as_numbers(a: i64, b: i64, near in -2_i64..3, x: f64, exact: bool) {
        let close = a.saturating_add(near);
        for (a, b) in [(a, b), (a, close)] {
            let keys = key(Some(&Json::Integer(a))).cmp(&key(Some(&Json::Integer(b))));
            prop_assert_eq!(keys, a.cmp(&b), "{} {}", a, b);
        }
        // Against floating point: by what both are worth exactly.
        let x = if exact { a as f64 } else { x };
        prop_assume!(x.is_finite());
        let expected = if x >= 9_223_372_036_854_775_808.0 {
            Ordering::Less
        } else if x < -9_223_372_036_854_775_808.0 {
            Ordering::Greater
        } else {
            i128::from(a).cmp(&(x.floor() as i128)).then(if x.fract() == 0.0 {
                Ordering::Equal
            } else {
                Ordering::Less
            })
        };
        let keys = key(Some(&Json::Integer(a))).cmp(&key(Some(&Json::Real(x))));
        prop_assert_eq!(keys, expected, "{} {}", a, x);
    }

    #[test]
    fn values_are_compared_with_keys_as_their_keys_are(a in values(), b in values(), end in 0_usize..4) {
        let (a, b) = (a.to_string(), b.to_string());
        let (a, b) = (Json::parse(&a).unwrap(), Json::parse(&b).unwrap());
        let (own, mut other) = (key(Some(&a)), key(Some(&b)));
        prop_assert_eq!(compare(Some(&a), &own), Ordering::Equal);
        prop_assert_eq!(compare(Some(&a), &other), own.cmp(&other));
        prop_assert_eq!(order(&a, &b), own.cmp(&other));
        let text = |value: &Json<'_>| Json::Text(format!("{value:?}").into());
        let (a_text, b_text) = (text(&a), text(&b));
        prop_assert_eq!(order(&a_text, &b_text), key(Some(&a_text)).cmp(&key(Some(&b_text))));
        prop_assert_eq!(compare(None, &other), key(None).cmp(&other));
        prop_assert_eq!(&key_within(Some(&a), end), &own[..own.len().min(end)]);
        other.push(0);
        prop_assert_eq!(compare(Some(&b), &other), Ordering::Less);
        prop_assert_eq!(compare(Some(&a), &own[..end.min(own.len())]), own[..].cmp(&own[..end.min(own.len())]));
    }

    #[test]
    fn keys_of_reals_and_texts_sort_as_they(x: f64, y: f64, a in ".{0,5}", b in ".{0,5}") {
        prop_assume!(x.is_finite() && y.is_finite());
        let keys = key(Some(&Json::Real(x))).cmp(&key(Some(&Json::Real(y))));
        prop_assert_eq!(Some(keys), x.partial_cmp(&y));
        let text = |text: &str| key(Some(&Json::Text(text.to_owned().into())));
        prop_assert_eq!(text(&a).cmp(&text(&b)), a.as_bytes().cmp(b.as_bytes()));
    }
}

#[test]
fn kinds_sort_one_after_the_other() {
    let in_order = [
        r#"{"a": null}"#,
        r#"{"a": false}"#,
        r#"{"a": true}"#,
        r#"{"a": -1e300}"#,
        r#"{"a": -1}"#,
        r#"{"a": -0.5}"#,
        r#"{"a": 0}"#,
        r#"{"a": 5e-324}"#,
        r#"{"a": 1}"#,
        r#"{"a": ""}"#,
        r#"{"a": "Z"}"#,
        r#"{"a": "a"}"#,
        r#"{"a": "\u00e9"}"#,
        r#"{"a": []}"#,
        r#"{"a": {}}"#,
    ];
    let mut before = key(None);
    for text in in_order {
        let value = Json::parse(text).unwrap();
        let own = key(value.at("a"));
        assert!(before < own, "{text}");
        let (from, to) = kin(value.at("a").unwrap());
        assert!(from <= own && own < to, "{text}");
        before = own;
    }
    let key_of = |text: &'static str| key(Some(&Json::parse(text).unwrap()));
    for (a, b) in [("0", "-0.0"), ("1", "1.0"), ("100", "1e2"), ("[1]", "[2]")] {
        assert_eq!(key_of(a), key_of(b));
    }
    assert_ne!(key_of("9007199254740993"), key_of("9007199254740992.0"));
}

#[test]
fn what_is_refused() {
    for text in [
        "",
        " ",
        "nul",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "01",
        "-",
        "1.",
        "1e",
        ".5",
        "+1",
        "NaN",
        "'a'",
        "\"\t\"",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\u12\"",
        "1e400",
        "1 2",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,\"\\u0061\":2}",
        "\"",
    ] {
        assert!(Json::parse(text).is_err(), "{text}");
    }
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(Json::parse(&deep(limits::DOCUMENT_DEPTH_MAX)).is_ok());
    assert!(Json::parse(&deep(limits::DOCUMENT_DEPTH_MAX + 1)).is_err());
    assert!(Json::parse(&"[".repeat(1 << 20)).is_err());
    assert!(Json::object("[]").is_err());
}

#[test]
fn paths_lead_through_objects() {
    let value = Json::parse(r#"{"a": {"b": [1], "c": null, "": 5}, "a.b": 2}"#).unwrap();
    assert_eq!(value.at("a.c"), Some(&Json::Null));
    assert_eq!(value.at("a.b"), Some(&Json::Array(vec![Json::Integer(1)])));
    for missing in ["b", "a.b.0", "a.c.d", "a.d", "A.b"] {
        assert_eq!(value.at(missing), None, "{missing}");
    }
}
