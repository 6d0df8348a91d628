//! Mistakes that nodes make on purpose: what is looked at has to find each of them.

use realm_model::entry::ChainId;
use realm_model::record::{ChainHead, NodeBody};

use crate::testing::{Realm, component_name};

/// A mistake that all nodes make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// Takes others to serve whatever they shall have.
    Credulous,
    /// Takes the places of others to be ready, and them to have heard of everything.
    Hasty,
    /// Hears nothing of who is drained.
    Deaf,
}

impl Planted {
    /// What a node takes the word of another one for.
    pub(super) fn hears(self, body: &NodeBody, own: &Realm) -> NodeBody {
        let mut body = body.clone();
        match self {
            Self::Credulous => {
                for one in &mut body.components {
                    one.serving = Some(one.wanted.max(one.serving.unwrap_or_default()));
                }
            }
            Self::Hasty => {
                let chain = ChainId::DEFAULT;
                let head = own.ledger.head(chain);
                body.heads = vec![ChainHead { chain, head }];
                let edition = own.ledger.desired().edition(&component_name("app"));
                let ready = edition.map_or(0, |(_, entry)| entry);
                let components = body.components.iter_mut();
                for seat in components.flat_map(|one| one.seats.iter_mut().flatten()) {
                    seat.up = true;
                    seat.ready = ready;
                }
            }
            Self::Deaf => {}
        }
        body
    }
}
