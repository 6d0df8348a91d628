//! Runs every guest of tests/guests and of tests/sdks through the host.
//!
//! A guest without a test of its own name does not compile here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod blobs;
mod bounds;
mod cgi;
mod configuration;
mod data;
mod denied;
mod ends;
#[path = "../../../../tests/peers/inference.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of engines, which do more with it"
)]
mod engines;
mod fields;
mod harness;
mod health;
mod https;
mod inference;
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
mod sdks;
mod secrets;
mod sql;
mod streams;
#[path = "../../../../tests/peers/swift.rs"]
mod swift;
mod terms;
mod unloading;
mod vaults;
mod workflows;
mod worlds;

use answers::*;
use blobs::*;
use cgi::*;
use configuration::*;
use data::*;
use denied::*;
use ends::*;
use health::*;
use inference::*;
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
use sdks::*;
use secrets::*;
use sql::*;
use streams::*;
use vaults::*;
use workflows::*;
use worlds::*;

macro_rules! assert_test_exists {
    ($name:ident) => {
        const _: fn() = $name;
    };
}

realm_test_guests::foreach_guest!(assert_test_exists);
