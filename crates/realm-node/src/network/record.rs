//! What this node says of itself, and when: the body of its record.

use realm_control::Ledger;
use realm_control::pending::REPORTED_MAX;
use realm_model::entry::ChainId;
use realm_model::observed::Millis;
use realm_model::record::{
    Alarm, CLONED_KEY, ChainFork, ChainHead, ComponentSummary, Load, Machine, NodeBody, NodeRecord,
    PeerLink, PendingJoin, RefusalCount, STALE, UPGRADE_NEEDED,
};
use realm_model::view::{ComponentState, StatusView};

use super::{Network, random};

/// After a change of substance the others hear of it this late at most: changes come in crowds.
const CHANGED_MS: u64 = 300;
/// For each node of the realm, between two records of one node: what happens to many at once, such as
/// a start of all machines, makes each of them say something else every moment, and what each says
/// goes to all.
const CHANGED_EACH_MS: u64 = 20;
/// In a realm of so many nodes all have connections to all: what changes is told at once.
const FULL_MESH_MEMBERS: usize = 24;
/// However large the realm is.
const CHANGED_MS_MAX: u64 = 5_000;
/// For each node of a realm that is no full mesh, between two records of one node that differ only in
/// the entries that it has: every entry changes those of all nodes, and concerns few of them.
const HEADS_EACH_MS: u64 = 60;
/// However large it is.
const HEADS_MS_MAX: u64 = 30_000;
/// After this time figures that move all the time are told anew, in a realm of up to 25 nodes.
const FIGURES_MS: u64 = 15_000;
/// For each node of a larger one, so that no more than some two records per second go round: each
/// comes to every node several times over, with a signature to check each time.
const FIGURES_EACH_MS: u64 = 600;
/// However large it is.
const FIGURES_MS_MAX: u64 = 300_000;

/// What the record takes from the rest of the node.
pub(crate) struct Facts<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) status: &'a StatusView,
    pub(crate) machine: Machine,
    pub(crate) load: Load,
    pub(crate) blobs: Vec<realm_model::digest::Digest>,
    pub(crate) tags: &'a [String],
}

impl Network {
    /// The bytes of a new record, if there is something to say.
    pub(crate) fn record(&mut self, facts: &Facts<'_>, now: Millis) -> Option<Vec<u8>> {
        let body = self.body(facts, now).fit();
        self.changed = false;
        self.changed_at = None;
        self.looked_at = now;
        self.heads_at = None;
        let members = self.sync.members().len();
        self.lag_ms = random() % (lag_ms_max(members) + 1);
        if let Some((said, at)) = &self.said {
            let since = now.since(*at);
            let (said, news) = (steady(said), steady(&body));
            if since < figures_ms(members) && news == said {
                return None;
            }
            if since < heads_ms(members)
                && (NodeBody {
                    heads: said.heads.clone(),
                    ..news
                }) == said
            {
                self.heads_at = Some(at.plus(heads_ms(members)));
                return None;
            }
        }
        self.version.counter += 1;
        let bytes = NodeRecord::sign(self.realm, &self.key, self.version, body.clone());
        self.said = Some((body, now));
        Some(bytes)
    }

    /// Notes when there began to be something to say.
    pub(crate) fn notice(&mut self, now: Millis) {
        if self.changed {
            self.changed_at.get_or_insert(now);
        }
    }

    /// When the record is looked at again.
    pub(crate) fn record_due(&self) -> Millis {
        let members = self.sync.members().len();
        let Some((_, at)) = &self.said else {
            // Before anybody can send an older one of this node: it would look like a stranger's.
            return Millis(0);
        };
        let due = at.plus(figures_ms(members));
        let due = self.heads_at.map_or(due, |heads_at| due.min(heads_at));
        if !self.changed {
            return due;
        }
        // The first change after a while is told at once, and of a crowd not each.
        let since = self.changed_at.unwrap_or(self.looked_at);
        let next = at.plus(changed_ms(members)).max(since.plus(self.lag_ms));
        due.min(self.looked_at.plus(CHANGED_MS).max(next))
    }

    /// Begins a new epoch, as another record with this node's key demands.
    pub(crate) fn begin_epoch(&mut self, at_least: u64) {
        match self.epochs.next(at_least) {
            Ok(epoch) => {
                self.version.epoch = epoch;
                self.version.boot = random();
                self.version.counter = 0;
                self.said = None;
            }
            Err(error) => {
                tracing::error!(%error, "the epoch could not be made durable: this node's records do not count");
            }
        }
    }

    fn body(&self, facts: &Facts<'_>, now: Millis) -> NodeBody {
        let mut body = NodeBody::of(self.name.clone());
        body.agent = env!("CARGO_PKG_VERSION").to_owned();
        body.wire = realm_model::sync::WIRE_VERSION.into();
        body.machine.clone_from(&facts.machine);
        body.tags = facts.tags.to_vec();
        body.addresses = self.listening.clone();
        let heads = facts.ledger.heads().into_iter();
        body.heads = heads
            .map(|(chain, head)| ChainHead { chain, head })
            .collect();
        let forks = facts.ledger.frozen();
        body.forks = forks
            .map(|(chain, frozen)| ChainFork {
                chain,
                proof: frozen.proof,
            })
            .collect();
        body.peers = self
            .links
            .iter()
            .map(|(key, link)| PeerLink {
                key: (*key).into(),
                how: link.how,
                rtt_ms: link.rtt_ms,
                why: link.why.clone(),
            })
            .collect();
        body.components = components(facts.status);
        body.load = facts.load;
        let refusals = facts.status.refusals.iter();
        body.refusals = refusals
            .map(|(code, count)| RefusalCount {
                code: code.clone(),
                count: *count,
            })
            .collect();
        body.blobs.clone_from(&facts.blobs);
        let pending = self.pending.list().into_iter().take(REPORTED_MAX);
        body.pending = pending
            .map(|join| PendingJoin {
                key: join.key.into(),
                name: join.ask.name.clone(),
                address: join.origin.map(|ip| ip.to_string()).unwrap_or_default(),
                proof: join
                    .ask
                    .proof
                    .map(|proof| realm_model::digest::Digest::from_bytes(*proof.as_bytes())),
                tags: (!join.ask.tags.is_empty()).then(|| join.ask.tags.clone()),
            })
            .collect();
        body.alarms = self.alarms(facts.ledger, now);
        body
    }

    /// What stands at this node and does not mend itself.
    fn alarms(&self, ledger: &Ledger, now: Millis) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        if self.sync.is_cloned() {
            alarms.push(Alarm {
                code: CLONED_KEY.to_owned(),
                about: "another machine signs with this node's key".to_owned(),
            });
        }
        for (chain, _) in ledger.frozen() {
            alarms.push(Alarm {
                code: "forked".to_owned(),
                about: format!(
                    "chain `{}` has two histories and stands still",
                    chain.as_str()
                ),
            });
        }
        for (chain, seq) in &self.stopped {
            alarms.push(Alarm {
                code: UPGRADE_NEEDED.to_owned(),
                about: format!(
                    "upgrade needed: chain `{}` stops at entry {seq}, which only a newer realm reads",
                    chain.as_str()
                ),
            });
        }
        let signals = self.signals(now);
        if signals.stale {
            alarms.push(Alarm {
                code: STALE.to_owned(),
                about: "the beacon is overdue, or what it names is missing here".to_owned(),
            });
        }
        if signals.isolated {
            alarms.push(Alarm {
                code: "isolated".to_owned(),
                about: "fewer than half of the other nodes are reached".to_owned(),
            });
        }
        alarms
    }
}

/// How soon after a record another one may follow in a realm of so many nodes.
fn changed_ms(members: usize) -> u64 {
    let members = u64::try_from(members).unwrap_or(u64::MAX);
    let each = CHANGED_EACH_MS.saturating_mul(members);
    each.clamp(CHANGED_MS, CHANGED_MS_MAX)
}

/// How long a node may keep news to itself in a realm of so many: an entry changes the records of all
/// at one moment, and a hundred records that come with the next entry hold that one up.
fn lag_ms_max(members: usize) -> u64 {
    match members {
        0..=FULL_MESH_MEMBERS => 0,
        _ => changed_ms(members) / 2,
    }
}

/// How soon after a record another one may follow that tells of entries alone.
fn heads_ms(members: usize) -> u64 {
    match members {
        0..=FULL_MESH_MEMBERS => 0,
        _ => (HEADS_EACH_MS * members as u64).min(HEADS_MS_MAX),
    }
}

/// How often figures are told in a realm of so many nodes.
fn figures_ms(members: usize) -> u64 {
    let members = u64::try_from(members).unwrap_or(u64::MAX);
    let each = FIGURES_EACH_MS.saturating_mul(members);
    each.clamp(FIGURES_MS, FIGURES_MS_MAX)
}

fn components(status: &StatusView) -> Vec<ComponentSummary> {
    // What this node has nothing to do with is no news of it.
    let concerned = status.components.iter().filter(|component| {
        component.wanted > 0
            || component.healthy > 0
            || component.old > 0
            || component.state != ComponentState::Idle
    });
    concerned
        .map(|component| {
            let waits = component.waiting_on.first();
            ComponentSummary {
                name: component.name.to_string(),
                namespace: ChainId::DEFAULT.as_str().to_owned(),
                wanted: component.wanted,
                healthy: component.healthy,
                state: word(component.state),
                code: waits.map(|waits| waits.code.clone()).unwrap_or_default(),
                reason: waits.map(|waits| waits.message.clone()).unwrap_or_default(),
                digest: component.digest,
            }
        })
        .collect()
}

/// The word that `--json` shows as well.
fn word(state: ComponentState) -> String {
    let word = serde_json::to_value(state).ok();
    word.and_then(|word| word.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The body without what moves all the time.
fn steady(body: &NodeBody) -> NodeBody {
    let mut steady = body.clone();
    steady.load = Load::default();
    for peer in &mut steady.peers {
        peer.rtt_ms = 0;
    }
    steady
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_a_large_realm_speaks_less_often() {
        let check = |members: usize, changed: u64, heads: u64, figures: u64| {
            assert_eq!(changed_ms(members), changed, "{members} nodes");
            assert_eq!(heads_ms(members), heads, "{members} nodes");
            assert_eq!(figures_ms(members), figures, "{members} nodes");
        };
        check(0, 300, 0, 15_000);
        check(15, 300, 0, 15_000);
        check(25, 500, 1_500, 15_000);
        check(100, 2_000, 6_000, 60_000);
        check(1_000, 5_000, 30_000, 300_000);
    }
}
