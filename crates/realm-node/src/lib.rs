//! Where everything meets: one event loop, the executor, the control API, logs and metrics.
//!
//! Decisions are `realm_control`'s, deeds are those of host, store and edge; this crate knows all
//! of them and introduces them to each other. Nothing below knows this crate. Not here: what a
//! person sees (the CLI).

#![forbid(unsafe_code)]

mod client;
mod config;
mod connect;
mod error;
mod identity;
mod node;
mod socket;
mod tls;

pub mod certificates;
pub mod doctor;
mod fastcgi;
pub mod found;
pub mod sealing;
pub mod standalone;

mod core;
mod event;
mod executor;

mod backend;
mod clock;
mod compile;
mod jobs;
pub mod joining;
mod journal;
mod keeper;
mod lending;
mod pace;
mod replica;
mod rings;
mod run;
mod secrets;
mod serving;
mod stores;

mod access;
mod api;
mod audit;
mod haste;
mod listen;
mod machine;
mod metrics;
mod network;
mod page;
mod places;
#[cfg(debug_assertions)]
mod planted;
mod remote;
mod traffic;
mod upstream;

use std::time::{SystemTime, UNIX_EPOCH};

use realm_model::api::{AskPlacement, Heads};
use realm_model::entry::NamespaceName;
use realm_model::refusal::Refusal;
use realm_model::why::PlacementView;
use realm_store::folder::RealmFolder;

pub use client::{Client, ClientError, Signer};
pub use compile::{COMPILE_VERB, CompileFailure, compile_child};
pub use config::{Config, ConfigError};
pub use connect::{Connect, Connecting, Goodbye, Peer, PeerError, Place, Stream, Tls};
pub use error::NodeError;
pub use identity::{Identity, IdentityError};
pub use journal::JournalError;
pub use node::{Node, Prepared};
pub use remote::{Terminal, attach};
pub use tls::{PemPair, TlsError, pem_pair};

/// Where the realm stands by the log in its folder, for when no agent runs. Changes nothing.
pub fn offline_heads(
    folder: &RealmFolder,
    namespace: Option<NamespaceName>,
) -> Result<Heads, IdentityError> {
    let ledger = journal::Journal::read_only(folder)?;
    let key = identity::node_key(folder)?.public();
    let name = ledger.authority().name_of(&key).cloned();
    Ok(core::heads(
        &ledger,
        &name.unwrap_or_else(found::host_name),
        key,
        namespace,
    ))
}

/// What would run where with another manifest, as the log of a realm folder has it. Changes nothing.
pub fn offline_placement(
    folder: &RealmFolder,
    asked: &AskPlacement,
) -> Result<Result<PlacementView, Refusal>, IdentityError> {
    let ledger = journal::Journal::read_only(folder)?;
    let key = identity::node_key(folder)?.public();
    let name = ledger.authority().name_of(&key).cloned();
    let name = name.unwrap_or_else(found::host_name);
    Ok(core::Prospect::offline(&ledger, name).placement(asked))
}

/// The nodes of a realm, as its folder knows them without an agent.
pub struct OfflineNodes {
    /// The realm.
    pub realm: realm_model::entry::RealmId,
    /// Approved nodes.
    pub nodes: std::collections::BTreeMap<realm_model::name::NodeName, realm_model::key::PublicKey>,
    /// Where they were met last.
    pub places: Vec<Place>,
}

/// Reads the log and the address book of a realm folder. Changes nothing.
pub fn offline_nodes(folder: &RealmFolder) -> Result<OfflineNodes, IdentityError> {
    let ledger = journal::Journal::read_only(folder)?;
    let authority = ledger.authority();
    let nodes = authority.nodes.iter();
    Ok(OfflineNodes {
        realm: authority.realm,
        nodes: nodes.map(|(name, node)| (name.clone(), node.key)).collect(),
        places: network::places(folder),
    })
}

/// Who belongs to the realm, as the log in its folder has it. Changes nothing.
pub fn offline_authority(folder: &RealmFolder) -> Result<realm_control::Authority, IdentityError> {
    let ledger = journal::Journal::read_only(folder)?;
    Ok(ledger.authority().clone())
}

/// The public key of the node of a realm folder.
pub fn node_key_of(folder: &RealmFolder) -> Result<realm_model::key::PublicKey, IdentityError> {
    Ok(identity::node_key(folder)?.public())
}

/// The clock on the wall, in milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Chooses the cryptography of TLS for the whole process; call it once, first.
///
/// Two libraries in one binary may bring two providers, and then TLS refuses to guess.
pub fn install_crypto_provider() {
    // An error says that one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
