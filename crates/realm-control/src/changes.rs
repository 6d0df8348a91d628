//! What `realm apply` would change: one manifest and its pins against another. Pure values and
//! their plain text; not what is asked, and not how it is coloured.

mod things;

use std::collections::BTreeMap;

use realm_model::lock::Lock;
use realm_model::manifest::Manifest;
use serde::Serialize;

use things::{Value, things};

/// One thing that is added, changed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is.
    pub subject: Subject,
    /// Its name; for a route the node, the host and the path.
    pub name: String,
    /// Added, changed or removed.
    pub kind: ChangeKind,
    /// For an added thing the keys that differ from their defaults, for a changed one those that
    /// differ, for a removed one none; in alphabetical order.
    pub keys: Vec<KeyChange>,
}

/// What a change is about, in the order in which changes are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// `[owner]`.
    Owner,
    /// `[nodes]`.
    Node,
    /// `[components]`, with their pins.
    Component,
    /// `[routing]`.
    Route,
    /// `[bindings]`.
    Binding,
    /// `[secrets]`.
    Secret,
}

/// Whether a thing is new, other or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Only the new manifest has it.
    Added,
    /// Both have it, and it differs.
    Changed,
    /// Only the old manifest has it.
    Removed,
}

/// One key of a thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyChange {
    /// The key as the manifest spells it; `pin` stands in the lock.
    pub key: String,
    /// The old value; `None`: it was not there.
    pub old: Option<String>,
    /// The new value; `None`: it is gone.
    pub new: Option<String>,
}

impl Subject {
    /// The word before the name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Node => "node",
            Self::Component => "component",
            Self::Route => "route",
            Self::Binding => "binding",
            Self::Secret => "secret",
        }
    }
}

impl ChangeKind {
    /// The sign at the beginning of the line.
    pub const fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Changed => '~',
            Self::Removed => '-',
        }
    }
}

/// Compares two manifests with their pins, the second being the new one. Empty: what runs would
/// not change (versions are not compared).
pub fn changes(before: Option<(&Manifest, &Lock)>, after: (&Manifest, &Lock)) -> Vec<Change> {
    let old = before.map_or_else(BTreeMap::new, |(manifest, lock)| things(manifest, lock));
    let new = things(after.0, after.1);
    let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter_map(|thing| {
            let (kind, keys) = match (old.get(thing), new.get(thing)) {
                (None, Some(new)) => (ChangeKind::Added, added(new)),
                (Some(_), None) => (ChangeKind::Removed, Vec::new()),
                (Some(old), Some(new)) if old != new => (ChangeKind::Changed, changed(old, new)),
                (Some(_), Some(_)) | (None, None) => return None,
            };
            let (subject, name) = thing.clone();
            Some(Change {
                subject,
                name,
                kind,
                keys,
            })
        })
        .collect()
}

fn added(new: &BTreeMap<String, Value>) -> Vec<KeyChange> {
    new.iter()
        .filter(|(_, value)| !value.is_default)
        .map(|(key, value)| KeyChange {
            key: key.clone(),
            old: None,
            new: Some(value.text.clone()),
        })
        .collect()
}

fn changed(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<KeyChange> {
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| KeyChange {
            key: key.clone(),
            old: old.get(key).map(|value| value.text.clone()),
            new: new.get(key).map(|value| value.text.clone()),
        })
        .collect()
}

/// The text of `changes`: a line per thing, an indented one per key, then the [`summary`]; each
/// ends with a newline.
pub fn render(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        let Change {
            subject,
            name,
            kind,
            keys,
        } = change;
        text += &format!("{} {} {name}\n", kind.sign(), subject.as_str());
        for key in keys {
            text += &render_key(key);
        }
    }
    text + &summary(changes) + "\n"
}

fn render_key(change: &KeyChange) -> String {
    let KeyChange { key, old, new } = change;
    match (old, new) {
        (None, Some(new)) => format!("    {key} = {new}\n"),
        (Some(old), None) => format!("    {key}: {old} → (not set)\n"),
        (Some(old), Some(new)) => format!("    {key}: {old} → {new}\n"),
        (None, None) => format!("    {key}\n"),
    }
}

/// One line, e.g. `plan: 1 to add, 1 to change, 0 to remove`.
pub fn summary(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "plan: nothing to change".to_owned();
    }
    let number = |kind| changes.iter().filter(|change| change.kind == kind).count();
    format!(
        "plan: {} to add, {} to change, {} to remove",
        number(ChangeKind::Added),
        number(ChangeKind::Changed),
        number(ChangeKind::Removed)
    )
}

#[cfg(test)]
mod tests;
