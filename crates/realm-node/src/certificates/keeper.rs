//! Keeps the edge showing what lies in the files: looks at all of them, and takes up what changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use realm_edge::tls::{Certificate, Clients};
use realm_model::node_config::{CertificateFiles, ClientAuth, NodeConfig, TlsSettings};
use realm_model::record::{ACME_NAMELESS, CERTIFICATE_BROKEN, CERTIFICATE_EXPIRES};
use realm_store::folder::RealmFolder;

use super::files::{Bytes, ends_soon, parse, read, read_bytes, too_open};
use super::{Shared, acme, dev, folder_of};
use crate::error::with_causes;

/// What is kept.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    settings: TlsSettings,
    /// Where the node's own certificates lie.
    own: PathBuf,
    shown: BTreeMap<CertificateFiles, Kept>,
    /// Which are shown, in order, and under which name alone.
    order: Vec<Wanted>,
    /// The authorities that vouch for clients, as they were read last.
    clients: Option<Vec<u8>>,
}

/// What is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    files: CertificateFiles,
    /// One that was ordered for this name is for no other, whatever it says.
    name: Option<String>,
}

/// A certificate that was read.
struct Kept {
    /// `None`: it never could be.
    bytes: Option<Bytes>,
    certificate: Option<Certificate>,
}

impl Keeper {
    pub(super) fn new(folder: &RealmFolder, node: &NodeConfig, shared: Arc<Shared>) -> Self {
        if node.tls.client_ca.is_some() {
            // Until it is known who may.
            shared.identity.admit_nobody();
        }
        Self {
            shared,
            settings: node.tls.clone(),
            own: folder_of(folder),
            shown: BTreeMap::new(),
            order: Vec::new(),
            clients: None,
        }
    }

    /// Looks at all files.
    pub(super) fn look(&mut self, now_s: i64) {
        self.look_at_clients();
        if self.settings.dev {
            let made = dev::keep(&self.own, now_s);
            let trouble = made
                .err()
                .map(|error| (CERTIFICATE_BROKEN, with_causes(&error)));
            self.shared.tell("dev", trouble);
        }
        if self.settings.acme.is_some()
            && let Some(names) = self.shared.known_names()
        {
            let trouble = names.is_empty().then(|| {
                let about = acme::NAMELESS.to_owned();
                (ACME_NAMELESS, about)
            });
            self.shared.tell("acme", trouble);
        }
        let wanted = self.wanted();
        let mut changed = wanted != self.order;
        self.shown.retain(|files, _| {
            let is_wanted = wanted.iter().any(|one| one.files == *files);
            if !is_wanted {
                self.shared.tell(&files.chain, None);
            }
            is_wanted
        });
        for one in &wanted {
            changed |= self.look_at(&one.files, now_s);
        }
        self.order = wanted;
        if changed {
            self.show();
        }
    }

    /// Those of node.toml, that for development, and those that were ordered.
    fn wanted(&self) -> Vec<Wanted> {
        let both = |path: PathBuf| {
            let path = path.display().to_string();
            CertificateFiles {
                chain: path.clone(),
                key: path,
            }
        };
        let mut named = self.settings.certificates.clone();
        if self.settings.dev {
            named.push(both(dev::leaf_file(&self.own)));
        }
        let named = named.into_iter().map(|files| Wanted { files, name: None });
        let ordered = match &self.settings.acme {
            Some(_) => acme::files(&self.own, self.shared.known_names()),
            None => Vec::new(),
        };
        let ordered = ordered.into_iter().map(|(name, path)| Wanted {
            files: both(path),
            name: Some(name),
        });
        named.chain(ordered).collect()
    }

    /// Whether the certificate is another one than before.
    fn look_at(&mut self, files: &CertificateFiles, now_s: i64) -> bool {
        let read = read(files);
        let kept = self.shown.entry(files.clone()).or_insert(Kept {
            bytes: None,
            certificate: None,
        });
        let is_known = read
            .as_ref()
            .is_ok_and(|bytes| kept.bytes.as_ref() == Some(bytes));
        let mut is_new = false;
        let mut broken = None;
        if !is_known {
            match read.and_then(|bytes| Ok((parse(files, &bytes)?, bytes))) {
                Ok((certificate, bytes)) => {
                    tracing::info!(
                        file = files.chain,
                        names = certificate.names().join(", "),
                        until = super::date(certificate.validity().not_after_s),
                        "a certificate is shown"
                    );
                    if let Some(mode) = too_open(&files.key) {
                        let mode = format!("{mode:o}");
                        tracing::warn!(file = files.key, mode, "everybody may use this key");
                    }
                    kept.bytes = Some(bytes);
                    kept.certificate = Some(certificate);
                    is_new = true;
                }
                Err(error) => {
                    let rest = match kept.certificate {
                        Some(_) => "; the one before it is shown",
                        None => "",
                    };
                    broken = Some(format!("{}{rest}", with_causes(&error)));
                }
            }
        }
        let ends = kept
            .certificate
            .as_ref()
            .and_then(|certificate| ends_soon(certificate, now_s));
        let broken = broken.map(|why| (CERTIFICATE_BROKEN, why));
        let trouble = broken.or(ends.map(|why| (CERTIFICATE_EXPIRES, why)));
        self.shared.tell(&files.chain, trouble);
        is_new
    }

    fn show(&self) {
        let kept = self.order.iter().filter_map(|one| {
            let certificate = self.shown.get(&one.files)?.certificate.clone()?;
            match &one.name {
                Some(name) => certificate.only_for(name),
                None => Some(certificate),
            }
        });
        let certificates: Vec<_> = kept.collect();
        self.shared.identity.show(&certificates);
    }

    fn look_at_clients(&mut self) {
        let Some(path) = self.settings.client_ca.clone() else {
            return;
        };
        let optional = self.settings.client_auth == ClientAuth::Optional;
        let admit = || -> Result<Vec<u8>, String> {
            let bytes = read_bytes(path.as_ref()).map_err(|error| with_causes(&error))?;
            if self.clients.as_ref() == Some(&bytes) {
                return Ok(bytes);
            }
            let clients =
                Clients::from_pem(&bytes, optional).map_err(|error| with_causes(&error))?;
            let admitted = self.shared.identity.admit(Some(&clients));
            admitted.map_err(|error| with_causes(&error))?;
            tracing::info!(file = path, "clients are checked with these authorities");
            Ok(bytes)
        };
        let trouble = match admit() {
            Ok(bytes) => {
                self.clients = Some(bytes);
                None
            }
            Err(why) => {
                let rest = match self.clients {
                    Some(_) => "those before it count",
                    None => "nobody comes in over HTTPS",
                };
                Some((CERTIFICATE_BROKEN, format!("`{path}`: {why}; {rest}")))
            }
        };
        self.shared.tell(&path, trouble);
    }
}
