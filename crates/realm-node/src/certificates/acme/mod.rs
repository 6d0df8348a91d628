//! Certificates that an authority gives by ACME (RFC 8555): for which names, when one is ordered, and
//! when again.
//!
//! One order at a time, after the other nodes were asked. Not the conversation with the authority, which is `order`'s, nor whether a
//! certificate is shown: it is written into a folder, and what lies there is shown.

mod client;
pub(super) mod due;
mod order;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use realm_edge::tls::{Certificate, Validity};
use realm_model::node_config::{ACME_NAMES_MAX, AcmeChallenge, AcmeSettings};
use realm_model::record::ACME_FAILED;
use realm_store::folder::{read_small, replace_secret};
use tokio::sync::watch;

use super::among::{self, Said};
use super::{Known, Shared, dev, now_s};
use crate::error::with_causes;
use due::{Due, due};
use order::OrderError;

pub(super) const FILE_BYTES_MAX: u64 = 256 * 1024;
/// However far the next order is, clocks are set and files are removed.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);
/// While another node is to order one.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// Each node that comes before this one has so long to get one.
const TURN: Duration = Duration::from_secs(120);
/// After a start, the others are waited for: for so long, if there are any.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(15);
const PEER_INTERVAL: Duration = Duration::from_millis(200);
/// An order that an authority does not come to an end with.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);

/// What is said where there is nothing to order.
pub(super) const NAMELESS: &str = "`[tls.acme]` orders nothing: no route names a host that an authority of the internet can look at, and `names` is not there";
pub(super) const NAMELESS_REMEDY: &str = "name hosts in the manifest, `\"shop.example.com\" = [..]` under [routing], or in `names` under [tls.acme]";

/// What is ordered from one authority.
pub(super) struct Orders {
    settings: AcmeSettings,
    challenge: AcmeChallenge,
    /// Since when another one is to order.
    waiting: BTreeMap<String, Instant>,
    shared: Arc<Shared>,
    failed: BTreeMap<String, Failed>,
}

/// An order that came to nothing.
struct Failed {
    times: u32,
    at_s: i64,
}

/// The certificates that were ordered for these names, and for which each is; `None`: which names there are
/// is not known yet, and those of the last run are shown meanwhile.
pub(super) fn files(own: &Path, names: Option<Vec<String>>) -> Vec<(String, PathBuf)> {
    let names = names.unwrap_or_else(|| {
        let entries = std::fs::read_dir(folder(own)).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let names = paths.filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(".pem")?;
            Some(name.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.truncate(ACME_NAMES_MAX);
        names
    });
    let files = names.into_iter().map(|name| {
        let path = file(own, &name);
        (name, path)
    });
    files.filter(|(_, path)| path.exists()).collect()
}

fn folder(own: &Path) -> PathBuf {
    own.join("acme")
}

/// `name` is a host name: it has no `/`, and is not `..`.
pub(super) fn file(own: &Path, name: &str) -> PathBuf {
    folder(own).join(format!("{name}.pem"))
}

impl Orders {
    pub(super) fn new(
        settings: AcmeSettings,
        challenge: AcmeChallenge,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            settings,
            challenge,
            waiting: BTreeMap::new(),
            shared,
            failed: BTreeMap::new(),
        }
    }

    /// Orders what is due, for ever.
    pub(super) async fn run(mut self) {
        let mut known = self.shared.known.subscribe();
        self.wait_for_others(&mut known).await;
        loop {
            known.mark_unchanged();
            let names = self.shared.names();
            self.forget(&names);
            let mut wait = LOOK_INTERVAL;
            let mut has_ordered = false;
            for name in names {
                match self.due(&name, now_s()) {
                    Due::In(seconds) => wait = wait.min(Duration::from_secs(seconds)),
                    Due::Now if self.is_for_others(&name).await => wait = wait.min(ASK_INTERVAL),
                    Due::Now => {
                        self.order(&name).await;
                        has_ordered = true;
                    }
                }
            }
            if has_ordered {
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = known.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// One of them may have what is wanted, or orders it as well.
    async fn wait_for_others(&self, known: &mut watch::Receiver<Known>) {
        let waiting = async {
            if known.wait_for(|known| known.hosts.is_some()).await.is_ok()
                && self.settings.shared
                && known.borrow().others > 0
            {
                while self.shared.peers.others() == 0 {
                    tokio::time::sleep(PEER_INTERVAL).await;
                }
            }
        };
        let _ = tokio::time::timeout(OTHERS_TIMEOUT, waiting).await;
    }

    /// Whether another node is to order a certificate, or has given its own.
    async fn is_for_others(&mut self, name: &str) -> bool {
        if !self.settings.shared {
            return false;
        }
        match among::ask(&self.shared, name).await {
            Said::Given(text) => match self.keep(name, &text) {
                Ok(()) => {
                    self.well(name);
                    true
                }
                Err(error) => {
                    let reason = with_causes(&error);
                    tracing::warn!(name, reason, "what another node gave cannot be kept");
                    false
                }
            },
            Said::Nobody { before: 0 } => false,
            Said::Nobody { before } => {
                let steps = u32::try_from(before).unwrap_or(u32::MAX);
                let patience = TURN.saturating_mul(steps);
                let since = self
                    .waiting
                    .entry(name.to_owned())
                    .or_insert_with(Instant::now);
                since.elapsed() < patience
            }
        }
    }

    fn keep(&self, name: &str, text: &[u8]) -> Result<(), OrderError> {
        let own = &self.shared.own;
        dev::create(&folder(own)).map_err(|error| OrderError::Keep(Box::new(error)))?;
        replace_secret(&file(own, name), text).map_err(|error| OrderError::Keep(Box::new(error)))
    }

    /// There is one.
    fn well(&mut self, name: &str) {
        self.failed.remove(name);
        self.waiting.remove(name);
        self.shared.tell(&trouble_of(name), None);
        self.shared.changed.notify_one();
    }

    /// What nobody wants any more is no trouble.
    fn forget(&mut self, names: &[String]) {
        self.waiting.retain(|name, _| names.contains(name));
        self.failed.retain(|name, _| {
            let is_wanted = names.contains(name);
            if !is_wanted {
                self.shared.tell(&trouble_of(name), None);
            }
            is_wanted
        });
    }

    fn due(&self, name: &str, now_s: i64) -> Due {
        let has = self.validity(name);
        let failed = self.failed.get(name);
        due(
            name,
            has,
            failed.map(|failed| (failed.times, failed.at_s)),
            now_s,
        )
    }

    /// That of the certificate that there is for a name.
    fn validity(&self, name: &str) -> Option<Validity> {
        let bytes = read_small(&file(&self.shared.own, name), FILE_BYTES_MAX).ok()?;
        let certificate = Certificate::from_pem(&bytes, &bytes).ok()?;
        let is_for = certificate.names().iter().any(|one| one == name);
        is_for.then(|| certificate.validity())
    }

    async fn order(&mut self, name: &str) {
        tracing::info!(
            name,
            authority = self.settings.directory,
            "ordering a certificate"
        );
        let ordering = Box::pin(self.try_order(name));
        // What an authority says is read by others' code as well, and files are looked at in this task.
        let ordering = AssertUnwindSafe(ordering).catch_unwind();
        let ordered = tokio::time::timeout(ORDER_TIMEOUT, ordering).await;
        let ordered = ordered.unwrap_or(Ok(Err(OrderError::TooLong)));
        match ordered.unwrap_or(Err(OrderError::Panicked)) {
            Ok(()) => {
                tracing::info!(name, "a certificate was given");
                self.well(name);
            }
            Err(error) => {
                let times = self.failed.get(name).map_or(0, |failed| failed.times) + 1;
                let at_s = now_s();
                self.failed.insert(name.to_owned(), Failed { times, at_s });
                let why = with_causes(&error);
                let about = format!("no certificate for `{name}` could be ordered: {why}");
                self.shared
                    .tell(&trouble_of(name), Some((ACME_FAILED, about)));
            }
        }
    }

    async fn try_order(&self, name: &str) -> Result<(), OrderError> {
        let own = &self.shared.own;
        dev::create(own).map_err(|error| OrderError::Keep(Box::new(error)))?;
        let account = order::account(&self.settings, own).await?;
        let ordered = order::order(&account, &self.shared, name, self.challenge).await;
        let given = ordered.inspect_err(|error| {
            order::forget_unknown(&self.settings, own, error);
        })?;
        let text = given.text(name, now_s())?;
        self.keep(name, text.as_bytes())
    }
}

fn trouble_of(name: &str) -> String {
    format!("acme {name}")
}

/// Whether an authority of the internet can look at a host: not those that are only known here (RFC 6761,
/// RFC 8375).
pub(super) fn is_public(host: &str) -> bool {
    const PRIVATE: [&str; 9] = [
        "localhost",
        "local",
        "internal",
        "test",
        "invalid",
        "example",
        "onion",
        "arpa",
        "lan",
    ];
    let last = host.rsplit_once('.').map(|(_, last)| last);
    last.is_some_and(|last| !PRIVATE.contains(&last)) && host.parse::<std::net::IpAddr>().is_err()
}
