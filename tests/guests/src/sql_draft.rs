//! Asks a database through `wasi:sql@0.2.0-draft`, as a guest that knows nothing of realm does: a line for
//! each check, `ok NAME` or `FAIL NAME: why`. `/?db=` names the database.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/wasi-sql-0.2.0-draft", world: "imports" });
}

use bindings::wasi::sql::readwrite;
use bindings::wasi::sql::types::{Connection, DataType, Error, Row, Statement};

guests::serve!(handle);

type Check = fn(&Connection) -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("cells", cells),
    ("parameters", parameters),
    ("injection", injection),
    ("errors", errors),
    ("large-results", large_results),
    ("held", held),
];

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let name = guests::parameter(&request, "db").unwrap_or("default".to_owned());
    let mut answer = String::new();
    for (check, run) in CHECKS {
        let result = Connection::open(&name)
            .map_err(|error| error.trace())
            .and_then(|connection| run(&connection));
        answer += &match result {
            Ok(()) => format!("ok {check}\n"),
            Err(why) => format!("FAIL {check}: {why}\n"),
        };
    }
    guests::text(out, 200, &answer);
}

fn exec(connection: &Connection, text: &str, parameters: &[&str]) -> Result<u32, Error> {
    let parameters: Vec<_> = parameters.iter().map(|text| (*text).to_owned()).collect();
    readwrite::exec(connection, &Statement::prepare(text, &parameters)?)
}

fn query(connection: &Connection, text: &str, parameters: &[&str]) -> Result<Vec<Row>, Error> {
    let parameters: Vec<_> = parameters.iter().map(|text| (*text).to_owned()).collect();
    readwrite::query(connection, &Statement::prepare(text, &parameters)?)
}

fn done<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| error.trace())
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{found:?} is not {wanted:?}"))
}

fn cells(connection: &Connection) -> Result<(), String> {
    done(exec(connection, "DROP TABLE IF EXISTS d_cells", &[]))?;
    done(exec(
        connection,
        "CREATE TABLE d_cells (id BIGINT, name TEXT, there BOOLEAN, at DATE)",
        &[],
    ))?;
    let add = "INSERT INTO d_cells VALUES ($1, $2, TRUE, $3)";
    same(done(exec(connection, add, &["1", "ann", "2026-11-22"]))?, 1)?;
    same(
        done(exec(
            connection,
            "INSERT INTO d_cells (id) VALUES ($1)",
            &["2"],
        ))?,
        1,
    )?;
    let found = done(query(connection, "SELECT * FROM d_cells ORDER BY id", &[]))?;
    let names: Vec<_> = found.iter().map(|cell| cell.field_name.as_str()).collect();
    same(names, ["id", "name", "there", "at"].repeat(2))?;
    let values: Vec<_> = found
        .iter()
        .map(|cell| format!("{:?}", cell.value))
        .collect();
    let wanted = [
        DataType::Int64(1),
        DataType::Str("ann".to_owned()),
        DataType::Boolean(true),
        DataType::Date("2026-11-22".to_owned()),
        DataType::Int64(2),
        DataType::Null,
        DataType::Null,
        DataType::Null,
    ];
    same(
        values,
        wanted.iter().map(|value| format!("{value:?}")).collect(),
    )
}

/// A text is read as what is wanted where it stands.
fn parameters(connection: &Connection) -> Result<(), String> {
    let found = done(query(
        connection,
        "SELECT id FROM d_cells WHERE id = $1",
        &["2"],
    ))?;
    same(found.len(), 1)?;
    let found = done(query(
        connection,
        "SELECT id FROM d_cells ORDER BY id LIMIT $1",
        &["1"],
    ))?;
    same(found.len(), 1)
}

fn injection(connection: &Connection) -> Result<(), String> {
    let attack = "' OR '1'='1";
    let found = done(query(
        connection,
        "SELECT id FROM d_cells WHERE name = $1",
        &[attack],
    ))?;
    same(found.len(), 0)
}

fn errors(connection: &Connection) -> Result<(), String> {
    let error = exec(connection, "SELECT * FROM d_nowhere", &[]).err();
    let trace = error.map(|error| error.trace()).unwrap_or_default();
    same(trace.starts_with("42P01: "), true)?;
    let unbound = Connection::open("not bound").err();
    let trace = unbound.map(|error| error.trace()).unwrap_or_default();
    same(
        trace.as_str(),
        "no-such-store: no store is bound to this name",
    )
}

fn large_results(connection: &Connection) -> Result<(), String> {
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT i FROM n";
    let error = query(connection, many, &[]).err();
    let trace = error.map(|error| error.trace()).unwrap_or_default();
    same(trace.starts_with("too-large: "), true)?;
    same(done(query(connection, "SELECT 1", &[]))?.len(), 1)
}

/// What the host keeps for one guest has an end, and what is gone makes room.
fn held(connection: &Connection) -> Result<(), String> {
    let large = ["x".repeat(4_000_000)];
    let mut statements = Vec::new();
    let refused = loop {
        match Statement::prepare("SELECT $1", &large) {
            Ok(_) if statements.len() > 20 => return Err("nothing holds it".to_owned()),
            Ok(statement) => statements.push(statement),
            Err(error) => break error.trace(),
        }
    };
    same(refused.contains("too many large values"), true)?;
    drop(statements);
    same(done(query(connection, "SELECT $1", &["x"]))?.len(), 1)?;
    // What a database says may quote what it was given.
    let long = format!("SELECT \"{}\" FROM d_cells", "x".repeat(100_000));
    let trace = exec(connection, &long, &[])
        .err()
        .map(|error| error.trace());
    same(trace.is_some_and(|trace| trace.len() < 5_000), true)
}
