//! What lies in databases: those that guests speak SQL with, and runs of workflows.

use std::path::PathBuf;
use std::sync::Arc;

use realm_backends::data::{Database, Flows};
use realm_backends::sql::{Postgres, Settings, Sqlite};
use realm_host::Store;
use realm_model::binding::{Backend, Server};

use super::{Making, later};
use crate::event::StepFailure;

/// Between the prefix of a binding and what its runs lie in on a server: no manifest writes it, nor does any
/// name of a binding of another namespace have it.
const RUNS: &str = "~~runs";

pub(super) fn sql(making: &Making<'_>) -> Result<Store, StepFailure> {
    match &making.spec.backend {
        Backend::Embedded => {
            let made = Database::sqlite(Sqlite::new(&making.folder));
            Ok(Store::Sql(Arc::new(made)))
        }
        Backend::Postgres { server, database } => {
            let made = postgres(making, server, database, "")?;
            Ok(Store::Sql(Arc::new(Database::postgres(made))))
        }
        Backend::Redis { .. }
        | Backend::Nats { .. }
        | Backend::S3 { .. }
        | Backend::Otlp { .. }
        | Backend::Smtp { .. } => Err(later(making)),
    }
}

pub(super) fn workflows(making: &Making<'_>) -> Result<Store, StepFailure> {
    match &making.spec.backend {
        Backend::Embedded => Ok(Store::Workflows(Arc::new(Flows::sqlite(&making.folder)))),
        Backend::Postgres { server, database } => {
            let made = postgres(making, server, database, RUNS)?;
            Ok(Store::Workflows(Arc::new(Flows::postgres(made))))
        }
        Backend::Redis { .. }
        | Backend::Nats { .. }
        | Backend::S3 { .. }
        | Backend::Otlp { .. }
        | Backend::Smtp { .. } => Err(later(making)),
    }
}

fn postgres(
    making: &Making<'_>,
    server: &Server,
    database: &str,
    mark: &str,
) -> Result<Postgres, StepFailure> {
    let settings = Settings {
        host: server.host.clone(),
        port: server.port,
        database: database.to_owned(),
        user: server.user.clone(),
        secret: making.secret()?.map(|secret| secret.to_string()),
        tls: server.tls,
        ca_file: making.policy.ca_file.as_ref().map(PathBuf::from),
    };
    let prefix = format!("{}{mark}", making.prefix(""));
    let made = Postgres::new(settings, &prefix, Arc::clone(&making.watch));
    made.map_err(|error| StepFailure {
        code: "backend-unusable".to_owned(),
        reason: format!("binding `{}`: {error}", making.binding),
        permanent: true,
    })
}
