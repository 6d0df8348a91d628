//! The loop and who is no member: requests to join, tickets, calls on machines at an address.

use realm_control::pending::RETRY_AFTER_S;
use realm_control::records::Records;
use realm_model::api::Invitation;
use realm_model::entry::ChainId;
use realm_model::join::{Answer, Approved, JoinCode, Refused, Request, Waiting};
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_model::refusal::{Refusal, RefusalCode};

use super::Core;
use crate::error::with_causes;
use crate::network::Knock;

/// Entries of the authority chain that one answer of the join protocol is cut from.
const PAGE_ENTRIES_MAX: usize = 1_024;

impl Core {
    /// A stranger asks to be let in.
    pub(super) fn knocked(&mut self, knock: Knock) {
        let answer = self.answer_to(&knock);
        // Who hung up asks again.
        let _ = knock.reply.send(answer);
    }

    fn answer_to(&mut self, knock: &Knock) -> Answer {
        let now = self.now();
        let realm = self.ledger.realm();
        let refused = |code, message: &str| Answer::Refused(Refused::new(code, message, None));
        if self.network.is_none() {
            return refused(JoinCode::NoRealm, "this node is alone");
        }
        let (asked, from) = match &knock.request {
            Request::Ask(ask) => (ask.realm, ask.from),
            Request::Page(page) => (Some(page.realm), page.from),
            Request::Offer(_) => {
                return refused(JoinCode::Claimed, "this node belongs to a realm already");
            }
        };
        if asked.is_some_and(|asked| asked != realm) {
            return refused(JoinCode::WrongRealm, "this node belongs to another realm");
        }
        if let Some(name) = self.ledger.authority().name_of(&knock.key).cloned() {
            let head = self.ledger.head(ChainId::Authority).seq;
            return self.page(name, from, head);
        }
        let revocation = self.ledger.authority().revocation(&knock.key);
        let revocation = revocation.map(|(name, seq)| (name.clone(), seq));
        match (&knock.request, revocation) {
            // It knew the chain once, and learns no more than why it is shut out.
            (Request::Page(_), Some((name, seq))) => return self.page(name, from, seq),
            (Request::Ask(_), Some(_)) => {
                return refused(JoinCode::Revoked, "the owner revoked this key");
            }
            (Request::Ask(_) | Request::Page(_) | Request::Offer(_), _) => {}
        }
        let Request::Ask(ask) = &knock.request else {
            return refused(JoinCode::NotExpected, "this key is not approved");
        };
        let network = self.network.as_mut().expect("looked at above");
        match network.knocked(knock, ask.clone(), now) {
            Ok(new) => {
                if new {
                    let words = knock.key.words().join(" ");
                    tracing::info!(name = %ask.name, words, "a machine asks to join: `realm nodes ls`");
                    self.stale = true;
                }
                Answer::Pending(Waiting {
                    realm,
                    retry_after_s: RETRY_AFTER_S,
                })
            }
            Err(refused) => Answer::Refused(refused),
        }
    }

    /// Entries of the authority chain from one on, up to `last`.
    fn page(&self, name: NodeName, from: u64, last: u64) -> Answer {
        let within = (PAGE_ENTRIES_MAX, realm_model::join::PAGE_BYTES + 1);
        let entries = tokio::task::block_in_place(|| {
            self.journal
                .entries(&self.ledger, ChainId::Authority, from..=last, within)
        });
        match entries {
            Ok(entries) => {
                let mut page = Approved::page(self.ledger.realm(), name, from, &entries);
                page.more |= page.next() <= last;
                Answer::Approved(page)
            }
            Err(error) => {
                let reason = with_causes(&error);
                tracing::error!(reason, "the authority chain could not be read");
                let why = "the node has trouble with its disk";
                Answer::Refused(Refused::new(JoinCode::TooMany, why, None))
            }
        }
    }

    /// What a ticket is made of.
    pub(super) fn invitation(&self) -> Invitation {
        let mut addresses = Vec::new();
        if let Some(network) = &self.network {
            let own = network.addresses().iter();
            addresses.extend(own.filter_map(|address| with_key(self.node_key, address)));
            addresses.extend(theirs(network.sync.records(), self.node_key));
        }
        addresses.truncate(realm_model::ticket::ADDRESSES_MAX);
        Invitation {
            realm: self.ledger.realm(),
            floor: self.ledger.head(ChainId::Authority),
            addresses,
        }
    }

    /// Calls on a machine, for whoever asked.
    pub(super) fn call(
        &mut self,
        address: String,
        reply: tokio::sync::oneshot::Sender<Result<realm_model::api::PeerAdded, Refusal>>,
    ) {
        let genesis = tokio::task::block_in_place(|| {
            let first = (1, usize::MAX);
            self.journal
                .entries(&self.ledger, ChainId::Authority, 0..=0, first)
        });
        let members = self.ledger.authority().nodes.iter();
        let members = members
            .map(|(name, node)| (node.key, name.clone()))
            .collect();
        let Some(network) = &mut self.network else {
            let why = "this node is alone: node.toml says `[p2p] listen = []`";
            let _ = reply.send(Err(Refusal::new(RefusalCode::UnknownName, why)));
            return;
        };
        let Some(genesis) = genesis.ok().and_then(|mut entries| entries.pop()) else {
            let why = "the genesis could not be read";
            let _ = reply.send(Err(Refusal::new(RefusalCode::NotDurable, why)));
            return;
        };
        network.name_address(&address);
        network.save_book();
        let called = network.call(address, genesis, members);
        tokio::spawn(async move {
            // Who hung up looks at `realm nodes ls`.
            let _ = reply.send(Ok(called.await));
        });
    }
}

fn with_key(key: PublicKey, address: &str) -> Option<String> {
    let written = realm_model::address::read(address).ok()?;
    Some(written.address.with_peer(key).to_string())
}

/// Where each other node says first that it is.
pub(super) fn theirs(records: &Records, own: PublicKey) -> impl Iterator<Item = String> + use<'_> {
    let others = records.iter().filter(move |record| record.node != own);
    others.filter_map(|record| with_key(record.node, record.body.addresses.first()?))
}
