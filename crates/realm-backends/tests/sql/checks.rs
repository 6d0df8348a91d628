//! Errors, what one session leaves to the next, and many at once.

use std::sync::Arc;

use realm_model::cloud::{Sql, SqlError};

use crate::support::{Checks, ROOM, checks, code, int, one, open, rows, run, text};

pub(crate) fn all() -> Checks {
    checks![
        errors_have_the_same_codes,
        a_session_leaves_nothing_to_the_next,
        many_write_at_once,
        what_is_written_is_there_for_others,
        names_lead_to_databases_of_their_own,
    ]
}

async fn errors_have_the_same_codes(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(
        &mut *session,
        "CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER CHECK (age > 0))",
    )
    .await;
    run(
        &mut *session,
        "CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents(id))",
    )
    .await;
    run(&mut *session, "INSERT INTO parents VALUES (1, 'a', 1)").await;
    for (statement, expected) in [
        ("INSERT INTO parents VALUES (1, 'b', 1)", "23505"),
        ("INSERT INTO parents VALUES (2, NULL, 1)", "23502"),
        ("INSERT INTO parents VALUES (2, 'b', -1)", "23514"),
        ("INSERT INTO children VALUES (1, 99)", "23503"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT missing FROM parents", "42703"),
        ("SELECT missing(1)", "42883"),
        ("CREATE TABLE parents (id INTEGER)", "42P07"),
        ("SELEC 1", "42601"),
        ("SELECT \"text\" FROM parents", "42703"),
        ("SELECT (1", "42601"),
    ] {
        assert_eq!(
            code(session.execute(statement, &[]).await),
            expected,
            "{statement}"
        );
        assert_eq!(
            code(session.query(statement, &[]).await),
            expected,
            "{statement}"
        );
    }
    let error = session
        .execute("SELECT * FROM nowhere", &[])
        .await
        .unwrap_err();
    let SqlError::Database { message, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(message.contains("nowhere"), "{message}");
}

async fn a_session_leaves_nothing_to_the_next(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(&mut *session, "CREATE TABLE t (i INTEGER)").await;
    run(&mut *session, "CREATE TEMPORARY TABLE mine (i INTEGER)").await;
    run(&mut *session, "INSERT INTO mine VALUES (1)").await;
    session.begin().await.unwrap();
    run(&mut *session, "INSERT INTO t VALUES (1)").await;
    drop(session);
    for _ in 0..5 {
        let mut next = open(&*database).await;
        let found = rows(&mut *next, "SELECT * FROM mine", &[]).await;
        assert_eq!(code(found), "42P01");
        assert_eq!(one(&mut *next, "SELECT COUNT(*) FROM t", &[]).await, int(0));
        next.begin().await.unwrap();
    }
}

async fn many_write_at_once(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(
        &mut *session,
        "CREATE TABLE t (guest INTEGER, i INTEGER, PRIMARY KEY (guest, i))",
    )
    .await;
    drop(session);
    let guests = (0..16).map(|guest| {
        let database = Arc::clone(&database);
        tokio::spawn(async move {
            for i in 0..25 {
                let mut session = open(&*database).await;
                let row = [int(guest), int(i)];
                let added = session.execute("INSERT INTO t VALUES ($1, $2)", &row).await;
                assert_eq!(added, Ok(1));
            }
        })
    });
    for guest in guests.collect::<Vec<_>>() {
        guest.await.unwrap();
    }
    let mut session = open(&*database).await;
    assert_eq!(
        one(&mut *session, "SELECT COUNT(*) FROM t", &[]).await,
        int(400)
    );
}

async fn what_is_written_is_there_for_others(database: Arc<dyn Sql>) {
    let mut one_session = open(&*database).await;
    let mut other = open(&*database).await;
    run(&mut *one_session, "CREATE TABLE t (i INTEGER, s TEXT)").await;
    for i in 0..50 {
        let row = [int(i), text("x")];
        one_session
            .execute("INSERT INTO t VALUES ($1, $2)", &row)
            .await
            .unwrap();
        let found = one(&mut *other, "SELECT COUNT(*) FROM t", &[]).await;
        assert_eq!(found, int(i + 1));
    }
    let bytes = database.bytes().await.unwrap();
    assert!(bytes.is_some_and(|bytes| bytes >= 4096), "{bytes:?}");
}

async fn names_lead_to_databases_of_their_own(database: Arc<dyn Sql>) {
    let long = "n".repeat(255);
    let names = [
        "",
        "one",
        "One",
        "a \"quoted\" one",
        "../up",
        "\u{1F980}",
        &long,
    ];
    for (number, name) in (0..).zip(names) {
        let mut session = database.open(name, ROOM).await.unwrap();
        run(&mut *session, "CREATE TABLE t (i INTEGER)").await;
        let row = [int(number)];
        session
            .execute("INSERT INTO t VALUES ($1)", &row)
            .await
            .unwrap();
    }
    for (number, name) in (0..).zip(names) {
        let mut session = database.open(name, ROOM).await.unwrap();
        let found = rows(&mut *session, "SELECT i FROM t", &[]).await;
        assert_eq!(found, Ok(vec![vec![int(number)]]), "{name}");
    }
    // The first ones of a name may come at once, again and again: whether they meet is chance.
    for round in 0..10 {
        let guests = (0..8).map(|_| {
            let database = Arc::clone(&database);
            tokio::spawn(async move {
                let name = format!("at once {round}");
                let mut session = database.open(&name, ROOM).await.unwrap();
                assert_eq!(one(&mut *session, "SELECT 1", &[]).await, int(1));
            })
        });
        for guest in guests.collect::<Vec<_>>() {
            guest.await.unwrap();
        }
    }
}
