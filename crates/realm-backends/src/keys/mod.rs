//! Keys and identities of a node's own: derived from roots that stand in a sealed secret, so that every
//! node which may open that has the same ones, and nothing of them is kept on a disk.
//!
//! Not here: how the secret is sealed and opened.

mod identity;
mod roots;

use aws_lc_rs::{hmac, rand};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use realm_model::cloud::{
    Answer, CloudError, DataKey, KeyName, Keys, KeysError, PublicSigningKey, check_key_name,
    limits, within,
};
use realm_model::key::{SecretKey, Signature};
use zeroize::Zeroizing;

pub use identity::Issuer;
pub use roots::RootsError;
use roots::{Derived, ID_BYTES, Purpose, Roots};

/// What tells these keys from others that are derived from the same roots.
const SALT: &[u8] = b"realm.keys.v1";
/// The first byte of everything that a key makes.
const VERSION: u8 = 1;
/// Version and id.
const HEAD_BYTES: usize = 1 + ID_BYTES;
/// Of XChaCha20: random ones of this length do not meet, so that nobody has to count.
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// What encryption adds.
const SEALED_MORE_BYTES: usize = HEAD_BYTES + NONCE_BYTES + TAG_BYTES;
const DATA_KEY_BYTES: usize = 32;

/// Keys that are derived from the roots of a secret. Cheap: nothing is kept for a key.
///
/// A key is HKDF-SHA-256 of the root, with what it is for, the vault, the part of it and the key's name
/// as info. Encryption is XChaCha20-Poly1305, signatures Ed25519, codes HMAC-SHA-256.
pub struct Vault {
    roots: Roots,
    /// The namespace of its binding, and what tells it from others there.
    namespace: String,
    name: String,
}

impl Vault {
    /// The vault of this name, over the text of a secret: roots of 32 bytes in base64 or hexadecimal, one
    /// to a line, of which the first one makes and all of them open.
    ///
    /// # Errors
    /// When the text holds anything else.
    pub fn new(secret: &[u8], namespace: &str, name: &str) -> Result<Self, RootsError> {
        Ok(Self {
            roots: Roots::read(secret, SALT)?,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    fn names<'a>(&'a self, key: KeyName<'a>) -> Result<[&'a str; 4], CloudError> {
        check_key_name(key.name)?;
        Ok([&self.namespace, &self.name, key.part, key.name])
    }

    fn making(&self, purpose: Purpose, key: KeyName<'_>) -> Result<Derived, KeysError> {
        Ok(self.roots.first(purpose, &self.names(key)?))
    }

    /// The key that something was made with, and what stands behind its id.
    fn made_with<'a>(
        &self,
        purpose: Purpose,
        key: KeyName<'_>,
        made: &'a [u8],
    ) -> Result<(Derived, &'a [u8]), KeysError> {
        let names = self.names(key)?;
        let (head, rest) = made
            .split_at_checked(HEAD_BYTES)
            .ok_or(KeysError::NotAuthentic)?;
        let (version, id) = head.split_at(1);
        if version != [VERSION] {
            return Err(KeysError::UnknownKey);
        }
        let derived = self.roots.find(purpose, &names, id);
        Ok((derived.ok_or(KeysError::UnknownKey)?, rest))
    }

    fn seal(
        &self,
        purpose: Purpose,
        key: KeyName<'_>,
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>, KeysError> {
        check_context(context)?;
        let derived = self.making(purpose, key)?;
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce)?;
        seal_with(&derived, &nonce, plaintext, context)
    }

    fn open(
        &self,
        purpose: Purpose,
        key: KeyName<'_>,
        sealed: &[u8],
        context: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        check_context(context)?;
        let (derived, rest) = self.made_with(purpose, key, sealed)?;
        let (nonce, body) = rest
            .split_at_checked(NONCE_BYTES)
            .ok_or(KeysError::NotAuthentic)?;
        let aad = bound_to(&derived, context);
        let payload = Payload {
            msg: body,
            aad: &aad,
        };
        let opened = cipher(&derived).decrypt(XNonce::from_slice(nonce), payload);
        opened
            .map(Zeroizing::new)
            .map_err(|_| KeysError::NotAuthentic)
    }

    fn check(
        &self,
        purpose: Purpose,
        key: KeyName<'_>,
        made: &[u8],
        matches: impl FnOnce(&Derived, &[u8]) -> bool,
    ) -> Result<bool, KeysError> {
        match self.made_with(purpose, key, made) {
            Ok((derived, rest)) => Ok(matches(&derived, rest)),
            Err(KeysError::NotAuthentic | KeysError::UnknownKey) => Ok(false),
            Err(KeysError::Cloud(error)) => Err(KeysError::Cloud(error)),
        }
    }
}

fn cipher(derived: &Derived) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&*derived.bytes).into())
}

fn head(derived: &Derived) -> [u8; HEAD_BYTES] {
    let mut head = [VERSION; HEAD_BYTES];
    head[1..].copy_from_slice(&derived.id);
    head
}

/// What is authenticated beside the plaintext: the head, whose length is fixed, and the context.
fn bound_to(derived: &Derived, context: &[u8]) -> Vec<u8> {
    [&head(derived), context].concat()
}

fn seal_with(
    derived: &Derived,
    nonce: &[u8; NONCE_BYTES],
    plaintext: &[u8],
    context: &[u8],
) -> Result<Vec<u8>, KeysError> {
    let aad = bound_to(derived, context);
    let payload = Payload {
        msg: plaintext,
        aad: &aad,
    };
    let sealed = cipher(derived).encrypt(XNonce::from_slice(nonce), payload);
    let sealed = sealed.map_err(|_| CloudError::Failed("it was not encrypted".to_owned()))?;
    Ok([&head(derived), nonce.as_slice(), &sealed].concat())
}

fn signing(derived: &Derived) -> SecretKey {
    SecretKey::from_seed(&derived.bytes)
}

fn coding(derived: &Derived) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &*derived.bytes)
}

fn random(bytes: &mut [u8]) -> Result<(), CloudError> {
    rand::fill(bytes)
        .map_err(|_| CloudError::Failed("the system gives no random numbers".to_owned()))
}

fn check_context(context: &[u8]) -> Result<(), CloudError> {
    within("the context", context.len(), limits::CONTEXT_BYTES_MAX)
}

fn check_message(message: &[u8]) -> Result<(), CloudError> {
    within("the message", message.len(), limits::KEYED_BYTES_MAX)
}

fn now<'a, T: Send + 'a>(answer: Result<T, KeysError>) -> Answer<'a, T, KeysError> {
    Box::pin(std::future::ready(answer))
}

impl Keys for Vault {
    fn encrypt<'a>(
        &'a self,
        key: KeyName<'a>,
        plaintext: &'a [u8],
        context: &'a [u8],
    ) -> Answer<'a, Vec<u8>, KeysError> {
        let checked = within("the plaintext", plaintext.len(), limits::KEYED_BYTES_MAX);
        now(checked
            .map_err(KeysError::from)
            .and_then(|()| self.seal(Purpose::Encrypt, key, plaintext, context)))
    }

    fn decrypt<'a>(
        &'a self,
        key: KeyName<'a>,
        ciphertext: &'a [u8],
        context: &'a [u8],
    ) -> Answer<'a, Zeroizing<Vec<u8>>, KeysError> {
        let most = limits::KEYED_BYTES_MAX + SEALED_MORE_BYTES;
        let checked = within("the ciphertext", ciphertext.len(), most);
        now(checked
            .map_err(KeysError::from)
            .and_then(|()| self.open(Purpose::Encrypt, key, ciphertext, context)))
    }

    fn sign<'a>(&'a self, key: KeyName<'a>, message: &'a [u8]) -> Answer<'a, Vec<u8>, KeysError> {
        let signed = || {
            check_message(message)?;
            let derived = self.making(Purpose::Sign, key)?;
            let signature = signing(&derived).sign(message);
            Ok([head(&derived).as_slice(), signature.as_bytes()].concat())
        };
        now(signed())
    }

    fn verify<'a>(
        &'a self,
        key: KeyName<'a>,
        message: &'a [u8],
        signature: &'a [u8],
    ) -> Answer<'a, bool, KeysError> {
        let verifies = |derived: &Derived, rest: &[u8]| {
            let signature = <[u8; 64]>::try_from(rest).map(Signature::from_bytes);
            signature.is_ok_and(|signature| signing(derived).public().verifies(message, &signature))
        };
        now(check_message(message)
            .map_err(KeysError::from)
            .and_then(|()| self.check(Purpose::Sign, key, signature, verifies)))
    }

    fn public_keys<'a>(&'a self, key: KeyName<'a>) -> Answer<'a, Vec<PublicSigningKey>, KeysError> {
        let public = |derived: Derived| PublicSigningKey {
            id: derived.id.to_vec(),
            key: *signing(&derived).public().as_bytes(),
        };
        let names = self.names(key).map_err(KeysError::from);
        now(names.map(|names| self.roots.all(Purpose::Sign, &names).map(public).collect()))
    }

    fn mac<'a>(&'a self, key: KeyName<'a>, message: &'a [u8]) -> Answer<'a, Vec<u8>, KeysError> {
        let coded = || {
            check_message(message)?;
            let derived = self.making(Purpose::Mac, key)?;
            let code = hmac::sign(&coding(&derived), message);
            Ok([head(&derived).as_slice(), code.as_ref()].concat())
        };
        now(coded())
    }

    fn verify_mac<'a>(
        &'a self,
        key: KeyName<'a>,
        message: &'a [u8],
        code: &'a [u8],
    ) -> Answer<'a, bool, KeysError> {
        let verifies =
            |derived: &Derived, rest: &[u8]| hmac::verify(&coding(derived), message, rest).is_ok();
        now(check_message(message)
            .map_err(KeysError::from)
            .and_then(|()| self.check(Purpose::Mac, key, code, verifies)))
    }

    fn data_key<'a>(
        &'a self,
        key: KeyName<'a>,
        context: &'a [u8],
    ) -> Answer<'a, DataKey, KeysError> {
        let made = || {
            let mut plain = Zeroizing::new(vec![0; DATA_KEY_BYTES]);
            random(&mut plain)?;
            let wrapped = self.seal(Purpose::Wrap, key, &plain, context)?;
            Ok(DataKey { plain, wrapped })
        };
        now(made())
    }

    fn unwrap_data_key<'a>(
        &'a self,
        key: KeyName<'a>,
        wrapped: &'a [u8],
        context: &'a [u8],
    ) -> Answer<'a, Zeroizing<Vec<u8>>, KeysError> {
        let most = DATA_KEY_BYTES + SEALED_MORE_BYTES;
        let checked = within("the wrapped key", wrapped.len(), most);
        now(checked
            .map_err(KeysError::from)
            .and_then(|()| self.open(Purpose::Wrap, key, wrapped, context)))
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
