//! Calling on a machine at an address, for `realm peer add`: who is there, and what it is to us.

use std::time::Duration;

use realm_model::address::NodeAddress;
use realm_model::api::{PeerAdded, PeerOutcome};
use realm_model::entry::RealmId;
use realm_model::join::{Answer, Offer, Request};
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_net::{Handle, Transport as _};

use crate::error::with_causes;
use crate::joining::ask;

/// The person who called waits for this: the dial and the offer together.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// What a call needs to know.
pub(crate) struct Call {
    pub(crate) net: Handle,
    pub(crate) realm: RealmId,
    pub(crate) genesis: Vec<u8>,
    pub(crate) addresses: Vec<NodeAddress>,
    pub(crate) members: Vec<(PublicKey, NodeName)>,
    pub(crate) address: String,
}

/// Dials; a member is connected by that, anybody else is offered this realm.
pub(crate) async fn call_on(call: Call) -> PeerAdded {
    let mut added = PeerAdded {
        address: call.address.clone(),
        outcome: PeerOutcome::Unreached,
        key: None,
        name: None,
        why: None,
    };
    if tokio::time::timeout(CALL_TIMEOUT, dial_and_offer(call, &mut added))
        .await
        .is_err()
    {
        added.why = Some(format!("no answer within {} s", CALL_TIMEOUT.as_secs()));
    }
    added
}

async fn dial_and_offer(call: Call, added: &mut PeerAdded) {
    let key = match call.net.dial(&call.address).await {
        Ok(key) => key,
        Err(error) => {
            added.why = Some(with_causes(&error));
            return;
        }
    };
    added.key = Some(key);
    if let Some((_, name)) = call.members.iter().find(|(member, _)| *member == key) {
        added.outcome = PeerOutcome::Member;
        added.name = Some(name.clone());
        return;
    }
    let offer = Request::Offer(Offer {
        realm: call.realm,
        genesis: call.genesis.into(),
        addresses: call.addresses,
    });
    added.outcome = PeerOutcome::Declined;
    match ask(&call.net, key, &offer).await {
        Ok(Answer::Taken) => added.outcome = PeerOutcome::Offered,
        Ok(Answer::Refused(refused)) => added.why = Some(refused.message),
        Ok(Answer::Pending(_) | Answer::Approved(_)) => {
            added.why = Some("it answered another question".to_owned());
        }
        Err(error) => added.why = Some(with_causes(&error)),
    }
}
