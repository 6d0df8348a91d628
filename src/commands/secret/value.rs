//! The value of a secret, on its way in and out: never an argument, never a log.

use std::io::{self, IsTerminal as _, Read as _};

use realm_model::sealing::SECRET_BYTES_MAX;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::{blocking, output, owner};

/// Reads a new value: standard input to its end, or typed twice on a terminal.
pub(super) async fn read(name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let value = if io::stdin().is_terminal() {
        let first = typed(format!("Value of `{name}`")).await?;
        let second = typed("The same again".to_owned()).await?;
        if *first != *second {
            return Err(Failure::new("value-differs", "the two values differ"));
        }
        first
    } else {
        blocking::run(piped).await?
    };
    if value.is_empty() {
        return Err(
            Failure::new("empty-value", "the value is empty: nothing is sealed")
                .hint(format!("`realm secret set {name} < FILE`, or type it"))
                .exit(exit::USAGE),
        );
    }
    if value.len() > SECRET_BYTES_MAX {
        return Err(Failure::new(
            "too-large",
            format!("a secret has at most {SECRET_BYTES_MAX} bytes"),
        ));
    }
    Ok(value)
}

async fn typed(prompt: String) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let text = owner::hidden(prompt).await?;
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

fn piped() -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Room for all of it at once: a buffer that grows would leave copies in memory.
    let mut value = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 3));
    io::stdin()
        .lock()
        .take(SECRET_BYTES_MAX as u64 + 3)
        .read_to_end(&mut value)?;
    // `echo` and editors put one there.
    if value.last() == Some(&b'\n') {
        value.pop();
        if value.last() == Some(&b'\r') {
            value.pop();
        }
    }
    Ok(value)
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    /// Null: it is no text.
    value: Option<&'a str>,
    bytes: &'a [u8],
}

/// Prints a value as it is; with `--json` as text and as bytes.
pub(super) fn print(context: &Context, name: &str, value: &[u8]) -> Result<(), Failure> {
    let text = str::from_utf8(value).ok();
    if context.json() {
        return output::json(&Shown {
            name,
            value: text,
            bytes: value,
        });
    }
    if !io::stdout().is_terminal() {
        return output::bytes(value);
    }
    if text.is_none_or(|text| text.chars().any(|one| one.is_control() && one != '\n')) {
        return Err(Failure::new(
            "not-text",
            "the value is no text that a terminal shows as it is",
        )
        .hint("redirect it: `realm secret show NAME > FILE`"));
    }
    output::data(text.unwrap_or_default());
    Ok(())
}
