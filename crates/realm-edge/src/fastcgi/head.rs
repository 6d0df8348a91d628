//! The head of an answer as web servers read it from CGI programs. Not its body, nor its records.

use bytes::BytesMut;
use http::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};

use super::Role;

/// Room for a head and a short body.
pub(super) const HEAD_BYTES: usize = 1024;

/// The head as CGI has it (RFC 3875 §6.3).
pub(super) fn head(parts: &http::response::Parts, role: Role) -> BytesMut {
    let mut head = BytesMut::with_capacity(256);
    let status = parts.status;
    head.extend_from_slice(b"Status: ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.extend_from_slice(b" ");
    head.extend_from_slice(status.canonical_reason().unwrap_or("-").as_bytes());
    head.extend_from_slice(b"\r\n");
    let is_bound = |name| [CONNECTION, TRANSFER_ENCODING].contains(name);
    for (name, value) in parts.headers.iter().filter(|(name, _)| !is_bound(name)) {
        let variable = match role {
            Role::Authorizer => variable(name.as_str()),
            Role::Responder => None,
        };
        let name = variable.as_deref().unwrap_or(name.as_str());
        let line: [&[u8]; 4] = [
            name.as_bytes(),
            b": ",
            HeaderValue::as_bytes(value),
            b"\r\n",
        ];
        line.iter().for_each(|part| head.extend_from_slice(part));
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// `variable-remote-user` → `Variable-REMOTE_USER`: what follows is the name of a variable, which is written so,
/// and headers of components have no capitals.
fn variable(name: &str) -> Option<String> {
    let name = name.strip_prefix("variable-")?;
    Some(format!(
        "Variable-{}",
        name.to_ascii_uppercase().replace('-', "_")
    ))
}
