//! `realm:cloud/documents@0.1.0`.

use realm_model::cloud::documents as model;
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::super::sql::View;
use super::{Has, Part, said};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/realm-cloud/documents.wit",
        world: "realm:cloud/document-imports",
        imports: { default: async | trappable },
        with: {
            "realm:cloud/documents.collection": crate::cloud::data::Part,
        },
    });
}

use generated::realm::cloud::documents::{
    self, Document, Error, Expected, Filter, Node, Page, Query, Scalar, Test,
};

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    documents::add_to_linker::<_, Has>(linker, State::sql)
}

said!(Error);

impl documents::Host for View<'_> {}

impl documents::HostCollection for View<'_> {
    async fn open(
        &mut self,
        database: String,
        name: String,
    ) -> Result<Result<Resource<Part>, Error>> {
        Ok(match Part::open(self.cloud, &database, name) {
            Ok(part) => Ok(self.table.push(part)?),
            Err(error) => Err(said(error)),
        })
    }

    async fn put(
        &mut self,
        part: Resource<Part>,
        id: String,
        body: String,
        expected: Expected,
    ) -> Result<Result<u64, Error>> {
        let part = self.table.get(&part)?;
        let done = async {
            let call = part.call(self.cloud, id.len() + body.len())?;
            model::Documents::put(call.store(), call.place(), &id, &body, wanted(expected)).await
        };
        Ok(done.await.map_err(said))
    }

    async fn get(
        &mut self,
        part: Resource<Part>,
        id: String,
    ) -> Result<Result<Option<Document>, Error>> {
        let part = self.table.get(&part)?;
        let done = async {
            let call = part.call(self.cloud, id.len())?;
            model::Documents::get(call.store(), call.place(), &id).await
        };
        Ok(done.await.map(|found| found.map(shown)).map_err(said))
    }

    async fn delete(
        &mut self,
        part: Resource<Part>,
        id: String,
        expected: Expected,
    ) -> Result<Result<bool, Error>> {
        let part = self.table.get(&part)?;
        let done = async {
            let call = part.call(self.cloud, id.len())?;
            model::Documents::delete(call.store(), call.place(), &id, wanted(expected)).await
        };
        Ok(done.await.map_err(said))
    }

    async fn find(&mut self, part: Resource<Part>, query: Query) -> Result<Result<Page, Error>> {
        let part = self.table.get(&part)?;
        let order = query.order.into_iter().map(|one| model::Order {
            field: one.field,
            descending: one.descending,
        });
        let query = model::Query {
            filter: filter(query.filter),
            order: order.collect(),
            limit: query.limit,
            cursor: query.cursor,
        };
        let done = async {
            let call = part.call(self.cloud, query.bytes())?;
            call.store().find(call.place(), &query).await
        };
        let page = done.await.map(|page| Page {
            documents: page.documents.into_iter().map(shown).collect(),
            cursor: page.cursor,
        });
        Ok(page.map_err(said))
    }

    async fn count(&mut self, part: Resource<Part>, wanted: Filter) -> Result<Result<u64, Error>> {
        let part = self.table.get(&part)?;
        let wanted = filter(wanted);
        let done = async {
            let call = part.call(self.cloud, wanted.bytes())?;
            call.store().count(call.place(), &wanted).await
        };
        Ok(done.await.map_err(said))
    }

    async fn index(&mut self, part: Resource<Part>, field: String) -> Result<Result<(), Error>> {
        let part = self.table.get(&part)?;
        let done = async {
            let call = part.call(self.cloud, field.len())?;
            call.store().index(call.place(), &field).await
        };
        Ok(done.await.map_err(said))
    }

    async fn drop(&mut self, part: Resource<Part>) -> Result<()> {
        self.table.delete(part)?;
        Ok(())
    }
}

fn wanted(expected: Expected) -> model::Expected {
    match expected {
        Expected::Anything => model::Expected::Anything,
        Expected::Absent => model::Expected::Absent,
        Expected::Revision(revision) => model::Expected::Revision(revision),
    }
}

fn shown(document: model::Document) -> Document {
    Document {
        id: document.id,
        revision: document.revision,
        body: document.body,
    }
}

fn filter(nodes: Filter) -> model::Filter {
    let nodes = nodes.into_iter().map(|node| match node {
        Node::All(of) => model::Node::All(of),
        Node::Any(of) => model::Node::Any(of),
        Node::Field(one) => model::Node::Field {
            field: one.field,
            test: test(one.test),
        },
    });
    model::Filter(nodes.collect())
}

fn test(test: Test) -> model::Test {
    match test {
        Test::Eq(value) => model::Test::Equal(scalar(value)),
        Test::Ne(value) => model::Test::NotEqual(scalar(value)),
        Test::Lt(value) => model::Test::Less(scalar(value)),
        Test::Le(value) => model::Test::LessOrEqual(scalar(value)),
        Test::Gt(value) => model::Test::Greater(scalar(value)),
        Test::Ge(value) => model::Test::GreaterOrEqual(scalar(value)),
        Test::In(values) => model::Test::In(values.into_iter().map(scalar).collect()),
        Test::Exists(wanted) => model::Test::Exists(wanted),
        Test::Contains(value) => model::Test::Contains(scalar(value)),
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
