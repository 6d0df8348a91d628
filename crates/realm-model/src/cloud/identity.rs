//! Who a component is, towards others. Not here: how a token is written and signed.

use super::{Answer, CloudError};
use crate::name::ComponentName;

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who signed.
    pub issuer: String,
    /// Of whom it tells: `realm/NAMESPACE/COMPONENT`.
    pub subject: String,
    /// For whom.
    pub audience: String,
    /// Seconds since 1970.
    pub issued_at: u64,
    /// Seconds since 1970.
    pub expires_at: u64,
    /// No other token has it.
    pub id: String,
}

/// Why there is no token, or none that is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// As with every other backend.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// Not signed here, or changed: which of them is not told.
    #[error("the token was not signed here, or was changed")]
    NotAuthentic,
    /// Its time is over, or not there yet.
    #[error("the time of the token is over, or not there yet")]
    Expired,
    /// It is for somebody else.
    #[error("the token is for somebody else")]
    OtherAudience,
}

/// Signs who a component is.
pub trait Identity: Send + Sync {
    /// What a component's tokens call it.
    fn subject(&self, component: &ComponentName) -> String;

    /// A token of a component for an audience, good for so many seconds.
    fn token<'a>(
        &'a self,
        component: &'a ComponentName,
        audience: &'a str,
        lifetime_sec: u32,
    ) -> Answer<'a, String, IdentityError>;

    /// The public keys, as JSON.
    fn jwks(&self) -> Answer<'_, String, IdentityError>;

    /// What a token says that was made here for an audience.
    fn verify<'a>(&'a self, token: &'a str, audience: &'a str)
    -> Answer<'a, Claims, IdentityError>;
}
