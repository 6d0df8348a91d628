//! A connection on a thread of its own: what a session asks, one after the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use realm_model::cloud::{CloudError, SqlError, SqlRows, SqlValue, limits};
use rusqlite::{CachedStatement, Connection, Rows};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::pool::IDLE;
use super::super::transaction::{Transaction, invalid};
use super::super::{PATIENCE, Page};
use super::guard::{self, Clock};
use super::{Shared, errors, values};

/// Bytes of the stack of such a thread: SQLite's parser and its functions nest within limits.
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// How long rows are looked for once there is one to give.
const FILL: Duration = Duration::from_millis(20);

type Reply<T> = oneshot::Sender<Result<T, SqlError>>;

/// What a session asks of its worker.
pub(super) enum Ask {
    Execute(String, Vec<SqlValue>, Reply<u64>),
    Query(String, Vec<SqlValue>, Reply<Vec<String>>),
    Fetch(Reply<SqlRows>),
    Close(Reply<()>),
    Begin(Reply<()>),
    Commit(Reply<()>),
    RollBack(Reply<()>),
    /// The session is over: back to the pool.
    Leave(Worker, Option<OwnedSemaphorePermit>),
    /// It is over, and so is the thread.
    End(#[expect(dead_code, reason = "held until then")] Option<OwnedSemaphorePermit>),
}

/// The handle to a worker.
pub(super) struct Worker {
    asks: Sender<Ask>,
    clock: Arc<Clock>,
}

impl Worker {
    /// Starts one, with a connection to the database.
    pub(super) async fn start(shared: &Arc<Shared>) -> Result<Self, CloudError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let clock = Arc::new(Clock::new());
        let (asks, asked) = mpsc::channel();
        let (ready, opened) = oneshot::channel();
        let thread = Thread {
            number,
            shared: Arc::downgrade(shared),
            asked,
            clock: Arc::clone(&clock),
        };
        let (path, bytes_max) = (shared.path.clone(), shared.bytes_max);
        let started = std::thread::Builder::new()
            .name("sqlite".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                thread.clock.begin(PATIENCE);
                match guard::open(&path, bytes_max, &thread.clock) {
                    Ok(connection) => {
                        if ready.send(Ok(())).is_ok() {
                            thread.run(&connection);
                        }
                    }
                    Err(error) => _ = ready.send(Err(error)),
                }
            });
        if started.is_err() {
            return Err(CloudError::Unavailable);
        }
        opened.await.unwrap_or(Err(CloudError::Unavailable))?;
        Ok(Self { asks, clock })
    }

    pub(super) fn send(&self, ask: Ask) -> bool {
        self.asks.send(ask).is_ok()
    }

    /// Ends the statement that runs.
    pub(super) fn interrupt(&self) {
        self.clock.interrupt();
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

/// What lives on the thread.
struct Thread {
    number: u64,
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
    bounded: bool,
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
        let bounded = self
            .shared
            .upgrade()
            .is_some_and(|it| it.bytes_max.is_some());
        let mut standing = Standing {
            connection,
            clock: &self.clock,
            transaction: Transaction::None,
            bounded,
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
                let clean = standing.leave();
                let shared = self.shared.upgrade();
                let kept = clean && shared.is_some_and(|it| it.pool.put(self.number, worker));
                drop(place);
                if !kept {
                    return;
                }
                idle = true;
                continue;
            }
            match standing.answer(ask, &self) {
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
            Transaction::Open => Some(Duration::from_millis(limits::TRANSACTION_MS_MAX)),
            Transaction::None | Transaction::Failed => None,
        }
    }

    fn answer(&mut self, ask: Ask, thread: &Thread) -> Next {
        self.clock.begin(PATIENCE);
        match ask {
            Ask::Execute(statement, parameters, reply) => {
                let result = self.transaction.statement();
                let result = result.and_then(|()| self.execute(&statement, &parameters));
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
                }
                _ = reply.send(result);
            }
            Ask::Commit(reply) => _ = reply.send(self.commit()),
            Ask::RollBack(reply) => _ = reply.send(self.roll_back()),
            Ask::Leave(..) | Ask::End(_) => return Next::End,
        }
        Next::Wait
    }

    fn execute(&self, statement: &str, parameters: &[SqlValue]) -> Result<u64, SqlError> {
        let before = self.connection.total_changes();
        let mut prepared = self.prepare(statement)?;
        values::bind(&mut prepared, parameters)?;
        let gives_rows = prepared.column_count() > 0;
        let mut rows = prepared.raw_query();
        let mut n_rows = 0;
        while self.done(rows.next())?.is_some() {
            n_rows += 1;
        }
        drop(rows);
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
        reply: Reply<Vec<String>>,
        thread: &Thread,
    ) -> Next {
        let until = Instant::now() + Duration::from_millis(limits::QUERY_MS_MAX);
        let begun = self.prepare(statement).and_then(|mut prepared| {
            values::bind(&mut prepared, parameters)?;
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
        let mut rows = prepared.raw_query();
        // The first page is looked for at once: what fails there fails the query, and what a statement
        // changes is changed before its first row.
        let mut page = match self.fill(&mut rows, &kinds) {
            Ok(page) => Some(page),
            Err(error) => {
                _ = reply.send(self.after(Err(error)));
                return Next::Wait;
            }
        };
        _ = reply.send(Ok(columns));
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
            let result = match page.take() {
                Some(page) => Ok(page),
                None => self.fill(&mut rows, &kinds),
            };
            let over = result.as_ref().is_ok_and(Vec::is_empty) || result.is_err();
            if over {
                // Before the answer: the end means that it is done.
                drop(rows);
                drop(prepared);
                _ = reply.send(self.after(result));
                return Next::Wait;
            }
            _ = reply.send(result);
        }
    }

    fn fill(&self, rows: &mut Rows<'_>, kinds: &[values::Kind]) -> Result<SqlRows, SqlError> {
        let until = Instant::now() + FILL;
        let mut page = Page::default();
        while !page.is_full() && (page.rows.is_empty() || Instant::now() < until) {
            match self.done(rows.next())? {
                Some(row) => page.push(values::row(row, kinds)?),
                None => break,
            }
        }
        Ok(page.rows)
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
    }

    /// Makes the connection as new: whether it is.
    fn leave(&mut self) -> bool {
        self.clock.begin(PATIENCE);
        self.roll_back().is_ok() && !self.clock.has_settings()
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
        match self.connection.prepare_cached(statement) {
            Err(rusqlite::Error::MultipleStatement) => Err(invalid("more than one statement")),
            other => self.done(other),
        }
    }

    fn done<T>(&self, result: rusqlite::Result<T>) -> Result<T, SqlError> {
        let in_transaction = self.transaction != Transaction::None;
        result.map_err(|error| errors::translate(&error, in_transaction, self.bounded))
    }
}
