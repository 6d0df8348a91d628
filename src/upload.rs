//! Brings a component's bytes from a file to the agent, a chunk at a time.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use realm_model::lock::Pin;
use realm_model::name::ComponentName;
use realm_model::refusal::RefusalCode;
use realm_node::{Client, ClientError};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, Take};

use crate::failure::Failure;
use crate::output;

/// Enough per write to keep a socket busy, little enough to hold.
const CHUNK_BYTES: usize = 64 * 1024;

/// A file with the bytes of a component, as they were when they were pinned. The file is read again
/// to be uploaded: a manifest may name many, and all of them at once fit no memory.
pub(crate) struct Upload {
    pub(crate) component: ComponentName,
    pub(crate) pin: Pin,
    pub(crate) path: PathBuf,
}

impl Upload {
    /// Uploads the file unless the agent has its digest; the agent refuses other bytes.
    pub(crate) async fn bring(&self, client: &Client) -> Result<(), Failure> {
        let Self {
            component,
            pin,
            path,
        } = self;
        if client.has(&pin.digest).await? {
            return Ok(());
        }
        let file = File::open(path).await.map_err(|error| {
            Failure::from_error("source-unreadable", &error)
                .context(format!("failed to open `{}`", path.display()))
        })?;
        // One byte beyond the pin is enough for the agent to see that it is another file.
        let chunks = chunks(file.take(pin.size.saturating_add(1)));
        match client.upload(&pin.digest, chunks).await {
            Ok(_) => {}
            Err(ClientError::Refused(answer))
                if answer.code == RefusalCode::DigestMismatch.as_str() =>
            {
                return Err(changed(path, ClientError::Refused(answer)));
            }
            Err(error) => return Err(error.into()),
        }
        output::note(&format!(
            "uploaded {component}: {} KiB, {}",
            pin.size.div_ceil(1024),
            pin.digest
        ));
        Ok(())
    }
}

fn changed(path: &Path, error: ClientError) -> Failure {
    Failure::from(error)
        .context(format!(
            "`{}` changed while it was being applied",
            path.display()
        ))
        .hint("it was built again meanwhile, and nothing was signed: do the same again")
}

fn chunks(file: Take<File>) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
    stream::try_unfold(file, |mut file| async move {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let read = file.read_buf(&mut chunk).await?;
        Ok((read > 0).then(|| (chunk.freeze(), file)))
    })
}
