//! The server that a binding brings mail to.

use std::sync::Arc;

use realm_backends::Access;
use realm_backends::mail::{Security, Smtp, SmtpSettings};
use realm_host::Store;
use realm_model::binding::Backend;

use super::Making;
use crate::event::StepFailure;

pub(super) fn make(making: &Making<'_>) -> Result<Store, StepFailure> {
    let Backend::Smtp { server, starts } = &making.spec.backend else {
        return Err(super::later(making));
    };
    let (user, password) = making.login()?;
    let settings = SmtpSettings {
        host: server.host.clone(),
        port: server.port,
        security: match (server.tls, starts) {
            (true, true) => Security::StartTls,
            (true, false) => Security::Tls,
            (false, _) => Security::Plain,
        },
        senders: making.spec.senders.clone(),
        access: Access {
            user: user.or_else(|| server.user.clone()),
            password,
            authorities: making.policy.ca_file.clone().map(Into::into),
            prefix: String::new(),
        },
    };
    let made = Smtp::new(settings, Arc::clone(&making.watch));
    let made = made.map_err(|error| StepFailure {
        code: "backend-unusable".to_owned(),
        reason: format!("binding `{}`: {error}", making.binding),
        permanent: true,
    })?;
    Ok(Store::Mail(Arc::new(made)))
}
