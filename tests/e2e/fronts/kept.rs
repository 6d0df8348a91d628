//! Which servers keep their connections with the agent for the next request.

use std::rc::Rc;

use super::client::Ask;
use super::servers::{Behind, Door, Front, Routes, Server, of_one_thread};
use super::tap::Tap;

const REQUESTS: usize = 12;
/// Who answers before the last connection is back with the others takes another one.
const KEPT_MAX: usize = 4;

async fn check(server: Server, is_kept: bool, is_kept_over_http: bool) {
    let trusting = "trusted_proxies = [\"127.0.0.1\"]\n";
    let doors = [Door::Unix, Door::Tcp];
    let behind = Rc::new(Behind::new(&doors, trusting, &Routes::new()));
    for (tap, is_http) in [
        (Tap::of(&behind, Door::Unix).await, false),
        (Tap::of(&behind, Door::Tcp).await, false),
        (Tap::of_http(&behind).await, true),
    ] {
        let protocol = if is_http { "--http" } else { "--fastcgi" };
        let args = [protocol, "--at", tap.address.as_str()];
        let front = Front::before(server, &behind, &args, |config| {
            of_one_thread(server, config)
        });
        for _ in 0..REQUESTS {
            let got = Ask::get("/text").send(front.port);
            assert_eq!(got.text(), "a text\n", "{}", front.log());
        }
        let seen = tap.seen();
        let is_kept = if is_http { is_kept_over_http } else { is_kept };
        match is_kept {
            true => assert!(seen.connections <= KEPT_MAX, "{args:?}: {seen:?}"),
            false => assert_eq!(seen.connections, REQUESTS, "{args:?}: {seen:?}"),
        }
        assert!(is_http || seen.requests == REQUESTS, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_keeps_its_connections() {
    check(Server::Nginx, true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_keeps_its_connections() {
    check(Server::Apache, true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_keeps_its_connections() {
    check(Server::Haproxy, true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_keeps_its_connections_over_http_alone() {
    check(Server::Caddy, false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lighttpd_keeps_no_connection() {
    check(Server::Lighttpd, false, false).await;
}
