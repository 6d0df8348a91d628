//! Where the test guests are: a constant with the path of each component, named after its file in
//! `tests/guests/src` or `tests/sdks/src` in upper case ([`HELLO`], [`ECHO`], ..), and [`GUESTS`] with all of them.
//!
//! [`foreach_guest!`] is the drift lock: a test file that calls it with a macro which names a test
//! per guest does not compile while a guest has no test. Not here: how a guest is run.
#![forbid(unsafe_code)]

include!(concat!(env!("OUT_DIR"), "/guests.rs"));
