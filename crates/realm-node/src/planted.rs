//! A panic that a test plants in a real process: whoever reads a record of a node that gives a certain
//! word as its agent's version panics. The word stands in the environment.
//!
//! In builds with debug assertions alone. A release has neither the code nor the name of the
//! variable, which `scripts/release.sh` checks in the binary.

use realm_model::record::NodeRecord;

/// Gives the word.
const VARIABLE: &str = "REALM_PLANT_RECORD_PANIC";

pub(crate) fn panic_if_planted(record: &NodeRecord) {
    if std::env::var_os(VARIABLE).is_some_and(|word| *word == *record.body.agent) {
        panic!("planted by `{VARIABLE}`");
    }
}
