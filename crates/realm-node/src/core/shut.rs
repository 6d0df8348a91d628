//! A member that does not answer this node: it may have been revoked while its agent was off. The
//! join protocol is open to everybody, so the member is asked there for what follows in the authority
//! chain. It is taken as if it had come by the sync. Not here: what the entries mean.

use realm_control::sync::{Input, Verdict};
use realm_model::entry::{ChainId, RealmId};
use realm_model::join::{Answer, Approved, Page, Request};
use realm_model::key::PublicKey;
use realm_model::refusal::RefusalCode;
use realm_net::Handle;
use tokio::sync::mpsc;

use super::Core;
use super::belonging::Standing;
use crate::event::Event;
use crate::joining::ask;

/// Members that do not answer are asked for their reason that often, all together: they restart,
/// too, and are behind.
const INQUIRY_INTERVAL_MS: u64 = 5_000;
/// The entry after the genesis, which every node has.
const FIRST: u64 = 1;

impl Core {
    /// A member refuses the protocols of members.
    pub(super) fn shut_out(&mut self, by: PublicKey) {
        let now = self.now();
        if self.standing(super::unix_ms() / 1_000) == Standing::Revoked {
            return;
        }
        let from = self.ledger.head(ChainId::Authority).seq + 1;
        if let Some(network) = &mut self.network
            && network.inquire_at <= now
        {
            network.inquire_at = now.plus(INQUIRY_INTERVAL_MS);
            self.inquire(by, from);
        }
    }

    fn inquire(&self, of: PublicKey, from: u64) {
        let Some(network) = &self.network else {
            return;
        };
        let (net, events, realm) = (network.net.clone(), network.events(), network.realm);
        tokio::spawn(async move { inquire(&net, events, realm, of, from).await });
    }

    /// A member said how the authority chain goes on.
    pub(super) fn told(&mut self, by: PublicKey, page: &Approved) {
        let follows = page.from == self.ledger.head(ChainId::Authority).seq + 1;
        let fits = |verdict: &Verdict| match verdict {
            Verdict::Applied => true,
            Verdict::Refused(refusal) => refusal.code == RefusalCode::Replayed,
            Verdict::Forked => false,
        };
        let parted = page.entries.is_empty()
            || !page
                .entries
                .iter()
                .all(|bytes| fits(&self.submitted_by(by, ChainId::Authority, None, bytes)));
        self.feed(Input::LedgerChanged);
        if page.more && !parted {
            self.inquire(by, page.next());
        } else if parted && follows && page.from > FIRST {
            // The owners may have ended the history that is known here; where is not known.
            self.inquire(by, FIRST);
        }
    }
}

/// Asks a connected peer for the authority chain from an entry on; what it says comes as an event.
pub(super) async fn inquire(
    net: &Handle,
    events: mpsc::Sender<Event>,
    realm: RealmId,
    of: PublicKey,
    from: u64,
) {
    match ask(net, of, &Request::Page(Page { realm, from })).await {
        // The loop may be gone; then nobody waits.
        Ok(Answer::Approved(page)) if page.realm == realm && page.from == from => {
            let _ = events.send(Event::Told { by: of, page }).await;
        }
        // It does not know this node, or is behind: the next one may know more.
        Ok(Answer::Approved(_) | Answer::Pending(_) | Answer::Refused(_) | Answer::Taken) => {
            tracing::debug!(peer = %of, "a member that refuses this node gives no reason");
        }
        Err(error) => tracing::debug!(peer = %of, %error, "a member was not asked"),
    }
}
