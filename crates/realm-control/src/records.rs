//! The newest record of each approved node, and what is wrong with some of them.
//!
//! Records are ordered by their version alone, checked cheapest first, and shown only if they
//! read. A key that two machines use is noticed ([`Offered::Cloned`], [`Offered::Foreign`]); a
//! record that its node signed and that does not read, or that made a consumer panic, is
//! quarantined, and its node goes on with the record before it. Not here: who is approved (an
//! argument), who sent a record, files.

mod sift;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::digest::Digest;
use realm_model::entry::RealmId;
use realm_model::key::PublicKey;
use realm_model::record::{CLONED_KEY, Claim, KeyBytes, NodeRecord, RecordError, Version};
use realm_model::sync::{BUCKETS, Bucket, KNOWN_MAX, Known, PAGE_BYTES_MAX};

/// Approved nodes by the bytes of their keys.
pub type Members = BTreeMap<KeyBytes, PublicKey>;

/// The newest record of each approved node.
#[derive(Debug, Clone)]
pub struct Records {
    realm: RealmId,
    own: KeyBytes,
    held: BTreeMap<KeyBytes, Held>,
    /// The record before the newest: its node goes on with it when the newest is put aside.
    before: BTreeMap<KeyBytes, Held>,
    quarantined: BTreeMap<KeyBytes, Quarantined>,
    cloned: BTreeSet<KeyBytes>,
}

/// A record and its exact bytes.
#[derive(Debug, Clone)]
struct Held {
    record: Arc<NodeRecord>,
    bytes: Arc<[u8]>,
}

/// A record that is kept away from everybody who reads records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its version.
    pub version: Version,
    /// SHA-256 of its body.
    pub digest: Digest,
    /// Why, for a person.
    pub why: String,
}

/// What became of a record that somebody offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It is the newest of its node.
    Taken(PublicKey),
    /// Exactly this one is here.
    Known,
    /// A newer one is here.
    Older,
    /// It is of no node that is approved here (yet).
    Stranger,
    /// It may be news, and its signature was not to be checked.
    Unchecked,
    /// Two machines sign with this key: two records of one start differ, or two starts have one
    /// number. The newer one by [`Version`] counts.
    Cloned(PublicKey),
    /// It is signed with this node's own key, not by this start of the agent, and would count
    /// before this agent's record. It is not taken.
    Foreign(Version),
    /// It does not count, and its sender should have known.
    Refused(RecordError),
    /// Its node signed what does not read: quarantined.
    Poison(PublicKey),
}

impl Records {
    /// An empty table of the node with the key `own`.
    pub fn new(realm: RealmId, own: PublicKey) -> Self {
        Self::empty(realm, own.into())
    }

    const fn empty(realm: RealmId, own: KeyBytes) -> Self {
        Self {
            realm,
            own,
            held: BTreeMap::new(),
            before: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            cloned: BTreeSet::new(),
        }
    }

    /// Takes a record if it is the newest of an approved node. What is known, older or a
    /// stranger's costs a comparison; for anything else a signature is checked, if `may_check`.
    pub fn offer(&mut self, bytes: &[u8], members: &Members, may_check: bool) -> Offered {
        let opened = match NodeRecord::open(bytes, self.realm) {
            Ok(opened) => opened,
            Err(error) => return Offered::Refused(error),
        };
        let claim = opened.claim();
        // Nothing is verified for somebody who is not approved.
        let Some(key) = members.get(&claim.node).copied() else {
            return Offered::Stranger;
        };
        if let Some(standing) = self.standing(&claim) {
            return standing;
        }
        if !may_check {
            return Offered::Unchecked;
        }
        let record = match opened.verify(key) {
            Ok(record) => record,
            Err(RecordError::Poison(why)) => {
                self.put_aside(claim.node, claim.version, claim.digest, why);
                return Offered::Poison(key);
            }
            Err(error) => return Offered::Refused(error),
        };
        self.place(record, bytes)
    }

    /// Puts this node's own record into the table.
    pub fn set_own(&mut self, bytes: &[u8], key: PublicKey) -> Result<(), RecordError> {
        let record = NodeRecord::open(bytes, self.realm)?.verify(key)?;
        self.own = key.into();
        self.keep(record, bytes);
        Ok(())
    }

    /// The newest readable record of a node.
    pub fn get(&self, node: impl Into<KeyBytes>) -> Option<&Arc<NodeRecord>> {
        self.held.get(&node.into()).map(|held| &held.record)
    }

    /// The newest readable record of each node, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<NodeRecord>> {
        self.held.values().map(|held| &held.record)
    }

    /// Nodes of which a record stands aside, with the reason.
    pub const fn quarantined(&self) -> &BTreeMap<KeyBytes, Quarantined> {
        &self.quarantined
    }

    /// Keys that two machines use.
    pub const fn cloned(&self) -> &BTreeSet<KeyBytes> {
        &self.cloned
    }

    /// Puts a node's present record aside, since somebody who read it panicked, and goes on with the
    /// one before it, if there is one; the same record is not taken again, a newer one is. The caller
    /// keeps its bytes, which come back, and gives them to [`Records::keep_away`] after a restart.
    pub fn quarantine(&mut self, node: impl Into<KeyBytes>, why: &str) -> Option<Arc<[u8]>> {
        let node = node.into();
        let held = self.held.remove(&node)?;
        let record = &held.record;
        self.put_aside(node, record.version, record.digest, why.to_owned());
        if let Some(before) = self.before.remove(&node) {
            self.held.insert(node, before);
        }
        Some(held.bytes)
    }

    /// Keeps away a record that was put aside before a restart; returns whose it is.
    pub fn keep_away(&mut self, bytes: &[u8], why: &str) -> Result<KeyBytes, RecordError> {
        let opened = NodeRecord::open(bytes, self.realm)?;
        let claim = opened.claim();
        // Its version would hold up all records up to there. The body is what is not to be read.
        let node = PublicKey::from_bytes(*claim.node.as_bytes());
        opened.is_signed_by(node.map_err(|_| RecordError::BadSignature)?)?;
        self.put_aside(claim.node, claim.version, claim.digest, why.to_owned());
        Ok(claim.node)
    }

    /// Forgets everything of nodes that are not approved any longer.
    pub fn purge(&mut self, members: &Members) {
        self.held
            .retain(|node, _| members.contains_key(node) || *node == self.own);
        self.before.retain(|node, _| members.contains_key(node));
        self.quarantined
            .retain(|node, _| members.contains_key(node));
        self.cloned.retain(|node| members.contains_key(node));
    }

    /// A digest per group of nodes of which something is known.
    pub fn buckets(&self) -> Vec<Bucket> {
        let mut groups: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for known in self.versions() {
            let group = groups.entry(bucket_of(known.key)).or_default();
            group.extend_from_slice(known.key.as_bytes());
            for part in [
                known.version.epoch,
                known.version.boot,
                known.version.counter,
            ] {
                group.extend_from_slice(&part.to_le_bytes());
            }
        }
        let digest = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            <[u8; 16]>::try_from(&digest.as_bytes()[..16]).expect("16 of 32 bytes")
        };
        let bucket = |(index, bytes): (u8, Vec<u8>)| Bucket {
            index,
            digest: digest(&bytes).into(),
        };
        groups.into_iter().map(bucket).collect()
    }

    /// SHA-256 of the digests of all groups.
    pub fn digest(&self) -> Digest {
        let all = self.buckets().into_iter().flat_map(|bucket| {
            let digest: [u8; 16] = bucket.digest.into();
            digest.into_iter().chain([bucket.index])
        });
        Digest::of(&all.collect::<Vec<u8>>())
    }

    /// The groups in which `theirs` differs from `ours` and has something, a bit each. A group
    /// that only one side has counts.
    pub fn differing(ours: &[Bucket], theirs: &[Bucket]) -> u64 {
        let ours: BTreeMap<u8, Bucket> = ours.iter().map(|b| (b.index, *b)).collect();
        let differs = |bucket: &&Bucket| ours.get(&bucket.index) != Some(*bucket);
        let bit = |bucket: &Bucket| 1u64 << (bucket.index % BUCKETS);
        theirs.iter().filter(differs).map(bit).fold(0, |a, b| a | b)
    }

    /// What is known of the groups in `buckets`.
    pub fn known(&self, buckets: u64) -> Vec<Known> {
        let asked = |known: &Known| buckets & (1u64 << bucket_of(known.key)) != 0;
        self.versions().filter(asked).take(KNOWN_MAX).collect()
    }

    /// Records of the groups in `buckets` that are newer than `known`, up to a page. The rest
    /// comes with the next question.
    pub fn newer(&self, buckets: u64, known: &[Known]) -> Vec<Vec<u8>> {
        let known: BTreeMap<KeyBytes, Version> = known.iter().map(|k| (k.key, k.version)).collect();
        let mut bytes = 0;
        let mut page = Vec::new();
        for (node, held) in &self.held {
            let asked = buckets & (1u64 << bucket_of(*node)) != 0;
            let newer = known
                .get(node)
                .is_none_or(|version| *version < held.record.version);
            if !asked || !newer {
                continue;
            }
            bytes += held.bytes.len();
            if bytes > PAGE_BYTES_MAX && !page.is_empty() {
                break;
            }
            page.push(held.bytes.to_vec());
        }
        page
    }

    /// What can be said of a claim without its signature; nothing if it would be news.
    fn standing(&self, claim: &Claim) -> Option<Offered> {
        let same =
            |version: Version, digest: Digest| version == claim.version && digest == claim.digest;
        let aside = self.quarantined.get(&claim.node);
        if aside.is_some_and(|aside| same(aside.version, aside.digest)) {
            return Some(Offered::Known);
        }
        let held = &self.held.get(&claim.node)?.record;
        if same(held.version, held.digest) {
            return Some(Offered::Known);
        }
        let older = claim.version < held.version;
        // Of one start a late record is usual; of two starts with one number it never is.
        let one_start =
            (claim.version.epoch, claim.version.boot) == (held.version.epoch, held.version.boot);
        let usual = one_start || claim.version.epoch < held.version.epoch;
        let told = claim.node != self.own && self.cloned.contains(&claim.node);
        (older && (usual || told)).then_some(Offered::Older)
    }

    fn place(&mut self, record: NodeRecord, bytes: &[u8]) -> Offered {
        let node = KeyBytes::from(record.node);
        let key = record.node;
        let version = record.version;
        // `standing` let nothing pass that is plainly older than what is held.
        if node == self.own {
            return match self.held.get(&node) {
                Some(held) if version.epoch < held.record.version.epoch => Offered::Older,
                Some(_) | None => Offered::Foreign(version),
            };
        }
        let Some(held) = self.held.get(&node) else {
            self.keep(record, bytes);
            return Offered::Taken(key);
        };
        let held = held.record.version;
        if version > held {
            self.keep(record, bytes);
        }
        if version == held || (version.epoch == held.epoch && version.boot != held.boot) {
            self.cloned.insert(node);
            return Offered::Cloned(key);
        }
        Offered::Taken(key)
    }

    fn keep(&mut self, record: NodeRecord, bytes: &[u8]) {
        let node = KeyBytes::from(record.node);
        let aside = self.quarantined.get(&node);
        if aside.is_some_and(|aside| aside.version < record.version) {
            self.quarantined.remove(&node);
        }
        // A later start that says nothing of it: the copy is gone, or only a disk was set back.
        let later = |held: &Held| held.record.version.epoch < record.version.epoch;
        let told = record.body.alarms.iter().any(|a| a.code == CLONED_KEY);
        if self.held.get(&node).is_some_and(later) && !told {
            self.cloned.remove(&node);
        }
        let record = Arc::new(record);
        let bytes = bytes.into();
        let before = self.held.insert(node, Held { record, bytes });
        if let Some(before) = before.filter(|_| node != self.own) {
            self.before.insert(node, before);
        }
    }

    fn put_aside(&mut self, node: KeyBytes, version: Version, digest: Digest, why: String) {
        let newest = self.quarantined.get(&node).map(|aside| aside.version);
        if newest.is_none_or(|newest| newest <= version) {
            let aside = Quarantined {
                version,
                digest,
                why,
            };
            self.quarantined.insert(node, aside);
        }
    }

    /// The newest version of each node, quarantined ones included: they need not be sent again.
    fn versions(&self) -> impl Iterator<Item = Known> {
        let mut newest: BTreeMap<KeyBytes, Version> = self
            .held
            .iter()
            .map(|(node, held)| (*node, held.record.version))
            .collect();
        for (node, aside) in &self.quarantined {
            let version = newest.entry(*node).or_insert(aside.version);
            *version = aside.version.max(*version);
        }
        newest
            .into_iter()
            .map(|(key, version)| Known { key, version })
    }
}

/// Keys are points of a curve and evenly spread: their first bits are as good as a hash.
fn bucket_of(key: KeyBytes) -> u8 {
    key.as_bytes()[0] % BUCKETS
}
