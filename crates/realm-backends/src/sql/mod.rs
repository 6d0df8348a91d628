//! Databases with SQL: SQLite in files of the node, and PostgreSQL.
//!
//! What both have in common is here, so that a guest cannot tell them by it: how statements are looked at
//! before they run (`words`), what a transaction allows (`transaction`), and who may have a session
//! (`pool`).

mod pool;
mod postgres;
mod sqlite;
mod transaction;
mod words;

use std::time::Duration;

use realm_model::cloud::{CloudError, SqlValue, limits};

pub use postgres::{Postgres, Settings, SettingsError};
pub use sqlite::Sqlite;

/// Until a statement has to be at its end, or a page of its rows there: a little less than the caller
/// waits, so that what it hears is the database's own word.
const PATIENCE: Duration = Duration::from_millis(limits::CALL_TIMEOUT_MS - 1_500);

/// What a page of rows has in it already.
#[derive(Default)]
struct Page {
    rows: Vec<Vec<SqlValue>>,
    bytes: usize,
}

impl Page {
    fn push(&mut self, row: Vec<SqlValue>) {
        self.bytes += row.iter().map(bytes_of).sum::<usize>();
        self.rows.push(row);
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= limits::PAGE_ROWS || self.bytes >= limits::PAGE_ROWS_BYTES
    }
}

/// What is left of what one row may have: asked value by value, before the next one is copied.
struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(limits::ROW_BYTES_MAX)
    }
}

impl Budget {
    fn take(&mut self, n_bytes: usize) -> Result<(), CloudError> {
        let left = self.0.checked_sub(n_bytes);
        self.0 = left.ok_or(CloudError::TooLarge {
            what: "a row",
            bytes: limits::ROW_BYTES_MAX as u64 + 1,
            bytes_max: limits::ROW_BYTES_MAX as u64,
        })?;
        Ok(())
    }
}

/// What a value takes on its way to a guest, about.
pub(crate) fn bytes_of(value: &SqlValue) -> usize {
    size_of::<SqlValue>() + payload(value)
}

/// Bytes that a value has beside its own place.
fn payload(value: &SqlValue) -> usize {
    match value {
        SqlValue::Null | SqlValue::Boolean(_) | SqlValue::Integer(_) | SqlValue::Real(_) => 0,
        SqlValue::Text(text)
        | SqlValue::Date(text)
        | SqlValue::Time(text)
        | SqlValue::Timestamp(text)
        | SqlValue::Decimal(text) => text.len(),
        SqlValue::Bytes(bytes) => bytes.len(),
    }
}
