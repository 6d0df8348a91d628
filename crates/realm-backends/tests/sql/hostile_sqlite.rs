//! SQLite: what a hostile guest tries on its node.

use std::path::Path;
use std::sync::Arc;

use realm_backends::sql::Sqlite;
use realm_model::cloud::{Sql, SqlError, SqlValue};

use crate::support::{code, int, one, open, rows, run, text};

#[tokio::test]
async fn a_row_of_many_large_values_is_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let database = Sqlite::new(folder.path());
    let mut session = open(&database).await;
    let many = format!("SELECT {}", vec!["$1"; 200].join(", "));
    let value = [SqlValue::Bytes(vec![7; 1 << 20])];
    assert_eq!(code(rows(&mut *session, &many, &value).await), "too-large");
    let few = "SELECT $1, $1, $1";
    let row = rows(&mut *session, few, &value).await.unwrap();
    assert_eq!(row, [vec![value[0].clone(); 3]]);
}

/// Two million bytes, and one.
const MANY: &str = "hex(zeroblob(1000000))";
const HALF: &str = "hex(zeroblob(500000))";

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_nothing_interrupts_end() {
    let folder = tempfile::tempdir().unwrap();
    let database = Sqlite::new(folder.path());
    let object = |key: &str| {
        format!("'{{' || replace(hex(zeroblob(500000)), '00', '\"{key}\":1,') || '\"x\":1}}'")
    };
    for (statement, expected) in [
        (format!("SELECT instr({MANY}, {HALF} || '1')"), Ok(int(0))),
        (
            format!("SELECT length(replace({MANY}, {HALF} || '1', ''))"),
            Ok(int(2_000_000)),
        ),
        (
            format!("SELECT length(trim({MANY}, replace({HALF}, '0', '1') || '0'))"),
            Ok(int(0)),
        ),
        (
            format!(
                "SELECT length(rtrim({MANY}, CAST(replace({HALF}, '0', '1') || X'FF' || '0' AS TEXT)))"
            ),
            Err("too-large"),
        ),
        (
            format!(
                "SELECT length(unhex(replace({MANY}, '0', '-'), replace({HALF}, '0', ' ') || '-'))"
            ),
            Ok(int(0)),
        ),
        (
            "SELECT length(printf(replace(hex(zeroblob(1000000)), '00', '%.15000000g')))"
                .to_owned(),
            Err("too-large"),
        ),
        (
            format!(
                "SELECT length(json_patch({}, {}))",
                object("a"),
                object("b")
            ),
            Err("too-large"),
        ),
    ] {
        let mut session = open(&database).await;
        let found = rows(&mut *session, &statement, &[]).await;
        let found = found.map(|rows| rows[0][0].clone());
        assert_eq!(
            found.as_ref().map_err(SqlError::code),
            expected.as_ref().map_err(|code| *code),
            "{statement}"
        );
    }
    let mut session = open(&database).await;
    run(&mut *session, "CREATE VIRTUAL TABLE f USING fts5(t)").await;
    run(&mut *session, "INSERT INTO f VALUES ('one two one')").await;
    let marked = "SELECT highlight(f, 0, '<', '>') FROM f WHERE f MATCH 'one' ORDER BY rank";
    assert_eq!(
        one(&mut *session, marked, &[]).await,
        text("<one> two <one>")
    );
    let snippet = "SELECT snippet(f, 0, '<', '>', '', 9) FROM f WHERE f MATCH 'one'";
    let refused = rows(&mut *session, snippet, &[]).await;
    assert_eq!(code(refused), "access-denied");
}

/// Bytes of all logs of a folder.
fn logs(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let logs = entries.filter(|entry| entry.file_name().as_encoded_bytes().ends_with(b"-wal"));
    logs.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_somebody_reads_does_not_fill_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let database = Sqlite::new(folder.path());
    let most = 4 << 20;
    let mut writer = database.open("", most).await.unwrap();
    run(&mut *writer, "CREATE TABLE t (b BLOB)").await;
    run(&mut *writer, "INSERT INTO t VALUES (zeroblob(3000000))").await;
    let mut reader = database.open("", most).await.unwrap();
    reader.begin().await.unwrap();
    assert_eq!(
        one(&mut *reader, "SELECT COUNT(*) FROM t", &[]).await,
        int(1)
    );
    let change = "UPDATE t SET b = randomblob(3000000)";
    let mut n_changes = 0;
    let full = loop {
        assert!(n_changes < 100, "nothing holds it");
        match writer.execute(change, &[]).await {
            Ok(_) => n_changes += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.code(), "quota-bytes");
    assert!(n_changes > 10, "{n_changes}");
    assert!(logs(folder.path()) < 80 << 20, "{}", logs(folder.path()));
    // Who reads goes on, also the one that could not write.
    assert_eq!(
        one(&mut *writer, "SELECT COUNT(*) FROM t", &[]).await,
        int(1)
    );
    reader.commit().await.unwrap();
    assert_eq!(writer.execute(change, &[]).await, Ok(1));
    assert!(logs(folder.path()) < 20 << 20, "{}", logs(folder.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_takes_the_memory_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let database = Sqlite::new(folder.path());
    let mut sessions = Vec::new();
    for number in 0..4 {
        let mut session = open(&database).await;
        run(&mut *session, "CREATE TEMPORARY TABLE mine (b BLOB)").await;
        let fill = "INSERT INTO mine VALUES (zeroblob(1000000))";
        let mut n_rows = 0;
        let full = loop {
            assert!(n_rows < 400, "nothing holds it");
            match session.execute(fill, &[]).await {
                Ok(_) => n_rows += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((full.code(), n_rows), ("quota-bytes", 4), "{number}");
        sessions.push(session);
    }
    // Nor with what it prepares, which is kept for the next time: each of these takes megabytes.
    let numbers: Vec<_> = (0..100_000).map(|number| number.to_string()).collect();
    for number in 0..40 {
        let large = format!("SELECT {number} IN ({})", numbers.join(","));
        let found = rows(&mut *sessions[0], &large, &[]).await;
        assert_eq!(found, Ok(vec![vec![int(1)]]), "{number}");
    }
    let other = Sqlite::new(&folder.path().join("other"));
    let mut other = open(&other).await;
    let sort = "SELECT COUNT(*) FROM (WITH RECURSIVE n(i) AS \
        (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
        SELECT DISTINCT hex(randomblob(100)) FROM n)";
    assert_eq!(one(&mut *other, sort, &[]).await, int(100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_of_any_kind_is_gone_with_its_session() {
    let folder = tempfile::tempdir().unwrap();
    let database = Sqlite::new(folder.path());
    let mut session = open(&database).await;
    run(&mut *session, "CREATE TABLE users (name TEXT)").await;
    run(&mut *session, "INSERT INTO users VALUES ('sound')").await;
    run(&mut *session, "CREATE VIRTUAL TABLE f USING fts5(t)").await;
    drop(session);
    for shadow in [
        "CREATE VIRTUAL TABLE temp.users USING fts5vocab(main, f, row)",
        "CREATE VIRTUAL TABLE temp.users USING fts5(name)",
        "CREATE TABLE temp.users (name TEXT)",
        "CREATE TEMPORARY VIEW users AS SELECT 'false' AS name",
    ] {
        let mut session = open(&database).await;
        run(&mut *session, shadow).await;
        drop(session);
        // As many as wait in the pool.
        let mut sessions = Vec::new();
        for _ in 0..8 {
            let mut next = open(&database).await;
            let name = one(&mut *next, "SELECT name FROM users", &[]).await;
            assert_eq!(name, text("sound"), "{shadow}");
            sessions.push(next);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_are_written_to_at_once_share_what_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let database = Arc::new(Sqlite::new(folder.path()));
    let most = 1 << 20;
    let mut sessions = Vec::new();
    for number in 0..16 {
        let mut session = database.open(&format!("n{number}"), most).await.unwrap();
        run(&mut *session, "CREATE TABLE t (b BLOB)").await;
        sessions.push(session);
    }
    let all = Arc::new(tokio::sync::Barrier::new(sessions.len()));
    let guests = sessions.into_iter().map(|mut session| {
        let all = Arc::clone(&all);
        tokio::spawn(async move {
            let fill = "INSERT INTO t SELECT randomblob(1000) FROM \
                (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 800) SELECT i FROM n)";
            all.wait().await;
            session.execute(fill, &[]).await.is_ok()
        })
    });
    for guest in guests.collect::<Vec<_>>() {
        guest.await.unwrap();
    }
    let bytes = database.bytes().await.unwrap().unwrap();
    assert!(bytes <= 4 * most, "{bytes}");
    // One alone has all that is free.
    let folder = tempfile::tempdir().unwrap();
    let database = Sqlite::new(folder.path());
    let mut first = database.open("a", most).await.unwrap();
    run(&mut *first, "CREATE TABLE t (b BLOB)").await;
    let mut second = database.open("b", most).await.unwrap();
    run(&mut *second, "CREATE TABLE t (b BLOB)").await;
    run(&mut *second, "INSERT INTO t VALUES (zeroblob(900000))").await;
}
