//! An object on its way from a guest: the guest writes into a buffer while a backend takes from it.
//!
//! The backend runs beside the guest, from `write-data` on. It sees the end only with `finish`: what is
//! dropped, by the guest or with its instance, is broken off, and nothing is written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use realm_model::cloud::{Answer, BlobSource, Blobs, CloudError};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinHandle;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

use super::quota::Quota;
use crate::cloud::{Cloud, Kept};

/// Bytes that wait for the backend.
const WAITING_MAX: usize = 256 * 1024;
/// Bytes that may wait before the guest says where they go.
const UNPLACED_MAX: usize = 1024 * 1024;

/// `outgoing-value`.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Outgoing {
    pipe: Arc<Pipe>,
    has_body: bool,
    writer: Option<JoinHandle<Result<(), CloudError>>>,
}

impl Outgoing {
    pub(super) fn new(cloud: &Cloud) -> Self {
        let pipe = Pipe {
            state: Mutex::default(),
            cloud: cloud.clone(),
            room: Notify::new(),
            bytes: Notify::new(),
        };
        Self {
            pipe: Arc::new(pipe),
            has_body: false,
            writer: None,
        }
    }

    /// The stream of its bytes, which a guest may take once.
    pub(super) fn body(&mut self) -> Option<Body> {
        let first = !std::mem::replace(&mut self.has_body, true);
        first.then(|| Body(Arc::clone(&self.pipe)))
    }

    /// Has a backend take the bytes.
    pub(super) fn write_to(&mut self, target: Target) -> Result<(), CloudError> {
        if self.writer.is_some() {
            return Err(CloudError::Invalid(
                "these bytes are written to an object already".to_owned(),
            ));
        }
        let Target {
            store,
            container,
            object,
            quota,
            room,
        } = target;
        let source = Source {
            pipe: Arc::clone(&self.pipe),
            quota,
        };
        let mut state = self.pipe.state();
        state.is_placed = true;
        // From here on those who write are counted, and each has its share.
        state.unplaced = None;
        drop(state);
        self.pipe.room.notify_one();
        let pipe = Arc::clone(&self.pipe);
        self.writer = Some(tokio::spawn(async move {
            let written = store.write(&container, &object, Box::new(source)).await;
            pipe.over(written.as_ref().err());
            drop(room);
            written
        }));
        Ok(())
    }

    /// Says that the bytes are complete, and waits for the backend.
    pub(super) async fn finish(mut self) -> Result<(), CloudError> {
        let Some(writer) = self.writer.take() else {
            return Err(CloudError::Invalid(
                "`write-data` was not called: the bytes go nowhere".to_owned(),
            ));
        };
        self.pipe.end(End::Whole);
        match writer.await {
            Ok(written) => written,
            Err(_) => Err(CloudError::Failed("it stopped on the way".to_owned())),
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // Without a `finish`, or after it: then there is an end already.
        self.pipe.end(End::Broken);
        if !self.pipe.state().is_placed {
            // Nobody will take what the guest wrote.
            self.pipe.over(None);
        }
    }
}

/// Where the bytes of a value go.
pub(super) struct Target {
    pub(super) store: Arc<dyn Blobs>,
    pub(super) container: String,
    pub(super) object: String,
    pub(super) quota: Quota,
    pub(super) room: OwnedSemaphorePermit,
}

struct Pipe {
    state: Mutex<State>,
    /// What keeps bytes that go nowhere yet.
    cloud: Cloud,
    /// There is room, or nothing more is taken.
    room: Notify,
    /// There are bytes, or an end.
    bytes: Notify,
}

#[derive(Default)]
struct State {
    /// In one piece: a guest may write single bytes, and each piece would take more than it has.
    waiting: Vec<u8>,
    is_placed: bool,
    unplaced: Option<Kept>,
    end: Option<End>,
    /// The backend takes no more; why, for the guest.
    over: Option<Option<CloudError>>,
}

#[derive(Clone, Copy)]
enum End {
    Whole,
    Broken,
}

impl Pipe {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in it is half-done at any call that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first end is the end.
    fn end(&self, end: End) {
        self.state().end.get_or_insert(end);
        self.bytes.notify_one();
        self.room.notify_one();
    }

    fn over(&self, error: Option<&CloudError>) {
        let mut state = self.state();
        state.over = Some(error.cloned());
        state.waiting = Vec::new();
        state.unplaced = None;
        drop(state);
        self.room.notify_one();
    }
}

impl State {
    /// Takes bytes, for which there is room.
    fn take(&mut self, bytes: &[u8], cloud: &Cloud) -> Result<(), CloudError> {
        if !self.is_placed {
            match &mut self.unplaced {
                Some(unplaced) => unplaced.more(bytes.len())?,
                None => self.unplaced = Some(Kept::new(cloud, bytes.len())?),
            }
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    fn room(&self) -> Result<usize, StreamError> {
        match &self.over {
            Some(Some(error)) => return Err(failed(error.to_string())),
            Some(None) => return Err(StreamError::Closed),
            None => {}
        }
        if self.end.is_some() {
            return Err(StreamError::Closed);
        }
        if self.is_placed {
            return Ok(WAITING_MAX.saturating_sub(self.waiting.len()));
        }
        match UNPLACED_MAX.saturating_sub(self.waiting.len()) {
            // Who could make room is who waits for it.
            0 => Err(failed(format!(
                "{UNPLACED_MAX} bytes wait for `write-data` to say where they go: more do not fit"
            ))),
            room => Ok(room.min(WAITING_MAX)),
        }
    }
}

fn failed(words: String) -> StreamError {
    StreamError::LastOperationFailed(wasmtime::Error::msg(words))
}

/// The stream of an `outgoing-value`.
pub(super) struct Body(Arc<Pipe>);

#[wasmtime_wasi::async_trait]
impl Pollable for Body {
    async fn ready(&mut self) {
        loop {
            let room = self.0.room.notified();
            if !matches!(self.0.state().room(), Ok(0)) {
                return;
            }
            room.await;
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Body {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let mut state = self.0.state();
        let room = state.room()?;
        if bytes.len() > room {
            return Err(StreamError::trap("more was written than there is room for"));
        }
        if !bytes.is_empty() {
            let taken = state.take(&bytes, &self.0.cloud);
            taken.map_err(|error| failed(error.to_string()))?;
            drop(state);
            self.0.bytes.notify_one();
        }
        Ok(())
    }

    /// Nobody sees any of it before `finish`: there is nothing to be flushed.
    fn flush(&mut self) -> Result<(), StreamError> {
        self.0.state().room().map(drop)
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        self.0.state().room()
    }
}

/// What the backend takes.
struct Source {
    pipe: Arc<Pipe>,
    quota: Quota,
}

impl Source {
    /// All that waits, or the end.
    async fn take(&self) -> Result<Option<Vec<u8>>, CloudError> {
        loop {
            let bytes = self.pipe.bytes.notified();
            {
                let mut state = self.pipe.state();
                if !state.waiting.is_empty() {
                    let all = std::mem::take(&mut state.waiting);
                    drop(state);
                    self.pipe.room.notify_one();
                    return Ok(Some(all));
                }
                match state.end {
                    Some(End::Whole) => return Ok(None),
                    Some(End::Broken) => {
                        return Err(CloudError::Invalid("the value was not finished".to_owned()));
                    }
                    None => {}
                }
            }
            bytes.await;
        }
    }
}

impl BlobSource for Source {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>, CloudError> {
        Box::pin(async move {
            let piece = self.take().await?;
            self.quota.passes(piece.as_deref()).await?;
            Ok(piece)
        })
    }
}
