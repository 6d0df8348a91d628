//! The secrets of components on this node: which of them it can open, and the values of those that a
//! component lists, in memory alone, once it is loaded.
//!
//! Nothing here is written to a file, a log, an argument or the environment. Not here: how a secret is
//! sealed (`sealing`), what a component may open (its manifest), what a guest sees (the host).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_control::Desired;
use realm_model::cloud::Secrets;
use realm_model::digest::Digest;
use realm_model::entry::Head;
use realm_model::grants::Grants;
use realm_model::sealing::Sealed;
use zeroize::Zeroizing;

use crate::event::StepFailure;
use crate::sealing::SealingKey;

/// What this node found of the sealed secrets of its realm.
pub(crate) struct Looked {
    key: Arc<SealingKey>,
    /// Where the chains stood when it was looked at last.
    heads: Vec<Head>,
    /// Whether it opens here, by the digest of the sealed secret.
    known: BTreeMap<Digest, bool>,
}

impl Looked {
    pub(crate) fn new(key: Arc<SealingKey>) -> Self {
        Self {
            key,
            heads: Vec::new(),
            known: BTreeMap::new(),
        }
    }

    /// Says which sealed secrets do not open here. Their values stay sealed: the header of the file says
    /// whether it opens.
    pub(crate) fn look(&mut self, desired: &Desired, unopened: &mut BTreeSet<Digest>) {
        let heads = desired.namespaces.values().map(|state| state.head);
        if heads.clone().eq(self.heads.iter().copied()) {
            return;
        }
        self.heads = heads.collect();
        let mut known = BTreeMap::new();
        for (name, sealed) in desired.secrets() {
            let digest = sealed.digest();
            known.entry(digest).or_insert_with(|| {
                let before = self.known.get(&digest).copied();
                before.unwrap_or_else(|| self.opens(name, sealed))
            });
        }
        *unopened = known
            .iter()
            .filter(|(_, opens)| !**opens)
            .map(|(digest, _)| *digest)
            .collect();
        self.known = known;
    }

    fn opens(&self, name: &str, sealed: &Sealed) -> bool {
        let opened = self.key.opens(name, sealed);
        if let Err(reason) = &opened {
            tracing::debug!(secret = name, %reason, "a secret does not open on this node");
        }
        opened.is_ok()
    }
}

/// What one component opens, in the clear.
pub(crate) struct Values(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl Values {
    /// Opens what a component may open.
    pub(crate) fn open(
        key: &SealingKey,
        sealed: &BTreeMap<String, Sealed>,
    ) -> Result<Self, StepFailure> {
        let values = sealed.iter().map(|(name, sealed)| {
            let value = key.open(name, sealed);
            let value = value.map_err(|error| StepFailure {
                code: realm_model::record::SECRET_SEALED_AWAY.to_owned(),
                reason: format!("secret `{name}`: {error}"),
                // Sealed anew, it is another start.
                permanent: false,
            })?;
            Ok((name.clone(), value))
        });
        values.collect::<Result<_, _>>().map(Self)
    }

    /// Those that its guest reads: not the passwords of its stores.
    pub(crate) fn of_guest(&self, grants: &Grants) -> Secrets {
        let listed = grants.secrets.iter();
        let values = listed.filter_map(|name| Some((name.clone(), self.0.get(name)?.clone())));
        Secrets::new(values.collect())
    }

    /// One of them.
    pub(crate) fn value(&self, name: &str) -> Option<&Zeroizing<Vec<u8>>> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests {
    use realm_model::entry::NamespaceName;
    use realm_model::key::SecretKey;
    use realm_model::sealing::ValueId;

    use super::*;
    use crate::sealing::seal;

    fn key(seed: u8) -> SealingKey {
        SealingKey::of_owner(&SecretKey::from_seed(&[seed; 32]))
    }

    #[test]
    fn a_guest_reads_what_it_lists_and_not_the_password_of_its_store() {
        let sealed = |name: &str| {
            let id = ValueId([1; 16]);
            let home = NamespaceName::DEFAULT;
            let text = seal(home, name, id, b"value", &[key(1).recipient()]).unwrap();
            (name.to_owned(), Sealed::new(home, name, text))
        };
        let sealed = BTreeMap::from([sealed("listed"), sealed("password")]);
        let values = Values::open(&key(1), &sealed).unwrap();
        let grants = Grants {
            secrets: vec!["listed".to_owned()],
            ..Grants::default()
        };
        let of_guest = values.of_guest(&grants);
        assert_eq!(of_guest.value("listed"), Some(&b"value"[..]));
        assert_eq!(of_guest.value("password"), None);
        assert_eq!(values.value("password").unwrap().as_slice(), b"value");
        let failed = Values::open(&key(2), &sealed).err().unwrap();
        assert_eq!(failed.code, "secret-sealed-away");
        assert!(!failed.reason.contains("value"), "{}", failed.reason);
    }
}
