//! Certificates that an authority gives by ACME (RFC 8555): for which names, when one is ordered, and
//! when again.
//!
//! One order at a time. Not the conversation with the authority, which is `order`'s, nor whether a
//! certificate is shown: it is written into a folder, and what lies there is shown.

mod client;
mod due;
mod order;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use realm_edge::tls::{Certificate, Validity};
use realm_model::node_config::{ACME_NAMES_MAX, AcmeChallenge, AcmeSettings};
use realm_model::record::ACME_FAILED;
use realm_store::folder::{read_small, replace_secret};

use super::{Shared, dev, now_s};
use crate::error::with_causes;
use due::{Due, due};
use order::OrderError;

const FILE_BYTES_MAX: u64 = 256 * 1024;
/// However far the next order is, clocks are set and files are removed.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);
/// An order that an authority does not come to an end with.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);

/// What is ordered from one authority.
pub(super) struct Orders {
    settings: AcmeSettings,
    challenge: AcmeChallenge,
    own: PathBuf,
    shared: Arc<Shared>,
    failed: BTreeMap<String, Failed>,
}

/// An order that came to nothing.
struct Failed {
    times: u32,
    at_s: i64,
}

/// The certificates that were ordered.
pub(super) fn files(own: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(own)).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "pem"))
        .take(ACME_NAMES_MAX)
        .collect();
    files.sort();
    files
}

fn folder(own: &Path) -> PathBuf {
    own.join("acme")
}

/// `name` is a host name: it has no `/`, and is not `..`.
fn file(own: &Path, name: &str) -> PathBuf {
    folder(own).join(format!("{name}.pem"))
}

impl Orders {
    pub(super) fn new(
        settings: AcmeSettings,
        challenge: AcmeChallenge,
        own: PathBuf,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            settings,
            challenge,
            own,
            shared,
            failed: BTreeMap::new(),
        }
    }

    /// Orders what is due, for ever.
    pub(super) async fn run(mut self) {
        let mut hosts = self.shared.hosts.subscribe();
        loop {
            let names = self.names();
            self.forget(&names);
            let now = now_s();
            let dues = names.iter().map(|name| (self.due(name, now), name));
            let next = dues.min();
            let wait = match next {
                Some((Due::Now, name)) => {
                    let name = name.clone();
                    self.order(&name).await;
                    continue;
                }
                Some((Due::In(seconds), _)) => LOOK_INTERVAL.min(Duration::from_secs(seconds)),
                None => LOOK_INTERVAL,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = hosts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// What certificates are wanted for.
    fn names(&self) -> Vec<String> {
        if !self.settings.names.is_empty() {
            return self.settings.names.clone();
        }
        let hosts = self.shared.hosts.borrow();
        let hosts = hosts.iter().filter(|host| is_public(host));
        hosts.take(ACME_NAMES_MAX).cloned().collect()
    }

    /// What nobody wants any more is no trouble.
    fn forget(&mut self, names: &[String]) {
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
        let bytes = read_small(&file(&self.own, name), FILE_BYTES_MAX).ok()?;
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
        let ordered = tokio::time::timeout(ORDER_TIMEOUT, ordering).await;
        match ordered.unwrap_or(Err(OrderError::TooLong)) {
            Ok(()) => {
                self.failed.remove(name);
                self.shared.tell(&trouble_of(name), None);
                tracing::info!(name, "a certificate was given");
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
        self.shared.changed.notify_one();
    }

    async fn try_order(&self, name: &str) -> Result<(), OrderError> {
        dev::create(&folder(&self.own)).map_err(|error| OrderError::Keep(Box::new(error)))?;
        let account = order::account(&self.settings, &self.own).await?;
        let identity = &self.shared.identity;
        let text = order::order(&account, identity, name, self.challenge).await?;
        let certificate = Certificate::from_pem(text.as_bytes(), text.as_bytes())
            .map_err(|error| OrderError::Given(Box::new(error)))?;
        if !certificate.names().iter().any(|one| one == name) {
            return Err(OrderError::Other);
        }
        replace_secret(&file(&self.own, name), text.as_bytes())
            .map_err(|error| OrderError::Keep(Box::new(error)))
    }
}

fn trouble_of(name: &str) -> String {
    format!("acme {name}")
}

/// Whether an authority of the internet can look at a host: not those that are only known here (RFC 6761,
/// RFC 8375).
fn is_public(host: &str) -> bool {
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
