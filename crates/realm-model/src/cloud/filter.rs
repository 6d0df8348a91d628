//! Filters over documents: what one means is said here, once and for every database ([`Tree::matches`]), and
//! no document makes a thread look at it for long ([`Work`]).

use std::borrow::Cow;
use std::cmp::Ordering;

use super::documents::check_field;
use super::json::{self, Json};
use super::{CloudError, limits, within};

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

impl Filter {
    /// Bytes of its paths and texts.
    pub fn bytes(&self) -> usize {
        self.0
            .iter()
            .map(Node::bytes)
            .fold(0, usize::saturating_add)
    }
}

impl Node {
    fn bytes(&self) -> usize {
        match self {
            Self::All(of) | Self::Any(of) => size_of_val(of.as_slice()),
            Self::Field { field, test } => {
                field.len() + test.scalars().map(Scalar::bytes).sum::<usize>()
            }
        }
    }
}

impl Test {
    /// What it compares with.
    fn scalars(&self) -> impl Iterator<Item = &Scalar> {
        let scalars = match self {
            Self::Equal(scalar)
            | Self::NotEqual(scalar)
            | Self::Less(scalar)
            | Self::LessOrEqual(scalar)
            | Self::Greater(scalar)
            | Self::GreaterOrEqual(scalar)
            | Self::Contains(scalar) => std::slice::from_ref(scalar),
            Self::In(scalars) => scalars,
            Self::Exists(_) => &[],
        };
        scalars.iter()
    }
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

    /// Bytes that it takes.
    pub const fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Null | Self::Boolean(_) | Self::Integer(_) | Self::Real(_) => 0,
                Self::Text(text) => text.len(),
            }
    }
}

fn invalid<T>(why: impl Into<String>) -> Result<T, CloudError> {
    Err(CloudError::Invalid(why.into()))
}

fn check_scalar(scalar: &Scalar) -> Result<(), CloudError> {
    match scalar {
        Scalar::Real(value) if !value.is_finite() => invalid("a number is infinite or NaN"),
        Scalar::Text(text) => within("a text of a filter", text.len(), limits::DOCUMENT_BYTES_MAX),
        Scalar::Null | Scalar::Boolean(_) | Scalar::Integer(_) | Scalar::Real(_) => Ok(()),
    }
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
        within("the filter", filter.bytes(), limits::FILTER_BYTES_MAX)?;
        let mut made: Vec<Option<(Self, usize)>> = Vec::new();
        let mut n_values = 0;
        for node in nodes {
            let one = match node {
                Node::All(of) => Self::several(&mut made, of, Self::All)?,
                Node::Any(of) => Self::several(&mut made, of, Self::Any)?,
                Node::Field { field, test } => {
                    check_field(field)?;
                    test.scalars().try_for_each(check_scalar)?;
                    n_values += test.scalars().count();
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
    ///
    /// # Errors
    /// When more had to be looked at than `work` has left.
    pub fn matches(&self, document: &Json<'_>, work: &mut Work) -> Result<bool, CloudError> {
        match self {
            Self::All(of) => {
                for one in of {
                    if !one.matches(document, work)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Any(of) => {
                for one in of {
                    if one.matches(document, work)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Field(path, meant) => meant.matches(field(document, path, work)?, work),
        }
    }
}

/// What a filter may look at in one document: names on its paths, and elements of arrays.
#[derive(Debug)]
pub struct Work {
    left: usize,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            left: limits::FILTER_WORK_MAX,
        }
    }
}

impl Work {
    fn take(&mut self, n: usize) -> Result<(), CloudError> {
        let Some(left) = self.left.checked_sub(n) else {
            let max = limits::FILTER_WORK_MAX;
            return invalid(format!(
                "this filter looks at more than {max} names and elements of one document: ask for less, or \
                 keep smaller documents"
            ));
        };
        self.left = left;
        Ok(())
    }

    /// How much it was.
    pub const fn done(&self) -> usize {
        limits::FILTER_WORK_MAX - self.left
    }
}

/// [`Json::at`], with the names on the way counted.
fn field<'a, 'b>(
    document: &'a Json<'b>,
    path: &str,
    work: &mut Work,
) -> Result<Option<&'a Json<'b>>, CloudError> {
    let mut value = document;
    for name in path.split('.') {
        let Json::Object(members) = value else {
            return Ok(None);
        };
        work.take(members.len())?;
        match members.iter().find(|(own, _)| own == name) {
            Some((_, found)) => value = found,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

impl Meant {
    fn matches(&self, value: Option<&Json<'_>>, work: &mut Work) -> Result<bool, CloudError> {
        let standing = |key: &Vec<u8>| json::compare(value, key);
        Ok(match self {
            Self::In(keys) => {
                let found = keys.binary_search_by(|key| standing(key).reverse());
                value.is_some() && found.is_ok()
            }
            Self::Not(other) => standing(other).is_ne(),
            Self::Within(from, to) => standing(from).is_ge() && standing(to).is_lt(),
            Self::There(wanted) => value.is_some() == *wanted,
            Self::Containing(wanted) => {
                let elements = elements(value);
                work.take(elements.len())?;
                let mut standing = elements.iter().map(|one| json::compare(Some(one), wanted));
                standing.any(Ordering::is_eq)
            }
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Any of so many tests of one field.
    fn any(n: usize, test: impl Fn(i64) -> Test) -> Tree {
        let tests = (0..).map(test).take(n);
        let mut nodes: Vec<Node> = tests
            .map(|test| Node::Field {
                field: "a".to_owned(),
                test,
            })
            .collect();
        nodes.push(Node::Any((0..).take(n).collect()));
        Tree::of(&Filter(nodes)).unwrap()
    }

    #[test]
    fn a_filter_looks_at_no_more_of_a_document_than_a_thread_has_time_for() {
        let document = format!("{{\"a\":[{}0]}}", "0,".repeat(500_000));
        let document = Json::parse(&document).unwrap();
        let contains = |n| any(n, |value| Test::Contains(Scalar::Integer(value + 1)));
        assert_eq!(
            contains(7).matches(&document, &mut Work::default()),
            Ok(false)
        );
        let refused = contains(99).matches(&document, &mut Work::default());
        assert_eq!(refused.unwrap_err().code(), "invalid");
        let names: String = (0..100_000).map(|n| format!("\"{n}\":0,")).collect();
        let document = format!("{{{names}\"b\":0}}");
        let document = Json::parse(&document).unwrap();
        let equal = any(99, |value| Test::Equal(Scalar::Integer(value)));
        let refused = equal.matches(&document, &mut Work::default());
        assert_eq!(refused.unwrap_err().code(), "invalid");
    }

    #[test]
    fn a_filter_has_no_more_bytes_than_a_few_documents() {
        let text = |n| Scalar::Text("x".repeat(n));
        for (n, bytes, fits) in [(1, limits::DOCUMENT_BYTES_MAX, true), (3, 1_000_000, false)] {
            let test = Test::In((0..n).map(|_| text(bytes)).collect());
            let field = "a".to_owned();
            let made = Tree::of(&Filter(vec![Node::Field { field, test }]));
            assert_eq!(made.is_ok(), fits, "{n} of {bytes}");
        }
    }
}
