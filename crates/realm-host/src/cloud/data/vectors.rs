//! `realm:cloud/vectors@0.1.0`.

use realm_model::cloud::DataError;
use realm_model::cloud::documents as model;
use realm_model::cloud::vectors::{self as near, Near, Shape, Vector};
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::super::Cloud;
use super::super::sql::View;
use super::{Has, Part, said};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/realm-cloud/vectors.wit",
        world: "realm:cloud/vector-imports",
        imports: { default: async | trappable },
        with: {
            "realm:cloud/vectors.collection": crate::cloud::data::vectors::Shaped,
        },
    });
}

use generated::realm::cloud::vectors::{self, Entry, Error, Having, Metric, Neighbour, Scalar};

/// A collection that a guest opened.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Shaped {
    part: Part,
    shape: Shape,
}

impl Shaped {
    async fn open(
        cloud: &Cloud,
        database: &str,
        name: String,
        shape: Shape,
    ) -> Result<Self, DataError> {
        let part = Part::open(cloud, database, name)?;
        let call = part.call(cloud, 0)?;
        call.store().shape(call.place(), shape).await?;
        drop(call);
        Ok(Self { part, shape })
    }
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    vectors::add_to_linker::<_, Has>(linker, State::sql)
}

said!(Error);

impl vectors::Host for View<'_> {}

impl vectors::HostCollection for View<'_> {
    async fn open(
        &mut self,
        database: String,
        name: String,
        dimension: u32,
        metric: Metric,
    ) -> Result<Result<Resource<Shaped>, Error>> {
        let metric = match metric {
            Metric::Cosine => near::Metric::Cosine,
            Metric::Dot => near::Metric::Dot,
            Metric::Euclidean => near::Metric::Euclidean,
        };
        let shape = Shape { dimension, metric };
        Ok(
            match Shaped::open(self.cloud, &database, name, shape).await {
                Ok(own) => Ok(self.table.push(own)?),
                Err(error) => Err(said(error)),
            },
        )
    }

    async fn upsert(
        &mut self,
        own: Resource<Shaped>,
        id: String,
        values: Vec<f32>,
        attributes: String,
    ) -> Result<Result<(), Error>> {
        let Shaped { part, shape } = self.table.get(&own)?;
        let vector = Vector {
            id,
            values,
            attributes,
        };
        let done = async {
            let call = part.call(self.cloud, vector.bytes())?;
            call.store().upsert(call.place(), *shape, &vector).await
        };
        Ok(done.await.map_err(said))
    }

    async fn get(
        &mut self,
        own: Resource<Shaped>,
        id: String,
    ) -> Result<Result<Option<Entry>, Error>> {
        let Shaped { part, .. } = self.table.get(&own)?;
        let done = async {
            let call = part.call(self.cloud, id.len())?;
            near::Vectors::get(call.store(), call.place(), &id).await
        };
        let shown = |vector: Vector| Entry {
            vector: vector.values,
            attributes: vector.attributes,
        };
        Ok(done.await.map(|found| found.map(shown)).map_err(said))
    }

    async fn delete(&mut self, own: Resource<Shaped>, id: String) -> Result<Result<bool, Error>> {
        let Shaped { part, .. } = self.table.get(&own)?;
        let done = async {
            let call = part.call(self.cloud, id.len())?;
            near::Vectors::delete(call.store(), call.place(), &id).await
        };
        Ok(done.await.map_err(said))
    }

    async fn nearest(
        &mut self,
        own: Resource<Shaped>,
        values: Vec<f32>,
        k: u32,
        having: Vec<Having>,
    ) -> Result<Result<Vec<Neighbour>, Error>> {
        let Shaped { part, shape } = self.table.get(&own)?;
        let having = having.into_iter().map(|one| (one.name, scalar(one.value)));
        let near = Near {
            values,
            k,
            having: having.collect(),
        };
        let done = async {
            let call = part.call(self.cloud, near.bytes())?;
            call.store().nearest(call.place(), *shape, &near).await
        };
        let shown = |one: near::Neighbour| Neighbour {
            id: one.id,
            distance: one.distance,
            attributes: one.attributes,
        };
        let found = done
            .await
            .map(|found| found.into_iter().map(shown).collect());
        Ok(found.map_err(said))
    }

    async fn drop(&mut self, own: Resource<Shaped>) -> Result<()> {
        self.table.delete(own)?;
        Ok(())
    }
}

fn scalar(scalar: Scalar) -> model::Scalar {
    match scalar {
        Scalar::Null => model::Scalar::Null,
        Scalar::Boolean(value) => model::Scalar::Boolean(value),
        Scalar::Integer(value) => model::Scalar::Integer(value),
        Scalar::Real(value) => model::Scalar::Real(value),
        Scalar::Text(text) => model::Scalar::Text(text),
    }
}
