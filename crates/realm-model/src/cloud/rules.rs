//! Rules of a subscription: which messages of a topic it takes, by what is in them.
//!
//! Every rule has to hold. What a message has no value for passes only where a rule wants it so
//! (`exists = false`): a body that is no JSON has no values at all. Numbers are compared by what they are
//! worth, as in [`super::json`]. One message costs so much and no more, whoever wrote it and the rules: what
//! is not known by then is taken, since a message that is taken in vain is looked at by its handler, and
//! one that is left is lost. Not here: how a manifest writes rules.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Message;
use super::json::{self, Json};

/// Rules of one subscription.
pub const RULES_MAX: usize = 32;
/// Tests of one rule, those under `not` with them.
pub const TESTS_MAX: usize = 100;
/// Bytes of a text that something is compared with.
pub const TEXT_BYTES_MAX: usize = 1_024;
/// Bytes of the name of a field.
pub const FIELD_BYTES_MAX: usize = 256;
/// Elements of lists that are looked at for one rule.
pub const ELEMENTS_MAX: usize = 1_000;
/// Comparisons that are made for one message.
pub const COMPARISONS_MAX: u32 = 100_000;
/// What one of them costs, and how much there is for a message; a name or an element on the way to a value
/// costs one.
const COMPARISON: u32 = 10;
const EFFORT_MAX: u32 = COMPARISONS_MAX * COMPARISON;

/// Which messages are taken: those for which every rule holds. Empty: all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Rules(pub Vec<Rule>);

/// What one field has to be: one of these.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Of which the value is looked at.
    pub field: Field,
    /// One of them has to be passed.
    pub any: Vec<Test>,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Field {
    /// Where it was sent.
    Topic,
    /// Its MIME type.
    ContentType,
    /// The values of a key beside it.
    Metadata(String),
    /// What stands in its JSON at a path of names with `.` between them; the whole for an empty one.
    Body(String),
}

/// What a value has to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Test {
    /// Whether there has to be one, where only that is asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exists: Option<bool>,
    /// All of them hold for the value; of a list, for one of its elements.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub checks: Vec<Check>,
    /// None of them is passed, by no element of a list.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub not: Vec<Test>,
}

/// A comparison.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Check {
    /// The same text, number or boolean.
    Equals(Literal),
    /// A text that begins so.
    Prefix(String),
    /// A text that ends so.
    Suffix(String),
    /// A number that is greater.
    Above(Number),
    /// A number that is less.
    Below(Number),
}

/// A value that a manifest writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Literal {
    /// Text.
    Text(String),
    /// A number.
    Number(Number),
    /// `true`, `false`.
    Boolean(bool),
}

/// A number that a manifest writes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Number {
    /// A whole one.
    Whole(i64),
    /// Another one, which is finite.
    Real(f64),
}

impl Number {
    fn json(self) -> Json<'static> {
        match self {
            Self::Whole(value) => Json::Integer(value),
            Self::Real(value) => Json::Real(value),
        }
    }
}

/// By what they are worth.
impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        json::order(&self.json(), &other.json()).is_eq()
    }
}

impl Eq for Number {}

impl std::hash::Hash for Number {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        json::key(Some(&self.json())).hash(state);
    }
}

impl Literal {
    fn json(&self) -> Json<'_> {
        match self {
            Self::Text(text) => Json::Text(Cow::Borrowed(text)),
            Self::Number(number) => number.json(),
            Self::Boolean(value) => Json::Boolean(*value),
        }
    }
}

/// What may still be done for a message.
struct Effort {
    left: Cell<u32>,
    is_over: Cell<bool>,
}

impl Effort {
    const fn new() -> Self {
        Self {
            left: Cell::new(EFFORT_MAX),
            is_over: Cell::new(false),
        }
    }

    /// Whether there is so much; once there is not, there is nothing.
    fn spend(&self, n: u32) -> bool {
        match self.left.get().checked_sub(n) {
            Some(left) if !self.is_over() => self.left.set(left),
            Some(_) | None => self.is_over.set(true),
        }
        !self.is_over()
    }

    const fn is_over(&self) -> bool {
        self.is_over.get()
    }
}

/// The values of a field.
#[derive(Default)]
struct Found<'m> {
    is_there: bool,
    values: Vec<Cow<'m, Json<'m>>>,
}

impl<'m> Found<'m> {
    fn put(&mut self, value: Cow<'m, Json<'m>>) {
        self.is_there = true;
        if self.values.len() < ELEMENTS_MAX {
            self.values.push(value);
        }
    }

    fn text(text: Option<&'m str>) -> Self {
        let mut found = Self::default();
        if let Some(text) = text {
            found.put(Cow::Owned(Json::Text(Cow::Borrowed(text))));
        }
        found
    }

    /// Metadata are texts: one that is a number or a boolean is that as well.
    fn metadata(message: &'m Message, key: &str) -> Self {
        let mut found = Self::default();
        for (_, text) in message.metadata.iter().filter(|(name, _)| name == key) {
            found.put(Cow::Owned(Json::Text(Cow::Borrowed(text))));
            match Json::parse(text) {
                Ok(value @ (Json::Integer(_) | Json::Real(_) | Json::Boolean(_))) => {
                    found.put(Cow::Owned(value));
                }
                Ok(Json::Null | Json::Text(_) | Json::Array(_) | Json::Object(_)) | Err(_) => {}
            }
        }
        found
    }

    /// What is at a path; on the way, and at its end, of each element of a list.
    fn walk(&mut self, value: &'m Json<'m>, path: &str, effort: &Effort) {
        if self.values.len() >= ELEMENTS_MAX || !effort.spend(1) {
            return;
        }
        match value {
            Json::Array(elements) => {
                self.is_there |= path.is_empty();
                for element in elements {
                    if self.values.len() >= ELEMENTS_MAX || effort.is_over() {
                        return;
                    }
                    // A list within a list at the end is a value, which no test is for.
                    match path.is_empty() {
                        true => self.put(Cow::Borrowed(element)),
                        false => self.walk(element, path, effort),
                    }
                }
            }
            Json::Object(members) if !path.is_empty() => {
                let (name, rest) = path.split_once('.').unwrap_or((path, ""));
                let mut members = members.iter();
                let found = members.find(|(own, _)| !effort.spend(1) || own == name);
                if let Some((_, value)) = found {
                    self.walk(value, rest, effort);
                }
            }
            Json::Object(_)
            | Json::Null
            | Json::Boolean(_)
            | Json::Integer(_)
            | Json::Real(_)
            | Json::Text(_) => {
                if path.is_empty() {
                    self.put(Cow::Borrowed(value));
                }
            }
        }
    }
}

impl Rules {
    /// Whether they take a message. One that costs too much to say so of is taken.
    pub fn matches(&self, message: &Message) -> bool {
        let effort = Effort::new();
        self.hold(message, &effort) || effort.is_over()
    }

    fn hold(&self, message: &Message, effort: &Effort) -> bool {
        let is_of_body = |rule: &&Rule| matches!(rule.field, Field::Body(_));
        // What is quickly seen comes first.
        let others = self.0.iter().filter(|rule| !is_of_body(rule));
        for rule in others {
            let found = match &rule.field {
                Field::Topic => Found::text(message.topic.as_deref()),
                Field::ContentType => Found::text(message.content_type.as_deref()),
                Field::Metadata(key) => Found::metadata(message, key),
                Field::Body(_) => continue,
            };
            if !rule.holds(&found, effort) {
                return false;
            }
        }
        let mut of_body = self.0.iter().filter(is_of_body).peekable();
        if of_body.peek().is_none() {
            return true;
        }
        let text = std::str::from_utf8(&message.data).ok();
        let body = text.and_then(|text| Json::parse(text).ok());
        of_body.all(|rule| {
            let mut found = Found::default();
            if let (Some(body), Field::Body(path)) = (&body, &rule.field) {
                found.walk(body, path, effort);
            }
            rule.holds(&found, effort)
        })
    }

    /// Whether every message is taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Rule {
    fn holds(&self, found: &Found<'_>, effort: &Effort) -> bool {
        let mut any = self.any.iter();
        any.any(|test| test.passes(found, effort))
    }
}

impl Test {
    /// Once the effort is over this says anything, soon.
    fn passes(&self, found: &Found<'_>, effort: &Effort) -> bool {
        if effort.is_over() {
            return true;
        }
        if !found.is_there {
            return self.exists == Some(false);
        }
        let check_holds = |value: &Cow<'_, Json<'_>>| {
            let mut checks = self.checks.iter();
            checks.all(|check| effort.spend(COMPARISON) && check.holds(value))
        };
        let holds = |value| check_holds(value) || effort.is_over();
        self.exists != Some(false)
            && (self.checks.is_empty() || found.values.iter().any(holds))
            && !self.not.iter().any(|test| test.passes(found, effort))
    }
}

impl Check {
    fn holds(&self, value: &Json<'_>) -> bool {
        let text = match value {
            Json::Text(text) => Some(text.as_ref()),
            Json::Null
            | Json::Boolean(_)
            | Json::Integer(_)
            | Json::Real(_)
            | Json::Array(_)
            | Json::Object(_) => None,
        };
        let number = matches!(value, Json::Integer(_) | Json::Real(_));
        match self {
            Self::Equals(Literal::Text(wanted)) => text == Some(wanted),
            Self::Equals(wanted) => json::order(value, &wanted.json()).is_eq(),
            Self::Prefix(prefix) => text.is_some_and(|text| text.starts_with(prefix)),
            Self::Suffix(suffix) => text.is_some_and(|text| text.ends_with(suffix)),
            Self::Above(bound) => number && json::order(value, &bound.json()).is_gt(),
            Self::Below(bound) => number && json::order(value, &bound.json()).is_lt(),
        }
    }
}

/// What of its topics a subscription takes, and who hears of each message that it leaves.
#[derive(Clone)]
pub struct Wanted {
    rules: Arc<Rules>,
    on_left: Arc<dyn Fn() + Send + Sync>,
}

impl Wanted {
    /// What these rules take; `None`: that is everything.
    pub fn new(rules: &Rules, on_left: Arc<dyn Fn() + Send + Sync>) -> Option<Self> {
        (!rules.is_empty()).then(|| Self {
            rules: Arc::new(rules.clone()),
            on_left,
        })
    }

    /// Whether a message is taken; one that is not is told.
    pub fn takes(&self, message: &Message) -> bool {
        let takes = self.rules.matches(message);
        if !takes {
            (self.on_left)();
        }
        takes
    }
}

/// By what is taken, whoever hears of the rest.
impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Eq for Wanted {}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wanted").field(&self.rules).finish()
    }
}

/// As a manifest writes them.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<String> = self.0.iter().map(Rule::to_string).collect();
        write!(f, "{{ {} }}", rules.join(", "))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} = {}", self.field.to_string(), one_of(&self.any))
    }
}

fn one_of(tests: &[Test]) -> String {
    match tests {
        [one] => one.to_string(),
        several => {
            let several: Vec<String> = several.iter().map(Test::to_string).collect();
            format!("[{}]", several.join(", "))
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic => f.write_str("topic"),
            Self::ContentType => f.write_str("content_type"),
            Self::Metadata(key) => write!(f, "metadata.{key}"),
            Self::Body(path) if path.is_empty() => f.write_str("body"),
            Self::Body(path) => write!(f, "body.{path}"),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let ([Check::Equals(value)], [], None) = (&*self.checks, &*self.not, self.exists) {
            return value.fmt(f);
        }
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.exists.map(|exists| format!("exists = {exists}")));
        for check in &self.checks {
            parts.push(match check {
                Check::Equals(value) => format!("equals = {value}"),
                Check::Prefix(text) => format!("prefix = {text:?}"),
                Check::Suffix(text) => format!("suffix = {text:?}"),
                Check::Above(number) => format!("above = {number}"),
                Check::Below(number) => format!("below = {number}"),
            });
        }
        if !self.not.is_empty() {
            parts.push(format!("not = {}", one_of(&self.not)));
        }
        write!(f, "{{ {} }}", parts.join(", "))
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => number.fmt(f),
            Self::Boolean(value) => value.fmt(f),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            // A whole one keeps its point: `2.0`.
            Self::Real(value) => write!(f, "{value:?}"),
        }
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
