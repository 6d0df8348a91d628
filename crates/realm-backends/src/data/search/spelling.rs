//! Words and queries as each database reads them.
//!
//! Words have letters and digits alone, so that nothing in them means anything to a database; where one
//! stands that is not to be found, `_` keeps its place.

use std::collections::BTreeMap;

use realm_model::cloud::search::{PartWords, Term, Terms, Weight};

/// A word that no text has, for a collection: each text of it has it in a column of its own.
pub(super) fn space(collection: &str) -> String {
    let hex: String = collection
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("s{hex}")
}

/// SQLite: the words of each weight.
pub(super) fn columns(parts: &[PartWords]) -> [String; 4] {
    Weight::ALL.map(|weight| {
        let own = parts.iter().filter(|(own, _)| *own == weight);
        let joined = own.map(|(_, words)| {
            let words = words.iter().map(|word| word.as_deref().unwrap_or("_"));
            words.collect::<Vec<_>>().join(" ")
        });
        // A phrase does not go from one part into the next.
        joined.collect::<Vec<_>>().join(" _ ")
    })
}

/// SQLite: a query of FTS5.
pub(super) fn matching(collection: &str, terms: &Terms) -> String {
    let spelt = |term: &Term| {
        let star = if term.prefix { " *" } else { "" };
        format!("\"{}\"{star}", term.words.join(" "))
    };
    let all: Vec<_> = terms.all.iter().map(spelt).collect();
    let none: Vec<_> = terms.none.iter().map(spelt).collect();
    let mut wanted = format!("({})", all.join(" AND "));
    if !none.is_empty() {
        wanted = format!("({wanted} NOT ({}))", none.join(" OR "));
    }
    format!(
        "space : \"{}\" AND {{a b c d}} : {wanted}",
        space(collection)
    )
}

/// PostgreSQL: a `tsvector`, each word with its places and their weights.
pub(super) fn vector(parts: &[PartWords]) -> String {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut at = 0;
    for (weight, words) in parts {
        for word in words {
            at += 1;
            if let Some(word) = word {
                places
                    .entry(word)
                    .or_default()
                    .push(format!("{at}{}", weight.letter()));
            }
        }
        // A phrase does not go from one part into the next.
        at += 1;
    }
    let words = places
        .iter()
        .map(|(word, places)| format!("'{word}':{}", places.join(",")));
    words.collect::<Vec<_>>().join(" ")
}

/// PostgreSQL: a `tsquery`.
pub(super) fn query(terms: &Terms) -> String {
    let spelt = |term: &Term| {
        let last = term.words.len() - 1;
        let words = term.words.iter().enumerate().map(|(index, word)| {
            let star = if term.prefix && index == last {
                ":*"
            } else {
                ""
            };
            format!("'{word}'{star}")
        });
        format!("({})", words.collect::<Vec<_>>().join(" <-> "))
    };
    let all = terms.all.iter().map(spelt);
    let none = terms.none.iter().map(|term| format!("!{}", spelt(term)));
    all.chain(none).collect::<Vec<_>>().join(" & ")
}
