//! `realm:cloud/streams@0.1.0`: records that guests append and read.

use std::time::Duration;

use realm_model::cloud::streams::{Place, Record, StoredRecord, check_records, check_stream};
use realm_model::cloud::{CloudError, StreamError, Streams, limits};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource};

use super::keys::View;
use super::{Cloud, Kept, Opened};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/realm-cloud/streams.wit",
        world: "realm:cloud/stream-imports",
        imports: { default: async | trappable },
        with: { "realm:cloud/streams.stream": super::Stream },
    });
}

use generated::realm::cloud::streams::{self, Bounds, Error};

/// A stream that a guest opened.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Stream {
    opened: Opened<dyn Streams>,
    name: String,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    streams::add_to_linker::<_, Has>(linker, State::keys)
}

/// What a guest reads of an error.
fn said(error: StreamError) -> Error {
    let words = error.to_string();
    let error = match error {
        StreamError::Conflict(there) => return Error::Conflict(there),
        StreamError::Cloud(error) => error,
    };
    match error {
        CloudError::NoSuchStore => Error::NoSuchStore,
        CloudError::AccessDenied => Error::AccessDenied,
        CloudError::Quota(which) => Error::Quota(which.to_string()),
        CloudError::TooLarge { .. } => Error::TooLarge(words),
        CloudError::Invalid(_) => Error::Invalid(words),
        CloudError::Timeout => Error::Timeout,
        CloudError::Unavailable => Error::Unavailable,
        CloudError::Unsupported(_) => Error::Unsupported(words),
        CloudError::NotFound(_) | CloudError::Full(_) | CloudError::Failed(_) => {
            Error::Other(words)
        }
    }
}

fn written(record: streams::Record) -> Record {
    Record {
        key: record.key,
        data: record.data,
        metadata: record.metadata,
    }
}

fn shown(stored: StoredRecord) -> streams::StoredRecord {
    let StoredRecord {
        seq,
        time_ms,
        record,
    } = stored;
    streams::StoredRecord {
        seq,
        time: time_ms,
        key: record.key,
        data: record.data,
        metadata: record.metadata,
    }
}

/// What records take in the host, with what holds them.
fn size(records: impl Iterator<Item = usize>) -> usize {
    records.map(|n_bytes| n_bytes + 256).sum()
}

impl Stream {
    /// Before each call: counts it.
    fn store(&self, cloud: &Cloud) -> Result<&dyn Streams, CloudError> {
        cloud.charge()?;
        Ok(&*self.opened.store)
    }

    fn at(&self) -> Place<'_> {
        Place {
            part: &self.opened.part,
            name: &self.name,
        }
    }

    async fn append(
        &self,
        cloud: &Cloud,
        records: Vec<Record>,
        expected: Option<u64>,
    ) -> Result<Vec<u64>, StreamError> {
        let store = self.store(cloud)?;
        let n_bytes = check_records(&records)?;
        let _kept = Kept::new(cloud, size(records.iter().map(Record::size)))?;
        let counted = n_bytes as u64 + records.len() as u64 * limits::RECORD_OVERHEAD_BYTES;
        cloud.fits(store.bytes().await?, counted)?;
        store.append(self.at(), records, expected).await
    }

    async fn read(
        &self,
        cloud: &Cloud,
        after: u64,
        n_max: u32,
        wait_ms: u32,
    ) -> Result<(Vec<StoredRecord>, Kept), StreamError> {
        let store = self.store(cloud)?;
        let wait_ms = wait_ms.min(limits::RECORDS_WAIT_MS_MAX);
        let wait = Duration::from_millis(wait_ms.into());
        let n_max = usize::try_from(n_max).unwrap_or(usize::MAX);
        let found = store.read(self.at(), after, n_max, wait).await?;
        // Until the guest has them.
        let kept = Kept::new(cloud, size(found.iter().map(|one| one.record.size())))?;
        Ok((found, kept))
    }
}

impl streams::Host for View<'_> {}

impl streams::HostStream for View<'_> {
    async fn open(
        &mut self,
        store: String,
        name: String,
    ) -> Result<Result<Resource<Stream>, Error>> {
        let opened = self.cloud.streams(&store);
        let checked = opened.and_then(|opened| check_stream(&name).map(|()| opened));
        match checked {
            Ok(opened) => Ok(Ok(self.table.push(Stream { opened, name })?)),
            Err(error) => Ok(Err(said(error.into()))),
        }
    }

    async fn append(
        &mut self,
        stream: Resource<Stream>,
        records: Vec<streams::Record>,
        expected_last: Option<u64>,
    ) -> Result<Result<Vec<u64>, Error>> {
        let stream = self.table.get(&stream)?;
        let records = records.into_iter().map(written).collect();
        let done = stream.append(self.cloud, records, expected_last).await;
        Ok(done.map_err(said))
    }

    async fn read(
        &mut self,
        stream: Resource<Stream>,
        after: u64,
        max: u32,
        wait_ms: u32,
    ) -> Result<Result<Vec<streams::StoredRecord>, Error>> {
        let stream = self.table.get(&stream)?;
        Ok(match stream.read(self.cloud, after, max, wait_ms).await {
            Ok((found, _kept)) => Ok(found.into_iter().map(shown).collect()),
            Err(error) => Err(said(error)),
        })
    }

    async fn first_and_last(&mut self, stream: Resource<Stream>) -> Result<Result<Bounds, Error>> {
        let stream = self.table.get(&stream)?;
        let done = async { stream.store(self.cloud)?.bounds(stream.at()).await };
        let bounds = done.await.map(|bounds| Bounds {
            first: bounds.first,
            last: bounds.last,
        });
        Ok(bounds.map_err(said))
    }

    async fn find(&mut self, stream: Resource<Stream>, time: u64) -> Result<Result<u64, Error>> {
        let stream = self.table.get(&stream)?;
        let done = async { stream.store(self.cloud)?.find(stream.at(), time).await };
        Ok(done.await.map_err(said))
    }

    async fn trim(&mut self, stream: Resource<Stream>, before: u64) -> Result<Result<(), Error>> {
        let stream = self.table.get(&stream)?;
        let done = async { stream.store(self.cloud)?.trim(stream.at(), before).await };
        Ok(done.await.map_err(said))
    }

    async fn position(
        &mut self,
        stream: Resource<Stream>,
        consumer: String,
    ) -> Result<Result<Option<u64>, Error>> {
        let stream = self.table.get(&stream)?;
        let done = async {
            let store = stream.store(self.cloud)?;
            store.position(stream.at(), &consumer).await
        };
        Ok(done.await.map_err(said))
    }

    async fn commit(
        &mut self,
        stream: Resource<Stream>,
        consumer: String,
        seq: u64,
        expected: Option<u64>,
    ) -> Result<Result<(), Error>> {
        let stream = self.table.get(&stream)?;
        let done = async {
            let store = stream.store(self.cloud)?;
            store.commit(stream.at(), &consumer, seq, expected).await
        };
        Ok(done.await.map_err(said))
    }

    async fn drop(&mut self, stream: Resource<Stream>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}
