//! A replica that is a service beside realm: whether node.toml allows it, whether it is there, and where
//! requests for it go. Not how it is spoken to: that is the edge's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use realm_edge::fastcgi::{Application, Remarks};
use realm_edge::{Backend, CallError, Reach, UpstreamCaps, UpstreamLimits};
use realm_model::api::LogStream;
use realm_model::limits::Limits;
use realm_model::manifest::{ComponentSpec, HealthCheck, Probe};
use realm_model::node_config::UpstreamPolicy;
use realm_model::upstream::{Allowed, Speaks, Upstream};

use crate::event::StepFailure;
use crate::replica::Health;
use crate::rings::Ring;

/// How long a service may take to take a connection, and to answer its first probe.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What the machine's operator allows of services beside realm. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    /// Where they may be.
    allowed: Arc<[Allowed]>,
    /// Of each; how many connections are kept is for the manifest to say.
    caps: UpstreamCaps,
}

impl Beside {
    pub(crate) fn new(policy: &UpstreamPolicy) -> Self {
        let number = crate::fastcgi::number;
        Self {
            allowed: policy.allow.clone().into(),
            caps: UpstreamCaps {
                kept_max: 0,
                kept_age_max: Duration::from_millis(policy.kept_ms_max.into()),
                connect_timeout: Duration::from_millis(policy.connect_timeout_ms.into()),
                head_bytes_max: number(policy.head_bytes_max),
                head_fields_max: number(policy.head_fields_max),
                collected_bytes_max: policy.collected_bytes_max.into(),
                log_bytes_max: number(policy.log_bytes_max),
            },
        }
    }
}

/// A service to which requests are passed on. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Service {
    Http(Arc<realm_edge::Upstream>),
    FastCgi(Arc<Application>),
}

/// The log of one replica.
struct Log {
    ring: Arc<Ring>,
    slot: u32,
}

impl Remarks for Log {
    fn line(&self, text: String) {
        self.ring.push(self.slot, LogStream::Stderr, text);
    }
}

impl Service {
    fn new(
        upstream: &Upstream,
        (reach, caps): (Reach, UpstreamCaps),
        limits: &Limits,
        ring: Arc<Ring>,
        slot: u32,
    ) -> Self {
        let caps = UpstreamCaps {
            kept_max: upstream.keep,
            ..caps
        };
        let limits = UpstreamLimits {
            concurrency_max: limits.max_concurrency,
            wall_timeout: Duration::from_millis(limits.wall_timeout_ms),
            request_bytes_max: limits.max_request_bytes,
            response_bytes_max: limits.max_response_bytes,
            websocket_idle: Duration::from_millis(limits.websocket_idle_ms),
            takes_connections: false,
        };
        match &upstream.speaks {
            Speaks::Http => {
                let upstream = realm_edge::Upstream::at(reach, caps, limits);
                Self::Http(Arc::new(upstream))
            }
            Speaks::FastCgi(scripts) => {
                let log = Arc::new(Log { ring, slot });
                let scripts = scripts.clone();
                let application = Application::new(reach, scripts, caps, limits, log);
                Self::FastCgi(Arc::new(application))
            }
        }
    }

    /// Where requests go.
    pub(crate) fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Http(upstream) => Arc::clone(upstream) as Arc<dyn Backend>,
            Self::FastCgi(application) => Arc::clone(application) as Arc<dyn Backend>,
        }
    }

    /// Ends by and by what has no end of its own.
    pub(crate) fn leave(&self) {
        match self {
            Self::Http(upstream) => upstream.leave(),
            Self::FastCgi(_) => {}
        }
    }

    async fn reach(&self) -> io::Result<()> {
        match self {
            Self::Http(upstream) => upstream.touch().await,
            Self::FastCgi(application) => application.reach().await,
        }
    }

    async fn probe(&self, path: &str) -> Result<(), String> {
        let answered: Result<_, CallError> = match self {
            Self::Http(upstream) => upstream.probe(path).await,
            Self::FastCgi(application) => application.probe(path).await,
        };
        match answered {
            Ok(status) if (200..400).contains(&status.as_u16()) => Ok(()),
            Ok(status) => Err(format!(
                "the probe was answered with status {}",
                status.as_u16()
            )),
            Err(error) => Err(format!(
                "the probe failed ({}): {}",
                error.code, error.message
            )),
        }
    }

    /// Asks it for its health: by a path where it has one, else whether it takes connections.
    pub(crate) async fn ask(self, check: &HealthCheck) -> Health {
        let answered = match path(check) {
            Some(path) => self.probe(path).await,
            None => self.reach().await.map_err(|error| no_connection(&error)),
        };
        match answered {
            Ok(()) => Health::Well,
            Err(reason) => Health::Ill(reason),
        }
    }
}

/// How often, and when it is ill.
pub(crate) fn health_check(spec: &ComponentSpec) -> HealthCheck {
    let check = spec.health.clone();
    check.unwrap_or_else(|| HealthCheck::with_defaults(Probe::Export))
}

/// The path that is asked for. A service exports nothing: the other kind of check stands for a connection.
fn path(check: &HealthCheck) -> Option<&str> {
    match &check.probe {
        Probe::Http(path) => Some(path),
        Probe::Export => None,
    }
}

fn no_connection(error: &io::Error) -> String {
    format!("it takes no connection: {error}")
}

/// A service that is allowed, is there, and is well.
pub(crate) async fn start(
    spec: &ComponentSpec,
    beside: Beside,
    ring: Arc<Ring>,
    slot: u32,
) -> Result<Service, StepFailure> {
    let Some(upstream) = spec.upstream() else {
        return Err(failure("wrong-world", "it is no upstream".to_owned(), true));
    };
    let Beside { allowed, caps } = beside;
    let reach = Reach::new(upstream.address.clone(), allowed);
    let way = (reach.clone(), caps);
    let service = Service::new(upstream, way, &spec.limits, ring, slot);
    let started = async {
        reach.check().await.map_err(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                let address = &upstream.address;
                let reason =
                    format!("no rule of `[upstreams] allow` in node.toml allows `{address}`");
                return failure("upstream-denied", reason, true);
            }
            unreachable(&error)
        })?;
        service.reach().await.map_err(|error| unreachable(&error))?;
        match spec.health.as_ref().and_then(path) {
            Some(path) => {
                let probed = service.probe(path).await;
                probed.map_err(|reason| failure("probe-failed", reason, false))
            }
            None => Ok(()),
        }
    };
    match tokio::time::timeout(START_TIMEOUT, started).await {
        Ok(started) => started.map(|()| service),
        Err(_) => {
            let reason = format!("no answer within {} s", START_TIMEOUT.as_secs());
            Err(failure("probe-failed", reason, false))
        }
    }
}

fn unreachable(error: &io::Error) -> StepFailure {
    failure("upstream-unreachable", no_connection(error), false)
}

fn failure(code: &str, reason: String, permanent: bool) -> StepFailure {
    StepFailure {
        code: code.to_owned(),
        reason,
        permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each key is a number of its own, so that none can stand where another belongs.
    #[test]
    fn what_is_in_node_toml_is_what_is_taken_of_a_service() {
        let text = "[upstreams]\nallow = [\"127.0.0.1:9000\"]\nconnect_timeout_ms = 101\n\
                    kept_ms_max = 102\nhead_bytes_max = 9_003\nhead_fields_max = 104\n\
                    collected_bytes_max = 5\nlog_bytes_max = 6\n";
        let (node, problems) = realm_model::node_config::parse(text);
        assert_eq!(problems, []);
        let beside = Beside::new(&node.expect("no problems").upstreams);
        assert_eq!(beside.allowed.len(), 1);
        let caps = UpstreamCaps {
            kept_max: 0,
            connect_timeout: Duration::from_millis(101),
            kept_age_max: Duration::from_millis(102),
            head_bytes_max: 9_003,
            head_fields_max: 104,
            collected_bytes_max: 5,
            log_bytes_max: 6,
        };
        assert_eq!(beside.caps, caps);
        let usual = Beside::new(&UpstreamPolicy::default());
        assert_eq!(usual.caps, UpstreamCaps::keeping(0));
    }
}
