//! Where the objects of a binding lie: a folder of this node, or a bucket behind the API of S3.

use std::sync::Arc;

use realm_backends::blobs::{Directory, S3, S3Settings};
use realm_host::Store;
use realm_model::binding::Backend;

use super::{Making, later};
use crate::event::StepFailure;

pub(super) fn make(making: &Making<'_>) -> Result<Store, StepFailure> {
    match &making.spec.backend {
        Backend::Embedded => {
            let opened = Directory::open(&making.folder, Arc::clone(&making.watch));
            let store = opened.map_err(|error| StepFailure {
                code: "backend-failed".to_owned(),
                reason: format!(
                    "binding `{}`: open `{}`: {error}",
                    making.binding,
                    making.folder.display()
                ),
                // The one before it may be about to close; another format does not go by itself.
                permanent: error.kind() == std::io::ErrorKind::InvalidData,
            })?;
            Ok(Store::Blobs(Arc::new(store)))
        }
        Backend::S3 {
            bucket,
            region,
            endpoint,
        } => {
            let settings = S3Settings {
                bucket: bucket.clone(),
                prefix: making.prefix(""),
                region: region.clone(),
                endpoint: endpoint.clone(),
                credentials: making.secret()?.map(|secret| secret.to_string()),
                roots: roots(making)?,
            };
            let store = S3::new(&settings, Arc::clone(&making.watch));
            let store = store.map_err(|error| StepFailure {
                code: "backend-failed".to_owned(),
                reason: format!("binding `{}`: {error}", making.binding),
                permanent: true,
            })?;
            Ok(Store::Blobs(Arc::new(store)))
        }
        Backend::Redis { .. }
        | Backend::Nats { .. }
        | Backend::Postgres { .. }
        | Backend::Otlp { .. }
        | Backend::Smtp { .. }
        | Backend::OpenAi { .. } => Err(later(making)),
    }
}

/// Certificates of authorities that the machine's operator names.
fn roots(making: &Making<'_>) -> Result<Option<Vec<u8>>, StepFailure> {
    let Some(path) = &making.policy.ca_file else {
        return Ok(None);
    };
    let read = std::fs::read(path).map(Some);
    read.map_err(|error| StepFailure {
        code: "backend-unusable".to_owned(),
        reason: format!(
            "binding `{}`: `{path}` of node.toml: {error}",
            making.binding
        ),
        permanent: false,
    })
}
