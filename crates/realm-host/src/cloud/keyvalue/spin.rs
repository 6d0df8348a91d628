//! `spin:key-value@3.0.0`: the same buckets, without blocking, for components of WASI 0.3.

use std::pin::Pin;
use std::task::{Context, Poll};

use realm_model::cloud::{Answer, CloudError, KeyPage};
use tokio::sync::oneshot;
use wasmtime::component::{
    Accessor, Destination, FutureReader, Linker, Resource, StreamProducer, StreamReader,
    StreamResult, VecBuffer,
};
use wasmtime::{Result, StoreContextMut};

use super::{Bucket, Has, Held, View};
use crate::cloud::Kept;
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/spin-key-value-3.0.0",
        world: "imports",
        imports: { default: async | store | trappable },
        with: { "spin:key-value/key-value.store": crate::cloud::keyvalue::Bucket },
    });
}

use generated::spin::key_value::key_value as bindings;

use bindings::Error;

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    bindings::add_to_linker::<_, Has>(linker, State::keyvalue)
}

fn said(error: CloudError) -> Error {
    match error {
        CloudError::NoSuchStore => Error::NoSuchStore,
        CloudError::AccessDenied => Error::AccessDenied,
        CloudError::Quota(_)
        | CloudError::TooLarge { .. }
        | CloudError::Invalid(_)
        | CloudError::NotFound(_)
        | CloudError::Full(_)
        | CloudError::Unsupported(_)
        | CloudError::Timeout
        | CloudError::Unavailable
        | CloudError::Failed(_) => Error::Other(error.to_string()),
    }
}

impl bindings::Host for View<'_> {}

impl bindings::HostStore for View<'_> {}

impl<T: Send> bindings::HostStoreWithStore<T> for Has {
    async fn drop(accessor: &Accessor<T, Self>, store: Resource<Bucket>) -> Result<()> {
        accessor.with(|mut access| access.get().close(store))
    }

    async fn open(
        accessor: &Accessor<T, Self>,
        label: String,
    ) -> Result<Result<Resource<Bucket>, Error>> {
        accessor.with(|mut access| Ok(access.get().open(&label)?.map_err(said)))
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, Error>> {
        let held = held(accessor, &store)?;
        Ok(held.get(&key).await.map_err(said))
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), Error>> {
        let held = held(accessor, &store)?;
        // As many calls as a guest likes are under way at once, each with a value here.
        let set = async {
            let _kept = Kept::new(&held.cloud, key.len() + value.len())?;
            held.set(&key, &value, None).await
        };
        Ok(set.await.map_err(said))
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
        key: String,
    ) -> Result<Result<(), Error>> {
        let held = held(accessor, &store)?;
        Ok(held.delete(&key).await.map_err(said))
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
        key: String,
    ) -> Result<Result<bool, Error>> {
        let held = held(accessor, &store)?;
        Ok(held.exists(&key).await.map_err(said))
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
    ) -> Result<(StreamReader<String>, FutureReader<Result<(), Error>>)> {
        let held = held(accessor, &store)?;
        let (end, ended) = oneshot::channel();
        let keys = Keys {
            page: None,
            held,
            cursor: None,
            asked: None,
            is_over: false,
            end: Some(end),
        };
        accessor.with(|mut access| {
            let keys = StreamReader::new(&mut access, keys)?;
            Ok((keys, FutureReader::new(&mut access, ended)?))
        })
    }
}

fn held<T: Send>(accessor: &Accessor<T, Has>, store: &Resource<Bucket>) -> Result<Held> {
    accessor.with(|mut access| access.get().held(store))
}

/// What a key of a page takes beside itself.
const KEY_BYTES: usize = size_of::<String>();

/// The keys of a bucket, page by page as the guest reads them.
struct Keys {
    held: Held,
    cursor: Option<String>,
    asked: Option<Answer<'static, KeyPage>>,
    is_over: bool,
    /// The page that the guest is reading, which is kept here until it has read all of it.
    page: Option<Kept>,
    end: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Keys {
    fn keep(&mut self, keys: &[String]) -> Result<(), CloudError> {
        let n_bytes = keys.iter().map(|key| key.len() + KEY_BYTES).sum();
        self.page = Some(Kept::new(&self.held.cloud, n_bytes)?);
        Ok(())
    }

    fn end(&mut self, how: Result<(), Error>) -> Poll<Result<StreamResult>> {
        if let Some(end) = self.end.take() {
            let _ = end.send(how);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

/// A guest that reads no further is told that it saw what there was until then.
impl Drop for Keys {
    fn drop(&mut self) {
        let _ = self.end(Ok(()));
    }
}

impl<D> StreamProducer<D> for Keys {
    type Item = String;
    type Buffer = VecBuffer<String>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let this = &mut *self;
        // It asks when it has read what there was.
        this.page = None;
        loop {
            if this.is_over {
                return this.end(Ok(()));
            }
            let (held, cursor) = (&this.held, &this.cursor);
            let asked = this.asked.get_or_insert_with(|| {
                let (held, cursor) = (held.clone(), cursor.clone());
                Box::pin(async move { held.keys(cursor.as_deref()).await })
            });
            let page = match asked.as_mut().poll(context) {
                Poll::Ready(page) => page,
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
            };
            this.asked = None;
            match page {
                Ok(page) => {
                    this.cursor = page.cursor;
                    this.is_over = this.cursor.is_none();
                    if let Err(error) = this.keep(&page.keys) {
                        return this.end(Err(said(error)));
                    }
                    if !page.keys.is_empty() {
                        destination.set_buffer(VecBuffer::from(page.keys));
                        return Poll::Ready(Ok(StreamResult::Completed));
                    }
                }
                Err(error) => return this.end(Err(said(error))),
            }
        }
    }
}
