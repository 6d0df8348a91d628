//! Who waits to be let in: the requests of machines that no owner has approved, bounded whatever
//! strangers do.
//!
//! Pure: the key is that of the connection, the origin is where it comes from, time is an
//! argument. Nothing is durable: who waits asks again. Not here: who is a member (the ledger
//! knows), and approving, which is an entry that an owner signs.
//!
//! **Who goes when the list is full.** First who has not asked for [`SILENT_MS`]. Then the network
//! with the most places gives its newest one to a network that would still have fewer. So
//! strangers cannot push out the first request of any other network while it keeps asking, and one
//! network cannot fill the list against others, though it may use every place that nobody wants.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use realm_model::entry::RealmId;
use realm_model::join::{Ask, JoinCode, Refused};
use realm_model::key::{PublicKey, WORDS, is_word};
use realm_model::name::NodeName;
use realm_model::observed::Millis;
use realm_model::ticket::Voucher;

use crate::bucket::{Bucket, Rate};

/// Requests that are listed at once: what a person can look through.
pub const PENDING_MAX: usize = 64;
/// After this time without a word a request is forgotten.
pub const PENDING_TTL_MS: u64 = 24 * 60 * 60 * 1_000;
/// Who waits asks again after this time.
pub const RETRY_AFTER_S: u32 = 5;
/// After this time without a word a request gives its place to another: it missed a hundred times.
pub const SILENT_MS: u64 = 10 * 60 * 1_000;
/// Requests of nodes that this node reports in its record: 16 of them fit beside all else.
pub const REPORTED_MAX: usize = 16;

/// New keys of one network: a rack of 64 machines may come at once.
const NEW_PER_NETWORK: Rate = Rate {
    burst: 64,
    per_ms: 10_000,
};
/// New keys of all networks.
const NEW_TOTAL: Rate = Rate {
    burst: 256,
    per_ms: 1_000,
};
/// Requests of one network, repeated ones included: 64 nodes ask every five seconds.
const ASKS_PER_NETWORK: Rate = Rate {
    burst: 256,
    per_ms: 50,
};
/// Requests of all networks: each costs some microseconds here, and the answer some hundred bytes.
const ASKS_TOTAL: Rate = Rate {
    burst: 1_024,
    per_ms: 10,
};
/// Networks that are counted apart; further ones share one count.
const NETWORKS_MAX: usize = 1_024;

/// The requests that wait.
#[derive(Debug, Clone, Default)]
pub struct Pending {
    joins: BTreeMap<PublicKey, Join>,
    asked: u64,
    networks: BTreeMap<Network, Counts>,
    others: Counts,
    total: Counts,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The key of the connection.
    pub key: PublicKey,
    /// What it says of itself.
    pub ask: Ask,
    /// Where it comes from; `None`: through a relay.
    pub origin: Option<IpAddr>,
    /// When it asked first.
    pub first: Millis,
    /// When it asked last.
    pub last: Millis,
    // Breaks ties of `first`: the order of arrival.
    number: u64,
}

/// Why an argument of `realm nodes approve` names no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Nobody with this name, words or key waits.
    #[error("nobody who waits is `{0}`")]
    Unknown(String),
    /// Nobody who waits has a key with these words.
    #[error("nobody who waits has the words `{0}`")]
    UnknownWords(String),
    /// Several keys claim the name.
    #[error("{} requests claim the name `{name}`: {}", words.len(), words.join("; "))]
    SameName {
        /// The name.
        name: NodeName,
        /// The words of each.
        words: Vec<String>,
    },
}

impl SelectError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) | Self::UnknownWords(_) => "unknown-name",
            Self::SameName { .. } => "name-not-unique",
        }
    }

    /// What to do next.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "`realm nodes ls` lists who waits",
            Self::UnknownWords(_) => {
                "read them again, then look at `realm nodes ls`: a machine with other words is another one"
            }
            Self::SameName { .. } => {
                "approve by the six words that the machine itself shows: `realm nodes approve WORDS`"
            }
        }
    }
}

/// Addresses of one site: whoever has one address of these often has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Network {
    Relayed,
    /// The first 24 bits.
    V4([u8; 3]),
    /// The first 48 bits.
    V6([u8; 6]),
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    new: Bucket,
    asks: Bucket,
}

impl Pending {
    /// Takes a request; `Ok` says whether it was not listed before.
    pub fn ask(
        &mut self,
        key: PublicKey,
        ask: Ask,
        origin: Option<IpAddr>,
        now: Millis,
    ) -> Result<bool, Refused> {
        self.expire(now);
        let network = Network::of(origin);
        let listed = self.joins.get(&key);
        self.count(network, listed.is_none(), now)?;
        if let Some(join) = self.joins.get_mut(&key) {
            (join.ask, join.origin, join.last) = (ask, origin, now);
            return Ok(false);
        }
        if self.joins.len() >= PENDING_MAX {
            self.make_room(network, now)?;
        }
        let number = self.asked;
        self.asked += 1;
        let join = Join {
            key,
            ask,
            origin,
            first: now,
            last: now,
            number,
        };
        self.joins.insert(key, join);
        Ok(true)
    }

    /// Takes a request off the list, once its key is approved or revoked.
    pub fn settle(&mut self, key: &PublicKey) -> Option<Join> {
        self.joins.remove(key)
    }

    /// Forgets who has not asked for [`PENDING_TTL_MS`].
    pub fn expire(&mut self, now: Millis) {
        self.joins
            .retain(|_, join| silent_ms(join, now) < PENDING_TTL_MS);
    }

    /// Everybody who waits: the first request of each network in the order of arrival, then the
    /// second ones. So a flood from one place stands behind the others' requests.
    pub fn list(&self) -> Vec<&Join> {
        let mut joins: Vec<&Join> = self.joins.values().collect();
        joins.sort_by_key(|join| join.number);
        let mut ranks: BTreeMap<Network, usize> = BTreeMap::new();
        let mut ranked: Vec<(usize, &Join)> = joins
            .into_iter()
            .map(|join| {
                let rank = ranks.entry(Network::of(join.origin)).or_default();
                *rank += 1;
                (*rank, join)
            })
            .collect();
        // Stable: within a rank the order of arrival stays.
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, join)| join).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.joins.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.joins.is_empty()
    }

    /// Those whose proof shows that they were given this voucher.
    pub fn vouched(&self, voucher: &Voucher, realm: RealmId) -> Vec<&Join> {
        let proves = |join: &&Join| {
            let proof = join.ask.proof.as_ref();
            proof.is_some_and(|proof| voucher.vouches(realm, &join.key, proof))
        };
        self.list().into_iter().filter(proves).collect()
    }

    fn count(&mut self, network: Network, new: bool, now: Millis) -> Result<(), Refused> {
        if !self.networks.contains_key(&network) && self.networks.len() >= NETWORKS_MAX {
            // A count that is full again says nothing.
            self.networks.retain(|_, counts| !counts.is_full(now));
        }
        let room = self.networks.len() < NETWORKS_MAX || self.networks.contains_key(&network);
        let near = if room {
            self.networks.entry(network).or_default()
        } else {
            &mut self.others
        };
        let mut waits_ms = vec![
            near.asks.take(ASKS_PER_NETWORK, now),
            self.total.asks.take(ASKS_TOTAL, now),
        ];
        if new {
            waits_ms.push(near.new.take(NEW_PER_NETWORK, now));
            // A network that is over its own rate uses nothing up of the others'.
            if waits_ms.iter().all(Option::is_none) {
                waits_ms.push(self.total.new.take(NEW_TOTAL, now));
            }
        }
        match waits_ms.into_iter().flatten().max() {
            None => Ok(()),
            Some(wait_ms) => Err(Refused::new(
                JoinCode::TooMany,
                "too many requests came of late",
                Some(seconds(wait_ms)),
            )),
        }
    }

    fn make_room(&mut self, network: Network, now: Millis) -> Result<(), Refused> {
        let silent = self
            .joins
            .values()
            .filter(|join| silent_ms(join, now) >= SILENT_MS)
            .min_by_key(|join| (join.last, join.number))
            .map(|join| join.key);
        let Some(key) = silent.or_else(|| self.newest_of_the_largest(network)) else {
            return Err(Refused::new(
                JoinCode::ListFull,
                format!("{PENDING_MAX} machines wait to be approved already"),
                Some(RETRY_AFTER_S),
            ));
        };
        self.joins.remove(&key);
        Ok(())
    }

    fn newest_of_the_largest(&self, network: Network) -> Option<PublicKey> {
        let mut sizes: BTreeMap<Network, usize> = BTreeMap::new();
        for join in self.joins.values() {
            *sizes.entry(Network::of(join.origin)).or_default() += 1;
        }
        let own = sizes.get(&network).copied().unwrap_or(0);
        let (largest, size) = sizes
            .iter()
            .max_by_key(|(network, size)| (**size, Reverse(**network)))?;
        // With less of a difference two networks would take the place from each other in turn.
        if *size < own + 2 {
            return None;
        }
        self.joins
            .values()
            .filter(|join| Network::of(join.origin) == *largest)
            .max_by_key(|join| join.number)
            .map(|join| join.key)
    }
}

/// What the arguments of `realm nodes approve` mean among those who wait (here and as other nodes
/// report): each a name, a key, or six words in one argument or in six. The answer are places in
/// `claims`, each once.
pub fn select(
    claims: &[(NodeName, PublicKey)],
    arguments: &[String],
) -> Result<Vec<usize>, SelectError> {
    let words: Vec<String> = claims
        .iter()
        .map(|(_, key)| key.words().join(" "))
        .collect();
    let mut selected = Vec::new();
    let mut rest = arguments;
    while let Some(first) = rest.first() {
        let spoken = [WORDS, 1].into_iter().find_map(|taken| {
            let six = six_words(rest.get(..taken)?)?;
            Some((six, taken))
        });
        let (place, taken) = match spoken {
            Some((six, taken)) => {
                let place = words.iter().position(|words| *words == six);
                (place.ok_or(SelectError::UnknownWords(six))?, taken)
            }
            None => (select_one(claims, first)?, 1),
        };
        if !selected.contains(&place) {
            selected.push(place);
        }
        rest = &rest[taken..];
    }
    Ok(selected)
}

/// Six words as people write them, if that is what these arguments are.
///
/// They are never taken for names: whoever compared words must not approve a machine that calls
/// itself after them.
fn six_words(arguments: &[String]) -> Option<String> {
    let spoken = arguments.join(" ").to_lowercase().replace('-', " ");
    let words: Vec<&str> = spoken.split_whitespace().collect();
    let are_words = words.len() == WORDS && words.iter().all(|word| is_word(word));
    are_words.then(|| words.join(" "))
}

fn select_one(claims: &[(NodeName, PublicKey)], argument: &str) -> Result<usize, SelectError> {
    let by_key = claims
        .iter()
        .position(|(_, key)| key.to_string() == argument);
    if let Some(place) = by_key {
        return Ok(place);
    }
    let named: Vec<usize> = (0..claims.len())
        .filter(|place| claims[*place].0.as_str() == argument)
        .collect();
    let mut keys: Vec<PublicKey> = named.iter().map(|place| claims[*place].1).collect();
    keys.sort();
    keys.dedup();
    match (named.first(), keys.len()) {
        (Some(place), 1) => Ok(*place),
        (Some(place), _) => Err(SelectError::SameName {
            name: claims[*place].0.clone(),
            words: keys.iter().map(|key| key.words().join(" ")).collect(),
        }),
        (None, _) => Err(SelectError::Unknown(realm_model::text::one_line(
            argument, 80,
        ))),
    }
}

impl Network {
    fn of(origin: Option<IpAddr>) -> Self {
        match origin.map(|ip| ip.to_canonical()) {
            None => Self::Relayed,
            Some(IpAddr::V4(ip)) => Self::V4(first(Ipv4Addr::octets(&ip))),
            Some(IpAddr::V6(ip)) => Self::V6(first(Ipv6Addr::octets(&ip))),
        }
    }
}

fn first<const ALL: usize, const FIRST: usize>(octets: [u8; ALL]) -> [u8; FIRST] {
    std::array::from_fn(|at| octets[at])
}

impl Counts {
    fn is_full(&self, now: Millis) -> bool {
        self.new.is_full(now) && self.asks.is_full(now)
    }
}

fn silent_ms(join: &Join, now: Millis) -> u64 {
    now.0.saturating_sub(join.last.0)
}

fn seconds(wait_ms: u64) -> u32 {
    u32::try_from(wait_ms.div_ceil(1_000))
        .unwrap_or(u32::MAX)
        .max(1)
}

#[cfg(test)]
mod tests;
