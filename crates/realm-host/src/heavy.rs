//! Threads for guests that compute for long, with a lower priority than those that serve.
//!
//! A guest that ran for [`HEAVY_AFTER`] goes on here. So any number of spinning guests leaves the
//! serving threads free, and yet a lone guest that computes gets all the processor there is: the
//! operating system decides, at its own grain. Without such guests there are no such threads.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// Ordinary requests run for well below 1 ms; a guest above this is not about to end.
pub(crate) const HEAVY_AFTER: Duration = Duration::from_millis(5);
/// Added to the nice value: a tenth of the processor's time beside a busy serving thread.
const NICENESS: i32 = 10;

/// The threads, once they are needed.
#[derive(Default)]
pub(crate) struct Heavy(OnceLock<Option<Runtime>>);

impl Heavy {
    /// Where heavy guests run; `None`: the system gives no threads, so they stay where they are.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.0.get_or_init(start).as_ref().map(Runtime::handle)
    }
}

fn start() -> Option<Runtime> {
    Builder::new_multi_thread()
        .thread_name("realm-heavy")
        .enable_all()
        .on_thread_start(|| {
            // On Linux this is about the calling thread. Being nicer is always allowed.
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::warn!(%error, "heavy guests run at the priority of requests");
            }
        })
        .build()
        .inspect_err(|error| tracing::warn!(%error, "no threads for heavy guests"))
        .ok()
}

impl Drop for Heavy {
    fn drop(&mut self) {
        if let Some(Some(runtime)) = self.0.take() {
            // A runtime must not be waited for on a thread that serves.
            runtime.shutdown_background();
        }
    }
}
