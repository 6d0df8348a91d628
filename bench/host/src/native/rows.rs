//! Rows of databases.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use rusqlite::Connection;
use tokio_postgres::NoTls;
use tokio_postgres::types::ToSql;

use crate::Work;

const ALL: &str = "SELECT id, share, words FROM bench";
const ONE: &str = "SELECT id, share, words FROM bench WHERE id = $1";

/// A row as the program has it.
type Row = (i64, f64, String);

/// A table with so many rows, anew.
fn fill(work: &Work) -> String {
    format!(
        "DROP TABLE IF EXISTS bench;
         CREATE TABLE bench (id INTEGER PRIMARY KEY, share DOUBLE PRECISION, words TEXT);
         WITH RECURSIVE numbers(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM numbers WHERE id < {})
         INSERT INTO bench SELECT id, id * 0.5, '{}' FROM numbers;",
        work.n,
        "x".repeat(work.bytes)
    )
}

pub(crate) fn sqlite(work: &Work) -> Duration {
    let connection = Connection::open(&work.place).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        .unwrap();
    connection.execute_batch(&fill(work)).unwrap();
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let began = Instant::now();
    if work.operation == "rows" {
        let mut statement = connection.prepare_cached(ALL).unwrap();
        let rows = statement.query_map([], read).unwrap();
        let all: Vec<Row> = rows.map(Result::unwrap).collect();
        assert_eq!(all.len(), work.n);
    } else {
        for id in 1..=work.n {
            let mut statement = connection.prepare_cached(ONE).unwrap();
            let row: Row = statement
                .query_row([i64::try_from(id).unwrap()], read)
                .unwrap();
            assert_eq!(row.2.len(), work.bytes);
        }
    }
    began.elapsed()
}

pub(crate) async fn postgres(work: &Work) -> Duration {
    let settings = format!(
        "host=127.0.0.1 port={} user=realm dbname=postgres",
        work.place
    );
    let config: tokio_postgres::Config = settings.parse().unwrap();
    let stream = tokio::net::TcpStream::connect(format!("127.0.0.1:{}", work.place)).await;
    let (client, connection) = config.connect_raw(stream.unwrap(), NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    // In a schema of its own: the guest has the same table.
    let own = "CREATE SCHEMA IF NOT EXISTS native; SET search_path TO native;";
    client.batch_execute(own).await.unwrap();
    client.batch_execute(&fill(work)).await.unwrap();
    let read = |row: &tokio_postgres::Row| -> Row {
        let id: i32 = row.get(0);
        (id.into(), row.get(1), row.get(2))
    };
    let (all, one) = (
        client.prepare(ALL).await.unwrap(),
        client.prepare(ONE).await.unwrap(),
    );
    let began = Instant::now();
    if work.operation == "rows" {
        let nothing: [&(dyn ToSql + Sync); 0] = [];
        let rows = client.query_raw(&all, nothing).await.unwrap();
        let mut rows = pin!(rows);
        let mut found = Vec::new();
        while let Some(row) = rows.try_next().await.unwrap() {
            found.push(read(&row));
        }
        assert_eq!(found.len(), work.n);
    } else {
        for id in 1..=work.n {
            let id = i32::try_from(id).unwrap();
            let row = read(&client.query_one(&one, &[&id]).await.unwrap());
            assert_eq!(row.2.len(), work.bytes);
        }
    }
    let took = began.elapsed();
    drop(client);
    let _ = connection.await;
    took
}
