//! SQL for guests: `realm:cloud/sql@0.1.0`, typed and with rows as they are asked for, and
//! `wasi:sql@0.2.0-draft`, over the same sessions.
//!
//! A session is a resource of the guest's store; rows are another one, beside the session that they come
//! from, and are over when that does something else.

mod draft;
mod typed;

use std::collections::VecDeque;
use std::sync::Arc;

use realm_model::cloud::{CloudError, Session, SqlError, SqlRows, SqlValue};
use tokio::sync::Mutex;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, ResourceTable};

use super::{Cloud, Kept};
use crate::state::State;

/// Sessions of one instance at a time: all of a binding are shared by the instances of its components.
const CONNECTIONS_MAX: usize = 8;

/// Counts the sessions of one instance.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<()>);

impl Count {
    /// One more, while it is held.
    fn more(&self) -> Result<Self, CloudError> {
        if Arc::strong_count(&self.0) > CONNECTIONS_MAX {
            return Err(CloudError::Invalid(format!(
                "{CONNECTIONS_MAX} connections are open: close one first"
            )));
        }
        Ok(self.clone())
    }
}

/// A session that a guest opened.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Connection(Arc<Mutex<Shared>>);

/// What a session and its rows share.
struct Shared {
    session: Box<dyn Session>,
    /// How many statements were begun: rows of an earlier one are over.
    n_statements: u64,
    _count: Count,
}

impl Connection {
    async fn open(cloud: &Cloud, name: &str) -> Result<Self, CloudError> {
        let opened = cloud.sql(name)?;
        cloud.charge()?;
        let count = cloud.connections().more()?;
        let session = opened.store.open(&opened.part, cloud.bytes_max()).await?;
        Ok(Self(Arc::new(Mutex::new(Shared {
            session,
            n_statements: 0,
            _count: count,
        }))))
    }

    async fn execute(
        &self,
        cloud: &Cloud,
        statement: &str,
        parameters: &[SqlValue],
    ) -> Result<u64, SqlError> {
        cloud.charge()?;
        let mut shared = self.0.lock().await;
        shared.n_statements += 1;
        shared.session.execute(statement, parameters).await
    }

    async fn query(
        &self,
        cloud: &Cloud,
        statement: &str,
        parameters: &[SqlValue],
    ) -> Result<Rows, SqlError> {
        cloud.charge()?;
        let mut shared = self.0.lock().await;
        shared.n_statements += 1;
        let columns = shared.session.query(statement, parameters).await?;
        let names = columns.iter().map(|name| size_of::<String>() + name.len());
        let kept = match Kept::new(cloud, names.sum()) {
            Ok(kept) => kept,
            Err(error) => {
                shared.session.close().await?;
                return Err(error.into());
            }
        };
        Ok(Rows {
            connection: self.clone(),
            statement: shared.n_statements,
            columns,
            page: VecDeque::new(),
            over: false,
            _names: kept,
            kept: Kept::none(cloud),
        })
    }

    async fn begin(&self, cloud: &Cloud) -> Result<(), SqlError> {
        cloud.charge()?;
        let mut shared = self.0.lock().await;
        shared.n_statements += 1;
        shared.session.begin().await
    }

    /// Not charged, as a roll-back is not: a quota must not keep a transaction open.
    async fn commit(&self) -> Result<(), SqlError> {
        let mut shared = self.0.lock().await;
        shared.n_statements += 1;
        shared.session.commit().await
    }

    async fn roll_back(&self) -> Result<(), SqlError> {
        let mut shared = self.0.lock().await;
        shared.n_statements += 1;
        shared.session.roll_back().await
    }
}

/// Rows of a query.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Rows {
    connection: Connection,
    /// The number of the statement that they are of.
    statement: u64,
    columns: Vec<String>,
    /// What came and was not given yet.
    page: VecDeque<Vec<SqlValue>>,
    over: bool,
    _names: Kept,
    /// The page.
    kept: Kept,
}

impl Rows {
    /// The next page, if none waits.
    async fn fill(&mut self) -> Result<(), SqlError> {
        if !self.page.is_empty() || self.over {
            return Ok(());
        }
        let mut shared = self.connection.0.lock().await;
        if shared.n_statements != self.statement {
            let why = "the connection did something else, and these rows are over";
            return Err(CloudError::Invalid(why.to_owned()).into());
        }
        let page = shared.session.fetch().await;
        self.over = !matches!(&page, Ok(page) if !page.is_empty());
        let page = page?;
        if let Err(error) = self.kept.set(page.iter().map(|row| bytes_of(row)).sum()) {
            // Rows that are not kept are lost, and those after them are not given in their place.
            self.over = true;
            shared.session.close().await?;
            return Err(error.into());
        }
        self.page = page.into();
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Vec<SqlValue>>, SqlError> {
        self.fill().await?;
        let row = self.page.pop_front();
        if self.page.is_empty() {
            self.kept.set(0)?;
        }
        Ok(row)
    }

    async fn read(&mut self) -> Result<SqlRows, SqlError> {
        self.fill().await?;
        self.kept.set(0)?;
        Ok(std::mem::take(&mut self.page).into())
    }

    async fn close(self) {
        let mut shared = self.connection.0.lock().await;
        if !self.over && shared.n_statements == self.statement {
            // In a transaction the next statement says so, else nobody is left to hear it.
            _ = shared.session.close().await;
        }
    }
}

/// What a row takes.
fn bytes_of(row: &[SqlValue]) -> usize {
    size_of_val(row) + row.iter().map(payload).sum::<usize>()
}

/// Bytes that a value has beside its own place.
fn payload(value: &SqlValue) -> usize {
    match value {
        SqlValue::Null | SqlValue::Boolean(_) | SqlValue::Integer(_) | SqlValue::Real(_) => 0,
        SqlValue::Text(text)
        | SqlValue::Date(text)
        | SqlValue::Time(text)
        | SqlValue::Timestamp(text)
        | SqlValue::Decimal(text) => text.len(),
        SqlValue::Bytes(bytes) => bytes.len(),
    }
}

/// What both interfaces work with.
pub(crate) struct View<'a> {
    pub(crate) cloud: &'a mut Cloud,
    pub(crate) table: &'a mut ResourceTable,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    typed::link(linker)?;
    draft::link(linker)
}
