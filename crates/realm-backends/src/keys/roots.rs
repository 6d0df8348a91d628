//! The roots of keys: the text of a secret, one root to a line. The first one makes, all of them open.

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

/// Bytes of a root.
const ROOT_BYTES: usize = 32;
/// Roots of one secret: each is tried for a key's id.
const ROOTS_MAX: usize = 16;
/// Bytes of the id of a key.
pub(crate) const ID_BYTES: usize = 8;

/// With or without `=` at the end; nothing else may differ from the one right spelling.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a secret holds no roots. Says which line, and nothing of what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// Another form.
    #[error(
        "line {0} of the secret is no root: 32 random bytes in base64 or hexadecimal, as `openssl rand -base64 32` writes them"
    )]
    Line(usize),
    /// The same bytes as in an earlier line.
    #[error("line {0} of the secret says the same as an earlier one")]
    Twice(usize),
    /// No line at all.
    #[error("the secret holds no root: 32 random bytes, as `openssl rand -base64 32` writes them")]
    Empty,
    /// More than anybody needs.
    #[error("the secret holds more than {ROOTS_MAX} roots")]
    Many,
}

/// Roots, the one that makes first. What they are derived from is not kept.
pub(crate) struct Roots(Vec<Prk>);

/// What a derived key is for. Part of what it is derived from: a key for one purpose says nothing of that
/// for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Encrypt,
    Wrap,
    Sign,
    Mac,
    Token,
}

/// 32 bytes, and what they are called in what they made.
pub(crate) struct Derived {
    pub(crate) id: [u8; ID_BYTES],
    pub(crate) bytes: Zeroizing<[u8; 32]>,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Wrap => "wrap",
            Self::Sign => "sign",
            Self::Mac => "mac",
            Self::Token => "token",
        }
    }
}

impl Roots {
    /// Reads the text of a secret. `salt` tells the users of roots apart.
    pub(crate) fn read(text: &[u8], salt: &[u8]) -> Result<Self, RootsError> {
        let mut seen: Vec<Zeroizing<[u8; ROOT_BYTES]>> = Vec::with_capacity(ROOTS_MAX);
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let root = root(line).ok_or(RootsError::Line(index + 1))?;
            if seen.contains(&root) {
                return Err(RootsError::Twice(index + 1));
            }
            if seen.len() == ROOTS_MAX {
                return Err(RootsError::Many);
            }
            seen.push(root);
        }
        if seen.is_empty() {
            return Err(RootsError::Empty);
        }
        let salt = Salt::new(HKDF_SHA256, salt);
        Ok(Self(
            seen.iter().map(|root| salt.extract(&**root)).collect(),
        ))
    }

    /// The key of a purpose and of names, by the root that makes.
    pub(crate) fn first(&self, purpose: Purpose, names: &[&str]) -> Derived {
        expand(&self.0[0], &info(purpose, names))
    }

    /// The same by every root, the one that makes first.
    pub(crate) fn all<'a>(
        &'a self,
        purpose: Purpose,
        names: &[&str],
    ) -> impl Iterator<Item = Derived> + use<'a> {
        let info = info(purpose, names);
        self.0.iter().map(move |root| expand(root, &info))
    }

    /// The key that something was made with.
    pub(crate) fn find(&self, purpose: Purpose, names: &[&str], id: &[u8]) -> Option<Derived> {
        // Ids are no secrets: they stand in what is found.
        self.all(purpose, names).find(|derived| derived.id == id)
    }
}

/// Every part with its length before it: no two lists of names give the same bytes.
fn info(purpose: Purpose, names: &[&str]) -> Vec<u8> {
    let mut info = Vec::new();
    for part in [purpose.as_str()].iter().chain(names) {
        info.extend_from_slice(&(part.len() as u64).to_be_bytes());
        info.extend_from_slice(part.as_bytes());
    }
    info
}

fn expand(root: &Prk, info: &[u8]) -> Derived {
    let mut bytes = Zeroizing::new([0; 32]);
    let mut id = [0; 32];
    for (out, what) in [(&mut *bytes, b"key" as &[u8]), (&mut id, b"id")] {
        root.expand(&[what, info], HKDF_SHA256)
            .and_then(|expanded| expanded.fill(out))
            .expect("32 bytes are one block of it");
    }
    Derived {
        id: std::array::from_fn(|at| id[at]),
        bytes,
    }
}

/// 32 bytes in base64 or hexadecimal. Bytes that are all alike came from no good source.
fn root(line: &[u8]) -> Option<Zeroizing<[u8; ROOT_BYTES]>> {
    let mut root = Zeroizing::new([0; ROOT_BYTES]);
    match line.len() {
        64 => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            for (at, pair) in line.chunks_exact(2).enumerate() {
                let value = digit(pair[0])? * 16 + digit(pair[1])?;
                root[at] = u8::try_from(value).ok()?;
            }
        }
        43 | 44 => {
            // One byte more than there may be: the decoder estimates.
            let mut room = Zeroizing::new([0; ROOT_BYTES + 1]);
            let n = BASE64.decode_slice(line, &mut *room).ok()?;
            if n != ROOT_BYTES {
                return None;
            }
            root.copy_from_slice(&room[..ROOT_BYTES]);
        }
        _ => return None,
    }
    let alike = root.iter().all(|byte| *byte == root[0]);
    (!alike).then_some(root)
}

#[cfg(test)]
#[path = "roots_tests.rs"]
mod tests;
