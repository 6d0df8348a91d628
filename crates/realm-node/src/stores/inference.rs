//! The engine that a binding asks for a model.

use std::path::PathBuf;
use std::sync::Arc;

use realm_backends::inference::{Engine, EngineSettings, Patience};
use realm_host::Store;
use realm_model::binding::Backend;

use super::{Making, later};
use crate::error::with_causes;
use crate::event::StepFailure;

pub(super) fn make(making: &Making<'_>) -> Result<Store, StepFailure> {
    let spec = making.spec;
    let (Backend::OpenAi { server, path }, Some(model)) = (&spec.backend, &spec.model) else {
        return Err(later(making));
    };
    let scheme = if server.tls { "https" } else { "http" };
    let settings = EngineSettings {
        endpoint: format!("{scheme}://{server}{path}"),
        model: model.clone(),
        secret: making.secret()?,
        authorities: making.policy.ca_file.as_ref().map(PathBuf::from),
        room: making.room.clone(),
        patience: Patience::default(),
    };
    let made = Engine::new(settings, Arc::clone(&making.watch));
    let made = made.map_err(|error| StepFailure {
        code: "backend-unusable".to_owned(),
        reason: format!("binding `{}`: {}", making.binding, with_causes(&error)),
        permanent: true,
    })?;
    Ok(Store::Inference(Arc::new(made)))
}
