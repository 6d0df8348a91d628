//! A node with an approved key that obeys no rule: it replays, forges, floods, holds back.

use std::sync::Arc;

use realm_model::beacon::Beacon;
use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head, Payload};
use realm_model::sync::{Answer, Hint, Request, Summary};

use super::World;
use crate::testing::{key, restart};

/// Hints of one flood.
const FLOOD: usize = 20;

impl World {
    /// Says something to everybody that it is connected with.
    pub(super) fn lie(&mut self, i: usize) {
        let to: Vec<usize> = (0..self.nodes.len())
            .filter(|to| self.nodes[*to].links.contains(&i))
            .collect();
        let n = if self.random.below(10) == 0 { FLOOD } else { 1 };
        for _ in 0..n {
            let bytes: Arc<[u8]> = self.false_hint(i).into();
            let number = self.next_number();
            for to in &to {
                self.hint_to(i, *to, number, &bytes);
            }
        }
        if let Some(to) = to.first() {
            let ask = self.next_number();
            let bytes = self.false_request();
            self.request(i, *to, ask, bytes);
        }
    }

    /// Answers a question.
    pub(super) fn lie_to(&mut self, i: usize, to: usize, ask: u64) {
        let fake = self.fake_head();
        let heads = vec![fake.of(ChainId::Authority), fake.of(ChainId::DEFAULT)];
        let junk = || vec![vec![0x85; 40]; 3];
        let answer = match self.random.below(9) {
            0 => vec![1, 1, 0xff],
            1 => Answer::Summary(Summary {
                heads,
                ..Summary::default()
            })
            .to_bytes(),
            2 => Answer::Summary(Summary::default()).to_bytes(),
            3 => Answer::Entries(junk()).to_bytes(),
            4 => Answer::Records(junk()).to_bytes(),
            5 => Answer::Entries(Vec::new()).to_bytes(),
            6 => Answer::Busy { retry_ms: u32::MAX }.to_bytes(),
            7 => Answer::Beacon(Some(self.false_beacon(i))).to_bytes(),
            _ => return,
        };
        self.reply(i, to, ask, answer);
    }

    fn false_hint(&mut self, i: usize) -> Vec<u8> {
        let heard = usize::try_from(self.random.below(40)).expect("small");
        let heard = self.pool.get(heard).map(|bytes| bytes.to_vec());
        let fake = self.fake_head();
        match (self.random.below(8), heard) {
            (0 | 1, Some(replayed)) => replayed,
            (2, Some(mut flipped)) => {
                let at = self.random.below(flipped.len() as u64 * 8);
                let at = usize::try_from(at).expect("small");
                flipped[at / 8] ^= 1 << (at % 8);
                flipped
            }
            (3, _) => Hint::Heads {
                by: self.key(i).into(),
                heads: vec![fake.of(ChainId::DEFAULT)],
                forks: Vec::new(),
                records: Some(fake.hash),
            }
            .to_bytes(),
            (4, _) => self.forged(fake.seq),
            (5, _) => self.forged(u64::MAX),
            (6, _) => Hint::Beacon(self.false_beacon(i)).to_bytes(),
            _ => vec![0xee; 30],
        }
    }

    /// An entry that a node signed as if it were an owner.
    fn forged(&mut self, seq: u64) -> Vec<u8> {
        let chain = ChainId::DEFAULT;
        let payload = Payload {
            seq,
            ..self.realm.payload(restart("orders", &[]))
        };
        let bytes = payload.sign(self.realm.ledger.realm(), chain, &key("thief"));
        let hash = Digest::of(&bytes);
        Hint::Entry {
            at: Head { seq, hash }.of(chain),
            bytes,
        }
        .to_bytes()
    }

    /// A beacon that nobody asked this node to sign.
    fn false_beacon(&self, i: usize) -> Vec<u8> {
        let realm = self.realm.ledger.realm();
        Beacon::sign(realm, &self.nodes[i].key, u64::MAX, 0, Vec::new())
    }

    fn false_request(&mut self) -> Vec<u8> {
        let chain = ChainId::DEFAULT;
        match self.random.below(5) {
            0 => vec![1, 77, 0x80],
            1 => vec![9, 1, 0x80],
            2 => vec![1, 3, 0xff],
            3 => Request::Entries {
                chain,
                from: u64::MAX,
                bytes_max: u32::MAX,
            }
            .to_bytes(),
            _ => Request::Hashes {
                chain,
                from: u64::MAX,
                step: u64::MAX,
                count: 1_024,
            }
            .to_bytes(),
        }
    }

    fn fake_head(&mut self) -> Head {
        let ahead = self.random.below(4);
        let seq = self.realm.ledger.head(ChainId::DEFAULT).seq + ahead;
        let hash = Digest::of(&self.random.next().to_le_bytes());
        Head { seq, hash }
    }
}
