//! What SQLite and PostgreSQL spell differently.

use realm_model::cloud::vectors::Metric;
use realm_model::cloud::{CloudError, Session, SqlError, SqlValue, limits};

use super::steps::{Failure, first};

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
    Texts,
    Vectors,
    Runs,
}

/// `BYTES` and the like stand for what differs: a type, text that is compared byte by byte, a table that
/// is its own index, and the type of vectors.
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

const VECTORS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS realm_vector_collections (\
     collection TEXT EXACT PRIMARY KEY, dimension BIGINT NOT NULL, metric TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS realm_vectors (\
     collection TEXT EXACT NOT NULL, id TEXT EXACT NOT NULL, vector VECTOR NOT NULL, attributes TEXT NOT NULL, \
     PRIMARY KEY (collection, id))",
    "CREATE TABLE IF NOT EXISTS realm_vector_keys (\
     collection TEXT EXACT NOT NULL, field TEXT EXACT NOT NULL, key BYTES NOT NULL, id TEXT EXACT NOT NULL, \
     PRIMARY KEY (collection, field, key, id)) LEAN",
    "CREATE INDEX IF NOT EXISTS realm_vector_keys_of ON realm_vector_keys (collection, id)",
];

/// Runs of workflows, the journals of those that are not at their end, and signals that nobody has heard
/// yet. `due_ms`: when a run is to be looked at next, whatever for.
const RUNS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS realm_runs (\
     id TEXT EXACT PRIMARY KEY, workflow TEXT EXACT NOT NULL, input BYTES NOT NULL, \
     state BIGINT NOT NULL, is_open BIGINT NOT NULL, due_ms BIGINT NOT NULL, token BIGINT NOT NULL, \
     failures BIGINT NOT NULL, n_steps BIGINT NOT NULL, step_bytes BIGINT NOT NULL, \
     n_signals BIGINT NOT NULL, signal_bytes BIGINT NOT NULL, next_signal BIGINT NOT NULL, \
     started_ms BIGINT NOT NULL, changed_ms BIGINT NOT NULL, said BYTES NOT NULL)",
    "CREATE INDEX IF NOT EXISTS realm_runs_due ON realm_runs (is_open, workflow, due_ms)",
    "CREATE INDEX IF NOT EXISTS realm_runs_kept ON realm_runs (is_open, due_ms)",
    "CREATE TABLE IF NOT EXISTS realm_run_steps (\
     run TEXT EXACT NOT NULL, name TEXT EXACT NOT NULL, kind BIGINT NOT NULL, due_ms BIGINT NOT NULL, \
     signal TEXT EXACT NOT NULL, result BYTES NOT NULL, PRIMARY KEY (run, name)) LEAN",
    "CREATE TABLE IF NOT EXISTS realm_run_signals (\
     run TEXT EXACT NOT NULL, number BIGINT NOT NULL, name TEXT EXACT NOT NULL, data BYTES NOT NULL, \
     PRIMARY KEY (run, number)) LEAN",
];

/// SQLite: texts beside the index of their words, which keeps no text.
const SQLITE_TEXTS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS realm_texts (\
     row INTEGER PRIMARY KEY, collection TEXT NOT NULL, id TEXT NOT NULL, parts TEXT NOT NULL, \
     attributes TEXT NOT NULL, UNIQUE (collection, id))",
    "CREATE VIRTUAL TABLE IF NOT EXISTS realm_text_words USING fts5(\
     space, a, b, c, d, content='', contentless_delete=1, tokenize=\"ascii tokenchars '_'\")",
];

const POSTGRES_TEXTS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS realm_texts (\
     collection TEXT EXACT NOT NULL, id TEXT EXACT NOT NULL, parts TEXT NOT NULL, attributes TEXT NOT NULL, \
     words TSVECTOR NOT NULL, PRIMARY KEY (collection, id))",
    "CREATE INDEX IF NOT EXISTS realm_text_words ON realm_texts USING GIN (words)",
];

/// What a guest is told, and its operator can do.
const NO_VECTORS: &str = "keep vectors: its operator has to install pgvector (Debian: \
    postgresql-NN-pgvector), and to run `CREATE EXTENSION vector` in the database if its user may not";

/// A database whose tables are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ground {
    pub(super) dialect: Dialect,
    /// The schema in which an extension for vectors is, as it is quoted.
    schema: String,
}

impl Ground {
    /// Makes the tables of a part, where they are missing.
    pub(super) async fn make(
        dialect: Dialect,
        session: &mut dyn Session,
        part: Part,
    ) -> Result<Self, Failure> {
        let statements = match part {
            Part::Documents => DOCUMENTS,
            Part::Texts => match dialect {
                Dialect::Sqlite => SQLITE_TEXTS,
                Dialect::Postgres => POSTGRES_TEXTS,
            },
            Part::Vectors => VECTORS,
            Part::Runs => RUNS,
        };
        let schema = match (dialect, part) {
            (Dialect::Postgres, Part::Vectors) => extension(session).await?,
            (Dialect::Postgres, Part::Documents | Part::Texts | Part::Runs)
            | (Dialect::Sqlite, _) => String::new(),
        };
        let ground = Self { dialect, schema };
        session.begin().await?;
        for statement in statements {
            match session.execute(&ground.spelt(statement), &[]).await {
                // Another session makes them in the same moment: seen when that has committed.
                Err(error) if is_there(&error) => return Err(SqlError::Conflict.into()),
                made => drop(made?),
            }
        }
        session.commit().await?;
        Ok(ground)
    }

    fn spelt(&self, statement: &str) -> String {
        let vector = format!("{}.vector", self.schema);
        let [bytes, exact, lean, vector] = match self.dialect {
            Dialect::Sqlite => ["BLOB", "", "WITHOUT ROWID", "BLOB"],
            Dialect::Postgres => ["BYTEA", "COLLATE \"C\"", "", &vector],
        };
        statement
            .replace("BYTES", bytes)
            .replace("EXACT", exact)
            .replace("LEAN", lean)
            .replace(" VECTOR ", &format!(" {vector} "))
    }

    /// `NOW`: milliseconds since 1970 by the clock of the database, the same within a statement; `LOCKED`:
    /// nobody else gets the row, and who looks for another one does not wait for it.
    pub(super) fn timed(&self, statement: &str) -> String {
        let [now, locked] = match self.dialect {
            Dialect::Sqlite => ["CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER)", ""],
            Dialect::Postgres => [
                "CAST(EXTRACT(EPOCH FROM pg_catalog.statement_timestamp()) * 1000 AS BIGINT)",
                "FOR UPDATE SKIP LOCKED",
            ],
        };
        statement.replace("NOW", now).replace("LOCKED", locked)
    }

    /// Begins a transaction whose first statement writes: from then on nobody else writes what it needs.
    ///
    /// SQLite has one writer at a time. PostgreSQL waits for the row, and then sees what the one before
    /// wrote: serializable ones would only fail, and be done again.
    pub(super) async fn begin(&self, session: &mut dyn Session) -> Result<(), SqlError> {
        session.begin().await?;
        match self.dialect {
            Dialect::Sqlite => Ok(()),
            Dialect::Postgres => {
                let weaker = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";
                session.execute(weaker, &[]).await.map(drop)
            }
        }
    }

    /// Within a transaction: keeps others from writing to a table of realm's own until it ends.
    pub(super) async fn hold(
        &self,
        session: &mut dyn Session,
        table: &str,
    ) -> Result<(), SqlError> {
        match self.dialect {
            // Whoever writes first is alone.
            Dialect::Sqlite => Ok(()),
            Dialect::Postgres => {
                let lock = format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE");
                session.execute(&lock, &[]).await.map(drop)
            }
        }
    }

    /// A vector as a parameter, for a place as [`Ground::vector_place`] spells it.
    pub(super) fn vector(&self, values: &[f32]) -> SqlValue {
        match self.dialect {
            Dialect::Sqlite => SqlValue::Bytes(
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            ),
            Dialect::Postgres => {
                let values: Vec<_> = values.iter().map(|value| format!("{value:e}")).collect();
                SqlValue::Text(format!("[{}]", values.join(",")))
            }
        }
    }

    pub(super) fn vector_place(&self, place: &str) -> String {
        match self.dialect {
            Dialect::Sqlite => place.to_owned(),
            Dialect::Postgres => format!("CAST({place} AS {}.vector)", self.schema),
        }
    }

    /// A column with a vector, as [`Ground::values`] reads it.
    pub(super) fn vector_read(&self, column: &str) -> String {
        match self.dialect {
            Dialect::Sqlite => column.to_owned(),
            Dialect::Postgres => format!("CAST({column} AS TEXT)"),
        }
    }

    /// The numbers of a vector, whichever way it comes.
    pub(super) fn values(value: &SqlValue) -> Option<Vec<f32>> {
        match value {
            SqlValue::Bytes(bytes) => {
                let (numbers, []) = bytes.as_chunks() else {
                    return None;
                };
                Some(
                    numbers
                        .iter()
                        .map(|bytes| f32::from_le_bytes(*bytes))
                        .collect(),
                )
            }
            // No number is written with more bytes.
            SqlValue::Text(text) if text.len() <= 32 * limits::DIMENSION_MAX as usize => {
                let numbers = text.strip_prefix('[')?.strip_suffix(']')?.split(',');
                numbers.map(|number| number.parse().ok()).collect()
            }
            SqlValue::Text(_)
            | SqlValue::Null
            | SqlValue::Boolean(_)
            | SqlValue::Integer(_)
            | SqlValue::Real(_)
            | SqlValue::Date(_)
            | SqlValue::Time(_)
            | SqlValue::Timestamp(_)
            | SqlValue::Decimal(_) => None,
        }
    }

    /// The distance of a column from a parameter, where the database knows it.
    pub(super) fn distance(&self, metric: Metric, column: &str, place: &str) -> String {
        let operator = match metric {
            Metric::Cosine => "<=>",
            Metric::Dot => "<#>",
            Metric::Euclidean => "<->",
        };
        let place = self.vector_place(place);
        let schema = &self.schema;
        format!("CAST({column} OPERATOR({schema}.{operator}) {place} AS DOUBLE PRECISION)")
    }
}

/// Whether somebody else made what was to be made.
fn is_there(error: &SqlError) -> bool {
    matches!(error, SqlError::Database { code, .. } if ["23505", "42P07", "42710"].contains(&code.as_str()))
}

/// Finds the extension for vectors, or makes it where the server has it: its schema, quoted.
async fn extension(session: &mut dyn Session) -> Result<String, Failure> {
    let look = "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension AS e \
        JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'vector'";
    // In a schema that every name of the binding reaches: what makes it first may be any of them.
    let make = "CREATE EXTENSION IF NOT EXISTS vector SCHEMA public";
    for found in [false, true] {
        if let Some(row) = first(session, look, &[]).await? {
            return super::steps::Row::of(row).text_within(limits::NAME_BYTES_MAX);
        }
        match session.execute(make, &[]).await {
            _ if found => break,
            Err(error) if is_there(&error) => return Err(SqlError::Conflict.into()),
            Err(SqlError::Database { .. }) => break,
            made => drop(made?),
        }
    }
    Err(CloudError::Unsupported(NO_VECTORS).into())
}
