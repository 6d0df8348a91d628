//! A signed call of the control API: who asks which node for what, once, and until when.
//!
//! It travels in the header [`AUTH_HEADER`] and covers method, path with query, and the body's
//! digest. Not here: which keys may call what, and which nonces were seen already.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use crate::digest::Digest;
use crate::entry::RealmId;
use crate::key::{PublicKey, SecretKey, Signature};
use crate::wire::authenticated;

/// The header that carries a [`SignedRequest`].
pub const AUTH_HEADER: &str = "realm-auth";
/// With a refusal `clock`: the node's time, in milliseconds since 1970.
pub const TIME_HEADER: &str = "realm-time";
/// Bytes of a nonce: two of 2^32 random ones are the same with a chance of 2^-65.
pub const NONCE_BYTES: usize = 16;
/// How far ahead a deadline may lie: a node remembers nonces for as long.
pub const DEADLINE_MS_MAX: u64 = 60_000;
/// How far ahead a signer sets it: clocks may differ by half a minute either way.
pub const DEADLINE_MS: u64 = 30_000;
/// A signer follows a node's clock this far, and no further: else whoever passes requests on could
/// have one signed for another day.
pub const CLOCK_TOLERANCE_MS: u64 = 600_000;

/// A header longer than this is not read: an honest one has 264 characters.
const HEADER_CHARS_MAX: usize = 512;
const DOMAIN: &[u8] = b"realm.request.v1";
const FORMAT: u8 = 1;

/// What is asked: the part of a request that both ends know anyway.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The realm.
    pub realm: RealmId,
    /// The node's key.
    pub target: PublicKey,
    /// `GET`, `POST`, ….
    pub method: &'a str,
    /// Path and query, as sent.
    pub path: &'a str,
}

/// A request with the signature of who asks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedRequest {
    #[n(0)]
    format: u8,
    /// Who asks.
    #[n(1)]
    pub key: PublicKey,
    /// The node that may answer.
    #[n(2)]
    pub target: PublicKey,
    #[n(3)]
    nonce: ByteArray<NONCE_BYTES>,
    /// Nobody answers later than this, in milliseconds since 1970.
    #[n(4)]
    pub deadline_unix_ms: u64,
    /// SHA-256 of the body.
    #[n(5)]
    pub body: Digest,
    #[n(6)]
    signature: Signature,
}

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The header is no signed request.
    #[error("the header `{AUTH_HEADER}` is not understood: {0}")]
    Malformed(&'static str),
    /// It was made for another node.
    #[error("the request was signed for the node {0}")]
    WrongTarget(PublicKey),
    /// The deadline has passed, or lies too far ahead.
    #[error("the request was to be answered {}, by this node's clock", Off(*.0))]
    Clock(i64),
    /// The signature does not hold.
    #[error("the signature of {0} does not hold over this request")]
    BadSignature(PublicKey),
}

/// A deadline, as milliseconds from a node's clock.
struct Off(i64);

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.unsigned_abs().div_ceil(1_000);
        match self.0 {
            ..=0 => write!(f, "{seconds} s ago"),
            1.. => write!(
                f,
                "within {seconds} s, and it may be {} s at most",
                DEADLINE_MS_MAX / 1_000
            ),
        }
    }
}

impl SignedRequest {
    /// Signs. The nonce must come from a cryptographic source.
    pub fn sign(
        asked: &Asked<'_>,
        body: Digest,
        nonce: [u8; NONCE_BYTES],
        deadline_unix_ms: u64,
        secret: &SecretKey,
    ) -> Self {
        let message = message(asked, body, &nonce, deadline_unix_ms);
        Self {
            format: FORMAT,
            key: secret.public(),
            target: asked.target,
            nonce: nonce.into(),
            deadline_unix_ms,
            body,
            signature: secret.sign(&message),
        }
    }

    /// The value of the header.
    pub fn to_header(&self) -> String {
        STANDARD.encode(minicbor::to_vec(self).expect("encoding into a Vec does not fail"))
    }

    /// Reads the value of the header. Nothing is vouched for yet: see [`Self::check`].
    pub fn from_header(text: &str) -> Result<Self, RequestError> {
        if text.len() > HEADER_CHARS_MAX {
            return Err(RequestError::Malformed("it is too long"));
        }
        let bytes = STANDARD
            .decode(text)
            .map_err(|_| RequestError::Malformed("it is not base64"))?;
        let request: Self = minicbor::decode(&bytes)
            .map_err(|_| RequestError::Malformed("it holds no signed request"))?;
        // One encoding: other bytes of a known request are no other request.
        if request.format != FORMAT || request.to_header() != text {
            return Err(RequestError::Malformed("it is of another version of realm"));
        }
        Ok(request)
    }

    /// What a node remembers of it until the deadline.
    pub fn nonce(&self) -> [u8; NONCE_BYTES] {
        *self.nonce
    }

    /// Checks target, deadline and signature. That the body has the digest [`Self::body`], and that
    /// the nonce is new, is left to the caller.
    pub fn check(&self, asked: &Asked<'_>, now_unix_ms: u64) -> Result<(), RequestError> {
        if self.target != asked.target {
            return Err(RequestError::WrongTarget(self.target));
        }
        let ahead = i128::from(self.deadline_unix_ms) - i128::from(now_unix_ms);
        if !(1..=i128::from(DEADLINE_MS_MAX)).contains(&ahead) {
            let bounded = ahead.clamp(i64::MIN.into(), i64::MAX.into());
            return Err(RequestError::Clock(
                i64::try_from(bounded).expect("clamped to its range"),
            ));
        }
        let message = message(asked, self.body, &self.nonce, self.deadline_unix_ms);
        if !self.key.verifies(&message, &self.signature) {
            return Err(RequestError::BadSignature(self.key));
        }
        Ok(())
    }
}

/// Every part with its length, so that no two requests give the same bytes.
fn message(
    asked: &Asked<'_>,
    body: Digest,
    nonce: &[u8; NONCE_BYTES],
    deadline_unix_ms: u64,
) -> Vec<u8> {
    let deadline = deadline_unix_ms.to_le_bytes();
    let realm = asked.realm.digest();
    let parts: [&[u8]; 8] = [
        DOMAIN,
        realm.as_bytes(),
        asked.method.as_bytes(),
        asked.path.as_bytes(),
        body.as_bytes(),
        asked.target.as_bytes(),
        nonce,
        &deadline,
    ];
    authenticated(&parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_790_000_000_000;
    /// Format 1, sent by every client: it may never change.
    const FIXTURE: &str = "hwFYIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29cWCCBOXcOqH0XX1ajVGbDTH7My42KkbTuN6Jd9g9bj8mzlFAHBwcHBwcHBwcHBwcHBwcHGwAAAaDEUOEwWCAjDYNY3I6IkLTFje62KRLuLyA1eukqXMhhuY5o/jGstVhAqr2jwoWwY30GHzJM/qwQVZ6qptbDNxHuhUo27lsnZQN6x1IzRS7g6Vi2stgBlwJ2SD5Q5TtvvWuNWacEQan9DA==";

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn asked() -> Asked<'static> {
        Asked {
            realm: RealmId::new(Digest::of(b"realm")),
            target: key(2).public(),
            method: "POST",
            path: "/v1/exec?x=1",
        }
    }

    fn signed() -> SignedRequest {
        let body = Digest::of(b"body");
        SignedRequest::sign(&asked(), body, [7; 16], NOW + DEADLINE_MS, &key(1))
    }

    #[track_caller]
    fn check(asked: &Asked<'_>, now: u64, expected: Result<(), RequestError>) {
        assert_eq!(signed().check(asked, now), expected);
    }

    #[test]
    fn the_header_is_pinned() {
        assert_eq!(signed().to_header(), FIXTURE);
        assert_eq!(SignedRequest::from_header(FIXTURE), Ok(signed()));
    }

    #[test]
    fn it_holds_for_what_was_asked_alone() {
        let bad = || Err(RequestError::BadSignature(key(1).public()));
        check(&asked(), NOW, Ok(()));
        let realm = RealmId::new(Digest::of(b"other"));
        check(&Asked { realm, ..asked() }, NOW, bad());
        let method = "PUT";
        check(&Asked { method, ..asked() }, NOW, bad());
        let path = "/v1/exec?x=2";
        check(&Asked { path, ..asked() }, NOW, bad());
        let target = key(3).public();
        let elsewhere = Err(RequestError::WrongTarget(key(2).public()));
        check(&Asked { target, ..asked() }, NOW, elsewhere);
        for change in [
            |request: &mut SignedRequest| request.body = Digest::of(b"other"),
            |request: &mut SignedRequest| request.nonce = [8; 16].into(),
            |request: &mut SignedRequest| request.deadline_unix_ms += 1,
        ] {
            let mut request = signed();
            change(&mut request);
            assert_eq!(request.check(&asked(), NOW), bad());
        }
        let mut request = signed();
        request.key = key(4).public();
        assert_ne!(request.check(&asked(), NOW), Ok(()));
    }

    #[test]
    fn it_holds_until_its_deadline_and_not_before_its_time() {
        let deadline = NOW + DEADLINE_MS;
        check(&asked(), deadline - 1, Ok(()));
        check(&asked(), deadline, Err(RequestError::Clock(0)));
        check(&asked(), deadline - DEADLINE_MS_MAX, Ok(()));
        let early = deadline - DEADLINE_MS_MAX - 1;
        check(&asked(), early, Err(RequestError::Clock(60_001)));
        let ago = RequestError::Clock(-299_001).to_string();
        assert!(ago.contains("300 s ago"), "{ago}");
        let mut far = signed();
        far.deadline_unix_ms = u64::MAX;
        assert_eq!(far.check(&asked(), 0), Err(RequestError::Clock(i64::MAX)));
    }

    proptest! {
        #[test]
        fn any_header_is_a_request_or_an_error(text in "[A-Za-z0-9+/=]{0,600}|\\PC{0,40}") {
            if let Ok(request) = SignedRequest::from_header(&text) {
                prop_assert_eq!(request.to_header(), text);
            }
        }

        #[test]
        fn a_changed_header_holds_no_more(at in 0..FIXTURE.len(), with in "[A-Za-z0-9+/]") {
            let text = format!("{}{with}{}", &FIXTURE[..at], &FIXTURE[at + 1..]);
            prop_assume!(text != FIXTURE);
            let checked = SignedRequest::from_header(&text)
                .and_then(|request| request.check(&asked(), NOW));
            prop_assert!(checked.is_err());
        }

        #[test]
        fn every_request_reads_back(nonce: [u8; 16], deadline: u64, seed: u8) {
            let body = Digest::of(&[seed]);
            let request = SignedRequest::sign(&asked(), body, nonce, deadline, &key(seed));
            prop_assert_eq!(SignedRequest::from_header(&request.to_header()), Ok(request));
        }
    }
}
