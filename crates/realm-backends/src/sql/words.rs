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
    if let Some(unused) = (1..=parameters.len()).find(|number| !names(statement, *number)) {
        return Err(invalid(format!("`${unused}` is not in the statement")));
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

/// Whether a statement has a parameter of this number in it: PostgreSQL takes values that it does not use.
fn names(statement: &str, number: usize) -> bool {
    let name = format!("${number}");
    statement.match_indices(&name).any(|(at, _)| {
        let next = statement.as_bytes().get(at + name.len());
        !next.is_some_and(u8::is_ascii_digit)
    })
}

/// What either database passes over: PostgreSQL 16 and later also a vertical tab.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}' || c == '\u{feff}'
}

/// The first word: empty where there is none, which may be a mark like `(`.
fn first_word(statement: &str) -> Result<&str, SqlError> {
    let mut rest = statement;
    loop {
        rest = rest.trim_start_matches(|c| is_space(c) || c == ';');
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
    // `(SELECT 1)` begins with a mark, which may be any character.
    let mark = rest.chars().next().map_or(0, char::len_utf8);
    Ok(&rest[..if end == 0 { mark } else { end }])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_statement_has_an_answer(statement in ".{0,40}", comment in r"([-/* \n;]|--|/\*|\*/|COMMIT){0,12}") {
            for statement in [&statement, &comment, &(comment.clone() + &statement)] {
                let _ = check(statement, &[]);
            }
        }
    }

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
            "\u{b}BEGIN",
            "/**/\u{b};\u{b}-- a comment\n\u{b}COMMIT",
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
            "\u{e9}",
            "\u{1F980} COMMIT",
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
        for (statement, n) in [("SELECT $1", 2), ("SELECT $10", 1), ("SELECT $2", 2)] {
            let values = vec![SqlValue::Null; n];
            let unused = check(statement, &values).unwrap_err();
            assert_eq!(unused.code(), "invalid", "{statement}");
        }
        let ten = vec![SqlValue::Null; 10];
        let all = "SELECT $10, $9, $8, $7, $6, $5, $4, $3, $2, $1, $1";
        assert_eq!(check(all, &ten), Ok(()));
        let zero = [SqlValue::Text("a\0b".to_owned())];
        assert_eq!(check("SELECT $1", &zero).unwrap_err().code(), "invalid");
        let large = [SqlValue::Bytes(vec![0; limits::ROW_BYTES_MAX + 1])];
        assert_eq!(check("SELECT $1", &large).unwrap_err().code(), "too-large");
    }
}
