//! What the edge shows in a handshake, and what it asks for; changed while it serves.
//!
//! Which certificate: by the name that the client asks for, an exact one before a wildcard, and else the
//! first. Handshakes that are under way end with what they began with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureScheme};

use super::certificate::provider;
use super::{Certificate, Clients, TlsError};

/// The protocol of an authority that looks whether a name leads here (RFC 8737 §4).
const ACME_TLS: &[u8] = b"acme-tls/1";
/// Challenges at once: an order has one per name.
const CHALLENGES_MAX: usize = 1_000;

/// The certificates of an edge, and the answers to challenges of authorities. Cheap to clone: all clones
/// are one.
#[derive(Debug, Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

/// What an authority wants to see before it gives a certificate (RFC 8555 §8).
#[derive(Debug, Clone)]
pub enum Challenge {
    /// Of HTTP-01: what is answered for a token.
    Http {
        /// The host that is asked: nobody's proof is for another name.
        name: String,
        /// The last part of the path that is asked for.
        token: String,
        /// The answer.
        answer: String,
    },
    /// Of TLS-ALPN-01: what is shown for a name.
    Alpn {
        /// The name.
        name: String,
        /// A certificate for nothing else.
        certificate: Certificate,
    },
}

#[derive(Debug)]
struct Inner {
    shown: Arc<Shown>,
    /// `None`: nobody comes in.
    config: ArcSwapOption<Asking>,
    challenging: Arc<ServerConfig>,
    challenges: Arc<Challenges>,
}

/// A configuration, and whether it asks for certificates of clients.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) config: Arc<ServerConfig>,
    pub(super) clients: bool,
}

/// The certificates by name.
#[derive(Debug, Default)]
struct Shown(ArcSwap<Names>);

#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// All, in order: the first is the default.
    all: Vec<Arc<CertifiedKey>>,
}

#[derive(Debug, Default)]
struct Challenges {
    answered: Mutex<Vec<Answered>>,
    next: AtomicU64,
}

/// A challenge that is answered.
#[derive(Debug)]
struct Answered {
    /// By which it is withdrawn, and no other.
    number: u64,
    challenge: Challenge,
    /// For an order of another node: what this one orders comes first.
    is_anothers: bool,
}

impl Identity {
    /// No certificates yet: each handshake fails.
    ///
    /// # Errors
    ///
    /// The system gives no randomness for tickets.
    pub fn new() -> Result<Self, TlsError> {
        let shown = Arc::<Shown>::default();
        let challenges = Arc::<Challenges>::default();
        let config = config(None, Arc::clone(&shown) as _)?;
        let mut challenging = builder()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&challenges) as _);
        challenging.alpn_protocols = vec![ACME_TLS.to_vec()];
        Ok(Self {
            inner: Arc::new(Inner {
                shown,
                config: ArcSwapOption::from_pointee(Asking {
                    config: Arc::new(config),
                    clients: false,
                }),
                challenging: Arc::new(challenging),
                challenges,
            }),
        })
    }

    /// Shows these from now on; where no name fits, the first.
    pub fn show(&self, certificates: &[Certificate]) {
        self.inner.shown.0.store(Arc::new(Names::of(certificates)));
    }

    /// Lets these clients in from now on; `None`: everybody.
    ///
    /// # Errors
    ///
    /// The certificates of the authorities do not do; then it stays as it was.
    pub fn admit(&self, clients: Option<&Clients>) -> Result<(), TlsError> {
        let config = config(clients, Arc::clone(&self.inner.shown) as _)?;
        self.inner.config.store(Some(Arc::new(Asking {
            config: Arc::new(config),
            clients: clients.is_some(),
        })));
        Ok(())
    }

    /// Lets nobody in from now on: who may come is not known.
    pub fn admit_nobody(&self) {
        self.inner.config.store(None);
    }

    /// Answers a challenge of this node's own order from now on; the number by which it is withdrawn.
    pub fn answer(&self, challenge: Challenge) -> u64 {
        self.inner.challenges.add(challenge, false)
    }

    /// The same for an order of another node, where this one has none of its own for the name.
    pub fn answer_for_another(&self, challenge: Challenge) -> u64 {
        self.inner.challenges.add(challenge, true)
    }

    /// Answers the one of that number no more.
    pub fn withdraw(&self, number: u64) {
        self.inner
            .challenges
            .with(|challenges| challenges.retain(|one| one.number != number));
    }

    /// The answer to HTTP-01 for a host, in small letters and without a port.
    pub(crate) fn http_answer(&self, host: &str, wanted: &str) -> Option<String> {
        self.inner.challenges.find(|challenge| match challenge {
            Challenge::Http {
                name,
                token,
                answer,
            } => (name == host && token == wanted).then(|| answer.clone()),
            Challenge::Alpn { .. } => None,
        })
    }

    /// What a client is served by that begins so.
    pub(super) fn for_client(&self, hello: &ClientHello<'_>) -> Option<Arc<Asking>> {
        let is_challenge = hello
            .alpn()
            .is_some_and(|mut protocols| protocols.any(|protocol| protocol == ACME_TLS));
        match is_challenge {
            true => Some(Arc::new(Asking {
                config: Arc::clone(&self.inner.challenging),
                clients: false,
            })),
            false => self.inner.config.load_full(),
        }
    }
}

fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, TlsError> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Setup)
}

fn config(
    clients: Option<&Clients>,
    shown: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, TlsError> {
    let builder = builder()?;
    let mut config = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(clients.verifier()?),
    }
    .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    match clients {
        // A ticket spares the client a signature and the server the most of a handshake.
        None => config.ticketer = Ticketer::new().map_err(TlsError::Setup)?,
        // A certificate is looked at on each connection: one that ended meanwhile must not come in.
        Some(_) => {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
    }
    Ok(config)
}

impl Names {
    fn of(certificates: &[Certificate]) -> Self {
        let mut names = Self::default();
        for certificate in certificates {
            for name in certificate.names() {
                let (of, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut names.wildcard, rest),
                    None => (&mut names.exact, name.as_str()),
                };
                let keys = of.entry(name.to_owned()).or_default();
                keys.push(Arc::clone(&certificate.key));
            }
            names.all.push(Arc::clone(&certificate.key));
        }
        names
    }

    /// The certificates for a name, and for none.
    fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let found = name.and_then(|name| {
            // A wildcard stands for one label (RFC 6125 §6.4.3).
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(wildcard)
        });
        found.map_or(&self.all[..], Vec::as_slice)
    }

    /// The first that the client can check; else the first, so that it says why it cannot.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let found = self.find(name);
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        found.iter().find(fits).or(found.first()).cloned()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.0
            .load()
            .choose(name.as_deref(), hello.signature_schemes())
    }
}

impl Challenges {
    fn add(&self, challenge: Challenge, is_anothers: bool) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.with(|challenges| {
            if challenges.len() < CHALLENGES_MAX {
                challenges.push(Answered {
                    number,
                    challenge,
                    is_anothers,
                });
            }
        });
        number
    }

    /// The newest that fits, of this node's own before those of others.
    fn find<T>(&self, fits: impl Fn(&Challenge) -> Option<T>) -> Option<T> {
        self.with(|challenges| {
            let of = |is_anothers: bool| {
                let mut newest = challenges.iter().rev();
                newest.find_map(|one| {
                    (one.is_anothers == is_anothers)
                        .then(|| fits(&one.challenge))
                        .flatten()
                })
            };
            of(false).or_else(|| of(true))
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Answered>) -> T) -> T {
        // Nothing that changes the list can panic in between.
        act(&mut self.answered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wanted = hello.server_name()?.to_ascii_lowercase();
        self.find(|challenge| match challenge {
            Challenge::Alpn { name, certificate } => name
                .eq_ignore_ascii_case(&wanted)
                .then(|| Arc::clone(&certificate.key)),
            Challenge::Http { .. } => None,
        })
    }
}
