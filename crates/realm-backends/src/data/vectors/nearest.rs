//! The nearest vectors: by the database where it knows how, else by looking at each.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use realm_model::cloud::documents::Place;
use realm_model::cloud::vectors::{Metric, Neighbour, distance};
use realm_model::cloud::{CloudError, Session, SqlValue, limits};

use super::super::dialect::{Dialect, Ground};
use super::super::steps::{Failure, Load, Pace, Row, page, rows, strange, text};
use super::super::work;

/// Attributes that are read at a time.
const READ_AT_ONCE: usize = 32;

pub(super) struct Nearest<'a> {
    pub(super) at: Place<'a>,
    pub(super) metric: Metric,
    pub(super) values: &'a [f32],
    pub(super) k: usize,
    /// Attributes that have to be there, and the keys of their values.
    pub(super) having: Vec<(String, Vec<u8>)>,
}
work!(Nearest -> Vec<Neighbour>);

/// One of those that are the nearest so far: the farthest is the greatest.
#[derive(PartialEq)]
struct Candidate {
    distance: f64,
    id: String,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_distance = self.distance.total_cmp(&other.distance);
        by_distance.then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Nearest<'_> {
    async fn work(
        &self,
        ground: &Ground,
        session: &mut dyn Session,
    ) -> Result<Vec<Neighbour>, Failure> {
        // Vectors and their attributes as they were at one moment.
        session.begin().await?;
        let found = match ground.dialect {
            Dialect::Sqlite => self.look_at_each(session).await?,
            Dialect::Postgres => self.ask(ground, session).await?,
        };
        let found = self.with_attributes(session, found).await?;
        session.roll_back().await?;
        Ok(found)
    }

    /// From which rows, with values from a number on.
    fn from(&self, values: &mut Vec<SqlValue>) -> String {
        values.push(text(self.at.collection));
        let collection = values.len();
        let mut words = format!(" FROM realm_vectors AS v WHERE v.collection = ${collection}");
        for (name, key) in &self.having {
            values.extend([text(name), SqlValue::Bytes(key.clone())]);
            let (name, key) = (values.len() - 1, values.len());
            words += &format!(
                " AND v.id IN (SELECT k.id FROM realm_vector_keys AS k \
                 WHERE k.collection = ${collection} AND k.field = ${name} AND k.key = ${key})"
            );
        }
        words
    }

    async fn look_at_each(&self, session: &mut dyn Session) -> Result<Vec<Candidate>, Failure> {
        let mut values = Vec::new();
        let from = self.from(&mut values);
        session
            .query(&format!("SELECT v.id, v.vector{from}"), &values)
            .await?;
        let mut nearest = BinaryHeap::new();
        let mut bytes = 0;
        let mut pace = Pace::default();
        loop {
            let page = page(session).await?;
            if page.is_empty() {
                return Ok(nearest.into_sorted_vec());
            }
            for mut row in page {
                let vector = row.pop().and_then(|value| Ground::values(&value));
                let vector = vector.filter(|vector| vector.len() == self.values.len());
                let vector = vector.ok_or_else(strange)?;
                bytes += (vector.len() * size_of::<f32>()) as u64;
                let distance = distance(self.metric, self.values, &vector);
                let farthest = nearest.peek().map(|one: &Candidate| one.distance);
                if nearest.len() < self.k || farthest.is_some_and(|far| distance <= far) {
                    let id = Row::of(row).text_within(limits::DATA_ID_BYTES_MAX)?;
                    nearest.push(Candidate { distance, id });
                }
                if nearest.len() > self.k {
                    nearest.pop();
                }
                pace.spend(size_of_val(vector.as_slice())).await;
            }
            if bytes > limits::SCANNED_BYTES_MAX {
                return Err(CloudError::TooLarge {
                    what: "what has to be searched",
                    bytes,
                    bytes_max: limits::SCANNED_BYTES_MAX,
                }
                .into());
            }
        }
    }

    async fn ask(
        &self,
        ground: &Ground,
        session: &mut dyn Session,
    ) -> Result<Vec<Candidate>, Failure> {
        let mut values = vec![ground.vector(self.values)];
        let distance = ground.distance(self.metric, "v.vector", "$1");
        let from = self.from(&mut values);
        values.push(SqlValue::Integer(self.k as i64));
        let limit = values.len();
        let ask = format!("SELECT v.id, {distance}{from} ORDER BY 2, 1 LIMIT ${limit}");
        let found = rows(session, &ask, &values, self.k).await?;
        let candidate = |mut row: Vec<SqlValue>| {
            let Some(SqlValue::Real(distance)) = row.pop() else {
                return Err(strange());
            };
            let id = Row::of(row).text_within(limits::DATA_ID_BYTES_MAX)?;
            Ok(Candidate { distance, id })
        };
        found.into_iter().map(candidate).collect()
    }

    async fn with_attributes(
        &self,
        session: &mut dyn Session,
        found: Vec<Candidate>,
    ) -> Result<Vec<Neighbour>, Failure> {
        let mut neighbours = Vec::new();
        let mut bytes = 0;
        let mut load = Load::none(self.at.meter);
        for some in found.chunks(READ_AT_ONCE) {
            let places: Vec<_> = (2..).take(some.len()).map(|n| format!("${n}")).collect();
            let read = format!(
                "SELECT id, attributes FROM realm_vectors WHERE collection = $1 AND id IN ({})",
                places.join(", ")
            );
            let ids = some.iter().map(|one| text(&one.id));
            let values: Vec<_> = [text(self.at.collection)].into_iter().chain(ids).collect();
            let mut read_rows = std::collections::BTreeMap::new();
            for row in rows(session, &read, &values, some.len()).await? {
                let mut row = Row::of(row);
                let id = row.text_within(limits::DATA_ID_BYTES_MAX)?;
                read_rows.insert(id, row.text_within(limits::ATTRIBUTES_BYTES_MAX)?);
            }
            for one in some {
                let attributes = read_rows.remove(&one.id).ok_or_else(strange)?;
                bytes += attributes.len();
                load.set(bytes)?;
                if bytes > limits::FOUND_BYTES_MAX {
                    return Err(CloudError::TooLarge {
                        what: "what was found",
                        bytes: bytes as u64,
                        bytes_max: limits::FOUND_BYTES_MAX as u64,
                    }
                    .into());
                }
                neighbours.push(Neighbour {
                    id: one.id.clone(),
                    distance: one.distance,
                    attributes,
                });
            }
        }
        Ok(neighbours)
    }
}
