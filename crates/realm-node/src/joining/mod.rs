//! From a machine to a node: a realm folder without a realm, which asks to join until an owner
//! approved its key, and then holds the realm's authority chain.
//!
//! What members say is believed as far as it proves itself: the genesis is the realm's id, entries
//! carry signatures, the ticket's floor must be among them. Not here: the member's side.

mod exchange;
mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use realm_control::Ledger;
use realm_model::address::NodeAddress;
use realm_model::entry::{ChainId, Head, RealmId, VerifiedEntry};
use realm_model::join::{Answer, Approved, Ask, JoinCode, Page, Refused, Request, Waiting};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::name::NodeName;
use realm_model::refusal::Refusal;
use realm_model::ticket::Ticket;
use realm_net::{Event, Handle, Incoming, Protocol, Stream, Transport as _};
use realm_store::files::{Files as _, RealFiles};
use realm_store::folder::{RealmFolder, write_atomic, write_secret};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::error::{NodeError, with_causes};
use crate::found::{FoundError, parent, place, temporary_beside};
use crate::identity::node_key;
use crate::journal::{Journal, JournalError};
use crate::network::KeptBook;

pub(crate) use exchange::{answer, ask, hear};
use file::JoinFile;
pub use file::JoinFileError;

/// How often a member is asked while nothing else is said.
const ASK_INTERVAL: Duration = Duration::from_secs(3);
/// The longest that a member may put off the next question.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Bytes of an authority chain that are taken from a stranger: hundreds of thousands of approvals.
const CHAIN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Strangers that speak at once.
const SPEAKERS_MAX: usize = 16;
/// Pages of one answer.
const PAGES_MAX: usize = 4_096;

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

/// A chain that a member sent does not do.
#[derive(Debug, thiserror::Error)]
enum ChainError {
    #[error("an entry of the authority chain is refused")]
    Refused(#[from] Refusal),
    #[error("the authority chain does not hold")]
    Replay(#[from] realm_control::ReplayError),
    #[error("the authority chain is empty")]
    Empty,
    #[error(
        "the authority chain does not contain entry {0} of the ticket: it was set back, or is another one"
    )]
    BelowFloor(u64),
    #[error("the realm's owners are not the one that this machine waits for")]
    OtherOwner,
    #[error("the chain does not approve this machine's key")]
    NotApproved,
    #[error("the authority chain is larger than {CHAIN_BYTES_MAX} bytes")]
    TooLarge,
    #[error("a member did not answer")]
    Exchange(#[from] exchange::ExchangeError),
    #[error("a member answered something else: {0}")]
    Odd(String),
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
        turns: Arc::new(Semaphore::new(SPEAKERS_MAX)),
    };
    let joined = machine.run(&mut events, heard, &mut tell).await;
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
    turns: Arc<Semaphore>,
}

/// What a stranger said, and where it waits for the answer.
struct Said {
    from: PublicKey,
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
        let mut next = Instant::now();
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.heard(event, tell),
                    None => return Err(realm_net::Error::Stopped.into()),
                },
                Some(said) = heard.recv() => {
                    if self.answer(said, tell)? {
                        next = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    let (joined, pause) = self.ask_all(tell).await?;
                    if let Some(joined) = joined {
                        return Ok(joined);
                    }
                    next = Instant::now() + pause;
                }
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
            Event::ListenFailed { address, reason } => {
                tell(Joining::Trouble(format!(
                    "cannot listen on {address}: {reason}"
                )));
            }
            Event::Stream {
                from,
                protocol: Protocol::Join,
                incoming,
                ..
            } => self.listen_to(from, incoming),
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
    fn listen_to(&self, from: PublicKey, incoming: Incoming) {
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            return;
        };
        let said = self.said.clone();
        tokio::spawn(async move {
            let Ok(mut stream) = incoming.accept().await else {
                return;
            };
            match hear(&mut stream).await {
                Ok(request) => {
                    let said = said.try_send(Said {
                        from,
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

    /// Deals with what a stranger said; returns whether somebody is to be asked at once.
    fn answer(&mut self, said: Said, tell: &mut impl FnMut(Joining)) -> Result<bool, JoinError> {
        let Said {
            from,
            request,
            mut stream,
        } = said;
        let reply = self.offered(from, request, tell)?;
        let taken = matches!(reply, Answer::Taken);
        tokio::spawn(async move {
            // Whoever hung up makes the offer again.
            let _ = answer(&mut stream, &reply).await;
        });
        Ok(taken)
    }

    fn offered(
        &mut self,
        from: PublicKey,
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
        let owners = Ledger::found(genesis).authority().owners.clone();
        if self
            .file
            .owner
            .is_some_and(|owner| !owners.contains(&owner))
        {
            return Ok(refused(
                JoinCode::NotExpected,
                "this machine waits for another owner",
            ));
        }
        // The connection of the offer is a way back, whatever the addresses are worth.
        let back = std::iter::once(format!("/p2p/{}", from.peer_id()));
        let addresses = offer.addresses.iter().map(ToString::to_string).chain(back);
        if !self.file.offer(offer.realm, addresses) {
            return Ok(refused(
                JoinCode::NotExpected,
                "this machine considers other realms already",
            ));
        }
        self.file.write(self.folder).map_err(JoinFileError::from)?;
        tell(Joining::Offered(offer.realm));
        Ok(Answer::Taken)
    }

    /// Asks every member that is known; returns how long to wait if none approves.
    async fn ask_all(
        &mut self,
        tell: &mut impl FnMut(Joining),
    ) -> Result<(Option<(RealmId, NodeName)>, Duration), JoinError> {
        let mut pause = ASK_INTERVAL;
        for (realm, address) in self.members() {
            match self.ask_one(realm, &address, tell).await {
                Ok(Asked::Approved(ledger, entries)) => {
                    let name = ledger.authority().name_of(&self.key).cloned();
                    self.remember(&address);
                    self.persist(&entries)?;
                    return Ok((name.map(|name| (realm, name)), pause));
                }
                Ok(Asked::Wait(time)) => pause = pause.max(time.min(RETRY_MAX)),
                Err(error) => {
                    let reason = with_causes(&error);
                    tell(Joining::Trouble(format!("{address}: {reason}")));
                }
            }
        }
        Ok((None, pause))
    }

    fn members(&self) -> Vec<(RealmId, String)> {
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

    async fn ask_one(
        &self,
        realm: RealmId,
        address: &str,
        tell: &mut impl FnMut(Joining),
    ) -> Result<Asked, AskError> {
        let peer = match address.strip_prefix("/p2p/") {
            Some(peer) => PublicKey::from_peer_id(peer).map_err(|_| AskError::NoKey)?,
            None => self.net.dial(address).await?,
        };
        let ticket = self.file.ticket();
        let voucher = ticket.as_ref().and_then(|ticket| ticket.voucher.as_ref());
        let request = Request::Ask(Ask {
            realm: Some(realm),
            name: self.name.clone(),
            tags: self.file.tags.clone(),
            addresses: self.listening.clone(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            proof: voucher.map(|voucher| voucher.proof(realm, &self.key)),
            from: 0,
        });
        match ask(&self.net, peer, &request).await? {
            Answer::Pending(Waiting {
                realm: answered,
                retry_after_s,
            }) => {
                tell(Joining::Pending(answered));
                Ok(Asked::Wait(Duration::from_secs(retry_after_s.into())))
            }
            Answer::Approved(first) => {
                let floor = ticket
                    .filter(|ticket| ticket.realm == realm)
                    .map(|t| t.floor);
                let entries = self.pages(realm, peer, first).await?;
                let ledger = self.check(realm, floor, &entries)?;
                Ok(Asked::Approved(Box::new(ledger), entries))
            }
            Answer::Refused(refused) => {
                let wait = refused.retry_after_s.map(|s| Duration::from_secs(s.into()));
                tell(Joining::Trouble(format!(
                    "{address} refuses: {} ({}); {}",
                    refused.message,
                    refused.code,
                    refused.code.hint()
                )));
                Ok(Asked::Wait(wait.unwrap_or(RETRY_MAX)))
            }
            Answer::Taken => Err(ChainError::Odd("an answer to another question".into()).into()),
        }
    }

    /// The whole authority chain, page by page.
    async fn pages(
        &self,
        realm: RealmId,
        peer: PublicKey,
        first: Approved,
    ) -> Result<Vec<Vec<u8>>, ChainError> {
        let mut entries: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        let mut page = first;
        for _ in 0..PAGES_MAX {
            bytes += page.entries.iter().map(|entry| entry.len()).sum::<usize>();
            if bytes > CHAIN_BYTES_MAX {
                return Err(ChainError::TooLarge);
            }
            let more = page.more && !page.entries.is_empty();
            entries.extend(page.entries.into_iter().map(Vec::from));
            if !more {
                return Ok(entries);
            }
            let from = entries.len() as u64;
            page = match ask(&self.net, peer, &Request::Page(Page { realm, from })).await? {
                Answer::Approved(page) if page.from == from => page,
                Answer::Refused(refused) => return Err(ChainError::Odd(refused.message)),
                Answer::Approved(_) | Answer::Pending(_) | Answer::Taken => {
                    return Err(ChainError::Odd(
                        "another page than was asked for".to_owned(),
                    ));
                }
            };
        }
        Err(ChainError::TooLarge)
    }

    fn check(
        &self,
        realm: RealmId,
        floor: Option<Head>,
        entries: &[Vec<u8>],
    ) -> Result<Ledger, ChainError> {
        let genesis = entries.first().ok_or(ChainError::Empty)?;
        VerifiedEntry::genesis(genesis, Some(realm))?;
        let records = [(ChainId::Authority, entries.to_vec())].into();
        let ledger = Ledger::replay(&records, &BTreeMap::new())?.ledger;
        let authority = ledger.authority();
        if let Some(floor) = floor
            && ledger.hash_at(ChainId::Authority, floor.seq) != Some(floor.hash)
        {
            return Err(ChainError::BelowFloor(floor.seq));
        }
        if self
            .file
            .owner
            .is_some_and(|owner| !authority.owners.contains(&owner))
        {
            return Err(ChainError::OtherOwner);
        }
        if authority.name_of(&self.key).is_none() {
            return Err(ChainError::NotApproved);
        }
        Ok(ledger)
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

/// What a member said.
enum Asked {
    Approved(Box<Ledger>, Vec<Vec<u8>>),
    Wait(Duration),
}

/// A member could not be asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the address names no key")]
    NoKey,
    #[error("not reached")]
    Net(#[from] realm_net::Error),
    #[error("not understood")]
    Exchange(#[from] exchange::ExchangeError),
    #[error("its answer does not prove itself")]
    Chain(#[from] ChainError),
}
