//! `wasi:keyvalue@0.2.0-draft`, which wasmtime and wasmCloud serve: cursors are numbers, and so is what
//! is added.

use realm_model::cloud::CloudError;
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::{Bucket, Has, Pairs, View, common};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/wasi-keyvalue-0.2.0-draft",
        world: "imports",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": crate::cloud::keyvalue::Bucket },
    });
}

pub(super) use generated::wasi::keyvalue as bindings;

type Cursor = u64;

common!(bindings);

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    bindings::store::add_to_linker::<_, Has>(linker, State::keyvalue)?;
    bindings::atomics::add_to_linker::<_, Has>(linker, State::keyvalue)?;
    bindings::batch::add_to_linker::<_, Has>(linker, State::keyvalue)
}

async fn page(
    view: &mut View<'_>,
    bucket: &Resource<Bucket>,
    cursor: Option<Cursor>,
) -> Result<Result<bindings::store::KeyResponse, CloudError>> {
    let cursor = match view.cursor(bucket, cursor)? {
        Ok(cursor) => cursor,
        Err(error) => return Ok(Err(error)),
    };
    let held = view.held(bucket)?;
    Ok(match held.keys(cursor.as_deref()).await {
        Ok(page) => Ok(bindings::store::KeyResponse {
            keys: page.keys,
            cursor: view.number(bucket, page.cursor)?,
        }),
        Err(error) => Err(error),
    })
}

impl bindings::atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Result<Result<u64, bindings::store::Error>> {
        let held = self.held(&bucket)?;
        let large = || CloudError::Invalid("the number would be too large".to_owned());
        let sum = async {
            let delta = i64::try_from(delta).map_err(|_| large())?;
            let sum = held.increment(&key, delta).await?;
            u64::try_from(sum).map_err(|_| {
                // Another version of the interface counted it below zero.
                CloudError::Invalid(format!("the number is {sum}, below zero"))
            })
        };
        Ok(sum.await.map_err(said))
    }
}
