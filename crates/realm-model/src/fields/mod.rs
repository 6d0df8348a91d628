//! Reads values out of a parsed TOML document, and writes down every problem with its place.
//!
//! Shared by `realm.toml` and `node.toml`. What may stand where comes from [`Section`]s; what a
//! string means comes from the caller's parsers. Nothing here stops at the first problem.

mod report;
mod words;

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::codes;
use crate::manifest::ValueError;
use crate::manifest::keys::ROUTE;
use crate::node_config::NODE;
use crate::section::{Absent, Key, Kind, Section, grouped};

pub(crate) use report::Report;
pub(crate) use words::cut;
pub use words::nearest;

/// Items of one list, and bytes of one string: no honest one comes near.
pub(crate) const ITEMS_MAX: usize = 1_000;
pub(crate) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Keys that people look for in another table than the one that has them: its title, the key, and the way.
const ELSEWHERE: [(&str, &str, &str); 3] = [
    (
        ROUTE.title,
        "upstream",
        "an upstream is a component: write `[components.legacy]` with `upstream = …`, and `component = \"legacy\"` here",
    ),
    (
        NODE.title,
        "https",
        "addresses stand under `[listen]`, certificates under `[tls]`",
    ),
    (NODE.title, "acme", "write `[tls.acme]`"),
];

/// A string and its place.
pub(crate) type Placed<T> = (T, Range<usize>);

/// One table of the document, read by the keys of its section.
pub(crate) struct Fields<'d, 'i> {
    table: &'d DeTable<'i>,
    section: &'static Section,
    /// Where the table's name stands: the place of what is missing.
    place: Range<usize>,
    /// The table's title with its own name, e.g. `[components.orders]`.
    title: String,
}

impl<'d, 'i> Fields<'d, 'i> {
    /// Opens the whole document.
    pub(crate) fn root(
        report: &mut Report<'_>,
        table: &'d DeTable<'i>,
        section: &'static Section,
    ) -> Self {
        let fields = Self {
            table,
            section,
            place: 0..0,
            title: section.title.to_owned(),
        };
        fields.check_names(report);
        fields
    }

    /// Opens `value` as a table of `section`; `place` is where its `name` stands.
    pub(crate) fn open(
        report: &mut Report<'_>,
        value: &'d Spanned<DeValue<'i>>,
        section: &'static Section,
        place: Range<usize>,
        name: &str,
    ) -> Option<Self> {
        let expected = || format!("a table like `{}`", section.title);
        let table = table_of(report, value, &expected)?;
        let fields = Self {
            table,
            section,
            place,
            title: section.title.replace("NAME", &cut(name)),
        };
        fields.check_names(report);
        Some(fields)
    }

    /// Where the table's name stands.
    pub(crate) fn place(&self) -> Range<usize> {
        self.place.clone()
    }

    /// Where a key stands, if it does.
    pub(crate) fn key_span(&self, name: &str) -> Option<Range<usize>> {
        self.table.get_key_value(name).map(|(key, _)| key.span())
    }

    /// Whether the table under a key has a key of its own, whatever stands there.
    pub(crate) fn has_within(&self, name: &str, key: &str) -> bool {
        let table = self.table.get(name).map(Spanned::get_ref);
        table.is_some_and(|value| matches!(value, DeValue::Table(table) if table.contains_key(key)))
    }

    /// Where the value of a key stands; the table's name if there is none.
    pub(crate) fn value_span(&self, name: &str) -> Range<usize> {
        self.table.get(name).map_or(self.place(), Spanned::span)
    }

    /// An integer in the key's range; its default if it is absent or wrong.
    pub(crate) fn number(&self, report: &mut Report<'_>, name: &str) -> u64 {
        let default = self.section.default_of(name);
        self.integer(report, name).unwrap_or(default)
    }

    /// As [`Fields::number`], for a key whose range fits 32 bits.
    pub(crate) fn number_u32(&self, report: &mut Report<'_>, name: &str) -> u32 {
        u32::try_from(self.number(report, name)).expect("the key's range fits 32 bits")
    }

    /// An integer in the key's range.
    pub(crate) fn integer(&self, report: &mut Report<'_>, name: &str) -> Option<u64> {
        let key = self.key(name);
        let value = self.value(report, name)?;
        let (Kind::Integer { min, max } | Kind::IntegerOrText { min, max, .. }) = key.kind else {
            return None;
        };
        integer(report, name, value, (min, max), &key.kind.expected())
    }

    /// The integers of a table, by their names; `None` for one that is wrong, and for all if there is
    /// no table.
    pub(crate) fn integer_table(
        &self,
        report: &mut Report<'_>,
        name: &str,
    ) -> Option<Vec<(Placed<String>, Option<u64>)>> {
        let key = self.key(name);
        let Kind::IntegerTable { min, max, .. } = key.kind else {
            return None;
        };
        let value = self.value(report, name)?;
        let table = table_of(report, value, &|| key.kind.expected())?;
        let expected = key.kind.expected_item();
        let mut items = Vec::new();
        for (of, value) in table.iter() {
            let number = integer(report, of.get_ref(), value, (min, max), &expected);
            items.push(((of.get_ref().to_string(), of.span()), number));
        }
        Some(items)
    }

    /// `true` or `false`; what holds for an absent key if it is wrong.
    pub(crate) fn boolean(&self, report: &mut Report<'_>, name: &str) -> bool {
        let absent = matches!(self.key(name).absent, Absent::Word("true"));
        let Some(value) = self.value(report, name) else {
            return absent;
        };
        let DeValue::Boolean(boolean) = value.get_ref() else {
            wrong_type(report, value, &self.key(name).kind.expected(), None);
            return absent;
        };
        *boolean
    }

    /// A string, read by `parse`.
    pub(crate) fn text<T>(
        &self,
        report: &mut Report<'_>,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        let value = self.value(report, name)?;
        let (text, span) = text_of(report, value, &self.key(name).kind.expected())?;
        parse(text)
            .map_err(|error| report.value_error(span, error))
            .ok()
    }

    /// The value that stands for the word: `values` are in the order of the key's words.
    pub(crate) fn choice<T: Copy>(
        &self,
        report: &mut Report<'_>,
        name: &str,
        values: &[T],
    ) -> Option<T> {
        let kind = &self.key(name).kind;
        let Kind::OneOf(words) = kind else {
            return None;
        };
        debug_assert_eq!(
            words.len(),
            values.len(),
            "a value for each word of `{name}`"
        );
        let index = self.text(report, name, |text| {
            let index = words.iter().position(|word| *word == text);
            index.ok_or_else(|| {
                let message = format!("`{name}` is `{}`, expected {}", cut(text), kind.expected());
                let near = nearest(text, words.iter().copied());
                ValueError::new(codes::BAD_VALUE, message)
                    .hint(near.map(|word| format!("did you mean `\"{word}\"`?")))
            })
        })?;
        values.get(index).copied()
    }

    /// A list of strings, each read by `parse`; those that are wrong are left out.
    pub(crate) fn texts<T>(
        &self,
        report: &mut Report<'_>,
        name: &str,
        mut parse: impl FnMut(&str) -> Result<T, ValueError>,
    ) -> Vec<Placed<T>> {
        let expected = self.key(name).kind.expected();
        let Some(value) = self.value(report, name) else {
            return Vec::new();
        };
        let DeValue::Array(array) = value.get_ref() else {
            let hint = value
                .get_ref()
                .as_str()
                .map(|text| format!("write a list: `{name} = [{:?}]`", cut(text)));
            wrong_type(report, value, &expected, hint);
            return Vec::new();
        };
        if !fits(report, name, array.len(), ITEMS_MAX, value.span()) {
            return Vec::new();
        }
        let of_item = self.key(name).kind.expected_item();
        let mut items = Vec::new();
        for item in array.iter() {
            let Some((text, span)) = text_of(report, item, &of_item) else {
                continue;
            };
            match parse(text) {
                Ok(parsed) => items.push((parsed, span)),
                Err(error) => report.value_error(span, error),
            }
        }
        items
    }

    /// The keys and strings of a table of strings.
    pub(crate) fn text_table(
        &self,
        report: &mut Report<'_>,
        name: &str,
    ) -> Vec<(Placed<String>, Placed<String>)> {
        self.text_table_of(report, name, TEXT_BYTES_MAX)
    }

    /// The same with texts of up to so many bytes.
    pub(crate) fn text_table_of(
        &self,
        report: &mut Report<'_>,
        name: &str,
        bytes_max: usize,
    ) -> Vec<(Placed<String>, Placed<String>)> {
        let expected = self.key(name).kind.expected_item();
        let mut items = Vec::new();
        for (key, value) in self.entries(report, name) {
            let text = text_within(report, value, &expected, bytes_max);
            if let Some((text, span)) = text {
                let key = (key.get_ref().to_string(), key.span());
                items.push((key, (text.to_owned(), span)));
            }
        }
        items
    }

    /// The entries of a table whose keys are names.
    pub(crate) fn entries(
        &self,
        report: &mut Report<'_>,
        name: &str,
    ) -> Vec<(
        &'d Spanned<toml::de::DeString<'i>>,
        &'d Spanned<DeValue<'i>>,
    )> {
        let expected = || self.key(name).kind.expected();
        let Some(value) = self.value(report, name) else {
            return Vec::new();
        };
        let Some(table) = table_of(report, value, &expected) else {
            return Vec::new();
        };
        table.iter().collect()
    }

    /// The value of a key; its absence is reported if the key must be there.
    pub(crate) fn value(
        &self,
        report: &mut Report<'_>,
        name: &str,
    ) -> Option<&'d Spanned<DeValue<'i>>> {
        let value = self.table.get(name);
        let key = self.key(name);
        let is_missed = match key.absent {
            Absent::Refused => true,
            Absent::Or(other) => !self.table.contains_key(other),
            Absent::Number(_) | Absent::Word(_) | Absent::Means(_) => false,
        };
        if value.is_none() && is_missed && !report.is_broken() {
            report.error(
                codes::MISSING_KEY,
                self.place(),
                format!(
                    "`{}` has no `{name}`, expected {}",
                    self.title,
                    key.kind.expected()
                ),
                None,
            );
        }
        value
    }

    fn key(&self, name: &str) -> &'static Key {
        self.section
            .key(name)
            .expect("the readers ask for the keys of their section's table")
    }

    fn check_names(&self, report: &mut Report<'_>) {
        for (key, _) in self.table.iter() {
            let name = key.get_ref();
            if self.section.key(name).is_some() {
                continue;
            }
            let names = self.section.keys.iter().map(|key| key.name);
            let elsewhere = ELSEWHERE
                .iter()
                .find(|(title, key, _)| *title == self.section.title && *key == name.as_ref())
                .map(|(_, _, hint)| (*hint).to_owned());
            let near = report.nearest(name, names.clone());
            let hint = match near {
                _ if elsewhere.is_some() => elsewhere.unwrap_or_default(),
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", names.collect::<Vec<_>>().join(", ")),
            };
            report.error(
                codes::UNKNOWN_KEY,
                key.span(),
                format!("unknown key `{}` in `{}`", cut(name), self.title),
                Some(hint),
            );
        }
    }
}

/// The list of tables under a name.
pub(crate) fn rows<'d, 'i>(
    report: &mut Report<'_>,
    value: &'d Spanned<DeValue<'i>>,
    section: &'static Section,
    name: &str,
) -> Vec<Fields<'d, 'i>> {
    let expected = format!("a list of tables like `{}`", section.title);
    let DeValue::Array(array) = value.get_ref() else {
        wrong_type(report, value, &expected, None);
        return Vec::new();
    };
    array
        .iter()
        .filter_map(|row| Fields::open(report, row, section, row.span(), name))
        .collect()
}

/// Whether `count` is within `max`; reports it if not.
pub(crate) fn fits(
    report: &mut Report<'_>,
    what: &str,
    count: usize,
    max: usize,
    span: Range<usize>,
) -> bool {
    if count > max {
        report.error(
            codes::TOO_LARGE,
            span,
            format!("`{what}` has {count} entries, at most {max} are taken"),
            None,
        );
    }
    count <= max
}

/// A string, with its place.
pub(crate) fn text_of<'d>(
    report: &mut Report<'_>,
    value: &'d Spanned<DeValue<'_>>,
    expected: &str,
) -> Option<Placed<&'d str>> {
    text_within(report, value, expected, TEXT_BYTES_MAX)
}

/// The same, of up to so many bytes.
fn text_within<'d>(
    report: &mut Report<'_>,
    value: &'d Spanned<DeValue<'_>>,
    expected: &str,
    bytes_max: usize,
) -> Option<Placed<&'d str>> {
    let DeValue::String(text) = value.get_ref() else {
        let hint = match value.get_ref() {
            DeValue::Integer(integer) => Some(format!("quote it: `\"{}\"`", cut(integer.as_str()))),
            DeValue::Boolean(boolean) => Some(format!("quote it: `\"{boolean}\"`")),
            DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        };
        wrong_type(report, value, expected, hint);
        return None;
    };
    if text.len() > bytes_max {
        report.error(
            codes::TOO_LARGE,
            value.span(),
            format!(
                "a string of {} bytes, at most {bytes_max} are taken",
                text.len()
            ),
            None,
        );
        return None;
    }
    Some((text, value.span()))
}

/// An integer from `min` to `max`.
fn integer(
    report: &mut Report<'_>,
    name: &str,
    value: &Spanned<DeValue<'_>>,
    (min, max): (u64, u64),
    expected: &str,
) -> Option<u64> {
    let DeValue::Integer(integer) = value.get_ref() else {
        wrong_type(report, value, expected, integer_hint(value));
        return None;
    };
    // Beyond 128 bits is beyond every range.
    let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
    let in_range = number
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| (min..=max).contains(number));
    if in_range.is_none() {
        let written: String = integer.as_str().chars().take(40).collect();
        let message = format!("`{}` is {written}, expected {expected}", cut(name));
        report.error(codes::OUT_OF_RANGE, value.span(), message, None);
    }
    in_range
}

fn table_of<'d, 'i>(
    report: &mut Report<'_>,
    value: &'d Spanned<DeValue<'i>>,
    expected: &dyn Fn() -> String,
) -> Option<&'d DeTable<'i>> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(report, value, &expected(), None);
        return None;
    };
    Some(table)
}

/// Reports a value of another type than was expected.
pub(crate) fn wrong_type(
    report: &mut Report<'_>,
    value: &Spanned<DeValue<'_>>,
    expected: &str,
    hint: Option<String>,
) {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    report.error(
        codes::WRONG_TYPE,
        value.span(),
        format!("found {found}, expected {expected}"),
        hint,
    );
}

/// What a person meant who wrote a number in another way.
fn integer_hint(value: &Spanned<DeValue<'_>>) -> Option<String> {
    // 2^53: up to there a float holds every integer.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let number = match value.get_ref() {
        DeValue::Float(float) => {
            let float: f64 = float.as_str().parse().ok()?;
            if !(0.0..=EXACT_MAX).contains(&float) || float.fract() != 0.0 {
                return None;
            }
            format!("{float:.0}").parse().ok()?
        }
        DeValue::String(text) => text.replace(['_', ','], "").parse::<u64>().ok()?,
        DeValue::Integer(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => return None,
    };
    Some(format!("write it as `{}`", grouped(number)))
}
