//! Whether the serving threads stay on their cores: as long as guests compute beside them.
//!
//! What it is good for: `realm_edge`'s workers, and the heavy threads of `realm_host`.

use std::time::Duration;

use realm_host::Host;

/// How long after guests computed the threads are still held: who computes now and then would else have them
/// moved all the time.
const HELD_FOR: Duration = Duration::from_secs(1);

/// Holds the threads of `edge` while guests of `host` compute, for ever.
pub(crate) async fn hold(host: Host, edge: realm_edge::Handle) {
    follow(
        || {
            let host = host.clone();
            async move { host.guest_computes().await }
        },
        || host.guests_computed(),
        |held| edge.hold_cores(held),
    )
    .await;
}

async fn follow<B: Future<Output = ()>>(
    begun: impl Fn() -> B,
    lately: impl Fn() -> bool,
    hold: impl Fn(bool),
) {
    loop {
        begun().await;
        hold(true);
        while lately() {
            tokio::time::sleep(HELD_FOR).await;
        }
        hold(false);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::sync::Notify;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn threads_are_held_while_guests_compute_and_a_second_longer() {
        let (computes, begun) = (Cell::new(false), Notify::new());
        let start = Instant::now();
        let told = RefCell::new(Vec::new());
        let following = follow(
            || begun.notified(),
            || computes.replace(false),
            |held| told.borrow_mut().push((start.elapsed().as_millis(), held)),
        );
        let guests = async {
            for at in [1_000, 1_300, 1_900, 8_000] {
                tokio::time::sleep_until(start + Duration::from_millis(at)).await;
                if !computes.replace(true) && [1_000, 8_000].contains(&at) {
                    begun.notify_one();
                }
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        };
        tokio::select! {
            () = following => {}
            () = guests => {}
        }
        let told = told.take();
        assert_eq!(
            told,
            [(1_000, true), (3_000, false), (8_000, true), (9_000, false)]
        );
    }
}
