//! Components that do the same and have each a digest of their own: the same bytes with a custom
//! section behind them. Also builds of a given size that say which one they are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The name of the section; nobody reads it.
const SECTION: &str = "variant";
/// What the example hello says, without the end of the line.
const TEXT: &str = "Hello from a component.";
/// LEB128 of a length of 32 bits.
const LENGTH_BYTES_MAX: usize = 5;

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

/// The bytes of build `number` of the example hello: it answers with [`says`], and is exactly `size` bytes
/// long, of which the most do not compress.
pub(crate) fn build(hello: &[u8], number: u32, size: usize) -> Result<Vec<u8>> {
    let mut bytes = hello.to_vec();
    let said = TEXT.as_bytes();
    let mut found = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(said));
    let (Some(at), None) = (found.next(), found.next()) else {
        bail!("the example hello does not say `{TEXT}` in one place");
    };
    bytes[at..at + said.len()].copy_from_slice(says(number).as_bytes());
    // Around the content: 0, its length, the length of the name, the name.
    let head = 1 + LENGTH_BYTES_MAX + 1 + SECTION.len();
    let Some(rest) = size.checked_sub(bytes.len() + head) else {
        bail!("hello alone has more than {size} bytes");
    };
    bytes.extend(section(&noise(number, rest), LENGTH_BYTES_MAX));
    Ok(bytes)
}

/// What build `number` answers, as long as what the example answers.
pub(crate) fn says(number: u32) -> String {
    format!("Hello from build {:06}", number % 1_000_000)
}

/// Bytes without a pattern, other ones for each number.
fn noise(number: u32, count: usize) -> Vec<u8> {
    // xorshift64, which is never 0.
    let mut state = ((u64::from(number) << 1) | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..count.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(count);
    bytes
}

fn variant(component: &[u8], number: u32) -> Vec<u8> {
    [component, &section(number.to_string().as_bytes(), 1)].concat()
}

/// Section 0: a length of at least so many bytes, the length of its name, the name, and anything.
fn section(content: &[u8], length_bytes: usize) -> Vec<u8> {
    [
        &[0],
        &length(1 + SECTION.len() + content.len(), length_bytes)[..],
        &length(SECTION.len(), 1),
        SECTION.as_bytes(),
        content,
    ]
    .concat()
}

/// LEB128 in at least so many bytes: it may be longer than it must.
fn length(bytes: usize, at_least: usize) -> Vec<u8> {
    let (mut left, mut out) = (bytes, Vec::new());
    loop {
        let low = u8::try_from(left & 0x7f).expect("seven bits");
        left >>= 7;
        let is_last = left == 0 && out.len() + 1 >= at_least;
        out.push(if is_last { low } else { low | 0x80 });
        if is_last {
            return out;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_behind_the_component() {
        assert_eq!(variant(b"wasm", 12), b"wasm\x00\x0a\x07variant12");
        assert_ne!(variant(b"wasm", 1), variant(b"wasm", 2));
    }

    #[test]
    fn a_build_has_its_size_and_says_which_it_is() {
        let hello = [b"wasm", TEXT.as_bytes(), b"end"].concat();
        let one = build(&hello, 7, 1_000).unwrap();
        assert_eq!(one.len(), 1_000);
        assert!(one.starts_with(b"wasmHello from build 000007end\x00"));
        assert_eq!(says(7).len(), TEXT.len());
        // The section ends where the file does: 1 and its length, then as many bytes as it says.
        let section = &one[hello.len()..];
        let length = section[1..6].iter().rev();
        let length = length.fold(0, |sum, byte| (sum << 7) | usize::from(byte & 0x7f));
        assert_eq!((section[5] & 0x80, 6 + length), (0, section.len()));
        let other = build(&hello, 8, 1_000).unwrap();
        assert_ne!(one[900..], other[900..]);
        assert!(build(&hello, 1, 10).is_err());
        assert!(build(b"silent", 1, 1_000).is_err());
        assert!(build(&[hello.clone(), hello].concat(), 1, 1_000).is_err());
    }
}
