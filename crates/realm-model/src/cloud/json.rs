//! JSON of guests, read strictly: one value, no name twice in an object, no text that is not Unicode, no
//! number beyond floating point, no deeper than [`limits::DOCUMENT_DEPTH_MAX`].
//!
//! And the one order of all values, as bytes ([`key`]): what a database compares bytewise is compared alike
//! by each of them. Not here: what is asked of documents (`documents`).

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{CloudError, limits};

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true`, `false`.
    Boolean(bool),
    /// A whole number within 64 bits.
    Integer(i64),
    /// Any other number.
    Real(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// Values.
    Array(Vec<Json<'a>>),
    /// Values by name.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads a text that is one value.
    pub fn parse(text: &'a str) -> Result<Self, CloudError> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.blank();
        if reader.at < text.len() {
            return Err(reader.wrong("something follows the value"));
        }
        Ok(value)
    }

    /// Reads a text that is an object.
    pub fn object(text: &'a str) -> Result<Self, CloudError> {
        let value = Self::parse(text)?;
        if matches!(value, Json::Object(_)) {
            return Ok(value);
        }
        let why = "not a JSON object: it begins with `{`";
        Err(CloudError::Invalid(why.to_owned()))
    }

    /// The value at a path of names with `.` between them; nothing where an object has no such name, or
    /// something on the way is no object.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |value, name| match value {
            Json::Object(members) => {
                let found = members.iter().find(|(own, _)| own == name);
                found.map(|(_, value)| value)
            }
            Json::Null
            | Json::Boolean(_)
            | Json::Integer(_)
            | Json::Real(_)
            | Json::Text(_)
            | Json::Array(_) => None,
        })
    }
}

/// What each value's key begins with, in their order.
mod kind {
    pub(super) const MISSING: u8 = 0x08;
    pub(super) const NULL: u8 = 0x10;
    pub(super) const FALSE: u8 = 0x20;
    pub(super) const TRUE: u8 = 0x21;
    pub(super) const NUMBER: u8 = 0x30;
    pub(super) const TEXT: u8 = 0x40;
    pub(super) const ARRAY: u8 = 0x50;
    pub(super) const OBJECT: u8 = 0x60;
}

/// Bytes that sort as values do: what is missing, then null, false, true, numbers by what they are worth,
/// text by its bytes, arrays, objects. Arrays are alike, and so are objects. Two values have one key if,
/// and only if, they are equal.
pub fn key(value: Option<&Json<'_>>) -> Vec<u8> {
    key_within(value, usize::MAX)
}

/// The first bytes of a key.
pub fn key_within(value: Option<&Json<'_>>, n_max: usize) -> Vec<u8> {
    let parts = parts(value);
    let mut key = Vec::new();
    for part in [parts.0.as_slice(), parts.1] {
        key.extend_from_slice(&part[..part.len().min(n_max - key.len())]);
    }
    key
}

/// How the key of a value stands to another key. Nothing is written down for it: a document has half a
/// million values.
pub fn compare(value: Option<&Json<'_>>, key: &[u8]) -> Ordering {
    let (head, rest) = parts(value);
    let head = head.as_slice();
    let (first, other) = key.split_at(head.len().min(key.len()));
    head.cmp(first).then_with(|| rest.cmp(other))
}

/// How two values stand to each other: as their keys do, of which none is written down.
pub fn order(one: &Json<'_>, other: &Json<'_>) -> Ordering {
    let ((one, rest), (other, other_rest)) = (parts(Some(one)), parts(Some(other)));
    let heads = one.as_slice().cmp(other.as_slice());
    heads.then_with(|| rest.cmp(other_rest))
}

/// What a key begins with.
struct Head {
    bytes: [u8; NUMBER_BYTES],
    n_bytes: usize,
}

/// A kind, a number of 64 bits, and by how much it is off.
const NUMBER_BYTES: usize = 1 + 8 + 2;

impl Head {
    const fn of(kind: u8) -> Self {
        let mut bytes = [0; NUMBER_BYTES];
        bytes[0] = kind;
        Self { bytes, n_bytes: 1 }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.n_bytes]
    }
}

/// A key in two parts.
fn parts<'a>(value: Option<&'a Json<'_>>) -> (Head, &'a [u8]) {
    let head = match value {
        None => Head::of(kind::MISSING),
        Some(Json::Null) => Head::of(kind::NULL),
        Some(Json::Boolean(false)) => Head::of(kind::FALSE),
        Some(Json::Boolean(true)) => Head::of(kind::TRUE),
        Some(Json::Integer(value)) => {
            // The nearest of floating point, and by how much it is off.
            let near = *value as f64;
            let off = i128::from(*value) - near as i128;
            number(near, i16::try_from(off).unwrap_or_default())
        }
        Some(Json::Real(value)) => number(*value, 0),
        Some(Json::Text(text)) => return (Head::of(kind::TEXT), text.as_bytes()),
        Some(Json::Array(_)) => Head::of(kind::ARRAY),
        Some(Json::Object(_)) => Head::of(kind::OBJECT),
    };
    (head, &[])
}

fn number(value: f64, off: i16) -> Head {
    // There is one zero.
    let value = if value == 0.0 { 0.0 } else { value };
    let bits = value.to_bits();
    let sorted = if value.is_sign_negative() {
        !bits
    } else {
        bits | 1 << 63
    };
    let mut bytes = [kind::NUMBER; NUMBER_BYTES];
    bytes[1..9].copy_from_slice(&sorted.to_be_bytes());
    bytes[9..].copy_from_slice(&(off.cast_unsigned() ^ 0x8000).to_be_bytes());
    Head {
        bytes,
        n_bytes: NUMBER_BYTES,
    }
}

/// Where the keys of values of this value's kind begin, and where they are over. False and true are one
/// kind.
pub fn kin(value: &Json<'_>) -> (Vec<u8>, Vec<u8>) {
    let (from, to) = match value {
        Json::Null => (kind::NULL, kind::NULL + 1),
        Json::Boolean(_) => (kind::FALSE, kind::TRUE + 1),
        Json::Integer(_) | Json::Real(_) => (kind::NUMBER, kind::NUMBER + 1),
        Json::Text(_) => (kind::TEXT, kind::TEXT + 1),
        Json::Array(_) => (kind::ARRAY, kind::ARRAY + 1),
        Json::Object(_) => (kind::OBJECT, kind::OBJECT + 1),
    };
    (vec![from], vec![to])
}

/// A place in a text.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, why: &str) -> CloudError {
        CloudError::Invalid(format!("not JSON at byte {}: {why}", self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), CloudError> {
        if self.take(byte) {
            return Ok(());
        }
        Err(self.wrong(&format!("`{}` is missing", char::from(byte))))
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, CloudError> {
        self.blank();
        match self.peek() {
            Some(b'{' | b'[') if depth >= limits::DOCUMENT_DEPTH_MAX => {
                Err(self.wrong(&format!("deeper than {}", limits::DOCUMENT_DEPTH_MAX)))
            }
            Some(b'{') => self.members(depth + 1),
            Some(b'[') => self.elements(depth + 1),
            Some(b'"') => Ok(Json::Text(self.text()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => {
                for (word, value) in [
                    ("null", Json::Null),
                    ("true", Json::Boolean(true)),
                    ("false", Json::Boolean(false)),
                ] {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err(self.wrong("no value begins so"))
            }
            None => Err(self.wrong("a value is missing")),
        }
    }

    fn elements(&mut self, depth: usize) -> Result<Json<'a>, CloudError> {
        self.at += 1;
        self.blank();
        let mut values = Vec::new();
        if self.take(b']') {
            return Ok(Json::Array(values));
        }
        loop {
            values.push(self.value(depth)?);
            self.blank();
            if self.take(b']') {
                return Ok(Json::Array(values));
            }
            self.expect(b',')?;
        }
    }

    fn members(&mut self, depth: usize) -> Result<Json<'a>, CloudError> {
        self.at += 1;
        self.blank();
        let mut members: Vec<(Cow<'_, str>, Json<'_>)> = Vec::new();
        if !self.take(b'}') {
            loop {
                self.blank();
                let name = self.text()?;
                self.blank();
                self.expect(b':')?;
                let value = self.value(depth)?;
                members.push((name, value));
                self.blank();
                if self.take(b'}') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        let mut names: Vec<_> = members.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(self.wrong("an object has a name twice"));
        }
        Ok(Json::Object(members))
    }

    fn number(&mut self) -> Result<Json<'a>, CloudError> {
        let from = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        let mut whole = true;
        if self.take(b'.') {
            self.digits()?;
            whole = false;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
            whole = false;
        }
        let text = &self.text[from..self.at];
        if let (true, Ok(value)) = (whole, text.parse()) {
            return Ok(Json::Integer(value));
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Json::Real(value)),
            Ok(_) | Err(_) => Err(self.wrong("the number is too large")),
        }
    }

    fn digits(&mut self) -> Result<(), CloudError> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > from {
            return Ok(());
        }
        Err(self.wrong("a digit is missing"))
    }

    fn text(&mut self) -> Result<Cow<'a, str>, CloudError> {
        self.expect(b'"')?;
        let mut escaped = String::new();
        let mut from = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let rest = &self.text[from..self.at];
                    self.at += 1;
                    return Ok(if escaped.is_empty() {
                        Cow::Borrowed(rest)
                    } else {
                        Cow::Owned(escaped + rest)
                    });
                }
                Some(b'\\') => {
                    escaped += &self.text[from..self.at];
                    self.at += 1;
                    escaped.push(self.escape()?);
                    from = self.at;
                }
                Some(0..0x20) => return Err(self.wrong("a control character in a text")),
                Some(_) => self.at += 1,
                None => return Err(self.wrong("a text has no end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, CloudError> {
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.unit()?;
                let second = if (0xD800..0xDC00).contains(&first) {
                    self.expect(b'\\')?;
                    self.expect(b'u')?;
                    Some(self.unit()?)
                } else {
                    None
                };
                let units = [first].into_iter().chain(second);
                let decoded = char::decode_utf16(units).next();
                match decoded {
                    Some(Ok(decoded)) => decoded,
                    Some(Err(_)) | None => return Err(self.wrong("half a character")),
                }
            }
            Some(_) | None => return Err(self.wrong("no escape is written so")),
        })
    }

    fn unit(&mut self) -> Result<u16, CloudError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits.filter(|four| four.iter().all(u8::is_ascii_hexdigit));
        let text = digits.and_then(|four| std::str::from_utf8(four).ok());
        let unit = text.and_then(|text| u16::from_str_radix(text, 16).ok());
        self.at += 4;
        unit.ok_or_else(|| self.wrong("four hexadecimal digits are missing"))
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
