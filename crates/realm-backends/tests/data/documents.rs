//! Documents: everything that is true of them, in each database.

use std::sync::Arc;

use realm_backends::data::Database;
use realm_model::cloud::documents::{
    Documents, Expected, Filter, Node, Order, Place, Query, Scalar, Test,
};
use realm_model::cloud::{DataError, Sql, limits};
use serde_json::{Value, json};

use crate::server::Server;
use crate::support::{ROOM, code, field, place, postgres, sqlite, text};

/// Both databases, by name.
async fn each(check: impl AsyncFn(Arc<Database>)) {
    let (_folder, own) = sqlite();
    check(own).await;
    let server = Server::start(None, "scram-sha-256");
    check(postgres(&server)).await;
}

async fn ids(database: &Database, at: Place<'_>, query: &Query) -> Vec<String> {
    let page = database.find(at, query).await.unwrap();
    assert_eq!(page.cursor, None);
    page.documents.into_iter().map(|one| one.id).collect()
}

fn all(filter: Filter) -> Query {
    Query {
        filter,
        limit: 1_000,
        ..Query::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_come_back_as_they_were_put_and_revisions_guard_them() {
    each(async |database| {
        let at = place("people");
        let body = "{ \"name\" : \"\\u0000 \u{1F980}\", \"n\": 1.0, \"big\": 123456789012345678901234567890 }";
        let first = database.put(at, "a", body, Expected::Absent).await.unwrap();
        let read = database.get(at, "a").await.unwrap().unwrap();
        assert_eq!((read.body.as_str(), read.revision), (body, first));
        let again = database.put(at, "a", "{}", Expected::Absent).await;
        assert_eq!(again, Err(DataError::Conflict));
        let second = database.put(at, "a", "{}", Expected::Revision(first)).await.unwrap();
        assert!(second > first);
        for (id, expected) in [("a", first), ("b", first), ("a", 0), ("a", u64::MAX)] {
            let expected = Expected::Revision(expected);
            let late = database.put(at, id, "{}", expected).await;
            assert_eq!(late, Err(DataError::Conflict));
            let late = database.delete(at, id, expected).await;
            assert_eq!(late, Err(DataError::Conflict));
        }
        let third = database.put(at, "a", "{\"n\":3}", Expected::Anything).await.unwrap();
        let expected = Expected::Revision(third);
        assert_eq!(database.delete(at, "a", expected).await, Ok(true));
        assert_eq!(database.delete(at, "a", Expected::Anything).await, Ok(false));
        assert_eq!(database.get(at, "a").await, Ok(None));
        // Who read the one before does not take this one for it.
        let fourth = database.put(at, "a", "{}", Expected::Anything).await.unwrap();
        assert_ne!(fourth, third);
        // Another collection and another database have documents of their own.
        assert_eq!(database.get(place("others"), "a").await, Ok(None));
        let elsewhere = Place {
            database: "elsewhere",
            ..at
        };
        assert_eq!(database.get(elsewhere, "a").await, Ok(None));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_words_are_refused_or_are_words() {
    each(async |database| {
        let at = place("people");
        let hostile = [
            "'; DROP TABLE realm_documents; --",
            "\" OR \"\"=\"",
            "$1",
            "%",
            "\\",
            "a' || (SELECT 1) || '",
            "\u{202e}x",
        ];
        for word in hostile {
            let body = json!({ word: word, "n": 1 }).to_string();
            database
                .put(at, word, &body, Expected::Absent)
                .await
                .unwrap();
            database.index(at, word).await.unwrap();
            let query = all(field(word, Test::Equal(text(word))));
            assert_eq!(ids(&database, at, &query).await, [word], "{word}");
        }
        assert_eq!(
            database.count(at, &Filter::default()).await,
            Ok(hostile.len() as u64)
        );
        let long = "x".repeat(300);
        for name in ["", "A", "a b", "a;b", "a\"", "../a", "\u{e9}", &long] {
            assert_eq!(
                code(database.get(place(name), "a").await),
                "invalid",
                "{name}"
            );
        }
        for id in ["", "a\0", "a\nb"] {
            let put = database.put(at, id, "{}", Expected::Anything).await;
            assert_eq!(code(put), "invalid", "{id:?}");
        }
        assert_eq!(code(database.get(at, &long).await), "too-large");
        for path in ["", ".", "a..b", "a.", "a\0b", &"a.".repeat(40)] {
            assert_eq!(code(database.index(at, path).await), "invalid", "{path:?}");
        }
        let huge = format!("{{\"a\": \"{}\"}}", "x".repeat(limits::DOCUMENT_BYTES_MAX));
        let put = database.put(at, "huge", &huge, Expected::Anything).await;
        assert_eq!(code(put), "too-large");
        let deep = "{\"a\":".repeat(100_000);
        for body in [
            "",
            "[]",
            "1",
            "{\"a\":1}x",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1e999}",
            &deep,
        ] {
            let put = database.put(at, "bad", body, Expected::Anything).await;
            assert_eq!(code(put), "invalid");
        }
        let cursors = [
            "",
            ".",
            "<",
            "<.a",
            ">40.a",
            "<4.a",
            "<zz.a",
            "<40<40.a",
            "<\u{e9}.a",
            "<40.\0",
        ];
        for cursor in cursors {
            let query = Query {
                order: vec![Order {
                    field: "n".to_owned(),
                    descending: false,
                }],
                cursor: Some(cursor.to_owned()),
                limit: 1,
                ..Query::default()
            };
            let found = database.find(at, &query).await;
            // An empty key stands before everything.
            if cursor == "<.a" {
                assert!(found.is_ok());
            } else {
                assert_eq!(code(found), "invalid", "{cursor}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_are_no_trees_are_refused() {
    let (_folder, database) = sqlite();
    let at = place("people");
    let leaf = || Node::Field {
        field: "a".to_owned(),
        test: Test::Exists(true),
    };
    let deep = (0..20).map(|n| {
        if n == 0 {
            leaf()
        } else {
            Node::All(vec![n - 1])
        }
    });
    for nodes in [
        vec![Node::All(vec![0])],
        vec![Node::All(vec![1]), leaf()],
        vec![leaf(), leaf()],
        vec![leaf(), Node::All(vec![0, 0])],
        vec![leaf(), Node::Any(vec![0]), Node::Any(vec![0, 1])],
        vec![leaf(), Node::Any(vec![u32::MAX])],
        deep.collect(),
        vec![leaf(); 200],
        vec![Node::Field {
            field: "a".to_owned(),
            test: Test::Equal(Scalar::Real(f64::NAN)),
        }],
        vec![Node::Field {
            field: "a".to_owned(),
            test: Test::In(vec![Scalar::Null; 1_001]),
        }],
    ] {
        let count = database.count(at, &Filter(nodes)).await;
        assert_eq!(code(count), "invalid");
    }
    for limit in [0, 1_001, u32::MAX] {
        let query = Query {
            limit,
            ..Query::default()
        };
        assert_eq!(code(database.find(at, &query).await), "invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_bounds_and_cursors_hold_while_others_write() {
    each(async |database| {
        let at = place("pages");
        for n in 0..40 {
            let body = json!({"n": n % 7, "pad": "x".repeat(1_000)}).to_string();
            let id = format!("{n:03}");
            database
                .put(at, &id, &body, Expected::Absent)
                .await
                .unwrap();
        }
        for indexed in [false, true] {
            if indexed {
                database.index(at, "n").await.unwrap();
                database.index(at, "n").await.unwrap();
            }
            for descending in [false, true] {
                let order = vec![Order {
                    field: "n".to_owned(),
                    descending,
                }];
                let whole = ids(
                    &database,
                    at,
                    &Query {
                        order: order.clone(),
                        ..all(Filter::default())
                    },
                )
                .await;
                let mut found = Vec::new();
                let mut query = Query {
                    order,
                    limit: 9,
                    ..Query::default()
                };
                loop {
                    let page = database.find(at, &query).await.unwrap();
                    found.extend(page.documents.into_iter().map(|one| one.id));
                    assert!(found.len() <= whole.len(), "{found:?}");
                    // What is deleted and comes again behind the cursor is neither lost nor seen twice.
                    let last = found.last().unwrap().clone();
                    let before = database.get(at, &last).await.unwrap().unwrap().body;
                    database
                        .delete(at, &last, Expected::Anything)
                        .await
                        .unwrap();
                    database
                        .put(at, &last, &before, Expected::Absent)
                        .await
                        .unwrap();
                    query.cursor = page.cursor;
                    if query.cursor.is_none() {
                        break;
                    }
                }
                assert_eq!(found, whole, "{indexed} {descending}");
            }
        }
        // More than a page may have: fewer documents, and a cursor.
        let at = place("large");
        let body = json!({"a": "x".repeat(900_000)}).to_string();
        for n in 0..20 {
            database
                .put(at, &format!("{n:02}"), &body, Expected::Absent)
                .await
                .unwrap();
        }
        let mut query = all(Filter::default());
        let page = database.find(at, &query).await.unwrap();
        assert!(
            (10..20).contains(&page.documents.len()),
            "{}",
            page.documents.len()
        );
        query.cursor = page.cursor;
        let rest = database.find(at, &query).await.unwrap();
        assert_eq!(page.documents.len() + rest.documents.len(), 20);
        assert_eq!(rest.cursor, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_follow_documents_and_have_limits() {
    each(async |database| {
        let at = place("people");
        let long = json!({"name": "x".repeat(limits::INDEXED_BYTES_MAX + 1)}).to_string();
        database
            .put(at, "long", &long, Expected::Absent)
            .await
            .unwrap();
        assert_eq!(code(database.index(at, "name").await), "too-large");
        database
            .delete(at, "long", Expected::Anything)
            .await
            .unwrap();
        database.index(at, "name").await.unwrap();
        // Nothing of a put that the index refuses is there.
        assert_eq!(
            code(database.put(at, "long", &long, Expected::Absent).await),
            "too-large"
        );
        assert_eq!(database.get(at, "long").await, Ok(None));
        let many = json!({"name": vec![0; limits::INDEXED_ELEMENTS_MAX + 1]}).to_string();
        assert_eq!(
            code(database.put(at, "many", &many, Expected::Absent).await),
            "invalid"
        );
        let named = |name: &str| all(field("name", Test::Equal(text(name))));
        for name in ["ann", "bob"] {
            let body = json!({ "name": name }).to_string();
            database
                .put(at, "1", &body, Expected::Anything)
                .await
                .unwrap();
            assert_eq!(ids(&database, at, &named(name)).await, ["1"]);
        }
        assert!(ids(&database, at, &named("ann")).await.is_empty());
        database.delete(at, "1", Expected::Anything).await.unwrap();
        assert_eq!(database.count(at, &named("bob").filter).await, Ok(0));
        for n in 1..limits::INDEXES_MAX {
            database.index(at, &format!("f{n}")).await.unwrap();
        }
        assert_eq!(code(database.index(at, "more").await), "invalid");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_write_at_once_and_each_is_counted_once() {
    each(async |database| {
        let at = place("counter");
        database.index(at, "n").await.unwrap();
        database
            .put(at, "one", "{\"n\": 0}", Expected::Absent)
            .await
            .unwrap();
        let writers = (0..8).map(|writer| {
            let database = Arc::clone(&database);
            tokio::spawn(async move {
                for round in 0..10 {
                    // Every writer counts up what all share ..
                    loop {
                        let read = database.get(at, "one").await.unwrap().unwrap();
                        let value: Value = serde_json::from_str(&read.body).unwrap();
                        let body = json!({"n": value["n"].as_i64().unwrap() + 1}).to_string();
                        match database
                            .put(at, "one", &body, Expected::Revision(read.revision))
                            .await
                        {
                            Ok(_) => break,
                            Err(DataError::Conflict) => {}
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                    // .. and writes one of its own, and an index comes to be meanwhile.
                    let body = json!({"m": round}).to_string();
                    let id = format!("{writer}-{round}");
                    database
                        .put(at, &id, &body, Expected::Absent)
                        .await
                        .unwrap();
                    if writer == 0 && round == 5 {
                        database.index(at, "m").await.unwrap();
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let found = all(field("n", Test::Equal(Scalar::Integer(80))));
        assert_eq!(ids(&database, at, &found).await, ["one"]);
        // By the index, and by looking at each.
        let there = field("m", Test::GreaterOrEqual(Scalar::Integer(0)));
        assert_eq!(database.count(at, &there).await, Ok(80));
        assert_eq!(
            database.count(at, &field("m", Test::Exists(true))).await,
            Ok(80)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_are_made_while_others_write_miss_nothing() {
    each(async |database| {
        let at = place("busy");
        let fields: Vec<_> = (0..10).map(|n| format!("f{n}")).collect();
        let body: Value = fields
            .iter()
            .map(|field| (field.clone(), json!(1)))
            .collect();
        let body = body.to_string();
        for n in 0..150 {
            let id = format!("m{n:03}");
            database
                .put(at, &id, &body, Expected::Absent)
                .await
                .unwrap();
        }
        let writers = (0..4).map(|writer| {
            let (database, body) = (Arc::clone(&database), body.clone());
            tokio::spawn(async move {
                for n in 0..40 {
                    // Before those that are there: where an index that comes to be has looked already.
                    let id = format!("{n:03}-{writer}");
                    database
                        .put(at, &id, &body, Expected::Absent)
                        .await
                        .unwrap();
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        for field in &fields {
            database.index(at, field).await.unwrap();
        }
        for writer in writers {
            writer.await.unwrap();
        }
        for name in &fields {
            let by_index = field(name, Test::Equal(Scalar::Integer(1)));
            assert_eq!(database.count(at, &by_index).await, Ok(310), "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_somebody_dropped_or_spoilt_are_an_answer() {
    each(async |database| {
        let at = place("people");
        database.put(at, "a", "{}", Expected::Absent).await.unwrap();
        let mut session = database.open("", ROOM).await.unwrap();
        session
            .execute("UPDATE realm_documents SET body = '{'", &[])
            .await
            .unwrap();
        assert_eq!(
            code(database.find(at, &all(Filter::default())).await),
            "invalid"
        );
        for table in [
            "realm_documents",
            "realm_document_keys",
            "realm_document_indexes",
        ] {
            session
                .execute(&format!("DROP TABLE {table}"), &[])
                .await
                .unwrap();
        }
        assert_eq!(database.get(at, "a").await, Ok(None));
        database.put(at, "a", "{}", Expected::Absent).await.unwrap();
        session
            .execute("DROP TABLE realm_documents", &[])
            .await
            .unwrap();
        session
            .execute("CREATE TABLE realm_documents (x INTEGER)", &[])
            .await
            .unwrap();
        assert_eq!(code(database.get(at, "a").await), "backend-failed");
    })
    .await;
}

/// A clock that is set back would give a revision twice, over a deletion.
#[tokio::test(flavor = "multi_thread")]
async fn first_revisions_say_nothing_of_a_clock() {
    let (_folder, database) = sqlite();
    let at = place("c");
    let mut revisions = Vec::new();
    for _ in 0..30 {
        let put = Documents::put(&*database, at, "a", "{}", Expected::Absent).await;
        revisions.push(put.unwrap());
        Documents::delete(&*database, at, "a", Expected::Anything)
            .await
            .unwrap();
    }
    assert!(!revisions.is_sorted(), "{revisions:?}");
    // There is room for as many changes as a document has.
    assert!(revisions.iter().all(|one| *one <= u64::MAX >> 2));
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 30);
}
