//! How names of objects and containers are spelled where not every name may be.
//!
//! Each spelling leads back to one name, and no two names have the same. Pure.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Bytes of a file's name that a spelling may have: a file system takes 255, one that encrypts names 143.
const FILE_NAME_BYTES_MAX: usize = 140;

/// A name as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileName {
    /// Spelled.
    Plain(String),
    /// Its digest: too long to be spelled. The name has to be kept beside it.
    Digest(String),
}

impl FileName {
    /// Lower-case letters, digits and a few signs stand for themselves, all else is `%xx` by the byte:
    /// no separators and no `..`, nothing hidden, and nothing that a file system which folds case or
    /// composes letters takes for the same.
    pub(super) fn of(name: &str) -> Self {
        let mut spelled = String::with_capacity(name.len() + 8);
        for (index, byte) in name.bytes().enumerate() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'=' | b'+' | b',' | b'@' => {
                    spelled.push(char::from(byte));
                }
                b'.' if index > 0 => spelled.push('.'),
                other => push_escaped(&mut spelled, other, false),
            }
        }
        if spelled.len() <= FILE_NAME_BYTES_MAX {
            return Self::Plain(spelled);
        }
        let mut digest = String::from("~");
        for byte in Sha256::digest(name.as_bytes()) {
            let _ = write!(digest, "{byte:02x}");
        }
        Self::Digest(digest)
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Plain(file) | Self::Digest(file) => file,
        }
    }
}

/// The name that a file was given for; `None` for a file that no name leads to.
pub(super) fn name_of_file(file: &str) -> Option<String> {
    let name = unescaped(file)?;
    (FileName::of(&name) == FileName::Plain(file.to_owned())).then_some(name)
}

/// Whether a file has the digest of its name instead of its name.
pub(super) fn is_digest(file: &str) -> bool {
    file.starts_with('~')
}

/// An object as a part of a key in S3: itself, but for what servers, paths and XML make something else of.
/// These are control characters, parts that are empty, `.` or `..`, and `%`.
pub(super) fn key_of_object(name: &str) -> String {
    let mut key = String::with_capacity(name.len() + 8);
    let mut parts = name.split('/').peekable();
    let mut before: Option<&str> = None;
    while let Some(part) = parts.next() {
        if let Some(before) = before.replace(part) {
            // It separates parts that are there; else it is spelled.
            let is_last = part.is_empty() && parts.peek().is_none();
            let is_between = !(before.is_empty() || is_last);
            key.push_str(if is_between { "/" } else { "%2F" });
        }
        if part == "." || part == ".." {
            key.push_str(&"%2E".repeat(part.len()));
        } else {
            push_part(&mut key, part);
        }
    }
    key
}

/// A container as one part of a key, which does not begin with a point.
pub(super) fn key_of_container(name: &str) -> String {
    let mut key = String::with_capacity(name.len() + 8);
    let (point, rest) = match name.strip_prefix('.') {
        Some(rest) => ("%2E", rest),
        None => ("", name),
    };
    key.push_str(point);
    push_part(&mut key, rest);
    key.replace('/', "%2F")
}

/// The object that a key was made for; `None` for a key that no name leads to.
pub(super) fn object_of_key(key: &str) -> Option<String> {
    let name = unescaped(key)?;
    (key_of_object(&name) == key).then_some(name)
}

fn push_part(key: &mut String, part: &str) {
    for char in part.chars() {
        match char {
            '%' => key.push_str("%25"),
            // No XML has these, so no listing could.
            '\u{fffe}' | '\u{ffff}' => push_char(key, char),
            char if char.is_control() => push_char(key, char),
            char => key.push(char),
        }
    }
}

fn push_char(key: &mut String, char: char) {
    for byte in char.encode_utf8(&mut [0; 4]).bytes() {
        push_escaped(key, byte, true);
    }
}

fn push_escaped(text: &mut String, byte: u8, upper: bool) {
    let _ = match upper {
        true => write!(text, "%{byte:02X}"),
        false => write!(text, "%{byte:02x}"),
    };
}

/// Text whose `%xx` are bytes again.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = behind;
            continue;
        }
        let (digits, behind) = behind.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        if digits.starts_with('+') {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_spelled_so_that_nothing_leaves_and_nothing_collides() {
        let cases = [
            ("cat-01.jpg", "cat-01.jpg"),
            ("Cat.JPG", "%43at.%4a%50%47"),
            ("a/b", "a%2fb"),
            ("..", "%2e."),
            (".", "%2e"),
            (".hidden", "%2ehidden"),
            ("/", "%2f"),
            ("%2f", "%252f"),
            ("~x", "%7ex"),
            ("\u{e9}", "%c3%a9"),
            ("e\u{301}", "e%cc%81"),
            ("a\nb c", "a%0ab%20c"),
        ];
        for (name, file) in cases {
            assert_eq!(FileName::of(name), FileName::Plain(file.to_owned()));
            assert_eq!(name_of_file(file).as_deref(), Some(name));
        }
    }

    #[test]
    fn a_key_is_its_name_where_that_is_safe() {
        let cases = [
            ("cats/Tom 1.jpg", "cats/Tom 1.jpg"),
            ("\u{e9}&<x>", "\u{e9}&<x>"),
            ("a%2Fb", "a%252Fb"),
            ("a//b", "a/%2Fb"),
            ("a///b", "a/%2F%2Fb"),
            ("/", "%2F"),
            ("//", "%2F%2F"),
            ("/a", "%2Fa"),
            ("a/", "a%2F"),
            ("a//", "a/%2F"),
            (".", "%2E"),
            ("a/../b", "a/%2E%2E/b"),
            ("/..", "%2F%2E%2E"),
            ("...", "..."),
            ("a\n\u{85}\u{ffff}", "a%0A%C2%85%EF%BF%BF"),
        ];
        for (name, key) in cases {
            assert_eq!(key_of_object(name), key);
            assert_eq!(object_of_key(key).as_deref(), Some(name));
            assert!(!key.starts_with('/') && !key.ends_with('/') && !key.contains("//"));
        }
        for key in ["a//b", "/a", "..", "%41", "%2f", "a%", "a/./b"] {
            assert_eq!(object_of_key(key), None, "{key}");
        }
        let containers = [
            ("photos", "photos"),
            ("a/b", "a%2Fb"),
            ("a%2Fb", "a%252Fb"),
            ("..", "%2E."),
            (".containers", "%2Econtainers"),
        ];
        for (name, key) in containers {
            assert_eq!(key_of_container(name), key);
        }
    }

    #[test]
    fn a_long_name_has_its_digest() {
        let at = |n: usize| FileName::of(&"a".repeat(n));
        assert!(matches!(at(140), FileName::Plain(_)));
        let FileName::Digest(one) = at(141) else {
            panic!("spelled");
        };
        assert!(is_digest(&one) && one.len() == 65, "{one}");
        assert_ne!(at(142).as_str(), one);
        assert_eq!(name_of_file(&one), None);
    }

    #[test]
    fn a_file_that_no_name_leads_to_has_none() {
        for file in [
            "A", "%2", "%zz", "%41%", "%61", ".", "..", "%2F", "%+1", "%ff", "a b",
        ] {
            assert_eq!(name_of_file(file), None, "{file}");
        }
    }
}
