//! Where the chains stand, told to whoever wants to sign: heads, entries in words, and the two sides of
//! a fork. Changes nothing.

use std::collections::BTreeMap;

use realm_control::{Ledger, NamespaceState, Weights};
use realm_model::api::{
    DelegateView, DivisionView, EntriesPage, EntryView, ForkHeads, ForkView, Heads, HistoryView,
    NamespaceHead, PastView,
};
use realm_model::entry::{Body, ChainId, ForkProof, NamespaceName, Opened};
use realm_model::key::PublicKey;
use realm_model::name::{ComponentName, NodeName};
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::text::base64;

use super::Core;
use crate::error::with_causes;

/// Entries in one answer: some screens.
const ENTRIES_MAX: usize = 256;
/// Bytes of entries that are read for one answer: the loop waits for the disk meanwhile.
const ENTRIES_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Core {
    pub(super) fn heads(
        &self,
        namespace: Option<NamespaceName>,
        of: Option<&ComponentName>,
    ) -> Heads {
        let heads = heads(&self.ledger, &self.node, self.node_key, namespace);
        Heads {
            history: of
                .and_then(|name| self.history(namespace.unwrap_or(NamespaceName::DEFAULT), name)),
            beacon: self.beacon().or(heads.beacon),
            ..heads
        }
    }

    /// What a component or an app of a namespace was.
    fn history(&self, namespace: NamespaceName, of: &ComponentName) -> Option<HistoryView> {
        let state = self.ledger.desired().namespaces.get(&namespace)?;
        let failed = self.surroundings.around.failures_of(of);
        let divisions = state.weights(of).map(Weights::divisions);
        let divisions = divisions.into_iter().flatten().map(|one| DivisionView {
            entry: one.entry,
            weights: one.weights.clone(),
        });
        let versions = state.history(of).map(|past| PastView {
            version: past.version,
            entry: past.entry,
            digest: past.pin.digest,
            size: past.pin.size,
            failed: failed.contains(&past.entry),
        });
        Some(HistoryView {
            versions: versions.collect(),
            divisions: divisions.collect(),
        })
    }

    /// Entries of a chain from a number on, without their bytes.
    pub(super) fn listed(&self, chain: ChainId, from: u64) -> Result<EntriesPage, Refusal> {
        let head = self.ledger.head(chain);
        let within = (ENTRIES_MAX, ENTRIES_BYTES_MAX);
        let read = tokio::task::block_in_place(|| {
            self.journal
                .entries(&self.ledger, chain, from..=head.seq, within)
        });
        let read = read.map_err(|error| not_read(&with_causes(&error)))?;
        let entries: Result<Vec<EntryView>, Refusal> = read
            .iter()
            .map(|bytes| self.entry_view(chain, bytes))
            .collect();
        Ok(EntriesPage {
            chain,
            entries: entries?,
            head,
        })
    }

    /// The proof that is held of a chain; `None`: it has one history here.
    pub(super) fn fork_of(&self, chain: ChainId) -> Result<Option<ForkView>, Refusal> {
        let frozen = self.ledger.frozen().any(|(frozen, _)| frozen == chain);
        if !frozen {
            return Ok(None);
        }
        let kept = tokio::task::block_in_place(|| self.journal.proof(chain));
        let Some(kept) = kept.map_err(|error| not_read(&with_causes(&error)))? else {
            return Err(not_read("the proof is not on the disk"));
        };
        let proof = ForkProof::from_bytes(self.ledger.realm(), &kept)
            .map_err(|error| not_read(&with_causes(&error)))?;
        let view = |bytes: &[u8]| {
            let view = self.entry_view(chain, bytes)?;
            Ok::<_, Refusal>(EntryView {
                bytes: Some(base64(bytes)),
                ..view
            })
        };
        let [first, second] = proof.entries();
        Ok(Some(ForkView {
            chain,
            entries: [view(first)?, view(second)?],
        }))
    }

    fn entry_view(&self, chain: ChainId, bytes: &[u8]) -> Result<EntryView, Refusal> {
        let opened = Opened::open(bytes, self.ledger.realm(), chain)?;
        let hash = opened.hash();
        let (payload, signers) = opened.claims()?;
        Ok(EntryView {
            seq: payload.seq,
            hash,
            prev: payload.prev,
            authority: payload.authority,
            kind: payload.body.kind().to_owned(),
            namespace: match &payload.body {
                Body::Delegate(body) => Some(body.namespace),
                Body::Undelegate(body) => Some(body.namespace),
                Body::Resolve(body) => Some(body.fence.namespace),
                Body::Genesis(_)
                | Body::ApproveNode(_)
                | Body::RevokeNode(_)
                | Body::SetNode(_)
                | Body::ApproveUntil(_)
                | Body::Rotate(_)
                | Body::Recover(_)
                | Body::SetBeacon(_)
                | Body::Manifest(_)
                | Body::Push(_)
                | Body::Restart(_)
                | Body::Weigh(_)
                | Body::Rollback(_) => None,
            },
            says: payload.body.words(),
            created_unix_s: payload.created_unix_s,
            signers,
            here: self.ledger.hash_at(chain, payload.seq) == Some(hash),
            bytes: None,
        })
    }
}

fn not_read(why: &str) -> Refusal {
    Refusal::new(RefusalCode::NotDurable, why)
}

/// Where the realm stands, for a signer; with the texts in force of `namespace`.
pub(crate) fn heads(
    ledger: &Ledger,
    node: &NodeName,
    node_key: PublicKey,
    namespace: Option<NamespaceName>,
) -> Heads {
    let (desired, authority) = (ledger.desired(), ledger.authority());
    let namespaces = ledger.chains().filter_map(|chain| {
        let name = chain.namespace()?;
        let state = desired.namespaces.get(&name);
        let asked = state.filter(|_| namespace == Some(name));
        let head = NamespaceHead {
            head: ledger.head(chain),
            version: state.map_or(0, |state| state.version),
            manifest: asked.and_then(|state| state.manifest_text.as_deref().map(str::to_owned)),
            lock: asked.and_then(|state| state.lock_text.as_deref().map(str::to_owned)),
        };
        Some((name, head))
    });
    let namespaces: BTreeMap<NamespaceName, NamespaceHead> = namespaces.collect();
    let asked = namespace.unwrap_or(NamespaceName::DEFAULT);
    let asked = desired.namespaces.get(&asked);
    Heads {
        realm: authority.realm,
        owners: authority.owners.clone(),
        authority: authority.head,
        default: desired.head,
        version: desired.version,
        manifest: desired.manifest_text.as_deref().map(str::to_owned),
        lock: desired.lock_text.as_deref().map(str::to_owned),
        node: node.clone(),
        node_key,
        approved: authority
            .nodes
            .get(node)
            .is_some_and(|node| node.key == node_key),
        threshold: authority.threshold,
        recovery: authority.recovery.clone(),
        namespaces,
        delegates: authority
            .delegates
            .values()
            .map(DelegateView::from)
            .collect(),
        nodes: authority
            .nodes
            .iter()
            .map(|(name, node)| (name.clone(), node.tags.clone()))
            .collect(),
        forks: ledger
            .frozen()
            .map(|(chain, frozen)| ForkHeads {
                chain,
                seq: frozen.seq,
                heads: frozen.heads(),
            })
            .collect(),
        beacon: authority.beacon.as_ref().map(super::beacon::view_of),
        history: None,
        rolled_back: asked
            .into_iter()
            .flat_map(NamespaceState::rolled_back)
            .cloned()
            .collect(),
        pushed: asked
            .into_iter()
            .flat_map(NamespaceState::pushed)
            .cloned()
            .collect(),
    }
}
