//! Statements, in sessions of a database.

use super::{Answer, CloudError};

/// A database.
pub trait Sql: Send + Sync {
    /// A session of its own: from a pool, and back to it when it is dropped, without a transaction and
    /// without settings that it made.
    fn open(&self) -> Answer<'_, Box<dyn Session>>;
}

/// One session: a statement at a time.
pub trait Session: Send {
    /// Runs one statement without rows: how many rows it changed.
    fn execute<'a>(
        &'a mut self,
        statement: &'a str,
        parameters: &'a [SqlValue],
    ) -> Answer<'a, u64, SqlError>;

    /// Runs one statement, and gives its rows as they come.
    fn query<'a>(
        &'a mut self,
        statement: &'a str,
        parameters: &'a [SqlValue],
    ) -> Answer<'a, Box<dyn Rows + 'a>, SqlError>;

    /// Begins a transaction: serializable, on each backend.
    fn begin(&mut self) -> Answer<'_, (), SqlError>;

    /// Ends it: everything since `begin` is durable.
    fn commit(&mut self) -> Answer<'_, (), SqlError>;

    /// Ends it: nothing since `begin` happened.
    fn roll_back(&mut self) -> Answer<'_, (), SqlError>;
}

/// Rows as they come.
pub trait Rows: Send {
    /// Names of the columns.
    fn columns(&self) -> &[String];

    /// The next row, with a value for each column; `None` at the end.
    fn next(&mut self) -> Answer<'_, Option<Vec<SqlValue>>, SqlError>;
}

/// A value of a column or a parameter. A parameter is bound as what it is; it is never a part of the
/// statement's text.
#[derive(Debug, Clone, PartialEq)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// True or false; in SQLite 1 or 0.
    Boolean(bool),
    /// Up to 64 bits with a sign.
    Integer(i64),
    /// 64-bit floating point.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// `2026-11-22`.
    Date(String),
    /// `12:34:56.789`.
    Time(String),
    /// `2026-11-22T12:34:56.789`, with `Z` where it has a time zone.
    Timestamp(String),
    /// A number with exact digits, or another type that has a text: as PostgreSQL writes it.
    Other(String),
}

/// Why a statement did not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// The database says what is wrong with the statement or the data.
    #[error("{message}")]
    Database {
        /// SQLSTATE of PostgreSQL, or the name of SQLite's extended result code.
        code: String,
        /// Its words.
        message: String,
    },
    /// A transaction that met another one: doing all of it again may succeed.
    #[error("the transaction met another one: try it again")]
    Conflict,
    /// Everything that any backend may say.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

impl SqlError {
    /// Stable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Database { code, .. } => code,
            Self::Conflict => "conflict",
            Self::Cloud(error) => error.code(),
        }
    }
}
