//! `realm:cloud/sql@0.1.0`.

use realm_model::cloud::{CloudError, SqlError, SqlValue};
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::{Connection, Has, Rows, View};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: ["../../wit/deps/wasi-keyvalue-0.2.0-draft2", "../../wit/deps/wasi-messaging-0.2.0-draft", "../../wit/deps/realm-cloud"],
        world: "realm:cloud/sql-imports",
        imports: { default: async | trappable },
        with: {
            "realm:cloud/sql.connection": crate::cloud::sql::Connection,
            "realm:cloud/sql.rows": crate::cloud::sql::Rows,
        },
    });
}

use generated::realm::cloud::sql::{self, DatabaseError, Error, Host, Row, Value};

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    sql::add_to_linker::<_, Has>(linker, State::sql)
}

impl Host for View<'_> {}

impl sql::HostConnection for View<'_> {
    async fn open(&mut self, name: String) -> Result<Result<Resource<Connection>, Error>> {
        Ok(match Connection::open(self.cloud, &name).await {
            Ok(connection) => Ok(self.table.push(connection)?),
            Err(error) => Err(said(error.into())),
        })
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<Result<u64, Error>> {
        let connection = self.table.get(&connection)?.clone();
        let parameters: Vec<_> = parameters.into_iter().map(given).collect();
        let result = connection
            .execute(self.cloud, &statement, &parameters)
            .await;
        Ok(result.map_err(said))
    }

    async fn query(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<Result<Resource<Rows>, Error>> {
        let connection = self.table.get(&connection)?.clone();
        let parameters: Vec<_> = parameters.into_iter().map(given).collect();
        Ok(
            match connection.query(self.cloud, &statement, &parameters).await {
                Ok(rows) => Ok(self.table.push(rows)?),
                Err(error) => Err(said(error)),
            },
        )
    }

    async fn begin(&mut self, connection: Resource<Connection>) -> Result<Result<(), Error>> {
        let connection = self.table.get(&connection)?.clone();
        Ok(connection.begin(self.cloud).await.map_err(said))
    }

    async fn commit(&mut self, connection: Resource<Connection>) -> Result<Result<(), Error>> {
        let connection = self.table.get(&connection)?.clone();
        Ok(connection.commit().await.map_err(said))
    }

    async fn roll_back(&mut self, connection: Resource<Connection>) -> Result<Result<(), Error>> {
        let connection = self.table.get(&connection)?.clone();
        Ok(connection.roll_back().await.map_err(said))
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl sql::HostRows for View<'_> {
    async fn columns(&mut self, rows: Resource<Rows>) -> Result<Vec<String>> {
        Ok(self.table.get(&rows)?.columns.clone())
    }

    async fn next(&mut self, rows: Resource<Rows>) -> Result<Result<Option<Row>, Error>> {
        let row = self.table.get_mut(&rows)?.next().await;
        Ok(row.map(|row| row.map(taken)).map_err(said))
    }

    async fn read(&mut self, rows: Resource<Rows>) -> Result<Result<Vec<Row>, Error>> {
        let page = self.table.get_mut(&rows)?.read().await;
        let page = page.map(|rows| rows.into_iter().map(taken).collect());
        Ok(page.map_err(said))
    }

    async fn drop(&mut self, rows: Resource<Rows>) -> Result<()> {
        self.table.delete(rows)?.close().await;
        Ok(())
    }
}

fn given(value: Value) -> SqlValue {
    match value {
        Value::Null => SqlValue::Null,
        Value::Boolean(value) => SqlValue::Boolean(value),
        Value::Integer(value) => SqlValue::Integer(value),
        Value::Real(value) => SqlValue::Real(value),
        Value::Text(text) => SqlValue::Text(text),
        Value::Bytes(bytes) => SqlValue::Bytes(bytes),
        Value::Date(text) => SqlValue::Date(text),
        Value::Time(text) => SqlValue::Time(text),
        Value::Timestamp(text) => SqlValue::Timestamp(text),
        Value::Decimal(text) => SqlValue::Decimal(text),
    }
}

fn taken(row: Vec<SqlValue>) -> Row {
    let values = row.into_iter().map(|value| match value {
        SqlValue::Null => Value::Null,
        SqlValue::Boolean(value) => Value::Boolean(value),
        SqlValue::Integer(value) => Value::Integer(value),
        SqlValue::Real(value) => Value::Real(value),
        SqlValue::Text(text) => Value::Text(text),
        SqlValue::Bytes(bytes) => Value::Bytes(bytes),
        SqlValue::Date(text) => Value::Date(text),
        SqlValue::Time(text) => Value::Time(text),
        SqlValue::Timestamp(text) => Value::Timestamp(text),
        SqlValue::Decimal(text) => Value::Decimal(text),
    });
    values.collect()
}

/// What a guest reads of an error.
fn said(error: SqlError) -> Error {
    let words = error.to_string();
    match error {
        SqlError::Database { code, message } => Error::Database(DatabaseError { code, message }),
        SqlError::Conflict => Error::Conflict,
        SqlError::Aborted => Error::Aborted,
        SqlError::Cloud(error) => match error {
            CloudError::NoSuchStore => Error::NoSuchDatabase,
            CloudError::AccessDenied => Error::AccessDenied,
            CloudError::Quota(which) => Error::Quota(which.to_string()),
            CloudError::TooLarge { .. } => Error::TooLarge(words),
            CloudError::Invalid(_) => Error::Invalid(words),
            CloudError::Timeout => Error::Timeout,
            CloudError::Unavailable => Error::Unavailable,
            CloudError::NotFound(_)
            | CloudError::Full(_)
            | CloudError::Unsupported(_)
            | CloudError::Failed(_) => Error::Other(words),
        },
    }
}
