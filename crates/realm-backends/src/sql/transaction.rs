//! Where a session stands between `begin` and `commit`: the same rules for every database.
//!
//! PostgreSQL takes nothing more in a transaction after an error, SQLite would: a guest that relied on
//! that would break when its operator changes the database.

use realm_model::cloud::{CloudError, SqlError};

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Transaction {
    /// Each statement is one of its own.
    #[default]
    None,
    /// Begun.
    Open,
    /// Begun, and something failed in it.
    Failed,
}

impl Transaction {
    /// Whether a statement may run.
    pub(super) const fn statement(self) -> Result<(), SqlError> {
        match self {
            Self::None | Self::Open => Ok(()),
            Self::Failed => Err(SqlError::Aborted),
        }
    }

    /// Whether one may begin.
    pub(super) fn begin(self) -> Result<(), SqlError> {
        match self {
            Self::None => Ok(()),
            Self::Open | Self::Failed => Err(invalid("a transaction is open already")),
        }
    }

    /// Whether there is one to commit: `false` means that it has to be rolled back in its place.
    pub(super) fn commit(self) -> Result<bool, SqlError> {
        match self {
            Self::None => Err(invalid("no transaction is open")),
            Self::Open => Ok(true),
            Self::Failed => Ok(false),
        }
    }

    /// Remembers what became of a statement.
    pub(super) fn after<T>(&mut self, result: Result<T, SqlError>) -> Result<T, SqlError> {
        if result.is_err() && *self == Self::Open {
            *self = Self::Failed;
        }
        result
    }
}

/// An argument that makes no sense.
pub(super) fn invalid(why: impl Into<String>) -> SqlError {
    CloudError::Invalid(why.into()).into()
}
