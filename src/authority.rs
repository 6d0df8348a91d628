//! Signs and submits entries of the authority chain: who may act in the realm, and how. Not the
//! namespace chains, which `sign` serves.

use realm_model::api::{Accepted, Heads};
use realm_model::entry::{Body, ChainId, Fence, Head, NamespaceName, Payload};
use realm_model::key::SecretKey;
use realm_node::Client;

use crate::failure::{Failure, exit};
use crate::sign::{check_threshold, not_an_owner};
use crate::time::now_unix_ms;

/// Signs `body` as the next entry of the authority chain and submits it; returns what was answered
/// and the heads after it, for the next one.
pub(crate) async fn submit(
    client: &Client,
    heads: &mut Heads,
    key: &SecretKey,
    body: Body,
) -> Result<Accepted, Failure> {
    check_may(heads, key, &body)?;
    submit_at(client, heads, heads.authority, &[key], body).await
}

/// Signs `body` with all of these keys as the entry after `parent`, and submits it.
pub(crate) async fn submit_at(
    client: &Client,
    heads: &mut Heads,
    parent: Head,
    keys: &[&SecretKey],
    body: Body,
) -> Result<Accepted, Failure> {
    let payload = Payload {
        seq: parent.seq + 1,
        prev: parent.hash,
        authority: parent,
        created_unix_s: now_unix_ms() / 1_000,
        body,
    };
    let message = payload.message(heads.realm, ChainId::Authority);
    let signatures: Vec<_> = keys
        .iter()
        .map(|key| (key.public(), key.sign(&message)))
        .collect();
    let entry = payload.with_signatures(heads.realm, ChainId::Authority, &signatures);
    let accepted = client.submit(ChainId::Authority, entry).await?;
    heads.authority = accepted.head;
    Ok(accepted)
}

/// Refuses a key that may not say this, before anything is signed with it.
pub(crate) fn check_may(heads: &Heads, key: &SecretKey, body: &Body) -> Result<(), Failure> {
    let public = key.public();
    if heads.owners.contains(&public) {
        return check_threshold(heads.threshold, heads.owners.len());
    }
    let approves = matches!(body, Body::ApproveNode(_) | Body::ApproveUntil(_));
    match heads
        .delegates
        .iter()
        .find(|delegate| delegate.key == public)
    {
        Some(delegate) if approves && delegate.may_approve => Ok(()),
        Some(delegate) => {
            let message = format!("the delegate of `{}` may not do this", delegate.namespace);
            Err(Failure::new("wrong-owner", message)
                .hint(if approves {
                    "the owner allows it with `realm delegate add … --may-approve`"
                } else {
                    "ask the owner of the realm"
                })
                .exit(exit::REFUSED))
        }
        None if matches!(body, Body::Resolve(_)) && heads.recovery.contains(&public) => Ok(()),
        None => Err(not_an_owner(heads.realm, key)),
    }
}

/// Where a namespace stands: what is signed with an older authority head beyond it is abandoned.
pub(crate) fn fence(heads: &Heads, namespace: NamespaceName) -> Option<Fence> {
    let head = heads.namespaces.get(&namespace)?.head;
    Some(Fence {
        namespace,
        base: head,
        head,
    })
}

/// The namespaces for which the owners sign themselves.
pub(crate) fn owned(heads: &Heads) -> impl Iterator<Item = NamespaceName> {
    let delegated = |name: &NamespaceName| heads.delegates.iter().any(|one| one.namespace == *name);
    heads
        .namespaces
        .keys()
        .copied()
        .filter(move |name| !delegated(name))
}
