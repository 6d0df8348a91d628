//! Texts, found by their words.
//!
//! What a word is, what a query means and what is shown of a text is decided here, so that it is the same
//! for each database: they get words that are cut already. Only how well a text fits is their own.

use std::collections::BTreeMap;

use super::documents::{DataError, Place};
use super::{Answer, CloudError, limits, within};

/// Texts in indexes of databases.
pub trait Search: Send + Sync {
    /// Writes a text of several parts, whether it was there or not, with attributes in JSON.
    fn put<'a>(&'a self, at: Place<'a>, text: &'a Text) -> Answer<'a, (), DataError>;

    /// Deletes one: whether it was there.
    fn delete<'a>(&'a self, at: Place<'a>, id: &'a str) -> Answer<'a, bool, DataError>;

    /// Those that a query means, the best first.
    fn search<'a>(&'a self, at: Place<'a>, look: &'a Look) -> Answer<'a, Vec<Hit>, DataError>;
}

/// A text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    /// Its id.
    pub id: String,
    /// Its parts.
    pub parts: Vec<(Weight, String)>,
    /// An object in JSON.
    pub attributes: String,
}

impl Text {
    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(|(_, text)| text.len()).sum();
        size_of_val(self.parts.as_slice()) + parts + self.id.len() + self.attributes.len()
    }
}

/// How much a word of a part counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The most.
    Title,
    /// Much.
    Heading,
    /// As usual.
    Body,
    /// A little.
    Note,
}

impl Weight {
    /// From the most to the least.
    pub const ALL: [Self; 4] = [Self::Title, Self::Heading, Self::Body, Self::Note];

    /// As it is kept: PostgreSQL's own letters.
    pub const fn letter(self) -> char {
        match self {
            Self::Title => 'A',
            Self::Heading => 'B',
            Self::Body => 'C',
            Self::Note => 'D',
        }
    }
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// In the language of queries: see [`Terms::of`].
    pub query: String,
    /// How many, at most.
    pub limit: u32,
    /// Behind how many of the best.
    pub offset: u32,
}

/// A text that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Its id.
    pub id: String,
    /// The greater, the better; comparable with those of the same answer.
    pub score: f64,
    /// A piece of the part in which most of the words are.
    pub snippet: Snippet,
    /// Its attributes.
    pub attributes: String,
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snippet {
    /// As it was put.
    pub text: String,
    /// Where in it words of the query are: from which byte, and before which.
    pub marks: Vec<(usize, usize)>,
}

/// A word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// In small letters, without accents, cut after [`limits::WORD_BYTES_MAX`].
    pub folded: String,
    /// Where it begins in the text.
    pub from: usize,
    /// Where it is over.
    pub to: usize,
}

/// The words of a text: runs of letters and digits. An ideograph is a word of its own.
pub fn words(text: &str) -> Vec<Word> {
    first_words(text, usize::MAX)
}

/// The first of them, of which no more than so many are looked for.
fn first_words(text: &str, n_max: usize) -> Vec<Word> {
    let mut found: Vec<Word> = Vec::new();
    let mut open = false;
    for (at, c) in text.char_indices() {
        if found.len() > n_max {
            break;
        }
        let to = at + c.len_utf8();
        if is_mark(c) {
            if let Some(last) = found.last_mut().filter(|_| open) {
                last.to = to;
            }
            continue;
        }
        if !c.is_alphanumeric() {
            open = false;
            continue;
        }
        let alone = is_ideograph(c);
        if !open || alone {
            found.push(Word {
                folded: String::new(),
                from: at,
                to,
            });
        }
        if let Some(last) = found.last_mut() {
            last.to = to;
            fold(c, &mut last.folded);
        }
        open = !alone;
    }
    found.truncate(n_max);
    // A capital may fold to nothing but a mark.
    found.retain(|word| !word.folded.is_empty());
    found
}

/// Marks that are set over a letter, which make no other word of it.
fn is_mark(c: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&c)
}

/// Scripts that put no blank between words.
fn is_ideograph(c: char) -> bool {
    matches!(c,
        '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// The small letter without its accent, as long as the word has room.
fn fold(c: char, into: &mut String) {
    for c in c.to_lowercase() {
        let plain: &str = match c {
            'à'..='å' | 'ā' | 'ă' | 'ą' | 'ǎ' => "a",
            'æ' => "ae",
            'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => "c",
            'ď' | 'đ' | 'ð' => "d",
            'è'..='ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => "e",
            'ĝ' | 'ğ' | 'ġ' | 'ģ' => "g",
            'ĥ' | 'ħ' => "h",
            'ì'..='ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' | 'ı' => "i",
            'ĵ' => "j",
            'ķ' => "k",
            'ĺ' | 'ļ' | 'ľ' | 'ŀ' | 'ł' => "l",
            'ñ' | 'ń' | 'ņ' | 'ň' => "n",
            'ò'..='ö' | 'ø' | 'ō' | 'ŏ' | 'ő' => "o",
            'œ' => "oe",
            'ŕ' | 'ŗ' | 'ř' => "r",
            'ś' | 'ŝ' | 'ş' | 'š' | 'ș' => "s",
            'ß' => "ss",
            'ţ' | 'ť' | 'ŧ' | 'ț' => "t",
            'þ' => "th",
            'ù'..='ü' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' => "u",
            'ŵ' => "w",
            'ý' | 'ÿ' | 'ŷ' => "y",
            'ź' | 'ż' | 'ž' => "z",
            _ => "",
        };
        let room = limits::WORD_BYTES_MAX.saturating_sub(into.len());
        if !plain.is_empty() {
            if plain.len() <= room {
                into.push_str(plain);
            }
        } else if !is_mark(c) && c.is_alphanumeric() && c.len_utf8() <= room {
            into.push(c);
        }
    }
}

/// The words of a part, in their order; nothing where one is not to be found.
pub type PartWords = (Weight, Vec<Option<String>>);

/// A query that was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// Each of these has to be there: one at least.
    pub all: Vec<Term>,
    /// None of these may be.
    pub none: Vec<Term>,
}

/// A word, or several one right behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Folded as [`words`] does.
    pub words: Vec<String>,
    /// The last word is the beginning of one.
    pub prefix: bool,
}

impl Terms {
    /// Reads a query: words, all of which have to be in a text; `"several words"` one right behind the
    /// other; `begin*` for a word that begins so; `-` before any of them for what may not be there.
    /// Anything else between words means nothing.
    pub fn of(query: &str) -> Result<Self, CloudError> {
        within("the query", query.len(), limits::QUERY_BYTES_MAX)?;
        let mut terms = Self::default();
        let mut rest = query.trim_start();
        while !rest.is_empty() {
            let (negative, after) = match rest.strip_prefix('-') {
                Some(after) => (true, after),
                None => (false, rest),
            };
            let (piece, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => {
                    let end = after.find(|c: char| c.is_whitespace() || c == '"');
                    after.split_at(end.unwrap_or(after.len()))
                }
            };
            let (prefix, after) = match after.strip_prefix('*') {
                Some(after) => (true, after),
                None => (piece.ends_with('*'), after),
            };
            let term = Term {
                words: words(piece).into_iter().map(|word| word.folded).collect(),
                prefix,
            };
            if !term.words.is_empty() {
                let list = if negative {
                    &mut terms.none
                } else {
                    &mut terms.all
                };
                list.push(term);
            }
            rest = after.trim_start();
        }
        if terms.all.len() + terms.none.len() > limits::TERMS_MAX {
            let max = limits::TERMS_MAX;
            return Err(CloudError::Invalid(format!(
                "a query has {max} terms at most"
            )));
        }
        if terms.all.is_empty() {
            let why = "a query has a word that has to be there";
            return Err(CloudError::Invalid(why.to_owned()));
        }
        Ok(terms)
    }

    /// The piece of a text in which most of the words are. Of a text that has more words than
    /// [`limits::WORDS_MAX`] the first ones are looked at.
    pub fn snippet(&self, parts: &[(Weight, String)]) -> Snippet {
        let wanted = Wanted::of(self);
        let mut best: Option<(usize, &str, Vec<Known>)> = None;
        let mut n_left = limits::WORDS_MAX;
        for (_, text) in parts {
            let words = first_words(text, n_left);
            n_left -= words.len();
            let words: Vec<Known> = words.into_iter().map(|word| wanted.known(&word)).collect();
            for piece in windows(&words) {
                let mut which: Vec<_> = piece.iter().filter_map(|word| word.which).collect();
                which.sort_unstable();
                which.dedup();
                if best
                    .as_ref()
                    .is_none_or(|(n_best, ..)| which.len() > *n_best)
                {
                    best = Some((which.len(), text, piece.to_vec()));
                }
            }
        }
        let Some((_, text, piece)) = best else {
            return Snippet::default();
        };
        let from = piece.first().map_or(0, |word| word.from);
        let to = piece.last().map_or(0, |word| word.to);
        let marked = piece.iter().filter(|word| word.which.is_some());
        Snippet {
            text: cut(&text[from..to]),
            marks: marked
                .map(|word| (word.from - from, word.to - from))
                .filter(|(_, end)| *end <= limits::SNIPPET_BYTES_MAX)
                .collect(),
        }
    }
}

/// The words that have to be there, by what they are and by what they begin with: each word of a text is
/// looked up once, and not compared with all of them.
struct Wanted<'a> {
    whole: BTreeMap<&'a str, usize>,
    /// As many as a query has terms.
    beginnings: Vec<(&'a str, usize)>,
}

/// Where a word of a text is, and which of those that are wanted it is.
#[derive(Clone, Copy)]
struct Known {
    from: usize,
    to: usize,
    which: Option<usize>,
}

impl<'a> Wanted<'a> {
    fn of(terms: &'a Terms) -> Self {
        let all = terms.all.iter().flat_map(|term| {
            let last = term.words.len() - 1;
            let words = term.words.iter().enumerate();
            words.map(move |(index, word)| (word.as_str(), term.prefix && index == last))
        });
        let mut wanted = Self {
            whole: BTreeMap::new(),
            beginnings: Vec::new(),
        };
        for (index, (word, prefix)) in all.enumerate() {
            wanted.whole.entry(word).or_insert(index);
            if prefix {
                wanted.beginnings.push((word, index));
            }
        }
        wanted
    }

    fn known(&self, word: &Word) -> Known {
        let whole = self.whole.get(word.folded.as_str()).copied();
        let mut beginnings = self.beginnings.iter();
        let begins = beginnings.find(|(wanted, _)| word.folded.starts_with(wanted));
        let begins = begins.map(|(_, index)| *index);
        Known {
            from: word.from,
            to: word.to,
            which: whole.into_iter().chain(begins).min(),
        }
    }
}

/// Pieces that may be shown: around each word that is looked for, and the beginning.
fn windows(words: &[Known]) -> Vec<&[Known]> {
    let n_words = limits::SNIPPET_WORDS;
    let piece = |at: usize| {
        let from = at
            .saturating_sub(n_words / 4)
            .min(words.len().saturating_sub(n_words));
        &words[from..words.len().min(from + n_words)]
    };
    let found = words
        .iter()
        .enumerate()
        .filter(|(_, word)| word.which.is_some());
    let around = found.map(|(at, _)| piece(at)).take(limits::SNIPPET_TRIES);
    let first = (!words.is_empty()).then(|| piece(0));
    around.chain(first).collect()
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(limits::SNIPPET_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Checks a text: its words, part by part. One that is there too often has a hole in its place.
pub fn check_text(text: &Text) -> Result<Vec<PartWords>, CloudError> {
    super::documents::check_id(&text.id)?;
    super::vectors::check_attributes(&text.attributes)?;
    if text.parts.len() > limits::PARTS_MAX {
        let max = limits::PARTS_MAX;
        return Err(CloudError::Invalid(format!(
            "a text has {max} parts at most"
        )));
    }
    let bytes = text.parts.iter().map(|(_, part)| part.len()).sum();
    within("the text", bytes, limits::TEXT_BYTES_MAX)?;
    let mut times = BTreeMap::new();
    let mut n_words = 0;
    let mut parts = Vec::new();
    for (weight, part) in &text.parts {
        if part.contains('\0') {
            return Err(CloudError::Invalid("a text has a zero byte".to_owned()));
        }
        let words = first_words(part, limits::WORDS_MAX);
        n_words += words.len() + 1;
        let seen = words.into_iter().map(|word| {
            let n_times: &mut usize = times.entry(word.folded.clone()).or_default();
            *n_times += 1;
            (*n_times <= limits::WORD_TIMES_MAX).then_some(word.folded)
        });
        parts.push((*weight, seen.collect()));
    }
    if n_words > limits::WORDS_MAX {
        let max = limits::WORDS_MAX;
        return Err(CloudError::Invalid(format!(
            "a text has {max} words at most"
        )));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folded(text: &str) -> Vec<String> {
        words(text).into_iter().map(|word| word.folded).collect()
    }

    proptest! {
        #[test]
        fn any_text_has_words_within_it(text in ".{0,60}", query in ".{0,40}") {
            for word in words(&text) {
                let own = &text[word.from..word.to];
                prop_assert!(!own.is_empty() && word.folded.len() <= limits::WORD_BYTES_MAX);
                // What is folded stays as it is.
                prop_assert_eq!(folded(&word.folded), vec![word.folded]);
            }
            let terms = Terms::of(&(query + " a")).unwrap();
            let snippet = terms.snippet(&[(Weight::Body, text.clone())]);
            prop_assert!(text.contains(&snippet.text));
            for (from, to) in snippet.marks {
                prop_assert!(from < to && snippet.text.get(from..to).is_some());
            }
        }
    }

    #[test]
    fn words_are_what_people_take_for_them() {
        for (text, expected) in [
            ("Hello, world!", "hello world"),
            ("it's e-mail_x 3.14", "it s e mail x 3 14"),
            ("\u{c9}cole \u{e9}cole e\u{301}cole", "ecole ecole ecole"),
            (
                "Stra\u{df}e \u{130}stanbul \u{141}\u{f3}d\u{17a}",
                "strasse istanbul lodz",
            ),
            ("\u{6771}\u{4eac}tower", "\u{6771} \u{4eac} tower"),
            ("\u{41c}\u{418}\u{420}", "\u{43c}\u{438}\u{440}"),
            ("\u{1F980} -- _", ""),
        ] {
            assert_eq!(folded(text).join(" "), expected, "{text}");
        }
        assert_eq!(folded(&"x".repeat(1_000))[0].len(), limits::WORD_BYTES_MAX);
    }

    #[test]
    fn queries_are_read() {
        let term = |words: &[&str], prefix| Term {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            prefix,
        };
        let terms =
            Terms::of("Dog \"big  Cat\" be* -bird -\"a b\" \"so o\"* e-mail ' OR 1=1").unwrap();
        assert_eq!(
            terms.all,
            [
                term(&["dog"], false),
                term(&["big", "cat"], false),
                term(&["be"], true),
                term(&["so", "o"], true),
                term(&["e", "mail"], false),
                term(&["or"], false),
                term(&["1", "1"], false),
            ]
        );
        assert_eq!(
            terms.none,
            [term(&["bird"], false), term(&["a", "b"], false)]
        );
        let many = "a ".repeat(limits::TERMS_MAX + 1);
        for query in ["", "-a", "\"\"", "*", "()", "- -", &many] {
            assert_eq!(Terms::of(query).unwrap_err().code(), "invalid", "{query}");
        }
        assert_eq!(
            Terms::of(&"a".repeat(2_000)).unwrap_err().code(),
            "too-large"
        );
        assert_eq!(
            Terms::of("\"open end").unwrap().all,
            [term(&["open", "end"], false)]
        );
    }

    /// A database may hold what was not put here.
    #[test]
    fn only_so_many_words_of_a_text_are_looked_at() {
        let many = "a ".repeat(limits::WORDS_MAX) + "last";
        assert_eq!(
            first_words(&many, limits::WORDS_MAX).len(),
            limits::WORDS_MAX
        );
        assert_eq!(first_words("a b", 2).len(), 2);
        assert_eq!(first_words("a b", 1).len(), 1);
        assert_eq!(first_words("a b", 0).len(), 0);
        let part = |text: &str| (Weight::Body, text.to_owned());
        let snippet = Terms::of("last")
            .unwrap()
            .snippet(&[part(&many), part("last")]);
        assert_eq!(snippet.marks, []);
        let text = Text {
            id: "a".to_owned(),
            parts: vec![part(&many)],
            attributes: "{}".to_owned(),
        };
        assert_eq!(check_text(&text).unwrap_err().code(), "invalid");
    }

    #[test]
    fn a_snippet_shows_where_most_words_are() {
        let far = "filler ".repeat(100) + "<b>Quick</b> brown F\u{f4}x " + &"more ".repeat(100);
        let parts = [(Weight::Title, "A fox".to_owned()), (Weight::Body, far)];
        let snippet = Terms::of("quick fo*").unwrap().snippet(&parts);
        let marked: Vec<_> = snippet
            .marks
            .iter()
            .map(|(from, to)| &snippet.text[*from..*to])
            .collect();
        assert_eq!(marked, ["Quick", "F\u{f4}x"]);
        assert!(snippet.text.contains("<b>Quick</b>") && snippet.text.len() < 300);
        assert_eq!(Terms::of("x").unwrap().snippet(&[]), Snippet::default());
    }
}
