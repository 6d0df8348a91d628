//! SQLite: the checks of every database, and that a guest stays within its file.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_backends::sql::Sqlite;
use realm_model::cloud::{Sql, SqlError, SqlValue, limits};

use crate::support::{ROOM, code, int, judge, one, open, rows, run, text};

fn database(folder: &Path) -> Sqlite {
    Sqlite::new(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn does_what_every_database_does() {
    let folder = tempfile::tempdir().unwrap();
    judge(async |name| {
        let database: Arc<dyn Sql> = Arc::new(Sqlite::new(&folder.path().join(name)));
        database
    })
    .await;
}

#[tokio::test]
async fn a_guest_does_not_leave_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    let mut theirs = database.open("other", ROOM).await.unwrap();
    run(&mut *theirs, "CREATE TABLE secrets (s TEXT)").await;
    let path = folder.path().join("n-other.db");
    let path = path.to_str().unwrap();
    let written = folder.path().join("written.db");
    let written = written.to_str().unwrap();

    let mut session = open(&database).await;
    run(&mut *session, "CREATE TABLE t (s TEXT)").await;
    assert_eq!(
        code(session.query("SELECT * FROM secrets", &[]).await),
        "42P01"
    );
    for statement in [
        format!("ATTACH '{path}' AS other"),
        format!("ATTACH DATABASE 'file:{path}?mode=ro' AS other"),
        "ATTACH '' AS other".to_owned(),
        "ATTACH ':memory:' AS other".to_owned(),
        "DETACH main".to_owned(),
        "VACUUM".to_owned(),
        format!("VACUUM INTO '{written}'"),
        format!("VACUUM main INTO '{written}'"),
        "PRAGMA writable_schema = 1".to_owned(),
        "PRAGMA database_list".to_owned(),
        "SELECT * FROM pragma_database_list".to_owned(),
        format!(
            "PRAGMA temp_store_directory = '{}'",
            folder.path().display()
        ),
        "PRAGMA journal_mode = DELETE".to_owned(),
        "PRAGMA synchronous = OFF".to_owned(),
        "PRAGMA max_page_count = 1000000".to_owned(),
        "PRAGMA hard_heap_limit = 1".to_owned(),
        "PRAGMA main.mmap_size = 1000000".to_owned(),
        "PRAGMA foreign_keys = OFF".to_owned(),
        "SELECT load_extension('/lib/libm.so')".to_owned(),
        "SELECT fts3_tokenizer('simple')".to_owned(),
        format!("CREATE VIRTUAL TABLE x USING csv(filename='{path}')"),
        "CREATE VIRTUAL TABLE x USING fts4(s)".to_owned(),
        "CREATE VIRTUAL TABLE x USING dbstat".to_owned(),
    ] {
        for refused in [
            session.execute(&statement, &[]).await.map(|_| ()),
            session.query(&statement, &[]).await.map(|_| ()),
        ] {
            assert_eq!(code(refused), "access-denied", "{statement}");
        }
    }
    for statement in [
        "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 0, 'CREATE TABLE x (s)')",
        "UPDATE sqlite_schema SET sql = ''",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('/tmp/x', 'x')",
        "SELECT edit('x')",
    ] {
        assert!(
            session.execute(statement, &[]).await.is_err(),
            "{statement}"
        );
    }
    // Not within what runs later, either.
    let view = "CREATE VIEW v AS SELECT * FROM pragma_database_list";
    if session.execute(view, &[]).await.is_ok() {
        assert!(session.query("SELECT * FROM v", &[]).await.is_err());
    }
    assert!(!Path::new(written).exists());
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let of = |name: &str| {
        ["", "-shm", "-wal"]
            .map(|end| format!("{name}{end}"))
            .to_vec()
    };
    assert_eq!(names, [of("main.db"), of("n-other.db")].concat());
    for name in names {
        let mode = std::fs::metadata(folder.path().join(&name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_database_asks_about_itself() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    let mut session = open(&database).await;
    run(
        &mut *session,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT)",
    )
    .await;
    run(&mut *session, "PRAGMA user_version = 3").await;
    assert_eq!(one(&mut *session, "PRAGMA user_version", &[]).await, int(3));
    assert_eq!(
        one(&mut *session, "PRAGMA journal_mode", &[]).await,
        text("wal")
    );
    assert_eq!(one(&mut *session, "PRAGMA synchronous", &[]).await, int(2));
    assert_eq!(one(&mut *session, "PRAGMA foreign_keys", &[]).await, int(1));
    let names = "SELECT name FROM pragma_table_info('t') ORDER BY cid";
    let found = rows(&mut *session, names, &[]).await;
    assert_eq!(found, Ok(vec![vec![text("id")], vec![text("s")]]));
    run(&mut *session, "ANALYZE").await;
    run(&mut *session, "ALTER TABLE t ADD COLUMN more TEXT").await;
    run(&mut *session, "CREATE INDEX i ON t (more)").await;
    run(&mut *session, "REINDEX").await;
    run(&mut *session, "DROP TABLE t").await;
}

#[tokio::test]
async fn a_database_has_a_largest_size() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    let mut session = database.open("", 1 << 20).await.unwrap();
    run(&mut *session, "CREATE TABLE t (b BLOB)").await;
    let row = [SqlValue::Bytes(vec![7; 100_000])];
    let add = "INSERT INTO t VALUES ($1)";
    let mut n_rows = 0;
    let full = loop {
        assert!(n_rows < 100, "nothing holds it");
        match session.execute(add, &row).await {
            Ok(_) => n_rows += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.code(), "quota-bytes");
    assert!((8..=10).contains(&n_rows), "{n_rows}");
    assert!(database.bytes().await.unwrap().unwrap() <= 1 << 20);
    // Nothing is lost, another session is held to the same, and what is deleted makes room.
    let mut other = database.open("", 1 << 20).await.unwrap();
    assert_eq!(
        one(&mut *other, "SELECT COUNT(*) FROM t", &[]).await,
        int(n_rows)
    );
    assert_eq!(code(other.execute(add, &row).await), "quota-bytes");
    run(&mut *other, "DELETE FROM t").await;
    assert_eq!(other.execute(add, &row).await, Ok(1));
    // A temporary table is no way around it: what it may take is memory, and little.
    run(&mut *other, "CREATE TEMPORARY TABLE big (b BLOB)").await;
    let fill = "INSERT INTO big SELECT zeroblob(1000000) FROM \
        (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n)";
    assert_eq!(code(other.execute(fill, &[]).await), "quota-bytes");
    drop(other);
    let mut next = open(&database).await;
    assert_eq!(one(&mut *next, "SELECT COUNT(*) FROM t", &[]).await, int(1));
}

#[tokio::test]
async fn what_is_hard_for_sqlite_ends_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    let mut session = open(&database).await;
    let begun = Instant::now();
    for statement in [
        // Larger than a value may be.
        "SELECT zeroblob(1000000000)",
        "SELECT replace(hex(zeroblob(8000000)), '0', 'xxxxxxxxxx')",
        "SELECT printf('%.*c', 1000000000, 'x')",
        "SELECT 'x' LIKE replace(hex(zeroblob(10000)), '0', '%x')",
    ] {
        assert!(
            rows(&mut *session, statement, &[]).await.is_err(),
            "{statement}"
        );
    }
    let deep = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    assert!(session.query(&deep, &[]).await.is_err());
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(one(&mut *session, "SELECT 1", &[]).await, int(1));
}

#[tokio::test]
async fn a_transaction_that_waits_for_nothing_lets_others_write() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    let mut session = open(&database).await;
    let mut other = open(&database).await;
    run(&mut *session, "CREATE TABLE t (i INTEGER)").await;
    session.begin().await.unwrap();
    run(&mut *session, "INSERT INTO t VALUES (1)").await;
    let begun = Instant::now();
    // Another one waits, and then hears that it did not get its turn.
    let waited = other.execute("INSERT INTO t VALUES (2)", &[]).await;
    assert_eq!(code(waited), "timeout");
    loop {
        match other.execute("INSERT INTO t VALUES (2)", &[]).await {
            Ok(_) => break,
            Err(SqlError::Cloud(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let took = begun.elapsed();
    assert!((25..40).contains(&took.as_secs()), "{took:?}");
    assert_eq!(
        code(session.execute("INSERT INTO t VALUES (3)", &[]).await),
        "aborted"
    );
    assert_eq!(code(session.commit().await), "aborted");
    assert_eq!(
        one(&mut *session, "SELECT COUNT(*) FROM t", &[]).await,
        int(1)
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("main.db"),
        "not a database".repeat(1_000),
    )
    .unwrap();
    let error = database(folder.path())
        .open("", ROOM)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.code(), "backend-failed");
    assert!(
        !error.to_string().contains(folder.path().to_str().unwrap()),
        "{error}"
    );
    let nowhere = Sqlite::new(&folder.path().join("main.db/no"));
    let error = nowhere.open("", ROOM).await.map(|_| ()).unwrap_err();
    assert!(!error.to_string().contains("no/"), "{error}");
    // A folder that is not there comes to be.
    let deeper = Sqlite::new(&folder.path().join("a/b"));
    let mut session = open(&deeper).await;
    assert_eq!(one(&mut *session, "SELECT 1", &[]).await, int(1));
}

#[tokio::test]
async fn all_databases_of_a_folder_have_one_largest_size_and_a_largest_number() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    let most = 1 << 20;
    let mut first = database.open("first", most).await.unwrap();
    run(&mut *first, "CREATE TABLE t (b BLOB)").await;
    let row = [SqlValue::Bytes(vec![7; 800_000])];
    let add = "INSERT INTO t VALUES ($1)";
    first.execute(add, &row).await.unwrap();
    let mut second = database.open("second", most).await.unwrap();
    run(&mut *second, "CREATE TABLE t (b BLOB)").await;
    assert_eq!(code(second.execute(add, &row).await), "quota-bytes");
    for number in 2..limits::DATABASES_MAX {
        drop(database.open(&format!("n{number}"), ROOM).await.unwrap());
    }
    let further = database.open("further", ROOM).await.map(|_| ());
    assert_eq!(further.unwrap_err().code(), "invalid");
    drop(database.open("n2", ROOM).await.unwrap());
}
