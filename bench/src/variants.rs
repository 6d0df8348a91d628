//! Components that do the same and have each a digest of their own: the same bytes with a custom
//! section behind them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The name of the section; nobody reads it.
const SECTION: &str = "variant";

/// Writes `count` variants of a component into `folder`.
pub(crate) fn write(folder: &Path, component: &Path, count: u32) -> Result<Vec<PathBuf>> {
    let bytes = fs::read(component).with_context(|| format!("`{}`", component.display()))?;
    let one = |number: u32| {
        let file = folder.join(format!("{number}.wasm"));
        fs::write(&file, variant(&bytes, number))
            .with_context(|| format!("`{}`", file.display()))?;
        Ok(file)
    };
    (0..count).map(one).collect()
}

/// Section 0: a length, the length of its name, the name, and anything.
fn variant(component: &[u8], number: u32) -> Vec<u8> {
    let content = number.to_string();
    let (name_length, content_length) = (
        length(SECTION.len()),
        length(1 + SECTION.len() + content.len()),
    );
    let section = [
        &[0, content_length, name_length],
        SECTION.as_bytes(),
        content.as_bytes(),
    ]
    .concat();
    [component, &section].concat()
}

/// A length below 128 is its own LEB128.
fn length(bytes: usize) -> u8 {
    u8::try_from(bytes)
        .ok()
        .filter(|length| *length < 128)
        .expect("a short section")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_behind_the_component() {
        assert_eq!(variant(b"wasm", 12), b"wasm\x00\x0a\x07variant12");
        assert_ne!(variant(b"wasm", 1), variant(b"wasm", 2));
    }
}
