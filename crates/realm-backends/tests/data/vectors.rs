//! Vectors: everything that is true of them, in each database.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use realm_backends::data::Database;
use realm_model::cloud::documents::{Place, Scalar};
use realm_model::cloud::vectors::{Metric, Near, Shape, Vector, Vectors};
use realm_model::cloud::{CloudError, DataError, Sql};

use crate::server::Server;
use crate::support::{ROOM, code, place, postgres, sqlite, text};

/// Both databases.
async fn each(check: impl AsyncFn(Arc<Database>)) {
    let (_folder, own) = sqlite();
    check(own).await;
    let server = Server::with_vectors();
    check(postgres(&server)).await;
}

const PLANE: Shape = Shape {
    dimension: 2,
    metric: Metric::Euclidean,
};

fn vector(id: &str, values: &[f32], attributes: &str) -> Vector {
    Vector {
        id: id.to_owned(),
        values: values.to_vec(),
        attributes: attributes.to_owned(),
    }
}

fn near(values: &[f32], k: u32) -> Near {
    Near {
        values: values.to_vec(),
        k,
        having: Vec::new(),
    }
}

async fn ids(database: &Database, at: Place<'_>, near: &Near) -> Vec<String> {
    let found = database.nearest(at, PLANE, near).await.unwrap();
    found.into_iter().map(|one| one.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_kept_and_found() {
    each(async |database| {
        let at = place("points");
        database.shape(at, PLANE).await.unwrap();
        database.shape(at, PLANE).await.unwrap();
        let others = [
            Shape {
                dimension: 3,
                ..PLANE
            },
            Shape {
                metric: Metric::Dot,
                ..PLANE
            },
        ];
        for other in others {
            assert_eq!(database.shape(at, other).await, Err(DataError::Conflict));
        }
        let exact = [1.0 / 3.0, -1.5e-10];
        for (id, values, attributes) in [
            ("a", [0.0, 0.0], "{ \"kind\": \"x\", \"n\": 1 }"),
            ("b", [3.0, 4.0], "{\"kind\": \"y\", \"n\": 1.0}"),
            ("c", [0.0, 1.0], "{\"kind\": [\"x\"]}"),
            ("c2", [1.0, 0.0], "{}"),
            ("d", exact, "{}"),
        ] {
            let vector = vector(id, &values, attributes);
            database.upsert(at, PLANE, &vector).await.unwrap();
            assert_eq!(database.get(at, id).await, Ok(Some(vector)));
        }
        let found = database
            .nearest(at, PLANE, &near(&[0.0, 0.0], 1_000))
            .await
            .unwrap();
        let order: Vec<_> = found.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(order, ["a", "d", "c", "c2", "b"]);
        assert!((found[4].distance - 5.0).abs() < 1e-6, "{found:?}");
        assert_eq!(found[0].attributes, "{ \"kind\": \"x\", \"n\": 1 }");
        assert_eq!(ids(&database, at, &near(&[3.0, 3.0], 1)).await, ["b"]);
        let having = |name: &str, value| Near {
            having: vec![(name.to_owned(), value)],
            ..near(&[0.0, 0.0], 10)
        };
        for (asked, expected) in [
            (having("kind", text("x")), &["a"][..]),
            (having("n", Scalar::Integer(1)), &["a", "b"]),
            (having("kind", Scalar::Null), &[]),
            (having("'; DROP TABLE realm_vectors; --", text("'")), &[]),
        ] {
            assert_eq!(ids(&database, at, &asked).await, expected, "{asked:?}");
        }
        let both = Near {
            having: vec![
                ("kind".to_owned(), text("y")),
                ("n".to_owned(), Scalar::Real(1.0)),
            ],
            ..near(&[0.0, 0.0], 10)
        };
        assert_eq!(ids(&database, at, &both).await, ["b"]);
        // Written over, with attributes that are other ones.
        let long = "l".repeat(5_000);
        let attributes = format!("{{\"kind\": \"{long}\"}}");
        database
            .upsert(at, PLANE, &vector("a", &[9.0, 9.0], &attributes))
            .await
            .unwrap();
        assert_eq!(
            ids(&database, at, &having("kind", text("x"))).await,
            [""; 0]
        );
        assert_eq!(
            ids(&database, at, &having("kind", text(&long))).await,
            ["a"]
        );
        assert_eq!(database.delete(at, "a").await, Ok(true));
        assert_eq!(database.delete(at, "a").await, Ok(false));
        assert_eq!(database.get(at, "a").await, Ok(None));
        assert_eq!(
            ids(&database, at, &having("kind", text(&long))).await,
            [""; 0]
        );
        // Another collection has another length, in the same tables.
        let wide = Shape {
            dimension: 4_096,
            metric: Metric::Cosine,
        };
        let at = place("wide");
        database.shape(at, wide).await.unwrap();
        let values = vec![0.25; 4_096];
        database
            .upsert(at, wide, &vector("w", &values, "{}"))
            .await
            .unwrap();
        let found = database.nearest(at, wide, &near(&values, 5)).await.unwrap();
        assert!(
            found.len() == 1 && found[0].distance.abs() < 1e-6,
            "{found:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_without_a_distance_are_refused() {
    each(async |database| {
        let at = place("points");
        let cosine = Shape {
            metric: Metric::Cosine,
            ..PLANE
        };
        for (shape, values) in [
            (PLANE, &[f32::NAN, 0.0][..]),
            (PLANE, &[f32::INFINITY, 0.0]),
            (PLANE, &[f32::NEG_INFINITY, 0.0]),
            (PLANE, &[f32::MAX, 0.0]),
            (PLANE, &[1.0]),
            (PLANE, &[]),
            (PLANE, &[1.0; 3]),
            (cosine, &[0.0, -0.0]),
            (cosine, &[1e-30, 0.0]),
        ] {
            let put = database.upsert(at, shape, &vector("a", values, "{}")).await;
            assert_eq!(code(put), "invalid", "{values:?}");
            let found = database.nearest(at, shape, &near(values, 1)).await;
            assert_eq!(code(found), "invalid", "{values:?}");
        }
        for (name, dimension) in [("large", 1e15), ("small", 1e-14)] {
            let at = place(name);
            for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
                let shape = Shape {
                    dimension: 2,
                    metric,
                };
                let values = [dimension, -dimension];
                database
                    .upsert(at, shape, &vector("a", &values, "{}"))
                    .await
                    .unwrap();
                let found = database
                    .nearest(at, shape, &near(&values, 1))
                    .await
                    .unwrap();
                assert!(found[0].distance.is_finite(), "{found:?}");
            }
        }
        for dimension in [0, 4_097, u32::MAX] {
            let shape = Shape { dimension, ..PLANE };
            assert_eq!(code(database.shape(at, shape).await), "invalid");
        }
        for k in [0, 1_001] {
            let found = database.nearest(at, PLANE, &near(&[0.0, 0.0], k)).await;
            assert_eq!(code(found), "invalid");
        }
        let many = format!(
            "{{{}}}",
            (0..65)
                .map(|n| format!("\"{n}\":1"))
                .collect::<Vec<_>>()
                .join(",")
        );
        let large = format!("{{\"a\": \"{}\"}}", "x".repeat(70_000));
        for (attributes, expected) in [
            ("", "invalid"),
            ("[]", "invalid"),
            ("{\"a\\u0000\": 1}", "invalid"),
            (&many, "invalid"),
            (&large, "too-large"),
        ] {
            let put = database
                .upsert(at, PLANE, &vector("a", &[0.0, 0.0], attributes))
                .await;
            assert_eq!(code(put), expected);
        }
        let put = database
            .upsert(place("A;"), PLANE, &vector("a", &[0.0, 0.0], "{}"))
            .await;
        assert_eq!(code(put), "invalid");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_extension_says_what_to_install() {
    // Debian's own, or a user who may not make extensions.
    let server = Server::with_vectors();
    server.sql(
        "postgres",
        "CREATE ROLE guest LOGIN; GRANT CREATE ON SCHEMA public TO guest",
    );
    let database = crate::support::postgres_as(&server, "guest");
    let refused = database.shape(place("points"), PLANE).await;
    let Err(DataError::Cloud(CloudError::Unsupported(why))) = &refused else {
        panic!("{refused:?}");
    };
    assert!(
        why.contains("pgvector") && why.contains("CREATE EXTENSION"),
        "{why}"
    );
    // Its operator makes it, in a schema of its own, and nothing has to be started anew.
    server.sql(
        "postgres",
        "CREATE SCHEMA \"My \"\"Ext\"; CREATE EXTENSION vector SCHEMA \"My \"\"Ext\"; \
        GRANT USAGE ON SCHEMA \"My \"\"Ext\" TO guest",
    );
    let at = place("points");
    database.shape(at, PLANE).await.unwrap();
    database
        .upsert(at, PLANE, &vector("a", &[1.0, 2.0], "{}"))
        .await
        .unwrap();
    assert_eq!(ids(&database, at, &near(&[0.0, 0.0], 1)).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_that_somebody_spoilt_are_an_answer() {
    let (_folder, database) = sqlite();
    let at = place("points");
    database.shape(at, PLANE).await.unwrap();
    database
        .upsert(at, PLANE, &vector("a", &[0.0, 0.0], "{}"))
        .await
        .unwrap();
    let mut session = database.open("", ROOM).await.unwrap();
    for spoilt in ["x'00'", "x'0000000000000000000000'", "x''", "5"] {
        let spoil = format!("UPDATE realm_vectors SET vector = {spoilt}");
        session.execute(&spoil, &[]).await.unwrap();
        let found = database.nearest(at, PLANE, &near(&[0.0, 0.0], 1)).await;
        assert_eq!(code(found), "backend-failed", "{spoilt}");
    }
}

/// Distances as they are defined.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    match metric {
        Metric::Dot => -dot(a, b),
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()),
        Metric::Euclidean => (dot(a, a) - 2.0 * dot(a, b) + dot(b, b)).max(0.0).sqrt(),
    }
}

#[test]
fn sqlite_postgresql_and_a_simple_model_find_the_same_vectors() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let server = Server::with_vectors();
    let (_folder, own) = sqlite();
    let databases = [own, postgres(&server)];
    let config = Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    };
    // Whole numbers, so that what is equally far is so exactly.
    let values = || prop::collection::vec((-4_i8..5).prop_map(f32::from), 3);
    let world = (
        prop::collection::btree_map("[a-p]", (values(), 0_i64..3), 0..16),
        values(),
        1_u32..8,
        prop::option::of(0_i64..3),
    );
    let number = std::cell::Cell::new(0);
    let ran = TestRunner::new(config).run(&world, |(vectors, asked, k, having)| {
        number.set(number.get() + 1);
        for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
            let shape = Shape {
                dimension: 3,
                metric,
            };
            let name = format!("world-{}-{}", number.get(), metric.word());
            let at = place(&name);
            if shape.takes(&asked).is_err() {
                continue;
            }
            let taken: Vec<_> = vectors
                .iter()
                .filter(|(_, (values, _))| shape.takes(values).is_ok())
                .collect();
            let mut expected: Vec<_> = taken
                .iter()
                .filter(|(_, (_, n))| having.is_none_or(|wanted| wanted == *n))
                .map(|(id, (values, _))| (distance(metric, &asked, values), (*id).clone()))
                .collect();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            let near = Near {
                values: asked.clone(),
                k,
                having: having
                    .map(|n| ("n".to_owned(), Scalar::Integer(n)))
                    .into_iter()
                    .collect(),
            };
            for database in &databases {
                let found = runtime.block_on(async {
                    database.shape(at, shape).await.unwrap();
                    for (id, (values, n)) in &taken {
                        let vector = vector(id, values, &format!("{{\"n\": {n}}}"));
                        database.upsert(at, shape, &vector).await.unwrap();
                    }
                    database.nearest(at, shape, &near).await.unwrap()
                });
                prop_assert_eq!(found.len(), expected.len().min(k as usize));
                for (one, (distance, _)) in found.iter().zip(&expected) {
                    // Each has the distance that belongs to its place, but for the last bits.
                    let own = &vectors[&one.id].0;
                    prop_assert!(
                        (one.distance - distance).abs() < 1e-5,
                        "{found:?} {expected:?}"
                    );
                    prop_assert!((one.distance - self::distance(metric, &asked, own)).abs() < 1e-5);
                }
                if metric != Metric::Cosine {
                    let ids: Vec<_> = found.iter().map(|one| &one.id).collect();
                    let wanted: Vec<_> =
                        expected.iter().take(k as usize).map(|(_, id)| id).collect();
                    // Of roots the last bit may differ; of inner products nothing does.
                    if metric == Metric::Dot {
                        prop_assert_eq!(ids, wanted);
                    }
                }
            }
        }
        Ok(())
    });
    ran.unwrap();
}

/// Not a check: the figure that docs/wasi-cloud.md states. `REALM_MEASURE=1` runs it in full.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_searched_within_its_time() {
    let (_folder, database) = sqlite();
    let full = std::env::var_os("REALM_MEASURE").is_some();
    let n_vectors = if full { 100_000 } else { 500 };
    let shape = Shape {
        dimension: 384,
        metric: Metric::Cosine,
    };
    let at = place("measured");
    database.shape(at, shape).await.unwrap();
    let values = |seed: usize| -> Vec<f32> {
        (0..384_u32)
            .map(|n| ((seed as f32) * 0.37 + n as f32).sin())
            .collect()
    };
    let mut session = database.open("", 1 << 40).await.unwrap();
    session.begin().await.unwrap();
    let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect();
    for seed in 0..n_vectors {
        let row = [
            realm_model::cloud::SqlValue::Text(format!("{seed:06}")),
            realm_model::cloud::SqlValue::Bytes(bytes(values(seed))),
        ];
        let add = "INSERT INTO realm_vectors VALUES ('measured', $1, $2, '{}')";
        session.execute(add, &row).await.unwrap();
    }
    session.commit().await.unwrap();
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        let found = database
            .nearest(at, shape, &near(&values(77), 10))
            .await
            .unwrap();
        assert_eq!((found.len(), found[0].id.as_str()), (10, "000077"));
        let took = begun.elapsed();
        assert!(
            took < std::time::Duration::from_secs(60),
            "{n_vectors} vectors took {took:?}"
        );
        if full {
            use std::io::Write as _;
            writeln!(std::io::stderr(), "{n_vectors} vectors took {took:?}").unwrap();
        }
    }
}
