//! `realm:cloud/search@0.1.0`.

use realm_model::cloud::search as model;
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::super::sql::View;
use super::{Has, Part, said};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/realm-cloud/search.wit",
        world: "realm:cloud/search-imports",
        imports: { default: async | trappable },
        with: {
            "realm:cloud/search.index": crate::cloud::data::search::Index,
        },
    });
}

use generated::realm::cloud::search::{self, Error, Hit, Part as TextPart, Span, Weight};

/// An index that a guest opened.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Index(Part);

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    search::add_to_linker::<_, Has>(linker, State::sql)
}

said!(Error);

impl search::Host for View<'_> {}

impl search::HostIndex for View<'_> {
    async fn open(
        &mut self,
        database: String,
        name: String,
    ) -> Result<Result<Resource<Index>, Error>> {
        Ok(match Part::open(self.cloud, &database, name) {
            Ok(part) => Ok(self.table.push(Index(part))?),
            Err(error) => Err(said(error)),
        })
    }

    async fn put(
        &mut self,
        own: Resource<Index>,
        id: String,
        parts: Vec<TextPart>,
        attributes: String,
    ) -> Result<Result<(), Error>> {
        let Index(part) = self.table.get(&own)?;
        let parts = parts
            .into_iter()
            .map(|part| (weight(part.weight), part.text));
        let text = model::Text {
            id,
            parts: parts.collect(),
            attributes,
        };
        let done = async {
            let call = part.call(self.cloud, text.bytes())?;
            model::Search::put(call.store(), call.place(), &text).await
        };
        Ok(done.await.map_err(said))
    }

    async fn delete(&mut self, own: Resource<Index>, id: String) -> Result<Result<bool, Error>> {
        let Index(part) = self.table.get(&own)?;
        let done = async {
            let call = part.call(self.cloud, id.len())?;
            model::Search::delete(call.store(), call.place(), &id).await
        };
        Ok(done.await.map_err(said))
    }

    async fn query(
        &mut self,
        own: Resource<Index>,
        query: String,
        limit: u32,
        offset: u32,
    ) -> Result<Result<Vec<Hit>, Error>> {
        let Index(part) = self.table.get(&own)?;
        let look = model::Look {
            query,
            limit,
            offset,
        };
        let done = async {
            let call = part.call(self.cloud, look.query.len())?;
            call.store().search(call.place(), &look).await
        };
        let found = done
            .await
            .map(|found| found.into_iter().map(shown).collect());
        Ok(found.map_err(said))
    }

    async fn drop(&mut self, own: Resource<Index>) -> Result<()> {
        self.table.delete(own)?;
        Ok(())
    }
}

fn weight(weight: Weight) -> model::Weight {
    match weight {
        Weight::Title => model::Weight::Title,
        Weight::Heading => model::Weight::Heading,
        Weight::Body => model::Weight::Body,
        Weight::Note => model::Weight::Note,
    }
}

fn shown(hit: model::Hit) -> Hit {
    // A snippet has no more bytes than 32 bits count.
    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let marks = hit.snippet.marks.into_iter().map(|(start, end)| Span {
        start: place(start),
        end: place(end),
    });
    Hit {
        id: hit.id,
        score: hit.score,
        snippet: hit.snippet.text,
        marks: marks.collect(),
        attributes: hit.attributes,
    }
}
