//! Members as sources of bytes: whoever says that it holds a digest is asked first, then whoever is
//! connected. The store hashes what comes, and names who served other bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use futures_util::StreamExt as _;
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_net::{Handle, Protocol, Transport as _};
use realm_store::blobs::BoxError;
use realm_store::fetch::{ByteStream, PeerSource};
use tokio_util::io::ReaderStream;

use super::blobs;

/// Members that are asked for one blob.
const SOURCES_MAX: usize = 16;

/// Who holds what, as the records say; cheap to clone, replaced by the loop.
#[derive(Clone, Default)]
pub(crate) struct Peers {
    shared: Arc<RwLock<Shared>>,
}

#[derive(Default)]
struct Shared {
    net: Option<Handle>,
    names: BTreeMap<PublicKey, String>,
    connected: BTreeSet<PublicKey>,
    holders: BTreeMap<Digest, Vec<PublicKey>>,
}

/// One member as a source.
pub(crate) struct Source {
    net: Handle,
    key: PublicKey,
    name: String,
}

impl Peers {
    /// Begins to ask through a network.
    pub(crate) fn open(&self, net: Handle) {
        self.write().net = Some(net);
    }

    /// Replaces what is known: the names of the members, who is connected, and who holds what.
    pub(crate) fn learn(
        &self,
        names: BTreeMap<PublicKey, String>,
        connected: BTreeSet<PublicKey>,
        holders: BTreeMap<Digest, Vec<PublicKey>>,
    ) {
        let mut shared = self.write();
        shared.names = names;
        shared.connected = connected;
        shared.holders = holders;
    }

    /// Members to ask for `digest`, in order.
    pub(crate) fn sources(&self, digest: &Digest) -> Vec<Source> {
        let shared = self
            .shared
            .read()
            .unwrap_or_else(|poison| poison.into_inner());
        let Some(net) = &shared.net else {
            return Vec::new();
        };
        let holders = shared.holders.get(digest).into_iter().flatten();
        let holds = |key: &PublicKey| {
            shared
                .holders
                .get(digest)
                .is_some_and(|all| all.contains(key))
        };
        let (near, far): (Vec<&PublicKey>, Vec<&PublicKey>) =
            holders.partition(|key| shared.connected.contains(*key));
        let rest = shared.connected.iter().filter(|key| !holds(key));
        let asked = near.into_iter().chain(far).chain(rest).take(SOURCES_MAX);
        asked
            .map(|key| Source {
                net: net.clone(),
                key: *key,
                name: shared
                    .names
                    .get(key)
                    .cloned()
                    .unwrap_or_else(|| key.to_string()),
            })
            .collect()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Shared> {
        // Whole values are put in place: a panic cannot leave half of one.
        self.shared
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

impl PeerSource for Source {
    fn name(&self) -> &str {
        &self.name
    }

    fn open<'a>(
        &'a self,
        digest: &'a Digest,
        offset: u64,
    ) -> Pin<Box<dyn Future<Output = Result<ByteStream, BoxError>> + Send + 'a>> {
        Box::pin(async move {
            let stream = self.net.open(self.key, Protocol::Blob).await?;
            let (_, stream) = blobs::open(stream, digest, offset).await?;
            let bytes = ReaderStream::new(stream)
                .map(|piece: std::io::Result<Bytes>| piece.map_err(BoxError::from));
            Ok(Box::pin(bytes) as ByteStream)
        })
    }
}
