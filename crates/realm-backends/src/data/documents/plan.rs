//! Which candidates a database is asked for: by the keys of one index, or all.

use realm_model::cloud::SqlValue;
use realm_model::cloud::documents::{Meant, Order, Standing, Tree};

use super::super::steps::{number, text};
use super::{ELEMENT, VALUE};

/// A statement and its values.
type Asked = (String, Vec<SqlValue>);

/// How candidates are found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    source: Source,
    /// They come in the order that is wanted; with `true`, backwards.
    sorted: Option<bool>,
}

#[derive(Debug, PartialEq, Eq)]
enum Source {
    All,
    /// By an index: those whose key is one of some, or within some.
    Keys {
        field: String,
        which: Which,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Which {
    In(Vec<Vec<u8>>),
    /// From the first on, and before the second.
    Within(Vec<u8>, Vec<u8>),
}

impl Which {
    fn of(meant: &Meant) -> Option<Self> {
        let value = |key: &Vec<u8>| [&[VALUE], &key[..]].concat();
        match meant {
            Meant::In(keys) => Some(Self::In(keys.iter().map(value).collect())),
            Meant::Within(from, to) => Some(Self::Within(value(from), value(to))),
            Meant::Containing(key) => Some(Self::In(vec![[&[ELEMENT], &key[..]].concat()])),
            Meant::Not(_) | Meant::There(_) => None,
        }
    }

    /// The less, the fewer candidates it is taken for.
    fn rank(&self) -> u8 {
        match self {
            Self::In(keys) if keys.len() <= 1 => 0,
            Self::In(_) => 1,
            Self::Within(..) => 2,
        }
    }
}

impl Plan {
    pub(super) fn of(tree: &Tree, order: &[Order], indexed: &[String]) -> Self {
        let needed = match tree {
            Tree::All(of) => of.iter().collect(),
            Tree::Any(_) | Tree::Field(..) => vec![tree],
        };
        let usable = needed.into_iter().filter_map(|one| match one {
            Tree::Field(field, meant) if indexed.contains(field) => {
                Some((field, Which::of(meant)?))
            }
            Tree::Field(..) | Tree::All(_) | Tree::Any(_) => None,
        });
        let best = usable.min_by_key(|(_, which)| which.rank());
        let keys = |(field, which): (&String, Which)| Source::Keys {
            field: field.clone(),
            which,
        };
        match (order, best) {
            ([], None) => Self::sorted(Source::All, false),
            // All of one key come by their ids.
            ([], Some(best)) if best.1.rank() == 0 => Self::sorted(keys(best), false),
            ([one], best)
                if indexed.contains(&one.field)
                    && best
                        .as_ref()
                        .is_none_or(|(field, which)| which.rank() == 2 && **field == one.field) =>
            {
                let whole = || Which::Within(vec![VALUE], vec![VALUE + 1]);
                let source = Source::Keys {
                    field: one.field.clone(),
                    which: best.map_or_else(whole, |(_, which)| which),
                };
                Self::sorted(source, one.descending)
            }
            (_, best) => Self {
                source: best.map_or(Source::All, keys),
                sorted: None,
            },
        }
    }

    fn sorted(source: Source, backwards: bool) -> Self {
        Self {
            source,
            sorted: Some(backwards),
        }
    }

    pub(super) fn is_sorted(&self) -> bool {
        self.sorted.is_some()
    }

    /// Every candidate.
    pub(super) fn all(&self, collection: &str) -> Asked {
        self.asked(collection).done()
    }

    /// The next candidates behind one, in order.
    pub(super) fn walk(&self, collection: &str, after: Option<&Standing>, at_once: usize) -> Asked {
        let mut asked = self.asked(collection);
        let (way, sort) = match self.sorted {
            Some(true) => (" < ", " DESC"),
            Some(false) | None => (" > ", ""),
        };
        let by_key = match &self.source {
            Source::Keys { which, .. } => which.rank() == 2,
            Source::All => false,
        };
        let id = match &self.source {
            Source::Keys { .. } => "k.id",
            Source::All => "d.id",
        };
        if let Some(after) = after {
            let key = after
                .keys
                .first()
                .map(|(key, _)| [&[VALUE], &key[..]].concat());
            match key.filter(|_| by_key) {
                Some(key) => {
                    asked.words(&format!(" AND (k.key, k.id){way}("));
                    asked.value(SqlValue::Bytes(key));
                    asked.words(", ");
                    asked.value(text(&after.id));
                    asked.words(")");
                }
                None => {
                    asked.words(&format!(" AND {id}{way}"));
                    asked.value(text(&after.id));
                }
            }
        }
        let first = if by_key {
            format!("k.key{sort}, ")
        } else {
            String::new()
        };
        asked.words(&format!(" ORDER BY {first}{id}{sort} LIMIT "));
        asked.value(number(at_once as u64));
        asked.done()
    }

    /// How many there are, where no document has to be read for that.
    pub(super) fn count(&self, tree: &Tree, collection: &str) -> Option<Asked> {
        let n_tests = match tree {
            Tree::All(of) if of.is_empty() => 0,
            Tree::All(of) if of.iter().all(|one| matches!(one, Tree::Field(..))) => of.len(),
            Tree::Field(..) => 1,
            Tree::All(_) | Tree::Any(_) => return None,
        };
        let mut asked = Statement::default();
        match &self.source {
            Source::All if n_tests == 0 => {
                asked.words("SELECT COUNT(*) FROM realm_documents AS d WHERE d.collection = ");
                asked.value(text(collection));
            }
            Source::Keys { field, which } if n_tests == 1 => {
                asked.words("SELECT COUNT(*) FROM realm_document_keys AS k WHERE ");
                asked.keys(collection, field, which);
            }
            Source::All | Source::Keys { .. } => return None,
        }
        Some(asked.done())
    }

    fn asked(&self, collection: &str) -> Statement {
        let mut asked = Statement::default();
        match &self.source {
            Source::All => {
                asked.words(
                    "SELECT d.id, d.revision, d.body FROM realm_documents AS d WHERE d.collection = ",
                );
                asked.value(text(collection));
            }
            Source::Keys { field, which } => {
                asked.words(
                    "SELECT d.id, d.revision, d.body FROM realm_document_keys AS k \
                     JOIN realm_documents AS d ON d.collection = k.collection AND d.id = k.id WHERE ",
                );
                asked.keys(collection, field, which);
            }
        }
        asked
    }
}

/// A statement that grows: words of this file, and places for values.
#[derive(Default)]
struct Statement {
    words: String,
    values: Vec<SqlValue>,
}

impl Statement {
    fn words(&mut self, words: &str) {
        self.words += words;
    }

    fn value(&mut self, value: SqlValue) {
        self.values.push(value);
        self.words += &format!("${}", self.values.len());
    }

    fn keys(&mut self, collection: &str, field: &str, which: &Which) {
        self.words("k.collection = ");
        self.value(text(collection));
        self.words(" AND k.field = ");
        self.value(text(field));
        match which {
            Which::In(keys) => {
                self.words(" AND k.key IN (");
                for (index, key) in keys.iter().enumerate() {
                    self.words(if index > 0 { ", " } else { "" });
                    self.value(SqlValue::Bytes(key.clone()));
                }
                // Of no keys it is none, which not every database takes as an empty list.
                self.words(if keys.is_empty() { "NULL)" } else { ")" });
            }
            Which::Within(from, to) => {
                self.words(" AND k.key >= ");
                self.value(SqlValue::Bytes(from.clone()));
                self.words(" AND k.key < ");
                self.value(SqlValue::Bytes(to.clone()));
            }
        }
    }

    fn done(self) -> Asked {
        (self.words, self.values)
    }
}
