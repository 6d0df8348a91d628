//! docs/manifest.md against the tables of keys and codes: its generated parts are these tables.
//!
//! `BLESS=1 cargo test -p realm-model --test docs` writes them anew.

use std::fmt::Write as _;

use realm_model::section::{Absent, Kind, Section, grouped};
use realm_model::{codes, manifest, node_config};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/manifest.md");

#[test]
fn the_page_has_the_tables() {
    let page = read();
    let mut expected = page.clone();
    for (name, table) in [
        ("keys of realm.toml", sections(&manifest::keys::SECTIONS)),
        ("keys of node.toml", sections(&node_config::SECTIONS)),
        ("codes", code_table()),
    ] {
        expected = with_part(&expected, name, &table);
    }
    if blessing() {
        write(&expected);
    } else {
        assert!(
            page == expected,
            "docs/manifest.md is behind the tables: run it again with BLESS=1"
        );
    }
}

#[test]
fn the_examples_of_the_page_are_manifests() {
    let page = read();
    let (mut manifests, mut nodes) = (0, 0);
    for block in page.split("```toml\n").skip(1) {
        let text = block.split("```").next().unwrap_or_default();
        let (valid, problems) = if text.starts_with("# node.toml") {
            nodes += 1;
            let (config, problems) = node_config::parse(text);
            (config.is_some(), problems)
        } else {
            manifests += 1;
            let (manifest, problems) = manifest::parse(text);
            (manifest.is_some(), problems)
        };
        assert!(valid && problems.is_empty(), "{text}\n{problems:#?}");
    }
    assert!(manifests >= 2 && nodes >= 1, "the page has examples");
}

#[test]
fn the_manifest_of_the_examples_is_valid() {
    let (manifest, problems) = manifest::parse(include_str!("../../../examples/realm.toml"));
    assert!(manifest.is_some() && problems.is_empty(), "{problems:#?}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test compares a file of the repository"
)]
fn read() -> String {
    std::fs::read_to_string(PAGE).expect("docs/manifest.md")
}

#[expect(
    clippy::disallowed_methods,
    reason = "BLESS=1 writes a file of the repository"
)]
fn write(text: &str) {
    std::fs::write(PAGE, text).expect("docs/manifest.md");
}

#[expect(clippy::disallowed_methods, reason = "a switch of this test alone")]
fn blessing() -> bool {
    std::env::var_os("BLESS").is_some()
}

/// The page with one part replaced.
fn with_part(page: &str, name: &str, text: &str) -> String {
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = page.split_once(&begin).expect("the part's first line");
    let (_, after) = rest
        .split_once("<!-- end -->")
        .expect("the part's last line");
    format!("{before}{begin}\n{}\n\n<!-- end -->{after}", text.trim())
}

fn sections(sections: &[&Section]) -> String {
    let mut text = String::new();
    for section in sections {
        let title = section.title;
        writeln!(text, "#### `{title}`\n\n{}\n", section.doc).expect("a String");
        text.push_str("| Key | Value | When absent | What it does |\n|---|---|---|---|\n");
        for key in section.keys {
            let absent = match key.absent {
                Absent::Refused => "**must be there**".to_owned(),
                Absent::Or(other) => format!("`{other}` must be there"),
                Absent::Number(number) => format!("`{}`", grouped(number)),
                Absent::Word(word) => format!("`{word}`"),
                Absent::Means(words) => words.to_owned(),
            };
            let row = format!(
                "`{}` | {} | {absent} | {}",
                key.name,
                value(&key.kind),
                key.doc
            );
            writeln!(text, "| {row} |").expect("a String");
        }
        text.push('\n');
    }
    text
}

fn value(kind: &Kind) -> String {
    match kind {
        Kind::Table(section)
        | Kind::Named(_, section)
        | Kind::Lists(_, section)
        | Kind::Rows(section) => {
            format!("`{}`", section.title)
        }
        Kind::Texts(form) => format!("list: {}", form.expected),
        Kind::TextTable(form) => format!("table: {}", form.expected),
        Kind::Text(form) => form.expected.to_owned(),
        Kind::OneOf(words) => words
            .iter()
            .map(|word| format!("`\"{word}\"`"))
            .collect::<Vec<_>>()
            .join(", "),
        Kind::Integer { min, max } => format!("{} … {}", grouped(*min), grouped(*max)),
        Kind::Boolean
        | Kind::TextOrTable(..)
        | Kind::IntegerOrText { .. }
        | Kind::IntegerTable { .. }
        | Kind::Rules(_) => kind.expected(),
    }
}

fn code_table() -> String {
    let mut text = "| Code | | Meaning |\n|---|---|---|\n".to_owned();
    for (code, severity, meaning) in codes::ALL {
        writeln!(text, "| `{code}` | {severity} | {meaning} |").expect("a String");
    }
    text
}
