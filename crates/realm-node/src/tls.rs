//! Mutual TLS in which a certificate is nothing but the envelope of a key.
//!
//! Each end shows one self-signed Ed25519 certificate and proves, in the handshake, that it has the
//! key. Names, dates and authorities are not looked at: what a key may do, the realm says. TLS 1.3.

use std::sync::Arc;

use realm_model::digest::Digest;
use realm_model::key::{PublicKey, SecretKey};
use realm_model::text::base64;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use zeroize::Zeroizing;

/// An Ed25519 key of 32 bytes in PKCS #8 (RFC 8410): this, and the seed.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// An Ed25519 public key as certificates carry it (RFC 8410): this, and 32 bytes.
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// The one name in the certificates; nobody looks at it.
const NAME: &str = "realm";

/// A certificate or a configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate of a key.
    #[error("the certificate of the key cannot be made")]
    Certificate(#[source] rcgen::Error),
    /// The configuration of TLS.
    #[error("TLS cannot be set up")]
    Setup(#[source] Error),
}

/// The certificate and the secret key of a key, as PEM: for curl and others.
#[derive(Debug)]
pub struct PemPair {
    /// The certificate.
    pub certificate: String,
    /// The secret key, PKCS #8.
    pub key: Zeroizing<String>,
    /// SHA-256 of the public key as curl's `--pinnedpubkey` wants it.
    pub pin: String,
}

/// The PEM files of a key.
pub fn pem_pair(key: &SecretKey) -> Result<PemPair, TlsError> {
    let (certificate, pair) = certificate(key)?;
    let spki = spki(&key.public());
    let digest = Digest::of(&spki);
    Ok(PemPair {
        certificate: certificate.pem(),
        key: Zeroizing::new(pair.serialize_pem()),
        pin: format!("sha256//{}", base64(digest.as_bytes())),
    })
}

/// A server that shows the certificate of `key`, and asks for one.
pub(crate) fn server(key: &SecretKey) -> Result<ServerConfig, TlsError> {
    let (chain, secret) = identity(key)?;
    let provider = provider();
    let asking = Arc::new(AnyKey(Arc::clone(&provider)));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(asking)
        .with_single_cert(chain, secret)
        .map_err(TlsError::Setup)?;
    // Each connection proves its key: none is taken up again from a ticket.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A client that shows the certificate of `key`, and talks to the node of key `node` alone.
pub(crate) fn client(key: &SecretKey, node: PublicKey) -> Result<ClientConfig, TlsError> {
    let (chain, secret) = identity(key)?;
    let provider = provider();
    let pinned = Arc::new(OneKey {
        node,
        provider: Arc::clone(&provider),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(pinned)
        .with_client_auth_cert(chain, secret)
        .map_err(TlsError::Setup)?;
    config.enable_sni = false;
    Ok(config)
}

/// What a client calls the other end: sent nowhere and compared with nothing, since the key is pinned.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("a host name")
}

/// The key of a certificate that a handshake has checked.
pub(crate) fn key_of(certificate: &CertificateDer<'_>) -> Result<PublicKey, Error> {
    let unknown = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let parsed = ParsedCertificate::try_from(certificate)?;
    let spki = parsed.subject_public_key_info();
    let bytes = spki.strip_prefix(&SPKI_HEAD).ok_or_else(unknown)?;
    let bytes = bytes.try_into().map_err(|_| unknown())?;
    PublicKey::from_bytes(bytes).map_err(|_| unknown())
}

fn spki(key: &PublicKey) -> Vec<u8> {
    [SPKI_HEAD.as_slice(), key.as_bytes()].concat()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(key: &SecretKey) -> Result<Identity, TlsError> {
    let (certificate, _) = certificate(key)?;
    let secret = PrivatePkcs8KeyDer::from(pkcs8(key).to_vec());
    Ok((vec![certificate.der().clone()], secret.into()))
}

fn certificate(key: &SecretKey) -> Result<(rcgen::Certificate, rcgen::KeyPair), TlsError> {
    let secret = pkcs8(key);
    let pair = rcgen::KeyPair::try_from(secret.as_slice()).map_err(TlsError::Certificate)?;
    let mut params =
        rcgen::CertificateParams::new(vec![NAME.to_owned()]).map_err(TlsError::Certificate)?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, key.public().to_string());
    let certificate = params.self_signed(&pair).map_err(TlsError::Certificate)?;
    Ok((certificate, pair))
}

fn pkcs8(key: &SecretKey) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(48));
    bytes.extend_from_slice(&PKCS8_HEAD);
    bytes.extend_from_slice(key.seed().as_slice());
    bytes
}

/// Exactly one certificate, of an Ed25519 key.
fn only_key(
    certificate: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
) -> Result<PublicKey, Error> {
    if !others.is_empty() {
        return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }
    key_of(certificate)
}

fn signed(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signature, algorithms)
}

fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.3 is asked for".to_owned()))
}

/// Any key may knock: the gate of the API asks what it may.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        only_key(certificate, others).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed(&self.0, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The one node that was meant.
#[derive(Debug)]
struct OneKey {
    node: PublicKey,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OneKey {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if only_key(certificate, others)? == self.node {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    /// The key that the server sees, if `client` comes through and is answered.
    async fn handshake(server: ServerConfig, client: ClientConfig) -> Option<PublicKey> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("anything").unwrap();
        let calling = async {
            let connector = TlsConnector::from(Arc::new(client));
            let mut stream = connector.connect(name, near).await.ok()?;
            // TLS 1.3 tells a client of its refusal with the first answer.
            stream.read_u8().await.ok()
        };
        let answering = async {
            let acceptor = TlsAcceptor::from(Arc::new(server));
            let mut stream = acceptor.accept(far).await.ok()?;
            stream.write_u8(1).await.ok()?;
            stream.flush().await.ok()?;
            let certificates = stream.get_ref().1.peer_certificates()?;
            key_of(&certificates[0]).ok()
        };
        let (answered, seen) = tokio::join!(calling, answering);
        answered.and(seen)
    }

    #[tokio::test]
    async fn both_ends_know_the_others_key() {
        let check = async |node: u8, expected| {
            let client = client(&key(1), key(node).public()).unwrap();
            assert_eq!(handshake(server(&key(2)).unwrap(), client).await, expected);
        };
        check(2, Some(key(1).public())).await;
        // Another node answers at this address.
        check(3, None).await;
    }

    #[tokio::test]
    async fn only_one_certificate_of_an_ed25519_key_is_taken() {
        let with = |chain, secret: PrivateKeyDer<'static>| {
            let pinned = OneKey {
                node: key(2).public(),
                provider: provider(),
            };
            ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(pinned))
                .with_client_auth_cert(chain, secret)
                .unwrap()
        };
        let check = async |client, expected: Option<PublicKey>| {
            assert_eq!(handshake(server(&key(2)).unwrap(), client).await, expected);
        };
        let (chain, secret) = identity(&key(1)).unwrap();
        check(
            with(chain.clone(), secret.clone_key()),
            Some(key(1).public()),
        )
        .await;
        // Two certificates.
        check(
            with([chain.clone(), chain.clone()].concat(), secret.clone_key()),
            None,
        )
        .await;
        // Of an elliptic curve that is not Ed25519.
        let other = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
        let certificate = params.self_signed(&other).unwrap();
        let secret = PrivatePkcs8KeyDer::from(other.serialize_der());
        check(with(vec![certificate.der().clone()], secret.into()), None).await;
    }

    #[tokio::test]
    async fn a_certificate_without_its_key_and_a_client_without_one_do_not_come_in() {
        let pinned = || {
            Arc::new(OneKey {
                node: key(2).public(),
                provider: provider(),
            })
        };
        let builder = || {
            ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(pinned())
        };
        let anonymous = builder().with_no_client_auth();
        assert_eq!(handshake(server(&key(2)).unwrap(), anonymous).await, None);
        // The owner's certificate, and another secret.
        let (stolen, _) = identity(&key(1)).unwrap();
        let own = PrivatePkcs8KeyDer::from(pkcs8(&key(9)).to_vec());
        let signer = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&own);
        let certified = rustls::sign::CertifiedKey::new(stolen, signer.unwrap());
        let thief = builder()
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        assert_eq!(handshake(server(&key(2)).unwrap(), thief).await, None);
    }
}
