//! One order: the account, the proof that a name leads here, and the certificate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use realm_edge::tls::{Certificate, Challenge, Identity};
use realm_model::certificate_message::{Question, is_proof};
use realm_model::digest::Digest;
use realm_model::node_config::{AcmeChallenge, AcmeSettings};
use realm_model::text::one_line;
use realm_store::folder::{FolderError, read_secret, write_secret};
use rustls::pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use super::super::among::{self, Proof};
use super::super::{Shared, date};
use super::FILE_BYTES_MAX;
use super::client::{Client, is_secure};
use super::due::{Due, due};

/// How long an authority may take to look, and to sign: some have a queue.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));
/// What is to be proven for one name: one, says RFC 8555 §7.1.3.
const AUTHORIZATIONS_MAX: usize = 4;
/// An authority that does not know the account, whatever it said before (RFC 8555 §6.7).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
const PEM_BEGIN: &str = "-----BEGIN ";
const CERTIFICATE: &str = "CERTIFICATE-----";
/// An authority's clock may be ahead of this machine's.
const CLOCKS_DIFFER_S: i64 = 600;
/// Characters of what an authority says that are told on.
const SAID_CHARS_MAX: usize = 300;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An order came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("the authority cannot be asked")]
    Client(#[source] BoxError),
    #[error("the account at the authority cannot be kept")]
    Keep(#[source] BoxError),
    #[error("the account cannot be used")]
    Account(#[source] instant_acme::Error),
    #[error("the account that the authority gave has no `https://` address")]
    AccountAddress,
    #[error("the authority did not take the order")]
    Order(#[source] instant_acme::Error),
    #[error("the authority wants more than {AUTHORIZATIONS_MAX} proofs for one name")]
    TooManyProofs,
    #[error("the authority's challenge is none: its token has not the form of one")]
    Token,
    #[error("the authority offers no challenge of this kind: {0}")]
    NoChallenge(&'static str),
    #[error("the authority did not find that the name leads here: {0}")]
    NotProven(String),
    #[error("the certificate was not given")]
    NotGiven(#[source] instant_acme::Error),
    #[error("a key or a request cannot be made")]
    Key(#[source] rcgen::Error),
    #[error("the certificate that was given does not do")]
    Given(#[source] BoxError),
    #[error("the certificate that was given is for another name")]
    Other,
    #[error("what was given is more than certificates")]
    More,
    #[error("what was given is longer than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(
        "the certificate that was given is valid from {from} to {until}: not now, or for too short a time (is the clock of this machine right?)"
    )]
    NotNow { from: String, until: String },
    #[error("the authority came to no end")]
    TooLong,
    #[error("a mistake of the agent: it panicked at what the authority said")]
    Panicked,
}

/// The account at an authority; it is made where there is none.
pub(super) async fn account(settings: &AcmeSettings, own: &Path) -> Result<Account, OrderError> {
    let client = Client::new(settings.root.as_deref().map(Path::new));
    let client = client.map_err(|error| OrderError::Client(Box::new(error)))?;
    let builder = Account::builder_with_http(Box::new(client));
    let path = account_file(own, &settings.directory);
    let keep = |error: FolderError| OrderError::Keep(Box::new(error));
    match read_secret(&path) {
        Ok(text) => {
            let credentials = serde_json::from_str::<AccountCredentials>(&text);
            let credentials = credentials.map_err(|error| OrderError::Keep(Box::new(error)))?;
            let account = builder.from_credentials(credentials).await;
            account.map_err(OrderError::Account)
        }
        Err(FolderError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let contact = settings.contact.as_ref().map(|to| format!("mailto:{to}"));
            let contact: Vec<&str> = contact.as_deref().into_iter().collect();
            let new = NewAccount {
                contact: &contact,
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let created = builder.create(&new, settings.directory.clone(), None).await;
            let (account, credentials) = created.map_err(OrderError::Account)?;
            // What is written stays, also when the authority is well again.
            if !account.id().parse().is_ok_and(|uri| is_secure(&uri)) {
                return Err(OrderError::AccountAddress);
            }
            let text = serde_json::to_string(&credentials);
            let text = Zeroizing::new(text.map_err(|error| OrderError::Keep(Box::new(error)))?);
            write_secret(&path, text.as_bytes()).map_err(keep)?;
            Ok(account)
        }
        Err(error) => Err(keep(error)),
    }
}

/// An account that the authority does not know is kept no longer: the next order makes another one.
pub(super) fn forget_unknown(settings: &AcmeSettings, own: &Path, error: &OrderError) {
    if let OrderError::Order(instant_acme::Error::Api(problem)) = error
        && problem.r#type.as_deref() == Some(NO_ACCOUNT)
    {
        // Where it cannot be removed, the next order fails like this one, and is told.
        let _ = std::fs::remove_file(account_file(own, &settings.directory));
    }
}

/// Each authority has an account of its own.
fn account_file(own: &Path, directory: &str) -> PathBuf {
    let digest = Digest::of(directory.as_bytes()).to_string();
    let short: String = digest.chars().rev().take(16).collect();
    own.join(format!("acme-account-{short}.json"))
}

/// Challenges that are answered, until it is dropped.
struct Answered<'i> {
    identity: &'i Identity,
    numbers: Vec<u64>,
}

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        for number in &self.numbers {
            self.identity.withdraw(*number);
        }
    }
}

/// Orders a certificate for a name.
pub(super) async fn order(
    account: &Account,
    shared: &Shared,
    name: &str,
    kind: AcmeChallenge,
) -> Result<Given, OrderError> {
    let identifiers = [Identifier::Dns(name.to_owned())];
    let order = account.new_order(&NewOrder::new(&identifiers)).await;
    let mut order = order.map_err(OrderError::Order)?;
    if order.state().authorizations.len() > AUTHORIZATIONS_MAX {
        return Err(OrderError::TooManyProofs);
    }
    let identity = &shared.identity;
    let mut answered = Answered {
        identity,
        numbers: Vec::new(),
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(OrderError::Order)?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Invalid
            | AuthorizationStatus::Revoked
            | AuthorizationStatus::Expired
            | AuthorizationStatus::Deactivated => {
                return Err(OrderError::NotProven("it was refused before".to_owned()));
            }
        }
        let (wanted, word) = match kind {
            AcmeChallenge::Http => (ChallengeType::Http01, "http-01"),
            AcmeChallenge::TlsAlpn => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        };
        let challenge = authorization.challenge(wanted);
        let mut challenge = challenge.ok_or(OrderError::NoChallenge(word))?;
        let proof = challenge.key_authorization();
        // It is kept, sent to other nodes, and shown under the names of this realm.
        if !is_proof(challenge.token.as_bytes(), proof.as_str().as_bytes()) {
            return Err(OrderError::Token);
        }
        let (answer, proof) = match kind {
            AcmeChallenge::Http => {
                let (token, answer) = (challenge.token.clone(), proof.as_str().to_owned());
                let proof = Proof::from(Question::ProveHttp {
                    name,
                    token: &token,
                    answer: &answer,
                });
                let name = name.to_owned();
                let answer = Challenge::Http {
                    name,
                    token,
                    answer,
                };
                (answer, proof)
            }
            AcmeChallenge::TlsAlpn => proving(name, proof.digest().as_ref())?,
        };
        answered.numbers.push(identity.answer(answer));
        // It may look at any node that the name leads to.
        if shared.acme.as_ref().is_some_and(|acme| acme.shared) {
            among::spread(shared, &proof).await;
        }
        challenge.set_ready().await.map_err(OrderError::Order)?;
    }
    let ready = order.poll_ready(&PATIENCE).await;
    let status = ready.map_err(|error| {
        // An order that it gave up says why.
        if let instant_acme::Error::Api(problem) = &error {
            return OrderError::NotProven(one_line(&problem.to_string(), SAID_CHARS_MAX));
        }
        OrderError::Order(error)
    })?;
    if status != OrderStatus::Ready && status != OrderStatus::Valid {
        return Err(OrderError::NotProven(said(&mut order).await));
    }
    let key = rcgen::KeyPair::generate().map_err(OrderError::Key)?;
    let mut params =
        rcgen::CertificateParams::new(vec![name.to_owned()]).map_err(OrderError::Key)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(OrderError::Key)?;
    let finalized = order.finalize_csr(request.der()).await;
    finalized.map_err(OrderError::NotGiven)?;
    let chain = order.poll_certificate(&PATIENCE).await;
    let chain = chain.map_err(OrderError::NotGiven)?;
    Ok(Given {
        chain,
        key: Zeroizing::new(key.serialize_pem()),
    })
}

/// What an authority gave, and the key that it is to be for.
pub(super) struct Given {
    chain: String,
    key: Zeroizing<String>,
}

impl Given {
    /// The chain and the key in one text, if they are good for `name` and for a while: they come in the place
    /// of what may be good, and what is due again at once would be ordered without end.
    pub(super) fn text(&self, name: &str, now_s: i64) -> Result<Zeroizing<String>, OrderError> {
        // A key of theirs would be the first in the text (RFC 8555 §9.1).
        let mut kinds = self.chain.split(PEM_BEGIN).skip(1);
        if !kinds.all(|rest| rest.starts_with(CERTIFICATE)) {
            return Err(OrderError::More);
        }
        let text = format!("{}\n{}", self.chain.trim_end(), self.key.as_str());
        let text = Zeroizing::new(text);
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(OrderError::TooLarge);
        }
        let certificate = Certificate::from_pem(self.chain.as_bytes(), self.key.as_bytes());
        let certificate = certificate.map_err(|error| OrderError::Given(Box::new(error)))?;
        if !certificate.names().iter().any(|one| one == name) {
            return Err(OrderError::Other);
        }
        let validity = certificate.validity();
        let begins = now_s.saturating_add(CLOCKS_DIFFER_S) >= validity.not_before_s;
        if !begins || due(name, Some(validity), None, now_s) == Due::Now {
            return Err(OrderError::NotNow {
                from: date(validity.not_before_s),
                until: date(validity.not_after_s),
            });
        }
        Ok(text)
    }
}

/// Why an authority is not content, in its own words.
async fn said(order: &mut instant_acme::Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        // What was read with the order is from before it looked.
        let Ok(authorization) = authorization.refresh().await else {
            continue;
        };
        let mut errors = authorization.challenges.iter();
        if let Some(problem) = errors.find_map(|challenge| challenge.error.as_ref()) {
            return one_line(&problem.to_string(), SAID_CHARS_MAX);
        }
    }
    "it does not say why".to_owned()
}

/// A certificate that shows nothing but that the name leads here (RFC 8737 §3).
fn proving(name: &str, digest: &[u8]) -> Result<(Challenge, Proof), OrderError> {
    let key = rcgen::KeyPair::generate().map_err(OrderError::Key)?;
    let mut params =
        rcgen::CertificateParams::new(vec![name.to_owned()]).map_err(OrderError::Key)?;
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
    let made = params.self_signed(&key).map_err(OrderError::Key)?;
    let secret = Zeroizing::new(key.serialize_der());
    let proof = Proof::from(Question::ProveAlpn {
        name,
        certificate: made.der(),
        key: &secret,
    });
    let secret = PrivatePkcs8KeyDer::from(secret.to_vec());
    let certificate = Certificate::proof(made.der().clone(), secret.into())
        .map_err(|error| OrderError::Given(Box::new(error)))?;
    let name = name.to_owned();
    Ok((Challenge::Alpn { name, certificate }, proof))
}
