//! The smaller keys of a binding.

use crate::codes;
use crate::fields::cut;
use crate::manifest::ValueError;

/// Bytes of the prefix of a binding.
const PREFIX_BYTES_MAX: usize = 128;
/// Bytes of an issuer: it stands in every token.
const ISSUER_BYTES_MAX: usize = 255;
/// Bytes of the name of a model.
const MODEL_BYTES_MAX: usize = 255;

/// Reads the `prefix` of a binding.
pub(crate) fn prefix(text: &str) -> Result<String, ValueError> {
    let fits = text.len() <= PREFIX_BYTES_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte));
    if fits {
        return Ok(text.to_owned());
    }
    let message = format!(
        "`{}` is not a prefix: it has up to {PREFIX_BYTES_MAX} letters, digits, `-`, `_`, `.`, `:` and `/`",
        cut(text)
    );
    Err(ValueError::new(codes::BAD_BINDING, message))
}

/// Reads the `issuer` of a binding.
pub(crate) fn issuer(text: &str) -> Result<String, ValueError> {
    let fits = (1..=ISSUER_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
    if fits {
        return Ok(text.to_owned());
    }
    let message = format!(
        "`{}` is not an issuer: it has 1 to {ISSUER_BYTES_MAX} printable ASCII characters without spaces, quotes and `\\`",
        cut(text)
    );
    let hint = "write the URL below which `/.well-known/jwks.json` is served";
    Err(ValueError::new(codes::BAD_BINDING, message).hint(Some(hint)))
}

/// Reads the `model` of a binding.
pub(crate) fn model(text: &str) -> Result<String, ValueError> {
    let fits = (1..=MODEL_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/@+".contains(&byte));
    if fits {
        return Ok(text.to_owned());
    }
    let message = format!(
        "`{}` is not the name of a model: it has 1 to {MODEL_BYTES_MAX} letters, digits, `-`, `_`, `.`, `:`, `/`, `@` and `+`",
        cut(text)
    );
    Err(ValueError::new(codes::BAD_BINDING, message))
}

/// Reads one of the `senders` of a binding: an address, or `*@` and a domain.
pub(crate) fn sender(text: &str) -> Result<String, ValueError> {
    let address = match text.strip_prefix("*@") {
        Some(domain) => format!("anybody@{domain}"),
        None => text.to_owned(),
    };
    if crate::cloud::mail::check_address(&address).is_ok() {
        return Ok(text.to_owned());
    }
    let message = format!(
        "`{}` is neither an address nor `*@` and a domain",
        cut(text)
    );
    Err(ValueError::new(codes::BAD_BINDING, message))
}
