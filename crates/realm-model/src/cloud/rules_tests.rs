//! Rules against examples, against a naive reading of any body, and what no message can make them do.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn equals(literal: impl Into<Literal>) -> Test {
    checks([Check::Equals(literal.into())])
}

fn checks(checks: impl Into<Vec<Check>>) -> Test {
    Test {
        checks: checks.into(),
        ..Test::default()
    }
}

fn not(tests: impl Into<Vec<Test>>) -> Test {
    Test {
        not: tests.into(),
        ..Test::default()
    }
}

fn exists(exists: bool) -> Test {
    Test {
        exists: Some(exists),
        ..Test::default()
    }
}

impl From<&str> for Literal {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Literal {
    fn from(value: i64) -> Self {
        Self::Number(Number::Whole(value))
    }
}

impl From<f64> for Literal {
    fn from(value: f64) -> Self {
        Self::Number(Number::Real(value))
    }
}

impl From<bool> for Literal {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

fn one(field: Field, any: impl Into<Vec<Test>>) -> Rules {
    Rules(vec![Rule {
        field,
        any: any.into(),
    }])
}

fn body(path: &str) -> Field {
    Field::Body(path.to_owned())
}

fn message(data: &str) -> Message {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Message {
        topic: Some("orders.new".to_owned()),
        content_type: Some("application/json".to_owned()),
        data: data.as_bytes().to_vec(),
        metadata: vec![
            pair("kind", "created"),
            pair("tries", "12"),
            pair("kind", "urgent"),
        ],
        reply_to: None,
    }
}

const ORDER: &str = r#"{"total": 120.50, "id": 9007199254740993, "paid": true, "note": null,
    "customer": {"country": "DE"}, "tags": ["red", "blue"], "none": [],
    "items": [{"sku": "a-1", "n": 2}, {"sku": "b-2", "n": 5}]}"#;

#[test]
fn a_rule_holds_as_the_page_says() {
    let above = |n: f64| checks([Check::Above(Number::Real(n))]);
    let below = |n: i64| checks([Check::Below(Number::Whole(n))]);
    let prefix = |text: &str| checks([Check::Prefix(text.to_owned())]);
    let suffix = |text: &str| checks([Check::Suffix(text.to_owned())]);
    let key = |key: &str| Field::Metadata(key.to_owned());
    let between = |from, to| {
        checks([
            Check::Above(Number::Whole(from)),
            Check::Below(Number::Whole(to)),
        ])
    };
    let cases: Vec<(Field, Vec<Test>, bool)> = vec![
        (Field::Topic, vec![equals("orders.new")], true),
        (Field::Topic, vec![prefix("orders."), equals("x")], true),
        (Field::Topic, vec![equals("orders")], false),
        (Field::ContentType, vec![suffix("/json")], true),
        (key("kind"), vec![equals("created")], true),
        (key("kind"), vec![equals("urgent")], true),
        (
            key("kind"),
            vec![equals("deleted"), equals("changed")],
            false,
        ),
        (key("kind"), vec![not([equals("urgent")])], false),
        (key("kind"), vec![not([equals("deleted")])], true),
        (key("tries"), vec![equals("12")], true),
        (key("tries"), vec![equals(12)], true),
        (key("tries"), vec![above(11.5)], true),
        (key("tries"), vec![below(12)], false),
        (key("nobody"), vec![not([equals("x")])], false),
        (key("nobody"), vec![exists(false)], true),
        (key("kind"), vec![exists(false)], false),
        (key("kind"), vec![exists(true)], true),
        (body("total"), vec![above(120.0)], true),
        (body("total"), vec![equals(120.5)], true),
        (body("total"), vec![between(120, 121)], true),
        (body("total"), vec![between(121, 200)], false),
        (body("id"), vec![equals(9_007_199_254_740_993)], true),
        (body("id"), vec![equals(9_007_199_254_740_992)], false),
        (body("id"), vec![above(9_007_199_254_740_992.0)], true),
        (body("paid"), vec![equals(true)], true),
        (body("paid"), vec![equals("true")], false),
        (body("note"), vec![exists(true)], true),
        (body("note"), vec![equals("null")], false),
        (body("customer.country"), vec![prefix("D")], true),
        (body("customer"), vec![exists(true)], true),
        (body("customer.city"), vec![exists(false)], true),
        (body("customer.country.x"), vec![exists(false)], true),
        (body("tags"), vec![equals("blue")], true),
        (body("tags"), vec![not([equals("blue")])], false),
        (body("none"), vec![exists(true)], true),
        (body("none"), vec![equals("x")], false),
        (body("none"), vec![not([equals("x")])], true),
        (body("items.sku"), vec![prefix("b")], true),
        // One element passes all of it, or none does.
        (body("items.n"), vec![between(2, 5)], false),
        (body("items.n"), vec![between(1, 5)], true),
    ];
    for (field, any, expected) in cases {
        let rules = one(field, any);
        assert_eq!(rules.matches(&message(ORDER)), expected, "{rules}");
    }
}

#[test]
fn all_rules_hold_or_the_message_is_left() {
    let mut rules = one(Field::Topic, [equals("orders.new")]);
    rules.0.extend(one(body("paid"), [equals(true)]).0);
    assert!(rules.matches(&message(ORDER)));
    rules.0.extend(one(body("total"), [equals(1)]).0);
    assert!(!rules.matches(&message(ORDER)));
    assert!(Rules::default().matches(&message("no JSON")));
}

#[test]
fn a_body_that_is_no_json_has_nothing() {
    let deep = "[".repeat(100_000);
    for data in ["", "{", "{\"a\":1} x", "{\"a\":1,\"a\":2}", "nul", &deep] {
        for path in ["a", ""] {
            let holds = |test: Test| one(body(path), [test]).matches(&message(data));
            assert!(holds(exists(false)), "{data:.20}");
            assert!(!holds(exists(true)) && !holds(equals(1)), "{data:.20}");
            assert!(!holds(not([equals(3)])), "{data:.20}");
        }
    }
    let binary = Message {
        data: vec![0xff, b'1'],
        ..Message::default()
    };
    assert!(one(body(""), [exists(false)]).matches(&binary));
    assert!(one(body(""), [equals(1)]).matches(&message("1.0")));
}

#[test]
fn a_list_without_end_is_looked_at_so_far() {
    let list = |at: usize| {
        let mut elements = vec!["0"; 400_000];
        elements[at] = "1";
        message(&format!("[{}]", elements.join(",")))
    };
    let rules = one(body(""), [equals(1)]);
    assert!(rules.matches(&list(ELEMENTS_MAX - 1)));
    assert!(!rules.matches(&list(ELEMENTS_MAX)));
}

#[test]
fn what_costs_more_than_a_message_may_is_taken() {
    let list = message(&format!("[{}]", vec!["0"; ELEMENTS_MAX].join(",")));
    let never = |n: u32| {
        let n = usize::try_from(n).unwrap_or_default();
        one(body(""), vec![equals(1); n])
    };
    let n = COMPARISONS_MAX / 1_000;
    // The list itself is looked at as well.
    assert!(!never(n - 1).matches(&list));
    assert!(never(n + 1).matches(&list));
    let mut unlike = never(n + 1).0[0].any.clone();
    unlike.push(equals(0));
    assert!(one(body(""), [not(unlike)]).matches(&list));
    // The same in rules of which each costs little, and by names on the way to a value.
    let half = never(n / 2 + 1).0;
    let mut holds = half.clone();
    holds[0].any.push(equals(0));
    assert!(!Rules(half.clone()).matches(&list));
    assert!(Rules([holds, half].concat()).matches(&list));
    let names = |n: usize| {
        let names: Vec<_> = (0..n).map(|n| format!("\"{n:x}\":0")).collect();
        message(&format!("{{{}}}", names.join(",")))
    };
    let last = |n: usize| one(body(&format!("{:x}", n - 1)), [equals(1)]).0;
    let (n, times) = (60_000, 16);
    assert!(!Rules(last(n)).matches(&names(n)));
    let zero = one(body(&format!("{:x}", n - 1)), [equals(0)]).0;
    let many = |times| Rules([vec![zero[0].clone(); times], last(n)].concat());
    assert!(!many(times - 1).matches(&names(n)));
    assert!(many(times).matches(&names(n)));
}

#[test]
fn rules_are_shown_as_they_are_written() {
    let mut rules = one(body("total"), [checks([Check::Above(Number::Real(2.0))])]);
    let kinds = [equals("a\"b"), not([equals(1), equals(false)])];
    rules
        .0
        .extend(one(Field::Metadata("kind".to_owned()), kinds).0);
    rules.0.extend(one(body(""), [exists(false)]).0);
    let expected = r#"{ "body.total" = { above = 2.0 }, "metadata.kind" = ["a\"b", { not = [1, false] }], "body" = { exists = false } }"#;
    assert_eq!(rules.to_string(), expected);
}

/// What a rule means, read by another reader of JSON and without any care for time.
fn naive(rule: &Rule, data: &str) -> bool {
    fn values<'v>(value: &'v Value, path: &[&str]) -> Option<Vec<&'v Value>> {
        if let Value::Array(elements) = value {
            let found: Vec<_> = elements
                .iter()
                .filter_map(|element| match path {
                    [] => Some(vec![element]),
                    _ => values(element, path),
                })
                .collect();
            return (path.is_empty() || !found.is_empty()).then(|| found.concat());
        }
        match path {
            [] => Some(vec![value]),
            [name, rest @ ..] => values(value.as_object()?.get(*name)?, rest),
        }
    }
    fn number(value: &Value) -> Option<f64> {
        value.as_f64()
    }
    fn check(check: &Check, value: &Value) -> bool {
        let worth = |number: &Number| match number {
            Number::Whole(value) => *value as f64,
            Number::Real(value) => *value,
        };
        match check {
            Check::Equals(Literal::Text(text)) => value.as_str() == Some(text),
            Check::Equals(Literal::Boolean(wanted)) => value.as_bool() == Some(*wanted),
            Check::Equals(Literal::Number(wanted)) => number(value) == Some(worth(wanted)),
            Check::Prefix(text) => value.as_str().is_some_and(|one| one.starts_with(text)),
            Check::Suffix(text) => value.as_str().is_some_and(|one| one.ends_with(text)),
            Check::Above(bound) => number(value).is_some_and(|one| one > worth(bound)),
            Check::Below(bound) => number(value).is_some_and(|one| one < worth(bound)),
        }
    }
    fn test(one: &Test, found: Option<&Vec<&Value>>) -> bool {
        match (one.exists, found) {
            (Some(exists), _) => exists == found.is_some(),
            (None, None) => false,
            (None, Some(found)) => {
                let all = |value: &&Value| one.checks.iter().all(|one| check(one, value));
                let some = one.checks.is_empty() || found.iter().any(all);
                some && !one.not.iter().any(|inner| test(inner, Some(found)))
            }
        }
    }
    let Field::Body(path) = &rule.field else {
        return false;
    };
    let path: Vec<&str> = path.split('.').filter(|name| !name.is_empty()).collect();
    let body: Option<Value> = serde_json::from_str(data).ok();
    let found = body.as_ref().and_then(|body| values(body, &path));
    rule.any.iter().any(|one| test(one, found.as_ref()))
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        (-3i64..4).prop_map(Number::Whole),
        (-6i32..7).prop_map(|halves| Number::Real(f64::from(halves) / 2.0)),
    ]
}

fn checked() -> impl Strategy<Value = Test> {
    let literal = prop_oneof![
        "[ab]{0,2}".prop_map(Literal::Text),
        number().prop_map(Literal::Number),
        any::<bool>().prop_map(Literal::Boolean),
    ];
    let check = prop_oneof![
        literal.prop_map(Check::Equals),
        "[ab]{0,2}".prop_map(Check::Prefix),
        "[ab]{0,2}".prop_map(Check::Suffix),
        number().prop_map(Check::Above),
        number().prop_map(Check::Below),
    ];
    proptest::collection::vec(check, 1..3).prop_map(checks)
}

fn any_test() -> impl Strategy<Value = Test> {
    let inner = || proptest::collection::vec(checked(), 0..3);
    prop_oneof![
        any::<bool>().prop_map(exists),
        checked(),
        (checked(), inner()).prop_map(|(one, not)| Test { not, ..one }),
        inner().prop_map(not),
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..4).prop_map(Value::from),
        (-6i32..7).prop_map(|halves| Value::from(f64::from(halves) / 2.0)),
        "[ab]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[xy]", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_rule_means_what_a_naive_reading_of_it_means(
        json in json(),
        path in "|[xy]|[xy]\\.[xy]",
        any in proptest::collection::vec(any_test(), 1..4),
        cut in 0usize..40,
    ) {
        let text = json.to_string();
        let rule = Rule { field: body(&path), any };
        for data in [&*text, text.get(cut..).unwrap_or_default()] {
            let rules = Rules(vec![rule.clone()]);
            prop_assert_eq!(rules.matches(&message(data)), naive(&rule, data), "{} {}", rules, data);
        }
    }

    #[test]
    fn any_bytes_are_a_message_that_is_taken_or_left(data: Vec<u8>, path in "[a.]{0,8}", any in any_test()) {
        let rules = one(Field::Body(path), [any]);
        let _ = rules.matches(&Message { data, ..Message::default() });
    }
}
