//! Certificates among the nodes of a realm: `/realm/<id>/cert/1`, for members alone.
//!
//! A node that needs one asks the others first, and takes it with its key. Who orders where nobody has one
//! is decided by rank, so that one order is enough; the others wait, and order themselves if nothing
//! comes of it. The proof that an authority looks for is given to all, since it may look at any of them.
//!
//! What a question and an answer look like is `realm_model::certificate_message`'s.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use realm_edge::tls::{Certificate, Challenge};
use realm_model::certificate_message::{Answer, Question};
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_net::{Handle, Protocol, Stream, Transport as _};
use realm_store::folder::read_small;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::acme::due::{Due, due};
use super::{Certificates, Shared, acme, now_s};

/// A chain of ten certificates and a key.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// One question and its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Members that are asked: an order is rare, and each answer is small.
const ASKED_MAX: usize = 256;
/// As long as an order takes at most.
const PROOF_FOR: Duration = Duration::from_secs(300);
/// A proof as it is given to others; without one where it is longer than any.
pub(super) struct Proof(Option<Zeroizing<Vec<u8>>>);

impl From<Question<'_>> for Proof {
    fn from(question: Question<'_>) -> Self {
        Self(question.to_bytes())
    }
}

/// What the others say of a name.
pub(super) enum Said {
    /// A certificate and its key, in PEM, that is good for longer.
    Given(Zeroizing<Vec<u8>>),
    /// Nobody has one; so many of those who would order one come before this node.
    Nobody { before: usize },
}

/// Asks all members that are reached for a certificate for `name`.
pub(super) async fn ask(shared: &Shared, name: &str) -> Said {
    let question = Question::Have(name).to_bytes().unwrap_or_default();
    let mut answers = to_all(shared, &question);
    let mine = rank(name, &shared.me);
    let mut before = 0;
    while let Some((member, answer)) = answers.next().await {
        match Answer::from_bytes(&answer) {
            Some(Answer::Given(text)) if is_good(text, name) => {
                tracing::info!(name, peer = %member, "another node gave its certificate");
                return Said::Given(Zeroizing::new(text.to_vec()));
            }
            Some(Answer::NoneHere) if rank(name, &member) < mine => before += 1,
            Some(Answer::Given(_) | Answer::NoneHere | Answer::NotMine) | None => {}
        }
    }
    Said::Nobody { before }
}

/// Lets all members that are reached answer a challenge, and waits until they do.
pub(super) async fn spread(shared: &Shared, proof: &Proof) {
    if let Some(question) = &proof.0 {
        let answers = to_all(shared, question);
        // Who cannot be told is not to keep the others from it.
        let _: Vec<_> = answers.collect().await;
    }
}

/// All members that are reached are asked at once; who does not answer has said nothing.
fn to_all(
    shared: &Shared,
    question: &[u8],
) -> FuturesUnordered<impl Future<Output = (PublicKey, Zeroizing<Vec<u8>>)>> {
    let (net, members) = shared.peers.reachable();
    let asked = members.into_iter().take(ASKED_MAX);
    asked
        .filter_map(|member| Some((net.clone()?, member)))
        .map(|(net, member)| {
            let question = question.to_vec();
            async move {
                let asking = exchange(&net, member, &question);
                let answer = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
                let answer = answer.ok().flatten().unwrap_or_default();
                (member, Zeroizing::new(answer))
            }
        })
        .collect()
}

async fn exchange(net: &Handle, member: PublicKey, question: &[u8]) -> Option<Vec<u8>> {
    let mut stream = net.open(member, Protocol::Cert).await.ok()?;
    stream.write_message(question).await.ok()?;
    stream.read_message(MESSAGE_BYTES_MAX).await.ok()?
}

/// Who orders first for a name: another node for another name.
fn rank(name: &str, node: &PublicKey) -> Digest {
    Digest::of(&[name.as_bytes(), node.as_bytes()].concat())
}

/// Whether it is a certificate for that name and no other, which is not to be renewed yet. Who vouches for it
/// is not looked at: an approved node is believed here.
fn is_good(text: &[u8], name: &str) -> bool {
    Certificate::from_pem(text, text).is_ok_and(|certificate| {
        let validity = Some(certificate.validity());
        certificate.names() == [name] && due(name, validity, None, now_s()) != Due::Now
    })
}

impl Certificates {
    /// Whether members may ask.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.acme.as_ref().is_some_and(|acme| acme.shared)
    }

    /// Answers a member.
    pub(crate) async fn serve(&self, from: PublicKey, mut stream: Stream) {
        let Some(_place) = self.shared.asking.take(from, 0) else {
            return;
        };
        let answering = async {
            let question = stream.read_message(MESSAGE_BYTES_MAX).await.ok()??;
            let question = Zeroizing::new(question);
            let answer = self.answer(from, &question);
            stream.write_message(&answer).await.ok()
        };
        // Who hung up asks again.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, answering).await;
    }

    fn answer(&self, from: PublicKey, question: &[u8]) -> Zeroizing<Vec<u8>> {
        let answer = match Question::from_bytes(question) {
            Some(Question::Have(name)) => return self.give(from, name),
            Some(Question::ProveHttp {
                name,
                token,
                answer,
            }) => self.prove(from, name, || {
                Some(Challenge::Http {
                    name: name.to_owned(),
                    token: token.to_owned(),
                    answer: answer.to_owned(),
                })
            }),
            Some(Question::ProveAlpn {
                name,
                certificate,
                key,
            }) => self.prove(from, name, || {
                let key = PrivatePkcs8KeyDer::from(key.to_vec());
                let certificate = CertificateDer::from(certificate.to_vec());
                Some(Challenge::Alpn {
                    name: name.to_owned(),
                    certificate: Certificate::proof(certificate, key.into()).ok()?,
                })
            }),
            None => None,
        };
        answer.unwrap_or(Answer::NotMine).to_bytes()
    }

    /// The certificate for a name, with its key.
    fn give(&self, from: PublicKey, name: &str) -> Zeroizing<Vec<u8>> {
        if !self.shared.orders(name) {
            return Answer::NotMine.to_bytes();
        }
        let path = acme::file(&self.shared.own, name);
        let text = read_small(&path, acme::FILE_BYTES_MAX).map(Zeroizing::new);
        match text {
            Ok(text) if is_good(&text, name) => {
                tracing::info!(name, peer = %from, "a certificate and its key go to another node");
                Answer::Given(&text).to_bytes()
            }
            Ok(_) | Err(_) => Answer::NoneHere.to_bytes(),
        }
    }

    /// Answers a challenge of another node's order, for as long as that may take.
    fn prove(
        &self,
        from: PublicKey,
        name: &str,
        challenge: impl FnOnce() -> Option<Challenge>,
    ) -> Option<Answer<'static>> {
        if !self.shared.orders(name) {
            return None;
        }
        let challenge = challenge()?;
        let place = self.shared.proving.take(from, 0)?;
        tracing::info!(name, peer = %from, "answering an authority for another node");
        let identity = self.shared.identity.clone();
        let number = identity.answer_for_another(challenge);
        tokio::spawn(async move {
            tokio::time::sleep(PROOF_FOR).await;
            identity.withdraw(number);
            drop(place);
        });
        Some(Answer::Given(b""))
    }
}
