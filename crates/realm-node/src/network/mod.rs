//! The node among the others: feeds the sync with what happens, and carries out what it says.
//!
//! What is decided is pure (`realm_control::sync`, `pending`, `reach`); bytes move in `realm_net`.
//! Here is what stands between them and the loop: numbers for what is under way, the record that
//! this node signs of itself, the address book. Not here: what an entry means.

mod aside;
mod beacon;
mod blobs;
mod book;
mod call;
mod door;
mod epoch;
mod pacing;
mod peers;
mod record;
mod settings;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use realm_control::pending::Pending;
use realm_control::reach::{Link, Reached};
use realm_control::sync::{Judgement, Sync};
use realm_model::address::Host;
use realm_model::api::PeerAdded;
use realm_model::digest::Digest;
use realm_model::entry::{ChainId, RealmId};
use realm_model::join::Ask;
use realm_model::key::{PublicKey, SecretKey};
use realm_model::name::NodeName;
use realm_model::observed::Millis;
use realm_model::record::{ReachedBy, Version};
use realm_model::view::ReachView;
use realm_net::{Admission, Handle, Hint, HintId, How, Reply, Topic, Transport as _, Verdict};
use realm_store::folder::RealmFolder;
use tokio::sync::{mpsc, oneshot, watch};

use crate::connect::Place;
use crate::event::Event;

use aside::Aside;
pub(crate) use aside::WHY as WHY_ASIDE;
pub(crate) use blobs::{BlobServer, Offer};
pub(crate) use book::KeptBook;
pub(crate) use door::{Door, forward, passing, watch as watch_connections};
pub(crate) use epoch::Epochs;
use pacing::Pacing;
pub(crate) use pacing::Tells;
pub(crate) use peers::{Peers, Source};
pub(crate) use record::{Facts, OfComponents, told};
pub(crate) use settings::{caller, spawn};
use tunnels::Tunnels;

/// Hints and requests whose end has not come: as many as the network itself lets wait.
const UNDER_WAY_MAX: usize = 4_096;

/// The node's part in the network.
pub(crate) struct Network {
    pub(crate) net: Handle,
    pub(crate) sync: Sync,
    pub(crate) pending: Pending,
    pub(crate) realm: RealmId,
    pub(crate) name: NodeName,
    key: SecretKey,
    epochs: Epochs,
    version: Version,
    book: KeptBook,
    /// Who may give bytes, for the tasks that fetch.
    pub(crate) peers: Peers,
    admission: watch::Sender<Admitted>,
    events: mpsc::Sender<Event>,
    hints: BTreeMap<u64, HintId>,
    replies: BTreeMap<u64, Reply>,
    next_id: u64,
    links: BTreeMap<PublicKey, Link>,
    listening: Vec<String>,
    behind_nat: bool,
    pacing: Pacing,
    pub(crate) tunnels: Tunnels,
    /// When those who fetch and those who dial are told what the records say.
    pub(crate) learn_at: Option<Millis>,
    /// Digests that a member was seen to hold when they were missing here.
    pub(crate) offered: BTreeSet<Digest>,
    /// When it is to be said again who may connect.
    pub(crate) admit_at: Millis,
    /// Who may connect as a member, by what was said last.
    pub(crate) admitted: BTreeSet<PublicKey>,
    /// Whether some of them are about to be cut off.
    pub(crate) parting: bool,
    /// Digests whose bytes were seen here.
    pub(crate) held: BTreeSet<Digest>,
    beacon_file: PathBuf,
    /// Whether this node was stale when it was looked last.
    pub(crate) was_stale: bool,
    /// Chains that stopped at an entry that only a newer agent reads, with its number.
    pub(crate) stopped: BTreeMap<ChainId, u64>,
    /// No member is asked earlier why it refuses this node.
    pub(crate) inquire_at: Millis,
    /// How many of those who were met before were asked.
    asked_places: usize,
    /// Records that made this agent panic.
    pub(crate) aside: Aside,
}

/// What the network works with from the start.
pub(crate) struct Parts {
    pub(crate) net: Handle,
    pub(crate) realm: RealmId,
    pub(crate) name: NodeName,
    pub(crate) key: SecretKey,
    pub(crate) peers: Peers,
    pub(crate) events: mpsc::Sender<Event>,
}

/// A stranger asks to be let in, or for more of the authority chain.
pub(crate) struct Knock {
    pub(crate) key: PublicKey,
    /// The address it comes from, as the network says.
    pub(crate) address: String,
    pub(crate) request: realm_model::join::Request,
    pub(crate) reply: oneshot::Sender<realm_model::join::Answer>,
}

impl Network {
    /// Joins the parts; the epoch is durable when this returns.
    pub(crate) fn new(folder: &RealmFolder, parts: Parts, now: Millis) -> std::io::Result<Self> {
        let mut epochs = Epochs::open(folder.root().join("epoch"));
        let version = Version {
            epoch: epochs.next(0)?,
            boot: random(),
            counter: 0,
        };
        let (admission, asked) = watch::channel(Admitted::default());
        tokio::spawn(keep_admitting(parts.net.clone(), asked));
        let beacon_file = beacon::file(folder);
        let mut sync = Sync::new(parts.realm, parts.key.public(), random(), now.0);
        if let Some(bytes) = beacon::kept(&beacon_file) {
            sync.restore_beacon(bytes);
        }
        let aside = Aside::restore(folder, &mut sync);
        Ok(Self {
            sync,
            pending: Pending::default(),
            realm: parts.realm,
            name: parts.name,
            key: parts.key,
            epochs,
            version,
            book: KeptBook::open_in(folder),
            peers: parts.peers,
            admission,
            events: parts.events,
            tunnels: Tunnels::new(parts.net.clone()),
            net: parts.net,
            hints: BTreeMap::new(),
            replies: BTreeMap::new(),
            next_id: 0,
            links: BTreeMap::new(),
            listening: Vec::new(),
            behind_nat: false,
            pacing: Pacing::new(now),
            learn_at: None,
            offered: BTreeSet::new(),
            admit_at: now,
            admitted: BTreeSet::new(),
            parting: false,
            held: BTreeSet::new(),
            beacon_file,
            was_stale: false,
            stopped: BTreeMap::new(),
            inquire_at: now,
            asked_places: 0,
            aside,
        })
    }

    /// The epoch and the boot number of this start of the agent.
    pub(crate) const fn start(&self) -> (u64, u64) {
        (self.version.epoch, self.version.boot)
    }

    /// Somebody who was met before, each in turn: by its key, or at an address that was named.
    pub(crate) fn next_place(&mut self) -> Option<(Option<PublicKey>, Vec<String>)> {
        let nodes = self.book.book().nodes();
        let nodes = nodes.map(|(node, all)| (Some(*node), all.clone()));
        let named = self.book.book().named();
        let named = named.map(|address| (None, vec![address.clone()]));
        let places: Vec<_> = nodes.chain(named).collect();
        self.asked_places += 1;
        let at = self.asked_places.checked_rem(places.len())?;
        places.into_iter().nth(at)
    }

    /// The way to the loop.
    pub(crate) fn events(&self) -> mpsc::Sender<Event> {
        self.events.clone()
    }

    /// The connections of this node, for [`realm_control::reach::reach`].
    pub(crate) const fn links(&self) -> &BTreeMap<PublicKey, Link> {
        &self.links
    }

    /// How each approved node is reached.
    pub(crate) fn reached(&self) -> BTreeMap<PublicKey, Reached> {
        let (records, members) = (self.sync.records(), self.sync.members());
        realm_control::reach::reach(self.key.public(), &self.links, records, members)
    }

    /// Where this node answers, as others may dial it.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.listening
    }

    pub(crate) fn listens(&mut self, address: String) {
        if !self.listening.contains(&address) && self.listening.len() < LISTENING_MAX {
            self.listening.push(address);
        }
    }

    pub(crate) fn expired(&mut self, address: &str) {
        self.listening.retain(|one| one != address);
    }

    pub(crate) fn found_behind_nat(&mut self, behind: bool) {
        self.behind_nat = behind;
    }

    /// Looks at the connections again; returns the members that came and went.
    pub(crate) fn look(&mut self) -> (Vec<PublicKey>, Vec<PublicKey>) {
        let views = self.net.peers();
        let mut links = BTreeMap::new();
        for view in views.iter() {
            if view.class != realm_net::Class::Member {
                continue;
            }
            let Some(how) = view.how else { continue };
            let rtt_ms = view.rtt_us.unwrap_or(0).div_ceil(1_000);
            links.insert(
                view.peer,
                Link {
                    how: match how {
                        How::Quic | How::Tcp => ReachedBy::Direct,
                        How::Relay { .. } => ReachedBy::Relay,
                    },
                    rtt_ms: u32::try_from(rtt_ms).unwrap_or(u32::MAX),
                    why: match how {
                        How::Quic | How::Tcp => String::new(),
                        How::Relay { .. } => view.why.clone().unwrap_or_default(),
                    },
                },
            );
        }
        let came = links.keys().filter(|key| !self.links.contains_key(*key));
        let came = came.copied().collect();
        let went = self.links.keys().filter(|key| !links.contains_key(*key));
        let went = went.copied().collect();
        self.links = links;
        (came, went)
    }

    /// Says who may connect.
    pub(crate) fn admit(&self, admission: Admission) {
        let book = self.book.book().nodes();
        let admitted = Admitted {
            addresses: book.map(|(node, all)| (*node, all.clone())).collect(),
            admission,
        };
        self.admission.send_if_modified(|before| {
            let changed = *before != admitted;
            *before = admitted;
            changed
        });
    }

    /// A number for a hint whose judgement comes later.
    pub(crate) fn hint(&mut self, hint: &Hint) -> u64 {
        let id = self.id();
        if self.hints.len() >= UNDER_WAY_MAX {
            self.hints.pop_first();
        }
        self.hints.insert(id, hint.id());
        id
    }

    /// A number for a request whose answer comes later.
    pub(crate) fn request(&mut self, reply: Reply) -> u64 {
        let id = self.id();
        // Dropped, the peer hears "busy".
        if self.replies.len() >= UNDER_WAY_MAX {
            self.replies.pop_first();
        }
        self.replies.insert(id, reply);
        id
    }

    pub(crate) fn judge(&mut self, id: u64, judgement: Judgement) {
        if let Some(hint) = self.hints.remove(&id) {
            let verdict = match judgement {
                Judgement::Forward => Verdict::Accept,
                Judgement::Drop => Verdict::Ignore,
                Judgement::Blame => Verdict::Reject,
            };
            self.net.verdict(hint, verdict);
        }
    }

    pub(crate) fn reply(&mut self, id: u64, bytes: Vec<u8>) {
        if let Some(reply) = self.replies.remove(&id) {
            reply.send(bytes);
        }
    }

    /// Tells all members; what is lost comes by anti-entropy.
    pub(crate) fn publish(&self, bytes: Vec<u8>) {
        let topic = match realm_model::sync::Hint::is_record(&bytes) {
            true => Topic::Records,
            false => Topic::Heads,
        };
        if let Err(error) = self.net.publish(topic, bytes) {
            tracing::debug!(%error, "a hint was not sent");
        }
    }

    /// Asks a member; the answer comes back as an event.
    pub(crate) fn ask(&self, to: PublicKey, id: u64, bytes: Vec<u8>) {
        let (net, events) = (self.net.clone(), self.events.clone());
        tokio::spawn(async move {
            let result = net.request(to, bytes).await;
            if let Err(error) = &result {
                tracing::debug!(peer = %to, %error, "a request got no answer");
            }
            if matches!(result, Err(realm_net::Error::Unsupported)) {
                let _ = events.send(Event::Shut { by: to }).await;
            }
            // The loop may be gone; then nobody waits.
            let _ = events
                .send(Event::Answered {
                    id,
                    answer: result.ok(),
                })
                .await;
        });
    }

    /// Takes a request to join.
    pub(crate) fn knocked(
        &mut self,
        knock: &Knock,
        ask: Ask,
        now: Millis,
    ) -> Result<bool, realm_model::join::Refused> {
        let origin = realm_model::address::read(&knock.address).ok();
        let origin = origin.and_then(|written| match written.address.host {
            Host::Ip(ip) => Some(ip),
            Host::Name { .. } => None,
        });
        self.pending.ask(knock.key, ask, origin, now)
    }

    /// Where a member says that it is.
    pub(crate) fn knows(&mut self, node: PublicKey, addresses: &[String]) {
        if self.book.book_mut().learn(node, addresses) {
            let _ = self.net.addresses(node, addresses.to_vec());
        }
    }

    /// Calls on the addresses that the operator named, at the start.
    pub(crate) fn open_book(&self) {
        for address in self.book.book().named() {
            let (net, address) = (self.net.clone(), address.clone());
            tokio::spawn(async move {
                // Who is there is told by the connection; who is not, is tried by its key later.
                let _ = net.dial(&address).await;
            });
        }
    }

    /// Keeps an address that the operator named.
    pub(crate) fn name_address(&mut self, address: &str) {
        if !self.book.book_mut().name(address) {
            tracing::warn!(
                address,
                "the address book is full: the address is used once"
            );
        }
    }

    /// Writes the address book, if it changed.
    pub(crate) fn save_book(&mut self) {
        let members = self.sync.members();
        if !members.is_empty() {
            let members: std::collections::BTreeSet<PublicKey> =
                members.values().copied().collect();
            self.book.book_mut().retain(|node| members.contains(node));
        }
        self.book.save();
    }

    /// Calls on a machine.
    pub(crate) fn call(
        &self,
        address: String,
        genesis: Vec<u8>,
        members: Vec<(PublicKey, NodeName)>,
    ) -> impl Future<Output = PeerAdded> + use<> {
        let addresses = self.listening.iter();
        call::call_on(call::Call {
            net: self.net.clone(),
            realm: self.realm,
            genesis,
            addresses: addresses
                .filter_map(|address| realm_model::address::read(address).ok())
                .map(|written| written.address.with_peer(self.key.public()))
                .collect(),
            members,
            address,
        })
    }

    /// The connections as the status shows them.
    pub(crate) fn connections(&self) -> BTreeMap<PublicKey, ReachView> {
        let views = self.net.peers();
        let shown = views.iter().map(|view| {
            let reach = ReachView {
                how: view.how.map(|how| {
                    match how {
                        How::Quic => "quic",
                        How::Tcp => "tcp",
                        How::Relay { .. } => "relay",
                    }
                    .to_owned()
                }),
                address: view.address.clone(),
                rtt_us: view.rtt_us,
                why_not_direct: view.why.clone(),
                ..ReachView::default()
            };
            (view.peer, reach)
        });
        shown.collect()
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// When the network has no room for an address.
const OVERLOADED_PAUSE: Duration = Duration::from_millis(20);

/// Two nodes with one number would ask in step, and two starts with one could not be told apart.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|error| {
        tracing::error!(%error, "the system gives no randomness");
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Addresses that a node listens on: a few per network card.
const LISTENING_MAX: usize = 32;

/// Where nodes were met last, by the address book of a folder.
pub(crate) fn places(folder: &RealmFolder) -> Vec<Place> {
    let kept = KeptBook::open_in(folder);
    let nodes = kept.book().nodes().map(|(node, addresses)| Place {
        node: Some(*node),
        addresses: addresses.clone(),
    });
    let named = kept.book().named().map(|address| Place {
        node: None,
        addresses: vec![address.clone()],
    });
    nodes.chain(named).collect()
}

/// Who may connect, and where they were met.
#[derive(Clone, PartialEq, Eq, Default)]
struct Admitted {
    admission: Admission,
    addresses: BTreeMap<PublicKey, Vec<String>>,
}

/// One after the other, and the newest only: an admission that was overtaken is nobody's.
async fn keep_admitting(net: Handle, mut asked: watch::Receiver<Admitted>) {
    loop {
        let admitted = asked.borrow_and_update().clone();
        if net.admit(admitted.admission).await.is_err() {
            return;
        }
        // The network keeps addresses of members alone.
        for (node, addresses) in admitted.addresses {
            while let Err(realm_net::Error::Overloaded) = net.addresses(node, addresses.clone()) {
                tokio::time::sleep(OVERLOADED_PAUSE).await;
            }
        }
        if asked.changed().await.is_err() {
            return;
        }
    }
}
