//! PostgreSQL: the checks of every database against a real server, and what can happen to a server.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use realm_backends::sql::{Postgres, Settings};
use realm_backends::{Unwatched, Watch};
use realm_model::cloud::{Sql, SqlValue, limits};

use crate::server::{PASSWORD, Server, USER};
use crate::support::{ROOM, code, int, judge, one, open, rows, run, text};

/// What an operator hears.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Watch for Heard {
    fn down(&self, why: &str) {
        self.0.lock().unwrap().push(why.to_owned());
    }

    fn up(&self) {
        self.0.lock().unwrap().push("up".to_owned());
    }
}

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

pub(crate) fn settings(server: &Server) -> Settings {
    Settings {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        database: "postgres".to_owned(),
        user: Some(USER.to_owned()),
        secret: Some(PASSWORD.to_owned()),
        tls: false,
        ca_file: None,
    }
}

fn database(settings: Settings) -> (Postgres, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let watch = Arc::clone(&heard);
    (Postgres::new(settings, "p", watch).unwrap(), heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn does_what_every_database_does() {
    let server = Server::start(None, "scram-sha-256");
    judge(async |name| {
        server.sql("postgres", &format!("CREATE DATABASE {name}"));
        let own = Settings {
            database: name.to_owned(),
            ..settings(&server)
        };
        let database: Arc<dyn Sql> =
            Arc::new(Postgres::new(own, "p", Arc::new(Unwatched)).unwrap());
        database
    })
    .await;
}

#[tokio::test]
async fn types_that_only_a_server_has() {
    let server = Server::start(None, "scram-sha-256");
    let (database, _) = database(settings(&server));
    let mut session = open(&database).await;
    run(&mut *session, "CREATE TYPE mood AS ENUM ('sad', 'fine')").await;
    run(
        &mut *session,
        "CREATE DOMAIN small AS INTEGER CHECK (VALUE < 10)",
    )
    .await;
    for (kind, given, expected) in [
        (
            "NUMERIC(40, 10)",
            "12345678901234567890.0123456789",
            SqlValue::Decimal("12345678901234567890.0123456789".to_owned()),
        ),
        (
            "NUMERIC",
            "-0.00012",
            SqlValue::Decimal("-0.00012".to_owned()),
        ),
        ("NUMERIC", "NaN", SqlValue::Decimal("NaN".to_owned())),
        (
            "UUID",
            "0190163D-8694-739B-AEA5-966C26F8AD91",
            text("0190163d-8694-739b-aea5-966c26f8ad91"),
        ),
        ("JSON", "{\"a\": [1, null]}", text("{\"a\": [1, null]}")),
        ("JSONB", "{\"b\":1,\"a\":2}", text("{\"a\": 2, \"b\": 1}")),
        ("SMALLINT", "-32768", int(-32768)),
        ("REAL", "1.5", SqlValue::Real(1.5)),
        ("CHAR(3)", "ab", text("ab ")),
        ("mood", "fine", text("fine")),
        ("small", "7", int(7)),
        (
            "TIMESTAMPTZ",
            "2026-11-22 12:00:00+02",
            SqlValue::Timestamp("2026-11-22T10:00:00Z".to_owned()),
        ),
        (
            "DATE",
            "0044-03-15 BC",
            SqlValue::Date("0044-03-15 BC".to_owned()),
        ),
        (
            "TIMESTAMP",
            "infinity",
            SqlValue::Timestamp("infinity".to_owned()),
        ),
    ] {
        let statement = format!("SELECT CAST($1 AS {kind})");
        assert_eq!(
            one(&mut *session, &statement, &[text(given)]).await,
            expected,
            "{kind}"
        );
    }
    for kind in ["INTEGER[]", "TSVECTOR", "INTERVAL", "POINT", "INT4RANGE"] {
        let statement = format!("SELECT CAST(NULL AS {kind})");
        let refused = rows(&mut *session, &statement, &[]).await;
        assert_eq!(code(refused), "invalid", "{kind}");
        let cast = format!("SELECT CAST(CAST(NULL AS {kind}) AS TEXT)");
        assert_eq!(one(&mut *session, &cast, &[]).await, SqlValue::Null);
    }
    // A made type is looked up with statements of the client's own, which have to be there after a reset.
    for _ in 0..3 {
        drop(session);
        session = settled(&database).await;
        let mood = one(&mut *session, "SELECT CAST('sad' AS mood)", &[]).await;
        assert_eq!(mood, text("sad"));
    }
}

/// The next session of a database, on the connection of the last one.
async fn settled(database: &Postgres) -> Box<dyn realm_model::cloud::Session> {
    tokio::time::sleep(Duration::from_millis(200)).await;
    open(database).await
}

#[tokio::test]
async fn nothing_of_a_session_is_left() {
    let server = Server::start(None, "scram-sha-256");
    server.sql("postgres", "CREATE ROLE somebody");
    let (database, _) = database(settings(&server));
    let mut session = open(&database).await;
    let process = "SELECT pg_backend_pid()";
    let first = one(&mut *session, process, &[]).await;
    for statement in [
        "SET search_path TO pg_catalog",
        "SET statement_timeout = 0",
        "SET ROLE somebody",
        "CREATE TEMPORARY TABLE IF NOT EXISTS mine (i INTEGER)",
        "LISTEN news",
        "SELECT pg_advisory_lock(7)",
        "DO $$BEGIN EXECUTE 'PREPARE theirs AS SELECT 1'; END$$",
    ] {
        // In an order that each may be run in.
        if statement.starts_with("CREATE") {
            run(&mut *session, "RESET ROLE").await;
        }
        run(&mut *session, statement).await;
    }
    drop(session);
    let mut next = settled(&database).await;
    assert_eq!(
        one(&mut *next, process, &[]).await,
        first,
        "another connection"
    );
    for (question, answer) in [
        ("SHOW search_path", "\"$user\", public"),
        ("SHOW statement_timeout", "70s"),
        ("SELECT CAST(CURRENT_USER AS TEXT)", USER),
        (
            "SELECT COALESCE(CAST(to_regclass('mine') AS TEXT), 'none')",
            "none",
        ),
        (
            "SELECT CAST(COUNT(*) AS TEXT) FROM pg_listening_channels()",
            "0",
        ),
        (
            "SELECT CAST(COUNT(*) AS TEXT) FROM pg_locks WHERE locktype = 'advisory'",
            "0",
        ),
        (
            "SELECT CAST(COUNT(*) AS TEXT) FROM pg_prepared_statements WHERE from_sql",
            "0",
        ),
    ] {
        assert_eq!(
            one(&mut *next, question, &[]).await,
            text(answer),
            "{question}"
        );
    }
    // What was prepared before a table changed is prepared anew.
    run(&mut *next, "CREATE TABLE t (a INTEGER)").await;
    run(&mut *next, "INSERT INTO t VALUES (1)").await;
    assert_eq!(
        rows(&mut *next, "SELECT * FROM t", &[]).await,
        Ok(vec![vec![int(1)]])
    );
    run(&mut *next, "ALTER TABLE t ADD COLUMN b INTEGER").await;
    let wider = rows(&mut *next, "SELECT * FROM t", &[]).await;
    assert_eq!(wider, Ok(vec![vec![int(1), SqlValue::Null]]));
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let mut server = Server::start(None, "scram-sha-256");
    let (database, heard) = database(settings(&server));
    let mut session = open(&database).await;
    run(&mut *session, "CREATE TABLE t (i INTEGER)").await;
    run(&mut *session, "INSERT INTO t VALUES (1)").await;
    session.begin().await.unwrap();
    run(&mut *session, "INSERT INTO t VALUES (2)").await;

    server.down();
    assert_eq!(
        code(session.execute("INSERT INTO t VALUES (3)", &[]).await),
        "unavailable"
    );
    // The transaction went with the connection.
    assert_eq!(code(session.commit().await), "aborted");
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(
            database
                .open("", ROOM)
                .await
                .map(|_| ())
                .unwrap_err()
                .code(),
            "unavailable"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let told = heard.all();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        told[0].contains(&format!("127.0.0.1:{}", server.port)),
        "{told:?}"
    );
    assert!(told[0].contains("refused"), "{told:?}");

    server.up();
    let mut session = open(&database).await;
    assert_eq!(
        one(&mut *session, "SELECT COUNT(*) FROM t", &[]).await,
        int(1)
    );
    assert_eq!(heard.all()[3..], ["up"]);
    // A connection that waited in the pool is not handed out when its server was restarted meanwhile.
    drop(session);
    drop(settled(&database).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.down();
    server.up();
    let mut session = open(&database).await;
    assert_eq!(
        one(&mut *session, "SELECT COUNT(*) FROM t", &[]).await,
        int(1)
    );
}

#[tokio::test]
async fn who_is_not_let_in_hears_nothing_of_why_but_the_operator_does() {
    let server = Server::start(None, "scram-sha-256");
    let right = settings(&server);
    for (settings, why) in [
        (
            Settings {
                secret: Some("wrong".to_owned()),
                ..right.clone()
            },
            "password authentication failed",
        ),
        (
            Settings {
                secret: None,
                ..right.clone()
            },
            "password",
        ),
        (
            Settings {
                database: "nowhere".to_owned(),
                ..right.clone()
            },
            "does not exist",
        ),
        (
            Settings {
                tls: true,
                ..right.clone()
            },
            "no TLS",
        ),
        (
            Settings {
                host: "no.such.host.invalid".to_owned(),
                ..right.clone()
            },
            "no.such.host.invalid",
        ),
    ] {
        let (database, heard) = database(settings);
        let error = database.open("", ROOM).await.map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "the backend is not available");
        let told = heard.all().concat();
        assert!(told.contains(why), "{why}: {told}");
        assert!(
            !told.contains(PASSWORD) && !told.contains("wrong"),
            "{told}"
        );
    }
    // The user may be in the secret.
    let both = Settings {
        user: None,
        secret: Some(format!("{USER}:{PASSWORD}")),
        ..right.clone()
    };
    let (database, _) = database(both);
    let mut session = open(&database).await;
    assert_eq!(
        one(&mut *session, "SELECT CAST(CURRENT_USER AS TEXT)", &[]).await,
        text(USER)
    );
    for secret in [None, Some("no colon".to_owned())] {
        let nobody = Settings {
            user: None,
            secret,
            ..right.clone()
        };
        assert!(Postgres::new(nobody, "p", Arc::new(Unwatched)).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_only_a_server_that_proves_its_name_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = certificate.cert.pem();
    let server = Server::start(
        Some((&pem, &certificate.signing_key.serialize_pem())),
        "scram-sha-256",
    );
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &pem).unwrap();
    let checked = Settings {
        host: "localhost".to_owned(),
        tls: true,
        ca_file: Some(ca_file),
        ..settings(&server)
    };
    let (trusted, _) = database(checked.clone());
    let mut session = open(&trusted).await;
    let over_tls = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(
        one(&mut *session, over_tls, &[]).await,
        SqlValue::Boolean(true)
    );
    // Cancelling goes the same way.
    let endless = "SELECT COUNT(*) FROM generate_series(1, 1000000000000)";
    let short = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(short, session.execute(endless, &[]))
            .await
            .is_err()
    );
    drop(session);
    let active = "SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%1000000000000%' AND pid <> pg_backend_pid()";
    let begun = Instant::now();
    while server.sql("postgres", active) != "0" {
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    for (settings, why) in [
        (
            Settings {
                host: "127.0.0.1".to_owned(),
                ..checked.clone()
            },
            "not valid for name",
        ),
        (
            Settings {
                ca_file: None,
                ..checked.clone()
            },
            "UnknownIssuer",
        ),
        (
            Settings {
                ca_file: Some(folder.path().join("none")),
                ..checked.clone()
            },
            "cannot be read",
        ),
    ] {
        let (database, heard) = database(settings);
        assert_eq!(
            database
                .open("", ROOM)
                .await
                .map(|_| ())
                .unwrap_err()
                .code(),
            "unavailable"
        );
        let told = heard.all().concat();
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = Settings {
        host: "127.0.0.1".to_owned(),
        port,
        database: "postgres".to_owned(),
        user: Some(USER.to_owned()),
        secret: None,
        tls: false,
        ca_file: None,
    };
    let (database, heard) = database(silent);
    let begun = Instant::now();
    assert_eq!(
        database
            .open("", ROOM)
            .await
            .map(|_| ())
            .unwrap_err()
            .code(),
        "unavailable"
    );
    assert!(begun.elapsed() < Duration::from_millis(limits::CALL_TIMEOUT_MS));
    assert!(heard.all()[0].contains("in time"), "{:?}", heard.all());
}

/// It has the connection, and answers nothing on it.
#[tokio::test]
async fn a_server_that_stands_still_is_an_error_in_time() {
    let server = Server::start(None, "scram-sha-256");
    let (database, _) = database(settings(&server));
    let mut session = open(&database).await;
    run(&mut *session, "CREATE TABLE t (i INTEGER)").await;
    run(&mut *session, "INSERT INTO t VALUES (1)").await;
    server.signal("-STOP");
    // A call has so long, and a busy machine some more; one that hangs never ends.
    let longest = 3 * Duration::from_millis(limits::CALL_TIMEOUT_MS);
    let written = session.execute("INSERT INTO t VALUES (2)", &[]);
    let written = tokio::time::timeout(longest, written).await;
    let said = code(written.expect("writing ends"));
    assert!(["timeout", "unavailable"].contains(&&*said), "{said}");
    let opened = tokio::time::timeout(longest, database.open("", ROOM)).await;
    if let Ok(mut other) = opened.expect("opening ends") {
        let read = other.execute("SELECT * FROM t", &[]);
        let read = tokio::time::timeout(longest, read).await;
        let said = code(read.expect("reading ends"));
        assert!(["timeout", "unavailable"].contains(&&*said), "{said}");
    }
    server.signal("-CONT");
    let began = Instant::now();
    let seen = loop {
        if let Ok(mut session) = database.open("", ROOM).await
            && let Ok(rows) = rows(&mut *session, "SELECT i FROM t ORDER BY i", &[]).await
        {
            break rows;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it is used again"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // Of what had no answer nobody knows.
    let (one, two) = (vec![int(1)], vec![int(2)]);
    assert!(seen == [one.clone()] || seen == [one, two], "{seen:?}");
}

#[test]
fn connections_outlive_the_runtimes_of_guests() {
    let server = Server::start(None, "scram-sha-256");
    let build = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let own = build();
    let database = own.block_on(async { database(settings(&server)).0 });
    let process = "SELECT pg_backend_pid()";
    let mut processes = Vec::new();
    for _ in 0..3 {
        let guest = build();
        processes.push(guest.block_on(async {
            let mut session = open(&database).await;
            one(&mut *session, process, &[]).await
        }));
        drop(guest);
        // It is made as new before it is handed out again.
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(processes[1..], [processes[0].clone(), processes[0].clone()]);
}
