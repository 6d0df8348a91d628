//! A connection on a thread of its own: what a session asks, one after the other.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use realm_model::cloud::{CloudError, Quota, SqlError, SqlRows, SqlValue, limits, within};
use rusqlite::{CachedStatement, Connection, Rows, StatementStatus};
use rustix::process::Pid;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::pool::IDLE;
use super::super::transaction::{Transaction, invalid, patience};
use super::super::{PATIENCE, Page};
use super::files::Writing;
use super::guard::{self, Clock};
use super::{Shared, errors, values};

/// Bytes of the stack of such a thread: SQLite's parser and its functions nest within limits.
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// How long rows are looked for once there is one to give.
const FILL: Duration = Duration::from_millis(20);

/// Niceness of a thread whose statement nobody waits for any more.
const LEAST_PRIORITY: i32 = 19;

/// How long others that read have to come to an end when the log is too large.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a statement that is kept prepared: as many of them are kept for each session as guests like.
const PREPARED_BYTES_MAX: i32 = 64 * 1024;

/// Bytes of the names of a statement's columns.
const NAMES_BYTES_MAX: usize = limits::STATEMENT_BYTES_MAX;

type Reply<T> = oneshot::Sender<Result<T, SqlError>>;

/// What a session asks of its worker.
pub(super) enum Ask {
    Execute(String, Vec<SqlValue>, Reply<u64>),
    Query(String, Vec<SqlValue>, Reply<Begun>),
    Fetch(Reply<SqlRows>),
    Close(Reply<()>),
    Begin(Reply<()>),
    Commit(Reply<()>),
    RollBack(Reply<()>),
    /// A session begins, in which no more bytes than these may be there.
    Enter(u64, Reply<()>),
    /// The session is over: back to the pool.
    Leave(Worker, Option<OwnedSemaphorePermit>),
    /// It is over, and so is the thread.
    End(#[expect(dead_code, reason = "held until then")] Option<OwnedSemaphorePermit>),
}

/// What a query begins with.
pub(super) struct Begun {
    pub(super) columns: Vec<String>,
    /// Most queries have no more than these: nobody has to come for them once more.
    pub(super) page: SqlRows,
    /// There are no more, and nothing is open.
    pub(super) is_all: bool,
}

/// The handle to a worker.
pub(super) struct Worker {
    asks: Sender<Ask>,
    clock: Arc<Clock>,
    thread: Option<Pid>,
}

impl Worker {
    /// Starts one, with a connection to the database.
    pub(super) async fn start(
        shared: &Arc<Shared>,
        database: &str,
        path: PathBuf,
    ) -> Result<Self, CloudError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let clock = Arc::new(Clock::new());
        let (asks, asked) = mpsc::channel();
        let (ready, opened) = oneshot::channel();
        let thread = Thread {
            number,
            database: database.to_owned(),
            path,
            shared: Arc::downgrade(shared),
            asked,
            clock: Arc::clone(&clock),
        };
        let started = std::thread::Builder::new()
            .name("sqlite".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                thread.clock.begin(PATIENCE);
                match guard::open(&thread.path, &thread.clock) {
                    Ok(connection) => {
                        if ready.send(Ok(this_thread())).is_ok() {
                            thread.run(&connection);
                        }
                    }
                    Err(error) => _ = ready.send(Err(error)),
                }
            });
        if started.is_err() {
            return Err(CloudError::Unavailable);
        }
        let thread = opened.await.unwrap_or(Err(CloudError::Unavailable))?;
        Ok(Self {
            asks,
            clock,
            thread,
        })
    }

    pub(super) fn send(&self, ask: Ask) -> bool {
        self.asks.send(ask).is_ok()
    }

    /// Ends the statement that runs. Where that is in a function, which nothing ends, nobody shall wait
    /// for a core because of it.
    pub(super) fn interrupt(&self) {
        self.clock.interrupt();
        if let Some(thread) = self.thread {
            _ = rustix::process::setpriority_process(Some(thread), LEAST_PRIORITY);
        }
    }

    /// The session is over.
    pub(super) fn leave(self, place: Option<OwnedSemaphorePermit>) {
        // Sent to itself, so that it is in the pool only once it is as new.
        let asks = self.asks.clone();
        _ = asks.send(Ask::Leave(self, place));
    }

    /// It ends after what it is doing.
    pub(super) fn end(self, place: Option<OwnedSemaphorePermit>) {
        self.send(Ask::End(place));
    }
}

#[cfg(target_os = "linux")]
fn this_thread() -> Option<Pid> {
    Some(rustix::thread::gettid())
}

/// Elsewhere a thread has no priority that another one sets by a number.
#[cfg(not(target_os = "linux"))]
const fn this_thread() -> Option<Pid> {
    None
}

/// What lives on the thread.
struct Thread {
    number: u64,
    database: String,
    path: PathBuf,
    /// Weak: an idle worker does not keep a database that nobody has any more.
    shared: Weak<Shared>,
    asked: Receiver<Ask>,
    clock: Arc<Clock>,
}

/// Where the session of a worker stands.
struct Standing<'a> {
    connection: &'a Connection,
    clock: &'a Clock,
    transaction: Transaction,
    /// When the last transaction was begun.
    begun: Instant,
    bytes_max: u64,
    /// What the database is held to.
    held: Option<u64>,
    /// While it writes.
    writing: Option<Writing>,
    /// A statement was prepared that is too large to be kept.
    large: Cell<bool>,
}

/// What comes after an answer.
enum Next {
    Wait,
    /// Somebody asked for something else while rows were open.
    Asked(Ask),
    End,
}

impl Thread {
    fn run(self, connection: &Connection) {
        let mut standing = Standing {
            connection,
            clock: &self.clock,
            transaction: Transaction::None,
            begun: Instant::now(),
            bytes_max: 0,
            held: None,
            writing: None,
            large: Cell::new(false),
        };
        let mut waiting = None;
        let mut idle = false;
        loop {
            let ask = match waiting.take() {
                Some(ask) => ask,
                None => match self.next(standing.patience(idle)) {
                    Ok(ask) => ask,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) if idle => {
                        match self.shared.upgrade().map(|it| it.pool.retire(self.number)) {
                            // Somebody took it at this moment, and is about to ask.
                            Some(None) => continue,
                            Some(Some(_)) | None => return,
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        standing.expire();
                        continue;
                    }
                },
            };
            idle = false;
            if let Ask::Leave(worker, place) = ask {
                let Some(shared) = self.shared.upgrade().filter(|_| standing.leave()) else {
                    return;
                };
                shared.pool.put(self.number, &self.database, worker);
                drop((shared, place));
                idle = true;
                continue;
            }
            let next = standing.answer(ask, &self);
            standing.rest();
            match next {
                Next::Wait => {}
                Next::Asked(ask) => waiting = Some(ask),
                Next::End => return,
            }
        }
    }

    fn next(&self, patience: Option<Duration>) -> Result<Ask, RecvTimeoutError> {
        match patience {
            Some(patience) => self.asked.recv_timeout(patience),
            None => self
                .asked
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
        }
    }
}

impl<'a> Standing<'a> {
    /// How long to wait for the next ask.
    fn patience(&self, idle: bool) -> Option<Duration> {
        match self.transaction {
            _ if idle => Some(IDLE),
            Transaction::Open => Some(patience(self.begun.elapsed()).unwrap_or_default()),
            Transaction::None | Transaction::Failed => None,
        }
    }

    fn answer(&mut self, ask: Ask, thread: &Thread) -> Next {
        self.clock.begin(PATIENCE);
        if self.transaction == Transaction::Open && patience(self.begun.elapsed()).is_none() {
            self.expire();
        }
        match ask {
            Ask::Execute(statement, parameters, reply) => {
                let result = self.transaction.statement();
                let result = result.and_then(|()| self.execute(&statement, &parameters, thread));
                _ = reply.send(self.after(result));
            }
            Ask::Query(statement, parameters, reply) => {
                if let Err(error) = self.transaction.statement() {
                    _ = reply.send(Err(error));
                    return Next::Wait;
                }
                return self.query(&statement, &parameters, reply, thread);
            }
            Ask::Fetch(reply) => _ = reply.send(Ok(SqlRows::new())),
            Ask::Close(reply) => _ = reply.send(Ok(())),
            Ask::Begin(reply) => {
                let result = self.transaction.begin().and_then(|()| self.run("BEGIN"));
                if result.is_ok() {
                    self.transaction = Transaction::Open;
                    self.begun = Instant::now();
                }
                _ = reply.send(result);
            }
            Ask::Commit(reply) => _ = reply.send(self.commit()),
            Ask::RollBack(reply) => _ = reply.send(self.roll_back()),
            Ask::Enter(bytes_max, reply) => _ = reply.send(self.enter(bytes_max, thread)),
            Ask::Leave(..) | Ask::End(_) => return Next::End,
        }
        Next::Wait
    }

    fn enter(&mut self, bytes_max: u64, thread: &Thread) -> Result<(), SqlError> {
        self.bytes_max = bytes_max;
        // What others of the file did meanwhile is theirs to note, what was there before is not.
        self.note(thread)
    }

    /// Between two answers.
    fn rest(&mut self) {
        if self.transaction != Transaction::Open {
            self.writing = None;
        }
        if self.large.take() {
            self.connection.flush_prepared_statement_cache();
        }
    }

    /// Before a statement that writes: holds the database to what is left of the quota beside all others
    /// of its folder, and its log to what that may have.
    fn hold(&mut self, thread: &Thread) -> Result<(), SqlError> {
        let shared = thread.shared.upgrade().ok_or(CloudError::Unavailable)?;
        if self.writing.is_none() {
            self.writing = Some(shared.files.write(&thread.path));
        }
        self.hold_log(thread, &shared)?;
        let left = shared.files.share(&thread.path, self.bytes_max);
        if self.held != Some(left) {
            let ours = self.clock.ours();
            let result = guard::hold_to(self.connection, left);
            drop(ours);
            self.done(result)?;
            self.held = Some(left);
        }
        Ok(())
    }

    /// While somebody reads what is old, a log has everything that was written since, however often that
    /// was the same.
    fn hold_log(&self, thread: &Thread, shared: &Shared) -> Result<(), SqlError> {
        let is_large =
            || !guard::log_is_small(&thread.path) && shared.files.logs_are_large(self.bytes_max);
        if !is_large() {
            return Ok(());
        }
        if self.transaction == Transaction::None {
            self.clock.begin(LOG_PATIENCE);
            let ours = self.clock.ours();
            // Whether it began anew is seen in its size.
            _ = guard::begin_log(self.connection);
            drop(ours);
            self.clock.begin(PATIENCE);
            if !is_large() {
                return Ok(());
            }
        }
        Err(CloudError::Quota(Quota::Bytes).into())
    }

    /// Tells the others of the folder what this one has.
    fn note(&self, thread: &Thread) -> Result<(), SqlError> {
        let ours = self.clock.ours();
        let bytes = guard::bytes(self.connection);
        drop(ours);
        if let Some(shared) = thread.shared.upgrade() {
            shared.files.note(&thread.path, self.done(bytes)?);
        }
        Ok(())
    }

    fn execute(
        &mut self,
        statement: &str,
        parameters: &[SqlValue],
        thread: &Thread,
    ) -> Result<u64, SqlError> {
        let before = self.connection.total_changes();
        let mut prepared = self.prepare(statement)?;
        if !prepared.readonly() {
            self.hold(thread)?;
        }
        values::bind(&mut prepared, parameters)?;
        let gives_rows = prepared.column_count() > 0;
        let mut rows = prepared.raw_query();
        let mut n_rows = 0;
        while self.done(rows.next())?.is_some() {
            n_rows += 1;
        }
        drop(rows);
        if !prepared.readonly() {
            self.note(thread)?;
        }
        Ok(if gives_rows {
            n_rows
        } else if self.connection.total_changes() == before {
            0
        } else {
            self.connection.changes()
        })
    }

    /// Answers fetches until something else is asked.
    fn query(
        &mut self,
        statement: &str,
        parameters: &[SqlValue],
        reply: Reply<Begun>,
        thread: &Thread,
    ) -> Next {
        let until = Instant::now() + Duration::from_millis(limits::QUERY_MS_MAX);
        let begun = self.prepare(statement).and_then(|mut prepared| {
            if !prepared.readonly() {
                self.hold(thread)?;
            }
            values::bind(&mut prepared, parameters)?;
            let names = prepared.column_names().map(str::len).sum();
            within("the names of the columns", names, NAMES_BYTES_MAX)?;
            Ok(prepared)
        });
        let mut prepared = match begun {
            Ok(prepared) => prepared,
            Err(error) => {
                _ = reply.send(self.after(Err(error)));
                return Next::Wait;
            }
        };
        let columns = prepared.column_names().map(str::to_owned).collect();
        let kinds = values::kinds(&prepared);
        let changes = !prepared.readonly();
        let mut rows = prepared.raw_query();
        // The first page is looked for at once: what fails there fails the query, and what a statement
        // changes is changed before its first row.
        let first = self.fill(&mut rows, &kinds);
        let first = if changes {
            first.and_then(|page| self.note(thread).map(|()| page))
        } else {
            first
        };
        let (page, is_all) = match first {
            Ok(first) => first,
            Err(error) => {
                _ = reply.send(self.after(Err(error)));
                return Next::Wait;
            }
        };
        let begun = Begun {
            columns,
            page,
            is_all,
        };
        if is_all {
            // Before the answer: the end means that it is done.
            drop(rows);
            drop(prepared);
            _ = reply.send(self.after(Ok(begun)));
            return Next::Wait;
        }
        _ = reply.send(Ok(begun));
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let ask = match thread.next(Some(left)) {
                Ok(ask) => ask,
                Err(RecvTimeoutError::Disconnected) => return Next::End,
                Err(RecvTimeoutError::Timeout) => {
                    drop(rows);
                    drop(prepared);
                    return self.too_late(thread);
                }
            };
            let Ask::Fetch(reply) = ask else {
                return Next::Asked(ask);
            };
            self.clock.begin(PATIENCE.min(left));
            let result = self.fill(&mut rows, &kinds).map(|(page, _)| page);
            let over = result.as_ref().is_ok_and(Vec::is_empty) || result.is_err();
            if over {
                // Before the answer, as above.
                drop(rows);
                drop(prepared);
                _ = reply.send(self.after(result));
                return Next::Wait;
            }
            _ = reply.send(result);
        }
    }

    /// A page, and whether there is no row after it.
    fn fill(
        &self,
        rows: &mut Rows<'_>,
        kinds: &[values::Kind],
    ) -> Result<(SqlRows, bool), SqlError> {
        let until = Instant::now() + FILL;
        let mut page = Page::default();
        while !page.is_full() && (page.rows.is_empty() || Instant::now() < until) {
            match self.done(rows.next())? {
                Some(row) => page.push(values::row(row, kinds)?),
                None => return Ok((page.rows, true)),
            }
        }
        Ok((page.rows, false))
    }

    /// Rows that were open for too long are closed, and the next fetch says so.
    fn too_late(&mut self, thread: &Thread) -> Next {
        match thread.next(self.patience(false)) {
            Ok(Ask::Fetch(reply)) => {
                let late = Err(CloudError::Timeout.into());
                _ = reply.send(self.after(late));
                Next::Wait
            }
            Ok(ask) => Next::Asked(ask),
            Err(RecvTimeoutError::Disconnected) => Next::End,
            Err(RecvTimeoutError::Timeout) => {
                self.expire();
                Next::Wait
            }
        }
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        if !self.transaction.commit()? {
            self.roll_back()?;
            return Err(SqlError::Aborted);
        }
        let result = self.run("COMMIT");
        if result.is_err() {
            self.roll_back()?;
        }
        self.transaction = Transaction::None;
        result
    }

    fn roll_back(&mut self) -> Result<(), SqlError> {
        // An error may have ended it already.
        if !self.connection.is_autocommit() {
            self.run("ROLLBACK")?;
        }
        self.transaction = Transaction::None;
        Ok(())
    }

    /// A transaction whose guest does nothing ends: it may be the one that keeps all others from writing.
    fn expire(&mut self) {
        self.clock.begin(PATIENCE);
        if self.roll_back().is_ok() {
            self.transaction = Transaction::Failed;
        }
        self.rest();
    }

    /// Makes the connection as new: whether it is.
    fn leave(&mut self) -> bool {
        self.clock.begin(PATIENCE);
        let is_new = self.roll_back().is_ok() && !self.clock.has_settings();
        self.rest();
        is_new
    }

    /// After an error in a transaction nothing of it is left, and nobody waits for it.
    fn after<T>(&mut self, result: Result<T, SqlError>) -> Result<T, SqlError> {
        let result = self.transaction.after(result);
        if self.transaction == Transaction::Failed && !self.connection.is_autocommit() {
            self.clock.begin(PATIENCE);
            self.run("ROLLBACK")?;
        }
        result
    }

    /// A statement of this file, which guests may not run.
    fn run(&self, statement: &str) -> Result<(), SqlError> {
        let ours = self.clock.ours();
        let result = self.connection.execute_batch(statement);
        drop(ours);
        self.done(result)
    }

    fn prepare(&self, statement: &str) -> Result<CachedStatement<'a>, SqlError> {
        let prepared = match self.connection.prepare_cached(statement) {
            Err(rusqlite::Error::MultipleStatement) => {
                return Err(invalid("more than one statement"));
            }
            other => self.done(other)?,
        };
        if prepared.get_status(StatementStatus::MemUsed) > PREPARED_BYTES_MAX {
            self.large.set(true);
        }
        Ok(prepared)
    }

    fn done<T>(&self, result: rusqlite::Result<T>) -> Result<T, SqlError> {
        let in_transaction = self.transaction != Transaction::None;
        result.map_err(|error| errors::translate(&error, in_transaction))
    }
}
