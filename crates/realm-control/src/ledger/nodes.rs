//! What an entry of the authority chain must satisfy. Not its signatures: those held already.

use realm_model::entry::{ApproveNode, Body, Payload};
use realm_model::name::{NAME_LENGTH_MAX, NodeName};
use realm_model::refusal::{Refusal, RefusalCode};

use super::Effect;
use crate::authority::Authority;

/// Tags per node: they are printed on one line and matched for each route.
const TAGS_MAX: usize = 32;

/// Approved nodes per realm: each node keeps the whole list in memory and talks of it to others.
const NODES_MAX: usize = 10_000;

pub(super) fn effect(authority: &Authority, payload: &Payload) -> Result<Effect, Refusal> {
    match &payload.body {
        Body::ApproveNode(approval) => {
            check_approval(authority, approval)?;
            Ok(Effect::Approve(approval.clone()))
        }
        Body::RevokeNode(revocation) => {
            if authority.name_of(&revocation.key).is_none() {
                return Err(Refusal::new(
                    RefusalCode::UnknownName,
                    format!("no node with the key {} is approved", revocation.key),
                ));
            }
            Ok(Effect::Revoke(revocation.key))
        }
        Body::Genesis(_) | Body::Manifest(_) | Body::Push(_) | Body::Restart(_) => {
            Err(Refusal::new(
                RefusalCode::Malformed,
                format!(
                    "a {} does not belong into the authority chain at sequence {}",
                    payload.body.kind(),
                    payload.seq
                ),
            ))
        }
    }
}

/// The same key may be approved again: with other tags, or under another name.
fn check_approval(authority: &Authority, approval: &ApproveNode) -> Result<(), Refusal> {
    let ApproveNode { key, name, tags } = approval;
    if let Some(node) = authority.nodes.get(name)
        && node.key != *key
    {
        return Err(Refusal::new(
            RefusalCode::NameTaken,
            format!("node `{name}` is approved with the key {}", node.key),
        ));
    }
    let malformed = |why| Err(Refusal::new(RefusalCode::Malformed, why));
    if authority.owners.contains(key) {
        return malformed(format!("{key} is an owner's key: a node has its own"));
    }
    if authority.nodes.len() >= NODES_MAX && authority.name_of(key).is_none() {
        return malformed(format!("a realm has at most {NODES_MAX} nodes"));
    }
    if tags.len() > TAGS_MAX {
        return malformed(format!(
            "node `{name}` has {} tags, at most {TAGS_MAX} are taken",
            tags.len()
        ));
    }
    // A tag has the form of a node's name, in the manifest as well.
    if let Some(tag) = tags.iter().find(|tag| tag.parse::<NodeName>().is_err()) {
        let tag: String = tag.chars().take(NAME_LENGTH_MAX).collect();
        return malformed(format!(
            "{tag:?} is not a tag: expected 1 to {NAME_LENGTH_MAX} letters, digits, `-`, `_` and `.`"
        ));
    }
    Ok(())
}
