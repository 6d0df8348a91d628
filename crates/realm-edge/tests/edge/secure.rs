//! A rig with HTTPS, an authority made for the test, and clients of all kinds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;

use realm_edge::tls::{Certificate, Clients, Https, Identity, TlsLimits};
use realm_edge::{Backend, Config};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Rig, soon};

/// Somebody who vouches for names.
pub(crate) struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

/// A certificate that an authority gave, and its key.
pub(crate) struct Leaf {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key_der: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "an authority");
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).expect("a certificate");
        Self { issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, |_| {})
    }

    pub(crate) fn leaf_with(
        &self,
        names: &[&str],
        set: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> Leaf {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        set(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        Leaf {
            chain: leaf.pem(),
            key: key.serialize_pem(),
            der: leaf.der().clone(),
            key_der: key.serialize_der(),
        }
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        roots
    }
}

impl Leaf {
    pub(crate) fn read(&self) -> Certificate {
        Certificate::from_pem(self.chain.as_bytes(), self.key.as_bytes()).expect("a certificate")
    }

    pub(crate) fn secret(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }
}

/// An edge with HTTPS.
pub(crate) struct Secure {
    pub(crate) rig: Rig,
    pub(crate) https: SocketAddr,
    pub(crate) identity: Identity,
    pub(crate) authority: Authority,
    folder: TempDir,
}

/// What a client says of itself.
#[derive(Default)]
pub(crate) struct As<'a> {
    pub(crate) protocols: &'a [&'a str],
    pub(crate) certificate: Option<&'a Leaf>,
    pub(crate) versions: Option<&'static rustls::SupportedProtocolVersion>,
}

impl Secure {
    /// One for `localhost`, in front of `backend`.
    pub(crate) async fn new(backend: Arc<dyn Backend>) -> Self {
        Self::with(backend, |_, _| {}).await
    }

    pub(crate) async fn with(
        backend: Arc<dyn Backend>,
        set: impl FnOnce(&mut Config, &mut Https),
    ) -> Self {
        let authority = Authority::new();
        let identity = Identity::new().expect("a provider");
        identity.show(&[authority.leaf(&["localhost"]).read()]);
        let mut https = Https {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            identity: identity.clone(),
            redirect: None,
            hsts: None,
            limits: TlsLimits::default(),
        };
        let rig = Rig::with_config(vec![backend], |config| {
            set(config, &mut https);
            config.https = Some(https);
        })
        .await;
        let https = rig.handle.https_addresses()[0];
        let folder = tempfile::tempdir().expect("a folder");
        let secure = Self {
            rig,
            https,
            identity,
            authority,
            folder,
        };
        secure.file("ca.pem", &secure.authority.pem());
        secure
    }

    /// Who may come.
    pub(crate) fn admit(&self, authority: &Authority, optional: bool) {
        let clients = Clients::from_pem(authority.pem().as_bytes(), optional);
        let clients = clients.expect("an authority");
        self.identity.admit(Some(&clients)).expect("an authority");
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    pub(crate) fn client(&self, like: &As<'_>) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = like.versions.map(|one| vec![one]);
        let versions = versions.unwrap_or_else(|| rustls::ALL_VERSIONS.to_vec());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .expect("versions")
            .with_root_certificates(self.authority.roots());
        let mut config = match like.certificate {
            None => builder.with_no_client_auth(),
            Some(leaf) => builder
                .with_client_auth_cert(vec![leaf.der.clone()], leaf.secret())
                .expect("a certificate"),
        };
        let protocols = like.protocols.iter();
        config.alpn_protocols = protocols.map(|one| one.as_bytes().to_vec()).collect();
        config
    }

    /// A handshake for a name.
    pub(crate) async fn connect(
        &self,
        name: &str,
        like: &As<'_>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_by(name, self.client(like)).await
    }

    pub(crate) async fn connect_by(
        &self,
        name: &str,
        config: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.https).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    /// `curl`, which trusts the authority.
    pub(crate) async fn curl(&self, args: &[&str], path: &str) -> String {
        let output = self.try_curl(args, path).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{complaint}");
        said
    }

    pub(crate) async fn try_curl(&self, args: &[&str], path: &str) -> Output {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
            .arg(self.folder.path().join("ca.pem"))
            .args(args)
            .arg(format!("https://localhost:{}{path}", self.https.port()))
            .stdin(Stdio::null());
        soon(command.output()).await.expect("curl runs")
    }

    /// `openssl s_client`, which ends when it is connected.
    pub(crate) async fn openssl(&self, args: &[&str]) -> (bool, String) {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-connect", &self.https.to_string(), "-CAfile"])
            .arg(self.folder.path().join("ca.pem"))
            .args(args)
            .stdin(Stdio::null());
        let output = soon(command.output()).await.expect("openssl runs");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.success(), text)
    }
}

/// The first certificate that a server showed.
pub(crate) fn shown(session: &ClientConnection) -> CertificateDer<'static> {
    let certificates = session.peer_certificates().expect("a handshake");
    certificates[0].clone().into_owned()
}

pub(crate) mod anybody {
    //! A client that does not look whom it talks to.

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(crate) struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
}
