//! What documents are, as simply as it can be said: a map, and questions answered by looking at each.
//!
//! On purpose without the keys and the reader of the real thing: it reads with serde and compares numbers
//! as numbers.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use realm_model::cloud::documents::{Filter, Node, Query, Scalar, Test};
use serde_json::Value;

#[derive(Default)]
pub(crate) struct Model(pub(crate) BTreeMap<String, Value>);

impl Model {
    pub(crate) fn find(&self, query: &Query) -> Vec<String> {
        let mut found: Vec<_> = self
            .0
            .iter()
            .filter(|(_, one)| holds(&query.filter, one))
            .collect();
        let backwards = query.order.first().is_some_and(|order| order.descending);
        found.sort_by(|(id_a, a), (id_b, b)| {
            let by_field = query.order.iter().map(|order| {
                let compared = sorted(at(a, &order.field), at(b, &order.field));
                if order.descending {
                    compared.reverse()
                } else {
                    compared
                }
            });
            let by_id = if backwards {
                id_b.cmp(id_a)
            } else {
                id_a.cmp(id_b)
            };
            by_field.fold(Ordering::Equal, Ordering::then).then(by_id)
        });
        found.into_iter().map(|(id, _)| id.clone()).collect()
    }
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(value, |value, name| value.as_object()?.get(name))
}

fn holds(filter: &Filter, document: &Value) -> bool {
    fn node(nodes: &[Node], index: usize, document: &Value) -> bool {
        let part = |index: &u32| node(nodes, usize::try_from(*index).unwrap(), document);
        match &nodes[index] {
            Node::All(of) => of.iter().all(part),
            Node::Any(of) => of.iter().any(part),
            Node::Field { field, test } => meets(at(document, field), test),
        }
    }
    filter.0.is_empty() || node(&filter.0, filter.0.len() - 1, document)
}

fn meets(value: Option<&Value>, test: &Test) -> bool {
    let like = |scalar: &Scalar| value.and_then(|value| compared(value, scalar));
    match test {
        Test::Equal(scalar) => like(scalar) == Some(Ordering::Equal),
        Test::NotEqual(scalar) => like(scalar) != Some(Ordering::Equal),
        Test::Less(scalar) => like(scalar) == Some(Ordering::Less),
        Test::LessOrEqual(scalar) => like(scalar).is_some_and(Ordering::is_le),
        Test::Greater(scalar) => like(scalar) == Some(Ordering::Greater),
        Test::GreaterOrEqual(scalar) => like(scalar).is_some_and(Ordering::is_ge),
        Test::In(scalars) => scalars
            .iter()
            .any(|scalar| like(scalar) == Some(Ordering::Equal)),
        Test::Exists(wanted) => value.is_some() == *wanted,
        Test::Contains(scalar) => value.and_then(Value::as_array).is_some_and(|values| {
            let mut all = values.iter();
            all.any(|value| compared(value, scalar) == Some(Ordering::Equal))
        }),
    }
}

/// Values of one kind; nothing where they are of two.
fn compared(value: &Value, scalar: &Scalar) -> Option<Ordering> {
    Some(match (value, scalar) {
        (Value::Null, Scalar::Null) => Ordering::Equal,
        (Value::Bool(a), Scalar::Boolean(b)) => a.cmp(b),
        (Value::String(a), Scalar::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Number(a), Scalar::Integer(b)) => match a.as_i64() {
            Some(a) => a.cmp(b),
            None => against(a.as_f64()?, *b),
        },
        (Value::Number(a), Scalar::Real(b)) => match a.as_i64() {
            Some(a) => against(*b, a).reverse(),
            None => a.as_f64()?.partial_cmp(b)?,
        },
        _ => return None,
    })
}

/// A real number against a whole one, without making one of them the other.
fn against(real: f64, whole: i64) -> Ordering {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if real >= BEYOND {
        Ordering::Greater
    } else if real < -BEYOND {
        Ordering::Less
    } else {
        let part = if real.fract() == 0.0 {
            Ordering::Equal
        } else {
            Ordering::Greater
        };
        (real.floor() as i64).cmp(&whole).then(part)
    }
}

fn sorted(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    fn kind(value: Option<&Value>) -> u8 {
        match value {
            None => 0,
            Some(Value::Null) => 1,
            Some(Value::Bool(_)) => 2,
            Some(Value::Number(_)) => 3,
            Some(Value::String(_)) => 4,
            Some(Value::Array(_)) => 5,
            Some(Value::Object(_)) => 6,
        }
    }
    let within = match (a, b) {
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(a @ Value::Number(_)), Some(Value::Number(b))) => {
            let scalar = match b.as_i64() {
                Some(b) => Scalar::Integer(b),
                None => Scalar::Real(b.as_f64().unwrap()),
            };
            compared(a, &scalar).unwrap()
        }
        _ => Ordering::Equal,
    };
    kind(a).cmp(&kind(b)).then(within)
}
