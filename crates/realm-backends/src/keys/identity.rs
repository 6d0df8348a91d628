//! Tokens of components: JWT signed by Ed25519, with a key of a sealed secret's roots.
//!
//! Written and read here by hand: one algorithm, one header, one set of claims. What has any other form is
//! not looked at, whatever it says of itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use realm_model::cloud::limits::{NAME_BYTES_MAX, TOKEN_BYTES_MAX, TOKEN_SEC_MAX};
use realm_model::cloud::{Answer, Claims, CloudError, Identity, IdentityError};
use realm_model::key::{PublicKey, SecretKey, Signature};
use realm_model::name::ComponentName;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::random;
use super::roots::{Derived, Purpose, Roots, RootsError};

/// What tells these keys from others that are derived from the same roots.
const SALT: &[u8] = b"realm.identity.v1";
/// What clocks of nodes may differ by.
const SKEW_SEC: u64 = 60;

/// Signs the tokens of the components of one binding.
pub struct Issuer {
    roots: Roots,
    namespace: String,
    name: String,
    issuer: String,
    /// Seconds since 1970.
    clock: fn() -> u64,
}

/// The claims as they stand in a token, in this order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    iss: String,
    sub: String,
    aud: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
}

impl Issuer {
    /// One of this name in a namespace, over the text of a secret ([`super::Vault::new`]). `issuer` stands
    /// in its tokens.
    ///
    /// # Errors
    /// When the text is none of roots.
    pub fn new(
        secret: &[u8],
        namespace: &str,
        name: &str,
        issuer: &str,
    ) -> Result<Self, RootsError> {
        Ok(Self {
            roots: Roots::read(secret, SALT)?,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            issuer: issuer.to_owned(),
            clock: seconds,
        })
    }

    fn names(&self) -> [&str; 2] {
        [&self.namespace, &self.name]
    }

    fn make(
        &self,
        component: &ComponentName,
        audience: &str,
        lifetime_sec: u32,
    ) -> Result<String, IdentityError> {
        check_audience(audience)?;
        if !(1..=TOKEN_SEC_MAX).contains(&lifetime_sec) {
            let words = format!("a token is good for 1 to {TOKEN_SEC_MAX} seconds");
            return Err(CloudError::Invalid(words).into());
        }
        let mut number = [0; 16];
        random(&mut number)?;
        let now = (self.clock)();
        let written = Written {
            iss: self.issuer.clone(),
            sub: self.subject(component),
            aud: audience.to_owned(),
            iat: now,
            nbf: now,
            exp: now + u64::from(lifetime_sec),
            jti: URL_SAFE_NO_PAD.encode(number),
        };
        let claims = serde_json::to_vec(&written)
            .map_err(|_| CloudError::Failed("the token was not written".to_owned()))?;
        let key = signing(&self.roots.first(Purpose::Token, &self.names()));
        let signed = format!(
            "{}.{}",
            header(&key.public()),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).as_bytes());
        Ok(format!("{signed}.{signature}"))
    }

    fn read(&self, token: &str, audience: &str) -> Result<Claims, IdentityError> {
        check_audience(audience)?;
        let written = self.authentic(token).ok_or(IdentityError::NotAuthentic)?;
        let now = (self.clock)();
        if now.saturating_sub(SKEW_SEC) >= written.exp || written.nbf > now.saturating_add(SKEW_SEC)
        {
            return Err(IdentityError::Expired);
        }
        if written.aud != audience {
            return Err(IdentityError::OtherAudience);
        }
        Ok(Claims {
            issuer: written.iss,
            subject: written.sub,
            audience: written.aud,
            issued_at: written.iat,
            expires_at: written.exp,
            id: written.jti,
        })
    }

    /// The claims of a token that one of these keys signed. Nothing of it is read before the signature is
    /// found to be good, and the header is compared with those that are written here: it chooses no
    /// algorithm.
    fn authentic(&self, token: &str) -> Option<Written> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.')?;
        let mut keys = self.roots.all(Purpose::Token, &self.names());
        let public = keys
            .by_ref()
            .map(|derived| signing(&derived).public())
            .find(|public| header(public) == head)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let signature = Signature::from_bytes(signature.try_into().ok()?);
        if !public.verifies(signed.as_bytes(), &signature) {
            return None;
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let written: Written = serde_json::from_slice(&claims).ok()?;
        // An earlier `issuer` of the binding: others would not take it either.
        (written.iss == self.issuer).then_some(written)
    }

    fn keys(&self) -> String {
        let keys = self.roots.all(Purpose::Token, &self.names());
        let keys: Vec<_> = keys
            .map(|derived| {
                let public = signing(&derived).public();
                serde_json::json!({
                    "kty": "OKP",
                    "crv": "Ed25519",
                    "use": "sig",
                    "alg": "EdDSA",
                    "kid": thumbprint(&public),
                    "x": coordinate(&public),
                })
            })
            .collect();
        serde_json::json!({ "keys": keys }).to_string()
    }
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 gives tokens that nobody takes.
    now.unwrap_or(Duration::ZERO).as_secs()
}

fn signing(derived: &Derived) -> SecretKey {
    SecretKey::from_seed(&derived.bytes)
}

fn check_audience(audience: &str) -> Result<(), CloudError> {
    let fits =
        (1..=NAME_BYTES_MAX).contains(&audience.len()) && !audience.chars().any(char::is_control);
    if fits {
        return Ok(());
    }
    Err(CloudError::Invalid(format!(
        "an audience has 1 to {NAME_BYTES_MAX} bytes and no control characters"
    )))
}

fn header(public: &PublicKey) -> String {
    let kid = thumbprint(public);
    URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"JWT"}}"#))
}

fn coordinate(public: &PublicKey) -> String {
    URL_SAFE_NO_PAD.encode(public.as_bytes())
}

/// RFC 7638: the same key has the same name everywhere.
fn thumbprint(public: &PublicKey) -> String {
    let jwk = format!(
        r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#,
        coordinate(public)
    );
    URL_SAFE_NO_PAD.encode(Sha256::digest(jwk))
}

fn now<'a, T: Send + 'a>(answer: Result<T, IdentityError>) -> Answer<'a, T, IdentityError> {
    Box::pin(std::future::ready(answer))
}

impl Identity for Issuer {
    fn subject(&self, component: &ComponentName) -> String {
        format!("realm/{}/{}", self.namespace, component.app())
    }

    fn token<'a>(
        &'a self,
        component: &'a ComponentName,
        audience: &'a str,
        lifetime_sec: u32,
    ) -> Answer<'a, String, IdentityError> {
        now(self.make(component, audience, lifetime_sec))
    }

    fn jwks(&self) -> Answer<'_, String, IdentityError> {
        now(Ok(self.keys()))
    }

    fn verify<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> Answer<'a, Claims, IdentityError> {
        now(self.read(token, audience))
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
