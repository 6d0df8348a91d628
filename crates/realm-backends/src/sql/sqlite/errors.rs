//! SQLite's result codes as what every database says: SQLSTATEs, so that a guest need not know which
//! database it has.

use realm_model::cloud::{CloudError, Quota, SqlError, limits};
use rusqlite::ErrorCode;
use rusqlite::ffi;

use super::functions;

/// Where SQLite has no code of its own for what happened, its words tell.
const BY_MESSAGE: &[(&str, &str)] = &[
    ("no such table", "42P01"),
    ("no such column", "42703"),
    ("no such function", "42883"),
    ("wrong number of arguments", "42883"),
    ("table ", "42P07"),
    ("index ", "42P07"),
    ("incomplete input", "42601"),
    ("near ", "42601"),
    ("unrecognized token", "42601"),
    ("integer overflow", "22003"),
    ("malformed JSON", "22032"),
];

/// An error of a statement. In a transaction a database that is busy means that another one was there
/// first; outside, that it kept the statement from running until its time was over.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "an enum of another crate, which grows"
)]
pub(super) fn translate(error: &rusqlite::Error, in_transaction: bool) -> SqlError {
    let (own, message) = match error {
        rusqlite::Error::SqliteFailure(own, message) => (own, message.clone()),
        rusqlite::Error::SqlInputError {
            error: own, msg, ..
        } => (own, Some(msg.clone())),
        // rusqlite's own: what it thinks of the use that is made of it.
        other => return CloudError::Failed(other.to_string()).into(),
    };
    let message = message.unwrap_or_else(|| own.to_string());
    match own.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked if in_transaction => SqlError::Conflict,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OperationInterrupted => {
            CloudError::Timeout.into()
        }
        // Or the disk is: for a guest it is the same.
        ErrorCode::DiskFull => CloudError::Quota(Quota::Bytes).into(),
        ErrorCode::OutOfMemory => {
            CloudError::Failed("statements take more memory than they may".to_owned()).into()
        }
        ErrorCode::TooBig => too_big(&message),
        ErrorCode::AuthorizationForStatementDenied => CloudError::AccessDenied.into(),
        ErrorCode::ConstraintViolation => database(constraint(own.extended_code), message),
        ErrorCode::TypeMismatch => database("42804", message),
        // Functions that are refused have no code of their own.
        ErrorCode::Unknown if message.starts_with("not authorized") => {
            CloudError::AccessDenied.into()
        }
        ErrorCode::Unknown if message.starts_with(functions::TOO_MUCH) => too_big(&message),
        ErrorCode::Unknown => database(by_message(&message), message),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            CloudError::Failed("the database's file is damaged".to_owned()).into()
        }
        other => CloudError::Failed(format!("{other:?}")).into(),
    }
}

/// A value or a row that is too large, or a statement that becomes so.
fn too_big(message: &str) -> SqlError {
    if message.contains("statement") {
        return database("54001", message.to_owned());
    }
    let what = if message.starts_with(functions::TOO_MUCH) {
        "what a function is given"
    } else {
        "a row"
    };
    CloudError::TooLarge {
        what,
        bytes: limits::ROW_BYTES_MAX as u64 + 1,
        bytes_max: limits::ROW_BYTES_MAX as u64,
    }
    .into()
}

fn database(code: &str, message: String) -> SqlError {
    SqlError::Database {
        code: code.to_owned(),
        message,
    }
}

const fn constraint(extended: i32) -> &'static str {
    match extended {
        ffi::SQLITE_CONSTRAINT_UNIQUE
        | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
        | ffi::SQLITE_CONSTRAINT_ROWID => "23505",
        ffi::SQLITE_CONSTRAINT_NOTNULL => "23502",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "23503",
        ffi::SQLITE_CONSTRAINT_CHECK => "23514",
        ffi::SQLITE_CONSTRAINT_DATATYPE => "22P02",
        // RAISE in a trigger.
        ffi::SQLITE_CONSTRAINT_TRIGGER => "P0001",
        _ => "23000",
    }
}

fn by_message(message: &str) -> &'static str {
    let found = BY_MESSAGE
        .iter()
        .find(|(words, _)| message.starts_with(words));
    match found {
        Some((_, "42P07")) if !message.ends_with("already exists") => "HY000",
        Some((_, code)) => code,
        None => "HY000",
    }
}
