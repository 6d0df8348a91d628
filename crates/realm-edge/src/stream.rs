//! One HTTP/2 stream as a task: ended when its client leaves no room for the response for too long.
//!
//! HTTP/1 needs none of this: there the socket blocks, and the sweep sees it. An HTTP/2 client can
//! keep its socket open and one stream's window shut, and so hold a guest's instance for ever.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// What the poll of a response body came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Polled {
    /// The backend has no frame yet.
    Waits,
    /// hyper has a frame, and asks for the next one when the client has room for it.
    Gave,
}

thread_local! {
    /// hyper polls a stream and the body within it on one thread, and links them in no other way.
    static LAST: Cell<Option<Polled>> = const { Cell::new(None) };
}

/// Tells the stream on whose task this runs what its response body did.
pub(crate) fn note(polled: Polled) {
    LAST.set(Some(polled));
}

/// Runs a stream. Dropping it resets the stream, and drops the backend's body with it.
pub(crate) async fn watch<F: Future>(stream: F, stall_max: Duration) {
    let mut stream = pin!(stream);
    // Made at the first frame that waits: responses that fit the window cost no timer.
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut given_at: Option<Instant> = None;
    std::future::poll_fn(|context| {
        LAST.set(None);
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        match LAST.take() {
            None => {}
            Some(Polled::Waits) => given_at = None,
            Some(Polled::Gave) => given_at = Some(Instant::now()),
        }
        let Some(given_at) = given_at else {
            return Poll::Pending;
        };
        let deadline = given_at + stall_max;
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        // Moved only when it is due: moving it for each frame would cost more than the frame.
        while timer.as_mut().poll(context).is_ready() {
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(60);

    /// A stream that does as its script says, one step per second, and never ends by itself.
    async fn run(script: &'static [Option<Polled>]) -> Duration {
        let start = Instant::now();
        let mut steps = script.iter();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let stream = std::future::poll_fn(|context| {
            while ticks.poll_tick(context).is_ready() {
                if let Some(polled) = steps.next().copied().flatten() {
                    note(polled);
                }
            }
            Poll::<()>::Pending
        });
        // A stream that is never ended is given up here.
        let _ = tokio::time::timeout(10 * MAX, watch(stream, MAX)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_room_ends() {
        use Polled::{Gave, Waits};

        let check = async |script, expected| {
            let millis = run(script).await.as_millis();
            // tokio's timers have a grain of 1 ms.
            assert!(
                (expected..expected + 3).contains(&(millis / 1000)),
                "{script:?} {millis}"
            );
        };
        check(&[Some(Gave)], 60).await;
        check(&[Some(Gave), None, None], 60).await;
        check(&[Some(Gave), Some(Gave), None, Some(Gave)], 63).await;
        check(&[Some(Gave), Some(Waits), None, Some(Gave)], 63).await;
        // A backend may take as long as its own limits say.
        check(&[], 600).await;
        check(&[Some(Waits)], 600).await;
        check(&[Some(Gave), Some(Waits)], 600).await;
    }
}
