//! A process that is killed while it writes loses nothing that it was told is written.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use realm_backends::sql::Sqlite;
use realm_model::cloud::SqlValue;

use crate::support::{int, one, open, run};

/// Where the child finds its database.
const FOLDER: &str = "REALM_TEST_SQLITE_FOLDER";

/// How many rows a child says it has written before it is killed, in each of its lives.
const ROWS: usize = 60;
const LIVES: usize = 5;

/// Not a test of its own: the child that [`a_killed_writer_loses_nothing`] starts.
#[tokio::test]
async fn a_writer() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let database = Sqlite::new(&Path::new(&folder).join("a.db"), None);
    let mut session = open(&database).await;
    run(
        &mut *session,
        "CREATE TABLE IF NOT EXISTS t (i INTEGER PRIMARY KEY, half INTEGER)",
    )
    .await;
    let mut out = std::io::stdout();
    loop {
        // Two rows or none.
        session.begin().await.unwrap();
        let first = one(
            &mut *session,
            "INSERT INTO t (half) VALUES (1) RETURNING i",
            &[],
        )
        .await;
        let second = "INSERT INTO t (half) VALUES (2)";
        session.execute(second, &[]).await.unwrap();
        session.commit().await.unwrap();
        let SqlValue::Integer(first) = first else {
            panic!("{first:?}");
        };
        writeln!(out, "\nwritten {first}").unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn a_killed_writer_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut written = Vec::new();
    for life in 0..LIVES {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::a_writer", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut n_rows = 0;
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("written ") {
                written.push(number.parse::<i64>().unwrap());
                n_rows += 1;
                // At another moment in each life; SIGKILL.
                if n_rows == ROWS + life * 7 {
                    child.kill().unwrap();
                }
            }
        }
        assert!(!child.wait().unwrap().success());
    }
    assert!(written.len() >= LIVES * ROWS, "{}", written.len());
    let database = Sqlite::new(&folder.path().join("a.db"), None);
    let mut session = open(&database).await;
    for number in &written {
        let whole =
            "SELECT COUNT(*) FROM t WHERE (i = $1 AND half = 1) OR (i = $1 + 1 AND half = 2)";
        assert_eq!(
            one(&mut *session, whole, &[int(*number)]).await,
            int(2),
            "{number}"
        );
    }
    let halves = "SELECT COUNT(*) FROM t AS a WHERE half = 1 AND NOT EXISTS \
        (SELECT 1 FROM t AS b WHERE b.i = a.i + 1 AND b.half = 2)";
    assert_eq!(one(&mut *session, halves, &[]).await, int(0));
    let sound = one(&mut *session, "PRAGMA integrity_check", &[]).await;
    assert_eq!(sound, SqlValue::Text("ok".to_owned()));
}
