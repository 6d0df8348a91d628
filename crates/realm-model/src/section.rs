//! Tables of keys as data: what may stand in a section of `realm.toml` or `node.toml`.
//!
//! The one source of the known-key check, the ranges, the JSON schema and the reference in
//! docs/manifest.md. Not the reading itself (`fields`), and not the cross checks (`manifest::read`).

/// A table of a TOML document.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    /// How a person writes it, e.g. `[components.NAME]`.
    pub title: &'static str,
    /// One line on what it is.
    pub doc: &'static str,
    /// Its keys, in the order in which they are explained.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What holds when it is absent.
    pub absent: Absent,
    /// One line on what it does, without a full stop.
    pub doc: &'static str,
}

/// What holds when a key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// That is an error.
    Refused,
    /// That is an error where the key of this name is absent as well.
    Or(&'static str),
    /// This number.
    Number(u64),
    /// This text, or this word for a value, e.g. `false`.
    Word(&'static str),
    /// What these words say.
    Means(&'static str),
}

/// What a value is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer in a range.
    Integer {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// `true` or `false`.
    Boolean,
    /// A string of a form.
    Text(Form),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of strings of a form.
    Texts(Form),
    /// A table of strings.
    TextTable(Form),
    /// A table with keys of its own.
    Table(&'static Section),
    /// Tables by name.
    Named(Form, &'static Section),
    /// Lists of tables by name.
    Lists(Form, &'static Section),
    /// A list of tables.
    Rows(&'static Section),
    /// A string of a form, or a table.
    TextOrTable(Form, &'static Section),
    /// An integer in a range, or a string of a form.
    IntegerOrText {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
        /// The form.
        form: Form,
    },
    /// A table of integers in a range, by names.
    IntegerTable {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
        /// What the names are.
        names: Form,
    },
    /// Rules over parts of a message, by the names of those.
    Rules(Form),
}

/// The form of a string.
#[derive(Debug, PartialEq, Eq)]
pub struct Form {
    /// What was expected, in words, e.g. `a component's name`.
    pub expected: &'static str,
    /// A regular expression that every accepted string matches; the parser is stricter.
    pub pattern: &'static str,
    /// An example that is accepted.
    pub example: &'static str,
}

impl Section {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The number that holds when a key is absent; 0 for a key without such a number.
    pub(crate) fn default_of(&self, name: &str) -> u64 {
        match self.key(name).map(|key| key.absent) {
            Some(Absent::Number(number)) => number,
            Some(Absent::Refused | Absent::Or(_) | Absent::Word(_) | Absent::Means(_)) | None => 0,
        }
    }
}

impl Kind {
    /// What was expected, in words.
    pub fn expected(&self) -> String {
        match self {
            Self::Integer { min, max } => {
                format!("an integer from {} to {}", grouped(*min), grouped(*max))
            }
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Text(form) => form.text(),
            Self::OneOf(words) => format!("one of {}", quoted(words)),
            Self::Texts(form) => format!("a list of strings, each {}", form.expected),
            Self::TextTable(form) => format!("a table of strings, each {}", form.expected),
            Self::Table(section) => format!("a table like `{}`", section.title),
            Self::Named(_, section) => format!("tables like `{}`", section.title),
            Self::Lists(_, section) => format!("lists like `{}`", section.title),
            Self::Rows(section) => format!("a list of tables like `{}`", section.title),
            Self::TextOrTable(form, section) => {
                format!("{}, or a table like `{}`", form.expected, section.title)
            }
            Self::IntegerOrText { min, max, form } => {
                let (min, max) = (grouped(*min), grouped(*max));
                format!("an integer from {min} to {max}, or {}", form.expected)
            }
            Self::IntegerTable { min, max, names } => {
                let (min, max) = (grouped(*min), grouped(*max));
                format!(
                    "a table of integers from {min} to {max}, by {}",
                    names.expected
                )
            }
            Self::Rules(names) => format!("a table of rules, by {}", names.expected),
        }
    }
}

impl Form {
    /// What was expected, in words.
    pub(crate) fn text(&self) -> String {
        format!("a string: {}", self.expected)
    }
}

impl Kind {
    /// What one item of a list or a table of strings is, in words; the whole where there is none.
    pub(crate) fn expected_item(&self) -> String {
        match self {
            Self::Texts(form) | Self::TextTable(form) => form.text(),
            Self::Integer { .. }
            | Self::Boolean
            | Self::Text(_)
            | Self::OneOf(_)
            | Self::Table(_)
            | Self::Named(..)
            | Self::Lists(..)
            | Self::Rows(_)
            | Self::TextOrTable(..)
            | Self::IntegerOrText { .. }
            | Self::Rules(_) => self.expected(),
            Self::IntegerTable { min, max, .. } => Self::Integer {
                min: *min,
                max: *max,
            }
            .expected(),
        }
    }
}

/// `"a"`, `"b"`, `"c"`, each in backticks.
fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
    words.join(", ")
}

/// A number as a manifest writes it: `5_000_000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        // Four digits read well without a separator.
        if digits.len() > 4 && index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_as_toml_writes_them() {
        for (number, text) in [
            (0, "0"),
            (1000, "1000"),
            (10_000, "10_000"),
            (123_456, "123_456"),
            (5_000_000, "5_000_000"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
