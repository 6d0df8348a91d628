//! What SQLite and PostgreSQL spell differently.

use realm_model::cloud::{Session, SqlError};

/// Which of them it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// What has tables of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Documents,
}

/// `BYTES` and `EXACT` stand for what differs: a type, and text that is compared byte by byte.
const DOCUMENTS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS realm_documents (\
     collection TEXT EXACT NOT NULL, id TEXT EXACT NOT NULL, revision BIGINT NOT NULL, body TEXT NOT NULL, \
     PRIMARY KEY (collection, id))",
    "CREATE TABLE IF NOT EXISTS realm_document_indexes (\
     collection TEXT EXACT NOT NULL, field TEXT EXACT NOT NULL, PRIMARY KEY (collection, field))",
    "CREATE TABLE IF NOT EXISTS realm_document_keys (\
     collection TEXT EXACT NOT NULL, field TEXT EXACT NOT NULL, key BYTES NOT NULL, id TEXT EXACT NOT NULL, \
     PRIMARY KEY (collection, field, key, id)) LEAN",
    "CREATE INDEX IF NOT EXISTS realm_document_keys_of ON realm_document_keys (collection, id)",
];

impl Dialect {
    /// Makes the tables of a part, where they are missing.
    pub(super) async fn make(self, session: &mut dyn Session, part: Part) -> Result<(), SqlError> {
        let statements = match part {
            Part::Documents => DOCUMENTS,
        };
        let spelt: Vec<_> = statements.iter().map(|one| self.spelt(one)).collect();
        session.begin().await?;
        for statement in &spelt {
            match session.execute(statement, &[]).await {
                Ok(_) => {}
                // Another session makes them in the same moment: seen when that has committed.
                Err(SqlError::Database { code, .. }) if code == "23505" || code == "42P07" => {
                    session.roll_back().await?;
                    return Err(SqlError::Conflict);
                }
                Err(error) => return Err(error),
            }
        }
        session.commit().await
    }

    fn spelt(self, statement: &str) -> String {
        let [bytes, exact, lean] = match self {
            Self::Sqlite => ["BLOB", "", "WITHOUT ROWID"],
            Self::Postgres => ["BYTEA", "COLLATE \"C\"", ""],
        };
        statement
            .replace("BYTES", bytes)
            .replace("EXACT", exact)
            .replace("LEAN", lean)
    }

    /// Begins a transaction whose first statement writes: from then on nobody else writes what it needs.
    ///
    /// SQLite has one writer at a time. PostgreSQL waits for the row, and then sees what the one before
    /// wrote: serializable ones would only fail, and be done again.
    pub(super) async fn begin(self, session: &mut dyn Session) -> Result<(), SqlError> {
        session.begin().await?;
        match self {
            Self::Sqlite => Ok(()),
            Self::Postgres => {
                let weaker = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";
                session.execute(weaker, &[]).await.map(drop)
            }
        }
    }

    /// Within a transaction: keeps others from writing to a table of realm's own until it ends.
    pub(super) async fn hold(self, session: &mut dyn Session, table: &str) -> Result<(), SqlError> {
        match self {
            // Whoever writes first is alone.
            Self::Sqlite => Ok(()),
            Self::Postgres => {
                let lock = format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE");
                session.execute(&lock, &[]).await.map(drop)
            }
        }
    }
}
