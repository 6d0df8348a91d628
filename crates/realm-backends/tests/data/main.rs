//! Documents, vectors and texts: the same questions to SQLite, to a real PostgreSQL and to a simple model
//! in memory, and what is true of one of them alone.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod agreement;
mod documents;
mod hostile;
mod model;
mod search;
#[path = "../../../../tests/peers/postgres.rs"]
#[expect(dead_code, reason = "shared with tests that do more with it")]
mod server;
mod support;
mod vectors;
