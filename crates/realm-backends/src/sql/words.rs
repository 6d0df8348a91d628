//! What a statement begins with: those that would end or divide a transaction are not for statements.
//!
//! A prepared statement is one statement, so its first word says what it is. Both databases read comments
//! before it alike, but for PostgreSQL's, which nest: what one of them reads as a comment and the other as
//! words is refused.

use realm_model::cloud::{SqlError, SqlValue, limits, within};

use super::transaction::invalid;

/// How statements begin that are not for guests to write: transactions have calls of their own, and a
/// prepared statement would outlive the session that made it.
const REFUSED: &[&str] = &[
    "ABORT",
    "BEGIN",
    "COMMIT",
    "DEALLOCATE",
    "END",
    "PREPARE",
    "RELEASE",
    "ROLLBACK",
    "SAVEPOINT",
    "START",
];

/// Whether a statement may go to a database.
pub(super) fn check(statement: &str, parameters: &[SqlValue]) -> Result<(), SqlError> {
    within(
        "the statement",
        statement.len(),
        limits::STATEMENT_BYTES_MAX,
    )?;
    if parameters.len() > limits::PARAMETERS_MAX {
        return Err(invalid(format!(
            "{} parameters, at most {} are taken",
            parameters.len(),
            limits::PARAMETERS_MAX
        )));
    }
    for value in parameters {
        within("a parameter", super::bytes_of(value), limits::ROW_BYTES_MAX)?;
        // PostgreSQL has no such text.
        if matches!(value, SqlValue::Text(text) if text.contains('\0')) {
            return Err(invalid("a text has a zero byte"));
        }
    }
    if statement.contains('\0') {
        return Err(invalid("the statement has a zero byte"));
    }
    let first = first_word(statement)?;
    if first.is_empty() {
        return Err(invalid("the statement is empty"));
    }
    if REFUSED.iter().any(|word| first.eq_ignore_ascii_case(word)) {
        return Err(invalid(format!(
            "`{}` is not for statements: transactions are begun and ended by calls",
            first.to_ascii_uppercase()
        )));
    }
    Ok(())
}

/// The first word: empty where there is none, which may be a mark like `(`.
fn first_word(statement: &str) -> Result<&str, SqlError> {
    let mut rest = statement;
    loop {
        rest = rest
            .trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{feff}' || c == ';');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment
                .split_once(['\n', '\r'])
                .map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            let Some((inside, after)) = comment.split_once("*/") else {
                return Err(invalid("a comment has no end"));
            };
            if inside.contains("/*") {
                return Err(invalid("a comment begins within a comment"));
            }
            rest = after;
        } else {
            break;
        }
    }
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(rest.len());
    // `(SELECT 1)` begins with a mark.
    Ok(if end == 0 && !rest.is_empty() {
        &rest[..1.min(rest.len())]
    } else {
        &rest[..end]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_end_a_transaction_are_refused_however_they_are_written() {
        for statement in [
            "COMMIT",
            "commit;",
            " \t\nRollBack",
            "-- a comment\nBEGIN",
            "-- a comment\rBEGIN",
            "/* one */ /* two */END",
            "/**/savepoint a",
            ";;release a",
            "\u{feff}PREPARE a AS SELECT 1",
            "/* /* */ COMMIT -- */",
            "/* without end",
            "",
            "   -- nothing",
            "SELECT '\0'",
        ] {
            assert!(check(statement, &[]).is_err(), "{statement}");
        }
        for statement in [
            "SELECT 'COMMIT'",
            "(SELECT 1)",
            "/* COMMIT */ SELECT 1",
            "commits",
            "begin_",
        ] {
            assert_eq!(check(statement, &[]), Ok(()), "{statement}");
        }
    }

    #[test]
    fn what_is_larger_than_its_cap_is_refused() {
        let long = format!("SELECT '{}'", "x".repeat(limits::STATEMENT_BYTES_MAX));
        assert_eq!(check(&long, &[]).unwrap_err().code(), "too-large");
        let many = vec![SqlValue::Null; limits::PARAMETERS_MAX + 1];
        assert_eq!(check("SELECT 1", &many).unwrap_err().code(), "invalid");
        let zero = [SqlValue::Text("a\0b".to_owned())];
        assert_eq!(check("SELECT $1", &zero).unwrap_err().code(), "invalid");
        let large = [SqlValue::Bytes(vec![0; limits::ROW_BYTES_MAX + 1])];
        assert_eq!(check("SELECT $1", &large).unwrap_err().code(), "too-large");
    }
}
