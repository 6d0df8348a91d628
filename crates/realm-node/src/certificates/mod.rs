//! The certificates of HTTPS: read from files, made for development, ordered from an authority; shown
//! by the edge, and shown anew when they change.
//!
//! What is broken leaves what was there before in place, and is told in the log and as an alarm. Not
//! here: the handshake, which is the edge's.

mod acme;
mod among;
pub mod dev;
mod files;
mod keeper;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use realm_edge::tls::{Clients, Https, Identity, TlsError, TlsLimits};
use realm_model::key::PublicKey;
use realm_model::node_config::{ACME_NAMES_MAX, AcmeChallenge, AcmeSettings, NodeConfig};
use realm_model::record::Alarm;
use realm_store::folder::RealmFolder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::network::Peers;
use crate::places::Places;
pub(crate) use files::examine;
use keeper::Keeper;

/// A changed file is seen within this time; reading a few kilobytes costs nothing beside it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// An alarm is raised so long before a certificate ends: renewals begin long before.
const EXPIRES_SOON_S: i64 = 7 * 86_400;

/// Members that are answered at once, and of one.
const ASKING_MAX: usize = 64;
const ASKING_EACH_MAX: usize = 8;
/// Challenges that are answered for others, and for one: an order has one.
const PROVING_MAX: usize = 256;
const PROVING_EACH_MAX: usize = 16;

/// The certificates of a node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Certificates {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    /// By what is in trouble.
    troubles: Mutex<BTreeMap<String, Alarm>>,
    /// What the loop knows.
    known: watch::Sender<Known>,
    acme: Option<AcmeSettings>,
    /// Where the node's own certificates lie.
    own: PathBuf,
    me: PublicKey,
    peers: Peers,
    /// Members that ask.
    asking: Places<PublicKey>,
    /// Members for whose orders an authority is answered.
    proving: Places<PublicKey>,
    /// Something may have changed.
    changed: Notify,
}

/// What certificates depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Exact hosts of the routes; `None`: the realm is not looked at yet.
    pub(crate) hosts: Option<BTreeSet<String>>,
    /// Other approved nodes.
    pub(crate) others: usize,
}

impl Certificates {
    /// Reads what there is, and begins to keep it. `None`: the node has no HTTPS. Needs the runtime.
    pub(crate) fn open(
        folder: &RealmFolder,
        node: &NodeConfig,
        (me, peers): (PublicKey, Peers),
        stopping: &watch::Receiver<bool>,
    ) -> Result<Option<Self>, TlsError> {
        if node.listen.https.is_empty() && node.tls.acme.is_none() {
            return Ok(None);
        }
        let shared = Arc::new(Shared {
            identity: Identity::new()?,
            troubles: Mutex::default(),
            known: watch::Sender::default(),
            acme: node.tls.acme.clone(),
            own: folder_of(folder),
            me,
            peers,
            asking: Places::new(ASKING_MAX, ASKING_EACH_MAX),
            proving: Places::new(PROVING_MAX, PROVING_EACH_MAX),
            changed: Notify::new(),
        });
        let mut keeper = Keeper::new(folder, node, Arc::clone(&shared));
        keeper.look(now_s());
        let mut stopping = stopping.clone();
        let authority = node.tls.acme.clone().map(|settings| {
            let by_port = match node.listen.http.is_empty() {
                true => AcmeChallenge::TlsAlpn,
                false => AcmeChallenge::Http,
            };
            let challenge = settings.challenge.unwrap_or(by_port);
            acme::Orders::new(settings, challenge, Arc::clone(&shared))
        });
        tokio::spawn(async move {
            let ordering = async {
                match authority {
                    Some(authority) => authority.run().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = keep(keeper) => {}
                () = ordering => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        });
        Ok(Some(Self { shared }))
    }

    /// What the edge needs of it.
    pub(crate) fn https(&self, node: &NodeConfig) -> Https {
        let tls = &node.tls;
        Https {
            listen: node.listen.https.clone(),
            identity: self.shared.identity.clone(),
            redirect: tls.redirect.then(|| tls.redirect_port.unwrap_or(0)),
            hsts: tls.hsts_s.map(Duration::from_secs),
            limits: TlsLimits::default(),
        }
    }

    /// What is in trouble.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        self.shared.troubles().values().cloned().collect()
    }

    /// It is like this in the realm.
    pub(crate) fn learn(&self, now: Known) {
        self.shared.known.send_if_modified(|known| {
            let is_new = *known != now;
            *known = now;
            is_new
        });
    }
}

impl Shared {
    /// Names that certificates are ordered for.
    fn names(&self) -> Vec<String> {
        let Some(acme) = &self.acme else {
            return Vec::new();
        };
        if !acme.names.is_empty() {
            return acme.names.clone();
        }
        let known = self.known.borrow();
        let hosts = known.hosts.iter().flatten();
        let hosts = hosts.filter(|host| acme::is_public(host));
        hosts.take(ACME_NAMES_MAX).cloned().collect()
    }

    /// The same; `None`: the routes that say them are not looked at yet.
    fn known_names(&self) -> Option<Vec<String>> {
        let has_own = self
            .acme
            .as_ref()
            .is_some_and(|acme| !acme.names.is_empty());
        let is_known = has_own || self.known.borrow().hosts.is_some();
        is_known.then(|| self.names())
    }

    /// Whether a certificate is ordered for that name, and may be anybody's of the realm.
    fn orders(&self, name: &str) -> bool {
        self.acme.as_ref().is_some_and(|acme| acme.shared)
            && self.names().iter().any(|one| one == name)
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<String, Alarm>> {
        // Single entries come and go under the lock: a panic cannot leave half of one.
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how it is with `what`, and says it once in the log; `None`: well.
    fn tell(&self, what: &str, trouble: Option<(&str, String)>) {
        let mut troubles = self.troubles();
        let known = troubles.get(what);
        match trouble {
            None if known.is_some() => {
                troubles.remove(what);
                tracing::info!(what, "the certificate is well again");
            }
            None => {}
            Some((code, about)) => {
                if known.is_none_or(|known| known.about != about) {
                    tracing::warn!(code, about, "trouble with a certificate");
                }
                let code = code.to_owned();
                troubles.insert(what.to_owned(), Alarm { code, about });
            }
        }
    }
}

/// Where the node's own certificates lie.
pub(crate) fn folder_of(folder: &RealmFolder) -> PathBuf {
    folder.root().join("certificates")
}

/// Looks for what changed, again and again, and at once when asked to.
async fn keep(mut keeper: Keeper) {
    let shared = Arc::clone(&keeper.shared);
    // Somebody who closes a terminal means the agent's end.
    let hangups = !std::io::stdin().is_terminal();
    let mut hangups = hangups.then(|| signal(SignalKind::hangup()).ok()).flatten();
    loop {
        let hung_up = async {
            match &mut hangups {
                Some(hangups) => {
                    hangups.recv().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = shared.changed.notified() => {}
            () = hung_up => tracing::info!("asked to read certificates again"),
        }
        // Files may lie on a slow disk.
        let looked = tokio::task::spawn_blocking(move || {
            keeper.look(now_s());
            keeper
        });
        keeper = match looked.await {
            Ok(keeper) => keeper,
            Err(_) => {
                tracing::error!("certificates are not looked at any more: a mistake of the agent");
                return;
            }
        };
    }
}

/// Seconds after 1970.
fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// A time as people read it.
fn date(unix_s: i64) -> String {
    let timestamp = jiff::Timestamp::from_second(unix_s);
    timestamp.map_or_else(|_| format!("second {unix_s}"), |at| at.to_string())
}
