//! What all components of a host share on their way out: the ranges that the operator opens, the
//! resolver, the certificates that are trusted. No rules of a component here.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;

use super::ranges::Ranges;
use crate::config::{Config, Reach};
use crate::engine::HostError;

/// Look-ups of all components at once: a quarter of the runtime's threads for blocking work, so
/// that names whose servers stay silent leave the files of others alone.
const LOOKUPS_MAX: usize = 128;
/// Bytes of one file of certificates: the whole of Mozilla's list takes 200 KiB.
const ROOTS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// TLS sessions that one component keeps for its next connections: one for each of a few servers.
const TLS_SESSIONS_MAX: usize = 16;

/// The network as this host gives it to guests.
pub(crate) struct Network {
    pub(super) ranges: Ranges,
    pub(super) resolver: Resolver,
    pub(super) lookups: Arc<Semaphore>,
    pub(super) reach: Reach,
    roots: Vec<CertificateDer<'static>>,
    tls: OnceLock<Result<ClientConfig, rustls::Error>>,
}

type Resolve = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// How names become addresses. It may block: it runs on a thread for that.
#[derive(Clone)]
pub struct Resolver(Arc<Resolve>);

impl Resolver {
    /// Asks a function, which gets a name in ASCII.
    pub fn new(resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(resolve))
    }

    pub(super) fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        (self.0)(name)
    }
}

impl Default for Resolver {
    /// The system's own: `/etc/hosts`, `/etc/resolv.conf`.
    fn default() -> Self {
        Self::new(|name| {
            let found = (name, 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl Network {
    pub(crate) fn new(config: &Config) -> Result<Self, HostError> {
        let policy = &config.policy;
        let roots = policy.tls_roots.iter().map(|path| {
            read_roots(Path::new(path)).map_err(|source| HostError::Roots {
                path: path.into(),
                source,
            })
        });
        let roots = roots.collect::<Result<Vec<_>, _>>()?.concat();
        Ok(Self {
            ranges: Ranges::parse(&policy.private_ranges).map_err(HostError::Range)?,
            resolver: config.resolver.clone(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            reach: config.reach,
            roots,
            tls: OnceLock::new(),
        })
    }

    /// What TLS trusts: the roots of browsers and those that the operator adds; no client
    /// certificate. The roots are read once, when the first guest speaks TLS. Sessions that are
    /// kept for the next connection are the caller's alone: they would tell a neighbour who was
    /// visited.
    pub(super) fn tls(&self) -> Option<Arc<ClientConfig>> {
        let shared = self.tls.get_or_init(|| self.make_tls()).as_ref().ok()?;
        let mut own = ClientConfig::clone(shared);
        own.resumption = Resumption::in_memory_sessions(TLS_SESSIONS_MAX);
        Some(Arc::new(own))
    }

    fn make_tls(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for root in &self.roots {
            roots.add(root.clone())?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The certificates of a PEM file: at least one, each such that it can be a root.
fn read_roots(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bad = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    if std::fs::metadata(path)?.len() > ROOTS_BYTES_MAX {
        return Err(bad(format!("it has more than {ROOTS_BYTES_MAX} bytes")));
    }
    let bytes = std::fs::read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| bad(error.to_string()))?;
    if found.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    for root in &found {
        let added = RootCertStore::empty().add(root.clone());
        added.map_err(|error| bad(error.to_string()))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let told = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_roots(&path).map(drop).unwrap_err().to_string()
        };
        assert!(told("").contains("no certificate"));
        assert!(told("a private text").contains("no certificate"));
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(!told(empty).is_empty());
        let missing = read_roots(&folder.path().join("other"));
        assert_eq!(
            missing.map(drop).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
