//! `realm:cloud/identity@0.1.0`: tokens that say which component asks. It is the host that says so.

use realm_model::cloud::{CloudError, Identity, IdentityError};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource};

use super::Opened;
use super::keys::View;
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/realm-cloud/identity.wit",
        world: "realm:cloud/identity-imports",
        imports: { default: async | trappable },
        with: { "realm:cloud/identity.issuer": super::Issuer },
    });
}

use generated::realm::cloud::identity::{self, Claims, Error};

/// An identity that a guest opened.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Issuer(Opened<dyn Identity>);

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    identity::add_to_linker::<_, Has>(linker, State::keys)
}

/// What a guest reads of an error.
fn said(error: IdentityError) -> Error {
    match error {
        IdentityError::NotAuthentic => Error::NotAuthentic,
        IdentityError::Expired => Error::Expired,
        IdentityError::OtherAudience => Error::OtherAudience,
        IdentityError::Cloud(error) => match error {
            CloudError::NoSuchStore => Error::NoSuchIdentity,
            CloudError::Quota(_) => Error::Quota,
            CloudError::TooLarge { .. } | CloudError::Invalid(_) => {
                Error::Invalid(error.to_string())
            }
            CloudError::AccessDenied
            | CloudError::NotFound(_)
            | CloudError::Full(_)
            | CloudError::Unsupported(_)
            | CloudError::Timeout
            | CloudError::Unavailable
            | CloudError::Failed(_) => Error::Unavailable(error.to_string()),
        },
    }
}

impl View<'_> {
    /// One operation with an identity.
    fn issuer(
        &self,
        issuer: &Resource<Issuer>,
    ) -> Result<Result<Opened<dyn Identity>, IdentityError>> {
        let Issuer(opened) = self.table.get(issuer)?.clone();
        let charged = self.cloud.charge();
        Ok(charged.map(|()| opened).map_err(IdentityError::from))
    }
}

impl identity::Host for View<'_> {}

impl identity::HostIssuer for View<'_> {
    async fn open(&mut self, name: String) -> Result<Result<Resource<Issuer>, Error>> {
        match self.cloud.identity(&name) {
            Ok(opened) => Ok(Ok(self.table.push(Issuer(opened))?)),
            Err(error) => Ok(Err(said(error.into()))),
        }
    }

    async fn subject(&mut self, issuer: Resource<Issuer>) -> Result<String> {
        let Issuer(opened) = self.table.get(&issuer)?;
        Ok(opened.store.subject(self.cloud.component()))
    }

    async fn token(
        &mut self,
        issuer: Resource<Issuer>,
        audience: String,
        lifetime_sec: u32,
    ) -> Result<Result<String, Error>> {
        let issuer = self.issuer(&issuer)?;
        let component = self.cloud.component();
        let done = async {
            let issuer = issuer?.store;
            issuer.token(component, &audience, lifetime_sec).await
        };
        Ok(done.await.map_err(said))
    }

    async fn jwks(&mut self, issuer: Resource<Issuer>) -> Result<Result<String, Error>> {
        let issuer = self.issuer(&issuer)?;
        let done = async { issuer?.store.jwks().await };
        Ok(done.await.map_err(said))
    }

    async fn verify(
        &mut self,
        issuer: Resource<Issuer>,
        token: String,
        audience: String,
    ) -> Result<Result<Claims, Error>> {
        let issuer = self.issuer(&issuer)?;
        let done = async { issuer?.store.verify(&token, &audience).await };
        let claims = done.await.map_err(said);
        Ok(claims.map(|claims| Claims {
            issuer: claims.issuer,
            subject: claims.subject,
            audience: claims.audience,
            issued_at: claims.issued_at,
            expires_at: claims.expires_at,
            id: claims.id,
        }))
    }

    async fn drop(&mut self, issuer: Resource<Issuer>) -> Result<()> {
        self.table.delete(issuer)?;
        Ok(())
    }
}
