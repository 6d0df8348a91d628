//! A connection as its streams see it: whether it still stands.
//!
//! What libp2p gives up it closes in good order, and over TCP a stream learns nothing while bytes wait
//! for a peer that takes none. Here the loop's word is enough: what it lets go of is broken, at once.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// The loop's end: dropped, every stream of the connection is broken.
#[derive(Default)]
pub(crate) struct Wire(InUse);

/// Held by each stream of a connection, from the moment it is asked for: a connection in use is not
/// closed for tidiness.
pub(crate) type InUse = Arc<Shared>;

#[derive(Default)]
pub(crate) struct Shared {
    is_cut: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    streams: BTreeMap<u64, Arc<Wakers>>,
}

/// Who waits at one stream; its halves may have tasks of their own.
#[derive(Default)]
struct Wakers {
    reads: AtomicWaker,
    writes: AtomicWaker,
}

impl Wire {
    pub(crate) fn hold(&self) -> InUse {
        Arc::clone(&self.0)
    }

    pub(crate) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.is_cut.store(true, Ordering::SeqCst);
        // Woken outside the lock: a stream that is dropped by it takes the lock as well.
        let streams = std::mem::take(&mut self.0.lock().streams);
        for wakers in streams.into_values() {
            wakers.reads.wake();
            wakers.writes.wake();
        }
    }
}

impl Shared {
    /// The map is changed by whole entries: a panic cannot leave it torn.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's part.
pub(crate) struct Tied {
    to: InUse,
    id: u64,
    wakers: Arc<Wakers>,
}

impl Tied {
    pub(crate) fn to(wire: InUse) -> Self {
        let wakers = Arc::<Wakers>::default();
        let mut waiting = wire.lock();
        let id = waiting.next;
        waiting.next += 1;
        waiting.streams.insert(id, Arc::clone(&wakers));
        drop(waiting);
        Self {
            to: wire,
            id,
            wakers,
        }
    }

    /// What a read gave, or that nothing comes any more. What has come is read before.
    pub(crate) fn read<T>(
        &self,
        context: &Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.unless_cut(&self.wakers.reads, context, polled)
    }

    /// What a write, a flush or an end gave, or that nothing goes any more.
    pub(crate) fn write<T>(
        &self,
        context: &Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.unless_cut(&self.wakers.writes, context, polled)
    }

    fn unless_cut<T>(
        &self,
        waker: &AtomicWaker,
        context: &Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        // Registered before it is looked at: a cut between the two is not missed.
        waker.register(context.waker());
        match self.to.is_cut.load(Ordering::SeqCst) {
            true => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the connection was given up",
            ))),
            false => Poll::Pending,
        }
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        self.to.lock().streams.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_woken_when_the_connection_is_given_up() {
        let wire = Wire::default();
        let (one, other) = (Tied::to(wire.hold()), Tied::to(wire.hold()));
        assert!(wire.is_in_use());
        drop(other);
        let one = Arc::new(one);
        let waits = |writes: bool| {
            let one = Arc::clone(&one);
            tokio::spawn(std::future::poll_fn(move |context| match writes {
                true => one.write(context, Poll::<io::Result<()>>::Pending),
                false => one.read(context, Poll::<io::Result<()>>::Pending),
            }))
        };
        let waiting = [waits(false), waits(true)];
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|waits| !waits.is_finished()));
        drop(wire);
        for waits in waiting {
            let error = waits.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        // What had come is given all the same.
        let read = std::future::poll_fn(|context| one.read(context, Poll::Ready(Ok(7))));
        assert_eq!(read.await.unwrap(), 7);
    }
}
