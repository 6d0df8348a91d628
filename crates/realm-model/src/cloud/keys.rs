//! Keys that guests use and never see. Not here: how they are derived, and what they encrypt with.

use zeroize::Zeroizing;

use super::limits::NAME_BYTES_MAX;
use super::{Answer, CloudError};

/// Which key of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyName<'a> {
    /// The part of the vault: empty, or one for each identifier where a binding names them all.
    pub part: &'a str,
    /// What the guest calls it.
    pub name: &'a str,
}

/// What others verify signatures with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicSigningKey {
    /// As it stands in signatures.
    pub id: Vec<u8>,
    /// Ed25519, 32 bytes.
    pub key: [u8; 32],
}

/// A key for the guest's own use, and the same sealed.
pub struct DataKey {
    /// 32 random bytes.
    pub plain: Zeroizing<Vec<u8>>,
    /// Opened by the key alone.
    pub wrapped: Vec<u8>,
}

/// Why a key did not do what it was asked. None of them says anything of keys or plaintexts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// As with every other backend.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// Another key, another context, or changed bytes: which of them is not told.
    #[error("it was not made with this key and for this context, or it was changed")]
    NotAuthentic,
    /// A root that is not there any more, or another version of the form.
    #[error("it was made with a key that is not there")]
    UnknownKey,
}

/// A vault: keys by name, for encryption, signatures and codes.
pub trait Keys: Send + Sync {
    /// Seals bytes; `context` has to be the same when they are opened.
    fn encrypt<'a>(
        &'a self,
        key: KeyName<'a>,
        plaintext: &'a [u8],
        context: &'a [u8],
    ) -> Answer<'a, Vec<u8>, KeysError>;

    /// Opens what [`Keys::encrypt`] gave.
    fn decrypt<'a>(
        &'a self,
        key: KeyName<'a>,
        ciphertext: &'a [u8],
        context: &'a [u8],
    ) -> Answer<'a, Zeroizing<Vec<u8>>, KeysError>;

    /// Signs.
    fn sign<'a>(&'a self, key: KeyName<'a>, message: &'a [u8]) -> Answer<'a, Vec<u8>, KeysError>;

    /// Whether [`Keys::sign`] gave it.
    fn verify<'a>(
        &'a self,
        key: KeyName<'a>,
        message: &'a [u8],
        signature: &'a [u8],
    ) -> Answer<'a, bool, KeysError>;

    /// What others verify with; the key that signs is the first.
    fn public_keys<'a>(&'a self, key: KeyName<'a>) -> Answer<'a, Vec<PublicSigningKey>, KeysError>;

    /// A code that only who has the key can check.
    fn mac<'a>(&'a self, key: KeyName<'a>, message: &'a [u8]) -> Answer<'a, Vec<u8>, KeysError>;

    /// Whether [`Keys::mac`] gave it.
    fn verify_mac<'a>(
        &'a self,
        key: KeyName<'a>,
        message: &'a [u8],
        code: &'a [u8],
    ) -> Answer<'a, bool, KeysError>;

    /// A new data key.
    fn data_key<'a>(
        &'a self,
        key: KeyName<'a>,
        context: &'a [u8],
    ) -> Answer<'a, DataKey, KeysError>;

    /// Opens the sealed form of a data key.
    fn unwrap_data_key<'a>(
        &'a self,
        key: KeyName<'a>,
        wrapped: &'a [u8],
        context: &'a [u8],
    ) -> Answer<'a, Zeroizing<Vec<u8>>, KeysError>;
}

/// Checks the name of a key.
///
/// # Errors
/// When it is none.
pub fn check_key_name(name: &str) -> Result<(), CloudError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    if fits {
        return Ok(());
    }
    Err(CloudError::Invalid(format!(
        "the name of a key has 1 to {NAME_BYTES_MAX} bytes and no control characters"
    )))
}
