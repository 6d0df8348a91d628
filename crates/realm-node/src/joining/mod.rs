//! From a machine to a node: a realm folder without a realm, which asks to join until an owner
//! approved its key, and then holds the realm's authority chain.
//!
//! What members say is believed as far as it proves itself: the genesis is the realm's id, entries
//! carry signatures, the ticket's floor must be among them. Not here: the member's side.

mod chain;
mod exchange;
mod file;
mod offers;
mod question;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use realm_model::address::NodeAddress;
use realm_model::entry::{RealmId, VerifiedEntry};
use realm_model::join::{Answer, Ask, JoinCode, Refused, Request};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::name::NodeName;
use realm_model::ticket::Ticket;
use realm_net::{Event, Handle, Incoming, Protocol, Stream};
use realm_store::files::{Files as _, RealFiles};
use realm_store::folder::{RealmFolder, write_atomic, write_secret};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::error::{NodeError, with_causes};
use crate::found::{FoundError, parent, place, temporary_beside};
use crate::identity::node_key;
use crate::journal::{Journal, JournalError};
use crate::network::KeptBook;
use crate::places::Places;

use chain::{Expected, founded_by};
pub(crate) use exchange::{answer, ask, hear};
use file::JoinFile;
pub use file::JoinFileError;
use question::{AskError, Asked, Question};
use turns::{Origin, SPEAKERS_MAX};

/// How often a member is asked while nothing else is said.
const ASK_INTERVAL: Duration = Duration::from_secs(3);
/// The longest that a member may put off the next question.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// What a machine that wants to be a node is made of.
pub struct Joiner<'a> {
    /// Where the realm folder will be; nothing may be there.
    pub folder: PathBuf,
    /// The node's key.
    pub node: &'a SecretKey,
    /// The name that it proposes.
    pub name: NodeName,
    /// Tags that it proposes.
    pub tags: Vec<NodeName>,
    /// The invitation; none: it waits for an owner.
    pub ticket: Option<Ticket>,
    /// The owner whose realm alone it joins, without a ticket; none: whoever approves it first.
    pub owner: Option<PublicKey>,
}

/// What happens while a machine joins, for whoever started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joining {
    /// It listens here.
    Listening(String),
    /// A realm offers itself.
    Offered(RealmId),
    /// A member listed it: an owner decides.
    Pending(RealmId),
    /// A member refused it, or was not reached; it goes on.
    Trouble(String),
    /// It is a node of the realm under this name.
    Joined(RealmId, NodeName),
}

/// A machine could not become a node.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Its file.
    #[error(transparent)]
    File(#[from] JoinFileError),
    /// The network.
    #[error("failed to start the network")]
    Net(#[from] realm_net::Error),
    /// The log.
    #[error("failed to write the log of the realm")]
    Journal(#[from] JournalError),
}

/// Makes the realm folder of a machine that wants to be a node. It is whole or not there.
pub fn prepare(joiner: &Joiner<'_>) -> Result<(), FoundError> {
    let parent = parent(&joiner.folder);
    RealFiles.create_dir(parent).map_err(FoundError::Place)?;
    let temporary = temporary_beside(&joiner.folder, parent).map_err(FoundError::Place)?;
    let folder = RealmFolder::create(temporary.path().to_owned())?;
    let key = Zeroizing::new(format!("{}\n", joiner.node.to_text().as_str()));
    write_secret(&folder.node_key(), key.as_bytes())?;
    let settings = format!(
        "# What belongs to this machine and its operator. docs/manifest.md describes every key.\n\
         name = \"{}\"\n",
        joiner.name
    );
    write_atomic(&folder.node_config(), settings.as_bytes())?;
    let file = JoinFile::new(joiner.ticket.as_ref(), joiner.owner, joiner.tags.clone());
    file.write(&folder)?;
    place(temporary.path(), &joiner.folder).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            FoundError::Exists {
                path: joiner.folder.clone(),
            }
        } else {
            FoundError::Place(error)
        }
    })?;
    let _ = temporary.keep();
    RealFiles.sync_dir(parent).map_err(FoundError::Place)
}

/// Whether the machine of this folder waits to become a node.
pub fn is_joining(folder: &RealmFolder) -> bool {
    JoinFile::is_there(folder)
}

/// The realm that the machine of this folder was invited into, or that alone made an offer.
pub fn realm_of(folder: &RealmFolder) -> Option<RealmId> {
    JoinFile::read(folder).ok()?.realm()
}

/// Asks until the machine is a node. When this returns, its folder is that of a node.
pub async fn join(config: &Config, mut tell: impl FnMut(Joining)) -> Result<(), NodeError> {
    let folder = &config.folder;
    let _lock = folder.lock()?;
    let key = node_key(folder)?;
    let mut file = JoinFile::read(folder).map_err(JoinError::from)?;
    for tag in config.node.tags.iter().filter_map(|tag| tag.parse().ok()) {
        if !file.tags.contains(&tag) {
            file.tags.push(tag);
        }
    }
    let name = config
        .node
        .name
        .clone()
        .unwrap_or_else(crate::found::host_name);
    let spawned = crate::network::spawn(&config.node.p2p, &key, None);
    let (net, mut events) = spawned.map_err(JoinError::from)?;
    let (said, heard) = mpsc::channel(SPEAKERS_MAX);
    let mut machine = Machine {
        folder,
        key: key.public(),
        name,
        file,
        listening: Vec::new(),
        net: net.clone(),
        said,
        turns: turns::turns(),
        asked: BTreeMap::new(),
        questions: JoinSet::new(),
        talks: JoinSet::new(),
        chains: BTreeMap::new(),
    };
    let joined = machine.run(&mut events, heard, &mut tell).await;
    // Who holds a stream holds the connection, and that the port, which the node wants next.
    machine.questions.shutdown().await;
    machine.talks.shutdown().await;
    drop(machine);
    drop(events);
    net.stop().await;
    let (realm, name) = joined?;
    tell(Joining::Joined(realm, name));
    Ok(())
}

/// The state of a machine that asks.
struct Machine<'a> {
    folder: &'a RealmFolder,
    key: PublicKey,
    name: NodeName,
    file: JoinFile,
    listening: Vec<NodeAddress>,
    net: Handle,
    said: mpsc::Sender<Said>,
    turns: Places<Origin>,
    asked: BTreeMap<Member, Turn>,
    questions: JoinSet<(Member, Result<Asked, AskError>)>,
    /// With strangers.
    talks: JoinSet<()>,
    chains: BTreeMap<RealmId, Arc<Semaphore>>,
}

/// A realm, and an address where it is asked.
type Member = (RealmId, String);

/// When a member is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It is being asked.
    Asking,
    /// Not before this time.
    Due(Instant),
}

/// What a stranger said, and where it waits for the answer.
struct Said {
    from: PublicKey,
    origin: Origin,
    request: Request,
    stream: Stream,
}

impl Machine<'_> {
    async fn run(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        mut heard: mpsc::Receiver<Said>,
        tell: &mut impl FnMut(Joining),
    ) -> Result<(RealmId, NodeName), JoinError> {
        loop {
            let next = self.ask_due()?;
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.heard(event, tell),
                    None => return Err(realm_net::Error::Stopped.into()),
                },
                Some(said) = heard.recv() => self.answer(said, tell)?,
                Some(done) = self.questions.join_next() => {
                    // A question that panicked leaves its member asked for ever: that is said, not hidden.
                    let Ok((member, answer)) = done else {
                        tell(Joining::Trouble("a question broke off".to_owned()));
                        continue;
                    };
                    if let Some(joined) = self.answered(member, answer, tell)? {
                        return Ok(joined);
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Deals with news of the network.
    fn heard(&mut self, event: Event, tell: &mut impl FnMut(Joining)) {
        match event {
            Event::Listening { address } => {
                if let Ok(written) = realm_model::address::read(&address) {
                    self.listening.push(written.address);
                }
                tell(Joining::Listening(address));
            }
            Event::Expired { address } => {
                self.listening.retain(|one| one.to_string() != address);
            }
            Event::ListenFailed { address, reason } => {
                tell(Joining::Trouble(format!(
                    "cannot listen on {address}: {reason}"
                )));
            }
            Event::Stream {
                from,
                protocol: Protocol::Join,
                incoming,
                address,
                ..
            } => self.listen_to(from, turns::origin(&address), incoming),
            // Without a realm there are neither members nor clients.
            Event::Stream { .. }
            | Event::Up { .. }
            | Event::Down { .. }
            | Event::Hint(_)
            | Event::Request { .. }
            | Event::Found { .. }
            | Event::Reachability { .. }
            | Event::Restarted { .. } => {}
        }
    }

    /// Reads what a stranger says, beside everything else: it may take its time. Who comes while
    /// too many speak is not heard.
    fn listen_to(&mut self, from: PublicKey, origin: Origin, incoming: Incoming) {
        let Some(turn) = self.turns.take(origin, 0) else {
            return;
        };
        let said = self.said.clone();
        self.talk(async move {
            let Ok(mut stream) = incoming.accept().await else {
                return;
            };
            match hear(&mut stream).await {
                Ok(request) => {
                    let said = said.try_send(Said {
                        from,
                        origin,
                        request,
                        stream,
                    });
                    // As many fit as may speak; only a machine that is done takes none.
                    drop(said);
                }
                Err(error) => {
                    if let Some(reply) = error.answer() {
                        let _ = answer(&mut stream, &reply).await;
                    }
                }
            }
            drop(turn);
        });
    }

    /// Talks beside everything else, and no longer than this machine waits.
    fn talk(&mut self, with: impl Future<Output = ()> + Send + 'static) {
        while self.talks.try_join_next().is_some() {}
        self.talks.spawn(with);
    }

    /// Deals with what a stranger said.
    fn answer(&mut self, said: Said, tell: &mut impl FnMut(Joining)) -> Result<(), JoinError> {
        let Said {
            from,
            origin,
            request,
            mut stream,
        } = said;
        let reply = self.offered((from, origin), request, tell)?;
        self.talk(async move {
            // Whoever hung up makes the offer again.
            let _ = answer(&mut stream, &reply).await;
        });
        Ok(())
    }

    fn offered(
        &mut self,
        (from, origin): (PublicKey, Origin),
        request: Request,
        tell: &mut impl FnMut(Joining),
    ) -> Result<Answer, JoinError> {
        let refused = |code, message: &str| Answer::Refused(Refused::new(code, message, None));
        let Request::Offer(offer) = request else {
            return Ok(refused(JoinCode::NoRealm, "this machine has no realm yet"));
        };
        let genesis = match VerifiedEntry::genesis(&offer.genesis, Some(offer.realm)) {
            Ok(genesis) => genesis,
            Err(error) => return Ok(refused(JoinCode::Malformed, &error.message)),
        };
        if self
            .file
            .ticket()
            .is_some_and(|ticket| ticket.realm != offer.realm)
        {
            return Ok(refused(
                JoinCode::NotExpected,
                "this machine was invited into another realm",
            ));
        }
        // Another realm may have come to this owner since: only its chain can tell.
        let owner = self.file.owner;
        let founded = owner.is_some_and(|owner| founded_by(&genesis, owner));
        // The connection of the offer is a way back, whatever the addresses are worth.
        let mut addresses = vec![format!("/p2p/{}", from.peer_id())];
        let may_ask = |address: &&NodeAddress| offers::may_ask(address, origin);
        let offered = offer.addresses.iter().filter(may_ask);
        addresses.extend(offered.map(ToString::to_string));
        let now = Instant::now();
        let made = (offer.realm, founded);
        if !offers::note(&mut self.file.offers, made, &addresses, origin, now) {
            return Ok(refused(
                JoinCode::NotExpected,
                "this machine considers other realms already",
            ));
        }
        self.keep()?;
        // Whoever was put off is asked at once.
        let here = self.asked.iter_mut();
        for (_, turn) in
            here.filter(|((realm, _), turn)| *realm == offer.realm && **turn != Turn::Asking)
        {
            *turn = Turn::Due(now);
        }
        tell(Joining::Offered(offer.realm));
        Ok(Answer::Taken)
    }

    /// Asks the members that are due, each beside all else; returns when the next one is.
    fn ask_due(&mut self) -> Result<Instant, JoinError> {
        let now = Instant::now();
        if offers::expire(&mut self.file.offers, now) {
            self.keep()?;
        }
        let members = self.members();
        self.asked.retain(|member, _| members.contains(member));
        let mut next = now + RETRY_MAX;
        for member in members {
            let turn = self.asked.entry(member.clone()).or_insert(Turn::Due(now));
            match *turn {
                Turn::Asking => {}
                Turn::Due(at) if at > now => next = next.min(at),
                Turn::Due(_) => {
                    *turn = Turn::Asking;
                    let question = self.question(member.0);
                    self.questions.spawn(async move {
                        let answer = question.ask(&member.1).await;
                        (member, answer)
                    });
                }
            }
        }
        Ok(next)
    }

    fn question(&mut self, realm: RealmId) -> Question {
        let ticket = self.file.ticket().filter(|ticket| ticket.realm == realm);
        let voucher = ticket.as_ref().and_then(|ticket| ticket.voucher.as_ref());
        Question {
            net: self.net.clone(),
            expected: Expected {
                realm,
                floor: ticket.as_ref().map(|ticket| ticket.floor),
                owner: self.file.owner,
                node: self.key,
            },
            ask: Ask {
                realm: Some(realm),
                name: self.name.clone(),
                tags: self.file.tags.clone(),
                addresses: self.listening.clone(),
                agent: env!("CARGO_PKG_VERSION").to_owned(),
                proof: voucher.map(|voucher| voucher.proof(realm, &self.key)),
                from: 0,
            },
            chains: Arc::clone(self.chains.entry(realm).or_insert_with(question::one_chain)),
        }
    }

    /// Deals with what a member answered; returns the realm and the name, if it approved.
    fn answered(
        &mut self,
        member: Member,
        answer: Result<Asked, AskError>,
        tell: &mut impl FnMut(Joining),
    ) -> Result<Option<(RealmId, NodeName)>, JoinError> {
        let (realm, address) = &member;
        let pause = match answer {
            Ok(Asked::Approved(ledger, entries)) => {
                self.remember(address);
                self.persist(&entries)?;
                let name = ledger.authority().name_of(&self.key).cloned();
                return Ok(name.map(|name| (*realm, name)));
            }
            Ok(Asked::Pending(answered, wait)) => {
                if offers::answered(&mut self.file.offers, *realm, Instant::now()) {
                    self.keep()?;
                }
                tell(Joining::Pending(answered));
                wait.clamp(ASK_INTERVAL, RETRY_MAX)
            }
            Ok(Asked::Refused(refused)) => {
                let wait = refused.retry_after_s.map(|s| Duration::from_secs(s.into()));
                tell(Joining::Trouble(format!(
                    "{address} refuses: {} ({}); {}",
                    refused.message,
                    refused.code,
                    refused.code.hint()
                )));
                wait.unwrap_or(RETRY_MAX).clamp(ASK_INTERVAL, RETRY_MAX)
            }
            Err(error) => {
                let reason = with_causes(&error);
                tell(Joining::Trouble(format!("{address}: {reason}")));
                ASK_INTERVAL
            }
        };
        if let Some(turn) = self.asked.get_mut(&member) {
            *turn = Turn::Due(Instant::now() + pause);
        }
        Ok(None)
    }

    fn keep(&self) -> Result<(), JoinError> {
        self.file.write(self.folder).map_err(JoinFileError::from)?;
        Ok(())
    }

    fn members(&self) -> BTreeSet<Member> {
        let invited = self.file.ticket().map(|ticket| {
            let addresses = ticket.addresses.iter();
            let addresses: Vec<_> = addresses.map(|a| (ticket.realm, a.to_string())).collect();
            addresses
        });
        let offered = self.file.offers.iter().flat_map(|offer| {
            offer
                .addresses
                .iter()
                .map(|address| (offer.realm, address.clone()))
        });
        invited.into_iter().flatten().chain(offered).collect()
    }

    /// Notes where members answer, for the node that this machine becomes.
    fn remember(&self, answered: &str) {
        let mut kept = KeptBook::open_in(self.folder);
        let known = self.members().into_iter().map(|(_, address)| address);
        // The last one that is learned of a key is tried first: that is the one that answered.
        for address in known.chain([answered.to_owned()]) {
            let Ok(written) = realm_model::address::read(&address) else {
                continue;
            };
            match written.address.peer {
                Some(node) => {
                    let bare = written.address.without_peer().to_string();
                    kept.book_mut().add(node, bare);
                }
                None => {
                    kept.book_mut().name(&address);
                }
            }
        }
        kept.save();
    }

    /// Writes the chain, and then is no longer a machine that waits. A crash in between begins again.
    fn persist(&self, entries: &[Vec<u8>]) -> Result<(), JoinError> {
        Journal::adopt(self.folder, entries)?;
        JoinFile::remove(self.folder)?;
        Ok(())
    }
}
