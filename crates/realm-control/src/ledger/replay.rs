//! The logs, folded: every record is checked as if it came from a stranger. A log only grows, so it
//! also holds what was abandoned since; that is left out. Not here: reading files.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head, NamespaceName, Opened, RealmId, VerifiedEntry};
use realm_model::refusal::{Refusal, RefusalCode};

use super::steps::Steps;
use super::{CheckError, Effect, Ledger};
use crate::authority::Verdict;
use crate::namespace::NamespaceState;

/// The records of each chain's log, in order; the authority chain's first one is the genesis.
pub type Logs = BTreeMap<ChainId, Vec<Vec<u8>>>;

/// What the logs say.
#[derive(Debug)]
pub struct Replayed {
    /// The state. No chain stands still yet: hold the kept proofs again ([`Ledger::hold`]).
    pub ledger: Ledger,
    /// Logs that do not count any longer.
    pub left_out: u64,
}

/// The logs do not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// There is no first entry.
    #[error("there is no genesis")]
    NoGenesis,
    /// A record is refused, and nothing explains why it is there.
    #[error("entry {index} of chain `{chain}` is refused")]
    Refused {
        /// The chain.
        chain: ChainId,
        /// Its place in the log, from 0.
        index: usize,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// The entry that the high-water mark vouches for is not in the log.
    #[error(
        "the log of chain `{chain}` does not hold the entry {seq} that its high-water mark vouches for"
    )]
    OtherThanMark {
        /// The chain.
        chain: ChainId,
        /// The sequence number.
        seq: u64,
    },
}

/// Where a record stands by its own word.
#[derive(Debug, Clone, Copy)]
struct Link {
    head: Head,
    prev: Digest,
    authority: Head,
}

impl Ledger {
    /// Folds the logs. `marks` are the entries that were in force last ([`Ledger::in_force`]): each
    /// must be in its log, and a chain that is below a fence goes on from there.
    pub fn replay(
        records: &Logs,
        marks: &BTreeMap<ChainId, Head>,
    ) -> Result<Replayed, ReplayError> {
        let mut ledger = replay_authority(records)?;
        let empty = Vec::new();
        let authority = records.get(&ChainId::Authority).unwrap_or(&empty);
        let mut left_out = authority.len() as u64 - 1 - ledger.authority.head.seq;
        for (chain, records) in records {
            let links = links(ledger.realm(), *chain, records)?;
            check_mark(&ledger, *chain, &links, marks.get(chain))?;
            if let ChainId::Namespace(name) = chain {
                let mark = marks.get(chain).copied();
                let kept = ledger.replay_wanted(*name, records, &links, mark)?;
                left_out += (records.len() - kept) as u64;
            }
        }
        Ok(Replayed { ledger, left_out })
    }

    /// Folds one namespace's records; returns how many count.
    fn replay_wanted(
        &mut self,
        name: NamespaceName,
        records: &[Vec<u8>],
        links: &[Link],
        mark: Option<Head>,
    ) -> Result<usize, ReplayError> {
        let chain = ChainId::Namespace(name);
        if !self.chains.contains_key(&chain) {
            return match records.is_empty() || !self.abandoned.is_empty() {
                // The delegation was abandoned, and the namespace with it.
                true => Ok(0),
                false => Err(refused(
                    chain,
                    0,
                    Refusal::new(RefusalCode::UnknownName, "there is no such namespace"),
                )),
            };
        }
        let branch = self.branch(name, links)?;
        let taken = self.fold(name, records, &branch)?;
        if let Some(mark) = mark
            && let Some(state) = self.still_in_force(name, records, links, mark)?
        {
            self.desired.set(name, state);
        }
        Ok(taken)
    }

    /// The records that make up the chain as it stands, by place and parent alone: without what is
    /// beside or beyond a fence, and what stands on that; below a fence the later one of two.
    fn branch(&self, name: NamespaceName, links: &[Link]) -> Result<Vec<usize>, ReplayError> {
        let chain = ChainId::Namespace(name);
        let mut branch: Vec<usize> = Vec::new();
        let mut out: BTreeSet<Digest> = BTreeSet::new();
        for (index, link) in links.iter().enumerate() {
            let verdict = self.authority.verdict(name, link.head, link.authority.seq);
            if verdict == Verdict::Abandoned
                || out.contains(&link.prev)
                || self.abandoned.contains(&link.authority.hash)
            {
                out.insert(link.head.hash);
                continue;
            }
            let depth = usize::try_from(link.head.seq.saturating_sub(1)).unwrap_or(usize::MAX);
            let hash_at = |seq: u64| match seq.checked_sub(1) {
                None => Some(self.realm().digest()),
                Some(at) => {
                    let index = branch.get(usize::try_from(at).ok()?)?;
                    Some(links[*index].head.hash)
                }
            };
            let follows = hash_at(depth as u64) == Some(link.prev);
            if !follows || depth > branch.len() {
                return Err(refused(chain, index, displaced(link, branch.len())));
            }
            if depth < branch.len() {
                let tip = branch.len() as u64;
                let pin = self.authority.pin_below(name, tip, hash_at);
                let settled = pin.is_some_and(|pin| link.head.seq <= pin.seq);
                if settled || verdict == Verdict::Free {
                    return Err(refused(chain, index, displaced(link, branch.len())));
                }
                let dropped = branch.split_off(depth);
                out.extend(dropped.iter().map(|index| links[*index].head.hash));
            }
            // It may have been dropped before: what came back counts again, and what follows it.
            out.remove(&link.head.hash);
            branch.push(index);
        }
        Ok(branch)
    }

    /// Takes the records of a branch into the state, from the origin on; returns how many.
    fn fold(
        &mut self,
        name: NamespaceName,
        records: &[Vec<u8>],
        branch: &[usize],
    ) -> Result<usize, ReplayError> {
        let chain = ChainId::Namespace(name);
        let origin = self.realm().origin();
        self.chains.insert(chain, Steps::from(origin));
        self.unsettled.remove(&name);
        self.desired.set(name, NamespaceState::nothing(origin));
        for (taken, index) in branch.iter().enumerate() {
            match self.check(chain, &records[*index], None) {
                Ok(admitted) => {
                    let applied = self.apply(admitted);
                    debug_assert!(!applied.rebuild, "a branch has no two of one place");
                }
                // What took the place of another below a fence was not checked in full then.
                Err(_) if self.is_below_fence(name) => return Ok(taken),
                Err(error) => return Err(refused(chain, *index, error.refusal())),
            }
        }
        Ok(branch.len())
    }

    fn is_below_fence(&self, name: NamespaceName) -> bool {
        let tip = self.head(ChainId::Namespace(name)).seq;
        let last = self.authority.fences_of(name).last();
        last.is_some_and(|last| tip < last.head.seq)
    }

    /// What was in force before, for as long as a fence leaves open which history holds.
    fn still_in_force(
        &self,
        name: NamespaceName,
        records: &[Vec<u8>],
        links: &[Link],
        mark: Head,
    ) -> Result<Option<NamespaceState>, ReplayError> {
        let chain = ChainId::Namespace(name);
        let index_of = |hash: Digest| links.iter().position(|link| link.head.hash == hash);
        let Some(marked) = index_of(mark.hash).filter(|_| self.is_below_fence(name)) else {
            return Ok(None);
        };
        let verdict = |link: &Link| {
            let place = link.head;
            self.authority.verdict(name, place, link.authority.seq)
        };
        if self.in_force(chain).seq >= mark.seq {
            return Ok(None);
        }
        let mut branch = vec![marked];
        while let Some(index) = branch.last().copied()
            && links[index].head.seq > 1
        {
            match index_of(links[index].prev) {
                Some(parent) => branch.push(parent),
                None => return Ok(None),
            }
        }
        if branch
            .iter()
            .any(|index| verdict(&links[*index]) == Verdict::Abandoned)
        {
            return Ok(None);
        }
        branch.reverse();
        let mut beside = self.clone();
        if beside.fold(name, records, &branch)? < branch.len() {
            return Ok(None);
        }
        Ok(Some(beside.state_of(name).clone()))
    }
}

/// Folds the authority chain: a recovery puts an end to what stood at its place.
fn replay_authority(records: &Logs) -> Result<Ledger, ReplayError> {
    let chain = ChainId::Authority;
    let empty = Vec::new();
    let records = records.get(&chain).unwrap_or(&empty);
    let Some(first) = records.first() else {
        return Err(ReplayError::NoGenesis);
    };
    let genesis =
        VerifiedEntry::genesis(first, None).map_err(|source| refused(chain, 0, source))?;
    let mut ledger = Ledger::found(genesis.clone());
    let links = links(ledger.realm(), chain, records)?;
    let mut kept: Vec<usize> = Vec::new();
    for index in 1..records.len() {
        let link = links[index];
        match ledger.check(chain, &records[index], None) {
            Ok(admitted) if matches!(admitted.effect, Effect::Replace) => {
                let depth = usize::try_from(link.head.seq - 1).unwrap_or(usize::MAX);
                let mut abandoned = std::mem::take(&mut ledger.abandoned);
                let dropped = kept.split_off(depth.min(kept.len()));
                abandoned.extend(dropped.iter().map(|index| links[*index].head.hash));
                kept.push(index);
                ledger = Ledger::found(genesis.clone());
                for index in &kept {
                    apply(&mut ledger, *index, &records[*index])?;
                }
                ledger.abandoned = abandoned;
            }
            Ok(admitted) => {
                let _ = ledger.apply(admitted);
                kept.push(index);
            }
            // Another recovery outweighs it, or it stands on what one ended.
            Err(error) => {
                let out = error.refusal().code == RefusalCode::Abandoned
                    || ledger.abandoned.contains(&link.prev);
                if !out {
                    return Err(refused(chain, index, error.refusal()));
                }
                ledger.abandoned.insert(link.head.hash);
            }
        }
    }
    Ok(ledger)
}

fn apply(ledger: &mut Ledger, index: usize, bytes: &[u8]) -> Result<(), ReplayError> {
    let chain = ChainId::Authority;
    let admitted = ledger
        .check(chain, bytes, None)
        .map_err(|error: CheckError| refused(chain, index, error.refusal()))?;
    let _ = ledger.apply(admitted);
    Ok(())
}

fn links(realm: RealmId, chain: ChainId, records: &[Vec<u8>]) -> Result<Vec<Link>, ReplayError> {
    let link = |bytes: &Vec<u8>| {
        let opened = Opened::open(bytes, realm, chain)?;
        let (head, prev, authority) = opened.claimed()?;
        Ok(Link {
            head,
            prev,
            authority,
        })
    };
    let records = records.iter().enumerate();
    records
        .map(|(index, bytes)| link(bytes).map_err(|source| refused(chain, index, source)))
        .collect()
}

fn check_mark(
    ledger: &Ledger,
    chain: ChainId,
    links: &[Link],
    mark: Option<&Head>,
) -> Result<(), ReplayError> {
    match mark {
        Some(mark)
            if *mark != ledger.realm().origin() && !links.iter().any(|link| link.head == *mark) =>
        {
            Err(ReplayError::OtherThanMark {
                chain,
                seq: mark.seq,
            })
        }
        Some(_) | None => Ok(()),
    }
}

fn displaced(link: &Link, length: usize) -> Refusal {
    Refusal::new(
        RefusalCode::WrongParent,
        format!(
            "entry {} does not follow the {length} entries before it",
            link.head.seq
        ),
    )
}

fn refused(chain: ChainId, index: usize, source: Refusal) -> ReplayError {
    ReplayError::Refused {
        chain,
        index,
        source,
    }
}
