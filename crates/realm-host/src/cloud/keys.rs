//! `realm:cloud/keys@0.1.0`: keys that guests use and never see.
//!
//! A key is a resource of the guest's store, which is a name and nothing else. Plaintexts are in buffers
//! that are wiped, but for what is handed to the guest.

use realm_model::cloud::{CloudError, KeyName, Keys, KeysError, check_key_name};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use zeroize::Zeroizing;

use super::{Cloud, Opened};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/realm-cloud/keys.wit",
        world: "realm:cloud/keys-imports",
        imports: { default: async | trappable },
        with: { "realm:cloud/keys.key": super::Key },
    });
}

use generated::realm::cloud::keys::{self, DataKey, Error, PublicKey};

/// A key that a guest opened.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Key {
    vault: Opened<dyn Keys>,
    name: String,
}

/// What the interface works with.
pub(crate) struct View<'a> {
    pub(crate) cloud: &'a Cloud,
    pub(crate) table: &'a mut ResourceTable,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    keys::add_to_linker::<_, Has>(linker, State::keys)
}

/// What a guest reads of an error.
fn said(error: KeysError) -> Error {
    match error {
        KeysError::NotAuthentic => Error::NotAuthentic,
        KeysError::UnknownKey => Error::UnknownKey,
        KeysError::Cloud(error) => match error {
            CloudError::NoSuchStore => Error::NoSuchVault,
            CloudError::Quota(_) => Error::Quota,
            CloudError::TooLarge { .. } | CloudError::Invalid(_) => {
                Error::Invalid(error.to_string())
            }
            CloudError::AccessDenied
            | CloudError::NotFound(_)
            | CloudError::Full(_)
            | CloudError::Unsupported(_)
            | CloudError::Timeout
            | CloudError::Unavailable
            | CloudError::Failed(_) => Error::Unavailable(error.to_string()),
        },
    }
}

impl Key {
    fn name(&self) -> KeyName<'_> {
        KeyName {
            part: &self.vault.part,
            name: &self.name,
        }
    }
}

impl View<'_> {
    /// One operation with a key.
    async fn with<T>(
        &mut self,
        key: &Resource<Key>,
        work: impl AsyncFnOnce(Key) -> Result<T, KeysError>,
    ) -> Result<Result<T, Error>> {
        let key = self.table.get(key)?.clone();
        if let Err(error) = self.cloud.charge() {
            return Ok(Err(said(error.into())));
        }
        Ok(work(key).await.map_err(said))
    }
}

impl keys::Host for View<'_> {}

impl keys::HostKey for View<'_> {
    async fn open(&mut self, vault: String, name: String) -> Result<Result<Resource<Key>, Error>> {
        let opened = check_key_name(&name).and_then(|()| self.cloud.keys(&vault));
        match opened {
            Ok(vault) => Ok(Ok(self.table.push(Key { vault, name })?)),
            Err(error) => Ok(Err(said(error.into()))),
        }
    }

    async fn encrypt(
        &mut self,
        key: Resource<Key>,
        plaintext: Vec<u8>,
        context: Vec<u8>,
    ) -> Result<Result<Vec<u8>, Error>> {
        let plaintext = Zeroizing::new(plaintext);
        self.with(&key, async |key| {
            key.vault
                .store
                .encrypt(key.name(), &plaintext, &context)
                .await
        })
        .await
    }

    async fn decrypt(
        &mut self,
        key: Resource<Key>,
        ciphertext: Vec<u8>,
        context: Vec<u8>,
    ) -> Result<Result<Vec<u8>, Error>> {
        let done = self.with(&key, async |key| {
            key.vault
                .store
                .decrypt(key.name(), &ciphertext, &context)
                .await
        });
        Ok(done.await?.map(taken))
    }

    async fn sign(
        &mut self,
        key: Resource<Key>,
        message: Vec<u8>,
    ) -> Result<Result<Vec<u8>, Error>> {
        self.with(&key, async |key| {
            key.vault.store.sign(key.name(), &message).await
        })
        .await
    }

    async fn verify(
        &mut self,
        key: Resource<Key>,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> Result<Result<bool, Error>> {
        self.with(&key, async |key| {
            key.vault
                .store
                .verify(key.name(), &message, &signature)
                .await
        })
        .await
    }

    async fn public_keys(&mut self, key: Resource<Key>) -> Result<Result<Vec<PublicKey>, Error>> {
        let done = self.with(&key, async |key| {
            key.vault.store.public_keys(key.name()).await
        });
        let public = |key: realm_model::cloud::PublicSigningKey| PublicKey {
            id: key.id,
            key: key.key.to_vec(),
        };
        Ok(done
            .await?
            .map(|keys| keys.into_iter().map(public).collect()))
    }

    async fn mac(
        &mut self,
        key: Resource<Key>,
        message: Vec<u8>,
    ) -> Result<Result<Vec<u8>, Error>> {
        self.with(&key, async |key| {
            key.vault.store.mac(key.name(), &message).await
        })
        .await
    }

    async fn verify_mac(
        &mut self,
        key: Resource<Key>,
        message: Vec<u8>,
        code: Vec<u8>,
    ) -> Result<Result<bool, Error>> {
        self.with(&key, async |key| {
            key.vault
                .store
                .verify_mac(key.name(), &message, &code)
                .await
        })
        .await
    }

    async fn make_data_key(
        &mut self,
        key: Resource<Key>,
        context: Vec<u8>,
    ) -> Result<Result<DataKey, Error>> {
        let done = self.with(&key, async |key| {
            key.vault.store.data_key(key.name(), &context).await
        });
        Ok(done.await?.map(|made| DataKey {
            key: taken(made.plain),
            wrapped: made.wrapped,
        }))
    }

    async fn unwrap_data_key(
        &mut self,
        key: Resource<Key>,
        wrapped: Vec<u8>,
        context: Vec<u8>,
    ) -> Result<Result<Vec<u8>, Error>> {
        let done = self.with(&key, async |key| {
            key.vault
                .store
                .unwrap_data_key(key.name(), &wrapped, &context)
                .await
        });
        Ok(done.await?.map(taken))
    }

    async fn drop(&mut self, key: Resource<Key>) -> Result<()> {
        self.table.delete(key)?;
        Ok(())
    }
}

/// For the guest: from here on it is copied into its memory, and freed without being wiped.
fn taken(mut bytes: Zeroizing<Vec<u8>>) -> Vec<u8> {
    std::mem::take(&mut bytes)
}
