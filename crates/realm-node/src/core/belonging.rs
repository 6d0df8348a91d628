//! How this node and the others stand in the realm: who may connect, whether this node itself still
//! belongs to it, and which bytes it has for the others. By the ledger and the clock alone.

use std::collections::BTreeSet;

use realm_model::digest::Digest;
use realm_model::entry::ChainId;
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_model::record::UPGRADE_NEEDED;
use realm_model::record::limits::BLOBS_MAX;
use realm_model::view::AlarmView;
use realm_net::Admission;

use super::Core;

/// After this time it is looked who may connect: an approval that has ended ends this late. The
/// clocks of two nodes differ by more.
const ADMIT_MS: u64 = 10_000;
/// Whoever is cut off hears the entry that says why first.
const PARTING_MS: u64 = 1_000;

/// How this node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Standing {
    /// The owner approved it.
    #[default]
    Approved,
    /// Not yet, or under another name.
    Unknown,
    /// The owner took the approval back.
    Revoked,
    /// The approval has ended.
    Expired,
}

impl Standing {
    /// What the owner should know of it.
    pub(super) fn alarm(self, node: &NodeName) -> Option<AlarmView> {
        let (code, message, hint) = match self {
            Self::Approved | Self::Unknown => return None,
            Self::Revoked => (
                "revoked",
                "the owner revoked this node: nothing runs on it, and no node talks to it",
                "to use this machine again, have an owner approve it anew (`realm nodes approve`), or join with a new key from an empty realm folder",
            ),
            Self::Expired => (
                "approval-expired",
                "by the clock of this machine, the approval of this node has ended: nothing new starts on it, and nodes whose clock says so too do not talk to it",
                "is the clock right? then `realm nodes approve KEY --name NAME` on another node renews it; else set the clock",
            ),
        };
        Some(AlarmView {
            code: code.to_owned(),
            message: message.to_owned(),
            hint: hint.to_owned(),
            node: node.clone(),
        })
    }
}

impl Core {
    pub(super) fn standing(&self, now_unix_s: u64) -> Standing {
        let authority = self.ledger.authority();
        match authority.nodes.get(&self.node) {
            Some(node) if node.key == self.node_key && node.is_expired(now_unix_s) => {
                Standing::Expired
            }
            Some(node) if node.key == self.node_key => Standing::Approved,
            Some(_) | None if authority.was_revoked(&self.node_key) => Standing::Revoked,
            Some(_) | None => Standing::Unknown,
        }
    }

    /// Writes into the log when this node belongs to the realm no longer.
    fn tell_standing(&mut self, now_unix_s: u64) {
        let standing = self.standing(now_unix_s);
        if std::mem::replace(&mut self.stood, standing) != standing {
            self.stale = true;
            if let Some(alarm) = standing.alarm(&self.node) {
                tracing::error!(code = alarm.code, hint = alarm.hint, "{}", alarm.message);
            }
        }
    }

    /// Writes down that a chain stopped here at an entry that only a newer agent reads. What runs goes
    /// on.
    pub(super) fn stops_at(&mut self, chain: ChainId) {
        let seq = self.ledger.head(chain).seq + 1;
        let now = self.now();
        let Some(network) = &mut self.network else {
            return;
        };
        if network.stopped.insert(chain, seq) != Some(seq) {
            network.changed(now);
            tracing::error!(
                code = UPGRADE_NEEDED,
                chain = chain.as_str(),
                seq,
                "the chain stops here at an entry that only a newer realm reads; what runs goes on"
            );
        }
    }

    /// A chain went on.
    pub(super) fn goes_on(&mut self, chain: ChainId) {
        let now = self.now();
        if let Some(network) = &mut self.network
            && network.stopped.remove(&chain).is_some()
        {
            network.changed(now);
        }
    }

    /// Says who may connect, by the authority chain and this node's clock.
    pub(crate) fn admit(&mut self) {
        let (now, now_unix_s) = (self.now(), super::unix_ms() / 1_000);
        self.tell_standing(now_unix_s);
        let Some(network) = &mut self.network else {
            return;
        };
        let authority = self.ledger.authority();
        let mut members: BTreeSet<PublicKey> = authority.members(now_unix_s).collect();
        for key in &members {
            if let Some(join) = network.pending.settle(key) {
                let listens = join.ask.addresses.into_iter();
                let addresses: Vec<String> = listens
                    .map(|address| address.without_peer().to_string())
                    .collect();
                network.knows(*key, &addresses);
            }
        }
        network.parting = !network.parting && !network.admitted.is_subset(&members);
        if network.parting {
            members.extend(network.admitted.iter().copied());
        }
        network.admitted.clone_from(&members);
        network.admit_at = now.plus(if network.parting {
            PARTING_MS
        } else {
            ADMIT_MS
        });
        network.admit(Admission {
            clients: authority.callers(now_unix_s).collect(),
            members,
        });
        self.learned();
    }

    /// Digests of the realm whose bytes are here, whether they run here or not.
    pub(super) fn held(&mut self) -> Vec<Digest> {
        let Some(network) = &mut self.network else {
            return Vec::new();
        };
        let pins = self.ledger.desired().lock.components.values();
        let wanted: BTreeSet<Digest> = pins.map(|pin| pin.digest).take(BLOBS_MAX).collect();
        network.held.retain(|digest| wanted.contains(digest));
        for digest in wanted {
            if !network.held.contains(&digest) && self.executor.has(&digest) {
                network.held.insert(digest);
            }
        }
        network.held.iter().copied().collect()
    }
}
