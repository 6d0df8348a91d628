//! The key-value store of a binding: a file in its folder, or a server.

use std::sync::Arc;

use realm_backends::keyvalue::{Embedded, Nats, Redis};
use realm_host::Store;
use realm_model::binding::Backend;

use super::{Making, files};
use crate::event::StepFailure;

/// The name of the file in the folder of a binding.
const FILE: &str = "keyvalue.redb";

pub(super) fn make(making: &Making<'_>) -> Result<Store, StepFailure> {
    Ok(Store::Keyvalue(match &making.spec.backend {
        Backend::Embedded => {
            let open = |path: &_| Embedded::open(path, Arc::clone(&making.watch));
            Arc::new(files::open(making, FILE, open)?)
        }
        Backend::Redis { server, database } => {
            let access = files::access(making, ":")?;
            let redis = Redis::new(server, *database, &access, Arc::clone(&making.watch));
            Arc::new(redis.map_err(|error| files::not_a_server(making, &error))?)
        }
        Backend::Nats { server } => {
            let access = files::access(making, "")?;
            let nats = Nats::new(server, &access, Arc::clone(&making.watch));
            Arc::new(nats.map_err(|error| files::not_a_server(making, &error))?)
        }
        Backend::S3 { .. }
        | Backend::Postgres { .. }
        | Backend::Otlp { .. }
        | Backend::Smtp { .. } => {
            return Err(super::later(making));
        }
    }))
}
