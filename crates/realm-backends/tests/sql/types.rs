//! Values come back as they were given, each as its own type.

use std::sync::Arc;

use realm_model::cloud::{Sql, SqlValue};

use crate::support::{Checks, checks, code, int, one, open, rows, run, text};

pub(crate) fn all() -> Checks {
    checks![
        values_come_back_as_they_were,
        null_is_null_in_every_type,
        numbers_at_their_ends,
        text_of_any_kind,
        bytes_of_any_kind,
        parameters_are_values_and_never_text,
        parameters_have_one_spelling,
        columns_have_names_without_rows_too,
    ]
}

async fn values_come_back_as_they_were(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(
        &mut *session,
        "CREATE TABLE t (id INTEGER, b BOOLEAN, r DOUBLE PRECISION, s TEXT, d DATE, c TIME, \
         ts TIMESTAMP, tz TIMESTAMP WITH TIME ZONE)",
    )
    .await;
    let row = vec![
        int(7),
        SqlValue::Boolean(true),
        SqlValue::Real(-0.125),
        text("it's \"quoted\""),
        SqlValue::Date("2026-11-22".to_owned()),
        SqlValue::Time("12:34:56.789".to_owned()),
        SqlValue::Timestamp("2026-11-22T12:34:56.789".to_owned()),
        SqlValue::Timestamp("2026-11-22T12:34:56.789Z".to_owned()),
    ];
    let inserted = session
        .execute(
            "INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &row,
        )
        .await;
    assert_eq!(inserted, Ok(1));
    let found = rows(&mut *session, "SELECT * FROM t WHERE id = $1", &[int(7)]).await;
    assert_eq!(found, Ok(vec![row]));
}

async fn null_is_null_in_every_type(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(
        &mut *session,
        "CREATE TABLE t (i INTEGER, b BOOLEAN, r DOUBLE PRECISION, s TEXT, d DATE, ts TIMESTAMP)",
    )
    .await;
    let nulls = vec![SqlValue::Null; 6];
    session
        .execute("INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6)", &nulls)
        .await
        .unwrap();
    let found = rows(&mut *session, "SELECT * FROM t WHERE s IS NULL", &[]).await;
    assert_eq!(found, Ok(vec![nulls]));
    let equal = rows(
        &mut *session,
        "SELECT 1 FROM t WHERE s = $1",
        &[SqlValue::Null],
    )
    .await;
    assert_eq!(equal, Ok(vec![]));
    let count = one(&mut *session, "SELECT COUNT(i) FROM t", &[]).await;
    assert_eq!(count, int(0));
}

async fn numbers_at_their_ends(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(
        &mut *session,
        "CREATE TABLE t (i BIGINT, r DOUBLE PRECISION)",
    )
    .await;
    let integers = [
        i64::MIN,
        -1,
        0,
        1,
        i64::from(i32::MAX),
        i64::from(i32::MAX) + 1,
        i64::MAX,
    ];
    let reals = [
        f64::MIN,
        -1.5,
        0.0,
        f64::MIN_POSITIVE,
        0.1,
        1e300,
        f64::INFINITY,
    ];
    for (integer, real) in integers.into_iter().zip(reals) {
        let row = vec![int(integer), SqlValue::Real(real)];
        run(&mut *session, "DELETE FROM t").await;
        session
            .execute("INSERT INTO t VALUES ($1, $2)", &row)
            .await
            .unwrap();
        let found = rows(&mut *session, "SELECT i, r FROM t WHERE i = $1", &row[..1]).await;
        assert_eq!(found, Ok(vec![row]));
    }
    // A number that was given is a number in an expression, too.
    let sum = one(&mut *session, "SELECT $1 + $2", &[int(40), int(2)]).await;
    assert_eq!(sum, int(42));
}

async fn text_of_any_kind(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(&mut *session, "CREATE TABLE t (s TEXT)").await;
    for value in [
        "",
        "żółć \u{1F980}",
        "\r\n\t\\'\"%_$1",
        "NULL",
        "1",
        "\u{feff}x",
        &"long ".repeat(50_000),
    ] {
        run(&mut *session, "DELETE FROM t").await;
        session
            .execute("INSERT INTO t VALUES ($1)", &[text(value)])
            .await
            .unwrap();
        assert_eq!(
            one(
                &mut *session,
                "SELECT s FROM t WHERE s = $1",
                &[text(value)]
            )
            .await,
            text(value)
        );
    }
    let zero = session
        .execute("INSERT INTO t VALUES ($1)", &[text("a\0b")])
        .await;
    assert_eq!(code(zero), "invalid");
}

async fn bytes_of_any_kind(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    // The one type that has no name that both databases know.
    let made = session.execute("CREATE TABLE t (b BYTEA)", &[]).await;
    assert_eq!(made, Ok(0));
    let every: Vec<u8> = (0..=255).collect();
    // Nearly as much as a row may have.
    let large: Vec<u8> = (0..15 << 20).map(|n: u32| (n % 251) as u8).collect();
    for value in [vec![], every, vec![0; 300_000], large] {
        run(&mut *session, "DELETE FROM t").await;
        let value = SqlValue::Bytes(value);
        session
            .execute("INSERT INTO t VALUES ($1)", std::slice::from_ref(&value))
            .await
            .unwrap();
        let back = one(&mut *session, "SELECT b FROM t", &[]).await;
        // Not `assert_eq!`, which would print both.
        assert!(back == value, "it is not what was written");
    }
}

async fn parameters_are_values_and_never_text(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(
        &mut *session,
        "CREATE TABLE users (name TEXT, admin BOOLEAN)",
    )
    .await;
    let add = "INSERT INTO users VALUES ($1, $2)";
    for (name, admin) in [("root", true), ("guest", false)] {
        let row = [text(name), SqlValue::Boolean(admin)];
        session.execute(add, &row).await.unwrap();
    }
    for attack in [
        "' OR '1'='1",
        "'; DROP TABLE users; --",
        "guest' UNION SELECT 'root', TRUE --",
        "\\'; DELETE FROM users; --",
        "$1",
        "NULL",
    ] {
        let found = rows(
            &mut *session,
            "SELECT name FROM users WHERE name = $1",
            &[text(attack)],
        )
        .await;
        assert_eq!(found, Ok(vec![]), "{attack}");
    }
    assert_eq!(
        one(&mut *session, "SELECT COUNT(*) FROM users", &[]).await,
        int(2)
    );
    let several = session.execute("SELECT 1; DROP TABLE users", &[]).await;
    assert!(several.is_err());
    assert_eq!(
        one(&mut *session, "SELECT COUNT(*) FROM users", &[]).await,
        int(2)
    );
}

async fn parameters_have_one_spelling(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(&mut *session, "CREATE TABLE t (a TEXT, b TEXT)").await;
    let values = [text("one"), text("two")];
    // By number, in whatever order, as often as one likes.
    session
        .execute("INSERT INTO t VALUES ($2, $1)", &values)
        .await
        .unwrap();
    let found = rows(
        &mut *session,
        "SELECT a, b FROM t WHERE a = $1 OR b = $2 OR a = $2",
        &values,
    )
    .await;
    assert_eq!(found, Ok(vec![vec![text("two"), text("one")]]));
    for statement in [
        "INSERT INTO t VALUES (?, ?)",
        "INSERT INTO t VALUES (?1, ?2)",
        "INSERT INTO t VALUES (:a, :b)",
        "INSERT INTO t VALUES ($1, $3)",
        "INSERT INTO t VALUES ($1, 'two')",
    ] {
        let refused = session.execute(statement, &values).await;
        assert!(refused.is_err(), "{statement}");
    }
    assert_eq!(
        one(&mut *session, "SELECT COUNT(*) FROM t", &[]).await,
        int(1)
    );
}

async fn columns_have_names_without_rows_too(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(&mut *session, "CREATE TABLE t (id INTEGER, name TEXT)").await;
    let columns = session.query("SELECT id, name AS who FROM t", &[]).await;
    assert_eq!(columns, Ok(vec!["id".to_owned(), "who".to_owned()]));
    assert_eq!(session.fetch().await, Ok(vec![]));
    // And after the end there is nothing, for as long as one asks.
    assert_eq!(session.fetch().await, Ok(vec![]));
    assert_eq!(
        session.query("CREATE TABLE u (id INTEGER)", &[]).await,
        Ok(vec![])
    );
    assert_eq!(session.fetch().await, Ok(vec![]));
}
