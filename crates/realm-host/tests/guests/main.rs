//! Runs every guest of tests/guests through the host.
//!
//! A guest without a test of its own name does not compile here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod cgi;
mod denied;
mod ends;
mod harness;
mod health;
mod https;
mod limits;
mod listening;
mod logging;
mod network;
mod outbound;
mod preview1;
mod programs;
mod reuse;
mod secrets;
mod terms;
mod unloading;

use answers::*;
use cgi::*;
use denied::*;
use ends::*;
use health::*;
use limits::*;
use listening::*;
use logging::*;
use network::*;
use outbound::*;
use programs::*;
use reuse::*;
use secrets::*;

macro_rules! assert_test_exists {
    ($name:ident) => {
        const _: fn() = $name;
    };
}

realm_test_guests::foreach_guest!(assert_test_exists);
