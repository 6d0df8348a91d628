//! Keys and identities: what is derived from the roots in a secret, and lies nowhere.

use std::sync::Arc;

use realm_backends::keys::{Issuer, RootsError, Vault};
use realm_host::Store;
use realm_model::binding::Interface;
use realm_model::entry::NamespaceName;

use super::Making;
use crate::event::StepFailure;

/// Whether what stands behind an interface is derived: two bindings of one name that say different things
/// are two then.
pub(super) const fn is(interface: Interface) -> bool {
    matches!(interface, Interface::Keys | Interface::Identity)
}

pub(super) fn keys(making: &Making<'_>) -> Result<Store, StepFailure> {
    let (namespace, name) = place(making);
    let vault = Vault::new(secret(making)?, &namespace, name);
    let vault = vault.map_err(|error| no_roots(making, error))?;
    Ok(Store::Keys(Arc::new(vault)))
}

pub(super) fn identity(making: &Making<'_>) -> Result<Store, StepFailure> {
    let (namespace, name) = place(making);
    let issuer = making.spec.issuer.as_deref().unwrap_or_default();
    let issuer = Issuer::new(secret(making)?, &namespace, name, issuer);
    let issuer = issuer.map_err(|error| no_roots(making, error))?;
    Ok(Store::Identity(Arc::new(issuer)))
}

/// The namespace of a binding, and what tells it from others there. No manifest writes the namespace: so
/// nobody gets at the keys of another one by giving a binding its name.
fn place<'a>(making: &'a Making<'_>) -> (String, &'a str) {
    let (namespace, name) = match making.binding.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name),
        None => (NamespaceName::DEFAULT.as_str().to_owned(), making.binding),
    };
    (namespace, making.spec.prefix.as_deref().unwrap_or(name))
}

fn secret<'a>(making: &'a Making<'_>) -> Result<&'a [u8], StepFailure> {
    let value = making.password.ok_or_else(|| StepFailure {
        code: "backend-secret".to_owned(),
        reason: format!("binding `{}`: its secret has no value here", making.binding),
        permanent: true,
    })?;
    Ok(value.as_slice())
}

fn no_roots(making: &Making<'_>, error: RootsError) -> StepFailure {
    let name = making.spec.secret.as_deref().unwrap_or_default();
    StepFailure {
        code: "backend-secret".to_owned(),
        reason: format!("binding `{}`, secret `{name}`: {error}", making.binding),
        permanent: true,
    }
}
