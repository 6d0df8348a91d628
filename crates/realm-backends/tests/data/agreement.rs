//! Documents of chance, and questions of chance about them: both databases against the model.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use realm_backends::data::Database;
use realm_model::cloud::documents::{
    Documents, Expected, Filter, Node, Order, Place, Query, Scalar, Test,
};
use serde_json::{Value, json};

use crate::model::Model;
use crate::server::Server;
use crate::support::{place, postgres, sqlite};

/// Numbers in which databases tend to differ.
fn numbers() -> Vec<Value> {
    vec![
        json!(0),
        json!(-0.0),
        json!(1),
        json!(1.0),
        json!(1.5),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(9_007_199_254_740_993_i64),
        json!(9_007_199_254_740_992.0),
        json!(1e300),
        json!(5e-324),
    ]
}

/// Texts in which they do.
const TEXTS: &[&str] = &[
    "",
    "a",
    "A",
    "b",
    "ab",
    "a b",
    "\u{e9}",
    "e\u{301}",
    "z",
    "\u{1F980}",
    "\u{ffff}",
    "1",
    "null",
    "\0",
    "%",
    "'",
];

/// Values in which databases tend to differ.
fn values() -> impl Strategy<Value = Value> {
    let numbers = prop::sample::select(numbers());
    let texts = prop::sample::select(TEXTS);
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        2 => any::<bool>().prop_map(Into::into),
        4 => numbers,
        4 => texts.prop_map(Into::into),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
            prop::collection::btree_map("[ab]", inner, 0..2)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A value that fields are compared with; of arrays and objects there is none.
fn scalar_of(value: Value) -> Option<Scalar> {
    Some(match value {
        Value::Null => Scalar::Null,
        Value::Bool(value) => Scalar::Boolean(value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Scalar::Integer(number),
            None => Scalar::Real(number.as_f64()?),
        },
        Value::String(text) => Scalar::Text(text),
        Value::Array(_) | Value::Object(_) => return None,
    })
}

fn scalars() -> impl Strategy<Value = Scalar> {
    values().prop_filter_map("a scalar", scalar_of)
}

fn paths() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "a.a", "b.a", "a.b"]).prop_map(str::to_owned)
}

fn tests() -> impl Strategy<Value = Test> {
    prop_oneof![
        scalars().prop_map(Test::Equal),
        scalars().prop_map(Test::NotEqual),
        scalars().prop_map(Test::Less),
        scalars().prop_map(Test::LessOrEqual),
        scalars().prop_map(Test::Greater),
        scalars().prop_map(Test::GreaterOrEqual),
        prop::collection::vec(scalars(), 0..4).prop_map(Test::In),
        any::<bool>().prop_map(Test::Exists),
        scalars().prop_map(Test::Contains),
    ]
}

fn filters() -> impl Strategy<Value = Filter> {
    let leaves = prop::collection::vec((paths(), tests()), 0..4);
    (leaves, any::<bool>(), any::<bool>()).prop_map(|(leaves, any, nested)| {
        let count = u32::try_from(leaves.len()).unwrap();
        let leaf = |(field, test)| Node::Field { field, test };
        let mut nodes: Vec<_> = leaves.into_iter().map(leaf).collect();
        let join = |of| if any { Node::Any(of) } else { Node::All(of) };
        match count {
            0 => {}
            3 if nested => {
                nodes.push(Node::Any(vec![0, 1]));
                nodes.push(Node::All(vec![2, 3]));
            }
            _ => nodes.push(join((0..count).collect())),
        }
        Filter(nodes)
    })
}

fn queries() -> impl Strategy<Value = Query> {
    let order =
        (paths(), any::<bool>()).prop_map(|(field, descending)| Order { field, descending });
    let orders = prop::collection::vec(order, 0..3);
    (filters(), orders, 1_u32..6).prop_map(|(filter, order, limit)| Query {
        filter,
        order,
        limit,
        cursor: None,
    })
}

fn bodies() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[abc]", values(), 0..4)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

/// One database against the model: every page of each query, and the count.
async fn agree(database: &Database, at: Place<'_>, model: &Model, query: &Query) {
    let expected = model.find(query);
    let mut found = Vec::new();
    let mut query = query.clone();
    loop {
        let page = database.find(at, &query).await.unwrap();
        assert!(page.documents.len() <= query.limit as usize);
        found.extend(page.documents.into_iter().map(|one| one.id));
        // Pages that do not end would otherwise go on for ever.
        assert!(found.len() <= expected.len(), "{found:?} {expected:?}");
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, expected, "{query:?}");
    let n_found = database.count(at, &query.filter).await.unwrap();
    assert_eq!(n_found, expected.len() as u64, "{query:?}");
}

#[test]
fn sqlite_postgresql_and_a_simple_model_give_the_same_answers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let server = Server::start(None, "scram-sha-256");
    let (_folder, own) = sqlite();
    let databases = [own, postgres(&server)];
    let config = Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    };
    let world = (
        prop::collection::btree_map("[a-h]", bodies(), 0..12),
        prop::collection::vec(paths(), 0..4),
        prop::collection::vec(queries(), 1..12),
        prop::collection::vec("[a-h]", 0..3),
    );
    let number = std::cell::Cell::new(0);
    let ran = TestRunner::new(config).run(&world, |(bodies, indexes, queries, deleted)| {
        number.set(number.get() + 1);
        let name = format!("world-{}", number.get());
        let at = place(&name);
        let mut model = Model::default();
        runtime.block_on(async {
            for database in &databases {
                model.0.clear();
                for (number, (id, body)) in bodies.iter().enumerate() {
                    // Indexes are there before some documents, and after others.
                    if let Some(field) = indexes.get(number) {
                        database.index(at, field).await.unwrap();
                    }
                    let body = body.to_string();
                    database
                        .put(at, id, &body, Expected::Anything)
                        .await
                        .unwrap();
                    model
                        .0
                        .insert(id.clone(), serde_json::from_str(&body).unwrap());
                }
                for field in &indexes {
                    database.index(at, field).await.unwrap();
                }
                for id in &deleted {
                    let there = database.delete(at, id, Expected::Anything).await.unwrap();
                    assert_eq!(there, model.0.remove(id).is_some());
                }
                for query in &queries {
                    agree(database, at, &model, query).await;
                }
            }
        });
        Ok(())
    });
    ran.unwrap();
}

/// Each value against each other one, by each test, and in order: with an index and without.
#[tokio::test(flavor = "multi_thread")]
async fn every_pair_of_values_compares_alike() {
    let server = Server::start(None, "scram-sha-256");
    let (_folder, own) = sqlite();
    let texts = TEXTS.iter().map(|text| json!(text));
    let plain = [Value::Null, json!(false), json!(true)];
    let values: Vec<_> = numbers().into_iter().chain(texts).chain(plain).collect();
    let compound = [json!([]), json!({}), json!([1, "a", null, [1]])];
    let at = place("pairs");
    for database in [own, postgres(&server)] {
        let mut model = Model::default();
        for (n, value) in values.iter().chain(&compound).enumerate() {
            let body = json!({ "a": value });
            let id = format!("{n:02}");
            let text = body.to_string();
            let put = database.put(at, &id, &text, Expected::Absent).await;
            put.unwrap();
            model.0.insert(id, body);
        }
        for indexed in [false, true] {
            if indexed {
                database.index(at, "a").await.unwrap();
            }
            for scalar in values.iter().cloned().filter_map(scalar_of) {
                for kind in [
                    Test::Equal,
                    Test::NotEqual,
                    Test::Less,
                    Test::LessOrEqual,
                    Test::Greater,
                    Test::GreaterOrEqual,
                    Test::Contains,
                ] {
                    let query = Query {
                        filter: crate::support::field("a", kind(scalar.clone())),
                        limit: 100,
                        ..Query::default()
                    };
                    agree(&database, at, &model, &query).await;
                }
            }
            for descending in [false, true] {
                let field = "a".to_owned();
                let query = Query {
                    order: vec![Order { field, descending }],
                    limit: 7,
                    ..Query::default()
                };
                agree(&database, at, &model, &query).await;
            }
        }
    }
}
