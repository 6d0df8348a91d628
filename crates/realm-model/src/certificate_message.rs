//! What members of a realm ask each other about certificates of HTTPS, and what they answer: bytes and
//! values. Not who may ask, and not whether what is given is any good.
//!
//! A question and its answer are a message each. The question: what is asked (1 byte), then for
//! [`Question::Have`] a name; for the proofs parts, each with its length (2 bytes, little-endian). The
//! answer: one byte, and after it what is given: the chain and the key in PEM.

use zeroize::Zeroizing;

const HAVE: u8 = 0;
const PROVE_HTTP: u8 = 1;
const PROVE_ALPN: u8 = 2;

const GIVEN: u8 = 0;
const NONE_HERE: u8 = 1;
const NOT_MINE: u8 = 2;

/// Bytes of the length of a part.
const LENGTH_BYTES: usize = 2;
/// Bytes of a token of HTTP-01: authorities use 43.
const TOKEN_BYTES_MAX: usize = 128;
/// A digest of SHA-256 in base64url.
const THUMBPRINT_BYTES: usize = 43;

/// What a member asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question<'q> {
    /// For the certificate of a name, and its key.
    Have(&'q str),
    /// To answer a challenge of HTTP-01.
    ProveHttp {
        /// The name that it is about.
        name: &'q str,
        /// What is asked for.
        token: &'q str,
        /// The answer.
        answer: &'q str,
    },
    /// To answer a challenge of TLS-ALPN-01.
    ProveAlpn {
        /// The name that it is about.
        name: &'q str,
        /// The certificate that is shown, in DER.
        certificate: &'q [u8],
        /// Its key, PKCS #8 in DER.
        key: &'q [u8],
    },
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The chain and the key in PEM; to a proof nothing: it is answered from now on.
    Given(&'a [u8]),
    /// The node would order one, and has none.
    NoneHere,
    /// The node has nothing to do with that name, or does not understand.
    NotMine,
}

impl<'q> Question<'q> {
    /// Reads one; `None`: it is none.
    pub fn from_bytes(bytes: &'q [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            HAVE => text(rest).map(Self::Have),
            PROVE_HTTP => {
                let [name, token, answer] = parts(rest)?;
                is_proof(token, answer).then_some(())?;
                Some(Self::ProveHttp {
                    name: text(name)?,
                    token: text(token)?,
                    answer: text(answer)?,
                })
            }
            PROVE_ALPN => {
                let [name, certificate, key] = parts(rest)?;
                Some(Self::ProveAlpn {
                    name: text(name)?,
                    certificate,
                    key,
                })
            }
            _ => None,
        }
    }

    /// Its bytes; `None`: a part of it is longer than any may be.
    pub fn to_bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let (kind, parts) = match self {
            Self::Have(name) => {
                return Some(Zeroizing::new([&[HAVE], name.as_bytes()].concat()));
            }
            Self::ProveHttp {
                name,
                token,
                answer,
            } => (
                PROVE_HTTP,
                [name.as_bytes(), token.as_bytes(), answer.as_bytes()],
            ),
            Self::ProveAlpn {
                name,
                certificate,
                key,
            } => (PROVE_ALPN, [name.as_bytes(), certificate, key]),
        };
        let length = parts.iter().map(|part| LENGTH_BYTES + part.len());
        // With room for all: what grows leaves copies of the key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + length.sum::<usize>()));
        bytes.push(kind);
        for part in parts {
            bytes.extend(u16::try_from(part.len()).ok()?.to_le_bytes());
            bytes.extend_from_slice(part);
        }
        Some(bytes)
    }
}

impl<'a> Answer<'a> {
    /// Reads one; `None`: it is none. What a later version says behind the first byte is passed over.
    pub fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&GIVEN, text) => Some(Self::Given(text)),
            (&NONE_HERE, _) => Some(Self::NoneHere),
            (&NOT_MINE, _) => Some(Self::NotMine),
            _ => None,
        }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match self {
            Self::Given(text) => [&[GIVEN], *text].concat(),
            Self::NoneHere => vec![NONE_HERE],
            Self::NotMine => vec![NOT_MINE],
        })
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Parts with their lengths, so many and nothing behind them.
fn parts<const N: usize>(mut bytes: &[u8]) -> Option<[&[u8]; N]> {
    let mut parts = [&[][..]; N];
    for part in &mut parts {
        let (length, rest) = bytes.split_at_checked(LENGTH_BYTES)?;
        let length = u16::from_le_bytes(length.try_into().ok()?);
        (*part, bytes) = rest.split_at_checked(length.into())?;
    }
    bytes.is_empty().then_some(parts)
}

/// Whether it has the form of an answer to HTTP-01 (RFC 8555 §8.1): the token, and the thumbprint of an
/// account's key. Nothing else gets under the names of others.
pub fn is_proof(token: &[u8], answer: &[u8]) -> bool {
    let is_word = |bytes: &[u8]| {
        let is_of_it = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        bytes.iter().all(is_of_it)
    };
    let thumbprint = answer
        .strip_prefix(token)
        .and_then(|rest| rest.strip_prefix(b"."));
    (1..=TOKEN_BYTES_MAX).contains(&token.len())
        && is_word(token)
        && thumbprint.is_some_and(|print| print.len() == THUMBPRINT_BYTES && is_word(print))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_has_the_form_of_one() {
        let print = "x".repeat(THUMBPRINT_BYTES);
        let check = |token: &str, answer: &str, expected: bool| {
            let found = is_proof(token.as_bytes(), answer.as_bytes());
            assert_eq!(found, expected, "{token} {answer}");
        };
        check("a-_9", &format!("a-_9.{print}"), true);
        check("a", &format!("b.{print}"), false);
        check("a", &format!("a{print}"), false);
        check("a", &format!("a.{print}x"), false);
        check("", &format!(".{print}"), false);
        check("a/b", &format!("a/b.{print}"), false);
        check("a", &format!("a.{}<", &print[1..]), false);
        let long = "a".repeat(TOKEN_BYTES_MAX + 1);
        check(&long, &format!("{long}.{print}"), false);
    }

    #[test]
    fn a_question_is_read_as_it_was_written_and_nothing_else_is() {
        let answer = format!("t.{}", "x".repeat(THUMBPRINT_BYTES));
        let proof = Question::ProveHttp {
            name: "a.example",
            token: "t",
            answer: &answer,
        };
        let bytes = proof.to_bytes().expect("short");
        // These bytes are a promise to other nodes.
        let expected = [&b"\x01\x09\0a.example\x01\0t\x2d\0"[..], answer.as_bytes()].concat();
        assert_eq!(*bytes, expected);
        assert_eq!(Question::from_bytes(&bytes), Some(proof));
        for length in 0..bytes.len() {
            assert_eq!(Question::from_bytes(&bytes[..length]), None, "{length}");
        }
        assert_eq!(Question::from_bytes(&[&bytes, &b"\0\0"[..]].concat()), None);
        let have = Question::Have("a.example");
        assert_eq!(have.to_bytes().expect("short")[..], *b"\0a.example");
        assert_eq!(Question::from_bytes(b"\0\xff"), None);
        assert_eq!(Question::from_bytes(b"\x03"), None);
        let long = Question::ProveAlpn {
            name: "a",
            certificate: &[0; 70_000],
            key: b"",
        };
        assert_eq!(long.to_bytes(), None);
    }

    #[test]
    fn an_answer_of_a_later_version_is_understood() {
        assert_eq!(Answer::from_bytes(b"\0PEM"), Some(Answer::Given(b"PEM")));
        assert_eq!(Answer::from_bytes(b"\x01later"), Some(Answer::NoneHere));
        assert_eq!(*Answer::NotMine.to_bytes(), [2]);
        assert_eq!(Answer::from_bytes(b"\x03"), None);
        assert_eq!(Answer::from_bytes(b""), None);
    }
}
