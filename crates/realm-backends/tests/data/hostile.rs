//! Tables of realm's own names that a guest made by SQL, and questions that take long to answer: neither
//! takes the node's memory, nor a thread of it for long.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use realm_backends::data::Database;
use realm_model::cloud::documents::{
    Documents, Expected, Filter, Meter, Node, Place, Query, Scalar, Test,
};
use realm_model::cloud::search::{Look, Search, Text, Weight};
use realm_model::cloud::vectors::{Metric, Near, Shape, Vector, Vectors};
use realm_model::cloud::{CloudError, Sql, limits};

use crate::server::Server;
use crate::support::{ROOM, code, place, postgres, sqlite};

const SHAPE: Shape = Shape {
    dimension: 2,
    metric: Metric::Dot,
};

async fn run(database: &Database, statements: &[&str]) {
    let mut session = database.open("", ROOM).await.unwrap();
    for statement in statements {
        let done = session.execute(statement, &[]).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

fn query(limit: u32) -> Query {
    Query {
        limit,
        ..Query::default()
    }
}

fn look(query: &str) -> Look {
    Look {
        query: query.to_owned(),
        limit: 10,
        offset: 0,
    }
}

fn near(k: u32) -> Near {
    Near {
        values: vec![1.0, 0.0],
        k,
        having: Vec::new(),
    }
}

/// Each row of them is small: what gives them all to a caller that wants one has thousands in memory, and
/// without an end it would not come to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_more_rows_than_realm_puts_there_is_none_of_its_own() {
    let numbers = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5000)";
    let (_folder, own) = sqlite();
    let server = Server::start(None, "scram-sha-256");
    for database in [own, postgres(&server)] {
        let many = format!(
            "CREATE VIEW realm_documents AS {numbers} SELECT 'c' AS collection, 'i' AS id, \
             CAST(1 AS BIGINT) AS revision, '{{}}' AS body FROM r"
        );
        run(&database, &[&many]).await;
        let at = place("c");
        assert_eq!(
            code(Documents::get(&*database, at, "i").await),
            "backend-failed"
        );
        run(&database, &["DROP VIEW realm_documents"]).await;
        let many = format!(
            "CREATE VIEW realm_document_indexes AS {numbers} SELECT 'c' AS collection, \
             CAST(n AS TEXT) AS field FROM r"
        );
        run(&database, &["DROP TABLE realm_document_indexes", &many]).await;
        // Both the tables that are missing now are made, and the view stays.
        assert_eq!(code(database.find(at, &query(1)).await), "backend-failed");
        assert_eq!(
            code(database.count(at, &Filter::default()).await),
            "backend-failed"
        );
        let put = Documents::put(&*database, at, "i", "{}", Expected::Anything).await;
        assert_eq!(code(put), "backend-failed");
    }
}

/// More bytes than are ever put there by realm are not read as JSON, words or numbers.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_larger_than_realm_puts_there_is_none_of_its_own() {
    let (_folder, database) = sqlite();
    let at = place("c");
    let text = Text {
        id: "i".to_owned(),
        parts: vec![(Weight::Body, "word".to_owned())],
        attributes: "{}".to_owned(),
    };
    let vector = Vector {
        id: "i".to_owned(),
        values: vec![1.0, 0.0],
        attributes: "{}".to_owned(),
    };
    Documents::put(&*database, at, "i", "{}", Expected::Anything)
        .await
        .unwrap();
    Search::put(&*database, at, &text).await.unwrap();
    database.shape(at, SHAPE).await.unwrap();
    database.upsert(at, SHAPE, &vector).await.unwrap();
    // A little more than a document, an attribute and a text may have.
    let zeros = |n: usize| format!("replace(hex(zeroblob({})), '0', ' ')", n / 2 + 64);
    for (table, column, length) in [
        ("realm_documents", "body", limits::DOCUMENT_BYTES_MAX),
        ("realm_vectors", "attributes", limits::ATTRIBUTES_BYTES_MAX),
        ("realm_texts", "attributes", limits::ATTRIBUTES_BYTES_MAX),
    ] {
        let spoilt = format!("UPDATE {table} SET {column} = '{{}}' || {}", zeros(length));
        run(&database, &[&spoilt]).await;
    }
    assert_eq!(
        code(Documents::get(&*database, at, "i").await),
        "backend-failed"
    );
    assert_eq!(code(database.find(at, &query(1)).await), "backend-failed");
    let filter = Filter(vec![Node::Field {
        field: "a".to_owned(),
        test: Test::Exists(false),
    }]);
    assert_eq!(code(database.count(at, &filter).await), "backend-failed");
    assert_eq!(code(database.index(at, "a").await), "backend-failed");
    assert_eq!(
        code(Vectors::get(&*database, at, "i").await),
        "backend-failed"
    );
    assert_eq!(
        code(database.nearest(at, SHAPE, &near(1)).await),
        "backend-failed"
    );
    assert_eq!(
        code(database.search(at, &look("word")).await),
        "backend-failed"
    );
    let long = "x".repeat(limits::TEXT_BYTES_MAX + 1_000);
    let spoilt = format!(
        "UPDATE realm_texts SET attributes = '{{}}', parts = 'C{}:{long}'",
        long.len()
    );
    let halves: Vec<_> = spoilt.split(&long).collect();
    let spoilt = format!(
        "{}' || {} || '{}",
        halves[0],
        zeros(long.len() - 128),
        halves[1]
    );
    run(&database, &[&spoilt]).await;
    assert_eq!(
        code(database.search(at, &look("word")).await),
        "backend-failed"
    );
}

/// What a call holds.
#[derive(Default)]
struct Counted {
    now: AtomicUsize,
    most: AtomicUsize,
    n_max: usize,
}

impl Counted {
    fn of(n_max: usize) -> Arc<Self> {
        Arc::new(Self {
            n_max,
            ..Self::default()
        })
    }
}

impl Meter for Counted {
    fn more(&self, n_bytes: usize) -> Result<(), CloudError> {
        let now = self.now.load(Ordering::Relaxed) + n_bytes;
        if now > self.n_max {
            return Err(CloudError::Invalid("no room".to_owned()));
        }
        self.now.store(now, Ordering::Relaxed);
        self.most.fetch_max(now, Ordering::Relaxed);
        Ok(())
    }

    fn less(&self, n_bytes: usize) {
        self.now.fetch_sub(n_bytes, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_holds_is_counted_and_ends_it_where_there_is_no_room() {
    let (_folder, database) = sqlite();
    let long = "x".repeat(50_000);
    for id in 0..20 {
        let (id, at) = (format!("{id:02}"), place("c"));
        let body = format!("{{\"a\":\"{long}\"}}");
        Documents::put(&*database, at, &id, &body, Expected::Anything)
            .await
            .unwrap();
        let attributes = format!("{{\"a\":\"{long}\"}}");
        let text = Text {
            id: id.clone(),
            parts: vec![(Weight::Body, "word".to_owned())],
            attributes: attributes.clone(),
        };
        Search::put(&*database, at, &text).await.unwrap();
        database.shape(at, SHAPE).await.unwrap();
        let vector = Vector {
            id,
            values: vec![1.0, 0.0],
            attributes,
        };
        database.upsert(at, SHAPE, &vector).await.unwrap();
    }
    for (n_max, fits) in [(usize::MAX, true), (400_000, false)] {
        for which in 0..3 {
            let counted = Counted::of(n_max);
            let at = Place {
                meter: &*counted,
                ..place("c")
            };
            let n_found = match which {
                0 => database
                    .find(at, &query(20))
                    .await
                    .map(|found| found.documents.len()),
                1 => {
                    let look = Look {
                        limit: 20,
                        ..look("word")
                    };
                    database.search(at, &look).await.map(|found| found.len())
                }
                _ => database
                    .nearest(at, SHAPE, &near(20))
                    .await
                    .map(|found| found.len()),
            };
            assert_eq!(n_found.is_ok(), fits, "{which}: {n_found:?}");
            assert_eq!(counted.now.load(Ordering::Relaxed), 0, "{which}");
            let most = counted.most.load(Ordering::Relaxed);
            assert!(
                most >= if fits { 1_000_000 } else { 200_000 },
                "{which}: {most}"
            );
        }
    }
}

/// How often a call let others on its thread have their turn.
async fn n_turns<T>(call: impl Future<Output = T>) -> usize {
    let mut call = pin!(call);
    let mut n_turns = 0;
    std::future::poll_fn(|context| {
        n_turns += 1;
        call.as_mut().poll(context).map(drop)
    })
    .await;
    n_turns
}

/// One page of small documents that a filter has much to do with.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_compares_much_lets_others_have_their_turn() {
    let (_folder, database) = sqlite();
    let at = place("c");
    let zeros = vec!["0"; 2_000].join(",");
    for id in 0..40 {
        let (id, body) = (format!("{id:02}"), format!("{{\"a\":[{zeros}]}}"));
        Documents::put(&*database, at, &id, &body, Expected::Anything)
            .await
            .unwrap();
    }
    let mut nodes: Vec<_> = (1..100)
        .map(|value| Node::Field {
            field: "a".to_owned(),
            test: Test::Contains(Scalar::Integer(value)),
        })
        .collect();
    nodes.push(Node::Any((0..99).collect()));
    let much = Query {
        filter: Filter(nodes),
        ..query(10)
    };
    let n_plain = n_turns(database.find(at, &query(40))).await;
    let n_much = n_turns(database.find(at, &much)).await;
    // 40 times 200,000 comparisons are some 30 pieces of work.
    assert!(
        n_much >= n_plain + 15,
        "{n_much} turns, and {n_plain} without"
    );
    let n_much = n_turns(database.count(at, &much.filter)).await;
    assert!(
        n_much >= n_plain + 15,
        "{n_much} turns, and {n_plain} without"
    );
}
