//! Where a session stands between `begin` and `commit`: the same rules for every database.
//!
//! PostgreSQL takes nothing more in a transaction after an error, SQLite would: a guest that relied on
//! that would break when its operator changes the database.

use std::time::Duration;

use realm_model::cloud::{CloudError, SqlError, limits};

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

/// How long a transaction may still wait for its next statement; `None`: it has been open for too long.
pub(super) fn patience(open_for: Duration) -> Option<Duration> {
    let left = Duration::from_millis(limits::TRANSACTION_AGE_MS_MAX).checked_sub(open_for)?;
    (!left.is_zero()).then(|| left.min(Duration::from_millis(limits::TRANSACTION_MS_MAX)))
}

/// An argument that makes no sense.
pub(super) fn invalid(why: impl Into<String>) -> SqlError {
    CloudError::Invalid(why.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_waits_for_its_guest_but_not_for_ever() {
        let seconds = Duration::from_secs;
        for (open_for, waits) in [(0, Some(30)), (570, Some(30)), (590, Some(10)), (600, None)] {
            assert_eq!(
                patience(seconds(open_for)),
                waits.map(seconds),
                "{open_for}"
            );
        }
        assert_eq!(patience(Duration::MAX), None);
    }
}
