//! A certificate with its chain and its key, read from PEM.
//!
//! Not where the files are, and not whether anybody trusts them: a browser says so.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Certificates of a chain: real ones have up to four.
const CHAIN_MAX: usize = 10;
/// Names in a certificate: what authorities give has up to a hundred.
const NAMES_MAX: usize = 1_000;

/// A certificate that can be shown.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    names: Vec<String>,
    validity: Validity,
}

/// When a certificate is valid, in seconds after 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub not_before_s: i64,
    /// Up to then.
    pub not_after_s: i64,
}

/// What keeps a certificate and a key from being shown.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No `BEGIN CERTIFICATE`.
    #[error("there is no certificate in PEM")]
    NoCertificate,
    /// More than any honest chain.
    #[error("there are more than {CHAIN_MAX} certificates")]
    ChainTooLong,
    /// No key.
    #[error("there is no private key in PEM")]
    NoKey,
    /// A key that nobody can read without a passphrase.
    #[error("the key is encrypted with a passphrase")]
    Encrypted,
    /// The one is in the place of the other.
    #[error("the first file has the key, and the second one the certificates")]
    Swapped,
    /// The key is that of another certificate of the chain.
    #[error("the key is that of certificate {number} of the chain, and not of the first")]
    NotFirst {
        /// Which one, counted from 1.
        number: usize,
    },
    /// PEM that is broken.
    #[error("it is no PEM")]
    Pem(#[source] pem::Error),
    /// The certificate is none.
    #[error("the first certificate is malformed")]
    Malformed,
    /// More than any honest certificate has.
    #[error("the first certificate has more than {NAMES_MAX} names")]
    TooManyNames,
    /// The key is broken, or not that of the first certificate.
    #[error("the key is not that of the first certificate, or of no kind that is known")]
    Key(#[source] rustls::Error),
}

impl CertificateError {
    /// What a person does next.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NoCertificate | Self::Pem(_) | Self::Malformed => {
                "the chain is in PEM, a `-----BEGIN CERTIFICATE-----` for each; of DER: `openssl x509 -inform der -in FILE`, of PKCS #12: `openssl pkcs12 -nodes -in FILE`"
            }
            Self::ChainTooLong | Self::TooManyNames => {
                "the server's own certificate first, then those that vouch for it, and no others"
            }
            Self::NoKey => {
                "the key is in PEM, `-----BEGIN PRIVATE KEY-----`, or `EC` or `RSA PRIVATE KEY`; of DER: `openssl pkey -inform der -in FILE`"
            }
            Self::Encrypted => {
                "nobody is there to type the passphrase: `openssl pkey -in KEY -out NEW` writes the key without it (then `chmod 600 NEW`)"
            }
            Self::Swapped => "write `CERTIFICATES::KEY`: the certificates first",
            Self::NotFirst { .. } => {
                "put the server's own certificate first, and behind it those that vouch for it"
            }
            Self::Key(_) => {
                "`openssl x509 -noout -pubkey -in CERTIFICATES` and `openssl pkey -pubout -in KEY` print the same where both belong together; keys are RSA of 2048 bits and more, ECDSA over P-256, P-384 and P-521, and Ed25519"
            }
        }
    }
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and its key. Both may be one text.
    ///
    /// # Errors
    ///
    /// What is missing, broken, or does not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let (text, chain) = (chain, chain_of(chain));
        if matches!(chain, Err(CertificateError::NoCertificate))
            && PrivateKeyDer::from_pem_slice(text).is_ok()
            && chain_of(key).is_ok()
        {
            return Err(CertificateError::Swapped);
        }
        let chain = chain?;
        if is_encrypted(key) {
            return Err(CertificateError::Encrypted);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            match matches!(error, pem::Error::NoItemsFound) {
                true => CertificateError::NoKey,
                false => CertificateError::Pem(error),
            }
        })?;
        let others = chain.clone();
        let spare = key.clone_key();
        Self::from_der(chain, key).map_err(|error| {
            let is_of = |one: &CertificateDer<'static>| {
                let of = CertifiedKey::from_der(vec![one.clone()], spare.clone_key(), &provider());
                of.is_ok()
            };
            let place = matches!(error, CertificateError::Key(_))
                .then(|| others.iter().skip(1).position(is_of))
                .flatten();
            // The first one was looked at.
            place.map_or(error, |place| CertificateError::NotFirst {
                number: place + 2,
            })
        })
    }

    /// The same, of what stands in PEM.
    ///
    /// # Errors
    ///
    /// As [`Certificate::from_pem`].
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertificateError> {
        let first = chain.first().ok_or(CertificateError::NoCertificate)?;
        let (names, validity) = read(first)?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(CertificateError::Key)?;
        Ok(Self {
            key: Arc::new(key),
            names,
            validity,
        })
    }

    /// A certificate that was made to prove something to an authority, and is of no use else: what is critical
    /// in it (RFC 8737 §3) keeps everybody else from taking it, and so its key is not compared.
    ///
    /// # Errors
    ///
    /// It is broken.
    pub fn proof(
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertificateError> {
        let (names, validity) = read(&certificate)?;
        let key = provider().key_provider.load_private_key(key);
        let key = key.map_err(CertificateError::Key)?;
        Ok(Self {
            key: Arc::new(CertifiedKey::new(vec![certificate], key)),
            names,
            validity,
        })
    }

    /// The same for one of its names alone; `None`: it is not for that name.
    pub fn only_for(mut self, name: &str) -> Option<Self> {
        let is_for = self.names.iter().any(|one| one == name);
        self.names = vec![name.to_owned()];
        is_for.then_some(self)
    }

    /// The host names that it is for, in small letters; `*.example.com` among them.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When it is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

/// Whether a key in PEM has a passphrase: by PKCS #8 (RFC 7468 §11), or as OpenSSL did it before (RFC 1421).
fn is_encrypted(text: &[u8]) -> bool {
    let has = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// The certificates in a PEM text, in order.
pub(super) fn chain_of(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        chain.push(certificate.map_err(CertificateError::Pem)?);
        if chain.len() > CHAIN_MAX {
            return Err(CertificateError::ChainTooLong);
        }
    }
    match chain.is_empty() {
        true => Err(CertificateError::NoCertificate),
        false => Ok(chain),
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn read(certificate: &[u8]) -> Result<(Vec<String>, Validity), CertificateError> {
    let malformed = |_| CertificateError::Malformed;
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(malformed)?;
    let validity = certificate.validity();
    let validity = Validity {
        not_before_s: validity.not_before.timestamp(),
        not_after_s: validity.not_after.timestamp(),
    };
    let alternative = certificate.subject_alternative_name();
    let alternative = alternative.map_err(|_| CertificateError::Malformed)?;
    let names = alternative.map_or(&[][..], |names| &names.value.general_names);
    if names.len() > NAMES_MAX {
        return Err(CertificateError::TooManyNames);
    }
    let mut hosts = Vec::new();
    for name in names {
        // Addresses are not asked for by name (RFC 6066 §3).
        if let GeneralName::DNSName(name) = name {
            hosts.push(name.to_ascii_lowercase());
        }
    }
    Ok((hosts, validity))
}
