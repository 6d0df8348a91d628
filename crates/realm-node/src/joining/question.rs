//! One question of a machine that waits to one member, from the dialling to the proven chain. Each runs
//! in a task of its own and ends in bounded time, whatever the other side does. Not here: who is
//! asked, and when.

use std::sync::Arc;
use std::time::Duration;

use realm_control::Ledger;
use realm_model::entry::RealmId;
use realm_model::join::{Answer, Approved, Ask, Page, Refused, Request, Waiting};
use realm_model::key::PublicKey;
use realm_net::{Handle, Transport as _};
use tokio::sync::Semaphore;

use super::chain::{CHAIN_BYTES_MAX, ChainError, Expected};
use super::exchange::{self, ask};

/// Pages of one answer.
const PAGES_MAX: usize = 4_096;
/// Until a member answers: a dial through a relay and a slow line.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);
/// A whole chain: 64 MiB at 5 Mbit/s.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(120);

/// A question.
pub(super) struct Question {
    pub(super) net: Handle,
    pub(super) expected: Expected,
    pub(super) ask: Ask,
    /// One chain of a realm is taken at a time: each may need [`CHAIN_BYTES_MAX`] of memory.
    pub(super) chains: Arc<Semaphore>,
}

/// What a member said.
pub(super) enum Asked {
    /// The machine is a node by this chain.
    Approved(Box<Ledger>, Vec<Vec<u8>>),
    /// An owner decides.
    Pending(RealmId, Duration),
    Refused(Refused),
}

/// A member could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the address names no key")]
    NoKey,
    #[error("not reached")]
    Net(#[from] realm_net::Error),
    #[error("not understood")]
    Exchange(#[from] exchange::ExchangeError),
    #[error("its answer does not prove itself")]
    Chain(#[from] ChainError),
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
}

/// Leave to take chains of one realm.
pub(super) fn one_chain() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

impl Question {
    /// Asks the member at an address.
    pub(super) async fn ask(self, address: &str) -> Result<Asked, AskError> {
        let asking = tokio::time::timeout(ANSWER_TIMEOUT, self.first(address));
        let (peer, answer) = asking.await.map_err(|_| AskError::Timeout)??;
        match answer {
            Answer::Pending(Waiting {
                realm,
                retry_after_s,
            }) => Ok(Asked::Pending(
                realm,
                Duration::from_secs(retry_after_s.into()),
            )),
            Answer::Refused(refused) => Ok(Asked::Refused(refused)),
            Answer::Taken => Err(ChainError::Odd("an answer to another question".into()).into()),
            Answer::Approved(first) => {
                let leave = self.chains.acquire().await;
                let _leave = leave.expect("nobody closes it");
                let taking = tokio::time::timeout(CHAIN_TIMEOUT, self.pages(peer, first));
                let entries = taking.await.map_err(|_| ChainError::TooSlow)??;
                let expected = self.expected.clone();
                let checking = tokio::task::spawn_blocking(move || {
                    let ledger = expected.check(&entries)?;
                    Ok::<_, ChainError>(Asked::Approved(Box::new(ledger), entries))
                });
                Ok(checking.await.map_err(|_| ChainError::Broken)??)
            }
        }
    }

    async fn first(&self, address: &str) -> Result<(PublicKey, Answer), AskError> {
        let peer = match address.strip_prefix("/p2p/") {
            Some(peer) => PublicKey::from_peer_id(peer).map_err(|_| AskError::NoKey)?,
            None => self.net.dial(address).await?,
        };
        let request = Request::Ask(self.ask.clone());
        Ok((peer, ask(&self.net, peer, &request).await?))
    }

    /// The whole authority chain, page by page.
    async fn pages(&self, peer: PublicKey, first: Approved) -> Result<Vec<Vec<u8>>, ChainError> {
        let realm = self.expected.realm;
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
}
