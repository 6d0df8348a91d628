//! Where the other nodes were met last, and where the operator said that one is: kept in the realm
//! folder, so that a restarted node finds its realm without anybody's help. Hints, never trusted:
//! who answers at an address proves its key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use realm_model::key::PublicKey;
use realm_store::folder::{FolderError, RealmFolder, read_small, write_atomic};
use serde::{Deserialize, Serialize};

/// Addresses per node: more than a machine with several networks has.
const ADDRESSES_MAX: usize = 8;
/// Addresses that the operator named.
const NAMED_MAX: usize = 64;
/// Nodes that are remembered, as many as a realm may have.
const NODES_MAX: usize = 10_000;
/// The longest address: a DNS name has at most 253 characters, a key some 60.
const ADDRESS_BYTES_MAX: usize = 512;
/// The file: every node with eight addresses of a common length.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The address book of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Book {
    /// 1.
    format: u32,
    /// Addresses that the operator named (`realm peer add`, a ticket).
    named: BTreeSet<String>,
    /// Node key → addresses, the newest first.
    nodes: BTreeMap<PublicKey, Vec<String>>,
}

/// The book, and where it is kept.
#[derive(Debug)]
pub(crate) struct KeptBook {
    path: PathBuf,
    book: Book,
    saved: Book,
}

impl Book {
    /// Notes an address that the operator named; `false`: the book is full.
    pub(crate) fn name(&mut self, address: &str) -> bool {
        let fits = self.named.contains(address)
            || (self.named.len() < NAMED_MAX && address.len() <= ADDRESS_BYTES_MAX);
        if fits {
            self.named.insert(address.to_owned());
        }
        fits
    }

    /// Notes one more address of a node, to be tried first.
    pub(crate) fn add(&mut self, node: PublicKey, address: String) {
        let mut addresses = vec![address];
        addresses.extend(self.nodes.get(&node).into_iter().flatten().cloned());
        self.learn(node, &addresses);
    }

    /// Replaces what is known of a node; nothing is as good as no news.
    ///
    /// Returns whether that is another thing than before.
    pub(crate) fn learn(&mut self, node: PublicKey, addresses: &[String]) -> bool {
        let mut kept: Vec<String> = Vec::new();
        for address in addresses.iter().filter(|a| a.len() <= ADDRESS_BYTES_MAX) {
            if kept.len() < ADDRESSES_MAX && !kept.contains(address) {
                kept.push(address.clone());
            }
        }
        let room = self.nodes.contains_key(&node) || self.nodes.len() < NODES_MAX;
        if kept.is_empty() || !room || self.nodes.get(&node) == Some(&kept) {
            return false;
        }
        self.nodes.insert(node, kept);
        true
    }

    /// Forgets nodes that do not belong to the realm.
    pub(crate) fn retain(&mut self, belongs: impl Fn(&PublicKey) -> bool) {
        self.nodes.retain(|node, _| belongs(node));
    }

    /// Addresses that the operator named.
    pub(crate) fn named(&self) -> impl Iterator<Item = &String> {
        self.named.iter()
    }

    /// What is known of each node.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&PublicKey, &Vec<String>)> {
        self.nodes.iter()
    }
}

impl KeptBook {
    /// Reads the book; one that is missing or does not read is an empty one, and is told.
    pub(crate) fn open_in(folder: &RealmFolder) -> Self {
        Self::open(folder.root().join("peers.json"))
    }

    fn open(path: PathBuf) -> Self {
        let read = match read_small(&path, FILE_BYTES_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Err(FolderError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(Book::default())
            }
            Err(error) => Err(error.to_string()),
        };
        let book = read.unwrap_or_else(|reason| {
            tracing::warn!(
                path = %path.display(),
                reason,
                "the address book does not read; `realm peer add ADDRESS` names a node anew"
            );
            Book::default()
        });
        Self {
            path,
            saved: book.clone(),
            book,
        }
    }

    pub(crate) const fn book(&self) -> &Book {
        &self.book
    }

    pub(crate) fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Writes the book if it changed. A book that cannot be written is told and tried again.
    pub(crate) fn save(&mut self) {
        self.book.format = 1;
        if self.book == self.saved {
            return;
        }
        let bytes = serde_json::to_vec(&self.book).expect("a book of texts is JSON");
        match write_atomic(&self.path, &bytes) {
            Ok(()) => self.saved = self.book.clone(),
            Err(error) => {
                let reason = crate::error::with_causes(&error);
                tracing::warn!(reason, "the address book could not be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use realm_model::key::SecretKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed(&[seed; 32]).public()
    }

    #[test]
    fn a_book_reads_back_and_a_damaged_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.json");
        let mut kept = KeptBook::open(path.clone());
        assert!(kept.book_mut().name("/ip4/192.0.2.1/udp/4747/quic-v1"));
        kept.book_mut()
            .learn(key(1), &["/ip4/192.0.2.2/tcp/4747".to_owned()]);
        kept.save();
        let again = KeptBook::open(path.clone());
        assert_eq!(again.book(), kept.book());
        assert_eq!(again.book().named().count(), 1);
        std::fs::write(&path, b"{").unwrap();
        assert_eq!(KeptBook::open(path).book(), &Book::default());
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = Book::default();
        for number in 0..NAMED_MAX {
            assert!(book.name(&format!("/ip4/192.0.2.1/tcp/{number}")));
        }
        assert!(!book.name("/ip4/192.0.2.2/tcp/1"));
        assert!(book.name("/ip4/192.0.2.1/tcp/0"), "known already");
        let many: Vec<String> = (0..100)
            .map(|port| format!("/ip4/192.0.2.1/tcp/{port}"))
            .collect();
        book.learn(key(1), &many);
        book.learn(key(1), &[]);
        book.learn(key(2), &["x".repeat(ADDRESS_BYTES_MAX + 1)]);
        let nodes: Vec<_> = book.nodes().collect();
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].1, &many[..ADDRESSES_MAX]);
        book.retain(|node| *node != key(1));
        assert_eq!(book.nodes().count(), 0);
    }
}
