//! Brings a component's bytes to the agent.

use bytes::Bytes;
use futures_util::stream;
use realm_model::lock::Pin;
use realm_model::name::ComponentName;
use realm_node::Client;

use crate::failure::Failure;
use crate::output;

/// Enough per write to keep a socket busy, little enough to hold.
const CHUNK_BYTES: usize = 64 * 1024;

/// Uploads the bytes unless the agent has their digest.
pub(crate) async fn upload(
    client: &Client,
    component: &ComponentName,
    pin: Pin,
    bytes: Bytes,
) -> Result<(), Failure> {
    if client.has(&pin.digest).await? {
        return Ok(());
    }
    let chunks = stream::unfold(bytes, |mut rest| async move {
        let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
        (!chunk.is_empty()).then_some((Ok(chunk), rest))
    });
    client.upload(&pin.digest, chunks).await?;
    output::note(&format!(
        "uploaded {component}: {} KiB, {}",
        pin.size.div_ceil(1024),
        pin.digest
    ));
    Ok(())
}
