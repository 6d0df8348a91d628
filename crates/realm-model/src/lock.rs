//! `realm.lock`: the digest and size of every component, and the version. Written by `realm apply`
//! and `realm push`, signed with the manifest, never edited by hand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::entry::ENTRY_BYTES_MAX;
use crate::name::ComponentName;

/// A lock larger than this is refused before it is parsed: no entry could hold it.
pub const LOCK_BYTES_MAX: usize = ENTRY_BYTES_MAX;

/// The highest version that an entry may bring. TOML has 64-bit integers with a sign, and of these
/// one is left over: the version after this can still be written and refused.
pub const VERSION_MAX: u64 = i64::MAX.unsigned_abs() - 1;

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

/// The version that follows the one in force; `None` after [`VERSION_MAX`].
pub const fn version_after(in_force: u64) -> Option<u64> {
    if in_force < VERSION_MAX {
        Some(in_force + 1)
    } else {
        None
    }
}

impl Lock {
    /// Reads the text of a lock file. Total: any text gives an answer.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        if text.len() > LOCK_BYTES_MAX {
            let message = format!("{} bytes, at most {LOCK_BYTES_MAX} are taken", text.len());
            return Err(LockError(message));
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lock(pins: &[(&str, u8, u64)]) -> Lock {
        let pin = |(name, seed, size): &(&str, u8, u64)| {
            let digest = Digest::from_bytes([*seed; 32]);
            (
                name.parse().expect("a name"),
                Pin {
                    digest,
                    size: *size,
                },
            )
        };
        Lock {
            version: 12,
            components: pins.iter().map(pin).collect(),
        }
    }

    #[test]
    fn the_text_is_pinned() {
        // It is signed byte for byte, and two versions of realm must write the same.
        let pins = [("orders", 1, 75_000), ("auth", 2, 0)];
        let expected = format!(
            "{HEAD}version = 12\n\n[components.auth]\ndigest = \"sha256:{}\"\nsize = 0\n\n\
             [components.orders]\ndigest = \"sha256:{}\"\nsize = 75000\n",
            "02".repeat(32),
            "01".repeat(32),
        );
        assert_eq!(lock(&pins).to_text(), expected);
        let empty = format!("{HEAD}version = 12\n\n[components]\n");
        assert_eq!(lock(&[]).to_text(), empty);
    }

    const HEAD: &str =
        "# Written by `realm apply` and `realm push`. Do not edit: it is signed with realm.toml.\n";

    #[test]
    fn a_lock_reads_back_as_written() {
        for lock in [lock(&[]), lock(&[("auth", 2, 0), ("0", 255, u64::MAX)])] {
            assert_eq!(Lock::parse(&lock.to_text()), Ok(lock));
        }
        let last = Lock {
            version: u64::MAX,
            ..Lock::default()
        };
        assert_eq!(Lock::parse(&last.to_text()), Ok(last));
    }

    #[test]
    fn versions_end_before_their_integers_do() {
        assert_eq!(version_after(0), Some(1));
        assert_eq!(version_after(VERSION_MAX - 1), Some(VERSION_MAX));
        assert_eq!(version_after(VERSION_MAX), None);
        assert_eq!(version_after(u64::MAX), None);
        assert!(i64::try_from(VERSION_MAX + 1).is_ok());
    }

    #[test]
    fn other_texts_are_refused() {
        let pin = format!("digest = '{}'", Digest::from_bytes([0; 32]));
        for text in [
            "",
            "version",
            "version = -1",
            "version = 1.0",
            "version = '1'",
            "version = 99999999999999999999",
            "version = 1\nversion = 2",
            "version = 1\nverison = 2",
            "version = 1\ncomponents = []",
            "version = 1\n[components.'a/b']",
            "version = 1\n[components.a]",
            &format!("version = 1\n[components.a]\n{pin}"),
            &format!("version = 1\n[components.a]\n{pin}\nsize = -1"),
            &format!("version = 1\n[components.a]\n{pin}\nsize = 1\nurl = 'x'"),
            &format!(
                "version = 1\n[components.a]\n{pin}\nsize = 1\n[components.a]\n{pin}\nsize = 1"
            ),
            "version = 1\n[components.a]\ndigest = 'sha256:00'\nsize = 1",
            &format!("version = {}", "[".repeat(100_000)),
            &format!("version = 1\n#{}", "x".repeat(LOCK_BYTES_MAX)),
        ] {
            let shown: String = text.chars().take(80).collect();
            let error = Lock::parse(text).expect_err(&shown);
            assert!(
                error.to_string().starts_with("not a realm.lock: "),
                "{error}"
            );
        }
        let largest = format!("version = 1\n#{}", "x".repeat(LOCK_BYTES_MAX - 13));
        assert!(Lock::parse(&largest).is_ok());
    }

    proptest! {
        #[test]
        fn every_lock_reads_back_as_written(
            version: u64,
            pins in proptest::collection::btree_map("[a-zA-Z0-9][a-zA-Z0-9_-]{0,20}", (any::<[u8; 32]>(), any::<u64>()), 0..8),
        ) {
            let pin = |(digest, size)| Pin { digest: Digest::from_bytes(digest), size };
            let components = pins
                .into_iter()
                .map(|(name, parts)| (name.parse().expect("a name"), pin(parts)))
                .collect();
            let lock = Lock { version, components };
            prop_assert_eq!(Lock::parse(&lock.to_text()), Ok(lock));
        }

        #[test]
        fn any_text_gives_an_answer(text in "(\\PC|\n){0,200}", at in any::<prop::sample::Index>()) {
            let _ = Lock::parse(&text);
            let mut changed = lock(&[("auth", 2, 0)]).to_text();
            changed.insert_str(at.index(changed.len()), &text);
            let _ = Lock::parse(&changed);
        }
    }
}
