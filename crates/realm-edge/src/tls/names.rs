//! The name of a certificate's subject or issuer as text (RFC 4514), for headers that guests decide by.
//!
//! Escaped throughout: a value that holds `,CN=admin` reads as what it is.

use std::fmt::Write as _;

use x509_parser::x509::X509Name;

/// Bytes of a name that are told: an honest one has a few hundred.
const NAME_BYTES_MAX: usize = 4 * 1024;

/// Short names of attributes (RFC 4514 §3, and those that OpenSSL writes).
const ATTRIBUTES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The name, its most special part first; `None`: it is longer than any honest one.
pub(super) fn text(name: &X509Name<'_>) -> Option<String> {
    let mut text = String::new();
    let parts: Vec<_> = name.iter().collect();
    for part in parts.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            let oid = attribute.attr_type().to_id_string();
            let known = ATTRIBUTES.iter().find(|(known, _)| *known == oid);
            text.push_str(known.map_or(oid.as_str(), |(_, short)| short));
            text.push('=');
            match (known, attribute.as_str()) {
                (Some(_), Ok(value)) => escape(&mut text, value),
                // RFC 4514 §2.4: what has no text is its bytes.
                (Some(_), Err(_)) | (None, _) => {
                    text.push('#');
                    hex(&mut text, attribute.as_slice(), "");
                }
            }
            if text.len() > NAME_BYTES_MAX {
                return None;
            }
        }
    }
    Some(text)
}

/// RFC 4514 §2.4; all that is not printable ASCII as its bytes.
fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, character) in value.char_indices() {
        let is_edge =
            (at == 0 && matches!(character, ' ' | '#')) || (at == last && character == ' ');
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => text.extend(['\\', character]),
            _ if is_edge => text.extend(['\\', character]),
            ' '..='~' => text.push(character),
            _ => {
                let mut bytes = [0; 4];
                hex(text, character.encode_utf8(&mut bytes).as_bytes(), "\\");
            }
        }
    }
}

/// The bytes in hex, each with `before`.
pub(super) fn hex(text: &mut String, bytes: &[u8], before: &str) {
    for byte in bytes {
        write!(text, "{before}{byte:02X}").expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_pass_for_others() {
        let check = |value: &str, expected: &str| {
            let mut text = String::new();
            escape(&mut text, value);
            assert_eq!(text, expected);
            assert!(http::HeaderValue::from_str(&text).is_ok());
        };
        check("Ann Lee", "Ann Lee");
        check("x,CN=admin", "x\\,CN\\=admin");
        check(" a ", "\\ a\\ ");
        check("#1", "\\#1");
        check("a\"b+c;d<e>f\\g", "a\\\"b\\+c\\;d\\<e\\>f\\\\g");
        check("a\r\nX: y", "a\\0D\\0AX: y");
        check("Jörg", "J\\C3\\B6rg");
        check("", "");
    }
}
