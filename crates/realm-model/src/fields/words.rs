//! Words of messages: the nearest known one, and texts cut to a size.

use crate::text::is_unprintable;

/// The known word that is nearest to what was written, if one is near.
pub fn nearest<'w>(written: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let written: String = written.chars().take(64).collect::<String>().to_lowercase();
    let length = written.chars().count();
    known
        .filter_map(|word| {
            let others = word.chars().count();
            let reach = 1 + length.min(others) / 4;
            // A word that begins with the other is near whatever its length: `memory` is for `memory_max_mb`.
            if length >= 3
                && others >= 3
                && (word.starts_with(&written) || written.starts_with(word))
            {
                return Some((reach.min(length.abs_diff(others)), word));
            }
            // The lengths alone tell most pairs apart, and cost nothing.
            (length.abs_diff(others) <= reach)
                .then(|| (strsim::osa_distance(&written, &word.to_lowercase()), word))
                .filter(|(distance, _)| *distance <= reach)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// A text short enough for a message.
pub(crate) fn cut(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let mut short: String = text.chars().take(CHARACTERS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    // A message is one line, and no text of a file may move a terminal's cursor.
    short
        .chars()
        .flat_map(|c| {
            if c.is_control() || is_unprintable(c) {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = [
            "source",
            "memory_max_mb",
            "max_concurrency",
            "env",
            "vars",
            "dirs",
        ];
        for (written, expected) in [
            ("sorce", Some("source")),
            ("Source", Some("source")),
            ("memory", Some("memory_max_mb")),
            ("memory_max", Some("memory_max_mb")),
            ("memory_max_mib", Some("memory_max_mb")),
            ("max_concurency", Some("max_concurrency")),
            ("environment", Some("env")),
            ("var", Some("vars")),
            ("dir", Some("dirs")),
            ("timeout", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, known.into_iter()), expected, "{written}");
        }
        let long = "x".repeat(100_000);
        assert_eq!(nearest(&long, known.into_iter()), None);
    }

    #[test]
    fn a_text_is_cut_and_printable() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(81)), format!("{}…", "ä".repeat(80)));
        assert_eq!(cut("a\nb\u{1b}\u{202e}"), "a\\nb\\u{1b}\\u{202e}");
    }
}
