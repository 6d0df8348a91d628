//! What this node says of itself: the body of its record.

use std::collections::BTreeMap;

use realm_control::Ledger;
use realm_control::lease::Output;
use realm_control::pending::REPORTED_MAX;
use realm_edge::PortTrouble;
use realm_model::action::{ComponentReport, WaitingOn};
use realm_model::entry::ChainId;
use realm_model::key::PublicKey;
use realm_model::name::ComponentName;
use realm_model::observed::Millis;
use realm_model::record::limits::{ALARMS_MAX, COMPONENTS_MAX};
use realm_model::record::{
    Alarm, CLONED_KEY, ChainFork, ChainHead, ComponentSummary, Load, Machine, NodeBody, NodeRecord,
    PEER_MUTED, PORT_BUSY, PeerLink, PendingJoin, RECORD_POISON, ROLLOUT_FAILED, RefusalCount,
    SECRET_SEALED_AWAY, STALE, UPGRADE_NEEDED,
};
use realm_model::refusal::RefusalCode;
use realm_model::sealing::Sealing;
use realm_model::view::{ComponentState, StatusView};

use super::pacing::Tells;
use super::{Network, random};

/// Nodes whose records are set aside that one alarm each names: a record has room for other alarms.
const POISON_TOLD_MAX: usize = 8;

/// Nodes that are not listened to that one alarm each names.
const MUTED_TOLD_MAX: usize = 8;

/// What the record takes from the rest of the node.
pub(crate) struct Facts<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) refusals: &'a BTreeMap<RefusalCode, u64>,
    pub(crate) components: &'a OfComponents,
    pub(crate) machine: Machine,
    pub(crate) load: Load,
    pub(crate) blobs: Vec<realm_model::digest::Digest>,
    pub(crate) tags: &'a [String],
    pub(crate) leases: &'a Output,
    pub(crate) ports: &'a [PortTrouble],
    pub(crate) own_alarms: Vec<Alarm>,
    pub(crate) sealing: &'a Sealing,
}

/// What a record says of the components. It follows from a plan, which looks at all of them: it is
/// kept until there is another plan, and what is said every few seconds costs no look at each.
#[derive(Debug, Default)]
pub(crate) struct OfComponents {
    /// As many as a record may have.
    summaries: Vec<ComponentSummary>,
    /// How many more there are.
    more: u32,
    /// What waits for a person.
    waiting: Vec<Alarm>,
}

impl OfComponents {
    pub(crate) fn of(status: &StatusView, reports: &[ComponentReport]) -> Self {
        let mut summaries = components(status, reports);
        let more = summaries.len().saturating_sub(COMPONENTS_MAX);
        summaries.truncate(COMPONENTS_MAX);
        let waiting = reports.iter();
        let waiting = waiting.map(|report| (&report.component, &report.waiting_on));
        Self {
            summaries,
            more: u32::try_from(more).unwrap_or(u32::MAX),
            waiting: told(waiting).take(ALARMS_MAX).collect(),
        }
    }
}

impl Network {
    /// The bytes of a new record, if there is something to say, and what they tell.
    pub(crate) fn record(&mut self, facts: &Facts<'_>, now: Millis) -> Option<(Tells, Vec<u8>)> {
        let body = self.body(facts, now).fit();
        let members = self.sync.members().len();
        let tells = self.pacing.look(&body, members, random(), now)?;
        self.version.counter += 1;
        let bytes = NodeRecord::sign(self.realm, &self.key, self.version, body);
        Some((tells, bytes))
    }

    /// Notes that there may be something to say.
    pub(crate) fn changed(&mut self, now: Millis) {
        self.pacing.changed(now);
    }

    /// When the record is looked at again.
    pub(crate) fn record_due(&self) -> Millis {
        self.pacing.due(self.sync.members().len())
    }

    /// Begins a new epoch, as another record with this node's key demands.
    pub(crate) fn begin_epoch(&mut self, at_least: u64) {
        match self.epochs.next(at_least) {
            Ok(epoch) => {
                self.version.epoch = epoch;
                self.version.boot = random();
                self.version.counter = 0;
                self.pacing.restart();
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
        body.components.clone_from(&facts.components.summaries);
        body.components_more = facts.components.more;
        body.load = facts.load;
        let refusals = facts.refusals.iter();
        body.refusals = refusals
            .map(|(code, count)| RefusalCount {
                code: code.to_string(),
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
        body.alarms.extend(facts.components.waiting.iter().cloned());
        body.sealing = Some(facts.sealing.clone());
        let Output { asks, grants, .. } = facts.leases;
        body.asks = (!asks.is_empty()).then(|| asks.clone());
        body.grants = (!grants.is_empty()).then(|| grants.clone());
        body.alarms.extend(facts.ports.iter().map(busy_port));
        body.alarms.extend(facts.own_alarms.iter().cloned());
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
        let aside = self.sync.records().quarantined().iter();
        for (node, aside) in aside.take(POISON_TOLD_MAX) {
            let authority = ledger.authority();
            let key = PublicKey::from_bytes(*node.as_bytes()).ok();
            let name = key.and_then(|key| authority.name_of(&key));
            let whose = name.map_or("a node that left".to_owned(), |name| {
                format!("node `{name}`")
            });
            alarms.push(Alarm {
                code: RECORD_POISON.to_owned(),
                about: format!("a record of {whose} is set aside: {}", aside.why),
            });
        }
        for (peer, code) in self.sync.shunned(now.0).take(MUTED_TOLD_MAX) {
            // A machine that was revoked is nobody's trouble.
            let Some(name) = ledger.authority().name_of(&peer) else {
                continue;
            };
            let what = code.map_or(String::new(), |code| format!(" (`{code}`)"));
            alarms.push(Alarm {
                code: PEER_MUTED.to_owned(),
                about: format!(
                    "node `{name}` sends what no honest agent sends{what}: it is listened to less and less"
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

/// What components wait on until a person does something: a rollout that failed waits for its owner, or
/// was undone; a secret that is sealed to other nodes has to be sealed anew.
pub(crate) fn told<'a>(
    waiting: impl Iterator<Item = (&'a ComponentName, &'a Vec<WaitingOn>)>,
) -> impl Iterator<Item = Alarm> {
    waiting.flat_map(|(component, reasons)| {
        let reasons = reasons.iter().filter(|one| {
            let code = one.code.as_str();
            code == ROLLOUT_FAILED || code == SECRET_SEALED_AWAY
        });
        reasons.map(move |reason| Alarm {
            code: reason.code.clone(),
            about: format!("`{component}`: {}", reason.message),
        })
    })
}

fn busy_port(trouble: &PortTrouble) -> Alarm {
    let PortTrouble { port, reason } = trouble;
    Alarm {
        code: PORT_BUSY.to_owned(),
        about: format!(
            "{} cannot be listened on for `{}`: {reason}",
            port.address, port.component
        ),
    }
}

fn components(status: &StatusView, reports: &[ComponentReport]) -> Vec<ComponentSummary> {
    let reports: BTreeMap<&ComponentName, &ComponentReport> =
        reports.iter().map(|one| (&one.component, one)).collect();
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
            let report = reports.get(&component.name);
            ComponentSummary {
                name: component.name.to_string(),
                namespace: ChainId::DEFAULT.as_str().to_owned(),
                wanted: component.wanted,
                healthy: component.healthy,
                state: word(component.state),
                code: waits.map(|waits| waits.code.clone()).unwrap_or_default(),
                reason: waits.map(|waits| waits.message.clone()).unwrap_or_default(),
                digest: component.digest,
                serving: report.map(|report| report.serving),
                seats: report.map(|report| report.seats.clone()),
                failed: report.map(|report| report.failed.clone()),
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
