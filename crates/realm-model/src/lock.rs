//! `realm.lock`: the digest and size of every component, and the version. Written by `realm apply`
//! and `realm push`, signed with the manifest, never edited by hand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::ComponentName;

/// The pins of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The version of the desired state; each accepted entry raises it.
    pub version: u64,
    /// Component → pin.
    #[serde(default)]
    pub components: BTreeMap<ComponentName, Pin>,
}

/// What a component's bytes must be: the original bytes, preview-1 modules included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// SHA-256.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// A text is not a lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a realm.lock: {0}")]
pub struct LockError(String);

impl Lock {
    /// Reads the text of a lock file.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        toml::from_str(text).map_err(|error| LockError(error.message().to_owned()))
    }

    /// The text of the lock file; the same lock always gives the same text.
    pub fn to_text(&self) -> String {
        let body = toml::to_string(self).expect("a lock has only strings and integers");
        format!(
            "# Written by `realm apply` and `realm push`. Do not edit: it is signed with realm.toml.\n{body}"
        )
    }
}
