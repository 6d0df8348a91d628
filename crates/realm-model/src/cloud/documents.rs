//! Documents: JSON objects in collections, found by their fields.
//!
//! What a filter means is said here, once and for every database: [`Tree::matches`] and the order of
//! [`super::json::key`]. A backend may find candidates as it likes and asks here whether they are meant.

use std::borrow::Cow;
use std::cmp::Ordering;

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
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The database: see [`super::Sql::open`].
    pub database: &'a str,
    /// The name of the collection, checked by [`check_collection`].
    pub collection: &'a str,
    /// What all databases together may grow to.
    pub bytes_max: u64,
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

/// A condition over fields as a list of nodes, the last of which is the whole; empty: every document. A
/// node has only nodes before it, and no two of them have the same one, so that it is a tree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter(pub Vec<Node>);

/// A node of a filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Each of these nodes.
    All(Vec<u32>),
    /// One of these at least.
    Any(Vec<u32>),
    /// A test of one field.
    Field {
        /// A path.
        field: String,
        /// The test.
        test: Test,
    },
}

/// A test of the value of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// Is there, and equal.
    Equal(Scalar),
    /// Is not there, or not equal.
    NotEqual(Scalar),
    /// Is of the same kind, and less.
    Less(Scalar),
    /// Is of the same kind, and not greater.
    LessOrEqual(Scalar),
    /// Is of the same kind, and greater.
    Greater(Scalar),
    /// Is of the same kind, and not less.
    GreaterOrEqual(Scalar),
    /// Is equal to one of these.
    In(Vec<Scalar>),
    /// Is there, be it as null; or, with `false`, is not.
    Exists(bool),
    /// Is an array with an element that is equal.
    Contains(Scalar),
}

/// A value that fields are compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// Null.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number; neither infinite nor NaN.
    Real(f64),
    /// Text.
    Text(String),
}

impl Scalar {
    /// The same as a JSON value.
    pub fn json(&self) -> Json<'_> {
        match self {
            Self::Null => Json::Null,
            Self::Boolean(value) => Json::Boolean(*value),
            Self::Integer(value) => Json::Integer(*value),
            Self::Real(value) => Json::Real(*value),
            Self::Text(text) => Json::Text(Cow::Borrowed(text)),
        }
    }

    /// Its key.
    pub fn key(&self) -> Vec<u8> {
        json::key(Some(&self.json()))
    }
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

fn check_scalar(scalar: &Scalar) -> Result<(), CloudError> {
    match scalar {
        Scalar::Real(value) if !value.is_finite() => invalid("a number is infinite or NaN"),
        Scalar::Text(text) => within("a text of a filter", text.len(), limits::DOCUMENT_BYTES_MAX),
        Scalar::Null | Scalar::Boolean(_) | Scalar::Integer(_) | Scalar::Real(_) => Ok(()),
    }
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

/// A filter that was checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// Each of these.
    All(Vec<Tree>),
    /// One of these at least.
    Any(Vec<Tree>),
    /// A field, and what its value has to be.
    Field(String, Meant),
}

/// What the value of a field has to be, in keys ([`json::key`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// One of these, which are sorted.
    In(Vec<Vec<u8>>),
    /// Another one, or none.
    Not(Vec<u8>),
    /// From the first on, and before the second.
    Within(Vec<u8>, Vec<u8>),
    /// Something, or nothing.
    There(bool),
    /// An array that has this.
    Containing(Vec<u8>),
}

impl Tree {
    /// Checks a filter.
    pub fn of(filter: &Filter) -> Result<Self, CloudError> {
        let nodes = &filter.0;
        if nodes.len() > limits::FILTER_NODES_MAX {
            let max = limits::FILTER_NODES_MAX;
            return invalid(format!("a filter has {max} nodes at most"));
        }
        let mut made: Vec<Option<(Self, usize)>> = Vec::new();
        let mut n_values = 0;
        for node in nodes {
            let one = match node {
                Node::All(of) => Self::several(&mut made, of, Self::All)?,
                Node::Any(of) => Self::several(&mut made, of, Self::Any)?,
                Node::Field { field, test } => {
                    check_field(field)?;
                    n_values += check_test(test)?;
                    (Self::Field(field.clone(), test.meant()), 1)
                }
            };
            if one.1 > limits::FILTER_DEPTH_MAX {
                let max = limits::FILTER_DEPTH_MAX;
                return invalid(format!("a filter is at most {max} deep"));
            }
            made.push(Some(one));
        }
        if n_values > limits::FILTER_VALUES_MAX {
            let max = limits::FILTER_VALUES_MAX;
            return invalid(format!("a filter has {max} values at most"));
        }
        let whole = made.pop().flatten();
        if made.iter().any(Option::is_some) {
            return invalid("a node of the filter is in no other: the last one is the whole");
        }
        Ok(whole.map_or(Self::All(Vec::new()), |(tree, _)| tree))
    }

    fn several(
        made: &mut [Option<(Self, usize)>],
        of: &[u32],
        kind: fn(Vec<Self>) -> Self,
    ) -> Result<(Self, usize), CloudError> {
        let mut parts = Vec::new();
        let mut depth = 0;
        for index in of {
            let index = usize::try_from(*index).ok();
            let Some((part, own)) = index.and_then(|index| made.get_mut(index)?.take()) else {
                return invalid("a node of the filter has one that is not before it, or twice");
            };
            depth = depth.max(own);
            parts.push(part);
        }
        Ok((kind(parts), depth + 1))
    }

    /// Whether a document is meant.
    pub fn matches(&self, document: &Json<'_>) -> bool {
        match self {
            Self::All(of) => of.iter().all(|one| one.matches(document)),
            Self::Any(of) => of.iter().any(|one| one.matches(document)),
            Self::Field(field, meant) => meant.matches(document.at(field)),
        }
    }
}

impl Meant {
    fn matches(&self, value: Option<&Json<'_>>) -> bool {
        let key = || json::key(value);
        match self {
            Self::In(keys) => value.is_some() && keys.binary_search(&key()).is_ok(),
            Self::Not(other) => key() != *other,
            Self::Within(from, to) => (from..to).contains(&&key()),
            Self::There(wanted) => value.is_some() == *wanted,
            Self::Containing(wanted) => elements(value)
                .iter()
                .any(|element| json::key(Some(element)) == *wanted),
        }
    }
}

/// The elements of an array; none of anything else.
pub fn elements<'a, 'b>(value: Option<&'a Json<'b>>) -> &'a [Json<'b>] {
    match value {
        Some(Json::Array(values)) => values,
        Some(
            Json::Null
            | Json::Boolean(_)
            | Json::Integer(_)
            | Json::Real(_)
            | Json::Text(_)
            | Json::Object(_),
        )
        | None => &[],
    }
}

impl Test {
    fn meant(&self) -> Meant {
        let kin = |scalar: &Scalar| json::kin(&scalar.json());
        // What comes right behind a key.
        let after = |scalar: &Scalar| [scalar.key(), vec![0]].concat();
        match self {
            Self::Equal(scalar) => Meant::In(vec![scalar.key()]),
            Self::NotEqual(scalar) => Meant::Not(scalar.key()),
            Self::Less(scalar) => Meant::Within(kin(scalar).0, scalar.key()),
            Self::LessOrEqual(scalar) => Meant::Within(kin(scalar).0, after(scalar)),
            Self::Greater(scalar) => Meant::Within(after(scalar), kin(scalar).1),
            Self::GreaterOrEqual(scalar) => Meant::Within(scalar.key(), kin(scalar).1),
            Self::In(scalars) => {
                let mut keys: Vec<_> = scalars.iter().map(Scalar::key).collect();
                keys.sort_unstable();
                keys.dedup();
                Meant::In(keys)
            }
            Self::Exists(wanted) => Meant::There(*wanted),
            Self::Contains(scalar) => Meant::Containing(scalar.key()),
        }
    }
}

/// How many values it has.
fn check_test(test: &Test) -> Result<usize, CloudError> {
    match test {
        Test::Equal(scalar)
        | Test::NotEqual(scalar)
        | Test::Less(scalar)
        | Test::LessOrEqual(scalar)
        | Test::Greater(scalar)
        | Test::GreaterOrEqual(scalar)
        | Test::Contains(scalar) => check_scalar(scalar).map(|()| 1),
        Test::In(scalars) => {
            scalars.iter().try_for_each(check_scalar)?;
            Ok(scalars.len())
        }
        Test::Exists(_) => Ok(0),
    }
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
            let mut key = json::key(document.at(&one.field));
            key.truncate(limits::ORDER_KEY_BYTES_MAX);
            (key, one.descending)
        });
        Self {
            keys: keys.collect(),
            id: id.to_owned(),
        }
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
