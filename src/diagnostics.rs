//! Draws problems in a file the way a compiler does: place, line, marker, hint.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use realm_model::diagnostic::{Diagnostic, Severity};

use crate::output;

/// Prints every problem of `text` (the content of the file at `path`) to stderr.
pub(crate) fn report(path: &str, text: &str, diagnostics: &[Diagnostic]) {
    // anstream strips the colours where they are not wanted.
    let renderer = Renderer::styled();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let snippet = Snippet::source(text)
            .path(path)
            .annotation(AnnotationKind::Primary.span(diagnostic.span.clone()));
        let mut group: Group<'_> = level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.code)
            .element(snippet);
        if let Some(hint) = &diagnostic.hint {
            group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
        }
        output::note(&format!("{}\n", renderer.render(&[group])));
    }
}

/// `2 errors, 1 warning`.
pub(crate) fn count(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics
        .iter()
        .filter(|one| one.severity == Severity::Error)
        .count();
    let warnings = diagnostics.len() - errors;
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, warnings) => plural(warnings, "warning"),
        (errors, 0) => plural(errors, "error"),
        (errors, warnings) => format!(
            "{}, {}",
            plural(errors, "error"),
            plural(warnings, "warning")
        ),
    }
}
