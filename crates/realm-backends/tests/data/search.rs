//! Texts: everything that is true of them, in each database.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use realm_backends::data::Database;
use realm_model::cloud::documents::Place;
use realm_model::cloud::search::{Look, Search, Text, Weight};
use realm_model::cloud::{Sql, limits};

use crate::server::Server;
use crate::support::{ROOM, code, place, postgres, sqlite};

/// Both databases.
async fn each(check: impl AsyncFn(Arc<Database>)) {
    let (_folder, own) = sqlite();
    check(own).await;
    let server = Server::start(None, "scram-sha-256");
    check(postgres(&server)).await;
}

fn body(id: &str, body: &str) -> Text {
    Text {
        id: id.to_owned(),
        parts: vec![(Weight::Body, body.to_owned())],
        attributes: "{}".to_owned(),
    }
}

fn look(query: &str) -> Look {
    Look {
        query: query.to_owned(),
        limit: 100,
        offset: 0,
    }
}

async fn ids(database: &Database, at: Place<'_>, query: &str) -> Vec<String> {
    let found = database.search(at, &look(query)).await;
    let found = found.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    let mut ids: Vec<_> = found.into_iter().map(|hit| hit.id).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_one_index_are_not_found_in_another() {
    each(async |database| {
        for (name, text) in [("a", "one two"), ("b", "two three"), ("61", "three a")] {
            database.put(place(name), &body(name, text)).await.unwrap();
        }
        assert_eq!(ids(&database, place("a"), "two").await, ["a"]);
        assert_eq!(ids(&database, place("b"), "two").await, ["b"]);
        // What marks an index is no word of its texts.
        for query in ["s61", "s6*", "_", "_*", "s61 two"] {
            let found = database.search(place("a"), &look(query)).await;
            assert!(
                found.is_err() || found.as_ref().unwrap().is_empty(),
                "{query}: {found:?}"
            );
        }
        // A phrase is within one part.
        let parts = ["four five", "six"].map(|text| (Weight::Body, text.to_owned()));
        let own = Text {
            parts: parts.to_vec(),
            ..body("parts", "")
        };
        database.put(place("a"), &own).await.unwrap();
        assert_eq!(
            ids(&database, place("a"), "\"four five\" six").await,
            ["parts"]
        );
        assert_eq!(ids(&database, place("a"), "\"five six\"").await, [""; 0]);
        let elsewhere = Place {
            database: "elsewhere",
            ..place("a")
        };
        assert_eq!(ids(&database, elsewhere, "two").await, [""; 0]);
        assert_eq!(database.delete(place("a"), "b").await, Ok(false));
        assert_eq!(database.delete(place("a"), "a").await, Ok(true));
        assert_eq!(ids(&database, place("a"), "two").await, [""; 0]);
        assert_eq!(ids(&database, place("b"), "two").await, ["b"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_write_at_once_and_all_of_it_is_found() {
    each(async |database| {
        let writers = (0..6).map(|writer| {
            let database = Arc::clone(&database);
            tokio::spawn(async move {
                for round in 0..10 {
                    let own = body(&format!("{writer}-{round}"), &format!("all w{writer}"));
                    database.put(place("texts"), &own).await.unwrap();
                    // One that everybody writes over.
                    let shared = body("shared", &format!("shared w{writer}"));
                    database.put(place("texts"), &shared).await.unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        assert_eq!(ids(&database, place("texts"), "all").await.len(), 60);
        assert_eq!(ids(&database, place("texts"), "shared").await, ["shared"]);
        // Of what was written over nothing is left.
        let mut n_words = 0;
        for writer in 0..6 {
            n_words += ids(&database, place("texts"), &format!("shared w{writer}"))
                .await
                .len();
        }
        assert_eq!(n_words, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_texts_are_taken_and_larger_ones_refused() {
    each(async |database| {
        let at = place("large");
        let long = |n: usize| format!("{n:x}{}", "\u{44f}".repeat(limits::WORD_BYTES_MAX));
        let most: Vec<_> = (0..limits::WORDS_MAX - 1).map(long).collect();
        // All that the words have, beside the place of each: in parts that stay under a mebibyte.
        let text = most
            .iter()
            .map(|word| word.chars().take(24).collect::<String>());
        let text = text.collect::<Vec<_>>().join(" ");
        assert!(text.len() < limits::TEXT_BYTES_MAX, "{}", text.len());
        database.put(at, &body("most", &text)).await.unwrap();
        assert_eq!(ids(&database, at, &long(0x3a97)).await, ["most"]);
        let more = body("more", &(text.clone() + " a b"));
        assert_eq!(code(database.put(at, &more).await), "invalid");
        let last = format!("\"{} {}\"", most[most.len() - 2], most[most.len() - 1]);
        assert_eq!(ids(&database, at, &last).await, ["most"]);
        // One word beyond the places that are kept of it.
        let again = "again ".repeat(10_000) + "end";
        database.put(at, &body("again", &again)).await.unwrap();
        assert_eq!(ids(&database, at, "\"again again\" end").await, ["again"]);
        assert_eq!(ids(&database, at, "\"again end\"").await, [""; 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_somebody_spoilt_are_an_answer() {
    let (_folder, database) = sqlite();
    let at = place("texts");
    database.put(at, &body("a", "one")).await.unwrap();
    let mut session = database.open("", ROOM).await.unwrap();
    for spoilt in ["'C9:one'", "x'00'", "'C1'", "''"] {
        let spoil = format!("UPDATE realm_texts SET parts = {spoilt}");
        session.execute(&spoil, &[]).await.unwrap();
        let found = database.search(at, &look("one")).await;
        if spoilt == "''" {
            assert_eq!(found.unwrap()[0].snippet.text, "");
        } else {
            assert_eq!(code(found), "backend-failed", "{spoilt}");
        }
    }
    session
        .execute("DROP TABLE realm_texts", &[])
        .await
        .unwrap();
    session
        .execute("DROP TABLE realm_text_words", &[])
        .await
        .unwrap();
    assert_eq!(ids(&database, at, "one").await, [""; 0]);
}

/// Whether a text is found, by its plain words: a model that knows neither database.
fn finds(text: &Text, query: &[(bool, bool, Vec<&str>)]) -> bool {
    let parts: Vec<Vec<&str>> = text
        .parts
        .iter()
        .map(|(_, part)| part.split(' ').filter(|word| !word.is_empty()).collect())
        .collect();
    let there = |prefix: bool, words: &[&str]| {
        parts.iter().any(|part| {
            part.windows(words.len()).any(|window| {
                let last = words.len() - 1;
                let whole = window[..last] == words[..last];
                whole
                    && if prefix {
                        window[last].starts_with(words[last])
                    } else {
                        window[last] == words[last]
                    }
            })
        })
    };
    query
        .iter()
        .all(|(negative, prefix, words)| there(*prefix, words) != *negative)
}

#[test]
fn sqlite_postgresql_and_a_simple_model_find_the_same_texts() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let server = Server::start(None, "scram-sha-256");
    let (_folder, own) = sqlite();
    let databases = [own, postgres(&server)];
    let config = Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    };
    let word = || {
        prop::sample::select(vec![
            "a",
            "ab",
            "abc",
            "b",
            "the",
            "not",
            "or",
            "\u{43c}\u{438}\u{440}",
            "1",
            "12",
            "1e5",
        ])
    };
    let part = prop::collection::vec(word(), 0..6).prop_map(|words| words.join(" "));
    let weight = prop::sample::select(Weight::ALL.to_vec());
    let parts = prop::collection::vec((weight, part), 0..4);
    let term = (
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(word(), 1..4),
    );
    let world = (
        prop::collection::btree_map("[a-h]", parts, 0..8),
        prop::collection::vec(prop::collection::vec(term, 1..4), 1..8),
    );
    let number = std::cell::Cell::new(0);
    let ran = TestRunner::new(config).run(&world, |(texts, queries)| {
        number.set(number.get() + 1);
        let name = format!("world-{}", number.get());
        let at = place(&name);
        let texts: BTreeMap<_, _> = texts
            .into_iter()
            .map(|(id, parts)| {
                (
                    id.clone(),
                    Text {
                        id,
                        parts,
                        attributes: "{}".to_owned(),
                    },
                )
            })
            .collect();
        for database in &databases {
            for text in texts.values() {
                runtime.block_on(database.put(at, text)).unwrap();
            }
            for query in &queries {
                let spelt: Vec<_> = query
                    .iter()
                    .map(|(negative, prefix, words)| {
                        let minus = if *negative { "-" } else { "" };
                        let star = if *prefix { "*" } else { "" };
                        format!("{minus}\"{}\"{star}", words.join(" "))
                    })
                    .collect();
                let spelt = spelt.join(" ");
                if query.iter().all(|(negative, ..)| *negative) {
                    let found = runtime.block_on(database.search(at, &look(&spelt)));
                    prop_assert_eq!(code(found), "invalid");
                    continue;
                }
                let found = runtime.block_on(ids(database, at, &spelt));
                let meant = texts.values().filter(|text| finds(text, query));
                let expected: Vec<_> = meant.map(|text| text.id.clone()).collect();
                prop_assert_eq!(found, expected, "{}", spelt);
            }
        }
        Ok(())
    });
    ran.unwrap();
}
