//! Rows come as they are taken, and what never ends is ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_model::cloud::{Sql, SqlError, SqlValue, limits};

use crate::support::{Checks, checks, code, int, one, open, rows, run, text};

pub(crate) fn all() -> Checks {
    checks![
        a_hundred_thousand_rows_take_little_memory,
        rows_that_nobody_wants_are_left,
        what_gives_rows_and_changes_something,
        what_never_ends_is_ended,
        a_call_that_is_given_up_ends,
        a_row_that_is_too_large,
        sessions_are_many_and_have_a_cap,
    ]
}

/// 1 kB each: all together a hundred times what may be in memory.
const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
     SELECT i, $2 FROM n";

/// Rows without an end.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i > 0) \
     SELECT COUNT(*) FROM n WHERE i < 0";

async fn a_hundred_thousand_rows_take_little_memory(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    let before = resident_bytes();
    let parameters = [int(100_000), text(&"x".repeat(1_000))];
    session.query(MANY, &parameters).await.unwrap();
    let mut next = 1;
    let mut most = before;
    loop {
        let page = session.fetch().await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= limits::PAGE_ROWS);
        for row in &page {
            assert_eq!(row[0], int(next));
            next += 1;
        }
        most = most.max(resident_bytes());
    }
    assert_eq!(next, 100_001);
    let grown = most.saturating_sub(before);
    assert!(grown < 20 << 20, "{grown} bytes");
}

/// What this process has in memory, as the kernel counts it.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

async fn rows_that_nobody_wants_are_left(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    let parameters = [int(100_000_000), text("x")];
    session.query(MANY, &parameters).await.unwrap();
    assert_eq!(session.fetch().await.unwrap()[0][0], int(1));
    let begun = Instant::now();
    assert_eq!(session.close().await, Ok(()));
    assert_eq!(session.fetch().await, Ok(vec![]));
    assert_eq!(one(&mut *session, "SELECT 1 + 1", &[]).await, int(2));
    // And another statement closes them, too.
    session.query(MANY, &parameters).await.unwrap();
    assert_eq!(one(&mut *session, "SELECT 1 + 2", &[]).await, int(3));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    // In a transaction it goes on after them.
    run(&mut *session, "CREATE TABLE t (i INTEGER)").await;
    session.begin().await.unwrap();
    run(&mut *session, "INSERT INTO t VALUES (1)").await;
    let parameters = [int(5_000), text("x")];
    session.query(MANY, &parameters).await.unwrap();
    run(&mut *session, "INSERT INTO t VALUES (2)").await;
    session.commit().await.unwrap();
    assert_eq!(
        one(&mut *session, "SELECT COUNT(*) FROM t", &[]).await,
        int(2)
    );
}

async fn what_gives_rows_and_changes_something(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(
        &mut *session,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT)",
    )
    .await;
    let add = "INSERT INTO t VALUES ($1, 'a') RETURNING id, s";
    let found = rows(&mut *session, add, &[int(1)]).await;
    assert_eq!(found, Ok(vec![vec![int(1), text("a")]]));
    assert_eq!(session.execute(add, &[int(2)]).await, Ok(1));
    // It is done when it is closed, whether or not its rows were taken.
    session.query(add, &[int(3)]).await.unwrap();
    session.close().await.unwrap();
    let mut other = open(&*database).await;
    assert_eq!(
        one(&mut *other, "SELECT COUNT(*) FROM t", &[]).await,
        int(3)
    );
    assert_eq!(code(session.query(add, &[int(3)]).await), "23505");
    assert_eq!(
        session
            .execute("UPDATE t SET s = 'b' WHERE id > 1", &[])
            .await,
        Ok(2)
    );
    assert_eq!(
        session.execute("CREATE TABLE u (id INTEGER)", &[]).await,
        Ok(0)
    );
    assert_eq!(session.execute("SELECT * FROM t", &[]).await, Ok(3));
}

async fn what_never_ends_is_ended(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    let mut other = open(&*database).await;
    let begun = Instant::now();
    let (execute, query) = tokio::join!(async { session.execute(ENDLESS, &[]).await }, async {
        other.query(ENDLESS, &[]).await
    },);
    assert_eq!(
        (code(execute), code(query)),
        ("timeout".to_owned(), "timeout".to_owned())
    );
    let most = Duration::from_millis(limits::CALL_TIMEOUT_MS + 500);
    assert!(begun.elapsed() < most, "{:?}", begun.elapsed());
    // Both sessions go on.
    assert_eq!(one(&mut *session, "SELECT 1 + 1", &[]).await, int(2));
    assert_eq!(one(&mut *other, "SELECT 1 + 1", &[]).await, int(2));
}

async fn a_call_that_is_given_up_ends(database: Arc<dyn Sql>) {
    // As many as there are places: each one has to be free again soon.
    let mut sessions = Vec::new();
    for _ in 0..limits::SESSIONS_MAX {
        sessions.push(open(&*database).await);
    }
    let given_up = sessions.into_iter().map(|mut session| async move {
        let short = Duration::from_millis(100);
        let ended = tokio::time::timeout(short, session.execute(ENDLESS, &[])).await;
        assert!(ended.is_err());
    });
    futures_util::future::join_all(given_up).await;
    let begun = Instant::now();
    let mut session = open(&*database).await;
    assert_eq!(one(&mut *session, "SELECT 1 + 1", &[]).await, int(2));
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

async fn a_row_that_is_too_large(database: Arc<dyn Sql>) {
    let mut session = open(&*database).await;
    run(&mut *session, "CREATE TABLE t (s TEXT)").await;
    let mega = text(&"x".repeat(1 << 20));
    session
        .execute("INSERT INTO t VALUES ($1)", &[mega])
        .await
        .unwrap();
    let before = resident_bytes();
    // 256 MB, if anybody let it.
    let doubled = "SELECT s || s || s || s || s || s || s || s || s || s || s || s || s || s || s || s || s FROM t";
    let large = rows(&mut *session, doubled, &[]).await;
    assert_eq!(code(large), "too-large");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    drop(session);
    let mut session = open(&*database).await;
    assert_eq!(
        one(&mut *session, "SELECT COUNT(*) FROM t", &[]).await,
        int(1)
    );
}

async fn sessions_are_many_and_have_a_cap(database: Arc<dyn Sql>) {
    let mut sessions = Vec::new();
    for _ in 0..limits::SESSIONS_MAX {
        sessions.push(open(&*database).await);
    }
    let begun = Instant::now();
    let further = database.open().await.map(|_| ());
    assert_eq!(
        further
            .map_err(SqlError::from)
            .map_err(|error| error.code().to_owned()),
        Err("timeout".to_owned())
    );
    assert!(begun.elapsed() < Duration::from_millis(limits::CALL_TIMEOUT_MS));
    let each = sessions
        .iter_mut()
        .enumerate()
        .map(|(number, session)| async move {
            let number = int(i64::try_from(number).unwrap());
            let found = rows(
                &mut **session,
                "SELECT CAST($1 AS BIGINT)",
                std::slice::from_ref(&number),
            )
            .await;
            assert_eq!(found, Ok(vec![vec![number]]));
        });
    futures_util::future::join_all(each).await;
    sessions.pop();
    let mut session = open(&*database).await;
    let value = one(
        &mut *session,
        "SELECT CAST($1 AS BIGINT)",
        &[SqlValue::Integer(7)],
    )
    .await;
    assert_eq!(value, int(7));
}
