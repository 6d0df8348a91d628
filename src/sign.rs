//! Makes and submits signed entries of a namespace: the owners' own, or a delegate's. The key that signs
//! is here and nowhere else. Not the authority chain, which `authority` serves.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::api::{Accepted, Heads};
use realm_model::entry::{Body, ChainId, Head, NamespaceName, Payload, RealmId};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::manifest::Manifest;
use realm_model::name::{ComponentName, NodeName};
use realm_model::signature_file::SignatureFile;

use crate::failure::{Failure, exit};
use crate::time::now_unix_ms;

/// Which namespace a verb is about.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Of {
    /// The namespace: of a delegate, its own; it signs with `--key FILE`
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) namespace: NamespaceName,
}

/// One namespace, as its signer has to know it.
pub(crate) struct Standing {
    pub(crate) realm: RealmId,
    pub(crate) namespace: NamespaceName,
    pub(crate) owners: Vec<PublicKey>,
    /// Who signs here: the delegate, or one of the owners.
    pub(crate) signers: Vec<PublicKey>,
    /// How many of them must sign.
    threshold: u32,
    authority: Head,
    /// The last entry of its chain.
    pub(crate) head: Head,
    pub(crate) version: u64,
    pub(crate) manifest: Option<String>,
    pub(crate) lock: Option<String>,
    /// The nodes of the realm, with their tags.
    pub(crate) nodes: BTreeMap<NodeName, Vec<String>>,
    /// Components that run with other settings than the manifest says.
    pub(crate) rolled_back: Vec<ComponentName>,
    /// Components whose bytes were pushed, or rolled back to, since the manifest was applied.
    pub(crate) pushed: Vec<ComponentName>,
}

/// A signed entry of the namespace chain, and the signature as a file if it covers files.
pub(crate) struct Signed {
    chain: ChainId,
    pub(crate) entry: Vec<u8>,
    pub(crate) signature_file: Option<SignatureFile>,
}

impl Standing {
    /// Asks an agent where a namespace stands.
    pub(crate) async fn fetch(
        client: &realm_node::Client,
        namespace: NamespaceName,
    ) -> Result<Self, Failure> {
        Self::of(client.heads_of(namespace).await?, namespace)
    }

    /// One namespace of what an agent answered.
    pub(crate) fn of(heads: Heads, namespace: NamespaceName) -> Result<Self, Failure> {
        let delegate = heads
            .delegates
            .iter()
            .find(|one| one.namespace == namespace);
        let (signers, threshold) = match delegate {
            Some(delegate) => (vec![delegate.key], 1),
            None => (heads.owners.clone(), heads.threshold),
        };
        let (head, version, manifest, lock) = if namespace.is_default() {
            (heads.default, heads.version, heads.manifest, heads.lock)
        } else {
            let Some(found) = heads.namespaces.get(&namespace) else {
                let message = format!("there is no namespace `{namespace}`");
                return Err(Failure::new("unknown-name", message).hint(
                    "`realm delegate ls` lists them; the owner makes one with `realm delegate add`",
                ));
            };
            let found = found.clone();
            (found.head, found.version, found.manifest, found.lock)
        };
        Ok(Self {
            realm: heads.realm,
            namespace,
            owners: heads.owners,
            signers,
            threshold,
            authority: heads.authority,
            head,
            version,
            manifest,
            lock,
            nodes: heads.nodes,
            rolled_back: heads.rolled_back,
            pushed: heads.pushed,
        })
    }

    pub(crate) const fn chain(&self) -> ChainId {
        ChainId::Namespace(self.namespace)
    }

    /// The components to wait for; `None`: all, since the owners look after everything.
    pub(crate) fn awaited(&self, manifest: &Manifest) -> Option<BTreeSet<ComponentName>> {
        let delegated = !self.namespace.is_default();
        delegated.then(|| manifest.components.keys().cloned().collect())
    }

    /// Refuses a key that does not sign here, before anything is signed with it.
    fn check_signer(&self, key: &SecretKey) -> Result<(), Failure> {
        if self.signers.contains(&key.public()) {
            return check_threshold(self.threshold, self.signers.len());
        }
        if self.namespace.is_default() {
            return Err(not_an_owner(self.realm, key));
        }
        let message = format!(
            "the key here ({}) does not sign for namespace `{}`",
            key.public(),
            self.namespace
        );
        Err(Failure::new("wrong-owner", message)
            .hint("`realm delegate ls` shows who does; `--key FILE` chooses another key")
            .exit(exit::REFUSED))
    }
}

/// Signs `body` as the next entry of a namespace.
pub(crate) fn sign(standing: &Standing, key: &SecretKey, body: Body) -> Result<Signed, Failure> {
    standing.check_signer(key)?;
    let payload = Payload {
        seq: standing.head.seq + 1,
        prev: standing.head.hash,
        authority: standing.authority,
        created_unix_s: now_unix_ms() / 1_000,
        body,
    };
    let (realm, chain) = (standing.realm, standing.chain());
    let signature = key.sign(&payload.message(realm, chain));
    Ok(Signed {
        chain,
        entry: payload.with_signatures(realm, chain, &[(key.public(), signature)]),
        signature_file: SignatureFile::new(&payload, realm, chain, key.public(), &signature),
    })
}

/// One key signs here: where more must, nothing is signed and handed in that every node would refuse.
pub(crate) fn check_threshold(threshold: u32, owners: usize) -> Result<(), Failure> {
    if threshold <= 1 {
        return Ok(());
    }
    let message = format!("{threshold} of {owners} owners must sign, and there is one key here");
    Err(Failure::new("threshold", message)
        .hint("this version signs with one owner's key; `realm submit ENTRY` takes an entry that carries the other signatures as well")
        .exit(exit::REFUSED))
}

/// A key that owns nothing here.
pub(crate) fn not_an_owner(realm: RealmId, key: &SecretKey) -> Failure {
    let message = format!("the key here ({}) is not an owner of {realm}", key.public());
    Failure::new("wrong-owner", message)
        .hint("`realm status` shows the owners; `--realm DIR` or `--key FILE` chooses another key")
        .exit(exit::REFUSED)
}

/// Submits an entry of a namespace.
pub(crate) async fn submit(
    client: &realm_node::Client,
    signed: &Signed,
) -> Result<Accepted, Failure> {
    Ok(client.submit(signed.chain, signed.entry.clone()).await?)
}
