//! Real web servers in front of a real agent, with the configuration that `realm edge` prints: what a
//! client gets through them is what it gets from the agent itself. docs/edge.md has the table.

mod cells;
mod client;
mod early;
mod gone;
mod kept;
mod more;
mod multiplexed;
mod passed;
mod printed;
mod servers;
mod shown;
mod tap;
mod tls;

use servers::{Door, Front, Server};

/// The host that the routes name.
const HOST: &str = "shop.example.com";

fn matrix(server: Server, door: Door) {
    cells::all(&Front::of_all_kinds(server, door));
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_over_a_socket() {
    matrix(Server::Nginx, Door::Unix);
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_over_tcp() {
    matrix(Server::Nginx, Door::Tcp);
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_over_a_socket() {
    matrix(Server::Apache, Door::Unix);
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_over_tcp() {
    matrix(Server::Apache, Door::Tcp);
}

#[tokio::test(flavor = "multi_thread")]
async fn lighttpd_over_a_socket() {
    matrix(Server::Lighttpd, Door::Unix);
}

#[tokio::test(flavor = "multi_thread")]
async fn lighttpd_over_tcp() {
    matrix(Server::Lighttpd, Door::Tcp);
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_over_a_socket() {
    matrix(Server::Caddy, Door::Unix);
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_over_tcp() {
    matrix(Server::Caddy, Door::Tcp);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_over_a_socket() {
    matrix(Server::Haproxy, Door::Unix);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_over_tcp() {
    matrix(Server::Haproxy, Door::Tcp);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_multiplexed_over_a_socket() {
    matrix(Server::HaproxyMultiplexed, Door::Unix);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_multiplexed_over_tcp() {
    matrix(Server::HaproxyMultiplexed, Door::Tcp);
}
