//! `realm.toml.sig`: the detached signature beside a manifest. It carries what the signature covers
//! besides the two files, so that anyone can check all three offline. Written by `realm apply`.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::entry::{
    Body, ChainId, ENTRY_BYTES_MAX, Head, ManifestBody, Payload, PushBody, RealmId,
};
use crate::key::{PublicKey, Signature};
use crate::name::ComponentName;

/// A signature file larger than this is none: the longest one has about 700 bytes.
pub const SIGNATURE_FILE_BYTES_MAX: usize = 4 * 1024;

/// The content of a signature file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureFile {
    /// The realm that it was made for.
    pub realm: RealmId,
    /// The chain.
    pub chain: ChainId,
    /// Sequence number of the entry.
    pub seq: u64,
    /// SHA-256 of the previous payload.
    pub prev: Digest,
    /// Authority head that the signer saw: sequence number.
    pub authority_seq: u64,
    /// Authority head that the signer saw: SHA-256 of the payload.
    pub authority_hash: Digest,
    /// Seconds since 1970 by the signer's clock.
    pub created_unix_s: u64,
    /// The component, if the entry was a push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<ComponentName>,
    /// The key that signed.
    pub key: PublicKey,
    /// The signature, base58 of 64 bytes.
    signature: String,
}

/// A signature file does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFileError {
    /// The text is not a signature file.
    #[error("not a signature file: {0}")]
    Malformed(String),
    /// The signature does not hold over the two files.
    #[error("the signature of {0} does not hold over these two files")]
    BadSignature(PublicKey),
    /// No agent takes an entry of this size.
    #[error("the two files make an entry of {bytes} bytes, at most {ENTRY_BYTES_MAX} are taken")]
    TooLarge {
        /// The entry's bytes.
        bytes: usize,
    },
}

impl SignatureFile {
    /// The file for a payload that holds a manifest or a push; `None` for other bodies.
    pub fn new(
        payload: &Payload,
        realm: RealmId,
        chain: ChainId,
        key: PublicKey,
        signature: &Signature,
    ) -> Option<Self> {
        let pushed = match &payload.body {
            Body::Manifest(_) => None,
            Body::Push(push) => Some(push.component.clone()),
            Body::Genesis(_)
            | Body::ApproveNode(_)
            | Body::RevokeNode(_)
            | Body::SetNode(_)
            | Body::ApproveUntil(_)
            | Body::Rotate(_)
            | Body::Delegate(_)
            | Body::Undelegate(_)
            | Body::Resolve(_)
            | Body::Recover(_)
            | Body::SetBeacon(_)
            | Body::Restart(_)
            | Body::Weigh(_)
            | Body::Rollback(_) => return None,
        };
        Some(Self {
            realm,
            chain,
            seq: payload.seq,
            prev: payload.prev,
            authority_seq: payload.authority.seq,
            authority_hash: payload.authority.hash,
            created_unix_s: payload.created_unix_s,
            pushed,
            key,
            signature: bs58::encode(signature.as_bytes()).into_string(),
        })
    }

    /// Reads the text of a signature file.
    pub fn parse(text: &str) -> Result<Self, SignatureFileError> {
        let malformed = |why: &str| SignatureFileError::Malformed(why.to_owned());
        if text.len() > SIGNATURE_FILE_BYTES_MAX {
            return Err(malformed("it is too large"));
        }
        let file: Self = toml::from_str(text).map_err(|error| malformed(error.message()))?;
        file.signature()
            .ok_or_else(|| malformed("`signature` is not base58 of 64 bytes"))?;
        // The place before the first entry: every agent refuses one there, however well it is signed.
        if file.seq == 0 {
            return Err(malformed("`seq` is 1 or above"));
        }
        Ok(file)
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let body = toml::to_string(self).expect("only strings and integers");
        format!("# Signature over realm.toml and realm.lock. Check it with `realm verify`.\n{body}")
    }

    /// Checks the signature over the bytes of the two files, and the size of the entry they make.
    /// Whether the key is an owner's is the caller's question.
    pub fn verify(&self, manifest: &str, lock: &str) -> Result<(), SignatureFileError> {
        let payload = self.payload(manifest, lock);
        let message = payload.message(self.realm, self.chain);
        let signature = self
            .signature()
            .filter(|signature| self.key.verifies(&message, signature))
            .ok_or(SignatureFileError::BadSignature(self.key))?;
        let signatures = [(self.key, signature)];
        let entry = payload.with_signatures(self.realm, self.chain, &signatures);
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(SignatureFileError::TooLarge { bytes: entry.len() });
        }
        Ok(())
    }

    /// The payload that was signed, if these are the files that were signed.
    pub fn payload(&self, manifest: &str, lock: &str) -> Payload {
        let body = match &self.pushed {
            None => Body::Manifest(ManifestBody {
                manifest: manifest.to_owned(),
                lock: lock.to_owned(),
            }),
            Some(component) => Body::Push(PushBody {
                component: component.clone(),
                manifest: Digest::of(manifest.as_bytes()),
                lock: lock.to_owned(),
            }),
        };
        Payload {
            seq: self.seq,
            prev: self.prev,
            authority: Head {
                seq: self.authority_seq,
                hash: self.authority_hash,
            },
            created_unix_s: self.created_unix_s,
            body,
        }
    }

    fn signature(&self) -> Option<Signature> {
        let mut bytes = [0; 64];
        match bs58::decode(&self.signature).onto(&mut bytes) {
            Ok(64) => Some(Signature::from_bytes(bytes)),
            Ok(_) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::SecretKey;

    fn signed(body: Body) -> SignatureFile {
        signed_at(body, 4)
    }

    fn signed_at(body: Body, seq: u64) -> SignatureFile {
        let key = SecretKey::from_seed(&[3; 32]);
        let realm = RealmId::new(Digest::of(b"realm"));
        let payload = Payload {
            seq,
            prev: Digest::of(b"before"),
            authority: realm.origin(),
            created_unix_s: 1_800_000_000,
            body,
        };
        let signature = key.sign(&payload.message(realm, ChainId::DEFAULT));
        SignatureFile::new(&payload, realm, ChainId::DEFAULT, key.public(), &signature)
            .expect("a manifest or a push")
    }

    #[test]
    fn a_signature_file_holds_for_its_two_files_alone() {
        let body = ManifestBody {
            manifest: "version = 1".to_owned(),
            lock: "version = 1\n".to_owned(),
        };
        let push = PushBody {
            component: "auth".parse().expect("a name"),
            manifest: Digest::of(b"version = 1"),
            lock: "version = 1\n".to_owned(),
        };
        for file in [signed(Body::Manifest(body)), signed(Body::Push(push))] {
            let file = SignatureFile::parse(&file.to_text()).expect("its own text");
            assert_eq!(file.verify("version = 1", "version = 1\n"), Ok(()));
            assert!(file.verify("version = 2", "version = 1\n").is_err());
            assert!(file.verify("version = 1", "version = 1").is_err());
        }
    }

    #[test]
    fn what_no_agent_takes_is_not_good_either() {
        let body = |lock: &str| {
            Body::Manifest(ManifestBody {
                manifest: "a".to_owned(),
                lock: lock.to_owned(),
            })
        };
        let text = signed_at(body("b"), 0).to_text();
        let error = SignatureFile::parse(&text).expect_err("a wrong place");
        assert!(error.to_string().contains("`seq` is 1"), "{error}");
        let large = "x".repeat(ENTRY_BYTES_MAX - 100);
        let error = signed(body(&large)).verify("a", &large);
        assert!(
            matches!(error, Err(SignatureFileError::TooLarge { bytes }) if bytes > ENTRY_BYTES_MAX)
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "realm = 1",
            "\0",
            &"x".repeat(SIGNATURE_FILE_BYTES_MAX + 1),
        ] {
            assert!(SignatureFile::parse(text).is_err(), "{text}");
        }
    }

    fn a_file() -> String {
        signed(Body::Manifest(ManifestBody {
            manifest: "version = 1".to_owned(),
            lock: "version = 1\n".to_owned(),
        }))
        .to_text()
    }

    proptest! {
        #[test]
        fn any_text_is_a_signature_file_or_an_error(text in "(\\PC|\n|=|\"){0,300}") {
            prop_assert!(SignatureFile::parse(&text).is_err());
        }

        #[test]
        fn a_changed_file_is_an_error_or_reads_back_as_it_means(
            at in any::<prop::sample::Index>(),
            cut in 0usize..40,
            with in "(\\PC|\n|[0-9=\"]){0,6}",
        ) {
            let mut text: Vec<char> = a_file().chars().collect();
            let start = at.index(text.len());
            let end = (start + cut).min(text.len());
            text.splice(start..end, with.chars());
            let text: String = text.into_iter().collect();
            if let Ok(file) = SignatureFile::parse(&text) {
                let again = SignatureFile::parse(&file.to_text());
                prop_assert_eq!(again.map(|file| file.to_text()).ok(), Some(file.to_text()));
                // What it says is what is checked: another statement holds for nothing.
                let holds = file.verify("version = 1", "version = 1\n").is_ok();
                prop_assert_eq!(holds, file.to_text() == a_file());
            }
        }
    }
}
