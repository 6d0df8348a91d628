//! Vectors, in a table beside one of their attributes as keys.
//!
//! SQLite has no search for them: every vector of the collection, or of those with the attributes that are
//! asked for, is looked at here. PostgreSQL has one where `pgvector` is installed, and looks at every one
//! as well: both answers are exact.

mod nearest;

use realm_model::cloud::documents::{Place, Scalar, check_collection, check_id};
use realm_model::cloud::vectors::{
    Near, Neighbour, Shape, Vector, Vectors, check_attributes, check_near,
};
use realm_model::cloud::{Answer, DataError, Session, SqlValue, limits};
use sha2::{Digest as _, Sha256};

use super::dialect::{Ground, Part};
use super::steps::{Failure, Row, first, places, text};
use super::{Database, work};
use nearest::Nearest;

/// What the key of a long text begins with: no key of a value does.
const DIGEST: u8 = 0xF0;

impl Vectors for Database {
    fn shape<'a>(&'a self, at: Place<'a>, shape: Shape) -> Answer<'a, (), DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            shape.check()?;
            self.with(at, Part::Vectors, &Find { at, shape }).await
        })
    }

    fn upsert<'a>(
        &'a self,
        at: Place<'a>,
        shape: Shape,
        vector: &'a Vector,
    ) -> Answer<'a, (), DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_id(&vector.id)?;
            shape.takes(&vector.values)?;
            let attributes = check_attributes(&vector.attributes)?;
            let upsert = Upsert {
                at,
                vector,
                keys: attributes.iter().map(key_of).collect(),
            };
            self.with(at, Part::Vectors, &upsert).await
        })
    }

    fn get<'a>(&'a self, at: Place<'a>, id: &'a str) -> Answer<'a, Option<Vector>, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_id(id)?;
            self.with(at, Part::Vectors, &Get { at, id }).await
        })
    }

    fn delete<'a>(&'a self, at: Place<'a>, id: &'a str) -> Answer<'a, bool, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_id(id)?;
            self.with(at, Part::Vectors, &Delete { at, id }).await
        })
    }

    fn nearest<'a>(
        &'a self,
        at: Place<'a>,
        shape: Shape,
        near: &'a Near,
    ) -> Answer<'a, Vec<Neighbour>, DataError> {
        Box::pin(async move {
            check_collection(at.collection)?;
            check_near(shape, near)?;
            let nearest = Nearest {
                at,
                metric: shape.metric,
                values: &near.values,
                k: near.k as usize,
                having: near.having.iter().map(key_of).collect(),
            };
            self.with(at, Part::Vectors, &nearest).await
        })
    }
}

/// An attribute, and the key of its value.
fn key_of((name, value): &(String, Scalar)) -> (String, Vec<u8>) {
    let mut key = value.key();
    if key.len() > limits::ATTRIBUTE_KEY_BYTES_MAX {
        key = [&[DIGEST], &Sha256::digest(&key)[..]].concat();
    }
    (name.clone(), key)
}

struct Find<'a> {
    at: Place<'a>,
    shape: Shape,
}
work!(Find -> ());

impl Find<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<(), Failure> {
        let Shape { dimension, metric } = self.shape;
        ground.begin(session).await?;
        let make = "INSERT INTO realm_vector_collections (collection, dimension, metric) \
            VALUES ($1, $2, $3) ON CONFLICT (collection) DO NOTHING";
        let dimension = SqlValue::Integer(dimension.into());
        let values = [
            text(self.at.collection),
            dimension.clone(),
            text(metric.word()),
        ];
        session.execute(make, &values).await?;
        let look = "SELECT dimension, metric FROM realm_vector_collections WHERE collection = $1";
        let found = first(session, look, &values[..1]).await?;
        session.commit().await?;
        let wanted = vec![dimension, text(metric.word())];
        // A column of 64 bits and a parameter of 32 are both an integer here.
        if found == Some(wanted) {
            return Ok(());
        }
        Err(DataError::Conflict.into())
    }
}

struct Upsert<'a> {
    at: Place<'a>,
    vector: &'a Vector,
    keys: Vec<(String, Vec<u8>)>,
}
work!(Upsert -> ());

const FORGET: &str = "DELETE FROM realm_vector_keys WHERE collection = $1 AND id = $2";

impl Upsert<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<(), Failure> {
        let own = [text(self.at.collection), text(&self.vector.id)];
        ground.begin(session).await?;
        let place = ground.vector_place("$3");
        let write = format!(
            "INSERT INTO realm_vectors (collection, id, vector, attributes) \
             VALUES ($1, $2, {place}, $4) ON CONFLICT (collection, id) DO UPDATE \
             SET vector = excluded.vector, attributes = excluded.attributes"
        );
        let vector = ground.vector(&self.vector.values);
        let values = [&own[..], &[vector, text(&self.vector.attributes)]].concat();
        session.execute(&write, &values).await?;
        session.execute(FORGET, &own).await?;
        if !self.keys.is_empty() {
            let places = places(self.keys.len(), 4);
            let add = format!(
                "INSERT INTO realm_vector_keys (collection, field, key, id) VALUES {places}"
            );
            let [collection, id] = &own;
            let rows = self.keys.iter().flat_map(|(name, key)| {
                let key = SqlValue::Bytes(key.clone());
                [collection.clone(), text(name), key, id.clone()]
            });
            session.execute(&add, &rows.collect::<Vec<_>>()).await?;
        }
        Ok(session.commit().await?)
    }
}

struct Get<'a> {
    at: Place<'a>,
    id: &'a str,
}
work!(Get -> Option<Vector>);

impl Get<'_> {
    async fn work(
        &self,
        ground: &Ground,
        session: &mut dyn Session,
    ) -> Result<Option<Vector>, Failure> {
        let one = format!(
            "SELECT {}, attributes FROM realm_vectors WHERE collection = $1 AND id = $2",
            ground.vector_read("vector")
        );
        let found = first(session, &one, &[text(self.at.collection), text(self.id)]).await?;
        found
            .map(|mut row| {
                let values = row
                    .first()
                    .and_then(Ground::values)
                    .ok_or_else(super::steps::strange)?;
                Ok(Vector {
                    id: self.id.to_owned(),
                    values,
                    attributes: Row::of(row.split_off(1))
                        .text_within(limits::ATTRIBUTES_BYTES_MAX)?,
                })
            })
            .transpose()
    }
}

struct Delete<'a> {
    at: Place<'a>,
    id: &'a str,
}
work!(Delete -> bool);

impl Delete<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<bool, Failure> {
        let own = [text(self.at.collection), text(self.id)];
        ground.begin(session).await?;
        let which = "DELETE FROM realm_vectors WHERE collection = $1 AND id = $2";
        let n_deleted = session.execute(which, &own).await?;
        session.execute(FORGET, &own).await?;
        session.commit().await?;
        Ok(n_deleted == 1)
    }
}
