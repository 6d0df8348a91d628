//! What a machine keeps while it waits to become a node: `join.json` in its realm folder. It holds
//! the ticket's voucher, so nobody else may read it; it goes when the node is a member.

use std::path::PathBuf;

use realm_model::entry::RealmId;
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_model::ticket::Ticket;
use realm_store::folder::{FolderError, RealmFolder, read_secret, write_atomic, write_secret};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Addresses that are kept of each realm that made an offer.
const ADDRESSES_MAX: usize = 8;
/// Realms that are asked at once: whoever reaches the port may make an offer.
const OFFERS_MAX: usize = 4;

/// The state of a machine that is no node yet.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinFile {
    /// 1.
    format: u32,
    /// The ticket, as text; none: it waits for an owner.
    ticket: Option<String>,
    /// With which owner alone it goes.
    #[serde(default)]
    pub(crate) owner: Option<PublicKey>,
    /// Realms that offered themselves, with the addresses of their members.
    #[serde(default)]
    pub(crate) offers: Vec<KeptOffer>,
    /// Tags that it proposes.
    #[serde(default)]
    pub(crate) tags: Vec<NodeName>,
}

/// A realm that would take the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptOffer {
    pub(crate) realm: RealmId,
    pub(crate) addresses: Vec<String>,
}

/// `join.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JoinFileError {
    /// It could not be read, written or removed.
    #[error("failed to use `join.json`")]
    Folder(#[from] FolderError),
    /// It could not be removed.
    #[error("failed to remove `{}`", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what this version writes.
    #[error("`{}` does not read", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl JoinFile {
    /// Of a machine that was invited, or waits for any owner, or for one.
    pub(crate) fn new(
        ticket: Option<&Ticket>,
        owner: Option<PublicKey>,
        tags: Vec<NodeName>,
    ) -> Self {
        Self {
            format: 1,
            ticket: ticket.map(|ticket| ticket.to_text().to_string()),
            owner,
            offers: Vec::new(),
            tags,
        }
    }

    /// The ticket.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.ticket.as_deref().and_then(|text| text.parse().ok())
    }

    /// Notes an offer; `false`: there is no room for another realm.
    pub(crate) fn offer(
        &mut self,
        realm: RealmId,
        addresses: impl Iterator<Item = String>,
    ) -> bool {
        let position = self.offers.iter().position(|offer| offer.realm == realm);
        let position = match position {
            Some(position) => position,
            None if self.offers.len() == OFFERS_MAX => return false,
            None => {
                self.offers.push(KeptOffer {
                    realm,
                    addresses: Vec::new(),
                });
                self.offers.len() - 1
            }
        };
        let kept = &mut self.offers[position].addresses;
        for address in addresses {
            if kept.len() < ADDRESSES_MAX && !kept.contains(&address) {
                kept.push(address);
            }
        }
        true
    }

    /// Whether the machine of this folder waits to become a node.
    pub(crate) fn is_there(folder: &RealmFolder) -> bool {
        path(folder).is_file()
    }

    pub(crate) fn read(folder: &RealmFolder) -> Result<Self, JoinFileError> {
        let path = path(folder);
        let text = read_secret(&path)?;
        serde_json::from_str(&text).map_err(|source| JoinFileError::Malformed { path, source })
    }

    pub(crate) fn write(&self, folder: &RealmFolder) -> Result<(), FolderError> {
        let text = Zeroizing::new(serde_json::to_vec_pretty(self).expect("texts are JSON"));
        let path = path(folder);
        if path.exists() {
            write_atomic(&path, &text)?;
        } else {
            write_secret(&path, &text)?;
        }
        Ok(())
    }

    /// Ends the waiting.
    pub(crate) fn remove(folder: &RealmFolder) -> Result<(), JoinFileError> {
        let path = path(folder);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(JoinFileError::Remove { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn path(folder: &RealmFolder) -> PathBuf {
    folder.root().join("join.json")
}
