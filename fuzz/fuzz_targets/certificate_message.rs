//! `certificate_message` of tests/fuzz, on and on.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| realm_fuzz_checks::certificate_message(bytes));
