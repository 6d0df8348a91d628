//! What an entry of the authority chain must satisfy. Not who may sign it: that is `powers`.

use std::collections::BTreeSet;

use realm_model::beacon::BEACON_EVERY_S;
use realm_model::entry::{
    Body, Delegate, Fence, Head, NamespaceName, Recover, Rotate, SIGNATURES_MAX, SetBeacon,
    SetNode, Undelegate, VerifiedEntry,
};
use realm_model::grants::Capability;
use realm_model::key::PublicKey;
use realm_model::name::{NAME_LENGTH_MAX, NodeName};
use realm_model::refusal::{Refusal, RefusalCode};

use super::{Effect, Ledger, Rank};
use crate::authority::{ApprovedNode, Authority, BeaconRule, OwnerSet, Part};

/// Tags per node: they are printed on one line and matched for each route.
const TAGS_MAX: usize = 32;

/// Approved nodes per realm: each node keeps the whole list in memory and talks of it to others.
const NODES_MAX: usize = 10_000;

/// Namespaces that a realm ever has: each is a log and two marks on every node, for good.
const NAMESPACES_MAX: usize = 256;

/// Patterns in one list of a delegate's scope: each is tried for each component or route.
const PATTERNS_MAX: usize = 64;

/// Characters of one pattern: no host is longer.
const PATTERN_LENGTH_MAX: usize = 253;

pub(super) fn effect(
    ledger: &Ledger,
    entry: &VerifiedEntry,
    rank: Rank,
    parent_seq: u64,
) -> Result<Effect, Refusal> {
    let authority = &ledger.authority;
    let payload = entry.payload();
    let fences = Fences {
        authority,
        parent_seq,
        given: payload.body.fences(),
    };
    match &payload.body {
        Body::ApproveNode(body) => approval(authority, &body.key, &body.name, &body.tags, None),
        Body::ApproveUntil(body) => {
            let end = Some(body.not_after_unix_s);
            approval(authority, &body.key, &body.name, &body.tags, end)
        }
        Body::RevokeNode(body) => {
            check_node(authority, &body.key)?;
            Ok(Effect::Revoke(body.key))
        }
        Body::SetNode(body) => set_node(authority, body),
        Body::Rotate(body) => rotation(authority, body, &fences),
        Body::Delegate(body) => delegation(authority, body, &fences),
        Body::Undelegate(body) => undelegation(authority, body, &fences),
        Body::Resolve(_) => {
            fences.check(&[])?;
            Ok(Effect::Fence)
        }
        Body::Recover(body) => recovery(authority, body, &fences, rank),
        Body::SetBeacon(body) => set_beacon(authority, body),
        Body::Genesis(_)
        | Body::Manifest(_)
        | Body::Push(_)
        | Body::Restart(_)
        | Body::Weigh(_)
        | Body::Rollback(_) => Err(malformed(format!(
            "a {} does not belong into the authority chain at sequence {}",
            payload.body.kind(),
            payload.seq
        ))),
    }
}

fn malformed(why: String) -> Refusal {
    Refusal::new(RefusalCode::Malformed, why)
}

fn check_node(authority: &Authority, key: &PublicKey) -> Result<(), Refusal> {
    if authority.name_of(key).is_some() {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::UnknownName,
        format!("no node with the key {key} is approved"),
    ))
}

/// The same key may be approved again: with other tags, or under another name.
fn approval(
    authority: &Authority,
    key: &PublicKey,
    name: &NodeName,
    tags: &[String],
    not_after_unix_s: Option<u64>,
) -> Result<Effect, Refusal> {
    if let Some(node) = authority.nodes.get(name)
        && node.key != *key
    {
        return Err(Refusal::new(
            RefusalCode::NameTaken,
            format!("node `{name}` is approved with the key {}", node.key),
        ));
    }
    let parts = authority.parts_of(key);
    if let Some(part) = parts.iter().find(|part| **part != Part::Node) {
        return Err(malformed(format!("{key} is {part}: a node has its own")));
    }
    if authority.nodes.len() >= NODES_MAX && authority.name_of(key).is_none() {
        return Err(malformed(format!("a realm has at most {NODES_MAX} nodes")));
    }
    check_tags(&format!("node `{name}`"), tags)?;
    let node = ApprovedNode {
        key: *key,
        tags: tags.to_vec(),
        not_after_unix_s,
        cordoned: None,
        drained: false,
    };
    Ok(Effect::Approve(name.clone(), node))
}

fn check_tags(whose: &str, tags: &[String]) -> Result<(), Refusal> {
    if tags.len() > TAGS_MAX {
        return Err(malformed(format!(
            "{whose} has {} tags, at most {TAGS_MAX} are taken",
            tags.len()
        )));
    }
    // A tag has the form of a node's name, in the manifest as well.
    if let Some(tag) = tags.iter().find(|tag| tag.parse::<NodeName>().is_err()) {
        let tag: String = tag.chars().take(NAME_LENGTH_MAX).collect();
        return Err(malformed(format!(
            "{tag:?} is not a tag: expected 1 to {NAME_LENGTH_MAX} letters, digits, `-`, `_` and `.`"
        )));
    }
    Ok(())
}

fn set_node(authority: &Authority, setting: &SetNode) -> Result<Effect, Refusal> {
    check_node(authority, &setting.key)?;
    Ok(Effect::SetNode(setting.clone()))
}

fn set_beacon(authority: &Authority, setting: &SetBeacon) -> Result<Effect, Refusal> {
    let Some(key) = setting.key else {
        return Ok(Effect::SetBeacon(None));
    };
    let parts = authority.parts_of(&key);
    if let Some(part) = parts.iter().find(|part| **part != Part::Beacon) {
        return Err(malformed(format!(
            "{key} is {part}: the beacon has its own"
        )));
    }
    if authority.has_namespace_at(setting.name, authority.head.seq) {
        return Err(Refusal::new(
            RefusalCode::NameTaken,
            format!(
                "`{}` is a namespace: the beacon has another name",
                setting.name
            ),
        ));
    }
    if !BEACON_EVERY_S.contains(&setting.every_s) {
        return Err(malformed(format!(
            "a beacon comes every {} to {} s, not every {} s",
            BEACON_EVERY_S.start(),
            BEACON_EVERY_S.end(),
            setting.every_s
        )));
    }
    Ok(Effect::SetBeacon(Some(BeaconRule {
        name: setting.name,
        key,
        every_s: setting.every_s,
    })))
}

/// Lists of keys, each key once, and none that is a node's or a delegate's.
fn owner_set(
    authority: &Authority,
    owners: &[PublicKey],
    threshold: u32,
    recovery: &[PublicKey],
) -> Result<OwnerSet, Refusal> {
    if recovery.len() > SIGNATURES_MAX {
        return Err(malformed(format!(
            "a realm has at most {SIGNATURES_MAX} recovery keys"
        )));
    }
    let mut seen = BTreeSet::new();
    for key in owners.iter().chain(recovery) {
        if !seen.insert(key) {
            return Err(malformed(format!("{key} stands there twice")));
        }
        let parts = authority.parts_of(key);
        // An owner's key may become a recovery key, and the other way round.
        if let Some(part) = parts.iter().find(|part| part.is_other()) {
            return Err(malformed(format!("{key} is {part}: an owner has its own")));
        }
    }
    Ok(OwnerSet {
        owners: owners.to_vec(),
        threshold,
        recovery: recovery.to_vec(),
    })
}

fn rotation(authority: &Authority, body: &Rotate, fences: &Fences<'_>) -> Result<Effect, Refusal> {
    let set = owner_set(authority, &body.owners, body.threshold, &body.recovery)?;
    // Who was an owner must not go on with an old date.
    let leaves = authority.owners.iter().any(|key| !set.owners.contains(key));
    if leaves || set.threshold > authority.threshold {
        fences.check_owned()?;
    } else {
        fences.check(&[])?;
    }
    Ok(Effect::Owners(set))
}

fn recovery(
    authority: &Authority,
    body: &Recover,
    fences: &Fences<'_>,
    rank: Rank,
) -> Result<Effect, Refusal> {
    // What stands there may be put aside, with the nodes and delegates that it names: they are no
    // reason to refuse.
    let mut keys: Vec<_> = body.owners.iter().chain(&body.recovery).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) || body.recovery.len() > SIGNATURES_MAX {
        return Err(malformed("a recovery names each key once".to_owned()));
    }
    // The owners end a fork; to choose others they rotate.
    if rank == Rank::Recovered {
        let before = authority.owners_at(fences.parent_seq);
        let same = before.owners == body.owners
            && before.threshold == body.threshold
            && before.recovery == body.recovery;
        if !same {
            return Err(Refusal::new(
                RefusalCode::WrongOwner,
                "without a recovery key, a recovery keeps the owners as they were",
            ));
        }
        fences.check(&[])?;
    } else {
        fences.check_owned()?;
    }
    Ok(Effect::Owners(OwnerSet {
        owners: body.owners.clone(),
        threshold: body.threshold,
        recovery: body.recovery.clone(),
    }))
}

fn delegation(
    authority: &Authority,
    body: &Delegate,
    fences: &Fences<'_>,
) -> Result<Effect, Refusal> {
    let name = body.namespace;
    if name.is_default() {
        return Err(malformed(
            "namespace `default` is the owners' own".to_owned(),
        ));
    }
    if authority.beacon.is_some_and(|beacon| beacon.name == name) {
        return Err(Refusal::new(
            RefusalCode::NameTaken,
            format!("`{name}` is the beacon: a namespace has another name"),
        ));
    }
    let parts = authority.parts_of(&body.key);
    let own = authority.delegates.get(&name);
    let renewed = own.is_some_and(|delegate| delegate.key == body.key);
    if let Some(part) = parts.first()
        && !renewed
    {
        return Err(malformed(format!(
            "{} is {part}: a delegate has its own",
            body.key
        )));
    }
    check_tags(&format!("the delegate of `{name}`"), &body.tags)?;
    for patterns in [&body.apps, &body.hosts] {
        let long = |pattern: &String| pattern.len() > PATTERN_LENGTH_MAX;
        if patterns.len() > PATTERNS_MAX || patterns.iter().any(long) {
            return Err(malformed(format!(
                "a scope has at most {PATTERNS_MAX} patterns of {PATTERN_LENGTH_MAX} characters"
            )));
        }
    }
    let known = |word: &&String| Capability::of_name(word).is_none();
    if let Some(word) = body.capabilities.iter().find(known) {
        return Err(Refusal::new(
            RefusalCode::NeedsNewerAgent,
            format!("capability `{word}` is not known to this version"),
        ));
    }
    if authority.has_namespace_at(name, authority.head.seq) {
        fences.check(&[name])?;
    } else if authority.namespaces().count() >= NAMESPACES_MAX {
        return Err(malformed(format!(
            "a realm has at most {NAMESPACES_MAX} namespaces"
        )));
    } else if !fences.given.is_empty() {
        return Err(malformed(format!(
            "namespace `{name}` is new: it has no fence"
        )));
    }
    Ok(Effect::Delegate(Box::new(body.clone())))
}

fn undelegation(
    authority: &Authority,
    body: &Undelegate,
    fences: &Fences<'_>,
) -> Result<Effect, Refusal> {
    if !authority.delegates.contains_key(&body.namespace) {
        return Err(Refusal::new(
            RefusalCode::UnknownName,
            format!("namespace `{}` has no delegate", body.namespace),
        ));
    }
    fences.check(&[body.namespace])?;
    Ok(Effect::Undelegate(body.namespace))
}

/// The fences of an entry, and what was known before it.
struct Fences<'a> {
    authority: &'a Authority,
    parent_seq: u64,
    given: &'a [Fence],
}

impl Fences<'_> {
    /// Every namespace for which the owners sign has a fence.
    fn check_owned(&self) -> Result<(), Refusal> {
        let owned: Vec<NamespaceName> = self.authority.owned_at(self.parent_seq).collect();
        self.check(&owned)
    }

    /// These namespaces have a fence, and each fence is sound: its namespace is known, its head not
    /// before its base, and neither before the head of the fence before.
    fn check(&self, needed: &[NamespaceName]) -> Result<(), Refusal> {
        let missing = |name: &&NamespaceName| !self.given.iter().any(|f| f.namespace == **name);
        if let Some(name) = needed.iter().find(missing) {
            return Err(malformed(format!(
                "it says nothing of where namespace `{name}` stands: a fence is missing"
            )));
        }
        let mut seen = BTreeSet::new();
        for fence in self.given {
            let name = fence.namespace;
            if !seen.insert(name) || !self.authority.has_namespace_at(name, self.parent_seq) {
                return Err(malformed(format!(
                    "the fence of namespace `{name}` stands there twice, or there is no such namespace"
                )));
            }
            let last = self.authority.fence_at(name, self.parent_seq);
            let origin = self.authority.realm.origin();
            let before = last.map_or(origin, |last| last.head);
            if !follows(before, fence.base) || !follows(fence.base, fence.head) {
                return Err(malformed(format!(
                    "the fence of namespace `{name}` goes back: {} after {}, head {}",
                    fence.base.seq, before.seq, fence.head.seq
                )));
            }
        }
        Ok(())
    }
}

/// Whether `next` may stand at or after `before` in one chain.
fn follows(before: Head, next: Head) -> bool {
    next.seq > before.seq || next == before
}
