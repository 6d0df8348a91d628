//! Documents: JSON objects in collections, found by their fields.
//!
//! What a filter means and how documents are sorted is said once and for every database: [`Tree::matches`]
//! and the order of [`super::json::key`]. A backend may find candidates as it likes and asks whether they
//! are meant.

use std::cmp::Ordering;

pub use super::filter::{Filter, Meant, Node, Scalar, Test, Tree, Work, elements};
use super::json::{self, Json};
use super::{Answer, CloudError, limits, within};

/// Documents in collections of databases.
pub trait Documents: Send + Sync {
    /// Writes a document: its revision.
    fn put<'a>(
        &'a self,
        at: Place<'a>,
        id: &'a str,
        body: &'a str,
        expected: Expected,
    ) -> Answer<'a, u64, DataError>;

    /// Reads one.
    fn get<'a>(&'a self, at: Place<'a>, id: &'a str) -> Answer<'a, Option<Document>, DataError>;

    /// Deletes one: whether it was there.
    fn delete<'a>(
        &'a self,
        at: Place<'a>,
        id: &'a str,
        expected: Expected,
    ) -> Answer<'a, bool, DataError>;

    /// A page of those that a filter means, in an order.
    fn find<'a>(&'a self, at: Place<'a>, query: &'a Query) -> Answer<'a, Page, DataError>;

    /// How many a filter means.
    fn count<'a>(&'a self, at: Place<'a>, filter: &'a Filter) -> Answer<'a, u64, DataError>;

    /// Keeps an index over a field from here on; one that is there already stays.
    fn index<'a>(&'a self, at: Place<'a>, field: &'a str) -> Answer<'a, (), DataError>;
}

/// A collection of a database, for one component.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The database: see [`super::Sql::open`].
    pub database: &'a str,
    /// The name of the collection, checked by [`check_collection`].
    pub collection: &'a str,
    /// What all databases together may grow to.
    pub bytes_max: u64,
    /// Where a call counts what it holds.
    pub meter: &'a dyn Meter,
}

/// Counts bytes that calls hold while they wait for a database, beside what their callers gave them.
pub trait Meter: Send + Sync {
    /// So many more.
    ///
    /// # Errors
    /// When there is no room for them.
    fn more(&self, n_bytes: usize) -> Result<(), CloudError>;

    /// So many of them are gone.
    fn less(&self, n_bytes: usize);
}

/// What has to be there for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is.
    Anything,
    /// Nothing.
    Absent,
    /// The document as it was read.
    Revision(u64),
}

/// A document as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id.
    pub id: String,
    /// Another one after each change, also where it was deleted in between.
    pub revision: u64,
    /// Its JSON, byte by byte as it was put.
    pub body: String,
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// Which documents.
    pub filter: Filter,
    /// Sorted by these fields, then by id, in the direction of the first.
    pub order: Vec<Order>,
    /// At most so many.
    pub limit: u32,
    /// Those after the last of an earlier page.
    pub cursor: Option<String>,
}

impl Query {
    /// Bytes of its paths and texts.
    pub fn bytes(&self) -> usize {
        let order: usize = self.order.iter().map(|one| one.field.len()).sum();
        self.filter.bytes() + order + self.cursor.as_ref().map_or(0, String::len)
    }
}

/// One field of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// A path.
    pub field: String,
    /// The greatest first.
    pub descending: bool,
}

/// Documents that were found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// As many as asked for, or as fit.
    pub documents: Vec<Document>,
    /// Where the next ones begin; `None`: these were the last.
    pub cursor: Option<String>,
}

/// Why a call over documents, vectors or texts did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// What is there is not what was expected.
    #[error("what is there is not what was expected")]
    Conflict,
    /// Everything else.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

impl DataError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Cloud(error) => error.code(),
        }
    }
}

fn invalid<T>(why: impl Into<String>) -> Result<T, CloudError> {
    Err(CloudError::Invalid(why.into()))
}

/// Checks the name of a collection or an index.
pub fn check_collection(name: &str) -> Result<(), CloudError> {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    if !name.is_empty() && name.len() <= limits::COLLECTION_BYTES_MAX && name.bytes().all(plain) {
        return Ok(());
    }
    let max = limits::COLLECTION_BYTES_MAX;
    invalid(format!(
        "a collection has 1 to {max} of `a-z`, `0-9`, `_` and `-` as its name"
    ))
}

/// Checks an id.
pub fn check_id(id: &str) -> Result<(), CloudError> {
    within("the id", id.len(), limits::DATA_ID_BYTES_MAX)?;
    if id.is_empty() || id.chars().any(char::is_control) {
        return invalid("an id is empty, or has control characters");
    }
    Ok(())
}

/// Checks a path of names with `.` between them.
pub fn check_field(path: &str) -> Result<(), CloudError> {
    within("the path of a field", path.len(), limits::FIELD_BYTES_MAX)?;
    let fine = path.split('.').all(|name| !name.is_empty()) && !path.chars().any(char::is_control);
    if fine && path.split('.').count() <= limits::DOCUMENT_DEPTH_MAX {
        return Ok(());
    }
    invalid("a field is named by a path like `address.city`, without control characters")
}

/// Checks the fields of an order.
pub fn check_order(order: &[Order]) -> Result<(), CloudError> {
    if order.len() > limits::ORDER_FIELDS_MAX {
        return invalid(format!(
            "an order has {} fields at most",
            limits::ORDER_FIELDS_MAX
        ));
    }
    order.iter().try_for_each(|one| check_field(&one.field))
}

/// Where a document stands in an order: comparable with those of the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// A key for each field, and whether the greatest is first.
    pub keys: Vec<(Vec<u8>, bool)>,
    /// The id.
    pub id: String,
}

impl Standing {
    /// Of a document. Only the beginning of a long text counts.
    pub fn of(order: &[Order], document: &Json<'_>, id: &str) -> Self {
        let keys = order.iter().map(|one| {
            let value = document.at(&one.field);
            let key = json::key_within(value, limits::ORDER_KEY_BYTES_MAX);
            (key, one.descending)
        });
        Self {
            keys: keys.collect(),
            id: id.to_owned(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let keys = self.keys.iter().map(|(key, _)| key.len());
        keys.sum::<usize>() + size_of_val(self.keys.as_slice()) + self.id.len()
    }

    /// As text, for the next page: each key in hexadecimal behind its direction, then the id.
    pub fn cursor(&self) -> String {
        let mut text = String::new();
        for (key, descending) in &self.keys {
            text.push(if *descending { '>' } else { '<' });
            text.extend(key.iter().map(|byte| format!("{byte:02x}")));
        }
        text + "." + &self.id
    }

    /// Reads one of the same order.
    pub fn read(order: &[Order], cursor: &str) -> Result<Self, CloudError> {
        within("the cursor", cursor.len(), limits::CURSOR_BYTES_MAX)?;
        Self::parse(order, cursor)
            .ok_or_else(|| CloudError::Invalid("the cursor is none of this query".to_owned()))
    }

    fn parse(order: &[Order], cursor: &str) -> Option<Self> {
        let (mut rest, id) = cursor.split_once('.')?;
        check_id(id).ok()?;
        let mut keys = Vec::new();
        for one in order {
            rest = rest.strip_prefix(if one.descending { '>' } else { '<' })?;
            let end = rest.find(['<', '>']).unwrap_or(rest.len());
            keys.push((bytes_of(&rest[..end])?, one.descending));
            rest = &rest[end..];
        }
        rest.is_empty().then(|| Self {
            keys,
            id: id.to_owned(),
        })
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair)
            .ok()
            .filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    pairs.collect()
}

impl Ord for Standing {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = self
            .keys
            .iter()
            .zip(&other.keys)
            .map(|((own, descending), (other, _))| {
                let compared = own.cmp(other);
                if *descending {
                    compared.reverse()
                } else {
                    compared
                }
            });
        let by_id = self.id.cmp(&other.id);
        let reversed = self.keys.first().is_some_and(|(_, descending)| *descending);
        let by_id = if reversed { by_id.reverse() } else { by_id };
        by_key.fold(Ordering::Equal, Ordering::then).then(by_id)
    }
}

impl PartialOrd for Standing {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
