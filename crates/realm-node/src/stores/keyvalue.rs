//! The key-value store of a binding: a file in its folder, or a server.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use realm_backends::keyvalue::{Embedded, Nats, OpenError, Redis};
use realm_backends::{Access, ServerError};
use realm_host::Store;
use realm_model::binding::Backend;

use super::Making;
use crate::event::StepFailure;

/// The name of the file in the folder of a binding.
const FILE: &str = "keyvalue.redb";
/// How often it is tried to open a file that the last user of it is about to close, and how long after.
const TRIES: usize = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

pub(super) fn make(making: &Making<'_>) -> Result<Store, StepFailure> {
    Ok(Store::Keyvalue(match &making.spec.backend {
        Backend::Embedded => Arc::new(embedded(making)?),
        Backend::Redis { server, database } => {
            let access = access(making, ":")?;
            let redis = Redis::new(server, *database, &access, Arc::clone(&making.watch));
            Arc::new(redis.map_err(|error| not_a_server(making, &error))?)
        }
        Backend::Nats { server, .. } => {
            let access = access(making, "")?;
            let nats = Nats::new(server, &access, Arc::clone(&making.watch));
            Arc::new(nats.map_err(|error| not_a_server(making, &error))?)
        }
        Backend::S3 { .. }
        | Backend::Postgres { .. }
        | Backend::Otlp { .. }
        | Backend::Smtp { .. } => {
            return Err(super::later(making));
        }
    }))
}

fn embedded(making: &Making<'_>) -> Result<Embedded, StepFailure> {
    let path = making.folder.join(FILE);
    let mut folder = DirBuilder::new();
    folder.recursive(true).mode(0o700);
    let made = folder.create(&making.folder);
    let opened = made.map_err(|source| OpenError::Io {
        path: path.clone(),
        source,
    });
    let mut opened = opened.and_then(|()| Embedded::open(&path, Arc::clone(&making.watch)));
    for _ in 0..TRIES {
        if !matches!(opened, Err(OpenError::Locked { .. })) {
            break;
        }
        std::thread::sleep(BETWEEN_TRIES);
        opened = Embedded::open(&path, Arc::clone(&making.watch));
    }
    opened.map_err(|error| {
        let why = std::error::Error::source(&error).map_or(String::new(), |why| format!(": {why}"));
        StepFailure {
            code: error.code().to_owned(),
            reason: format!("binding `{}`: {error}{why}", making.binding),
            // Somebody may put a copy back, or end who else has it.
            permanent: false,
        }
    })
}

/// `mark` stands between the name of a binding and the names of its keys.
fn access(making: &Making<'_>, mark: &str) -> Result<Access, StepFailure> {
    let (user, password) = making.login()?;
    Ok(Access {
        user,
        password,
        authorities: making.policy.ca_file.as_ref().map(Into::into),
        prefix: making.prefix(mark),
    })
}

fn not_a_server(making: &Making<'_>, error: &ServerError) -> StepFailure {
    let why = std::error::Error::source(error).map_or(String::new(), |why| format!(": {why}"));
    StepFailure {
        code: "backend-unusable".to_owned(),
        reason: format!("binding `{}`: {error}{why}", making.binding),
        permanent: true,
    }
}
