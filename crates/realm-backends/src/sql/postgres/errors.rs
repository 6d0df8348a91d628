//! What a server says as what every database says.

use std::error::Error as _;
use std::io;

use realm_model::cloud::{CloudError, SqlError, limits};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::connect::Link;

/// An error of a statement on a connection.
pub(super) fn translate(error: &Error, link: &Link) -> SqlError {
    if let Some(own) = error.as_db_error() {
        return database(own.code(), own.message());
    }
    let is_io = error
        .source()
        .is_some_and(<dyn std::error::Error>::is::<io::Error>);
    if error.is_closed() || is_io {
        return if link.got_too_large() {
            CloudError::TooLarge {
                what: "a row",
                bytes: limits::ROW_BYTES_MAX as u64 + 1,
                bytes_max: limits::ROW_BYTES_MAX as u64,
            }
            .into()
        } else {
            CloudError::Unavailable.into()
        };
    }
    // Of the client's own errors the one that a guest can make: more or fewer values than parameters.
    let text = error.to_string();
    if text.contains("parameter") {
        CloudError::Invalid(text).into()
    } else {
        CloudError::Failed(text).into()
    }
}

fn database(code: &SqlState, message: &str) -> SqlError {
    match code.code() {
        "40001" | "40P01" => SqlError::Conflict,
        "57014" => CloudError::Timeout.into(),
        // The server goes, or is not there yet.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => CloudError::Unavailable.into(),
        "25P02" => SqlError::Aborted,
        code => SqlError::database(code, message),
    }
}

/// Whether a prepared statement is no longer what it was, because its tables changed.
pub(super) fn is_stale(error: &Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|own| match own.code().code() {
            "26000" => true,
            "0A000" => own.message().contains("cached plan"),
            _ => false,
        })
}
