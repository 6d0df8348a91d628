//! The loop among other nodes: what the network tells goes to the sync, and what the sync says is
//! done, with the ledger and the log that the loop owns. Decides nothing by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use realm_control::sync::{Input, Output, ReadItems, ReadWhat, Verdict};
use realm_control::{Across, CheckError, Held, across, alarm_hint};
use realm_model::api::Accepted;
use realm_model::digest::Digest;
use realm_model::entry::{ChainId, ForkProof};
use realm_model::key::PublicKey;
use realm_model::name::ComponentName;
use realm_model::observed::ArtifactState;
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::view::{AlarmView, PendingView, StatusView};

use super::belonging::Standing;
use super::sifting::Learned;
use super::{Came, Core};
use crate::error::with_causes;
use crate::network::Network;

/// Steps of the sync for one event, and for all that waited together: each may sync the disk. The rest
/// waits for the next turn of the loop, behind what came meanwhile.
const STEPS_AT_ONCE_MAX: usize = 64;

/// After a new record those who fetch and those who dial hear of it this late at most: in a realm of
/// a hundred nodes records come all the time, and each look goes through all of them.
const LEARN_MS: u64 = 250;
/// The same in a realm that is no full mesh.
const LEARN_LARGE_MS: u64 = 1_000;

impl Core {
    /// The node has a part in the network from now on.
    pub(super) fn met(&mut self, network: Network) {
        self.begin_leases(network.start());
        self.network = Some(network);
        self.admit();
    }

    /// Takes what the network tells.
    pub(super) fn networked(&mut self, event: realm_net::Event) {
        let Some(network) = &mut self.network else {
            return;
        };
        match event {
            // Who is connected is looked up, since the list may be behind the news of it.
            realm_net::Event::Up { peer, how, .. } => tracing::debug!(%peer, ?how, "connected"),
            realm_net::Event::Down { peer, reason } => {
                tracing::debug!(%peer, ?reason, "no longer connected");
            }
            realm_net::Event::Hint(hint) => {
                let id = network.hint(&hint);
                self.feed(Input::Hint {
                    from: hint.via,
                    id,
                    bytes: hint.bytes,
                });
            }
            realm_net::Event::Request { from, bytes, reply } => {
                let id = network.request(reply);
                self.feed(Input::Request { from, id, bytes });
            }
            realm_net::Event::Listening { address } => {
                tracing::info!(address, "nodes meet this one here");
                network.listens(address);
            }
            realm_net::Event::Expired { address } => {
                tracing::info!(address, "nodes do not meet this one here any more");
                network.expired(&address);
            }
            realm_net::Event::ListenFailed { address, reason } => {
                tracing::warn!(
                    address,
                    reason,
                    "nodes cannot meet this one here; trying on"
                );
            }
            // The network keeps them itself, behind what the node signed or a person said.
            realm_net::Event::Found { .. } => {}
            realm_net::Event::Reachability { behind_nat } => {
                match behind_nat {
                    true => tracing::info!(
                        "this node is behind a NAT: others reach it through nodes that relay, or by calling at once"
                    ),
                    false => tracing::info!("others reach this node from outside"),
                }
                network.found_behind_nat(behind_nat);
            }
            realm_net::Event::Restarted { cause } => {
                tracing::error!(cause, "the network panicked and was started anew");
            }
            // Streams are served before they come here.
            realm_net::Event::Stream { .. } => {}
        }
    }

    /// The answer to a question of the sync; `None`: there will be none.
    pub(super) fn answered(&mut self, id: u64, answer: Option<Vec<u8>>) {
        self.feed(match answer {
            Some(bytes) => Input::Answer { id, bytes },
            None => Input::Failed { id },
        });
    }

    /// Looks who is connected.
    pub(super) fn looked(&mut self) {
        let now = self.now();
        let Some(network) = &mut self.network else {
            return;
        };
        let (came, went) = network.look();
        if came.is_empty() && went.is_empty() {
            return;
        }
        network.changed(now);
        if !came.is_empty() {
            // They may have what others did not.
            network.offered.clear();
        }
        for peer in went {
            self.feed(Input::PeerDown(peer));
        }
        for peer in came {
            self.feed(Input::PeerUp(peer));
        }
        self.learned();
    }

    /// Lets time pass for the sync, if it is due, and publishes this node's record, if there is
    /// something to say.
    pub(super) fn passed(&mut self) {
        self.look_at_leases_if_due();
        let now = self.now();
        let Some(network) = &self.network else {
            return;
        };
        if network.sync.wake_at_ms() <= now.0 {
            self.feed(Input::Tick);
        }
        self.tell_stale();
        self.seek();
        // Approvals end by the clock, without an entry.
        if self
            .network
            .as_ref()
            .is_some_and(|network| network.admit_at <= now)
        {
            self.admit();
        }
        let learn_at = self.network.as_ref().and_then(|network| network.learn_at);
        if learn_at.is_some_and(|at| at <= now) {
            self.learned();
        }
        let mut steps = STEPS_AT_ONCE_MAX;
        while steps > 0
            && let Some(input) = self.fed.pop_front()
        {
            self.feed_within(input, &mut steps);
        }
        // The others were heard, or nobody came: what is wanted is carried out.
        self.stale |= self.held_back && self.may_act();
        self.say();
    }

    /// How long until time is to pass for the network; `None`: the node is alone.
    pub(super) fn network_wait(&self) -> Option<Duration> {
        let network = self.network.as_ref()?;
        if !self.fed.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = self.now();
        let due = network.sync.wake_at_ms().min(network.admit_at.0);
        // Who is not approved signs no record: one that is due would wake the loop without end.
        // What is said of this node is what it has carried out.
        let may_say = self.is_approved() && !self.stale;
        let record = may_say.then(|| network.record_due().0);
        let due = due.min(record.unwrap_or(u64::MAX));
        let due = due.min(self.seek_at().unwrap_or(u64::MAX));
        let due = network.learn_at.map_or(due, |at| due.min(at.0));
        // The sync may want to be asked later than it says: not in a loop without a pause.
        Some(Duration::from_millis(due.saturating_sub(now.0).max(1)))
    }

    /// Whether what is wanted may be carried out: what was in force at the start at once, changes of
    /// it once the others were heard, or nobody was there to be heard.
    pub(super) fn may_act(&self) -> bool {
        // What is known is older than what ran.
        if self.is_behind() {
            return false;
        }
        // Who was revoked is told by nobody else, and waits for nobody.
        if self.stood == Standing::Revoked {
            return true;
        }
        let generation = self.ledger.desired().generation();
        generation == self.began_with
            || match &self.network {
                Some(network) => network.sync.may_act(self.now().0, generation > 0),
                None => !self.networking,
            }
    }

    /// Feeds the sync, and does what it says until it says no more.
    pub(super) fn feed(&mut self, input: Input) {
        self.feed_within(input, &mut { STEPS_AT_ONCE_MAX });
    }

    /// [`Core::feed`] for as many steps as are left.
    fn feed_within(&mut self, input: Input, steps: &mut usize) {
        let mut inputs = VecDeque::from([input]);
        while *steps > 0 {
            let Some(input) = inputs.pop_front() else {
                return;
            };
            *steps -= 1;
            let now = self.now();
            let Some(network) = &mut self.network else {
                return;
            };
            let outputs = network.sync.on(input, &self.ledger, now.0);
            for output in outputs {
                self.carry_out(output, &mut inputs);
            }
        }
        self.fed.extend(inputs);
    }

    fn carry_out(&mut self, output: Output, inputs: &mut VecDeque<Input>) {
        let now = self.now();
        let Some(network) = &mut self.network else {
            return;
        };
        match output {
            Output::Publish(bytes) => network.publish(bytes),
            Output::Judge { id, judgement } => network.judge(id, judgement),
            Output::Ask { to, id, bytes } => network.ask(to, id, bytes),
            Output::Reply { id, bytes } => network.reply(id, bytes),
            Output::Read { id, what } => {
                let items = self.read(what);
                inputs.push_back(Input::Read { id, items });
            }
            Output::Submit {
                from,
                chain,
                hint,
                bytes,
            } => {
                let verdict = self.submitted_by(from, chain, hint, &bytes);
                inputs.push_back(Input::Verdict { chain, verdict });
            }
            Output::Proof { from, chain, bytes } => self.proven(from, chain, &bytes, inputs),
            // What is wanted here does not depend on it: no plan follows.
            Output::Records => {
                self.sift_again();
                let Some(network) = &mut self.network else {
                    return;
                };
                network.changed(now);
                let late_ms = match network.sync.members().len() {
                    0..=realm_net::FULL_MESH_MAX => LEARN_MS,
                    _ => LEARN_LARGE_MS,
                };
                network.learn_at.get_or_insert(now.plus(late_ms));
                self.holding.due = true;
            }
            Output::Beacon(bytes) => network.keep_beacon(&bytes),
            Output::Epoch { at_least } => {
                network.begin_epoch(at_least);
                tracing::warn!(at_least, "another record with this node's key was seen");
            }
        }
    }

    fn read(&mut self, what: ReadWhat) -> ReadItems {
        let read = tokio::task::block_in_place(|| match what {
            ReadWhat::Entries {
                chain,
                from,
                bytes_max,
                n_max,
            } => {
                let to = self.ledger.head(chain).seq;
                let entries =
                    self.journal
                        .entries(&self.ledger, chain, from..=to, (n_max, bytes_max));
                entries.map(ReadItems::Entries)
            }
            ReadWhat::Proof { chain } => self.journal.proof(chain).map(ReadItems::Proof),
        });
        read.unwrap_or_else(|error| {
            let reason = with_causes(&error);
            tracing::error!(reason, "what a peer asks for could not be read");
            match what {
                ReadWhat::Entries { .. } => ReadItems::Entries(Vec::new()),
                ReadWhat::Proof { .. } => ReadItems::Proof(None),
            }
        })
    }

    /// An entry that a peer sent: the same as one that somebody hands over here, but for the clock.
    pub(super) fn submitted_by(
        &mut self,
        from: PublicKey,
        chain: ChainId,
        hint: Option<u64>,
        bytes: &[u8],
    ) -> Verdict {
        match self.take(chain, bytes, Came::From { hint }) {
            Ok(_) => {
                if chain == ChainId::Authority {
                    self.admit();
                }
                Verdict::Applied
            }
            Err(CheckError::Refused(refusal)) => {
                let quiet = matches!(refusal.code, RefusalCode::Replayed | RefusalCode::Gap);
                if !quiet {
                    self.refuse(refusal.clone());
                    tracing::warn!(peer = %from, "it came from this peer");
                }
                if refusal.code == RefusalCode::NeedsNewerAgent {
                    self.stops_at(chain);
                }
                Verdict::Refused(refusal)
            }
            Err(CheckError::Forked(fork)) => {
                self.forked(&fork);
                Verdict::Forked
            }
        }
    }

    /// Holds two entries of one place against each other: the chain stands still.
    pub(super) fn forked(&mut self, fork: &realm_control::Fork) {
        let ours = fork.ours.seq;
        let entries = tokio::task::block_in_place(|| {
            let one = (1, usize::MAX);
            self.journal
                .entries(&self.ledger, fork.chain, ours..=ours, one)
        });
        let Ok(Some(ours)) = entries.map(|mut entries| entries.pop()) else {
            tracing::error!(chain = %fork.chain, "a fork was seen, and the entry here cannot be read");
            return;
        };
        match ForkProof::new(self.ledger.realm(), fork.chain, &ours, &fork.theirs) {
            Ok(proof) => {
                if let Err(refusal) = self.hold(&proof) {
                    tracing::warn!(reason = refusal.message, "a fork is not held");
                }
            }
            Err(error) => tracing::warn!(chain = %fork.chain, %error, "two entries make no proof"),
        }
    }

    fn proven(
        &mut self,
        from: PublicKey,
        chain: ChainId,
        bytes: &[u8],
        inputs: &mut VecDeque<Input>,
    ) {
        let digest = realm_model::digest::Digest::of(bytes);
        let malformed = |why: &str| Err(Refusal::new(RefusalCode::Malformed, why));
        let held = match ForkProof::from_bytes(self.ledger.realm(), bytes) {
            Ok(proof) if proof.chain() == chain => self.hold(&proof),
            Ok(_) => malformed("the proof is about another chain"),
            Err(error) => malformed(&with_causes(&error)),
        };
        if let Err(refusal) = &held {
            tracing::debug!(peer = %from, reason = refusal.message, "a proof of a fork is not held");
        }
        inputs.push_back(Input::ProofJudged {
            proof: digest,
            from,
            held,
        });
    }

    /// Keeps a proof, and lets its chain stand still.
    fn hold(&mut self, proof: &ForkProof) -> Result<Held, Refusal> {
        let held = self.ledger.hold(proof)?;
        if held == Held::Frozen {
            tracing::error!(
                chain = %proof.chain(),
                "the chain has two histories, and stands still until the owner resolves it: `realm resolve`"
            );
            self.count(RefusalCode::Forked);
            let kept = tokio::task::block_in_place(|| self.journal.keep_proof(proof));
            if let Err(error) = kept {
                let reason = with_causes(&error);
                tracing::error!(reason, "the proof of a fork could not be kept");
            }
            self.stale = true;
        }
        Ok(held)
    }

    /// After an entry that somebody handed over here is in force.
    pub(super) fn tell_accepted(&mut self, accepted: &Accepted, bytes: &[u8]) {
        self.feed(Input::Accepted {
            chain: accepted.chain,
            bytes: bytes.to_vec(),
        });
        if accepted.chain == ChainId::Authority {
            self.admit();
        }
    }

    /// Tells those who fetch and those who dial what the records say.
    pub(super) fn learned(&mut self) {
        let Some(network) = &mut self.network else {
            return;
        };
        network.learn_at = None;
        let nodes = self.ledger.authority().nodes.iter();
        let names = nodes.map(|(name, node)| (node.key, name.to_string()));
        let names = names.collect();
        let reached = network.reached();
        let Learned {
            addresses,
            holders,
            ways,
            running,
        } = Learned::of(network.sync.records(), &reached, self.node_key);
        for (node, addresses) in addresses {
            network.knows(node, &addresses);
        }
        let nodes = self.ledger.authority().nodes.iter();
        let nodes = nodes.map(|(name, node)| (node.key, name.clone()));
        let lost = realm_control::reach::lost(&reached);
        let heard = reached.into_keys().filter(|key| *key != self.node_key);
        let heard = heard.filter(|key| !lost.contains(&(*key).into())).collect();
        let others = network.tunnels.learn(ways, &nodes.collect());
        let connected = network.links().keys().copied().collect();
        if !self.journal.behind().contains_key(&ChainId::Authority) {
            network.save_book();
        }
        let failed = self.observed.artifacts.iter().filter(|(artifact, state)| {
            matches!(state, ArtifactState::Failed { .. }) && holders.contains_key(&artifact.digest)
        });
        let offered: Vec<Digest> = failed.map(|(artifact, _)| artifact.digest).collect();
        network.peers.learn(names, connected, heard, holders);
        // What failed for want of bytes is tried again once somebody has them, and not more often.
        let fresh = offered
            .into_iter()
            .filter(|digest| network.offered.insert(*digest));
        let fresh: Vec<_> = fresh.collect();
        let may = self.may_take();
        self.shelf.meets(running, may);
        self.look_around();
        if let Some(others) = others {
            self.with_world(|executor, world| executor.meets(others, world));
        }
        for digest in fresh {
            self.with_world(|executor, world| executor.uploaded(&digest, world));
            self.stale = true;
        }
    }

    /// The nodes that may come to run each component that takes messages.
    fn may_take(&self) -> BTreeMap<ComponentName, BTreeSet<PublicKey>> {
        let Some(manifest) = self.ledger.desired().manifest.as_deref() else {
            return BTreeMap::new();
        };
        let authority = self.ledger.authority();
        let components = manifest.components.iter();
        let taking = components.filter(|(_, spec)| !spec.triggers.subscriptions.is_empty());
        let taking = taking.map(|(component, _)| {
            let names = realm_control::place::may_run(manifest, authority, component);
            let nodes = names.iter().filter_map(|name| authority.nodes.get(name));
            (component.clone(), nodes.map(|node| node.key).collect())
        });
        taking.collect()
    }

    /// Whether the owner lets this node act.
    pub(super) fn is_approved(&self) -> bool {
        let name = self.ledger.authority().name_of(&self.node_key);
        name == Some(&self.node)
    }
}

impl Core {
    /// Adds to the status what is known of the other nodes.
    pub(super) fn add_others(&self, status: &mut StatusView) {
        let Some(network) = &self.network else {
            // Nobody passes its own alarms on: it tells them itself.
            let components = status.components.iter();
            let waiting = components.map(|one| (&one.name, &one.waiting_on));
            let waiting: Vec<_> = crate::network::told(waiting).collect();
            let own = self.own_alarms().into_iter().chain(waiting);
            status.alarms.extend(own.map(|alarm| AlarmView {
                hint: alarm_hint(&alarm.code).to_owned(),
                code: alarm.code,
                message: alarm.about,
                node: self.node.clone(),
            }));
            return;
        };
        let pending: Vec<PendingView> = network
            .pending
            .list()
            .into_iter()
            .map(|join| PendingView {
                key: join.key,
                name: join.ask.name.clone(),
                tags: join.ask.tags.iter().map(ToString::to_string).collect(),
                address: join
                    .origin
                    .map_or_else(|| "through a relay".to_owned(), |ip| ip.to_string()),
                seen_by: self.node.clone(),
                voucher_proof: join
                    .ask
                    .proof
                    .map(|proof| realm_model::digest::Digest::from_bytes(*proof.as_bytes()).hex()),
            })
            .collect();
        let others = Across {
            own: self.node_key,
            heads: &self.ledger.heads(),
            records: network.sync.records(),
            reached: &network.reached(),
            connections: &network.connections(),
            pending: &pending,
            placement: &self.surroundings.around.placement,
        };
        across(status, self.ledger.authority(), &others);
        status.beacon = self.beacon();
        status
            .alarms
            .extend(self.standing(super::unix_ms() / 1_000).alarm(&self.node));
        status.alarms.extend(self.behind_alarm());
    }
}
