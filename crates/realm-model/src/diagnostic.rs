//! Problems in a text a person wrote: a stable code, a place, what was expected. Not how they are drawn.

use std::ops::Range;

use serde::Serialize;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The text means something; it should be written otherwise.
    Warning,
    /// The text is refused.
    Error,
}

/// One problem in one text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// A stable code, e.g. `unknown-key`.
    pub code: &'static str,
    /// What is wrong, with values; lower case, no full stop.
    pub message: String,
    /// Byte range in the text.
    pub span: Range<usize>,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// What to write instead, if that is known.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Makes a diagnostic and finds line and column of `span` in `text`.
    pub fn new(
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
        text: &str,
        span: Range<usize>,
        hint: Option<String>,
    ) -> Self {
        let (line, column) = line_and_column(text, span.start);
        Self {
            severity,
            code,
            message: message.into(),
            span,
            line,
            column,
            hint,
        }
    }
}

/// Line and column (in characters) of a byte offset, both counted from 1.
pub fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        assert_eq!(line_and_column("", 0), (1, 1));
        assert_eq!(line_and_column("ä = 1\nb", 5), (1, 5));
        assert_eq!(line_and_column("ä = 1\nb", 7), (2, 1));
        assert_eq!(line_and_column("a", 99), (1, 2));
    }
}
