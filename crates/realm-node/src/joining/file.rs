//! What a machine keeps while it waits to become a node: `join.json` in its realm folder. It holds
//! the ticket's voucher, so nobody else may read it; it goes when the node is a member.

use std::path::PathBuf;

use realm_model::entry::RealmId;
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_model::ticket::Ticket;
use realm_store::folder::{FolderError, RealmFolder, read_secret, write_atomic, write_secret};
use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::offers::KeptOffer;

/// What this version writes.
const FORMAT: u32 = 1;
/// The state of a machine that is no node yet.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinFile {
    /// [`FORMAT`].
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
            format: FORMAT,
            ticket: ticket.map(|ticket| ticket.to_text().to_string()),
            owner,
            offers: Vec::new(),
            tags,
        }
    }

    /// The realm of the ticket, and else that of an offer which is the only one.
    pub(crate) fn realm(&self) -> Option<RealmId> {
        match (self.ticket(), &self.offers[..]) {
            (Some(ticket), _) => Some(ticket.realm),
            (None, [offer]) => Some(offer.realm),
            (None, _) => None,
        }
    }

    /// The ticket.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        let ticket = self.ticket.as_deref()?.parse();
        Some(ticket.expect("it was written as a ticket, or read as one"))
    }

    /// Whether the machine of this folder waits to become a node.
    pub(crate) fn is_there(folder: &RealmFolder) -> bool {
        path(folder).is_file()
    }

    pub(crate) fn read(folder: &RealmFolder) -> Result<Self, JoinFileError> {
        let path = path(folder);
        let text = read_secret(&path)?;
        let read = serde_json::from_str(&text).and_then(Self::checked);
        read.map_err(|source| JoinFileError::Malformed { path, source })
    }

    /// A ticket that does not read is not as good as none: without one, any realm may take the machine.
    fn checked(self) -> Result<Self, serde_json::Error> {
        if self.format != FORMAT {
            let text = format!("format {}, this version reads {FORMAT}", self.format);
            return Err(serde_json::Error::custom(text));
        }
        if let Some(ticket) = &self.ticket {
            ticket
                .parse::<Ticket>()
                .map_err(serde_json::Error::custom)?;
        }
        Ok(self)
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

#[cfg(test)]
mod tests {
    use realm_model::address::NodeAddress;
    use realm_model::digest::Digest;
    use realm_model::entry::Head;

    use super::*;

    fn check(text: &str, expected: Result<bool, &str>) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = RealmFolder::create(temporary.path().join("realm")).unwrap();
        write_secret(&path(&folder), text.as_bytes()).unwrap();
        let read = JoinFile::read(&folder).map(|file| file.ticket().is_some());
        match (read, expected) {
            (Ok(invited), Ok(expected)) => assert_eq!(invited, expected, "{text}"),
            (Err(JoinFileError::Malformed { source, .. }), Err(part)) => {
                assert!(source.to_string().contains(part), "{source}");
            }
            (read, expected) => panic!("{read:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn what_does_not_read_is_not_taken_for_a_machine_without_a_ticket() {
        let realm = RealmId::new(Digest::of(b"genesis"));
        let address: NodeAddress = "/ip4/192.0.2.1/udp/4747/quic-v1".parse().unwrap();
        let ticket = Ticket {
            realm,
            floor: Head {
                seq: 0,
                hash: realm.origin().hash,
            },
            addresses: vec![address],
            voucher: None,
        };
        let text = ticket.to_text().to_string();
        check(&format!(r#"{{"format":1,"ticket":"{text}"}}"#), Ok(true));
        check(r#"{"format":1,"ticket":null}"#, Ok(false));
        let cut = &text[..text.len() - 1];
        check(
            &format!(r#"{{"format":1,"ticket":"{cut}"}}"#),
            Err("the ticket is incomplete"),
        );
        check(r#"{"format":2,"ticket":null}"#, Err("format 2"));
    }
}
