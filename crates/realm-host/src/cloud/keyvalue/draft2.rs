//! `wasi:keyvalue@0.2.0-draft2`, which Spin serves: cursors are text, and values are swapped.
//!
//! It was published twice under this version: in Spin's, `get-many` gives back each key with what it has, in
//! the other one pairs where there is something. A component is linked with the one that it imports.

use realm_model::cloud::{CloudError, Swapped};
use wasmtime::component::types::{ComponentItem, Type};
use wasmtime::component::{Component, Linker, Resource};
use wasmtime::{Engine, Result, StoreContextMut};

use super::{Bucket, Cas, Has, Pairs, View, common};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/wasi-keyvalue-0.2.0-draft2",
        world: "imports",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::cloud::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": crate::cloud::keyvalue::Cas,
        },
    });
}

pub(super) use generated::wasi::keyvalue as bindings;

type Cursor = String;

common!(bindings);

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    bindings::store::add_to_linker::<_, Has>(linker, State::keyvalue)?;
    bindings::atomics::add_to_linker::<_, Has>(linker, State::keyvalue)?;
    bindings::batch::add_to_linker::<_, Has>(linker, State::keyvalue)
}

const BATCH: &str = "wasi:keyvalue/batch@0.2.0-draft2";
const GET_MANY: &str = "get-many";

/// Whether a component imports `batch` as Spin has it.
pub(super) fn is_spins(engine: &Engine, component: &Component) -> bool {
    let item_of = || {
        let ComponentItem::ComponentInstance(batch) =
            component.component_type().get_import(engine, BATCH)?.ty
        else {
            return None;
        };
        let ComponentItem::ComponentFunc(get_many) = batch.get_export(engine, GET_MANY)?.ty else {
            return None;
        };
        let Type::Result(result) = get_many.results().next()? else {
            return None;
        };
        let Type::List(list) = result.ok()? else {
            return None;
        };
        Some(list.ty())
    };
    matches!(item_of(), Some(Type::Tuple(_)))
}

/// Each key that was asked for, with what it has.
type Entries = Vec<(String, Option<Vec<u8>>)>;

/// The same linker for a component that imports `batch` as Spin has it.
pub(super) fn link_spins(linker: &mut Linker<State>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.instance(BATCH)?.func_wrap_async(
        GET_MANY,
        |mut store: StoreContextMut<'_, State>, (bucket, keys): (Resource<Bucket>, Vec<String>)| {
            Box::new(async move {
                let held = store.data_mut().keyvalue().held(&bucket)?;
                let found = held.get_many(keys.clone()).await;
                let entries = found.map(|found| -> Entries {
                    let values = found.into_iter().map(|pair| pair.map(|(_, value)| value));
                    keys.into_iter().zip(values).collect()
                });
                Ok((entries.map_err(said),))
            })
        },
    )
}

/// What a guest reads of an error.
pub(super) fn words(error: CloudError) -> bindings::store::Error {
    said(error)
}

async fn page(
    view: &mut View<'_>,
    bucket: &Resource<Bucket>,
    cursor: Option<Cursor>,
) -> Result<Result<bindings::store::KeyResponse, CloudError>> {
    let held = view.held(bucket)?;
    let page = held.keys(cursor.as_deref()).await;
    Ok(page.map(|page| bindings::store::KeyResponse {
        keys: page.keys,
        cursor: page.cursor,
    }))
}

impl bindings::atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Result<Result<i64, bindings::store::Error>> {
        let held = self.held(&bucket)?;
        Ok(held.increment(&key, delta).await.map_err(said))
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> Result<Result<(), bindings::atomics::CasError>> {
        use bindings::atomics::CasError;
        let cas = self.table.delete(cas)?;
        let swapped = cas.held.swap(&cas.key, &cas.seen.revision, &value).await;
        match swapped {
            Ok(Swapped::Done) => Ok(Ok(())),
            Ok(Swapped::Changed(seen)) => {
                let anew = self.push(cas.anew(seen))?;
                Ok(Err(match anew {
                    Ok(cas) => CasError::CasFailed(cas),
                    Err(error) => CasError::StoreError(said(error)),
                }))
            }
            Err(error) => Ok(Err(CasError::StoreError(said(error)))),
        }
    }
}

impl bindings::atomics::HostCas for View<'_> {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Resource<Cas>, bindings::store::Error>> {
        let held = self.held(&bucket)?;
        match held.read(&key).await {
            Ok(seen) => Ok(self.push(Cas::new(held, key, seen))?.map_err(said)),
            Err(error) => Ok(Err(said(error))),
        }
    }

    async fn current(
        &mut self,
        cas: Resource<Cas>,
    ) -> Result<Result<Option<Vec<u8>>, bindings::store::Error>> {
        Ok(Ok(self.table.get(&cas)?.seen.value.clone()))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}
