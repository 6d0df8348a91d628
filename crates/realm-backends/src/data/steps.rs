//! Short words for statements of realm's own, and what their values are.

use realm_model::cloud::documents::Meter;
use realm_model::cloud::{CloudError, DataError, Session, SqlError, SqlRows, SqlValue, limits};

use crate::sql::bytes_of;

/// Why a piece of work ended.
pub(super) enum Failure {
    /// The database's word, which may be one to try again.
    Sql(SqlError),
    /// What the caller hears.
    Data(DataError),
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

impl From<CloudError> for Failure {
    fn from(error: CloudError) -> Self {
        Self::Data(error.into())
    }
}

/// What a guest hears of an error that no trying again mends.
pub(super) fn said(error: SqlError) -> DataError {
    let error = match error {
        SqlError::Cloud(error) => error,
        SqlError::Conflict | SqlError::Aborted => CloudError::Timeout,
        SqlError::Database { code, message } => match code.as_str() {
            // A user of the server that may not do this.
            "42501" => CloudError::AccessDenied,
            _ => CloudError::Failed(format!("{code}: {message}")),
        },
    };
    DataError::Cloud(error)
}

/// The next rows of a query over tables of realm's own. A guest may have made such a table itself, or a view
/// that never ends: a row that is larger than all that is ever put there is none of ours.
pub(super) async fn page(session: &mut dyn Session) -> Result<SqlRows, Failure> {
    let page = session.fetch().await?;
    let is_ours =
        |row: &Vec<SqlValue>| row.iter().map(bytes_of).sum::<usize>() <= limits::OWN_ROW_BYTES_MAX;
    if page.iter().all(is_ours) {
        return Ok(page);
    }
    Err(strange())
}

/// All rows of a query, of which no more than so many can be there.
pub(super) async fn rows(
    session: &mut dyn Session,
    statement: &str,
    parameters: &[SqlValue],
    n_max: usize,
) -> Result<SqlRows, Failure> {
    session.query(statement, parameters).await?;
    let mut all = SqlRows::new();
    loop {
        let page = page(session).await?;
        if page.is_empty() {
            return Ok(all);
        }
        if all.len() + page.len() > n_max {
            return Err(strange());
        }
        all.extend(page);
    }
}

/// The one row, if there is one.
pub(super) async fn first(
    session: &mut dyn Session,
    statement: &str,
    parameters: &[SqlValue],
) -> Result<Option<Vec<SqlValue>>, Failure> {
    Ok(rows(session, statement, parameters, 1).await?.pop())
}

/// Bytes that a call holds while it waits: counted as long as this is there.
pub(super) struct Load<'a> {
    meter: &'a dyn Meter,
    n_bytes: usize,
}

impl<'a> Load<'a> {
    pub(super) const fn none(meter: &'a dyn Meter) -> Self {
        Self { meter, n_bytes: 0 }
    }

    /// Another number than before.
    pub(super) fn set(&mut self, n_bytes: usize) -> Result<(), CloudError> {
        match n_bytes.checked_sub(self.n_bytes) {
            Some(more) => self.meter.more(more)?,
            None => self.meter.less(self.n_bytes - n_bytes),
        }
        self.n_bytes = n_bytes;
        Ok(())
    }

    pub(super) fn more(&mut self, n_bytes: usize) -> Result<(), CloudError> {
        self.set(self.n_bytes.saturating_add(n_bytes))
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.meter.less(self.n_bytes);
    }
}

/// What rows take.
pub(super) fn size(rows: &[impl AsRef<[SqlValue]>]) -> usize {
    rows.iter().flat_map(AsRef::as_ref).map(bytes_of).sum()
}

/// Lets others on the thread have their turn, after so much work.
#[derive(Default)]
pub(super) struct Pace {
    spent: usize,
}

impl Pace {
    pub(super) async fn spend(&mut self, work: usize) {
        self.spent = self.spent.saturating_add(work);
        if self.spent >= limits::WORK_AT_ONCE {
            self.spent = 0;
            tokio::task::yield_now().await;
        }
    }
}

pub(super) fn text(text: &str) -> SqlValue {
    SqlValue::Text(text.to_owned())
}

pub(super) fn number(number: u64) -> SqlValue {
    SqlValue::Integer(number.cast_signed())
}

/// A column that this folder's own tables have; a guest may have put others of these names there.
pub(super) fn strange() -> Failure {
    let why = "a table of realm's own is not as realm makes it";
    CloudError::Failed(why.to_owned()).into()
}

/// Takes the columns of a row one after the other.
pub(super) struct Row(std::vec::IntoIter<SqlValue>);

impl Row {
    pub(super) fn of(values: Vec<SqlValue>) -> Self {
        Self(values.into_iter())
    }

    /// A text of no more bytes than are ever put there: a longer one is not looked at.
    pub(super) fn text_within(&mut self, n_max: usize) -> Result<String, Failure> {
        match self.0.next() {
            Some(SqlValue::Text(text)) if text.len() <= n_max => Ok(text),
            Some(_) | None => Err(strange()),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, Failure> {
        match self.0.next() {
            Some(SqlValue::Bytes(bytes)) => Ok(bytes),
            Some(_) | None => Err(strange()),
        }
    }

    pub(super) fn signed(&mut self) -> Result<i64, Failure> {
        match self.0.next() {
            Some(SqlValue::Integer(number)) => Ok(number),
            Some(_) | None => Err(strange()),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64, Failure> {
        match self.0.next() {
            Some(SqlValue::Integer(number)) => Ok(number.cast_unsigned()),
            Some(_) | None => Err(strange()),
        }
    }
}

/// `($1, $2), ($3, $4)`: places for so many rows.
pub(super) fn places(n_rows: usize, n_columns: usize) -> String {
    let row = |row: usize| {
        let numbers = (1..=n_columns).map(|column| format!("${}", row * n_columns + column));
        format!("({})", numbers.collect::<Vec<_>>().join(", "))
    };
    (0..n_rows).map(row).collect::<Vec<_>>().join(", ")
}
