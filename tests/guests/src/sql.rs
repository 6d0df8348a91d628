//! Asks a database through `realm:cloud/sql` what every database has to answer, a line for each check:
//! `ok NAME` or `FAIL NAME: why`. `/?db=` names the database; the checks make their tables anew.
//!
//! `/run?db=&sql=` runs one statement of the caller's, and answers with what came of it; `/hold?db=&sql=` does
//! so in a transaction and traps; `/held?db=` holds rows until that is refused; `/words?spelling=` searches text as one of the databases spells it.

mod bindings {
    wit_bindgen::generate!({ path: ["../../wit/deps/wasi-keyvalue-0.2.0-draft2", "../../wit/deps/wasi-messaging-0.2.0-draft", "../../wit/deps/realm-cloud"], world: "realm:cloud/sql-imports" });
}

use bindings::realm::cloud::sql::{Connection, Error, Row, Value};

guests::serve!(handle);

type Check = fn(&Connection, &str) -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("types", types),
    ("nulls", nulls),
    ("injection", injection),
    ("parameters", parameters),
    ("columns", columns),
    ("rows-one-by-one", rows_one_by_one),
    ("many-rows", many_rows),
    ("rows-are-over", rows_are_over),
    ("rows-dropped", rows_dropped),
    ("changed", changed),
    ("commit", commit),
    ("roll-back", roll_back),
    ("dropped-in-a-transaction", dropped_in_a_transaction),
    ("after-an-error", after_an_error),
    ("conflict", conflict),
    ("codes", codes),
    ("statements-of-transactions", statements_of_transactions),
    ("limits", limits),
    ("sessions", sessions),
    ("documents", documents),
];

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let name = guests::parameter(&request, "db").unwrap_or("default".to_owned());
    let statement = guests::parameter(&request, "sql").unwrap_or_default();
    let spelling = guests::parameter(&request, "spelling").unwrap_or_default();
    // Behind whatever its route says before it.
    let path = guests::path(&request);
    let answer = match path.rsplit('/').next().unwrap_or_default() {
        "run" => open(&name).and_then(|connection| run(&connection, &statement)),
        "hold" => hold(&name, &statement),
        "held" => open(&name).map(|connection| held(&connection)),
        "words" => open(&name).and_then(|connection| words(&connection, &spelling)),
        _ => Ok(checks(&name)),
    };
    match answer {
        Ok(text) => guests::text(out, 200, &text),
        Err(why) => guests::text(out, 500, &why),
    }
}

fn open(name: &str) -> Result<Connection, String> {
    Connection::open(name).map_err(code)
}

fn held(connection: &Connection) -> String {
    let values = [Value::Integer(1), Value::Bytes(vec![7; 10_000_000])];
    let mut all = Vec::new();
    for n in 0..20 {
        let rows = connection.query("SELECT $1 UNION ALL SELECT $2", &values);
        // The second row waits with the host, also after the next statement.
        match rows.and_then(|rows| rows.next().map(|_| rows)) {
            Ok(rows) => all.push(rows),
            Err(error) => return format!("{n} {error:?}"),
        }
    }
    "all".to_owned()
}

fn checks(name: &str) -> String {
    let mut answer = String::new();
    for (check, run) in CHECKS {
        let result = open(name).and_then(|connection| run(&connection, name));
        answer += &match result {
            Ok(()) => format!("ok {check}\n"),
            Err(why) => format!("FAIL {check}: {why}\n"),
        };
    }
    answer
}

/// Whatever comes of a statement, in words.
fn run(connection: &Connection, statement: &str) -> Result<String, String> {
    let rows = connection.query(statement, &[]).map_err(code)?;
    let mut answer = String::new();
    while let Some(row) = rows.next().map_err(code)? {
        answer += &format!("{row:?}\n");
    }
    Ok(answer)
}

fn hold(name: &str, statement: &str) -> Result<String, String> {
    let connection = open(name)?;
    connection.begin().map_err(code)?;
    connection.execute(statement, &[]).map_err(code)?;
    panic!("in the middle of a transaction");
}

/// What a guest can tell an error by.
fn code(error: Error) -> String {
    match error {
        Error::NoSuchDatabase => "no-such-database".to_owned(),
        Error::AccessDenied => "access-denied".to_owned(),
        Error::Quota(which) => format!("quota {which}"),
        Error::TooLarge(_) => "too-large".to_owned(),
        Error::Invalid(_) => "invalid".to_owned(),
        Error::Conflict => "conflict".to_owned(),
        Error::Aborted => "aborted".to_owned(),
        Error::Timeout => "timeout".to_owned(),
        Error::Unavailable => "unavailable".to_owned(),
        Error::Database(error) => error.code,
        Error::Other(why) => format!("other {why}"),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Runs a statement that succeeds.
fn done(connection: &Connection, statement: &str, parameters: &[Value]) -> Result<u64, String> {
    let result = connection.execute(statement, parameters);
    result.map_err(|error| format!("{statement}: {error:?}"))
}

/// All rows of a query that succeeds.
fn all(connection: &Connection, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, String> {
    let failed = |error| format!("{statement}: {error:?}");
    let rows = connection.query(statement, parameters).map_err(failed)?;
    let mut found = Vec::new();
    loop {
        let page = rows.read().map_err(failed)?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

/// A table of this check alone.
fn table(connection: &Connection, name: &str, columns: &str) -> Result<(), String> {
    done(connection, &format!("DROP TABLE IF EXISTS {name}"), &[])?;
    done(connection, &format!("CREATE TABLE {name} ({columns})"), &[])?;
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{found:?} is not {wanted:?}"))
}

/// That a call fails in one way.
fn fails<T>(result: Result<T, Error>, wanted: &str) -> Result<(), String> {
    match result {
        Ok(_) => Err(format!("did not fail with {wanted}")),
        Err(error) => same(code(error).as_str(), wanted),
    }
}

/// Values that can be compared: the generated ones have floating-point numbers in them.
fn shown(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| format!("{row:?}")).collect()
}

fn count(connection: &Connection, table: &str, wanted: i64) -> Result<(), String> {
    let found = all(connection, &format!("SELECT COUNT(*) FROM {table}"), &[])?;
    same(shown(&found), shown(&[vec![Value::Integer(wanted)]]))
}

fn types(connection: &Connection, _: &str) -> Result<(), String> {
    table(
        connection,
        "c_types",
        "i BIGINT, b BOOLEAN, r DOUBLE PRECISION, s TEXT, x BYTEA, d DATE, c TIME, ts TIMESTAMP, \
         tz TIMESTAMP WITH TIME ZONE",
    )?;
    let rows = [
        vec![
            Value::Integer(i64::MIN),
            Value::Boolean(true),
            Value::Real(0.1),
            text("żółć \u{1F980} ' \" \\"),
            Value::Bytes((0..=255).collect()),
            Value::Date("2026-11-22".to_owned()),
            Value::Time("12:34:56.789".to_owned()),
            Value::Timestamp("2026-11-22T12:34:56.789".to_owned()),
            Value::Timestamp("2026-11-22T12:34:56.789Z".to_owned()),
        ],
        vec![
            Value::Integer(i64::MAX),
            Value::Boolean(false),
            Value::Real(-1e300),
            text(""),
            Value::Bytes(Vec::new()),
            Value::Date("0001-01-01".to_owned()),
            Value::Time("00:00:00".to_owned()),
            Value::Timestamp("9999-12-31T23:59:59".to_owned()),
            Value::Timestamp("1970-01-01T00:00:00Z".to_owned()),
        ],
    ];
    for row in &rows {
        done(
            connection,
            "INSERT INTO c_types VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            row,
        )?;
    }
    let found = all(connection, "SELECT * FROM c_types ORDER BY i", &[])?;
    same(shown(&found), shown(&rows))
}

fn nulls(connection: &Connection, _: &str) -> Result<(), String> {
    table(connection, "c_nulls", "i INTEGER, s TEXT, b BOOLEAN")?;
    let row = vec![Value::Null, Value::Null, Value::Null];
    done(connection, "INSERT INTO c_nulls VALUES ($1, $2, $3)", &row)?;
    let found = all(connection, "SELECT * FROM c_nulls WHERE s IS NULL", &[])?;
    same(shown(&found), shown(&[row]))
}

fn injection(connection: &Connection, _: &str) -> Result<(), String> {
    table(connection, "c_users", "name TEXT")?;
    done(
        connection,
        "INSERT INTO c_users VALUES ($1)",
        &[text("root")],
    )?;
    for attack in [
        "' OR '1'='1",
        "'; DROP TABLE c_users; --",
        "\\'; DELETE FROM c_users; --",
    ] {
        let found = all(
            connection,
            "SELECT * FROM c_users WHERE name = $1",
            &[text(attack)],
        )?;
        same(found.len(), 0)?;
    }
    if connection
        .execute("SELECT 1; DELETE FROM c_users", &[])
        .is_ok()
    {
        return Err("two statements in one".to_owned());
    }
    count(connection, "c_users", 1)
}

fn parameters(connection: &Connection, _: &str) -> Result<(), String> {
    let values = [Value::Integer(40), Value::Integer(2)];
    let found = all(connection, "SELECT $2 + $1 + $2", &values)?;
    same(shown(&found), shown(&[vec![Value::Integer(44)]]))?;
    for statement in [
        "SELECT ? + ?",
        "SELECT :a + :b",
        "SELECT $1 + $3",
        "SELECT CAST($1 AS INTEGER)",
    ] {
        if connection.query(statement, &values).is_ok() {
            return Err(format!("{statement} is taken"));
        }
    }
    Ok(())
}

fn columns(connection: &Connection, _: &str) -> Result<(), String> {
    let rows = connection
        .query("SELECT 1 AS one, 'x' AS two WHERE 1 = 0", &[])
        .map_err(code)?;
    same(rows.columns(), vec!["one".to_owned(), "two".to_owned()])?;
    same(rows.next().map_err(code)?.is_none(), true)
}

const NUMBERS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) SELECT i FROM n";

fn rows_one_by_one(connection: &Connection, _: &str) -> Result<(), String> {
    let rows = connection
        .query(NUMBERS, &[Value::Integer(1_000)])
        .map_err(code)?;
    for wanted in 1..=1_000 {
        let row = rows.next().map_err(code)?;
        same(
            format!("{row:?}"),
            format!("{:?}", Some(vec![Value::Integer(wanted)])),
        )?;
    }
    same(rows.next().map_err(code)?.is_none(), true)
}

fn many_rows(connection: &Connection, _: &str) -> Result<(), String> {
    let found = connection
        .query(NUMBERS, &[Value::Integer(100_000)])
        .map_err(code)?;
    let mut n_rows = 0;
    loop {
        let page = found.read().map_err(code)?;
        if page.is_empty() {
            return same(n_rows, 100_000);
        }
        n_rows += page.len();
    }
}

fn rows_are_over(connection: &Connection, _: &str) -> Result<(), String> {
    let rows = connection
        .query(NUMBERS, &[Value::Integer(10_000)])
        .map_err(code)?;
    rows.next().map_err(code)?;
    let other = connection
        .query(NUMBERS, &[Value::Integer(1)])
        .map_err(code)?;
    // What came already may be read, and then it is over.
    loop {
        match rows.read() {
            Ok(page) if page.is_empty() => return Err("it came to its end".to_owned()),
            Ok(_) => {}
            Err(error) => {
                same(code(error).as_str(), "invalid")?;
                break;
            }
        }
    }
    same(other.read().map_err(code)?.len(), 1)
}

fn rows_dropped(connection: &Connection, name: &str) -> Result<(), String> {
    table(connection, "c_dropped", "i INTEGER")?;
    let add = "INSERT INTO c_dropped VALUES (1) RETURNING i";
    drop(connection.query(add, &[]).map_err(code)?);
    count(&open(name)?, "c_dropped", 1)?;
    drop(
        connection
            .query(NUMBERS, &[Value::Integer(1_000_000_000)])
            .map_err(code)?,
    );
    count(connection, "c_dropped", 1)
}

fn changed(connection: &Connection, _: &str) -> Result<(), String> {
    table(connection, "c_changed", "i INTEGER PRIMARY KEY")?;
    same(
        done(
            connection,
            "INSERT INTO c_changed VALUES (1), (2), (3)",
            &[],
        )?,
        3,
    )?;
    same(
        done(
            connection,
            "DELETE FROM c_changed WHERE i > $1",
            &[Value::Integer(1)],
        )?,
        2,
    )?;
    same(
        done(connection, "DELETE FROM c_changed WHERE i > 7", &[])?,
        0,
    )?;
    same(
        done(connection, "CREATE INDEX c_changed_i ON c_changed (i)", &[])?,
        0,
    )
}

fn commit(connection: &Connection, name: &str) -> Result<(), String> {
    table(connection, "c_commit", "i INTEGER")?;
    let other = open(name)?;
    connection.begin().map_err(code)?;
    done(connection, "INSERT INTO c_commit VALUES (1)", &[])?;
    count(connection, "c_commit", 1)?;
    count(&other, "c_commit", 0)?;
    connection.commit().map_err(code)?;
    count(&other, "c_commit", 1)
}

fn roll_back(connection: &Connection, _: &str) -> Result<(), String> {
    table(connection, "c_roll_back", "i INTEGER")?;
    connection.begin().map_err(code)?;
    done(connection, "INSERT INTO c_roll_back VALUES (1)", &[])?;
    connection.roll_back().map_err(code)?;
    count(connection, "c_roll_back", 0)?;
    connection.roll_back().map_err(code)?;
    fails(connection.commit(), "invalid")
}

fn dropped_in_a_transaction(connection: &Connection, name: &str) -> Result<(), String> {
    table(connection, "c_gone", "i INTEGER")?;
    let other = open(name)?;
    other.begin().map_err(code)?;
    done(&other, "INSERT INTO c_gone VALUES (1)", &[])?;
    drop(other);
    done(connection, "INSERT INTO c_gone VALUES (2)", &[])?;
    let found = all(connection, "SELECT i FROM c_gone", &[])?;
    same(shown(&found), shown(&[vec![Value::Integer(2)]]))
}

fn after_an_error(connection: &Connection, _: &str) -> Result<(), String> {
    table(connection, "c_error", "i INTEGER PRIMARY KEY")?;
    done(connection, "INSERT INTO c_error VALUES (1)", &[])?;
    connection.begin().map_err(code)?;
    done(connection, "INSERT INTO c_error VALUES (2)", &[])?;
    fails(
        connection.execute("INSERT INTO c_error VALUES (1)", &[]),
        "23505",
    )?;
    fails(
        connection.execute("INSERT INTO c_error VALUES (3)", &[]),
        "aborted",
    )?;
    fails(connection.commit(), "aborted")?;
    count(connection, "c_error", 1)
}

fn conflict(connection: &Connection, name: &str) -> Result<(), String> {
    table(connection, "c_conflict", "who TEXT PRIMARY KEY, n INTEGER")?;
    done(
        connection,
        "INSERT INTO c_conflict VALUES ('a', 1), ('b', 1)",
        &[],
    )?;
    let other = open(name)?;
    let sum = "SELECT SUM(n) FROM c_conflict";
    connection.begin().map_err(code)?;
    other.begin().map_err(code)?;
    all(connection, sum, &[])?;
    all(&other, sum, &[])?;
    done(
        connection,
        "UPDATE c_conflict SET n = 0 WHERE who = 'a'",
        &[],
    )?;
    connection.commit().map_err(code)?;
    let late = other.execute("UPDATE c_conflict SET n = 0 WHERE who = 'b'", &[]);
    fails(late.and_then(|_| other.commit()), "conflict")?;
    other.roll_back().map_err(code)?;
    let found = all(connection, sum, &[])?;
    same(shown(&found), shown(&[vec![Value::Integer(1)]]))
}

fn codes(connection: &Connection, _: &str) -> Result<(), String> {
    table(
        connection,
        "c_codes",
        "i INTEGER PRIMARY KEY, s TEXT NOT NULL CHECK (s <> '')",
    )?;
    done(connection, "INSERT INTO c_codes VALUES (1, 'a')", &[])?;
    for (statement, wanted) in [
        ("INSERT INTO c_codes VALUES (1, 'b')", "23505"),
        ("INSERT INTO c_codes VALUES (2, NULL)", "23502"),
        ("INSERT INTO c_codes VALUES (2, '')", "23514"),
        ("SELECT * FROM c_nowhere", "42P01"),
        ("SELECT missing FROM c_codes", "42703"),
        ("SELECT missing(1)", "42883"),
        ("SELEC 1", "42601"),
    ] {
        fails(connection.execute(statement, &[]), wanted)
            .map_err(|why| format!("{statement}: {why}"))?;
    }
    Ok(())
}

fn statements_of_transactions(connection: &Connection, _: &str) -> Result<(), String> {
    for statement in [
        "BEGIN",
        "commit",
        "/* x */ ROLLBACK",
        "SAVEPOINT a",
        "-- x\nEND",
    ] {
        fails(connection.execute(statement, &[]), "invalid")?;
    }
    Ok(())
}

fn limits(connection: &Connection, _: &str) -> Result<(), String> {
    let long = format!("SELECT '{}'", "x".repeat(1 << 20));
    fails(connection.execute(&long, &[]), "too-large")?;
    let many = vec![Value::Null; 40_000];
    fails(connection.execute("SELECT 1", &many), "invalid")?;
    table(connection, "c_large", "s TEXT")?;
    done(
        connection,
        "INSERT INTO c_large VALUES ($1)",
        &[text(&"x".repeat(5 << 20))],
    )?;
    let large = connection.query("SELECT s || s || s || s || s FROM c_large", &[]);
    fails(large, "too-large")
}

fn sessions(_: &Connection, name: &str) -> Result<(), String> {
    let mut open = Vec::new();
    loop {
        match Connection::open(name) {
            Ok(connection) => open.push(connection),
            // With the one of this check.
            Err(error) => {
                same(code(error).as_str(), "invalid")?;
                return same(open.len(), 7);
            }
        }
    }
}

/// Documents in JSON, with fields that are asked for and an index over one: one spelling for both.
fn documents(connection: &Connection, _: &str) -> Result<(), String> {
    table(
        connection,
        "c_documents",
        "id INTEGER PRIMARY KEY, doc JSONB NOT NULL",
    )?;
    done(
        connection,
        "CREATE INDEX c_documents_name ON c_documents ((doc ->> 'name'))",
        &[],
    )?;
    let documents = [
        r#"{"name": "ann", "age": 41, "address": {"city": "Oslo"}, "tags": ["x", "y"]}"#,
        r#"{"name": "bob", "age": 7, "address": {"city": "Bern"}, "tags": []}"#,
    ];
    for (id, document) in (1..).zip(documents) {
        let row = [Value::Integer(id), text(document)];
        done(connection, "INSERT INTO c_documents VALUES ($1, $2)", &row)?;
    }
    for (question, wanted) in [
        (
            "SELECT id FROM c_documents WHERE doc ->> 'name' = 'bob'",
            Value::Integer(2),
        ),
        (
            "SELECT id FROM c_documents WHERE doc -> 'address' ->> 'city' = 'Oslo'",
            Value::Integer(1),
        ),
        (
            "SELECT id FROM c_documents WHERE CAST(doc ->> 'age' AS INTEGER) > 40",
            Value::Integer(1),
        ),
        (
            "SELECT doc -> 'tags' ->> 1 FROM c_documents WHERE id = 1",
            text("y"),
        ),
    ] {
        let found = all(connection, question, &[])?;
        same(shown(&found), shown(&[vec![wanted]])).map_err(|why| format!("{question}: {why}"))?;
    }
    Ok(())
}

/// Text by its words, best first: what each database has for it, in its own spelling.
fn words(connection: &Connection, spelling: &str) -> Result<String, String> {
    let (make, add, find) = match spelling {
        "fts5" => (
            "CREATE VIRTUAL TABLE c_words USING fts5(body, tokenize = 'porter')",
            "INSERT INTO c_words (body) VALUES ($1)",
            "SELECT body FROM c_words WHERE c_words MATCH $1 ORDER BY rank",
        ),
        _ => (
            "CREATE TABLE c_words (body TEXT, words TSVECTOR GENERATED ALWAYS AS (to_tsvector('english', body)) STORED)",
            "INSERT INTO c_words (body) VALUES ($1)",
            "SELECT body FROM c_words, plainto_tsquery('english', $1) AS query WHERE words @@ query \
             ORDER BY ts_rank(words, query) DESC",
        ),
    };
    done(connection, "DROP TABLE IF EXISTS c_words", &[])?;
    done(connection, make, &[])?;
    for body in [
        "Dogs run",
        "A cat sleeps",
        "A dog sleeps: dogs sleep, and a dog dreams",
    ] {
        done(connection, add, &[text(body)])?;
    }
    let found = all(connection, find, &[text("dog")])?;
    Ok(shown(&found).join("\n"))
}
