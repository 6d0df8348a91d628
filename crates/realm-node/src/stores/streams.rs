//! Streams behind bindings: a file of the node's own, or NATS.

use std::sync::Arc;
use std::time::Duration;

use realm_backends::streams::{Embedded, Nats};
use realm_host::Store;
use realm_model::binding::{Backend, Binding};
use realm_model::cloud::streams::Keep;

use super::{Making, files};
use crate::event::StepFailure;

/// The name of the file in the folder of a binding.
const FILE: &str = "streams.redb";

pub(super) fn make(making: &Making<'_>) -> Result<Store, StepFailure> {
    let keep = kept(making.spec);
    Ok(Store::Streams(match &making.spec.backend {
        Backend::Embedded => {
            let open = |path: &_| Embedded::open(path, keep, Arc::clone(&making.watch));
            Arc::new(files::open(making, FILE, open)?)
        }
        Backend::Nats { server } => {
            let mut access = files::access(making, "")?;
            access.user = access.user.or_else(|| server.user.clone());
            let (host, watch) = (server.to_string(), Arc::clone(&making.watch));
            let nats = Nats::new(&host, server.tls, &access, keep, watch);
            Arc::new(nats.map_err(|error| files::not_a_server(making, &error))?)
        }
        Backend::Redis { .. }
        | Backend::S3 { .. }
        | Backend::Postgres { .. }
        | Backend::Otlp { .. }
        | Backend::Smtp { .. } => return Err(super::later(making)),
    }))
}

/// What another manifest says of a store that is open.
pub(super) fn keep(spec: &Binding, store: &Store) {
    if let Store::Streams(store) = store {
        store.keep(kept(spec));
    }
}

fn kept(spec: &Binding) -> Keep {
    let hours = spec.keep_hours.map(u64::from);
    let mib = spec.keep_mb.map(u64::from);
    Keep {
        age: hours.map(|hours| Duration::from_secs(hours * 60 * 60)),
        bytes: mib.map(|mib| mib * 1024 * 1024),
    }
}
