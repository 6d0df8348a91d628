//! Answers that are whole before their requests are, behind servers that keep their connections: the client
//! gets such an answer, and its end, at once.

use std::time::{Duration, Instant};

use super::client::Ask;
use super::servers::{Door, Front, Server};

/// Of each request, whose component reads none of them. More than all buffers on the way take.
const BODY_BYTES: usize = 8 * 1024 * 1024;
/// It depends on who is faster.
const REQUESTS: usize = 10;
/// A server that waits for its client does that for a minute; one that waits for realm, for 5 s.
const SOON: Duration = Duration::from_secs(30);

fn check(server: Server) {
    for door in [Door::Unix, Door::Tcp] {
        let front = Front::start_with(server, door, &[], |config| config);
        let ask = front.named(&Ask::post("/text", vec![7; BODY_BYTES]));
        for request in 0..REQUESTS {
            let began = Instant::now();
            let got = ask.send(front.port);
            let lasted = began.elapsed();
            assert!(
                got.is_whole && got.text() == "a text\n" && lasted < SOON,
                "{door:?}, {request}: {lasted:?} {got:?}\n{}",
                front.log()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_hands_it_on_and_is_done() {
    check(Server::Haproxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_multiplexed_hands_it_on_and_is_done() {
    check(Server::HaproxyMultiplexed);
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_hands_it_on_and_is_done() {
    check(Server::Nginx);
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_hands_it_on_and_is_done() {
    check(Server::Apache);
}
