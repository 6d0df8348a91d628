//! Where text goes: data to stdout, all else to stderr; colours only where they are wanted.
//!
//! Much of it was written elsewhere, by guests, by other nodes, by whoever passes their answers on: a
//! terminal gets line breaks and the colours of this module, and sees everything else.

use std::borrow::Cow;
use std::io::{ErrorKind, Write as _};

use realm_model::text::is_unprintable;
use serde::Serialize;

use crate::failure::Failure;

/// Prints data to stdout. A closed pipe (`realm status | head -1`) ends the process quietly.
pub(crate) fn data(text: &str) {
    let mut stdout = anstream::stdout().lock();
    if writeln!(stdout, "{}", shown(text))
        .and_then(|()| stdout.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// Writes bytes to stdout as they are. A closed pipe ends the process quietly, as with [`data`].
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}

/// Prints a value as one JSON document to stdout.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::from_error("internal", &error))?;
    data(&shown_json(&text));
    Ok(())
}

/// Prints a value as one line of JSON to stdout.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text =
        serde_json::to_string(value).map_err(|error| Failure::from_error("internal", &error))?;
    data(&shown_json(&text));
    Ok(())
}

/// Prints a remark, progress or an error to stderr.
pub(crate) fn note(text: &str) {
    // A closed stderr is no reason to fail.
    let _ = writeln!(anstream::stderr().lock(), "{}", shown(text));
}

/// What moves a cursor, reorders, hides or sets a title becomes visible.
fn shown(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| is_unprintable(c) && c != '\n';
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = rest.find(hidden) {
        safe.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(style) = style(rest) {
            safe.push_str(style);
            rest = &rest[style.len()..];
        } else if let Some(c) = rest.chars().next() {
            safe.extend(c.escape_unicode());
            rest = &rest[c.len_utf8()..];
        }
    }
    safe.push_str(rest);
    Cow::Owned(safe)
}

/// The style at the beginning of a text: those of this module and of the marks in manifests. None
/// hides what it is about.
fn style(text: &str) -> Option<&str> {
    let (numbers, _) = text.strip_prefix("\u{1b}[")?.split_once('m')?;
    let known = |number: &str| STYLES.contains(&number);
    let length = "\u{1b}[".len() + numbers.len() + "m".len();
    numbers.split(';').all(known).then(|| &text[..length])
}

/// The same for JSON, in its own escapes: they stand in texts alone.
fn shown_json(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| is_unprintable(c) && c != '\n';
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// A text within a line: a line break would forge another one.
pub(crate) fn within_line(text: &str) -> Cow<'_, str> {
    match shown(text) {
        line if !line.contains('\n') => line,
        lines => Cow::Owned(lines.replace('\n', "\\u{a}")),
    }
}

/// A table without borders, for people; columns as wide as their content.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(comfy_table::ContentArrangement::Disabled)
        .set_header(header.iter().copied())
        .add_rows(
            rows.iter()
                .map(|row| row.iter().map(|cell| within_line(cell))),
        );
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

const RED_BOLD: &str = "\u{1b}[1;31m";
const RED: &str = "\u{1b}[31m";
const YELLOW: &str = "\u{1b}[33m";
const GREEN: &str = "\u{1b}[32m";
const CYAN: &str = "\u{1b}[36m";
const PLAIN: &str = "\u{1b}[0m";
/// Plain, bold, and colours that are seen on black and on white.
const STYLES: [&str; 11] = [
    "0", "1", "31", "32", "33", "36", "91", "92", "93", "94", "96",
];

pub(crate) fn red(text: &str) -> String {
    format!("{RED_BOLD}{text}{PLAIN}")
}

pub(crate) fn yellow(text: &str) -> String {
    format!("{YELLOW}{text}{PLAIN}")
}

pub(crate) fn green(text: &str) -> String {
    format!("{GREEN}{text}{PLAIN}")
}

pub(crate) fn cyan(text: &str) -> String {
    format!("{CYAN}{text}{PLAIN}")
}

/// Red without weight: for a guest's stderr.
pub(crate) fn red_plain(text: &str) -> String {
    format!("{RED}{text}{PLAIN}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(shown(text), expected);
    }

    #[test]
    fn a_terminal_gets_colours_and_line_breaks_and_nothing_else() {
        check("two\nlines", "two\nlines");
        check(&red("bad"), &red("bad"));
        check("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}");
        check("hidden\u{1b}[8m words", "hidden\\u{1b}[8m words");
        check("\u{1b}[1m\u{1b}[94m| x", "\u{1b}[1m\u{1b}[94m| x");
        check("\u{1b}[1;8m", "\\u{1b}[1;8m");
        check("\u{1b}[30;40m", "\\u{1b}[30;40m");
        check("back\rover", "back\\u{d}over");
        check("\u{9b}31m", "\\u{9b}31m");
        assert_eq!(within_line("a\n  words: b"), "a\\u{a}  words: b");
    }

    #[test]
    fn json_stays_json() {
        let text = "a\u{9b}\u{202e}\u{e0041}b";
        let shown = shown_json(&serde_json::to_string(text).unwrap()).into_owned();
        assert!(!shown.contains(is_unprintable), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }

    #[test]
    fn a_cell_does_not_make_a_row() {
        let text = table(&["FROM"], vec![vec!["127.0.0.1\nforged".to_owned()]]);
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
