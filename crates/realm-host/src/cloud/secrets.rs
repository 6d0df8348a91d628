//! `wasmcloud:secrets`: a handle for each secret that the component lists, and its value once it is
//! revealed. Two published shapes, of which the newer one has async functions, over one implementation.
//!
//! Not here: where values come from, and the same secrets as a bucket of `wasi:keyvalue`.

use realm_model::cloud::Secrets;
use wasmtime::Result;
use wasmtime::component::{Accessor, HasData, Linker, Resource, ResourceTable};

use crate::state::State;

/// What a guest reads, and where its handles are.
pub(crate) struct Revealed<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) table: &'a mut ResourceTable,
}

/// A handle: the name of a secret, which the component lists.
#[expect(
    unreachable_pub,
    reason = "the bindings name it in their own public items"
)]
pub struct Handle(String);

struct Has;

impl HasData for Has {
    type Data<'a> = Revealed<'a>;
}

/// A value as a guest gets it.
enum Value {
    Text(String),
    Bytes(Vec<u8>),
}

impl Revealed<'_> {
    /// `None`: the component lists no such secret.
    fn open(&mut self, name: String) -> Result<Option<Resource<Handle>>> {
        if self.secrets.value(&name).is_none() {
            return Ok(None);
        }
        Ok(Some(self.table.push(Handle(name))?))
    }

    /// The secret of a component that lists one.
    fn open_only(&mut self) -> Result<Resource<Handle>> {
        let Some(name) = self.secrets.only().map(str::to_owned) else {
            wasmtime::bail!(
                "`wasmcloud:secrets/secret` has no names, and `secrets` of the component does not list one secret"
            );
        };
        Ok(self.table.push(Handle(name))?)
    }

    fn value(&self, handle: &Resource<Handle>) -> Result<Value> {
        let Handle(name) = self.table.get(handle)?;
        // It was there when the handle was made, and an instance keeps what it began with.
        let bytes = self.secrets.value(name).unwrap_or_default().to_vec();
        Ok(match String::from_utf8(bytes) {
            Ok(text) => Value::Text(text),
            Err(error) => Value::Bytes(error.into_bytes()),
        })
    }

    fn close(&mut self, handle: Resource<Handle>) -> Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

mod draft {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/wasmcloud-secrets-0.1.0-draft",
        world: "imports",
        imports: { default: trappable },
        with: { "wasmcloud:secrets/store.secret": super::Handle },
    });

    pub(super) use wasmcloud::secrets::{reveal, store};
}

mod concurrent {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/wasmcloud-secrets-2.1.0",
        world: "imports",
        imports: { default: trappable },
        with: { "wasmcloud:secrets/store.secret": super::Handle },
    });

    pub(super) use wasmcloud::secrets::{reveal, secret, store};
}

impl From<Value> for draft::store::SecretValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => Self::String(text),
            Value::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl From<Value> for concurrent::store::SecretValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => Self::String(text),
            Value::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl draft::store::HostSecret for Revealed<'_> {
    fn drop(&mut self, handle: Resource<Handle>) -> Result<()> {
        self.close(handle)
    }
}

impl draft::store::Host for Revealed<'_> {
    fn get(&mut self, key: String) -> Result<Result<Resource<Handle>, draft::store::SecretsError>> {
        let handle = self.open(key)?;
        Ok(handle.ok_or(draft::store::SecretsError::NotFound))
    }
}

impl draft::reveal::Host for Revealed<'_> {
    fn reveal(&mut self, handle: Resource<Handle>) -> Result<draft::store::SecretValue> {
        self.value(&handle).map(Into::into)
    }
}

impl concurrent::store::HostSecret for Revealed<'_> {
    fn drop(&mut self, handle: Resource<Handle>) -> Result<()> {
        self.close(handle)
    }
}

impl concurrent::store::Host for Revealed<'_> {}

impl concurrent::reveal::Host for Revealed<'_> {}

impl<T> concurrent::store::HostWithStore<T> for Has {
    async fn get(
        store: &Accessor<T, Self>,
        key: String,
    ) -> Result<Result<Resource<Handle>, concurrent::store::SecretsError>> {
        let handle = store.with(|mut view| view.get().open(key))?;
        Ok(handle.ok_or(concurrent::store::SecretsError::NotFound))
    }
}

impl concurrent::secret::Host for Revealed<'_> {}

impl<T> concurrent::secret::HostWithStore<T> for Has {
    async fn get(store: &Accessor<T, Self>) -> Result<Resource<Handle>> {
        store.with(|mut view| view.get().open_only())
    }
}

impl<T> concurrent::reveal::HostWithStore<T> for Has {
    async fn reveal(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
    ) -> Result<concurrent::store::SecretValue> {
        store.with(|mut view| view.get().value(&handle).map(Into::into))
    }
}

/// The shape without async functions.
pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    draft::store::add_to_linker::<_, Has>(linker, State::revealed)?;
    draft::reveal::add_to_linker::<_, Has>(linker, State::revealed)
}

/// The shape with them.
pub(super) fn link_concurrent(linker: &mut Linker<State>) -> Result<()> {
    concurrent::store::add_to_linker::<_, Has>(linker, State::revealed)?;
    concurrent::reveal::add_to_linker::<_, Has>(linker, State::revealed)?;
    concurrent::secret::add_to_linker::<_, Has>(linker, State::revealed)
}
