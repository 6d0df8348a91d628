//! Certificates among the nodes of a realm: `/realm/<id>/cert/1`, for members alone.
//!
//! A node that needs one asks the others first, and takes it with its key. Who orders where nobody has one
//! is decided by rank, so that one order is enough; the others wait, and order themselves if nothing
//! comes of it. The proof that an authority looks for is given to all, since it may look at any of them.
//!
//! A question and its answer are a message each. The question: what is asked (1 byte), then for
//! [`HAVE`] a name; for [`PROVE_HTTP`] and [`PROVE_ALPN`] parts, each with its length (2 bytes,
//! little-endian). The answer: one byte, and after [`GIVEN`] the chain and the key in PEM.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use realm_edge::tls::{Certificate, Challenge};
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_net::{Handle, Protocol, Stream, Transport as _};
use realm_store::folder::read_small;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::acme::due::{Due, due};
use super::{Certificates, Shared, acme, now_s};

const HAVE: u8 = 0;
const PROVE_HTTP: u8 = 1;
const PROVE_ALPN: u8 = 2;

const GIVEN: u8 = 0;
/// It would order one, and has none.
const NONE_HERE: u8 = 1;
/// It has nothing to do with that name.
const NOT_MINE: u8 = 2;

/// A chain of ten certificates and a key.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// One question and its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Members that are asked: an order is rare, and each answer is small.
const ASKED_MAX: usize = 256;
/// As long as an order takes at most.
const PROOF_FOR: Duration = Duration::from_secs(300);
/// Parts of a proof: a token and an answer, or a name, a certificate and a key.
const PARTS_MAX: usize = 3;
/// Bytes of a token of HTTP-01: authorities use 43.
const TOKEN_BYTES_MAX: usize = 128;
/// A digest of SHA-256 in base64url.
const THUMBPRINT_BYTES: usize = 43;

/// What the others say of a name.
pub(super) enum Said {
    /// A certificate and its key, in PEM, that is good for longer.
    Given(Zeroizing<Vec<u8>>),
    /// Nobody has one; so many of those who would order one come before this node.
    Nobody { before: usize },
}

/// Asks all members that are reached for a certificate for `name`.
pub(super) async fn ask(shared: &Shared, name: &str) -> Said {
    let question = [&[HAVE], name.as_bytes()].concat();
    let mut answers = to_all(shared, &question);
    let mine = rank(name, &shared.me);
    let mut before = 0;
    while let Some((member, answer)) = answers.next().await {
        match answer.split_first() {
            Some((&GIVEN, text)) if is_good(text, name) => {
                tracing::info!(name, peer = %member, "another node gave its certificate");
                return Said::Given(Zeroizing::new(text.to_vec()));
            }
            Some((&NONE_HERE, _)) if rank(name, &member) < mine => before += 1,
            _ => {}
        }
    }
    Said::Nobody { before }
}

/// Lets all members that are reached answer a challenge, and waits until they do.
pub(super) async fn spread(shared: &Shared, proof: &Proof) {
    if let Some(question) = proof.bytes() {
        let answers = to_all(shared, &question);
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

/// Whether it has the form of an answer to HTTP-01 (RFC 8555 §8.1): the token, and the thumbprint of an
/// account's key.
fn is_proof(token: &[u8], answer: &[u8]) -> bool {
    let is_word = |bytes: &[u8]| {
        let is_of_it = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        bytes.iter().all(is_of_it)
    };
    let thumbprint = answer
        .strip_prefix(token)
        .and_then(|rest| rest.strip_prefix(b"."));
    (1..=TOKEN_BYTES_MAX).contains(&token.len())
        && is_word(token)
        && thumbprint.is_some_and(|print| print.len() == THUMBPRINT_BYTES && is_word(print))
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
        let only = |byte: u8| Zeroizing::new(vec![byte]);
        match question.split_first() {
            Some((&HAVE, name)) => {
                let name = std::str::from_utf8(name).unwrap_or_default();
                if !self.shared.orders(name) {
                    return only(NOT_MINE);
                }
                let path = acme::file(&self.shared.own, name);
                let text = read_small(&path, acme::FILE_BYTES_MAX).map(Zeroizing::new);
                match text {
                    Ok(text) if is_good(&text, name) => {
                        tracing::info!(name, peer = %from, "a certificate and its key go to another node");
                        Zeroizing::new([&[GIVEN], text.as_slice()].concat())
                    }
                    Ok(_) | Err(_) => only(NONE_HERE),
                }
            }
            Some((&kind @ (PROVE_HTTP | PROVE_ALPN), rest)) => match self.prove(from, kind, rest) {
                Some(()) => only(GIVEN),
                None => only(NOT_MINE),
            },
            Some(_) | None => only(NOT_MINE),
        }
    }

    /// Answers a challenge of another node's order, for as long as that may take.
    fn prove(&self, from: PublicKey, kind: u8, rest: &[u8]) -> Option<()> {
        let parts = parts(rest)?;
        let text = |part: &[u8]| std::str::from_utf8(part).ok().map(str::to_owned);
        let (name, challenge) = match (kind, parts.as_slice()) {
            (PROVE_HTTP, [name, token, answer]) if is_proof(token, answer) => {
                let challenge = Challenge::Http {
                    name: text(name)?,
                    token: text(token)?,
                    answer: text(answer)?,
                };
                (text(name)?, challenge)
            }
            (PROVE_ALPN, [name, certificate, key]) => {
                let key = PrivatePkcs8KeyDer::from(key.to_vec());
                let certificate = CertificateDer::from(certificate.to_vec());
                let challenge = Challenge::Alpn {
                    name: text(name)?,
                    certificate: Certificate::proof(certificate, key.into()).ok()?,
                };
                (text(name)?, challenge)
            }
            _ => return None,
        };
        if !self.shared.orders(&name) {
            return None;
        }
        let place = self.shared.proving.take(from, 0)?;
        tracing::info!(name, peer = %from, "answering an authority for another node");
        let identity = self.shared.identity.clone();
        let number = identity.answer_for_another(challenge);
        tokio::spawn(async move {
            tokio::time::sleep(PROOF_FOR).await;
            identity.withdraw(number);
            drop(place);
        });
        Some(())
    }
}

/// A proof as it is given to others.
pub(super) struct Proof {
    kind: u8,
    parts: Vec<Zeroizing<Vec<u8>>>,
}

impl Proof {
    pub(super) fn http(name: &str, token: &str, answer: &str) -> Self {
        let parts = [name, token, answer].map(|part| Zeroizing::new(part.as_bytes().to_vec()));
        Self {
            kind: PROVE_HTTP,
            parts: parts.into(),
        }
    }

    pub(super) fn alpn(name: &str, certificate: &[u8], key: &[u8]) -> Self {
        let parts = [name.as_bytes(), certificate, key];
        Self {
            kind: PROVE_ALPN,
            parts: parts.map(|part| Zeroizing::new(part.to_vec())).into(),
        }
    }

    fn bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(vec![self.kind]);
        for part in &self.parts {
            let length = u16::try_from(part.len()).ok()?;
            bytes.extend(length.to_le_bytes());
            bytes.extend_from_slice(part);
        }
        Some(bytes)
    }
}

/// Parts with their lengths; `None`: they are none.
fn parts(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_at_checked(2)?;
        let length = u16::from_le_bytes(length.try_into().ok()?);
        let (part, rest) = rest.split_at_checked(length.into())?;
        if parts.len() == PARTS_MAX {
            return None;
        }
        parts.push(part);
        bytes = rest;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_has_the_form_of_one() {
        let print = "x".repeat(THUMBPRINT_BYTES);
        let check = |token: &str, answer: &str, expected: bool| {
            let found = is_proof(token.as_bytes(), answer.as_bytes());
            assert_eq!(found, expected, "{token} {answer}");
        };
        check("a-_9", &format!("a-_9.{print}"), true);
        check("a", &format!("b.{print}"), false);
        check("a", &format!("a{print}"), false);
        check("a", &format!("a.{print}x"), false);
        check("", &format!(".{print}"), false);
        check("a/b", &format!("a/b.{print}"), false);
        check("a", &format!("a.{}<", &print[1..]), false);
        let long = "a".repeat(TOKEN_BYTES_MAX + 1);
        check(&long, &format!("{long}.{print}"), false);
    }

    #[test]
    fn a_proof_is_read_as_it_was_written_and_nothing_else_is() {
        let proof = Proof::http("a.example", "token", "token.thumb")
            .bytes()
            .unwrap();
        let (kind, rest) = proof.split_first().unwrap();
        assert_eq!(*kind, PROVE_HTTP);
        let expected = [&b"a.example"[..], b"token", b"token.thumb"];
        assert_eq!(parts(rest).unwrap(), expected);
        for length in [1, 5, rest.len() - 1] {
            assert_eq!(parts(&rest[..length]), None, "{length}");
        }
        assert_eq!(parts(&[rest, b"\0\0"].concat()), None);
        assert!(Proof::alpn("a", &[0; 70_000], b"").bytes().is_none());
    }
}
