//! `fastcgi_front` of tests/fuzz, on and on.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| realm_fuzz_checks::fastcgi_front(bytes));
