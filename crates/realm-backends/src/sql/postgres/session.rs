//! A session: statements one after the other, rows as they are asked for.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use realm_model::cloud::{Answer, CloudError, Session, SqlError, SqlRows, SqlValue, limits};
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::{Error, RowStream, Statement};

use super::super::transaction::{Transaction, patience};
use super::super::{PATIENCE, Page, words};
use super::connect::{CANCEL_TIMEOUT, Link};
use super::values::{self, Parameter};
use super::{Shared, errors};

/// How long a statement has, after it was cancelled, to say that it is.
const GRACE: Duration = Duration::from_millis(500);

/// How long rows that nobody wants may still come, before the server is asked to stop: a query of a few
/// rows is at its end sooner than that.
const DRAIN: Duration = Duration::from_millis(300);

/// The same where nobody waits for the answer itself: a machine with much to do takes its time, and a
/// connection that is given up is one that the guest has to open anew.
const LONG_GRACE: Duration = Duration::from_secs(3);

/// How long a connection has to become as new.
const RESET: Duration = Duration::from_secs(3);

/// A session of a server.
pub(super) struct Open {
    shared: Arc<Shared>,
    /// Its connection; `None` after it was lost.
    link: Option<Link>,
    place: Option<OwnedSemaphorePermit>,
    transaction: Transaction,
    rows: Option<Flow>,
    /// A call was begun: if this is still so when the session goes, somebody gave up on it.
    busy: bool,
    /// When the last call ended.
    used: Instant,
    /// When the last transaction was begun.
    begun: Instant,
}

/// Rows on their way.
struct Flow {
    stream: Pin<Box<RowStream>>,
    /// The stream was at its end; asked again it would say that the connection is closed.
    over: bool,
    /// What was looked for when the query was begun.
    first: Option<SqlRows>,
    until: Instant,
    /// Ending it before its end would undo something.
    changes: bool,
}

impl Open {
    pub(super) fn new(shared: Arc<Shared>, link: Link, place: OwnedSemaphorePermit) -> Self {
        Self {
            shared,
            link: Some(link),
            place: Some(place),
            transaction: Transaction::None,
            rows: None,
            busy: false,
            used: Instant::now(),
            begun: Instant::now(),
        }
    }

    /// Lets a session see one schema alone, which comes to be if it is not there.
    pub(super) async fn enter(&mut self, schema: &str) -> Result<(), CloudError> {
        let name = format!("\"{}\"", schema.replace('"', "\"\""));
        let path = format!("SET search_path TO {name}");
        let missing = "SELECT pg_catalog.to_regnamespace($1) IS NULL";
        self.busy = true;
        let entered = async {
            let rows = self.query(missing, &[SqlValue::Text(name.clone())]).await?;
            drop(rows);
            let is_missing = self.fetch().await? == [[SqlValue::Boolean(true)]];
            self.end_rows().await?;
            if is_missing {
                match self
                    .run(&format!("CREATE SCHEMA IF NOT EXISTS {name}"))
                    .await
                {
                    // Another session made it in the same moment, and has committed it.
                    Err(SqlError::Database { code, .. }) if code == "23505" || code == "42P06" => {}
                    made => made?,
                }
            }
            self.run(&path).await
        };
        let entered = entered.await;
        self.busy = false;
        match entered {
            Ok(()) => Ok(()),
            Err(SqlError::Cloud(error)) => Err(error),
            Err(error) => Err(CloudError::Failed(error.to_string())),
        }
    }

    /// What comes before each statement.
    async fn prelude(&mut self) -> Result<(), SqlError> {
        let may_wait = patience(self.begun.elapsed());
        let waited = self.used.elapsed();
        if self.transaction == Transaction::Open && may_wait.is_none_or(|most| waited >= most) {
            self.transaction = Transaction::Failed;
        }
        self.transaction.statement()?;
        self.end_rows().await
    }

    async fn execute(&mut self, text: &str, parameters: &[SqlValue]) -> Result<u64, SqlError> {
        let until = Instant::now() + PATIENCE;
        let mut stream = Box::pin(self.start(text, parameters, until).await?.1);
        let drained = async {
            let mut n_rows = 0;
            while let Some(row) = stream.next().await {
                row?;
                n_rows += 1;
            }
            Ok((n_rows, stream.rows_affected()))
        };
        let link = self.link.as_ref().ok_or(CloudError::Unavailable)?;
        let outcome = bounded(link, &self.shared, until, drained).await;
        let (n_rows, affected) = self.judge(outcome)?;
        Ok(affected.unwrap_or(n_rows))
    }

    async fn query(
        &mut self,
        text: &str,
        parameters: &[SqlValue],
    ) -> Result<Vec<String>, SqlError> {
        let until = Instant::now() + PATIENCE;
        let (statement, stream) = self.start(text, parameters, until).await?;
        let columns = statement.columns();
        let names = columns.iter().map(|column| column.name().to_owned());
        let mut flow = Flow {
            stream: Box::pin(stream),
            over: false,
            first: None,
            until: Instant::now() + Duration::from_millis(limits::QUERY_MS_MAX),
            changes: may_change(text),
        };
        // As with every database: what fails at the first row fails the query.
        let page = self.fill(&mut flow, until).await?;
        flow.first = Some(page);
        let names = names.collect();
        self.rows = Some(flow);
        Ok(names)
    }

    async fn fetch(&mut self) -> Result<SqlRows, SqlError> {
        let Some(mut flow) = self.rows.take() else {
            return Ok(SqlRows::new());
        };
        if Instant::now() >= flow.until {
            self.rows = Some(flow);
            self.end_rows().await?;
            return Err(CloudError::Timeout.into());
        }
        let page = match flow.first.take() {
            Some(page) => page,
            None => {
                let until = Instant::now() + PATIENCE;
                self.fill(&mut flow, until).await?
            }
        };
        if !page.is_empty() {
            self.rows = Some(flow);
        }
        Ok(page)
    }

    /// Prepares and begins a statement.
    async fn start(
        &mut self,
        text: &str,
        parameters: &[SqlValue],
        until: Instant,
    ) -> Result<(Statement, RowStream), SqlError> {
        let types: Vec<_> = parameters.iter().map(values::declared).collect();
        let oids: Vec<_> = types.iter().map(tokio_postgres::types::Type::oid).collect();
        let mut again = false;
        loop {
            let link = self.link.as_ref().ok_or(CloudError::Unavailable)?;
            let statement = match link.known(text, &oids) {
                Some(statement) => statement,
                None => {
                    let prepared = link.client.prepare_typed(text, &types);
                    let outcome = bounded(link, &self.shared, until, prepared).await;
                    let statement = self.judge(outcome)?;
                    values::check(statement.columns())?;
                    if let Some(link) = &mut self.link {
                        link.remember(text, oids.clone(), statement.clone());
                    }
                    statement
                }
            };
            let link = self.link.as_ref().ok_or(CloudError::Unavailable)?;
            let bound: Vec<_> = parameters.iter().map(Parameter).collect();
            let begun = link.client.query_raw(&statement, bound);
            let outcome = bounded(link, &self.shared, until, begun).await;
            match outcome {
                Err(Failure::Said(error)) if errors::is_stale(&error) && !again => {
                    if let Some(link) = &mut self.link {
                        link.forget(text, &oids);
                    }
                    if self.transaction != Transaction::None {
                        return Err(SqlError::Conflict);
                    }
                    again = true;
                }
                outcome => return Ok((statement, self.judge(outcome)?)),
            }
        }
    }

    /// The next page: at least a row, and then what is there already.
    async fn fill(&mut self, flow: &mut Flow, until: Instant) -> Result<SqlRows, SqlError> {
        let mut page = Page::default();
        while !page.is_full() && !flow.over {
            let row = if page.rows.is_empty() {
                let link = self.link.as_ref().ok_or(CloudError::Unavailable)?;
                let next = async { flow.stream.next().await.transpose() };
                let outcome = bounded(link, &self.shared, until, next).await;
                self.judge(outcome)?
            } else {
                match flow.stream.next().now_or_never() {
                    Some(row) => self.judge(row.transpose().map_err(Failure::Said))?,
                    None => break,
                }
            };
            match row {
                Some(row) => page.push(values::row(&row)?),
                None => flow.over = true,
            }
        }
        Ok(page.rows)
    }

    /// Ends rows before their end.
    async fn end_rows(&mut self) -> Result<(), SqlError> {
        let Some(flow) = self.rows.take() else {
            return Ok(());
        };
        let link = self.link.as_ref().ok_or(CloudError::Unavailable)?;
        // Cancelled, they would take a transaction with them, or what they changed.
        let patient = flow.changes || self.transaction != Transaction::None;
        let (wait, grace) = match patient {
            true => (PATIENCE, GRACE),
            false => (DRAIN, LONG_GRACE),
        };
        let until = Instant::now() + wait;
        let outcome = bounded_with(link, &self.shared, until, grace, drain(flow)).await;
        match outcome {
            Err(Failure::Late) if !patient => Ok(()),
            outcome => self.judge(outcome),
        }
    }

    /// Statements of this file.
    async fn run(&mut self, text: &str) -> Result<(), SqlError> {
        let link = self.link.as_ref().ok_or(CloudError::Unavailable)?;
        let until = Instant::now() + PATIENCE;
        let outcome = bounded(link, &self.shared, until, link.client.batch_execute(text)).await;
        self.judge(outcome)
    }

    async fn begin(&mut self) -> Result<(), SqlError> {
        let ended = self.end_rows().await;
        self.transaction.after(ended)?;
        self.transaction.begin()?;
        self.run("BEGIN ISOLATION LEVEL SERIALIZABLE").await?;
        self.transaction = Transaction::Open;
        self.begun = Instant::now();
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), SqlError> {
        if self.transaction == Transaction::Open {
            let ready = self.prelude().await;
            if ready.is_err() {
                self.transaction = Transaction::Failed;
            }
        }
        if !self.transaction.commit()? {
            self.roll_back().await?;
            return Err(SqlError::Aborted);
        }
        let result = self.run("COMMIT").await;
        self.transaction = Transaction::None;
        result
    }

    async fn roll_back(&mut self) -> Result<(), SqlError> {
        // What is left of rows does not matter, but that they end.
        _ = self.end_rows().await;
        if self.transaction == Transaction::None {
            return Ok(());
        }
        self.transaction = Transaction::None;
        match self.run("ROLLBACK").await {
            // The connection is gone, and the transaction with it.
            Err(SqlError::Cloud(CloudError::Unavailable)) => Ok(()),
            result => result,
        }
    }

    /// What became of a call; a connection that is lost, or still busy, is given up.
    fn judge<T>(&mut self, outcome: Result<T, Failure>) -> Result<T, SqlError> {
        let failure = match outcome {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let error = match (&failure, &self.link) {
            (Failure::Said(error), Some(link)) => errors::translate(error, link),
            (Failure::Said(_), None) => CloudError::Unavailable.into(),
            (Failure::Late | Failure::Lost, _) => CloudError::Timeout.into(),
        };
        let closed = self
            .link
            .as_ref()
            .is_some_and(|link| link.client.is_closed());
        if closed {
            self.link = None;
        } else if matches!(failure, Failure::Lost) {
            self.lose();
        }
        Err(error)
    }

    /// Gives up a connection on which something goes on.
    fn lose(&mut self) {
        if let Some(link) = self.link.take() {
            let (shared, place) = (Arc::clone(&self.shared), self.place.take());
            let runtime = self.shared.runtime.clone();
            runtime.spawn(async move { shared.end(link, place).await });
        }
    }

    /// Around each call.
    async fn call<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.busy = true;
        let result = work(self).await;
        self.busy = false;
        self.used = Instant::now();
        result
    }
}

/// Why a call has no result.
enum Failure {
    /// The server says so.
    Said(Error),
    /// It took too long, and the server ended it.
    Late,
    /// It took too long, and goes on, or what shall end it may end something else.
    Lost,
}

/// Waits for an answer until a moment, and has the server end it then.
async fn bounded<T>(
    link: &Link,
    shared: &Shared,
    until: Instant,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    bounded_with(link, shared, until, GRACE, work).await
}

/// The same, with so long for the server to say that it has ended it.
async fn bounded_with<T>(
    link: &Link,
    shared: &Shared,
    until: Instant,
    grace: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    let wait = until.saturating_duration_since(Instant::now());
    if let Ok(result) = tokio::time::timeout(wait, &mut work).await {
        return result.map_err(Failure::Said);
    }
    let within = grace.max(CANCEL_TIMEOUT);
    let mut cancel = pin!(shared.door.cancel(link, within));
    let (told, ended) = tokio::select! {
        // It may have come to its end in this moment. The wish must not come after it.
        result = &mut work => (cancel.await, Ok(result)),
        told = &mut cancel => (told, tokio::time::timeout(grace, work).await),
    };
    match ended {
        Ok(result) if told => match result {
            Ok(value) => Ok(value),
            Err(error) if error.as_db_error().is_some() => Err(Failure::Late),
            Err(error) => Err(Failure::Said(error)),
        },
        Ok(_) | Err(_) => Err(Failure::Lost),
    }
}

async fn drain(mut flow: Flow) -> Result<(), Error> {
    while !flow.over {
        flow.over = flow.stream.next().await.transpose()?.is_none();
    }
    Ok(())
}

/// Whether a statement may change something: in doubt it does.
fn may_change(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    ["INSERT", "UPDATE", "DELETE", "MERGE"]
        .iter()
        .any(|word| text.contains(word))
}

impl Session for Open {
    fn execute<'a>(
        &'a mut self,
        statement: &'a str,
        parameters: &'a [SqlValue],
    ) -> Answer<'a, u64, SqlError> {
        Box::pin(self.call(async move |own: &mut Self| {
            words::check(statement, parameters)?;
            let result = match own.prelude().await {
                Ok(()) => own.execute(statement, parameters).await,
                Err(error) => Err(error),
            };
            own.transaction.after(result)
        }))
    }

    fn query<'a>(
        &'a mut self,
        statement: &'a str,
        parameters: &'a [SqlValue],
    ) -> Answer<'a, Vec<String>, SqlError> {
        Box::pin(self.call(async move |own: &mut Self| {
            words::check(statement, parameters)?;
            let result = match own.prelude().await {
                Ok(()) => own.query(statement, parameters).await,
                Err(error) => Err(error),
            };
            own.transaction.after(result)
        }))
    }

    fn fetch(&mut self) -> Answer<'_, SqlRows, SqlError> {
        Box::pin(self.call(async move |own: &mut Self| {
            let result = own.fetch().await;
            own.transaction.after(result)
        }))
    }

    fn close(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.call(async move |own: &mut Self| {
            let result = own.end_rows().await;
            own.transaction.after(result)
        }))
    }

    fn begin(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.call(Self::begin))
    }

    fn commit(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.call(Self::commit))
    }

    fn roll_back(&mut self) -> Answer<'_, (), SqlError> {
        Box::pin(self.call(Self::roll_back))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let (rows, place) = (self.rows.take(), self.place.take());
        let (busy, in_transaction) = (self.busy, self.transaction != Transaction::None);
        let runtime = self.shared.runtime.clone();
        runtime.spawn(async move {
            if renew(&link, &shared, rows, busy, in_transaction).await {
                shared.give_back(link);
                drop(place);
            } else if !link.client.is_closed() {
                shared.end(link, place).await;
            }
        });
    }
}

/// Makes a connection as new after its session: whether it is.
async fn renew(
    link: &Link,
    shared: &Shared,
    rows: Option<Flow>,
    busy: bool,
    in_transaction: bool,
) -> bool {
    if busy && !shared.door.cancel(link, CANCEL_TIMEOUT).await {
        return false;
    }
    if let Some(flow) = rows {
        let wait = if flow.changes && !in_transaction {
            PATIENCE
        } else {
            Duration::ZERO
        };
        let ended = bounded(link, shared, Instant::now() + wait, drain(flow)).await;
        if matches!(ended, Err(Failure::Lost)) {
            return false;
        }
    }
    matches!(tokio::time::timeout(RESET, link.reset()).await, Ok(Ok(())))
}
