//! A component that runs here for a caller: within limits, with the grants that the caller names and
//! the node's policy allows, and with the caller's streams. Not in the realm: it has no route, no
//! name of the manifest, and no second life.

use std::sync::{Arc, Mutex, PoisonError};

use realm_host::{Host, Input, LogSink, Meter, Output, Program, Run, RunError, Settings};
use realm_model::api::LogStream;
use realm_model::frame::{RunRequest, Signal};
use realm_model::grants::{ClockGrant, DirGrant, Grants, OutboundRule};
use realm_model::limits::Limits;
use realm_model::manifest::parse_dir;
use realm_model::node_config::ExecPolicy;
use realm_model::observed::Artifact;
use realm_store::blobs::Blobs;
use tokio::io::{AsyncWriteExt as _, DuplexStream};

use super::session::{Ended, Ends, Stop};
use crate::compile::Compiler;
use crate::error::with_causes;

/// MiB of memory at most, as in a manifest.
const MEMORY_MAX_MB: u64 = 4_096;
/// Remarks of the host that are kept for the caller: a trap has some lines.
const REMARKS_MAX: usize = 64;

/// What it takes to run a component; cheap to clone.
#[derive(Clone)]
pub(crate) struct Guests {
    pub(crate) host: Host,
    pub(crate) compiler: Compiler,
    pub(crate) blobs: Blobs,
}

/// What the host says of the run: for the caller's stderr.
#[derive(Default)]
struct Remarks(Mutex<Vec<String>>);

impl LogSink for Remarks {
    fn line(&self, _: u32, _: LogStream, text: String) {
        let mut remarks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remarks.len() < REMARKS_MAX {
            remarks.push(text);
        }
    }
}

/// Runs a component to its end, or until it has to stop.
pub(super) async fn run(
    guests: &Guests,
    policy: &ExecPolicy,
    asked: RunRequest,
    ends: Ends,
) -> Ended {
    let Ends {
        stdin,
        stdout,
        mut stderr,
        mut signals,
        mut stop,
    } = ends;
    let remarks = Arc::new(Remarks::default());
    // Written by the guest, and by the host after it.
    let (from_guest, errors) = tokio::io::duplex(16 * 1024);
    let work = async {
        let args = asked.args.clone();
        let program = match program(guests, policy, asked, Arc::clone(&remarks)).await {
            Ok(program) => program,
            Err(error) => return error,
        };
        let run = Run {
            name: None,
            args,
            env: Vec::new(),
            listen: None,
            stdin: Some(Input::new(stdin, false)),
            stdout: Some(Output::new(stdout, false)),
            stderr: Some(Output::new(errors, false)),
        };
        match program.run(run).await {
            Ok(code) => Ended::Exit(code),
            Err(RunError { code, message }) => Ended::error(code, message, None),
        }
    };
    let mut open = true;
    let guided = async {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                ended = &mut work => return ended,
                stopped = stop.wait_for(Option::is_some) => return match stopped.ok().and_then(|why| *why) {
                    Some(Stop::Revoked) => Ended::error(
                        "forbidden",
                        "the key may not run components any longer; this one was ended".to_owned(),
                        None,
                    ),
                    Some(Stop::Gone) | None => Ended::error(
                        "caller-gone",
                        "the caller went away; the component was ended".to_owned(),
                        None,
                    ),
                },
                signal = signals.recv(), if open => match signal {
                    // A guest knows no signals: each of these ends it.
                    Some(signal) => return Ended::Exit(128 + Signal::number(signal)),
                    None => open = false,
                },
            }
        }
    };
    let (ended, ()) = tokio::join!(guided, async {
        let mut from_guest = from_guest;
        // A caller that takes no more has been told enough.
        let _ = tokio::io::copy(&mut from_guest, &mut stderr).await;
    });
    tell(&remarks, &mut stderr).await;
    ended
}

async fn tell(remarks: &Remarks, stderr: &mut DuplexStream) {
    let lines = {
        let mut remarks = remarks.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *remarks)
    };
    for line in lines {
        // A caller that is gone reads no remarks.
        let _ = stderr
            .write_all(format!("realm: {line}\n").as_bytes())
            .await;
    }
}

/// Compiles what is not compiled yet, and links it.
async fn program(
    guests: &Guests,
    policy: &ExecPolicy,
    asked: RunRequest,
    remarks: Arc<Remarks>,
) -> Result<Program, Ended> {
    let digest = asked.digest;
    let settings = settings(policy, asked, remarks)?;
    let artifact = Artifact {
        digest,
        fuel: settings.limits.fuel_per_sec.is_some(),
    };
    if !guests.compiler.has(artifact) {
        guests.blobs.verify(&digest).await.map_err(|error| {
            let hint = "`PUT /v1/blobs/{digest}` brings the bytes";
            Ended::error("not-uploaded", with_causes(&error), Some(hint))
        })?;
        let source = guests.blobs.path(&digest);
        let compiled = guests.compiler.compile(artifact, source, async || ()).await;
        compiled.map_err(|failure| Ended::error(&failure.code, failure.message, None))?;
    }
    let (host, path) = (guests.host.clone(), guests.compiler.path(artifact));
    // Mapping and linking is work of the CPU and the disk.
    let loading = tokio::task::spawn_blocking(move || host.load_program(settings, &path));
    match loading.await {
        Ok(Ok(program)) => Ok(program),
        Ok(Err(error)) => Err(Ended::error(error.code(), with_causes(&error), None)),
        Err(error) => Err(Ended::error("panicked", error.to_string(), None)),
    }
}

fn settings(
    policy: &ExecPolicy,
    asked: RunRequest,
    remarks: Arc<Remarks>,
) -> Result<Settings, Ended> {
    let bad = |message: String| Ended::error("bad-request", message, None);
    let allowed: Result<Vec<OutboundRule>, _> =
        asked.allow.iter().map(|rule| rule.parse()).collect();
    let dirs: Result<Vec<DirGrant>, _> = asked.dirs.iter().map(|dir| parse_dir(dir)).collect();
    let memory_max_mb = asked
        .memory_max_mb
        .unwrap_or(realm_model::limits::MEMORY_MAX_MB);
    if !(1..=MEMORY_MAX_MB).contains(&memory_max_mb) {
        return Err(bad(format!(
            "`memory_max_mb` is {memory_max_mb}, at most {MEMORY_MAX_MB} are given"
        )));
    }
    let longest_ms = u64::from(policy.max_seconds) * 1_000;
    Ok(Settings {
        name: asked.name,
        limits: Limits {
            memory_max_mb,
            fuel_per_sec: asked.fuel_per_sec.filter(|units| *units > 0),
            epoch_timeout_ms: asked.epoch_timeout_ms.unwrap_or(u64::MAX).max(1),
            wall_timeout_ms: asked
                .wall_timeout_ms
                .unwrap_or(longest_ms)
                .clamp(1, longest_ms),
            max_concurrency: 1,
            ..Limits::default()
        },
        grants: Grants {
            allowed_outbound: allowed.map_err(|error| bad(error.to_string()))?,
            dirs: dirs.map_err(|error| bad(error.message))?,
            env: asked.env,
            clock: ClockGrant::Coarse,
            ..Grants::default()
        },
        stores: realm_host::Stores::default(),
        reuse: false,
        probe: None,
        log: remarks,
        meter: Arc::new(Meter::new()),
    })
}
