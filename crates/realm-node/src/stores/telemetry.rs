//! What takes the telemetry of guests: the metrics page of this node and the log of the component, or a
//! collector, to which one exporter sends for all components that are bound to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use realm_backends::telemetry::{Collector, Embedded, Exporter, Guests, Source};
use realm_host::Store;
use realm_model::binding::Backend;
use realm_model::digest::Digest;
use realm_model::entry::NamespaceName;
use realm_model::grants::StoreGrant;
use realm_model::name::NodeName;
use zeroize::Zeroizing;

use super::{Making, Shelf, Who, held, later};
use crate::error::with_causes;
use crate::event::StepFailure;

pub(super) struct Outlets {
    node: NodeName,
    guests: Guests,
    /// Those that somebody sends through.
    exporters: Mutex<BTreeMap<Key, Weak<Exporter>>>,
}

/// A binding, what it says, and the value of its secret.
type Key = (String, String, Option<Digest>);

impl Outlets {
    pub(super) fn new(node: &NodeName) -> Self {
        Self {
            node: node.clone(),
            guests: Guests::default(),
            exporters: Mutex::default(),
        }
    }

    pub(super) fn page(&self) -> String {
        self.guests.page()
    }
}

impl Shelf {
    /// What a component's telemetry goes to: one of its own, that knows who speaks.
    pub(super) fn telemetry(
        &self,
        who: &Who<'_>,
        grant: &StoreGrant,
        password: Option<(Digest, &Zeroizing<Vec<u8>>)>,
    ) -> Result<Store, StepFailure> {
        let outlets = &self.0.telemetry;
        let guest = outlets.guests.of(who.component.as_str());
        if grant.spec.backend == Backend::Embedded {
            return Ok(Store::Otel(Arc::new(Embedded::new(guest))));
        }
        self.check(grant)?;
        // Bindings of the owners' own namespace have none before them.
        let namespace = grant.binding.split_once('/');
        let namespace = namespace.map(|(name, _)| name.to_owned());
        let source = Source {
            node: outlets.node.to_string(),
            namespace: namespace.unwrap_or_else(|| NamespaceName::DEFAULT.to_string()),
            service: who.component.app().to_owned(),
            component: who.component.to_string(),
            version: who.artifact.digest.short(),
        };
        let exporter = self.exporter(grant, password)?;
        Ok(Store::Otel(exporter.of(source, guest)))
    }

    fn exporter(
        &self,
        grant: &StoreGrant,
        password: Option<(Digest, &Zeroizing<Vec<u8>>)>,
    ) -> Result<Arc<Exporter>, StepFailure> {
        let StoreGrant { binding, spec, .. } = grant;
        let value = password.map(|(digest, _)| digest);
        let key = (binding.clone(), format!("{spec:?}"), value);
        let mut exporters = held(&self.0.telemetry.exporters);
        exporters.retain(|_, exporter| exporter.strong_count() > 0);
        if let Some(exporter) = exporters.get(&key).and_then(Weak::upgrade) {
            return Ok(exporter);
        }
        let watch = self.0.troubles.of(binding);
        let making = Making {
            binding,
            spec,
            folder: PathBuf::new(),
            policy: &self.0.policy,
            queues: &self.0.queues,
            room: &self.0.room,
            password: password.map(|(_, value)| value),
            watch: Arc::clone(&watch) as _,
        };
        let Backend::Otlp { server, path } = &spec.backend else {
            return Err(later(&making));
        };
        let scheme = if server.tls { "https" } else { "http" };
        let collector = Collector {
            endpoint: format!("{scheme}://{server}{path}"),
            headers: making.secret()?,
            authorities: self.0.policy.ca_file.as_ref().map(PathBuf::from),
        };
        let exporter = Exporter::start(&collector, watch).map_err(|error| StepFailure {
            code: "backend-unusable".to_owned(),
            reason: format!("binding `{binding}`: {}", with_causes(&error)),
            permanent: true,
        })?;
        exporters.insert(key, Arc::downgrade(&exporter));
        Ok(exporter)
    }
}
