//! A node whose log was damaged: until each chain is back where it stood, nothing runs here, nothing is
//! signed on top of what is here, and whoever may have the rest is asked for it. Members bring it by
//! the sync; where the authority chain is so short that no member is known, the join protocol does.

use realm_model::entry::ChainId;
use realm_model::key::PublicKey;
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::view::AlarmView;
use realm_net::Transport as _;

use super::Core;
use crate::error::with_causes;

/// Those who were met before are asked that often, one after the other.
const SEEK_INTERVAL_MS: u64 = 2_000;

impl Core {
    /// Whether the log lost entries that are not back.
    pub(super) fn is_behind(&self) -> bool {
        !self.journal.behind().is_empty()
    }

    /// What the owner should know of it.
    pub(super) fn behind_alarm(&self) -> Option<AlarmView> {
        let (chain, floor) = self.journal.behind().first_key_value()?;
        let alone = self
            .network
            .as_ref()
            .is_none_or(|network| network.links().is_empty());
        let head = self.ledger.head(*chain).seq;
        let met = match alone {
            true => "no other node is reached that could bring the rest",
            false => "the rest comes from the other nodes",
        };
        Some(AlarmView {
            code: "log-damaged".to_owned(),
            message: format!(
                "the log of this node was damaged: chain `{chain}` is at entry {head}, and was at {}; {met}; nothing runs here until then",
                floor.seq
            ),
            hint: match alone {
                true => "bring another node of the realm back, or restore this folder from a copy; the damaged file is in `log/`",
                false => "nothing to do while other nodes are reached; the damaged file is in `log/`",
            }
            .to_owned(),
            node: self.node.clone(),
        })
    }

    /// What is signed here would stand beside what is missing.
    pub(super) fn refuse_behind(&self) -> Result<(), Refusal> {
        let Some((chain, floor)) = self.journal.behind().first_key_value() else {
            return Ok(());
        };
        Err(Refusal::new(
            RefusalCode::Gap,
            format!(
                "the log of this node was damaged: chain `{chain}` is not back at entry {}",
                floor.seq
            ),
        ))
    }

    /// After an entry: looks whether this node is back where it stood.
    pub(super) fn look_back(&mut self) {
        if !self.is_behind() {
            return;
        }
        let caught_up = tokio::task::block_in_place(|| self.journal.catch_up(&self.ledger));
        match caught_up {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("every chain is back where it stood before the damage");
                self.stale = true;
            }
            Err(error) => {
                let reason = with_causes(&error);
                tracing::error!(reason, "the high-water marks could not be set");
            }
        }
        // A node whose own approval was lost went by the name that it proposes.
        let bound = self.ledger.authority().name_of(&self.node_key);
        if let Some(bound) = bound.filter(|bound| **bound != self.node).cloned() {
            if let Some(network) = &mut self.network {
                network.name = bound.clone();
            }
            self.node = bound;
        }
    }

    /// Asks those who were met before for the authority chain, while that is what is missing.
    pub(super) fn seek(&mut self) {
        let now = self.now();
        if !self.journal.behind().contains_key(&ChainId::Authority) {
            return;
        }
        let from = self.ledger.head(ChainId::Authority).seq + 1;
        let Some(network) = &mut self.network else {
            return;
        };
        if network.inquire_at > now {
            return;
        }
        network.inquire_at = now.plus(SEEK_INTERVAL_MS);
        let Some((key, addresses)) = network.next_place() else {
            return;
        };
        let (net, events) = (network.net.clone(), network.events());
        let realm = network.realm;
        tokio::spawn(async move {
            let peer: Option<PublicKey> = async {
                for address in &addresses {
                    match net.dial(address).await {
                        Ok(peer) if key.is_none_or(|key| key == peer) => return Some(peer),
                        Ok(_) | Err(_) => {}
                    }
                }
                None
            }
            .await;
            if let Some(peer) = peer {
                super::shut::inquire(&net, events, realm, peer, from).await;
            }
        });
    }

    /// When [`Core::seek`] wants its next turn.
    pub(super) fn seek_at(&self) -> Option<u64> {
        let missing = self.journal.behind().contains_key(&ChainId::Authority);
        let network = self.network.as_ref().filter(|_| missing)?;
        Some(network.inquire_at.0)
    }
}
