//! Where text goes: data to stdout, all else to stderr; colours only where they are wanted.

use std::io::Write as _;

use serde::Serialize;

use crate::failure::Failure;

/// Prints data to stdout. A closed pipe (`realm status | head -1`) ends the process quietly.
pub(crate) fn data(text: &str) {
    let mut stdout = anstream::stdout().lock();
    if writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// Prints a value as one JSON document to stdout.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::from_error("internal", &error))?;
    data(&text);
    Ok(())
}

/// Prints a value as one line of JSON to stdout.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text =
        serde_json::to_string(value).map_err(|error| Failure::from_error("internal", &error))?;
    data(&text);
    Ok(())
}

/// Prints a remark, progress or an error to stderr.
pub(crate) fn note(text: &str) {
    // A closed stderr is no reason to fail.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// A table without borders, for people; columns as wide as their content.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(comfy_table::ContentArrangement::Disabled)
        .set_header(header.iter().copied())
        .add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

pub(crate) fn red(text: &str) -> String {
    format!("\u{1b}[1;31m{text}\u{1b}[0m")
}

pub(crate) fn yellow(text: &str) -> String {
    format!("\u{1b}[33m{text}\u{1b}[0m")
}

pub(crate) fn green(text: &str) -> String {
    format!("\u{1b}[32m{text}\u{1b}[0m")
}

pub(crate) fn cyan(text: &str) -> String {
    format!("\u{1b}[36m{text}\u{1b}[0m")
}

/// Red without weight: for a guest's stderr.
pub(crate) fn red_plain(text: &str) -> String {
    format!("\u{1b}[31m{text}\u{1b}[0m")
}
