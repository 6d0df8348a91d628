//! An answer on its way into the cache and to the client that asked for it: read as fast as it comes,
//! however slow the client is, and kept when all of it is there.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;

use super::budget::{Counts, Taken};
use super::store::Store;
use crate::backend::{Body, BoxError};

/// Bytes of one answer that are kept.
pub(super) const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Answers of several pieces up to here become one piece.
const JOINED_BYTES_MAX: usize = 1024 * 1024;

/// What the reader and the client share.
#[derive(Default)]
struct Shared {
    pieces: VecDeque<Bytes>,
    end: Option<End>,
    waker: Option<Waker>,
    is_client_gone: bool,
}

/// What follows the pieces.
enum End {
    Whole,
    Trailers(HeaderMap),
    Failed(BoxError),
    /// It is not kept after all: the client reads the rest itself, at its own pace.
    Rest(Body),
}

/// The reader.
pub(super) struct Filling {
    shared: Arc<Mutex<Shared>>,
    body: Option<Body>,
    pieces: Vec<Bytes>,
    bytes: usize,
    declared: Option<u64>,
}

/// The body that the client gets.
pub(super) struct Filled {
    shared: Arc<Mutex<Shared>>,
    rest: Option<Body>,
    hint: SizeHint,
    passed: u64,
    declared: Option<u64>,
    /// Told if the client has had all of it. Dropped, it has left.
    had_all: Option<oneshot::Sender<()>>,
}

/// The client, for who reads on its behalf.
pub(super) struct Client(oneshot::Receiver<()>);

/// Reads `body`, of which the head declares so many bytes, and passes it on.
pub(super) fn fill(body: Body, declared: Option<u64>) -> (Filling, Filled, Client) {
    let (had_all, client) = oneshot::channel();
    let shared = Arc::<Mutex<Shared>>::default();
    let filled = Filled {
        shared: Arc::clone(&shared),
        rest: None,
        hint: body.size_hint(),
        passed: 0,
        declared,
        had_all: Some(had_all),
    };
    let filling = Filling {
        shared,
        body: Some(body),
        pieces: Vec::new(),
        bytes: 0,
        declared,
    };
    (filling, filled, Client(client))
}

impl Client {
    /// Waits until it leaves before it has had all.
    pub(super) async fn leaves(self) {
        if self.0.await.is_ok() {
            std::future::pending().await
        }
    }
}

impl Filled {
    /// Reads it in place of a client that wants none of its bytes, as long as it may be kept.
    pub(super) async fn read_out(mut self) {
        loop {
            let next = poll_fn(|context| {
                let polled = Pin::new(&mut self).poll_frame(context);
                match self.rest {
                    Some(_) => Poll::Ready(None),
                    None => polled,
                }
            });
            let Some(Ok(_)) = next.await else { return };
        }
    }
}

impl Filling {
    /// All of it, if it is whole and there was room for it.
    pub(super) async fn read(mut self, store: &Store, counts: &Arc<Counts>) -> Option<Vec<Bytes>> {
        loop {
            let frame = poll_fn(|context| match &mut self.body {
                Some(body) => Pin::new(body).poll_frame(context),
                None => Poll::Ready(None),
            });
            match frame.await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.take(&data, store, counts)?,
                    // There is no place for them in what is kept.
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.ends(End::Trailers(trailers));
                        return None;
                    }
                },
                Some(Err(error)) => {
                    self.ends(End::Failed(error));
                    return None;
                }
                None => break,
            }
        }
        let bytes = u64::try_from(self.bytes).unwrap_or(u64::MAX);
        let is_whole = self.declared.is_none_or(|declared| declared == bytes);
        let pieces = is_whole.then(|| self.joined(store, counts));
        self.ends(End::Whole);
        pieces
    }

    fn take(&mut self, data: &Bytes, store: &Store, counts: &Arc<Counts>) -> Option<()> {
        if data.is_empty() {
            return Some(());
        }
        let bytes = self.bytes.saturating_add(data.len());
        let has_room = bytes <= ENTRY_BYTES_MAX;
        let taken = has_room.then(|| store.take(counts, Taken::of_piece(data.len())));
        let Some(taken) = taken.flatten() else {
            if let Some(body) = self.body.take() {
                self.pass(data.clone());
                self.ends(End::Rest(body));
            }
            return None;
        };
        let piece = taken.piece(data);
        self.bytes = bytes;
        self.pieces.push(piece.clone());
        self.pass(piece);
        Some(())
    }

    fn pass(&self, piece: Bytes) {
        let mut shared = lock(&self.shared);
        if !shared.is_client_gone {
            shared.pieces.push_back(piece);
        }
        let waker = shared.waker.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn ends(&self, end: End) {
        let mut shared = lock(&self.shared);
        if shared.end.is_none() && !shared.is_client_gone {
            shared.end = Some(end);
        }
        let waker = shared.waker.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// In one piece where that costs little: it is sent with one write.
    fn joined(&mut self, store: &Store, counts: &Arc<Counts>) -> Vec<Bytes> {
        let pieces = std::mem::take(&mut self.pieces);
        if pieces.len() < 2 || self.bytes > JOINED_BYTES_MAX {
            return pieces;
        }
        match store.take(counts, Taken::of_piece(self.bytes)) {
            Some(taken) => vec![taken.piece(&pieces.concat())],
            None => pieces,
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        // A reader that was stopped leaves nobody waiting.
        self.ends(End::Failed("the answer was not read to its end".into()));
    }
}

impl HttpBody for Filled {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(rest) = &mut this.rest {
            return Pin::new(rest).poll_frame(context);
        }
        let mut shared = lock(&this.shared);
        if let Some(piece) = shared.pieces.pop_front() {
            this.passed += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match shared.end.take() {
            None => {
                shared.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Some(End::Whole) => {
                shared.end = Some(End::Whole);
                Poll::Ready(None)
            }
            Some(End::Trailers(trailers)) => {
                shared.end = Some(End::Whole);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(End::Failed(error)) => {
                shared.end = Some(End::Whole);
                Poll::Ready(Some(Err(error)))
            }
            Some(End::Rest(body)) => {
                drop(shared);
                let rest = this.rest.insert(body);
                Pin::new(rest).poll_frame(context)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if let Some(rest) = &self.rest {
            return rest.is_end_stream();
        }
        let shared = lock(&self.shared);
        shared.pieces.is_empty() && matches!(shared.end, Some(End::Whole))
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.hint.exact().map(|all| all.saturating_sub(self.passed));
        match &self.rest {
            Some(rest) => rest.size_hint(),
            None => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        // A connection that knows the length does not wait for the end.
        if self.declared == Some(self.passed)
            && let Some(had_all) = self.had_all.take()
        {
            let _ = had_all.send(());
        }
        let mut shared = lock(&self.shared);
        shared.is_client_gone = true;
        let pieces = std::mem::take(&mut shared.pieces);
        // What is not kept ends with who asked for it.
        let end = shared.end.take();
        drop(shared);
        drop((pieces, end));
    }
}

/// Each change is a whole one.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
