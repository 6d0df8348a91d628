//! Vectors of one length, found by how near they are to another one.

use super::documents::{DataError, Place, Scalar};
use super::json::Json;
use super::{Answer, CloudError, limits, within};

/// Vectors in collections of databases.
pub trait Vectors: Send + Sync {
    /// Makes a collection of a shape, or finds it: [`DataError::Conflict`] where it has another one.
    fn shape<'a>(&'a self, at: Place<'a>, shape: Shape) -> Answer<'a, (), DataError>;

    /// Writes a vector, with attributes in JSON.
    fn upsert<'a>(
        &'a self,
        at: Place<'a>,
        shape: Shape,
        vector: &'a Vector,
    ) -> Answer<'a, (), DataError>;

    /// Reads one.
    fn get<'a>(&'a self, at: Place<'a>, id: &'a str) -> Answer<'a, Option<Vector>, DataError>;

    /// Deletes one: whether it was there.
    fn delete<'a>(&'a self, at: Place<'a>, id: &'a str) -> Answer<'a, bool, DataError>;

    /// The nearest ones, the nearest first; equally near ones by their ids.
    fn nearest<'a>(
        &'a self,
        at: Place<'a>,
        shape: Shape,
        near: &'a Near,
    ) -> Answer<'a, Vec<Neighbour>, DataError>;
}

/// What all vectors of a collection have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many numbers each has.
    pub dimension: u32,
    /// How near two of them are.
    pub metric: Metric,
}

/// How far it is from one vector to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// 1 less the cosine of the angle between them: 0 to 2.
    Cosine,
    /// Their inner product with its sign turned.
    Dot,
    /// The length of what lies between them.
    Euclidean,
}

impl Metric {
    /// As it is kept.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Euclidean => "euclidean",
        }
    }
}

/// A vector as it is kept.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Vector {
    /// Its id.
    pub id: String,
    /// Its numbers.
    pub values: Vec<f32>,
    /// An object in JSON.
    pub attributes: String,
}

impl Vector {
    /// Bytes of all of it.
    pub const fn bytes(&self) -> usize {
        size_of_val(self.values.as_slice()) + self.id.len() + self.attributes.len()
    }
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Near {
    /// To which vector.
    pub values: Vec<f32>,
    /// How many, at most.
    pub k: u32,
    /// Only those that have each of these attributes, with exactly this value.
    pub having: Vec<(String, Scalar)>,
}

impl Near {
    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        let having = self.having.iter();
        let having: usize = having.map(|(name, value)| name.len() + value.bytes()).sum();
        size_of_val(self.values.as_slice()) + having
    }
}

/// A vector that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour {
    /// Its id.
    pub id: String,
    /// How far it is.
    pub distance: f64,
    /// Its attributes.
    pub attributes: String,
}

fn invalid<T>(why: String) -> Result<T, CloudError> {
    Err(CloudError::Invalid(why))
}

impl Shape {
    /// Checks a shape.
    pub fn check(self) -> Result<(), CloudError> {
        if (1..=limits::DIMENSION_MAX).contains(&self.dimension) {
            return Ok(());
        }
        let max = limits::DIMENSION_MAX;
        invalid(format!("a vector has 1 to {max} numbers"))
    }

    /// Checks the numbers of a vector: what would make a distance that is no number is refused.
    pub fn takes(self, values: &[f32]) -> Result<(), CloudError> {
        if u32::try_from(values.len()) != Ok(self.dimension) {
            let wanted = self.dimension;
            return invalid(format!(
                "a vector of {} numbers instead of {wanted}",
                values.len()
            ));
        }
        if !values
            .iter()
            .all(|value| value.abs() <= limits::COMPONENT_MAX)
        {
            let max = limits::COMPONENT_MAX;
            return invalid(format!(
                "a number of a vector is NaN, infinite or beyond {max:e}"
            ));
        }
        let length = values
            .iter()
            .map(|value| f64::from(*value).powi(2))
            .sum::<f64>()
            .sqrt();
        if self.metric == Metric::Cosine && length < limits::LENGTH_MIN {
            return invalid("a vector without a length has no angle".to_owned());
        }
        Ok(())
    }
}

/// Checks attributes: their names and values that can be asked for.
pub fn check_attributes(text: &str) -> Result<Vec<(String, Scalar)>, CloudError> {
    within("the attributes", text.len(), limits::ATTRIBUTES_BYTES_MAX)?;
    let Json::Object(members) = Json::object(text)? else {
        return invalid("attributes are an object".to_owned());
    };
    if members.len() > limits::STORED_ATTRIBUTES_MAX {
        let max = limits::STORED_ATTRIBUTES_MAX;
        return invalid(format!("there are {max} attributes at most"));
    }
    let mut asked = Vec::new();
    for (name, value) in members {
        check_attribute(&name)?;
        asked.push((
            name.into_owned(),
            match value {
                Json::Null => Scalar::Null,
                Json::Boolean(value) => Scalar::Boolean(value),
                Json::Integer(value) => Scalar::Integer(value),
                Json::Real(value) => Scalar::Real(value),
                Json::Text(text) => Scalar::Text(text.into_owned()),
                Json::Array(_) | Json::Object(_) => continue,
            },
        ));
    }
    Ok(asked)
}

/// Checks the name of an attribute.
pub fn check_attribute(name: &str) -> Result<(), CloudError> {
    within(
        "the name of an attribute",
        name.len(),
        limits::FIELD_BYTES_MAX,
    )?;
    if name.chars().any(char::is_control) {
        return invalid("the name of an attribute has control characters".to_owned());
    }
    Ok(())
}

/// Checks what is looked for.
pub fn check_near(shape: Shape, near: &Near) -> Result<(), CloudError> {
    shape.takes(&near.values)?;
    let max = limits::FOUND_MAX;
    if near.k == 0 || near.k as usize > max {
        return invalid(format!("1 to {max} vectors are found at a time"));
    }
    if near.having.len() > limits::HAVING_MAX {
        let max = limits::HAVING_MAX;
        return invalid(format!("{max} attributes at most are asked for"));
    }
    for (name, value) in &near.having {
        check_attribute(name)?;
        if let Scalar::Text(text) = value {
            within(
                "the value of an attribute",
                text.len(),
                limits::ATTRIBUTES_BYTES_MAX,
            )?;
        }
        if matches!(value, Scalar::Real(value) if !value.is_finite()) {
            return invalid("a number is infinite or NaN".to_owned());
        }
    }
    Ok(())
}

/// The distance of two vectors of one length.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    match metric {
        Metric::Dot => -pairs().map(|(a, b)| a * b).sum::<f64>(),
        Metric::Euclidean => pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
        Metric::Cosine => {
            let (mut dot, mut own, mut other) = (0.0, 0.0, 0.0);
            for (a, b) in pairs() {
                dot += a * b;
                own += a * a;
                other += b * b;
            }
            1.0 - (dot / (own * other).sqrt()).clamp(-1.0, 1.0)
        }
    }
}
