//! Short words for statements of realm's own, and what their values are.

use realm_model::cloud::{CloudError, DataError, Session, SqlError, SqlRows, SqlValue};

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

/// All rows of a query of which few are there.
pub(super) async fn rows(
    session: &mut dyn Session,
    statement: &str,
    parameters: &[SqlValue],
) -> Result<SqlRows, SqlError> {
    session.query(statement, parameters).await?;
    let mut all = SqlRows::new();
    loop {
        let page = session.fetch().await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// The first row, if there is one.
pub(super) async fn first(
    session: &mut dyn Session,
    statement: &str,
    parameters: &[SqlValue],
) -> Result<Option<Vec<SqlValue>>, SqlError> {
    let rows = rows(session, statement, parameters).await?;
    Ok(rows.into_iter().next())
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

    pub(super) fn text(&mut self) -> Result<String, Failure> {
        match self.0.next() {
            Some(SqlValue::Text(text)) => Ok(text),
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
