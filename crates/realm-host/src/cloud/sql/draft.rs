//! `wasi:sql@0.2.0-draft`: parameters are texts, and a result is all of its cells at once.

use realm_model::cloud::{CloudError, SqlError, SqlValue, limits, within};
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::{Connection, Has, View, payload};
use crate::cloud::{Cloud, Kept};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/wasi-sql-0.2.0-draft",
        world: "imports",
        imports: { default: async | trappable },
        with: {
            "wasi:sql/types.connection": crate::cloud::sql::Connection,
            "wasi:sql/types.statement": super::Statement,
            "wasi:sql/types.error": super::Failure,
        },
    });
}

use generated::wasi::sql::{readwrite, types};
use types::{DataType, Row};

/// A statement of a guest.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Statement {
    text: String,
    parameters: Vec<SqlValue>,
    _kept: Kept,
}

/// An error of a guest.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Failure {
    error: SqlError,
    /// `None`: it says that there was no room for it.
    _kept: Option<Kept>,
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    types::add_to_linker::<_, Has>(linker, State::sql)?;
    readwrite::add_to_linker::<_, Has>(linker, State::sql)
}

impl View<'_> {
    fn answer<T>(&mut self, result: Result<T, SqlError>) -> Result<Result<T, Resource<Failure>>> {
        Ok(match result {
            Ok(value) => Ok(value),
            Err(error) => {
                let kept = Kept::new(self.cloud, error.to_string().len());
                Err(self.table.push(match kept {
                    Ok(kept) => Failure {
                        error,
                        _kept: Some(kept),
                    },
                    Err(error) => Failure {
                        error: error.into(),
                        _kept: None,
                    },
                })?)
            }
        })
    }
}

impl types::Host for View<'_> {}

impl types::HostStatement for View<'_> {
    async fn prepare(
        &mut self,
        text: String,
        parameters: Vec<String>,
    ) -> Result<Result<Resource<Statement>, Resource<Failure>>> {
        // Kept until it is used: what could not be is not kept.
        let bytes = parameters.iter().map(String::len).sum::<usize>();
        let places = parameters.len() * size_of::<SqlValue>();
        let fits = within("the statement", text.len(), limits::STATEMENT_BYTES_MAX)
            .and_then(|()| within("the parameters", bytes, limits::ROW_BYTES_MAX))
            .and_then(|()| Kept::new(self.cloud, text.len() + bytes + places));
        let kept = match fits {
            Ok(kept) => kept,
            Err(error) => return self.answer(Err(error.into())),
        };
        let statement = self.table.push(Statement {
            text,
            parameters: parameters.into_iter().map(SqlValue::Text).collect(),
            _kept: kept,
        })?;
        Ok(Ok(statement))
    }

    async fn drop(&mut self, statement: Resource<Statement>) -> Result<()> {
        self.table.delete(statement)?;
        Ok(())
    }
}

impl types::HostError for View<'_> {
    async fn trace(&mut self, error: Resource<Failure>) -> Result<String> {
        let Failure { error, .. } = self.table.get(&error)?;
        Ok(format!("{}: {error}", error.code()))
    }

    async fn drop(&mut self, error: Resource<Failure>) -> Result<()> {
        self.table.delete(error)?;
        Ok(())
    }
}

impl types::HostConnection for View<'_> {
    async fn open(
        &mut self,
        name: String,
    ) -> Result<Result<Resource<Connection>, Resource<Failure>>> {
        match Connection::open(self.cloud, &name).await {
            Ok(connection) => Ok(Ok(self.table.push(connection)?)),
            Err(error) => self.answer(Err(error.into())),
        }
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl readwrite::Host for View<'_> {
    async fn query(
        &mut self,
        connection: Resource<Connection>,
        statement: Resource<Statement>,
    ) -> Result<Result<Vec<Row>, Resource<Failure>>> {
        let connection = self.table.get(&connection)?.clone();
        let result = cells(&connection, self.cloud, self.table.get(&statement)?).await;
        self.answer(result)
    }

    async fn exec(
        &mut self,
        connection: Resource<Connection>,
        statement: Resource<Statement>,
    ) -> Result<Result<u32, Resource<Failure>>> {
        let connection = self.table.get(&connection)?.clone();
        let Statement {
            text, parameters, ..
        } = self.table.get(&statement)?;
        let result = connection.execute(self.cloud, text, parameters).await;
        let changed = result.map(|changed| u32::try_from(changed).unwrap_or(u32::MAX));
        self.answer(changed)
    }
}

/// All cells of a query, row by row.
async fn cells(
    connection: &Connection,
    cloud: &Cloud,
    statement: &Statement,
) -> Result<Vec<Row>, SqlError> {
    let Statement {
        text, parameters, ..
    } = statement;
    let mut rows = connection.query(cloud, text, parameters).await?;
    let mut cells = Vec::new();
    let (mut n_rows, mut bytes) = (0, 0);
    let result = loop {
        match rows.next().await {
            Ok(Some(row)) => {
                n_rows += 1;
                for (name, value) in rows.columns.iter().zip(row) {
                    bytes += size_of::<Row>() + name.len() + payload(&value);
                    cells.push(Row {
                        field_name: name.clone(),
                        value: taken(value),
                    });
                }
            }
            Ok(None) => break Ok(cells),
            Err(error) => break Err(error),
        }
        if n_rows > limits::ROWS_MAX || bytes > limits::ROWS_BYTES_MAX {
            break Err(CloudError::TooLarge {
                what: "the result",
                bytes: bytes as u64,
                bytes_max: limits::ROWS_BYTES_MAX as u64,
            }
            .into());
        }
    };
    rows.close().await;
    result
}

fn taken(value: SqlValue) -> DataType {
    match value {
        SqlValue::Null => DataType::Null,
        SqlValue::Boolean(value) => DataType::Boolean(value),
        SqlValue::Integer(value) => DataType::Int64(value),
        SqlValue::Real(value) => DataType::Double(value),
        SqlValue::Text(text) | SqlValue::Decimal(text) => DataType::Str(text),
        SqlValue::Bytes(bytes) => DataType::Binary(bytes),
        SqlValue::Date(text) => DataType::Date(text),
        SqlValue::Time(text) => DataType::Time(text),
        SqlValue::Timestamp(text) => DataType::Timestamp(text),
    }
}
