//! Runs every guest of tests/guests through the host.
//!
//! A guest without a test of its own name does not compile here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod blobs;
mod cgi;
mod data;
mod denied;
mod ends;
mod harness;
mod health;
mod https;
mod keyvalue;
mod limits;
mod listening;
mod logging;
mod mail;
#[path = "../../../../tests/peers/mail.rs"]
mod mail_server;
mod messages;
mod network;
mod otel;
mod outbound;
mod preview1;
mod programs;
mod reuse;
mod secrets;
mod sql;
mod streams;
#[path = "../../../../tests/peers/swift.rs"]
mod swift;
mod terms;
mod unloading;
mod vaults;
mod worlds;

use answers::*;
use blobs::*;
use cgi::*;
use data::*;
use denied::*;
use ends::*;
use health::*;
use keyvalue::*;
use limits::*;
use listening::*;
use logging::*;
use mail::*;
use messages::*;
use network::*;
use otel::*;
use outbound::*;
use programs::*;
use reuse::*;
use secrets::*;
use sql::*;
use streams::*;
use vaults::*;
use worlds::*;

macro_rules! assert_test_exists {
    ($name:ident) => {
        const _: fn() = $name;
    };
}

realm_test_guests::foreach_guest!(assert_test_exists);
