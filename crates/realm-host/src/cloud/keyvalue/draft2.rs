//! `wasi:keyvalue@0.2.0-draft2`, which Spin serves: cursors are text, and values are swapped.

use realm_model::cloud::{CloudError, Swapped};
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

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
