//! Objects in a bucket behind the API of S3.
//!
//! ```text
//! PREFIX/.containers/NAME      empty: that the container is there, and since when
//! PREFIX/NAME/OBJECT           the bytes
//! ```
//!
//! A container is there if it has its marker or any object. Objects are visible with the server's answer
//! to the last request of a writing, whole; parts of one that failed are thrown away. Not here: names
//! (`names`), making buckets.

mod client;
mod here;
mod upload;

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, PutPayload};
use realm_model::cloud::limits::{CALL_TIMEOUT_MS, PAGE_KEYS};
use realm_model::cloud::{
    Answer, Blob, BlobSource, Blobs, CloudError, ContainerInfo, ObjectInfo, check_container,
    check_object, copy_time, range_of,
};

use self::client::Client;
pub use self::client::{S3Settings, SettingError};
use super::names::{key_of_container, key_of_object, object_of_key};

const CALL_TIMEOUT: Duration = Duration::from_millis(CALL_TIMEOUT_MS);
/// Bytes of a key that S3 takes.
const KEY_BYTES_MAX: usize = 1_024;
/// The folder of the markers: no container's key begins with a point.
const MARKERS: &str = ".containers";

/// Containers in a bucket.
pub struct S3 {
    client: Client,
    /// What stands before every key, with a `/` at its end; or nothing.
    prefix: String,
}

impl S3 {
    /// A client, which asks nobody before its first call. Has to be made in the runtime that its connections
    /// shall live in.
    ///
    /// # Errors
    ///
    /// Where a setting makes no sense.
    pub fn new(
        settings: &S3Settings,
        watch: std::sync::Arc<dyn crate::Watch>,
    ) -> Result<Self, SettingError> {
        let prefix = settings.prefix.trim_matches('/');
        Ok(Self {
            client: Client::new(settings, watch)?,
            prefix: match prefix {
                "" => String::new(),
                prefix => format!("{}/", key_of_object(prefix)),
            },
        })
    }

    fn path(&self, key: &str) -> Result<Path, CloudError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(CloudError::TooLarge {
                what: "the key of the object, with its container",
                bytes: key.len() as u64,
                bytes_max: KEY_BYTES_MAX as u64,
            });
        }
        Path::parse(key).map_err(|_| CloudError::Invalid("the name cannot be a key".to_owned()))
    }

    fn marker(&self, container: &str) -> Result<Path, CloudError> {
        check_container(container)?;
        let container = key_of_container(container);
        self.path(&format!("{}{MARKERS}/{container}", self.prefix))
    }

    /// What stands before the keys of a container.
    fn folder(&self, container: &str) -> Result<String, CloudError> {
        check_container(container)?;
        Ok(format!("{}{}/", self.prefix, key_of_container(container)))
    }

    fn place(&self, container: &str, object: &str) -> Result<Path, CloudError> {
        check_object(object)?;
        let folder = self.folder(container)?;
        self.path(&format!("{folder}{}", key_of_object(object)))
    }

    /// Whether a container is there, and since when by its marker.
    async fn found(&self, container: &str) -> Result<Option<u64>, CloudError> {
        let marker = self.marker(container)?;
        let store = self.client.store();
        match self.client.call(CALL_TIMEOUT, store.head(&marker)).await {
            Ok(meta) => {
                self.client.saw(container);
                return Ok(Some(seconds(meta.last_modified.timestamp())));
            }
            Err(CloudError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let folder = self.folder(container)?;
        let (keys, _) = self.keys(&folder, None, None, 1).await?;
        if keys.is_empty() {
            return Ok(None);
        }
        self.client.saw(container);
        Ok(Some(0))
    }

    async fn is_there(&self, container: &str) -> Result<(), CloudError> {
        if self.client.has_seen(container) {
            return Ok(());
        }
        match self.found(container).await? {
            Some(_) => Ok(()),
            None => Err(CloudError::NotFound("the container")),
        }
    }

    /// Some keys below a folder, and the token of those behind them.
    async fn keys(
        &self,
        folder: &str,
        after: Option<&str>,
        token: Option<String>,
        n_max: usize,
    ) -> Result<(Vec<Path>, Option<String>), CloudError> {
        let options = PaginatedListOptions {
            offset: after.map(str::to_owned),
            max_keys: Some(n_max),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let listed = self.client.store().list_paginated(Some(folder), options);
        let page = self.client.call(CALL_TIMEOUT, listed).await?;
        let keys = page.result.objects.into_iter();
        Ok((keys.map(|meta| meta.location).collect(), page.page_token))
    }

    async fn delete_all(&self, keys: Vec<Path>) -> Result<(), CloudError> {
        let keys: BoxStream<'static, _> = Box::pin(stream::iter(keys.into_iter().map(Ok)));
        let mut deleted = self.client.store().delete_stream(keys);
        let all = async {
            while let Some(one) = deleted.next().await {
                match one {
                    // Some servers say so of what is not there.
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        self.client.call(CALL_TIMEOUT, all).await
    }

    async fn size(&self, path: &Path) -> Result<u64, CloudError> {
        let head = self.client.store().head(path);
        Ok(self.client.call(CALL_TIMEOUT, head).await?.size)
    }
}

impl Blobs for S3 {
    fn create<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let marker = self.marker(container)?;
            let store = self.client.store();
            match self.client.call(CALL_TIMEOUT, store.head(&marker)).await {
                Ok(_) => return Ok(()),
                Err(CloudError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            let put = store.put(&marker, PutPayload::new());
            self.client.call(CALL_TIMEOUT, put).await?;
            self.client.saw(container);
            Ok(())
        })
    }

    fn delete<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        Box::pin(self.client.whole(async move {
            let (marker, folder) = (self.marker(container)?, self.folder(container)?);
            self.client.forget(container);
            loop {
                // From the beginning each time: what was listed is gone.
                let (keys, _) = self.keys(&folder, None, None, PAGE_KEYS).await?;
                if keys.is_empty() {
                    break;
                }
                self.delete_all(keys).await?;
            }
            self.delete_all(vec![marker]).await?;
            self.client.forget(container);
            Ok(())
        }))
    }

    fn info<'a>(&'a self, container: &'a str) -> Answer<'a, Option<ContainerInfo>> {
        Box::pin(async move {
            let created_at_s = self.found(container).await?;
            Ok(created_at_s.map(|created_at_s| ContainerInfo { created_at_s }))
        })
    }

    fn write<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        bytes: Box<dyn BlobSource>,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let path = self.place(container, object)?;
            self.is_there(container).await?;
            upload::upload(&self.client, &path, bytes).await
        })
    }

    fn read<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        start: u64,
        end: u64,
    ) -> Answer<'a, Blob> {
        Box::pin(async move {
            let path = self.place(container, object)?;
            range_of(start, end, u64::MAX)?;
            let range = match (start, end) {
                (0, u64::MAX) => None,
                (start, u64::MAX) => Some(GetRange::Offset(start)),
                (start, end) => Some(GetRange::Bounded(start..end + 1)),
            };
            let options = GetOptions {
                range,
                ..GetOptions::default()
            };
            let got = self.client.store().get_opts(&path, options);
            match self.client.call(CALL_TIMEOUT, got).await {
                Ok(got) => Ok(Blob {
                    n_bytes: got.range.end - got.range.start,
                    bytes: Box::new(Reader {
                        client: self.client.clone(),
                        n_left: got.range.end - got.range.start,
                        stream: got.into_stream(),
                    }),
                }),
                // Perhaps for the range, which an empty object has none of.
                Err(CloudError::Failed(why)) => {
                    match range_of(start, end, self.size(&path).await?)? {
                        (_, 0) => Ok(Blob {
                            n_bytes: 0,
                            bytes: Box::new(Nothing),
                        }),
                        _ => Err(CloudError::Failed(why)),
                    }
                }
                Err(error) => Err(error),
            }
        })
    }

    fn object<'a>(&'a self, container: &'a str, object: &'a str) -> Answer<'a, Option<ObjectInfo>> {
        Box::pin(async move {
            let path = self.place(container, object)?;
            let head = self.client.store().head(&path);
            match self.client.call(CALL_TIMEOUT, head).await {
                Ok(meta) => Ok(Some(ObjectInfo {
                    created_at_s: seconds(meta.last_modified.timestamp()),
                    n_bytes: meta.size,
                })),
                Err(CloudError::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn list<'a>(
        &'a self,
        container: &'a str,
        after: Option<&'a str>,
        n_max: usize,
    ) -> Answer<'a, Vec<String>> {
        Box::pin(self.client.whole(async move {
            let folder = self.folder(container)?;
            let n_max = n_max.min(PAGE_KEYS);
            let after = after.map(|after| format!("{folder}{}", key_of_object(after)));
            let mut names = Vec::new();
            let mut token = None;
            while names.len() < n_max {
                let n_left = n_max - names.len();
                let (keys, next) = self.keys(&folder, after.as_deref(), token, n_left).await?;
                // What no name leads to was put there by somebody else.
                let named = keys
                    .iter()
                    .filter_map(|key| object_of_key(key.as_ref().strip_prefix(&folder)?));
                names.extend(named);
                token = next;
                if token.is_none() {
                    break;
                }
            }
            if names.is_empty() {
                self.is_there(container).await?;
            }
            Ok(names)
        }))
    }

    fn remove<'a>(&'a self, container: &'a str, objects: &'a [String]) -> Answer<'a, ()> {
        Box::pin(async move {
            let keys: Result<Vec<_>, _> = objects
                .iter()
                .map(|object| self.place(container, object))
                .collect();
            let keys = keys?;
            if keys.is_empty() {
                return Ok(());
            }
            self.delete_all(keys).await
        })
    }

    fn copy<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()> {
        Box::pin(async move {
            let (source, target) = (self.place(from.0, from.1)?, self.place(to.0, to.1)?);
            let size = self.size(&source).await?;
            // S3 takes it for a mistake.
            if source == target {
                return Ok(());
            }
            self.is_there(to.0).await?;
            let copied = self.client.store().copy(&source, &target);
            self.client.call(copy_time(size), copied).await
        })
    }

    fn rename<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()> {
        Box::pin(async move {
            self.copy(from, to).await?;
            if from == to {
                return Ok(());
            }
            self.remove(from.0, &[from.1.to_owned()]).await
        })
    }

    fn bytes<'a>(&'a self, container: &'a str) -> Answer<'a, Option<u64>> {
        Box::pin(async move { check_container(container).map(|()| None) })
    }

    /// A server would have to list all of it: its operator's quota of the bucket holds.
    fn used(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async { Ok(None) })
    }
}

/// What is read of an object, as it comes.
struct Reader {
    client: Client,
    n_left: u64,
    stream: BoxStream<'static, object_store::Result<bytes::Bytes>>,
}

impl BlobSource for Reader {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>, CloudError> {
        Box::pin(async move {
            while self.n_left > 0 {
                let next = self.stream.next();
                let next = async { next.await.transpose() };
                let Some(piece) = self.client.call(CALL_TIMEOUT, next).await? else {
                    return Err(CloudError::Failed("the object ended early".to_owned()));
                };
                let n = piece.len() as u64;
                let Some(n_left) = self.n_left.checked_sub(n) else {
                    return Err(CloudError::Failed("the object did not end".to_owned()));
                };
                self.n_left = n_left;
                if n > 0 {
                    return Ok(Some(piece.into()));
                }
            }
            Ok(None)
        })
    }
}

/// The bytes of an empty object.
struct Nothing;

impl BlobSource for Nothing {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>, CloudError> {
        Box::pin(async { Ok(None) })
    }
}

fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or(0)
}
