//! A program that runs by itself: a server, a service, a job. Its start, and when it counts as
//! started. Not when it is started again: that is decided (`realm_control::restart`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use realm_control::restart::End;
use realm_edge::{Upstream, UpstreamLimits};
use realm_host::{Program, Run, RunError, Term};
use realm_model::limits::Limits;
use realm_model::manifest::{ComponentSpec, Mode, Probe};
use realm_model::observed::ReplicaId;
use tokio::net::TcpSocket;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::task::AbortHandle;

use crate::event::StepFailure;

/// A server that does not listen by then has failed: interpreters that load a large program need
/// many seconds on a small machine.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked whether a server listens: a person does not see it.
const LISTEN_INTERVAL: Duration = Duration::from_millis(10);
/// Time for a server that listens to find itself healthy.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
const HEALTHY_INTERVAL: Duration = Duration::from_millis(50);
/// What ran for this long has started: a program that cannot run usually ends at once, and its
/// older version goes on until then.
const SETTLED: Duration = Duration::from_secs(1);
/// The one before it on a port has its last moments to end.
const PORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a stopped run to let go of its port; one that has it for longer is no run of ours.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A program that runs; its end follows.
pub(crate) struct Worker {
    pub(crate) guard: RunGuard,
    pub(crate) ended: oneshot::Receiver<End>,
    /// Of a server.
    pub(crate) upstream: Option<Upstream>,
}

/// Ends the run when it is dropped.
pub(crate) struct RunGuard(AbortHandle);

impl RunGuard {
    pub(crate) fn handle(&self) -> AbortHandle {
        self.0.clone()
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How an attempt to start a run came out.
pub(crate) enum Begun {
    Running(Worker),
    Ended(End),
}

/// Ports that servers insist on: the next one waits until the one before has left. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Ports(Arc<Mutex<BTreeMap<u16, Arc<tokio::sync::Mutex<()>>>>>);

/// A port of 127.0.0.1 for one run. Nobody else is given it meanwhile.
struct Port {
    number: u16,
    /// Bound, and never listened on: so the system gives the port to nobody by chance, and the
    /// guest, which shares it, can still listen.
    _reserved: TcpSocket,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Ports {
    /// The port that `wanted` names, or a free one.
    async fn take(&self, wanted: Option<u16>) -> Result<Port, StepFailure> {
        let turn = match wanted {
            None => None,
            Some(port) => {
                let lock = {
                    let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    // Those that nobody holds or waits for.
                    ports.retain(|_, lock| Arc::strong_count(lock) > 1);
                    Arc::clone(ports.entry(port).or_default())
                };
                let turn = tokio::time::timeout(PORT_TIMEOUT, lock.lock_owned()).await;
                let turn = turn.map_err(|_| busy(port, "another component of this node has it"))?;
                Some(turn)
            }
        };
        let (reserved, number) = reserve_soon(wanted.unwrap_or(0))
            .await
            .map_err(|error| busy(wanted.unwrap_or(0), &error.to_string()))?;
        Ok(Port {
            number,
            _reserved: reserved,
            _turn: turn,
        })
    }
}

/// A run that was stopped has its socket for a moment longer.
async fn reserve_soon(port: u16) -> std::io::Result<(TcpSocket, u16)> {
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    loop {
        match reserve(port) {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(LISTEN_INTERVAL).await,
            reserved => return reserved,
        }
    }
}

fn reserve(port: u16) -> std::io::Result<(TcpSocket, u16)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let number = socket.local_addr()?.port();
    Ok((socket, number))
}

fn busy(port: u16, why: &str) -> StepFailure {
    StepFailure {
        code: "port-busy".to_owned(),
        reason: format!("port {port} of 127.0.0.1 cannot be had: {why}"),
        permanent: false,
    }
}

/// The limits of a run: those of requests are kept by whoever passes them on, and only a job has an
/// end that somebody waits for. The epoch never ends a run, it makes it yield.
pub(crate) fn limits(spec: &ComponentSpec) -> Limits {
    let wall_timeout_ms = if spec.mode().is_job() {
        spec.limits.wall_timeout_ms
    } else {
        u64::MAX
    };
    Limits {
        epoch_timeout_ms: u64::MAX,
        wall_timeout_ms,
        ..spec.limits.clone()
    }
}

/// Starts a run, and waits until it counts as started.
pub(crate) async fn start(
    program: &Program,
    spec: &ComponentSpec,
    id: &ReplicaId,
    term: Option<Term>,
    ports: &Ports,
) -> Result<Begun, StepFailure> {
    let port = match spec.mode() {
        Mode::Server => Some(ports.take(spec.listen).await?),
        Mode::Answers
        | Mode::Upstream
        | Mode::Service
        | Mode::Worker
        | Mode::Once
        | Mode::Scheduled => None,
    };
    let upstream = port
        .as_ref()
        .map(|port| upstream(port.number, &spec.limits, spec.listen.is_some()));
    let program = program.replica_until(id.slot, term);
    let mut worker = spawn(program, port, upstream);
    let started = started(worker.upstream.as_ref(), spec);
    tokio::select! {
        // First what is certain: a server that ended may have answered before.
        biased;
        end = &mut worker.ended => Ok(Begun::Ended(end.unwrap_or_else(|_| panicked()))),
        started = started => {
            started?;
            Ok(Begun::Running(worker))
        }
    }
}

fn upstream(port: u16, limits: &Limits, takes_connections: bool) -> Upstream {
    let limits = UpstreamLimits {
        concurrency_max: limits.max_concurrency,
        wall_timeout: Duration::from_millis(limits.wall_timeout_ms),
        request_bytes_max: limits.max_request_bytes,
        response_bytes_max: limits.max_response_bytes,
        websocket_idle: Duration::from_millis(limits.websocket_idle_ms),
        takes_connections,
    };
    Upstream::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limits)
}

fn spawn(program: Program, port: Option<Port>, upstream: Option<Upstream>) -> Worker {
    let number = port.as_ref().map(|port| port.number);
    let run = Run {
        env: number
            .map(|port| ("PORT".to_owned(), port.to_string()))
            .into_iter()
            .collect(),
        listen: number,
        ..Run::default()
    };
    let (sender, ended) = oneshot::channel();
    let task = tokio::spawn(async move {
        let end = end(program.run(run).await);
        // Only then may the next one have it.
        drop(port);
        // Who is not interested any more has stopped it.
        let _ = sender.send(end);
    });
    Worker {
        guard: RunGuard(task.abort_handle()),
        ended,
        upstream,
    }
}

fn end(ran: Result<u8, RunError>) -> End {
    match ran {
        Ok(code) => End::Exit(code),
        Err(error) => End::Failure {
            code: error.code.to_owned(),
            reason: error.message,
            permanent: false,
        },
    }
}

/// The end of a run whose task panicked.
pub(crate) fn panicked() -> End {
    let StepFailure {
        code,
        reason,
        permanent,
    } = StepFailure::panicked();
    End::Failure {
        code,
        reason,
        permanent,
    }
}

async fn started(upstream: Option<&Upstream>, spec: &ComponentSpec) -> Result<(), StepFailure> {
    let Some(upstream) = upstream else {
        tokio::time::sleep(SETTLED).await;
        return Ok(());
    };
    let listens = async {
        // Others connect with a port that has a number, and the server may take one after the other.
        let is_reached = async || match spec.listen {
            Some(_) => upstream.touch().await,
            None => upstream.reach().await,
        };
        while is_reached().await.is_err() {
            tokio::time::sleep(LISTEN_INTERVAL).await;
        }
    };
    if tokio::time::timeout(LISTEN_TIMEOUT, listens).await.is_err() {
        return Err(StepFailure {
            code: "not-listening".to_owned(),
            reason: format!(
                "it does not listen on 127.0.0.1 and the port of `PORT` after {} s",
                LISTEN_TIMEOUT.as_secs()
            ),
            permanent: false,
        });
    }
    let Some(Probe::Http(path)) = spec.health.as_ref().map(|health| &health.probe) else {
        return Ok(());
    };
    let mut last = None;
    let healthy = async {
        while let Err(reason) = healthy(upstream, path).await {
            last = Some(reason);
            tokio::time::sleep(HEALTHY_INTERVAL).await;
        }
    };
    match tokio::time::timeout(HEALTHY_TIMEOUT, healthy).await {
        Ok(()) => Ok(()),
        Err(_) => Err(StepFailure {
            code: "probe-failed".to_owned(),
            reason: last.unwrap_or_else(|| "no answer to the first probe".to_owned()),
            permanent: false,
        }),
    }
}

/// Whether a server answers the path of its health check well.
pub(crate) async fn healthy(upstream: &Upstream, path: &str) -> Result<(), String> {
    match upstream.probe(path).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_had_by_one_at_a_time() {
        let ports = Ports::default();
        let free = ports.take(None).await.expect("a free port");
        let (first, second) = (free.number, ports.take(None).await.expect("another"));
        assert_ne!(first, second.number);
        drop((free, second));
        let held = ports.take(Some(first)).await.expect("it is free again");
        let waiting = tokio::spawn({
            let ports = ports.clone();
            async move { ports.take(Some(first)).await.map(|port| port.number) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(held);
        let number = waiting.await.expect("no panic").map_err(|error| error.code);
        assert_eq!(number, Ok(first));
    }

    #[tokio::test]
    async fn a_port_of_another_program_is_busy() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = other.local_addr().expect("an address").port();
        let taken = Ports::default()
            .take(Some(port))
            .await
            .map(|port| port.number);
        assert_eq!(
            taken.map_err(|error| error.code),
            Err("port-busy".to_owned())
        );
    }
}
