//! A panic that a test plants in the network of a real process: the loop panics at each of its ticks
//! for as long as a file is there, whose path stands in the environment.
//!
//! In builds with debug assertions alone. A release has neither the code nor the name of the
//! variable, which `scripts/release.sh` checks in the binary.

use std::path::Path;

/// Names the file.
const VARIABLE: &str = "REALM_PLANT_NETWORK_PANIC";

pub(crate) fn panic_if_planted() {
    if std::env::var_os(VARIABLE).is_some_and(|file| Path::new(&file).exists()) {
        panic!("planted by `{VARIABLE}`");
    }
}
