//! Short words for tests of databases, and the list of what is true of each of them.

use std::pin::Pin;
use std::sync::Arc;

use realm_model::cloud::{Session, Sql, SqlError, SqlRows, SqlValue};

/// A check of a database that is empty.
pub(crate) type Check = fn(Arc<dyn Sql>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Checks by name.
pub(crate) type Checks = Vec<(&'static str, Check)>;

/// Names functions and has them as checks.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        vec![$((stringify!($name), (|database| Box::pin($name(database))) as crate::support::Check)),*]
    };
}
pub(crate) use checks;

/// Everything that is true of each database.
pub(crate) fn all() -> Checks {
    let parts = [
        crate::checks::all(),
        crate::types::all(),
        crate::transactions::all(),
        crate::streams::all(),
    ];
    parts.into_iter().flatten().collect()
}

/// Puts every check to a database of its own, and names those that fail.
pub(crate) async fn judge(mut make: impl AsyncFnMut(&str) -> Arc<dyn Sql>) {
    let mut failed = Vec::new();
    for (name, check) in all() {
        let database = make(name).await;
        // A task of its own, so that a panic is an answer.
        let outcome = tokio::task::spawn(check(database)).await;
        println!("{} {name}", if outcome.is_ok() { "ok" } else { "FAIL" });
        if outcome.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

pub(crate) fn text(text: &str) -> SqlValue {
    SqlValue::Text(text.to_owned())
}

pub(crate) const fn int(value: i64) -> SqlValue {
    SqlValue::Integer(value)
}

pub(crate) async fn open(database: &dyn Sql) -> Box<dyn Session> {
    database.open().await.unwrap()
}

/// Runs a statement without parameters that succeeds.
pub(crate) async fn run(session: &mut dyn Session, statement: &str) -> u64 {
    let result = session.execute(statement, &[]).await;
    result.unwrap_or_else(|error| panic!("{statement}: {error:?}"))
}

/// All rows of a query.
pub(crate) async fn rows(
    session: &mut dyn Session,
    statement: &str,
    parameters: &[SqlValue],
) -> Result<SqlRows, SqlError> {
    session.query(statement, parameters).await?;
    let mut all = SqlRows::new();
    loop {
        let page = session.fetch().await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// The one value of a query.
pub(crate) async fn one(
    session: &mut dyn Session,
    statement: &str,
    parameters: &[SqlValue],
) -> SqlValue {
    let rows = rows(session, statement, parameters).await;
    let mut rows = rows.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    assert_eq!((rows.len(), rows[0].len()), (1, 1), "{statement}");
    rows.remove(0).remove(0)
}

/// The stable code of an error.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, SqlError>) -> String {
    result.unwrap_err().code().to_owned()
}
