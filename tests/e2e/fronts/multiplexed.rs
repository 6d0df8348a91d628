//! Requests that are under way at once, over HAProxy: on one connection where it is told so, which no other
//! server does, and on one for each otherwise.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::client::{Ask, Begun};
use super::gone::{Then, ends};
use super::servers::{Door, Front, PATIENT, Server, of_one_thread, realm};
use super::tap::{Seen, Tap};
use crate::support::{PATIENCE, eventually};

const REQUESTS: usize = 12;
/// Of a body, of which the second half is sent when all first halves are. HAProxy holds back what is less than
/// its buffer.
const HALF_BYTES: usize = 200_000;

/// No two of them have the same bytes anywhere.
fn body(request: usize) -> Vec<u8> {
    (0..2 * HALF_BYTES)
        .map(|at| (at * REQUESTS + request) as u8)
        .collect()
}

/// What the guest says of a body: its length, and a sum that no other one has.
fn answer(request: usize) -> String {
    let more = |sum: u64, byte: u8| sum.wrapping_mul(31).wrapping_add(u64::from(byte));
    let sum = body(request).into_iter().fold(0, more);
    format!("{} {sum}\n", 2 * HALF_BYTES)
}

/// Requests that are under way, all of them: none can end before its second half.
fn halves(front: &Front, tap: &Tap) -> Vec<Begun> {
    let begin = |request| {
        let ask = Ask::post(&format!("{PATIENT}/length"), body(request));
        let begun = front.named(&ask).begin(front.port, HALF_BYTES);
        let deadline = Instant::now() + PATIENCE;
        // One after the other, so that the connection of the first one is there for the next.
        while tap.seen().requests <= request {
            assert!(
                Instant::now() < deadline,
                "{:?}\n{}",
                tap.seen(),
                front.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        begun
    };
    (0..REQUESTS).map(begin).collect()
}

async fn tapped(server: Server, door: Door) -> (Front, Tap) {
    let behind = Rc::new(realm(door));
    let tap = Tap::of(&behind, door).await;
    let front = Front::before(server, &behind, &["--at", &tap.address], |config| {
        of_one_thread(server, config)
    });
    (front, tap)
}

async fn check(server: Server, door: Door, connections: usize) {
    let (front, tap) = tapped(server, door).await;
    let under_way = halves(&front, &tap);
    let expected = Seen {
        connections,
        requests: REQUESTS,
        at_once: REQUESTS / connections,
        aborts: 0,
    };
    assert_eq!(tap.seen(), expected, "{}", front.log());
    // In another order than they began.
    for (request, begun) in under_way.into_iter().enumerate().rev() {
        let got = begun.finish();
        assert!(
            got.is_whole && got.text() == answer(request),
            "{request}: {got:?}"
        );
    }
    assert_eq!(tap.seen(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_sends_many_requests_over_one_connection_where_it_is_told() {
    check(Server::HaproxyMultiplexed, Door::Unix, 1).await;
    check(Server::HaproxyMultiplexed, Door::Tcp, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_sends_each_request_over_a_connection_of_its_own() {
    check(Server::Haproxy, Door::Unix, REQUESTS).await;
    check(Server::Haproxy, Door::Tcp, REQUESTS).await;
}

/// The connection is that of others as well: it stays, and so do they.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_takes_its_own_request_with_it_and_no_other_one() {
    let (front, tap) = tapped(Server::HaproxyMultiplexed, Door::Unix).await;
    let mut under_way = halves(&front, &tap);
    ends(front.behind(), Then::LetGo, || drop(under_way.remove(5)));
    for (place, begun) in under_way.into_iter().enumerate() {
        let request = if place < 5 { place } else { place + 1 };
        let got = begun.finish();
        assert!(
            got.is_whole && got.text() == answer(request),
            "{request}: {got:?}"
        );
    }
    let seen = tap.seen();
    assert_eq!((seen.connections, seen.aborts), (1, 1), "{seen:?}");
}

/// It takes the connection with it, and the others only if they are very long.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_leaves_the_others_theirs() {
    let (front, tap) = tapped(Server::HaproxyMultiplexed, Door::Unix).await;
    let port = front.port;
    let waits = front.named(&Ask::get("/wait?ms=1500"));
    let waiting = tokio::task::spawn_blocking(move || waits.send(port));
    eventually("it waits", async || {
        (tap.seen().requests == 1).then_some(())
    })
    .await;
    let got = front.named(&Ask::get("/late")).send(port);
    assert!(!got.is_whole && got.text() == "first\n", "{got:?}");
    let got = waiting.await.unwrap();
    assert_eq!((got.status, got.text().as_str()), (200, "waited\n"));
    assert_eq!(tap.seen().connections, 1, "{}", front.log());
    let got = front.named(&Ask::get("/text")).send(port);
    assert_eq!(got.text(), "a text\n");
}
