//! The same assertions over every database that stands behind `sql`, with real servers, and what is true
//! of one of them alone.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "which checks a database passed")]

mod checks;
mod crash;
mod hostile_postgres;
mod hostile_sqlite;
mod postgres;
#[path = "../../../../tests/peers/postgres.rs"]
#[expect(dead_code, reason = "vectors are for the tests of them")]
mod server;
mod sqlite;
mod streams;
mod support;
mod transactions;
mod types;
