//! A server that an operator runs: as whom this node comes to it, and whom it believes that it is there.
//!
//! Not here: where it is, which the manifest says, and the protocols that are spoken to it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

/// As whom a node comes to a server, and what it does there.
#[derive(Clone, Default)]
pub struct Access {
    /// The user; `None`: that of the manifest, or the server's default.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Zeroizing<String>>,
    /// Certificates of authorities beside those that the machine and browsers trust: a file in PEM.
    pub authorities: Option<PathBuf>,
    /// What all names of this binding on the server begin with.
    pub prefix: String,
}

/// What lies behind an error.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a server cannot be used as it is named; it was not asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The client does not take what the manifest says.
    #[error("the server is named in a way that its client does not take")]
    Client(#[source] Cause),
    /// The file of authorities cannot be read, or has none.
    #[error("`{}` has no certificates of authorities", .path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why not, where it is known.
        #[source]
        source: Option<Cause>,
    },
    /// The prefix does not fit what the server takes.
    #[error("the prefix is longer than the server takes")]
    Prefix,
}

/// TLS to a server: its certificate is checked against what the machine and browsers trust, and against
/// the file of authorities.
pub(crate) fn tls_config(access: &Access) -> Result<ClientConfig, ServerError> {
    let mut store = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    // Single ones that the machine has and cannot be read are no reason to trust none.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &access.authorities {
        let wrong = |source| ServerError::Authorities {
            path: path.clone(),
            source,
        };
        let found = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(Some(error.into())))?;
        if found.is_empty() {
            return Err(wrong(None));
        }
        for one in found {
            store.add(one).map_err(|error| wrong(Some(error.into())))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ServerError::Client(Box::new(error)))?
        .with_root_certificates(store)
        .with_no_client_auth())
}
