//! Members as sources of bytes: whoever says that it holds a digest is asked first, then whoever is
//! connected. The store hashes what comes, and names who served other bytes. Not here: how long it is
//! waited for them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_net::{Handle, Protocol, Transport as _};
use realm_store::blobs::BoxError;
use realm_store::fetch::{ByteStream, PeerSource};
use tokio_util::io::ReaderStream;

use super::blobs::{self, Offer};

/// Members that are asked for one blob.
const SOURCES_MAX: usize = 16;
/// Members that are asked at once how it stands with one; of more than that others each time.
const ASKED_MAX: usize = 8;
/// Of those as many that said that they hold it, any of them.
const HOLDERS_ASKED: usize = 4;
/// And as many of those that shall ask the origin first, also where there is no connection yet.
const AHEAD_ASKED: usize = 2;
/// Who does not answer in this time has said nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

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
    reached: BTreeSet<PublicKey>,
    holders: BTreeMap<Digest, Vec<PublicKey>>,
}

/// One member as a source.
#[derive(Clone)]
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

    /// Replaces what is known: the names of the members, who is connected, who is heard from in any
    /// way, and who holds what.
    pub(crate) fn learn(
        &self,
        names: BTreeMap<PublicKey, String>,
        connected: BTreeSet<PublicKey>,
        reached: BTreeSet<PublicKey>,
        holders: BTreeMap<Digest, Vec<PublicKey>>,
    ) {
        let mut shared = self.write();
        shared.names = names;
        shared.connected = connected;
        shared.reached = reached;
        shared.holders = holders;
    }

    /// Members to ask for `digest`, in order.
    pub(crate) fn sources(&self, digest: &Digest) -> Vec<Source> {
        let shared = self.read();
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
        asked.map(|key| shared.source(net, key)).collect()
    }

    /// Members to ask how it stands with `digest`, and for each whether it said that it holds it: by
    /// `random`, so that those who ask at one moment ask different ones.
    pub(crate) fn to_ask(
        &self,
        digest: &Digest,
        ahead: &[PublicKey],
        random: u64,
    ) -> Vec<(Source, bool)> {
        let shared = self.read();
        let Some(net) = &shared.net else {
            return Vec::new();
        };
        let holders = shared.holders.get(digest).map_or(&[][..], Vec::as_slice);
        let connected: Vec<PublicKey> = shared.connected.iter().copied().collect();
        let ahead = ahead.iter().filter(|key| shared.reached.contains(*key));
        let asked = turned(holders, random).take(HOLDERS_ASKED);
        let asked = asked.chain(ahead.take(AHEAD_ASKED));
        let mut taken = BTreeSet::new();
        asked
            .chain(turned(&connected, random))
            .filter(|key| taken.insert(**key))
            .take(ASKED_MAX)
            .map(|key| (shared.source(net, key), holders.contains(key)))
            .collect()
    }

    /// How many of these members are heard from.
    pub(crate) fn reached(&self, members: &[PublicKey]) -> usize {
        let shared = self.read();
        let reached = members.iter().filter(|key| shared.reached.contains(*key));
        reached.count()
    }

    /// The network, and the members that are heard from in any way.
    pub(crate) fn reachable(&self) -> (Option<Handle>, BTreeSet<PublicKey>) {
        let shared = self.read();
        (shared.net.clone(), shared.reached.clone())
    }

    /// How many members are heard from.
    pub(crate) fn others(&self) -> usize {
        self.read().reached.len()
    }

    fn read(&self) -> RwLockReadGuard<'_, Shared> {
        self.shared
            .read()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Shared> {
        // Whole values are put in place: a panic cannot leave half of one.
        self.shared
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Shared {
    fn source(&self, net: &Handle, key: &PublicKey) -> Source {
        let name = self.names.get(key).cloned();
        Source {
            net: net.clone(),
            key: *key,
            name: name.unwrap_or_else(|| key.to_string()),
        }
    }
}

/// All of them, from any one on.
fn turned(keys: &[PublicKey], random: u64) -> impl Iterator<Item = &PublicKey> {
    let at = random.checked_rem(keys.len() as u64).unwrap_or(0);
    let (before, from) = keys.split_at(usize::try_from(at).unwrap_or(0));
    from.iter().chain(before)
}

impl Source {
    pub(crate) const fn key(&self) -> PublicKey {
        self.key
    }

    /// How it stands with bytes there; `None`: it does not say.
    pub(crate) async fn ask(&self, digest: &Digest) -> Option<Offer> {
        let asking = async {
            let stream = self.net.open(self.key, Protocol::Blob).await.ok()?;
            blobs::ask(stream, digest).await.ok()
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
        answer.ok().flatten()
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
