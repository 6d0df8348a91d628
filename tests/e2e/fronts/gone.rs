//! Clients that go away, and what the agent hears of it. The component has ten minutes: what ends earlier
//! ends because its client is gone, and is counted as `cancelled`.

use std::time::{Duration, Instant};

use super::client::Ask;
use super::servers::{Behind, Front, PATIENT, Server};
use crate::support::{PATIENCE, figure};

/// The component without an end to its time.
const NAME: &str = "patient";
/// Longer than any server takes to tell that its client is gone, if it does.
const REST_MS: u64 = 3_000;

/// What becomes of a component whose client is gone.
#[derive(Clone, Copy)]
pub(super) enum Then {
    LetGo,
    /// Its server need not look at the client before it has something for it: it ends by itself, or before.
    MayRunOn,
}

impl Then {
    const fn outcomes(self) -> &'static [&'static str] {
        match self {
            Self::LetGo => &["cancelled"],
            Self::MayRunOn => &["cancelled", "ok"],
        }
    }

    /// How long a component takes: so long that it ends by its client alone, or as long as it has to be seen
    /// that it does not.
    const fn milliseconds(self) -> u64 {
        match self {
            Self::LetGo => 599_000,
            Self::MayRunOn => REST_MS,
        }
    }
}

/// One invocation ends, and so.
pub(super) fn ends(behind: &Behind, then: Then, go: impl FnOnce()) {
    let outcomes = then.outcomes();
    let (ended, all) = behind.ended(NAME, outcomes);
    go();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = behind.ended(NAME, outcomes);
        if now.1 > all {
            assert_eq!(now, (ended + 1.0, all + 1.0), "not {outcomes:?}");
            return;
        }
        assert!(Instant::now() < deadline, "nothing ends");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the component has a request.
pub(super) fn runs(behind: &Behind) {
    let series = format!("mem_current_bytes{{component=\"{NAME}\"}}");
    let deadline = Instant::now() + PATIENCE;
    while figure(&behind.metrics(), &series) == 0.0 {
        assert!(Instant::now() < deadline, "nothing runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn target(rest: &str) -> String {
    format!("{PATIENT}{rest}")
}

/// A client that goes once so many bytes of its request's body are sent, and of its answer's are there.
fn check(front: &Front, then: Then, ask: &Ask, sent: usize, heard: usize) {
    ends(front.behind(), then, || {
        let mut begun = front.named(ask).begin(front.port, sent);
        runs(front.behind());
        begun.hear(heard);
    });
    assert_eq!(Ask::get("/text").send(front.port).text(), "a text\n");
}

pub(super) fn in_a_request(front: &Front) {
    let ask = Ask::post(&target("/length"), vec![7; 8 * 1024 * 1024]);
    check(front, Then::LetGo, &ask, 4 * 1024 * 1024, 0);
}

pub(super) fn in_an_answer(front: &Front) {
    check(
        front,
        Then::LetGo,
        &Ask::get(&target("/endless")),
        0,
        10_000,
    );
}

/// Those that look at a client while they have nothing for it.
const fn meanwhile(server: Server) -> Then {
    match server {
        Server::Nginx => Then::LetGo,
        Server::Apache
        | Server::Caddy
        | Server::Lighttpd
        | Server::Haproxy
        | Server::HaproxyMultiplexed => Then::MayRunOn,
    }
}

pub(super) fn before_an_answer(front: &Front) {
    let then = meanwhile(front.server);
    let ask = Ask::get(&target(&format!("/wait?ms={}", then.milliseconds())));
    check(front, then, &ask, 0, 0);
}

pub(super) fn in_a_pause(front: &Front) {
    let then = meanwhile(front.server);
    let ask = Ask::get(&target(&format!("/stream?ms={}", then.milliseconds())));
    check(front, then, &ask, 0, 6);
}
