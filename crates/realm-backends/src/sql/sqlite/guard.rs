//! A connection that reaches nothing but its file, and that ends what takes too long.
//!
//! SQL of a guest is hostile. The authorizer is asked while a statement is prepared, about everything that
//! it would do, also within views, triggers and functions that take a PRAGMA for a table.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use realm_model::cloud::{CloudError, limits};
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::functions;

/// Instructions of SQLite's machine between two looks at the clock: less than a millisecond.
const LOOK_EVERY: i32 = 2_000;

/// Bytes that all connections of this process together take from the heap: sorting and temporary tables
/// are done in memory, and are what a hostile statement would grow.
const HEAP_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Bytes of the temporary tables of a session, which are there as long as it is: all sessions of a binding
/// together must leave something of the heap to others.
const TEMPORARY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Kibibytes of pages that a connection keeps.
const CACHE_KIB: i64 = 2_000;

/// Bytes of the write-ahead log that stay on the disk when nobody needs them.
const LOG_BYTES_KEPT: i64 = 16 * 1024 * 1024;

/// Bytes that the logs of a folder may have beside its quota. What is written goes there first, and none
/// begins anew while somebody reads what is older.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Statements that a connection keeps prepared.
const PREPARED_MAX: usize = 32;

/// The shortest that a busy database is left alone, and the longest.
const NAP: Duration = Duration::from_millis(1);
const NAP_MAX: Duration = Duration::from_millis(16);

/// What a statement is held to, from outside of its thread.
pub(super) struct Clock {
    start: Instant,
    /// Milliseconds after `start` at which the statement ends.
    until_ms: AtomicU64,
    interrupted: AtomicBool,
    /// The statement that is prepared is one of realm's own.
    ours: AtomicBool,
    /// The connection has something that the next session must not see.
    settings: AtomicBool,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            until_ms: AtomicU64::new(0),
            interrupted: AtomicBool::new(false),
            ours: AtomicBool::new(false),
            settings: AtomicBool::new(false),
        }
    }

    /// The next statement has so long.
    pub(super) fn begin(&self, patience: Duration) {
        let until = self.start.elapsed() + patience;
        let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.until_ms.store(until_ms, Ordering::Relaxed);
    }

    /// No statement of this connection goes on.
    pub(super) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_settings(&self) -> bool {
        self.settings.load(Ordering::Relaxed)
    }

    /// Until it is dropped, statements may begin and end transactions, and set what a connection does.
    pub(super) fn ours(&self) -> Ours<'_> {
        self.ours.store(true, Ordering::Relaxed);
        Ours(self)
    }

    fn is_over(&self) -> bool {
        let until_ms = u128::from(self.until_ms.load(Ordering::Relaxed));
        self.interrupted.load(Ordering::Relaxed) || self.start.elapsed().as_millis() >= until_ms
    }

    /// What a connection asks when the file is locked: whether to try again.
    fn wait(&self, n_tries: i32) -> bool {
        if self.is_over() {
            return false;
        }
        let doubled =
            NAP * 2_u32.saturating_pow(u32::try_from(n_tries / 4).unwrap_or(u32::MAX).min(8));
        std::thread::sleep(doubled.min(NAP_MAX));
        !self.is_over()
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "an enum of another crate, which grows"
    )]
    fn judge(&self, context: AuthContext<'_>) -> Authorization {
        // However it came there: a virtual table has no action of its own for it.
        if context.database_name == Some("temp") {
            self.settings.store(true, Ordering::Relaxed);
        }
        let allowed = match context.action {
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => {
                self.ours.load(Ordering::Relaxed)
            }
            AuthAction::CreateTempIndex { .. }
            | AuthAction::CreateTempTable { .. }
            | AuthAction::CreateTempTrigger { .. }
            | AuthAction::CreateTempView { .. } => {
                self.settings.store(true, Ordering::Relaxed);
                true
            }
            AuthAction::Pragma {
                pragma_name,
                pragma_value,
            } => {
                self.ours.load(Ordering::Relaxed)
                    || pragma_is_harmless(pragma_name, pragma_value.is_some())
            }
            AuthAction::CreateVtable { module_name, .. } => is_one_of(module_name, MODULES),
            AuthAction::Function { function_name } => !is_one_of(function_name, FUNCTIONS_REFUSED),
            other => touches_the_database_alone(&other),
        };
        if allowed {
            Authorization::Allow
        } else {
            Authorization::Deny
        }
    }
}

/// See [`Clock::ours`].
pub(super) struct Ours<'a>(&'a Clock);

impl Drop for Ours<'_> {
    fn drop(&mut self) {
        self.0.ours.store(false, Ordering::Relaxed);
    }
}

/// Virtual tables that keep what they have in the database itself.
const MODULES: &[&str] = &["fts5", "fts5vocab", "rtree"];

/// Functions that reach beyond it; and one that compares every match in a text with every other one, which
/// takes hours for a large text, and cannot be ended.
const FUNCTIONS_REFUSED: &[&str] = &["load_extension", "fts3_tokenizer", "sqlite_log", "snippet"];

/// Arguments of a function: many times the largest value is looked through for each.
const ARGUMENTS_MAX: i32 = 127;

/// What asks about tables, with its argument.
const PRAGMAS: &[&str] = &[
    "application_id",
    "foreign_key_check",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "optimize",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];

/// What only tells; with an argument it would set something.
const PRAGMAS_READ: &[&str] = &[
    "collation_list",
    "data_version",
    "encoding",
    "foreign_keys",
    "freelist_count",
    "function_list",
    "journal_mode",
    "max_page_count",
    "page_count",
    "page_size",
    "schema_version",
    "synchronous",
];

fn pragma_is_harmless(name: &str, has_value: bool) -> bool {
    is_one_of(name, PRAGMAS) || (!has_value && is_one_of(name, PRAGMAS_READ))
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|one| one.eq_ignore_ascii_case(name))
}

/// Whether it is among what is known to stay in the file. What a later version of SQLite can do besides
/// is refused until somebody has looked at it.
fn touches_the_database_alone(action: &AuthAction<'_>) -> bool {
    matches!(
        action,
        AuthAction::AlterTable { .. }
            | AuthAction::Analyze { .. }
            | AuthAction::CreateIndex { .. }
            | AuthAction::CreateTable { .. }
            | AuthAction::CreateTrigger { .. }
            | AuthAction::CreateView { .. }
            | AuthAction::Delete { .. }
            | AuthAction::DropIndex { .. }
            | AuthAction::DropTable { .. }
            | AuthAction::DropTempIndex { .. }
            | AuthAction::DropTempTable { .. }
            | AuthAction::DropTempTrigger { .. }
            | AuthAction::DropTempView { .. }
            | AuthAction::DropTrigger { .. }
            | AuthAction::DropView { .. }
            | AuthAction::DropVtable { .. }
            | AuthAction::Insert { .. }
            | AuthAction::Read { .. }
            | AuthAction::Recursive
            | AuthAction::Reindex { .. }
            | AuthAction::Select
            | AuthAction::Update { .. }
    )
}

/// Makes the file of a database, if it is not there, for its owner alone, and turns on its log.
pub(super) fn make(path: &Path) -> Result<(), CloudError> {
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(_) => sync_folder(path).map_err(|error| failed(&error))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(&error)),
    }
    let connection = connect(path)?;
    let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
    let mode: String = mode.map_err(|error| unusable(&error))?;
    if mode.eq_ignore_ascii_case("wal") {
        Ok(())
    } else {
        Err(CloudError::Failed("its log cannot be turned on".to_owned()))
    }
}

/// So that the file is still there after a loss of power.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn connect(path: &Path) -> Result<Connection, CloudError> {
    // No lock of SQLite's own: a connection never leaves its thread.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(|error| unusable(&error))
}

/// A connection for guests, to a file that is there.
pub(super) fn open(path: &Path, clock: &Arc<Clock>) -> Result<Connection, CloudError> {
    let mut connection = connect(path)?;
    settle(&mut connection, clock).map_err(|error| unusable(&error))?;
    Ok(connection)
}

/// Holds the database to a size from here on. One that is larger already stays as it is.
pub(super) fn hold_to(connection: &Connection, bytes_max: u64) -> rusqlite::Result<()> {
    // A database has a page at least, and at most so many.
    let pages = bytes_max / number(connection, "page_size")?.max(1);
    let pages = pages.clamp(1, u64::from(u32::MAX) - 2);
    set(connection, "max_page_count", pages.cast_signed())
}

/// Bytes of the database, with what the transaction that is open has added.
pub(super) fn bytes(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(number(connection, "page_size")? * number(connection, "page_count")?)
}

/// Whether the log of a database is one that is left as it is, however often that is asked.
pub(super) fn log_is_small(path: &Path) -> bool {
    log_bytes(path) <= LOG_BYTES_KEPT.cast_unsigned()
}

/// Whether the logs of these databases are larger than they may be beside a quota.
pub(super) fn logs_are_large<'a>(paths: impl Iterator<Item = &'a PathBuf>, bytes_max: u64) -> bool {
    let all: u64 = paths.map(|path| log_bytes(path)).sum();
    all > bytes_max.saturating_add(LOG_BYTES_MAX)
}

fn log_bytes(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// Writes what is in the log into the database and begins the log anew, if nobody reads what is older.
pub(super) fn begin_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<u64> {
    let number: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
    Ok(number.cast_unsigned())
}

fn settle(connection: &mut Connection, clock: &Arc<Clock>) -> rusqlite::Result<()> {
    let own = Arc::clone(clock);
    connection.busy_handler(Some(move |n_tries| own.wait(n_tries)))?;
    // In the order of SQLite's advice for hostile SQL.
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        // Text in double quotes is a name, as in PostgreSQL.
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true),
    ] {
        connection.set_db_config(setting, on)?;
    }
    let small = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, small(limits::ROW_BYTES_MAX)),
        (
            Limit::SQLITE_LIMIT_SQL_LENGTH,
            small(limits::STATEMENT_BYTES_MAX),
        ),
        (
            Limit::SQLITE_LIMIT_VARIABLE_NUMBER,
            small(limits::PARAMETERS_MAX),
        ),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, ARGUMENTS_MAX),
        (Limit::SQLITE_LIMIT_VDBE_OP, 1_000_000),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    let pages = TEMPORARY_BYTES_MAX / number(connection, "page_size")?.max(1);
    connection.pragma_update_and_check(
        Some("temp"),
        "max_page_count",
        pages.cast_signed(),
        |_| Ok(()),
    )?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    set(connection, "journal_size_limit", LOG_BYTES_KEPT)?;
    set(connection, "hard_heap_limit", HEAP_BYTES_MAX.cast_signed())?;
    connection.set_prepared_statement_cache_capacity(PREPARED_MAX);
    functions::replace_in(connection)?;
    let own = Arc::clone(clock);
    connection.progress_handler(LOOK_EVERY, Some(move || own.is_over()))?;
    let own = Arc::clone(clock);
    connection.authorizer(Some(move |context: AuthContext<'_>| own.judge(context)))
}

/// A setting that answers with what it is afterwards.
fn set(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, name, value, |_| Ok(()))
}

pub(super) fn failed(error: &io::Error) -> CloudError {
    // The kind, not the path.
    CloudError::Failed(format!("its file cannot be made: {}", error.kind()))
}

fn unusable(error: &rusqlite::Error) -> CloudError {
    let code = error.sqlite_error_code();
    CloudError::Failed(match code {
        Some(code) => format!("its file cannot be opened: {code:?}"),
        None => "its file cannot be opened".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pragmas_that_set_or_reach_something_are_refused() {
        for (name, has_value) in [
            ("journal_mode", true),
            ("FOREIGN_KEYS", true),
            ("temp_store_directory", true),
            ("temp_store_directory", false),
            ("database_list", false),
            ("writable_schema", true),
            ("hard_heap_limit", true),
            ("max_page_count", true),
            ("mmap_size", true),
            ("trusted_schema", true),
            ("synchronous", true),
            ("wal_checkpoint", false),
        ] {
            assert!(!pragma_is_harmless(name, has_value), "{name}");
        }
        assert!(pragma_is_harmless("Table_Info", true));
        assert!(pragma_is_harmless("user_version", true));
        assert!(pragma_is_harmless("foreign_keys", false));
    }
}
