//! An object on its way to S3: in one request, or in parts that are thrown away where it fails.

use std::time::Duration;

use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use realm_model::cloud::limits::OBJECT_BYTES_MAX;
use realm_model::cloud::{BlobSource, CloudError, copy_time};
use tokio::task::JoinSet;

use super::CALL_TIMEOUT;
use super::client::Client;

/// Bytes of a part: what S3 wants at the least. An upload has one of them on its way while it collects
/// the next one.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// For one part: a line of less than a megabit is none for large objects.
const PART_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn upload(
    client: &Client,
    path: &Path,
    mut bytes: Box<dyn BlobSource>,
) -> Result<(), CloudError> {
    let mut n_bytes = 0;
    let mut spare = Vec::new();
    let first = collect(bytes.as_mut(), &mut spare, &mut n_bytes).await?;
    if first.len() < PART_BYTES {
        let put = client.store().put(path, PutPayload::from(first));
        return client.call(PART_TIMEOUT, put).await.map(drop);
    }
    let begun = client.store().put_multipart(path);
    let mut upload = Upload {
        client: client.clone(),
        parts: Some(client.call(CALL_TIMEOUT, begun).await?),
    };
    match upload
        .parts(first, &mut spare, &mut n_bytes, bytes.as_mut())
        .await
    {
        Ok(()) => upload.complete(copy_time(n_bytes)).await,
        Err(error) => {
            // Before the answer: who writes anew at once finds nothing of this one.
            upload.abort().await;
            Err(error)
        }
    }
}

/// An upload of which S3 keeps the parts until it hears the end.
struct Upload {
    client: Client,
    /// `None`: it is over.
    parts: Option<Box<dyn MultipartUpload>>,
}

impl Upload {
    async fn parts(
        &mut self,
        first: Vec<u8>,
        spare: &mut Vec<u8>,
        n_bytes: &mut u64,
        bytes: &mut dyn BlobSource,
    ) -> Result<(), CloudError> {
        // Ended with this function, whatever its end is.
        let mut on_its_way = JoinSet::new();
        let mut part = first;
        while !part.is_empty() {
            arrived(&mut on_its_way).await?;
            let Some(parts) = &mut self.parts else {
                return Ok(());
            };
            let put = parts.put_part(PutPayload::from(part));
            let client = self.client.clone();
            on_its_way.spawn(async move { client.call(PART_TIMEOUT, put).await });
            part = collect(bytes, spare, n_bytes).await?;
        }
        arrived(&mut on_its_way).await
    }

    async fn complete(&mut self, time: Duration) -> Result<(), CloudError> {
        let Some(parts) = &mut self.parts else {
            return Ok(());
        };
        let completed = self.client.call(time, parts.complete()).await;
        match completed {
            Ok(_) => {
                self.parts = None;
                Ok(())
            }
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn abort(&mut self) {
        if let Some(mut parts) = self.parts.take() {
            // Who cannot be reached hears nothing of it either: the bucket's rules for what was not
            // finished have to do.
            let _ = self.client.call(CALL_TIMEOUT, parts.abort()).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else {
            return;
        };
        // Its caller left: somebody else has to tell the server.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let client = self.client.clone();
            drop(runtime.spawn(async move { client.call(CALL_TIMEOUT, parts.abort()).await }));
        }
    }
}

/// Waits for the part that is on its way.
async fn arrived(on_its_way: &mut JoinSet<Result<(), CloudError>>) -> Result<(), CloudError> {
    match on_its_way.join_next().await {
        None => Ok(()),
        Some(Ok(put)) => put,
        Some(Err(_)) => Err(CloudError::Failed("a part stopped on its way".to_owned())),
    }
}

/// A full part, or what is left of the source. What is behind the part waits in `spare`.
async fn collect(
    source: &mut dyn BlobSource,
    spare: &mut Vec<u8>,
    n_bytes: &mut u64,
) -> Result<Vec<u8>, CloudError> {
    let mut part = std::mem::take(spare);
    while part.len() < PART_BYTES {
        let Some(bytes) = source.next().await? else {
            return Ok(part);
        };
        *n_bytes += bytes.len() as u64;
        if *n_bytes > OBJECT_BYTES_MAX {
            return Err(CloudError::TooLarge {
                what: "the object",
                bytes: *n_bytes,
                bytes_max: OBJECT_BYTES_MAX,
            });
        }
        part.extend_from_slice(&bytes);
    }
    // Parts of one size, for servers that want it.
    *spare = part.split_off(PART_BYTES);
    Ok(part)
}
