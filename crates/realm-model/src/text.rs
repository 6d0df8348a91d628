//! Text from outside made safe to show: a guest, a manifest or a peer wrote it, and a person
//! reads it in a terminal, a table or a page.
//!
//! What moves a cursor, reorders, hides or forges a line becomes visible. The work and the result
//! are bounded by the arguments, however large the text is. Not an escaping for a format (JSON,
//! HTML, a shell): who writes one does that after this.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use crate::fields::nearest;

/// Stands where a text was cut.
const CUT: char = '…';

/// Whether a terminal or a page would do something else with this character than show it.
///
/// A tab counts as shown; a line break does not.
pub const fn is_unprintable(c: char) -> bool {
    match c {
        '\t' => false,
        // C0, DEL and C1: escape sequences, line breaks, bells.
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => true,
        // Marks, embeddings, overrides and isolates of the bidirectional algorithm, and the
        // deprecated format characters beside them.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}' => {
            true
        }
        // Line and paragraph separators.
        '\u{2028}' | '\u{2029}' => true,
        // Interlinear annotations and tags: text that is not shown at all.
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

/// The text with each [unprintable](is_unprintable) character as `\u{1b}`: a line break, too.
///
/// A character becomes at most nine; a longer text than its place allows is cut by the caller,
/// before.
pub fn printable(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_unprintable) else {
        return Cow::Borrowed(text);
    };
    let mut safe = String::with_capacity(text.len() + 16);
    safe.push_str(&text[..first]);
    for c in text[first..].chars() {
        if is_unprintable(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// The text as one line of at most `chars_max` characters, for a table cell or a log field.
///
/// Each run of white space and control characters becomes one space, none at the ends; the other
/// unprintable characters are escaped. Where something was cut off, the last character is `…`.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let mut line = String::new();
    let mut chars = 0;
    // Where a cut leaves room for its mark.
    let mut cut = 0;
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            gap = !line.is_empty();
            continue;
        }
        let escape = is_unprintable(c).then(|| c.escape_unicode());
        chars += usize::from(gap) + escape.as_ref().map_or(1, ExactSizeIterator::len);
        if chars > chars_max {
            line.truncate(cut);
            if chars_max > 0 {
                line.push(CUT);
            }
            return line;
        }
        if gap {
            line.push(' ');
            gap = false;
        }
        match escape {
            Some(escape) => line.extend(escape),
            None => line.push(c),
        }
        if chars < chars_max {
            cut = line.len();
        }
    }
    line
}

/// The longest beginning of `text` that has at most `bytes_max` bytes and ends between two
/// characters.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The first `bytes_max` bytes (whole characters) of what `value` writes; the rest is never made.
pub fn start_of(value: impl Display, bytes_max: usize) -> String {
    let mut start = Start {
        text: String::new(),
        bytes_max,
    };
    // An error says that the text is full, or that a `Display` failed: what is there is the start.
    let _ = write!(start, "{value}");
    start.text
}

/// Standard base64, with padding.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of [`base64`]; `None`: it is none.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

struct Start {
    text: String,
    bytes_max: usize,
}

impl fmt::Write for Start {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let room = self.bytes_max - self.text.len();
        let fitting = cut(piece, room);
        self.text.push_str(fitting);
        if fitting.len() == piece.len() {
            Ok(())
        } else {
            // No later, shorter piece may slip in behind the gap.
            self.bytes_max = self.text.len();
            Err(fmt::Error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_unprintable_is_shown() {
        for (text, expected) in [
            ("plain\tüß 語 👩‍🚀", "plain\tüß 語 👩‍🚀"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\nb\r\0", "a\\u{a}b\\u{d}\\u{0}"),
            ("\u{9b}1m\u{7f}", "\\u{9b}1m\\u{7f}"),
            ("\u{202e}evil\u{2069}", "\\u{202e}evil\\u{2069}"),
            ("a\u{2028}b\u{61c}", "a\\u{2028}b\\u{61c}"),
            ("\u{e0041}", "\\u{e0041}"),
            ("", ""),
        ] {
            assert_eq!(printable(text), expected);
        }
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
    }

    #[track_caller]
    fn check(text: &str, chars_max: usize, expected: &str) {
        assert_eq!(one_line(text, chars_max), expected);
    }

    #[test]
    fn a_line_is_one_and_short() {
        check("a\n\tb\u{1b}[31m  c", 100, "a b [31m c");
        check(" \n a \n ", 100, "a");
        check("a\u{2028}b\u{a0}c", 100, "a b c");
        check("x\u{202e}y", 100, "x\\u{202e}y");
        check("", 0, "");
    }

    #[test]
    fn what_was_cut_is_marked() {
        check("abc", 3, "abc");
        check("abc  ", 3, "abc");
        check("abcd", 3, "ab…");
        check("ab cd", 3, "ab…");
        check("äöüß", 3, "äö…");
        // An escape is whole or not there.
        check("ab\u{202e}", 10, "ab\\u{202e}");
        check("ab\u{202e}c", 10, "ab…");
        check("ab\u{202e}cd", 11, "ab\\u{202e}…");
        check("abc", 1, "…");
        check("abc", 0, "");
        assert_eq!(one_line(&"x".repeat(1_000_000), 500).chars().count(), 500);
    }

    #[test]
    fn a_cut_is_between_characters() {
        assert_eq!(cut("aäb", 2), "a");
        assert_eq!(cut("aäb", 3), "aä");
        assert_eq!(cut("aäb", 100), "aäb");
        assert_eq!(cut("ä", 0), "");
    }

    #[test]
    fn only_the_start_is_made() {
        let text = "x".repeat(1_000);
        assert_eq!(start_of(format_args!("{text:?}"), 4), "\"xxx");
        assert_eq!(start_of(format_args!("aä{}", 1), 2), "a");
        assert_eq!(start_of("ab", 2), "ab");
        assert_eq!(start_of("", 0), "");

        struct Endless;
        impl Display for Endless {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    formatter.write_str("ab")?;
                }
            }
        }
        assert_eq!(start_of(Endless, 5), "ababa");
    }

    proptest! {
        #[test]
        fn nothing_unprintable_is_left(text: String) {
            let safe = printable(&text);
            prop_assert!(!safe.contains(is_unprintable));
            prop_assert!(safe.chars().count() <= text.chars().count() * 9);
            prop_assert_eq!(printable(&safe), safe.as_ref());
        }

        #[test]
        fn a_line_is_bounded_and_stays_as_it_is(text: String, chars_max in 0usize..64) {
            let line = one_line(&text, chars_max);
            prop_assert!(line.chars().count() <= chars_max);
            prop_assert!(!line.contains(|c| is_unprintable(c) || c == '\t'));
            prop_assert!(!line.contains("  ") && line.trim() == line);
            prop_assert_eq!(one_line(&line, chars_max), line);
        }

        #[test]
        fn a_cut_is_a_beginning(text: String, bytes_max in 0usize..64) {
            let start = cut(&text, bytes_max);
            prop_assert!(start.len() <= bytes_max && text.starts_with(start));
            prop_assert!(start.len() + 4 > bytes_max || start == text);
        }
    }
}
