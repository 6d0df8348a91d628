//! Reads the rules of a subscription: `where = { "body.total" = { above = 100 } }`.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use crate::cloud::limits::DOCUMENT_DEPTH_MAX;
use crate::cloud::rules::{
    Check, FIELD_BYTES_MAX, Field, Literal, Number, RULES_MAX, Rule, Rules, TESTS_MAX,
    TEXT_BYTES_MAX, Test,
};
use crate::codes;
use crate::fields::{Fields, Report, cut, fits, nearest, wrong_type};

pub(super) const OPERATORS: [&str; 7] = [
    "equals", "prefix", "suffix", "above", "below", "exists", "not",
];
pub(super) const OPERATORS_HELP: &str = "All of these hold: `equals`, `prefix`, `suffix`, `above`, `below`, `not` (a value, a table or a list of which none fits); or `exists` by itself.";
const VALUE: &str = "a text, a number, `true` or `false`";

/// The rules under a key; those that are wrong are left out, and told.
pub(super) fn read(report: &mut Report<'_>, table: &Fields<'_, '_>, name: &str) -> Rules {
    let entries = table.entries(report, name);
    fits(
        report,
        name,
        entries.len(),
        RULES_MAX,
        table.value_span(name),
    );
    let mut rules = Vec::new();
    for (key, value) in entries.into_iter().take(RULES_MAX) {
        let field = field(report, key.get_ref(), key.span());
        let mut reading = Reading {
            report,
            n_tests: 0,
            span: value.span(),
        };
        let any = reading.one_of(value, false);
        if let (Some(field), Some(any)) = (field, any) {
            rules.push(Rule { field, any });
        }
    }
    rules.sort_by(|one, other| one.field.cmp(&other.field));
    Rules(rules)
}

fn field(report: &mut Report<'_>, key: &str, span: Range<usize>) -> Option<Field> {
    if key.len() > FIELD_BYTES_MAX {
        let message = format!("a field has at most {FIELD_BYTES_MAX} bytes");
        report.error(codes::TOO_LARGE, span, message, None);
        return None;
    }
    let (kind, rest) = match key.split_once('.') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (key, None),
    };
    let is_path = |path: &str| {
        path.split('.').all(|name| !name.is_empty()) && depth(path) <= DOCUMENT_DEPTH_MAX
    };
    match (kind, rest) {
        ("topic", None) => Some(Field::Topic),
        ("content_type", None) => Some(Field::ContentType),
        ("metadata", Some(name)) if !name.is_empty() => Some(Field::Metadata(name.to_owned())),
        ("body", None) => Some(Field::Body(String::new())),
        ("body", Some(path)) if is_path(path) => Some(Field::Body(path.to_owned())),
        _ => {
            let message = format!("`{}` is no part of a message", cut(key));
            let hint = "write `topic`, `content_type`, `\"metadata.KEY\"`, `body` or `\"body.PATH\"`, in quotes where it has a dot";
            report.error(codes::BAD_VALUE, span, message, Some(hint.to_owned()));
            None
        }
    }
}

fn depth(path: &str) -> usize {
    path.split('.').count()
}

/// The value of one field.
struct Reading<'r, 'd> {
    report: &'r mut Report<'d>,
    n_tests: usize,
    span: Range<usize>,
}

impl Reading<'_, '_> {
    /// One test, or a list of them. `is_within`: behind `not`.
    fn one_of(&mut self, value: &Spanned<DeValue<'_>>, is_within: bool) -> Option<Vec<Test>> {
        let DeValue::Array(array) = value.get_ref() else {
            return Some(vec![self.test(value, is_within)?]);
        };
        if array.is_empty() {
            let message = "an empty list is one of nothing: no message would come";
            let (code, span) = (codes::BAD_VALUE, value.span());
            self.report.error(code, span, message.to_owned(), None);
            return None;
        }
        let mut tests = Vec::new();
        for item in array.iter().take(TESTS_MAX + 1) {
            tests.push(self.test(item, is_within)?);
        }
        Some(tests)
    }

    fn test(&mut self, value: &Spanned<DeValue<'_>>, is_within: bool) -> Option<Test> {
        self.n_tests += 1;
        if self.n_tests > TESTS_MAX {
            if self.n_tests == TESTS_MAX + 1 {
                let message = format!("more than {TESTS_MAX} values for one field");
                let (code, span) = (codes::TOO_LARGE, self.span.clone());
                self.report.error(code, span, message, None);
            }
            return None;
        }
        let DeValue::Table(table) = value.get_ref() else {
            return Some(Test {
                checks: vec![Check::Equals(self.literal(value)?)],
                ..Test::default()
            });
        };
        let mut test = Test::default();
        for (key, value) in table.iter() {
            let (name, span) = (key.get_ref().as_ref(), key.span());
            match name {
                "equals" => test.checks.push(Check::Equals(self.literal(value)?)),
                "prefix" => test.checks.push(Check::Prefix(self.text(value)?)),
                "suffix" => test.checks.push(Check::Suffix(self.text(value)?)),
                "above" => test.checks.push(Check::Above(self.number(value)?)),
                "below" => test.checks.push(Check::Below(self.number(value)?)),
                "exists" if !is_within => test.exists = Some(self.boolean(value)?),
                "not" if !is_within => test.not = self.one_of(value, true)?,
                "exists" | "not" => {
                    let message = format!("`{name}` has no place behind `not`");
                    let hint = match name {
                        "exists" => Some("write `exists` by itself".to_owned()),
                        _ => None,
                    };
                    self.report.error(codes::BAD_VALUE, span, message, hint);
                    return None;
                }
                _ => {
                    self.unknown(name, span);
                    return None;
                }
            }
        }
        let n = test.checks.len() + usize::from(!test.not.is_empty());
        if n == 0 && test.exists.is_none() {
            return self.wrong(value, "a test has one operator at least", None);
        }
        if n > 0 && test.exists.is_some() {
            let hint = "what is compared is there; for \"or there is none\" write a list: `[{ exists = false }, { above = 1 }]`";
            return self.wrong(value, "`exists` stands by itself", Some(hint));
        }
        Some(test)
    }

    fn wrong<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        message: &str,
        hint: Option<&str>,
    ) -> Option<T> {
        let (span, hint) = (value.span(), hint.map(str::to_owned));
        let message = message.to_owned();
        self.report.error(codes::BAD_VALUE, span, message, hint);
        None
    }

    fn unknown(&mut self, name: &str, span: Range<usize>) {
        let hint = match nearest(name, OPERATORS.into_iter()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "a field with dots is one key, in quotes: `\"body.{name}\"`; operators are {}",
                OPERATORS.join(", ")
            ),
        };
        let message = format!("`{}` is no operator", cut(name));
        let code = codes::UNKNOWN_KEY;
        self.report.error(code, span, message, Some(hint));
    }

    fn literal(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Literal> {
        match value.get_ref() {
            DeValue::String(_) => Some(Literal::Text(self.text(value)?)),
            DeValue::Integer(_) | DeValue::Float(_) => Some(Literal::Number(self.number(value)?)),
            DeValue::Boolean(value) => Some(Literal::Boolean(*value)),
            DeValue::Datetime(_) => {
                wrong_type(self.report, value, VALUE, Some("quote it".to_owned()));
                None
            }
            DeValue::Array(_) | DeValue::Table(_) => {
                wrong_type(self.report, value, VALUE, None);
                None
            }
        }
    }

    fn text(&mut self, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let DeValue::String(text) = value.get_ref() else {
            wrong_type(self.report, value, "a text", None);
            return None;
        };
        if text.len() > TEXT_BYTES_MAX {
            let message = format!(
                "a text of {} bytes, at most {TEXT_BYTES_MAX} are taken",
                text.len()
            );
            let (code, span) = (codes::TOO_LARGE, value.span());
            self.report.error(code, span, message, None);
            return None;
        }
        Some(text.to_string())
    }

    fn number(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Number> {
        let number = match value.get_ref() {
            DeValue::Integer(integer) => {
                let whole = i64::from_str_radix(integer.as_str(), integer.radix());
                whole.ok().map(Number::Whole)
            }
            DeValue::Float(float) => {
                let real: Option<f64> = float.as_str().parse().ok();
                real.filter(|real| real.is_finite()).map(Number::Real)
            }
            DeValue::String(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                wrong_type(self.report, value, "a number", None);
                return None;
            }
        };
        if number.is_none() {
            let message = "a number is a whole one of 64 bits, or a finite one".to_owned();
            let (code, span) = (codes::OUT_OF_RANGE, value.span());
            self.report.error(code, span, message, None);
        }
        number
    }

    fn boolean(&mut self, value: &Spanned<DeValue<'_>>) -> Option<bool> {
        let DeValue::Boolean(boolean) = value.get_ref() else {
            wrong_type(self.report, value, "`true` or `false`", None);
            return None;
        };
        Some(*boolean)
    }
}
