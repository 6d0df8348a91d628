//! The threads that serve connections: one per core, each with a runtime of its own, so that a
//! request never crosses threads and wakes nobody.
//!
//! A new connection goes to the thread with the fewest. Not a listener per thread
//! (`SO_REUSEPORT`): the kernel's choice is blind to load, and a second process could share the
//! port unnoticed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Threads for blocking work (files of guests) that one worker may start: all workers together
/// stay below what tokio gives a whole process.
const BLOCKING_THREADS_MAX: usize = 64;

/// The workers of one edge.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    next: AtomicUsize,
    stop: CancellationToken,
}

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// A connection's place at one worker, given back when dropped.
pub(crate) struct Seat {
    pub(crate) runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` threads; none: connections are served by the runtime of the caller.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let runtimes = match count {
            0 => vec![Handle::current()],
            _ => (0..count)
                .map(|index| start(index, &stop))
                .collect::<io::Result<_>>()
                // Those that did start have nothing to do.
                .inspect_err(|_| stop.cancel())?,
        };
        let worker = |runtime| Worker {
            runtime,
            connections: Arc::default(),
        };
        Ok(Self {
            workers: runtimes.into_iter().map(worker).collect(),
            next: AtomicUsize::new(0),
            stop,
        })
    }

    /// A seat at the worker with the fewest connections; where several have as few, they take
    /// turns.
    pub(crate) fn seat(&self) -> Seat {
        let count = self.workers.len();
        let first = self.next.fetch_add(1, Relaxed) % count;
        let worker = (0..count)
            .map(|offset| &self.workers[(first + offset) % count])
            .min_by_key(|worker| worker.connections.load(Relaxed))
            .expect("there is one at least");
        worker.connections.fetch_add(1, Relaxed);
        Seat {
            runtime: worker.runtime.clone(),
            connections: Arc::clone(&worker.connections),
        }
    }

    /// Ends the threads, and what still runs there.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Relaxed);
    }
}

fn start(index: usize, stop: &CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?;
    let handle = runtime.handle().clone();
    let stopped = stop.clone();
    let thread = std::thread::Builder::new().name(format!("realm-edge-{index}"));
    // Nobody waits for it: what matters has ended before it is told to stop.
    let _: JoinHandle<()> = thread.spawn(move || {
        runtime.block_on(stopped.cancelled());
        // A file operation that hangs must not hold up the end.
        runtime.shutdown_background();
    })?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(count: usize) -> Workers {
        let workers = (0..count).map(|_| Worker {
            runtime: Handle::current(),
            connections: Arc::default(),
        });
        Workers {
            workers: workers.collect(),
            next: AtomicUsize::new(0),
            stop: CancellationToken::new(),
        }
    }

    fn connections(workers: &Workers) -> Vec<usize> {
        let count = |worker: &Worker| worker.connections.load(Relaxed);
        workers.workers.iter().map(count).collect()
    }

    #[tokio::test]
    async fn connections_spread_evenly_and_fill_up_gaps() {
        let workers = workers(3);
        let mut seats: Vec<_> = (0..9).map(|_| workers.seat()).collect();
        assert_eq!(connections(&workers), [3, 3, 3]);
        // Every third one went to the same worker.
        seats.remove(6);
        seats.remove(3);
        seats.push(workers.seat());
        seats.push(workers.seat());
        assert_eq!(connections(&workers), [3, 3, 3]);
        drop(seats);
        assert_eq!(connections(&workers), [0, 0, 0]);
    }

    #[tokio::test]
    async fn each_worker_is_a_thread_of_its_own_until_it_is_stopped() {
        let workers = Workers::start(2).unwrap();
        let mut names = Vec::new();
        let mut seats = Vec::new();
        for _ in 0..2 {
            let seat = workers.seat();
            let name = seat
                .runtime
                .spawn(async { std::thread::current().name().map(str::to_owned) });
            names.push(name.await.unwrap().unwrap());
            seats.push(seat);
        }
        names.sort();
        assert_eq!(names, ["realm-edge-0", "realm-edge-1"]);
        let hanging = seats[0].runtime.spawn(std::future::pending::<()>());
        workers.stop();
        assert!(hanging.await.unwrap_err().is_cancelled());
    }
}
