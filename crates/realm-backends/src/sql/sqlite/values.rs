//! Values on their way into SQLite and out of it.

use realm_model::cloud::{CloudError, SqlError, SqlValue};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Row, Statement};

use super::super::Budget;
use super::super::transaction::invalid;

/// What a column was declared as, where SQLite would give something simpler back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Boolean,
    Date,
    Time,
    Timestamp,
}

/// Binds each parameter by its number: SQLite counts `$1` as a name, in the order in which it meets them.
pub(super) fn bind(statement: &mut Statement<'_>, values: &[SqlValue]) -> Result<(), SqlError> {
    let n_spelt = statement.parameter_count();
    let mut bound = vec![false; values.len()];
    for index in 1..=n_spelt {
        let at = match statement.parameter_name(index) {
            Some(name) => numbered(name),
            None => None,
        };
        let at = at.ok_or_else(|| invalid("parameters are spelt `$1`, `$2`, .."))?;
        let value = values
            .get(at - 1)
            .ok_or_else(|| invalid(format!("`${at}` has no value, {} are given", values.len())))?;
        bound[at - 1] = true;
        statement
            .raw_bind_parameter(index, Parameter(value))
            .map_err(|error| refused(&error))?;
    }
    match bound.iter().position(|bound| !bound) {
        Some(unused) => Err(invalid(format!(
            "`${}` is not in the statement",
            unused + 1
        ))),
        None => Ok(()),
    }
}

/// The number of `$12`: from 1, without a sign or zeros before it.
fn numbered(name: &str) -> Option<usize> {
    let digits = name.strip_prefix('$')?;
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| canonical)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "an enum of another crate, which grows"
)]
fn refused(error: &rusqlite::Error) -> SqlError {
    match error {
        rusqlite::Error::ToSqlConversionFailure(why) => invalid(why.to_string()),
        other => super::errors::translate(other, false),
    }
}

struct Parameter<'a>(&'a SqlValue);

impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            SqlValue::Null => ValueRef::Null,
            SqlValue::Boolean(value) => ValueRef::Integer(i64::from(*value)),
            SqlValue::Integer(value) => ValueRef::Integer(*value),
            SqlValue::Real(value) if value.is_nan() => {
                let why = "SQLite has no number that is none (NaN)".into();
                return Err(rusqlite::Error::ToSqlConversionFailure(why));
            }
            SqlValue::Real(value) => ValueRef::Real(*value),
            SqlValue::Text(text)
            | SqlValue::Date(text)
            | SqlValue::Time(text)
            | SqlValue::Timestamp(text)
            | SqlValue::Decimal(text) => ValueRef::Text(text.as_bytes()),
            SqlValue::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// What the columns of a statement were declared as.
pub(super) fn kinds(statement: &Statement<'_>) -> Vec<Kind> {
    let columns = statement.columns();
    columns
        .map(|column| column.decl_type().map_or(Kind::Plain, declared))
        .collect()
}

fn declared(declared: &str) -> Kind {
    let word = declared.split(['(', ' ']).next().unwrap_or_default();
    match word.to_ascii_uppercase().as_str() {
        "BOOLEAN" | "BOOL" => Kind::Boolean,
        "DATE" => Kind::Date,
        "TIME" => Kind::Time,
        "TIMESTAMP" | "TIMESTAMPTZ" | "DATETIME" => Kind::Timestamp,
        _ => Kind::Plain,
    }
}

/// A row, each value as what its column was declared, where it is that. In all of it there is no more than
/// a row may have: SQLite gives the same value in two thousand columns without a copy of its own.
pub(super) fn row(row: &Row<'_>, kinds: &[Kind]) -> Result<Vec<SqlValue>, SqlError> {
    let mut budget = Budget::default();
    let values = kinds.iter().enumerate().map(|(index, kind)| {
        let value = row
            .get_ref(index)
            .map_err(|error| super::errors::translate(&error, false))?;
        if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = value {
            budget.take(bytes.len())?;
        }
        Ok(match value {
            ValueRef::Null => SqlValue::Null,
            ValueRef::Integer(value @ (0 | 1)) if *kind == Kind::Boolean => {
                SqlValue::Boolean(value == 1)
            }
            ValueRef::Integer(value) => SqlValue::Integer(value),
            ValueRef::Real(value) => SqlValue::Real(value),
            ValueRef::Text(bytes) => text(bytes, *kind)?,
            ValueRef::Blob(bytes) => SqlValue::Bytes(bytes.to_vec()),
        })
    });
    values.collect()
}

fn text(bytes: &[u8], kind: Kind) -> Result<SqlValue, SqlError> {
    // A blob may have been cast to text.
    let text = std::str::from_utf8(bytes)
        .map_err(|_| CloudError::Failed("a text is not UTF-8".to_owned()))?
        .to_owned();
    Ok(match kind {
        Kind::Plain | Kind::Boolean => SqlValue::Text(text),
        Kind::Date => SqlValue::Date(text),
        Kind::Time => SqlValue::Time(text),
        Kind::Timestamp => SqlValue::Timestamp(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_one_spelling() {
        for (name, number) in [("$1", Some(1)), ("$32766", Some(32_766))] {
            assert_eq!(numbered(name), number, "{name}");
        }
        for name in [
            "?1", ":a", "@1", "$0", "$01", "$+1", "$a", "$", "$1a", "$1::x",
        ] {
            assert_eq!(numbered(name), None, "{name}");
        }
    }

    #[test]
    fn what_columns_are_declared_as() {
        for (text, kind) in [
            ("boolean", Kind::Boolean),
            ("TIMESTAMP WITH TIME ZONE", Kind::Timestamp),
            ("TIMESTAMP(3)", Kind::Timestamp),
            ("date", Kind::Date),
            ("INTEGER", Kind::Plain),
            ("", Kind::Plain),
        ] {
            assert_eq!(declared(text), kind, "{text}");
        }
    }
}
