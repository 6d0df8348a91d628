//! SQLite: what a hostile guest tries on its node.

use realm_backends::sql::Sqlite;
use realm_model::cloud::{SqlError, SqlValue};

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
