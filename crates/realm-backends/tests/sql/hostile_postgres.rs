//! PostgreSQL: what a hostile guest tries on its server, and on whoever comes after it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_backends::Unwatched;
use realm_backends::sql::{Postgres, Settings};
use realm_model::cloud::limits;

use crate::postgres::settings;
use crate::server::Server;
use crate::support::{code, int, one, open, rows, run};

fn database(settings: Settings) -> Postgres {
    Postgres::new(settings, "p", Arc::new(Unwatched)).unwrap()
}

/// Asks again until somebody's answer is the one that is waited for.
fn until(server: &Server, question: &str, answer: &str) {
    let begun = Instant::now();
    while server.sql("postgres", question) != answer {
        assert!(begun.elapsed() < Duration::from_secs(60), "{question}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Until no connection of realm has a guest.
fn until_idle(server: &Server) {
    let busy = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'realm' \
        AND (state <> 'idle' OR query NOT LIKE '%client_min_messages%')";
    until(server, busy, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_nobody_knows_of_is_not_the_next_guests() {
    let server = Server::start(None, "scram-sha-256");
    let database = database(settings(&server));
    let mut session = open(&database).await;
    run(&mut *session, "CREATE TABLE t (i INTEGER)").await;
    // White space to PostgreSQL 16 and later.
    for statement in ["\u{b}BEGIN", "\u{b}\u{b};\u{b}START TRANSACTION"] {
        let begun = session.execute(statement, &[]).await;
        assert_eq!(code(begun), "invalid", "{statement:?}");
    }
    run(&mut *session, "SET search_path TO pg_catalog").await;
    drop(session);
    until_idle(&server);
    let mut next = open(&database).await;
    run(&mut *next, "INSERT INTO t VALUES (1)").await;
    assert_eq!(server.sql("postgres", "SELECT COUNT(*) FROM t"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_grows_on_its_way_is_too_large() {
    let server = Server::start(None, "scram-sha-256");
    let database = database(settings(&server));
    let mut session = open(&database).await;
    // Ten bytes each on the wire, and 131,072 digits.
    let many = vec!["1e131071"; 1_600].join(", ");
    let large = rows(&mut *session, &format!("SELECT {many}"), &[]).await;
    assert_eq!(code(large), "too-large");
    let few = vec!["1e131071"; 100].join(", ");
    let row = rows(&mut *session, &format!("SELECT {few}"), &[]).await;
    assert_eq!(row.unwrap()[0].len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_rows_fail_late_is_not_committed() {
    let server = Server::start(None, "scram-sha-256");
    let database = database(settings(&server));
    let mut session = open(&database).await;
    run(&mut *session, "CREATE TABLE t (i INTEGER)").await;
    let late = "SELECT 1 / (50000 - i) FROM generate_series(1, 50000) AS i";
    let add = "INSERT INTO t VALUES (1)";
    // What follows meets the error of the rows before it.
    for follow in ["execute", "query", "begin"] {
        session.begin().await.unwrap();
        run(&mut *session, add).await;
        session.query(late, &[]).await.unwrap();
        // What has come by then, and by far not all.
        let page = session.fetch().await.unwrap().len();
        assert!((1..=limits::PAGE_ROWS).contains(&page), "{page}");
        let met = match follow {
            "execute" => session.execute(add, &[]).await.map(|_| ()),
            "query" => session.query("SELECT 1", &[]).await.map(|_| ()),
            _ => session.begin().await,
        };
        assert_eq!(code(met), "22012", "{follow}");
        assert_eq!(code(session.commit().await), "aborted", "{follow}");
        assert_eq!(server.sql("postgres", "SELECT COUNT(*) FROM t"), "0");
    }
    session.begin().await.unwrap();
    run(&mut *session, add).await;
    session.commit().await.unwrap();
    assert_eq!(server.sql("postgres", "SELECT COUNT(*) FROM t"), "1");
}

/// Takes no word of being cancelled.
const STUBBORN: &str = "DO $$BEGIN LOOP BEGIN PERFORM pg_sleep(1000); \
    EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END$$";

const STUBBORN_ONES: &str = "SELECT COUNT(*) FROM pg_stat_activity \
    WHERE query LIKE '%query_canceled%' AND pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_let_itself_be_cancelled_is_terminated() {
    let server = Server::start(None, "scram-sha-256");
    let database = database(settings(&server));
    let mut session = open(&database).await;
    assert_eq!(code(session.execute(STUBBORN, &[]).await), "timeout");
    until(&server, STUBBORN_ONES, "0");
    // Nor where its guest went before.
    let mut session = open(&database).await;
    let short = Duration::from_millis(500);
    let given_up = tokio::time::timeout(short, session.execute(STUBBORN, &[])).await;
    assert!(given_up.is_err());
    drop(session);
    until(&server, STUBBORN_ONES, "0");
    let mut next = open(&database).await;
    assert_eq!(one(&mut *next, "SELECT 1", &[]).await, int(1));
}

/// A way to a server on which a wish to cancel takes its time.
fn slow_to_cancel(to: u16, delay: Duration) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for guest in listener.incoming() {
            let Ok(guest) = guest else { return };
            std::thread::spawn(move || carry(guest, to, delay));
        }
    });
    port
}

fn carry(mut guest: TcpStream, to: u16, delay: Duration) {
    let mut head = [0; 8];
    if guest.read_exact(&mut head).is_err() {
        return;
    }
    if head[4..] == 80_877_102_u32.to_be_bytes() {
        std::thread::sleep(delay);
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)) else {
        return;
    };
    if server.write_all(&head).is_err() {
        return;
    }
    let (mut from, mut back) = (server.try_clone().unwrap(), guest.try_clone().unwrap());
    let answers = std::thread::spawn(move || {
        _ = std::io::copy(&mut from, &mut back);
        _ = back.shutdown(Shutdown::Both);
    });
    _ = std::io::copy(&mut guest, &mut server);
    _ = server.shutdown(Shutdown::Write);
    answers.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_to_cancel_that_is_late_does_not_meet_the_next_guest() {
    let server = Server::start(None, "scram-sha-256");
    let port = slow_to_cancel(server.port, Duration::from_millis(700));
    let database = database(Settings {
        port,
        ..settings(&server)
    });
    let mut session = open(&database).await;
    let sleep = "SELECT CAST(pg_sleep(0.4) AS TEXT)";
    let short = Duration::from_millis(200);
    let given_up = tokio::time::timeout(short, session.execute(sleep, &[])).await;
    assert!(given_up.is_err());
    drop(session);
    // It ends by itself before the wish is there, and its connection is free.
    let ended = Instant::now() + Duration::from_millis(500);
    tokio::time::sleep_until(ended.into()).await;
    let mut next = open(&database).await;
    let slept = next.execute("SELECT CAST(pg_sleep(2) AS TEXT)", &[]).await;
    assert_eq!(slept, Ok(1));
}
