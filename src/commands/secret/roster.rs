//! Whose nodes there are, by the realm's log, and to which keys secrets for them are sealed, by their own
//! signed words. What an agent says is believed only where a key of the log has signed it.

use std::collections::{BTreeMap, BTreeSet};

use realm_control::Authority;
use realm_control::place::may_run;
use realm_model::manifest::Manifest;
use realm_model::name::NodeName;
use realm_model::sealing::Mark;
use realm_node::ClientError;
use realm_node::sealing::recipient_of;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// The nodes of the realm.
pub(super) struct Roster {
    authority: Authority,
    recipients: BTreeMap<NodeName, String>,
    /// Whether an agent said what it knows of the others.
    asked: bool,
}

impl Roster {
    pub(super) async fn of(context: &Context) -> Result<Self, Failure> {
        let folder = context.folder().map_err(|failure| {
            failure.hint(
                "secrets are sealed where the realm's log is: on a machine that is a node of it",
            )
        })?;
        let bad =
            |error: realm_node::IdentityError| Failure::from_error("bad-realm-folder", &error);
        let authority = realm_node::offline_authority(&folder).map_err(bad)?;
        let mut roster = Self {
            authority,
            recipients: BTreeMap::new(),
            asked: true,
        };
        match context.client().await?.status().await {
            Ok(status) => {
                if status.realm != roster.authority.realm {
                    return Err(Failure::new(
                        "wrong-realm",
                        "the node belongs to another realm",
                    ));
                }
                if status.authority_head.seq > roster.authority.head.seq {
                    return Err(Failure::new(
                        "log-behind",
                        "the log of this folder is behind that node's: who was approved or revoked since is not known here",
                    )
                    .hint("start the agent of this folder once: `realm agent`"));
                }
                for node in status.nodes {
                    roster.hear(&node);
                }
            }
            Err(ClientError::NotRunning { .. }) => roster.asked = false,
            Err(error) => return Err(error.into()),
        }
        // This machine's own key needs nobody's word.
        let own = realm_node::node_key_of(&folder).map_err(bad)?;
        if let Some(name) = roster.authority.name_of(&own).cloned() {
            let key = realm_node::sealing::SealingKey::open_or_make(&folder)
                .map_err(|error| Failure::from_error("bad-realm-folder", &error))?;
            roster.recipients.insert(name, key.recipient());
        }
        Ok(roster)
    }

    /// Takes what is said of a node, if that node itself has signed it.
    fn hear(&mut self, node: &realm_model::view::NodeView) {
        let (Some(approved), Some(sealing)) = (self.authority.nodes.get(&node.name), &node.sealing)
        else {
            return;
        };
        match recipient_of(sealing, self.authority.realm, approved.key) {
            Some(recipient) => drop(self.recipients.insert(node.name.clone(), recipient)),
            None => output::note(&format!(
                "what is said of the sealing key of `{}` is not signed by that node, and does not count",
                node.name
            )),
        }
    }

    pub(super) fn recipient(&self, node: &NodeName) -> Option<&str> {
        self.recipients.get(node).map(String::as_str)
    }

    /// Nodes that may run a component which lists the secret, or binds a store that is asked with it.
    pub(super) fn may_need(&self, manifest: &Manifest, name: &str) -> BTreeSet<NodeName> {
        let listing = manifest.components.iter().filter(|(_, spec)| {
            let mut names = spec.grants.secret_names().into_iter();
            names.any(|listed| listed == name)
        });
        listing
            .flat_map(|(component, _)| may_run(manifest, &self.authority, component))
            .collect()
    }

    /// Whose mark is whose.
    pub(super) fn marks(&self) -> BTreeMap<Mark, &NodeName> {
        let recipients = self.recipients.iter();
        recipients
            .map(|(node, recipient)| (Mark::of(recipient), node))
            .collect()
    }

    /// Why the sealing key of an approved node is not known.
    pub(super) const fn why_unknown(&self) -> &'static str {
        match self.asked {
            true => "nothing was heard of them, or their realm is of a version before secrets",
            false => "no agent runs here that could have heard of them",
        }
    }
}

#[cfg(test)]
mod tests {
    use realm_model::key::SecretKey;
    use realm_model::sealing::Sealing;
    use realm_model::view::NodeView;
    use realm_node::sealing::SealingKey;
    use zeroize::Zeroizing;

    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn recipient(seed: u8) -> String {
        SealingKey::of_owner(&key(seed)).recipient()
    }

    /// A realm of the node `node-1`, whose key is that of 2.
    fn roster() -> Roster {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join(".realm");
        let owner = key(1);
        realm_node::found::found(realm_node::found::Founding {
            folder: folder.clone(),
            owner: &owner,
            owner_file: Zeroizing::new(format!("{}\n", owner.to_text().as_str())),
            node: &key(2),
            recovery: None,
            nonce: [3; 32],
            name: "node-1".parse().unwrap(),
            created_unix_s: 0,
        })
        .unwrap();
        let folder = realm_store::folder::RealmFolder::open(folder).unwrap();
        Roster {
            authority: realm_node::offline_authority(&folder).unwrap(),
            recipients: BTreeMap::new(),
            asked: true,
        }
    }

    fn view(name: &str, sealing: Option<Sealing>) -> NodeView {
        let text = format!(r#"{{"name":"{name}","key":null,"tags":[],"here":false}}"#);
        let view: NodeView = serde_json::from_str(&text).unwrap();
        NodeView { sealing, ..view }
    }

    #[test]
    fn a_recipient_counts_that_the_approved_key_signed_and_no_other() {
        let node: NodeName = "node-1".parse().unwrap();
        let realm = roster().authority.realm;
        let heard = |view: &NodeView| {
            let mut roster = roster();
            roster.hear(view);
            roster.recipient(&node).map(str::to_owned)
        };
        let own = Sealing::sign(realm, &key(2), recipient(5));
        assert_eq!(
            heard(&view("node-1", Some(own.clone()))),
            Some(recipient(5))
        );
        // A thief's, with a signature of the thief, of another node's, or of another realm.
        let thief = Sealing::sign(realm, &key(9), recipient(9));
        assert_eq!(heard(&view("node-1", Some(thief))), None);
        let elsewhere = realm_model::entry::RealmId::new(realm_model::digest::Digest::of(b"other"));
        let other = Sealing::sign(elsewhere, &key(2), recipient(5));
        assert_eq!(heard(&view("node-1", Some(other))), None);
        // The thief's in place of the one that was signed.
        let json = serde_json::to_string(&own).unwrap();
        let forged = json.replace(&recipient(5), &recipient(9));
        assert_ne!(forged, json);
        let forged = serde_json::from_str(&forged).unwrap();
        assert_eq!(heard(&view("node-1", Some(forged))), None);
        assert_eq!(heard(&view("node-1", None)), None);
        // A node that nobody approved gets nothing.
        assert_eq!(heard(&view("stranger", Some(own))), None);
    }
}
