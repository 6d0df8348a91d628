//! Workflows in files of a node and on a real PostgreSQL: what holds on both, who crashes where, and nodes
//! that meet.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod crashes;
mod full;
mod nodes;
mod rules;
#[path = "../../../../tests/peers/postgres.rs"]
#[expect(dead_code, reason = "shared with tests that do more with it")]
mod server;
mod support;
