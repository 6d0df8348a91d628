//! Statements, in sessions of a database.
//!
//! Parameters are spelt `$1`, `$2`, .. on each backend. A transaction in which something failed takes no
//! further statement, on each backend ([`SqlError::Aborted`]).

use super::{Answer, CloudError, Documents, Search, Vectors, limits};

/// A database, or several of them by name.
pub trait Sql: Send + Sync {
    /// A session of its own: from a pool, and back to it when it is dropped, without a transaction and
    /// without settings that it made. A name that is not there comes to be; the empty one is the database
    /// that the backend itself names. As long as the session lasts, all databases together do not grow over
    /// `bytes_max`, where the backend can see to that.
    fn open<'a>(&'a self, database: &'a str, bytes_max: u64) -> Answer<'a, Box<dyn Session>>;

    /// Bytes of all databases; `None` where the backend cannot say.
    fn bytes(&self) -> Answer<'_, Option<u64>>;
}

/// Everything that is reached through a database: statements, and what is made of them so that a guest
/// needs to know neither SQL nor which database it is.
pub trait Database: Sql + Documents + Search + Vectors {}

impl<T: Sql + Documents + Search + Vectors> Database for T {}

/// Rows of a query, with a value for each column.
pub type SqlRows = Vec<Vec<SqlValue>>;

/// One session: a statement at a time.
///
/// Statements that begin, end or divide a transaction (`BEGIN`, `COMMIT`, `SAVEPOINT`, ..) are
/// [`CloudError::Invalid`]: [`Session::begin`] and its siblings are the way. A session that is dropped in
/// a transaction rolls it back.
pub trait Session: Send {
    /// Runs one statement: how many rows it changed. Rows that it gives are counted and dropped.
    fn execute<'a>(
        &'a mut self,
        statement: &'a str,
        parameters: &'a [SqlValue],
    ) -> Answer<'a, u64, SqlError>;

    /// Begins one statement with rows: the names of its columns. An earlier one is closed.
    fn query<'a>(
        &'a mut self,
        statement: &'a str,
        parameters: &'a [SqlValue],
    ) -> Answer<'a, Vec<String>, SqlError>;

    /// The next rows: as many as a page holds ([`super::limits::PAGE_ROWS`],
    /// [`super::limits::PAGE_ROWS_BYTES`]) or as are there, at least one. None: it was the end, and what
    /// the statement changed is done. Within [`super::limits::QUERY_MS_MAX`] of the query, else
    /// [`CloudError::Timeout`].
    fn fetch(&mut self) -> Answer<'_, SqlRows, SqlError>;

    /// Ends a query before its end. What it changed is done.
    fn close(&mut self) -> Answer<'_, (), SqlError>;

    /// Begins a transaction: serializable, on each backend. One that waits for its guest for longer than
    /// [`super::limits::TRANSACTION_MS_MAX`] is rolled back, and so is one that is older than
    /// [`super::limits::TRANSACTION_AGE_MS_MAX`].
    fn begin(&mut self) -> Answer<'_, (), SqlError>;

    /// Ends it: everything since `begin` is durable. After an error it is rolled back.
    fn commit(&mut self) -> Answer<'_, (), SqlError>;

    /// Ends it: nothing since `begin` happened. Without one nothing is done.
    fn roll_back(&mut self) -> Answer<'_, (), SqlError>;
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
    /// `2026-11-22T12:34:56.789`, with `Z` at its end where it is a moment: then it is in UTC.
    Timestamp(String),
    /// A number with exact digits, as PostgreSQL writes it: `-12.50`, `NaN`.
    Decimal(String),
}

/// Why a statement did not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// The database says what is wrong with the statement or the data.
    #[error("{message}")]
    Database {
        /// SQLSTATE, on each backend: `23505` is a key that is there already. `HY000` where there is none.
        code: String,
        /// Its words.
        message: String,
    },
    /// A transaction that met another one: doing all of it again may succeed.
    #[error("the transaction met another one: try it again")]
    Conflict,
    /// Something in this transaction failed before: it can only be rolled back.
    #[error("a statement of this transaction failed: roll it back")]
    Aborted,
    /// Everything that any backend may say.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

impl SqlError {
    /// What a database says, cut to [`limits::ERROR_BYTES_MAX`].
    pub fn database(code: &str, message: &str) -> Self {
        Self::Database {
            code: code.to_owned(),
            message: cut(message).to_owned(),
        }
    }

    /// Stable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Database { code, .. } => code,
            Self::Conflict => "conflict",
            Self::Aborted => "aborted",
            Self::Cloud(error) => error.code(),
        }
    }
}

/// As much of somebody's words as is passed on.
fn cut(words: &str) -> &str {
    &words[..words.floor_char_boundary(limits::ERROR_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_database_are_cut_between_two_characters() {
        for (words, n_bytes) in [
            ("short".to_owned(), 5),
            ("\u{20ac}".repeat(10_000), 4_095),
            ("x".repeat(4_096), 4_096),
            ("x".repeat(4_097), 4_096),
        ] {
            let error = SqlError::database("42P01", &words);
            let SqlError::Database { message, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(message.len(), n_bytes);
            assert!(words.starts_with(message));
        }
    }
}
