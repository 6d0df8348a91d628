//! What a guest calls, on the words of `realm_model::cloud`.

use std::sync::Arc;

use realm_model::cloud::limits::{BATCH_MAX, CONTAINER_OVERHEAD_BYTES, PAGE_KEYS};
use realm_model::cloud::{Blobs, CloudError, ObjectInfo, check_object};
use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::View;
use super::draft::{blobstore, container, types};
use super::quota::{Metered, Quota};
use super::reading::Incoming;
use super::writing::{Outgoing, Target};
use crate::cloud::{Cloud, Opened};

/// Pages that one call of a guest gives.
const PAGES_MAX: usize = 10;

/// `container`.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Container {
    store: Arc<dyn Blobs>,
    name: String,
}

/// `stream-object-names`.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Names {
    store: Arc<dyn Blobs>,
    container: String,
    after: Option<String>,
    at_end: bool,
}

/// What a guest reads of an error is in words.
type Words<T> = Result<Result<T, String>>;

fn words<T>(result: Result<T, CloudError>) -> Words<T> {
    Ok(result.map_err(|error| error.to_string()))
}

/// A store, and the name of a container in it.
type Held = (Arc<dyn Blobs>, String);

impl View<'_> {
    /// A container that the guest holds, and one operation less.
    fn held(&self, this: &Resource<Container>) -> Result<Result<Held, CloudError>> {
        let held = self.table.get(this)?;
        let both = (Arc::clone(&held.store), held.name.clone());
        Ok(self.cloud.charge().map(|()| both))
    }
}

/// What needs no table: a guest's call may wait here.
impl Cloud {
    /// A container by its name, and one operation less.
    fn named(&self, name: &str) -> Result<Container, CloudError> {
        let Opened { store, part } = self.blobs(name)?;
        self.charge()?;
        Ok(Container { store, name: part })
    }

    /// What a component may have in a store, while it writes an object there.
    fn quota(&self, target: &Container, object: &str) -> Quota {
        let place = (target.name.as_str(), object);
        Quota::new(&target.store, place, self.bytes_max())
    }

    async fn copy(
        &self,
        from: &types::ObjectId,
        to: &types::ObjectId,
    ) -> Result<Copied, CloudError> {
        let source = self.named(&from.container)?;
        let target = self.named(&to.container)?;
        for object in [&from.object, &to.object] {
            check_object(object)?;
        }
        let size = size(&*source.store, &source.name, &from.object).await?;
        let size = size.ok_or(CloudError::NotFound("the object"))?;
        Ok(Copied {
            source,
            target,
            size,
        })
    }

    async fn copy_object(
        &self,
        from: &types::ObjectId,
        to: &types::ObjectId,
    ) -> Result<(), CloudError> {
        let Copied {
            source,
            target,
            size,
        } = self.copy(from, to).await?;
        let quota = self.quota(&target, &to.object);
        quota.look(size).await?;
        if Arc::ptr_eq(&source.store, &target.store) {
            let from = (source.name.as_str(), from.object.as_str());
            return source.store.copy(from, (&target.name, &to.object)).await;
        }
        // Between two stores the bytes go through here, a piece at a time.
        let _room = (self.room().to_read()?, self.room().to_write()?);
        let blob = source.store.read(&source.name, &from.object, 0, u64::MAX);
        // It may be another object than the one that was asked for its size.
        let bytes = Metered {
            source: blob.await?.bytes,
            quota,
        };
        let bytes = Box::new(bytes);
        target.store.write(&target.name, &to.object, bytes).await
    }

    async fn move_object(
        &self,
        from: &types::ObjectId,
        to: &types::ObjectId,
    ) -> Result<(), CloudError> {
        let Copied { source, target, .. } = self.copy(from, to).await?;
        if Arc::ptr_eq(&source.store, &target.store) {
            let from = (source.name.as_str(), from.object.as_str());
            return source.store.rename(from, (&target.name, &to.object)).await;
        }
        self.copy_object(from, to).await?;
        let objects = [from.object.clone()];
        source.store.remove(&source.name, &objects).await
    }

    async fn read(
        &self,
        store: &dyn Blobs,
        container: &str,
        (object, start, end): (&str, u64, u64),
    ) -> Result<Incoming, CloudError> {
        check_object(object)?;
        let room = self.room().to_read()?;
        let blob = store.read(container, object, start, end).await?;
        Ok(Incoming::new(blob, room))
    }
}

/// Both ends of a copy.
struct Copied {
    source: Container,
    target: Container,
    size: u64,
}

async fn size(store: &dyn Blobs, container: &str, object: &str) -> Result<Option<u64>, CloudError> {
    let info = store.object(container, object).await?;
    Ok(info.map(|info| info.n_bytes))
}

impl blobstore::Host for View<'_> {
    async fn create_container(&mut self, name: String) -> Words<Resource<Container>> {
        let cloud = self.cloud;
        let made = async {
            let container = cloud.named(&name)?;
            if container.store.info(&container.name).await?.is_none() {
                let there = container.store.used().await?;
                cloud.fits(there, CONTAINER_OVERHEAD_BYTES)?;
            }
            container.store.create(&container.name).await?;
            Ok(container)
        };
        match made.await {
            Ok(container) => Ok(Ok(self.table.push(container)?)),
            Err(error) => words(Err(error)),
        }
    }

    async fn get_container(&mut self, name: String) -> Words<Resource<Container>> {
        let cloud = self.cloud;
        let found = async {
            let container = cloud.named(&name)?;
            match container.store.info(&container.name).await? {
                Some(_) => Ok(container),
                None => Err(CloudError::NotFound("the container")),
            }
        };
        match found.await {
            Ok(container) => Ok(Ok(self.table.push(container)?)),
            Err(error) => words(Err(error)),
        }
    }

    async fn delete_container(&mut self, name: String) -> Words<()> {
        let cloud = self.cloud;
        let deleted = async {
            let container = cloud.named(&name)?;
            container.store.delete(&container.name).await
        };
        words(deleted.await)
    }

    async fn container_exists(&mut self, name: String) -> Words<bool> {
        let cloud = self.cloud;
        let exists = async {
            let container = cloud.named(&name)?;
            Ok(container.store.info(&container.name).await?.is_some())
        };
        words(exists.await)
    }

    async fn copy_object(&mut self, src: types::ObjectId, dest: types::ObjectId) -> Words<()> {
        words(self.cloud.copy_object(&src, &dest).await)
    }

    async fn move_object(&mut self, src: types::ObjectId, dest: types::ObjectId) -> Words<()> {
        words(self.cloud.move_object(&src, &dest).await)
    }
}

impl container::Host for View<'_> {}

impl container::HostContainer for View<'_> {
    async fn name(&mut self, this: Resource<Container>) -> Words<String> {
        Ok(Ok(self.table.get(&this)?.name.clone()))
    }

    async fn info(&mut self, this: Resource<Container>) -> Words<types::ContainerMetadata> {
        let held = self.held(&this)?;
        let info = async {
            let (store, name) = held?;
            let info = store.info(&name).await?;
            let info = info.ok_or(CloudError::NotFound("the container"))?;
            Ok(types::ContainerMetadata {
                name,
                created_at: info.created_at_s,
            })
        };
        words(info.await)
    }

    async fn get_data(
        &mut self,
        this: Resource<Container>,
        object: String,
        start: u64,
        end: u64,
    ) -> Words<Resource<Incoming>> {
        let held = self.held(&this)?;
        let cloud = self.cloud;
        let read = async {
            let (store, name) = held?;
            cloud.read(&*store, &name, (&object, start, end)).await
        };
        match read.await {
            Ok(incoming) => Ok(Ok(self.table.push(incoming)?)),
            Err(error) => words(Err(error)),
        }
    }

    async fn write_data(
        &mut self,
        this: Resource<Container>,
        object: String,
        data: Resource<Outgoing>,
    ) -> Words<()> {
        let held = self.held(&this)?;
        let cloud = self.cloud;
        let target = async {
            let (store, name) = held?;
            check_object(&object)?;
            let room = cloud.room().to_write()?;
            let container = Container { store, name };
            let quota = cloud.quota(&container, &object);
            quota.look(0).await?;
            Ok(Target {
                store: container.store,
                container: container.name,
                object,
                quota,
                room,
            })
        };
        match target.await {
            Ok(target) => words(self.table.get_mut(&data)?.write_to(target)),
            Err(error) => words(Err(error)),
        }
    }

    async fn list_objects(&mut self, this: Resource<Container>) -> Words<Resource<Names>> {
        let held = self.held(&this)?;
        let found = async {
            let (store, container) = held?;
            if store.info(&container).await?.is_none() {
                return Err(CloudError::NotFound("the container"));
            }
            Ok(Names {
                store,
                container,
                after: None,
                at_end: false,
            })
        };
        match found.await {
            Ok(names) => Ok(Ok(self.table.push(names)?)),
            Err(error) => words(Err(error)),
        }
    }

    async fn delete_object(&mut self, this: Resource<Container>, object: String) -> Words<()> {
        container::HostContainer::delete_objects(self, this, vec![object]).await
    }

    async fn delete_objects(
        &mut self,
        this: Resource<Container>,
        objects: Vec<String>,
    ) -> Words<()> {
        let held = self.held(&this)?;
        let cloud = self.cloud;
        let removed = async {
            let (store, name) = held?;
            // All names before the first deletion.
            objects.iter().try_for_each(|object| check_object(object))?;
            for (nth, batch) in objects.chunks(BATCH_MAX).enumerate() {
                // A message for each name, into a queue that others have as well.
                let n_operations = if store.is_told() { batch.len() } else { 1 };
                // The first one is the call itself.
                for _ in usize::from(nth == 0)..n_operations {
                    cloud.charge()?;
                }
                store.remove(&name, batch).await?;
            }
            Ok(())
        };
        words(removed.await)
    }

    async fn has_object(&mut self, this: Resource<Container>, object: String) -> Words<bool> {
        let held = self.held(&this)?;
        let found = async {
            let (store, name) = held?;
            check_object(&object)?;
            Ok(store.object(&name, &object).await?.is_some())
        };
        words(found.await)
    }

    async fn object_info(
        &mut self,
        this: Resource<Container>,
        object: String,
    ) -> Words<types::ObjectMetadata> {
        let held = self.held(&this)?;
        let info = async {
            let (store, container) = held?;
            check_object(&object)?;
            let info = store.object(&container, &object).await?;
            let ObjectInfo {
                created_at_s,
                n_bytes,
            } = info.ok_or(CloudError::NotFound("the object"))?;
            Ok(types::ObjectMetadata {
                name: object,
                container,
                created_at: created_at_s,
                size: n_bytes,
            })
        };
        words(info.await)
    }

    async fn clear(&mut self, this: Resource<Container>) -> Words<()> {
        let held = self.held(&this)?;
        let cloud = self.cloud;
        let cleared = async {
            let (store, name) = held?;
            loop {
                // From the beginning each time: what was listed is gone.
                let names = store.list(&name, None, PAGE_KEYS).await?;
                if names.is_empty() {
                    return Ok(());
                }
                store.remove(&name, &names).await?;
                cloud.charge()?;
            }
        };
        words(cleared.await)
    }

    async fn drop(&mut self, this: Resource<Container>) -> Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl Names {
    /// Takes up to `n` names, a page at a time.
    async fn take(
        &mut self,
        cloud: &Cloud,
        n: u64,
        mut each: impl FnMut(Vec<String>),
    ) -> Result<u64, CloudError> {
        let mut taken = 0;
        while taken < n && !self.at_end {
            cloud.charge()?;
            let n_max = usize::try_from(n - taken).map_or(PAGE_KEYS, |n| n.min(PAGE_KEYS));
            let after = self.after.as_deref();
            let page = self.store.list(&self.container, after, n_max).await?;
            self.at_end = page.len() < n_max;
            taken += page.len() as u64;
            if let Some(last) = page.last() {
                self.after = Some(last.clone());
            }
            each(page);
        }
        Ok(taken)
    }
}

impl container::HostStreamObjectNames for View<'_> {
    async fn read_stream_object_names(
        &mut self,
        this: Resource<Names>,
        len: u64,
    ) -> Words<(Vec<String>, bool)> {
        let names = self.table.get_mut(&this)?;
        let mut all = Vec::new();
        let len = len.min((PAGE_KEYS * PAGES_MAX) as u64);
        let taken = names.take(self.cloud, len, |page| all.extend(page)).await;
        words(taken.map(|_| (all, names.at_end)))
    }

    async fn skip_stream_object_names(
        &mut self,
        this: Resource<Names>,
        num: u64,
    ) -> Words<(u64, bool)> {
        let names = self.table.get_mut(&this)?;
        let taken = names.take(self.cloud, num, drop).await;
        words(taken.map(|taken| (taken, names.at_end)))
    }

    async fn drop(&mut self, this: Resource<Names>) -> Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl types::Host for View<'_> {}

impl types::HostOutgoingValue for View<'_> {
    async fn new_outgoing_value(&mut self) -> Result<Resource<Outgoing>> {
        Ok(self.table.push(Outgoing::new(self.cloud))?)
    }

    async fn outgoing_value_write_body(
        &mut self,
        this: Resource<Outgoing>,
    ) -> Result<Result<Resource<DynOutputStream>, ()>> {
        let Some(body) = self.table.get_mut(&this)?.body() else {
            return Ok(Err(()));
        };
        let body: DynOutputStream = Box::new(body);
        Ok(Ok(self.table.push(body)?))
    }

    async fn finish(&mut self, this: Resource<Outgoing>) -> Words<()> {
        let outgoing = self.table.delete(this)?;
        words(outgoing.finish().await)
    }

    async fn drop(&mut self, this: Resource<Outgoing>) -> Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl types::HostIncomingValue for View<'_> {
    async fn incoming_value_consume_sync(&mut self, this: Resource<Incoming>) -> Words<Vec<u8>> {
        let incoming = self.table.delete(this)?;
        words(incoming.all().await)
    }

    async fn incoming_value_consume_async(
        &mut self,
        this: Resource<Incoming>,
    ) -> Words<Resource<DynInputStream>> {
        let incoming = self.table.delete(this)?;
        let stream: DynInputStream = Box::new(incoming.stream());
        Ok(Ok(self.table.push(stream)?))
    }

    async fn size(&mut self, this: Resource<Incoming>) -> Result<u64> {
        Ok(self.table.get(&this)?.n_bytes())
    }

    async fn drop(&mut self, this: Resource<Incoming>) -> Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
