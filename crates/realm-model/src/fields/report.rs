//! The problems of one text, each with its place. Not what is a problem: the readers know that.

use std::ops::Range;

use toml::de::DeTable;

use super::words::{cut, nearest};
use crate::codes;
use crate::diagnostic::{Diagnostic, Severity};
use crate::manifest::ValueError;

/// Problems shown for one text: more are not read, and finding the line of each costs a pass
/// over the text.
pub(crate) const PROBLEMS_MAX: usize = 100;

/// The problems of one text.
pub(crate) struct Report<'t> {
    text: &'t str,
    problems: Vec<Diagnostic>,
    /// Where the lines are that are not TOML.
    broken_lines: Vec<Range<usize>>,
    dropped: usize,
}

impl<'t> Report<'t> {
    pub(crate) const fn new(text: &'t str) -> Self {
        Self {
            text,
            problems: Vec::new(),
            broken_lines: Vec::new(),
            dropped: 0,
        }
    }

    /// Parses the text; what is not TOML is reported, and the rest is returned.
    pub(crate) fn document(&mut self) -> DeTable<'t> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            if error.message().starts_with("duplicate key") {
                let key = cut(&self.text[within(self.text, span.clone())]);
                let message = format!("`{key}` is written twice");
                self.error(codes::DUPLICATE_KEY, span, message, None);
            } else {
                let hint = zero_in_front(self.text, error.message(), &span);
                self.error(codes::SYNTAX, span, error.message(), hint);
            }
        }
        let lines = self.problems.iter();
        self.broken_lines = lines
            .map(|problem| line_around(self.text, problem.span.start))
            .collect();
        document.into_inner()
    }

    /// Whether the text is not TOML: then what seems to be missing may only be unreadable.
    pub(crate) const fn is_broken(&self) -> bool {
        !self.broken_lines.is_empty()
    }

    pub(crate) fn error(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.push(Severity::Error, code, span, message.into(), hint);
    }

    pub(crate) fn warning(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.push(Severity::Warning, code, span, message.into(), hint);
    }

    /// Reports that `value` could not be read.
    pub(crate) fn value_error(&mut self, span: Range<usize>, error: ValueError) {
        self.error(error.code, span, error.message, error.hint);
    }

    /// The known word that is nearest to what was written. `None` once problems are only
    /// counted: a search through every name for each would cost a hostile text's size squared.
    pub(crate) fn nearest<'w>(
        &self,
        written: &str,
        known: impl Iterator<Item = &'w str>,
    ) -> Option<&'w str> {
        if self.is_full() {
            return None;
        }
        nearest(written, known)
    }

    const fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    fn push(
        &mut self,
        severity: Severity,
        code: &'static str,
        span: Range<usize>,
        message: String,
        hint: Option<String>,
    ) {
        // A warning may be dropped for its number alone; an error must leave a trace.
        if self.is_full() {
            self.dropped += usize::from(severity == Severity::Error);
            return;
        }
        let span = within(self.text, span);
        // What the parser made of a broken line is no statement of the author's. Asked first: to
        // find the line of each such problem would cost a hostile text's size squared.
        let mut broken = self.broken_lines.iter();
        if broken.any(|line| line.start <= span.start && span.start <= line.end) {
            return;
        }
        let problem = Diagnostic::new(severity, code, message, self.text, span, hint);
        self.problems.push(problem);
    }

    /// Every problem in the order of the text, and whether one of them is an error.
    pub(crate) fn finish(mut self) -> (Vec<Diagnostic>, bool) {
        self.problems
            .sort_by_key(|problem| (problem.span.start, problem.span.end));
        if self.dropped > 0 {
            let end = self.text.len()..self.text.len();
            let message = format!("{} more problems are not shown", self.dropped);
            self.problems.push(Diagnostic::new(
                Severity::Error,
                codes::TOO_MANY_PROBLEMS,
                message,
                self.text,
                end,
                Some("solve the ones above first".to_owned()),
            ));
        }
        let refused = self
            .problems
            .iter()
            .any(|problem| problem.severity == Severity::Error);
        (self.problems, refused)
    }
}

/// The line of a byte, without what ends it.
fn line_around(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |more| at + more);
    start..end
}

/// The span, moved inside the text and onto the borders of characters.
fn within(text: &str, span: Range<usize>) -> Range<usize> {
    let floor = |mut index: usize| {
        index = index.min(text.len());
        while !text.is_char_boundary(index) {
            index -= 1;
        }
        index
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

/// What to write in place of a number like `0660`, which TOML has not.
fn zero_in_front(text: &str, message: &str, span: &Range<usize>) -> Option<String> {
    if !message.contains("leading zero") {
        return None;
    }
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let start = span.start.min(text.len());
    let before = text.as_bytes()[..start].iter().rev();
    let from = start - before.take_while(|byte| is_part(byte)).count();
    let after = text.as_bytes()[start..].iter();
    let to = start + after.take_while(|byte| is_part(byte)).count();
    let word = cut(&text[from..to]);
    Some(format!(
        "no number begins with a zero; if it is a text, as a mode is, quote it: `\"{word}\"`"
    ))
}
