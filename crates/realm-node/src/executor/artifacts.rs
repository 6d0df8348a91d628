//! The executor's half about bytes: what is fetched and compiled, and what their ends mean. Not here:
//! whom bytes come from (`fetching`).

use std::path::Path;
use std::sync::Arc;

use realm_control::Desired;
use realm_control::backoff::delay_ms;
use realm_control::fetching::ahead;
use realm_model::digest::Digest;
use realm_model::lock::Pin;
use realm_model::manifest::Source;
use realm_model::observed::{Artifact, ArtifactState, Millis};

use super::fetching::{Errand, NOT_UPLOADED};
use super::{Executor, World};
use crate::compile::CompileFailure;
use crate::event::{Event, Stage, StepFailure};

/// A compiled file that is lost again within this time is not compiled again at once: something
/// takes it away, and compiling is work.
const LOSS_FORGOTTEN_MS: u64 = 60_000;

/// How often a compiled file was lost of late.
pub(super) struct Losses {
    count: u32,
    last: Millis,
}

impl Executor {
    pub(super) fn fetch(&mut self, pin: Pin, source: Source, world: &mut World<'_>) {
        let artifact = wanted_artifact(world.desired, pin.digest);
        world
            .observed
            .artifacts
            .insert(artifact, ArtifactState::Fetching { since: None });
        let unix_s = world.observed.unix_ms_at_zero.saturating_add(world.now.0) / 1_000;
        let errand = Errand {
            blobs: self.blobs.clone(),
            pin,
            source,
            peers: self.peers.clone(),
            origins: Arc::clone(&self.origins),
            ahead: ahead(
                world.desired,
                world.authority,
                world.placement,
                world.node,
                &pin.digest,
                unix_s,
            ),
            turns: Arc::clone(&self.fetches),
            waits: Arc::clone(&self.waits),
        };
        let events = self.events.clone();
        let work = async move {
            let began = async || {
                let stage = Stage::Fetch;
                let _ = events.send(Event::Began { artifact, stage }).await;
            };
            errand.run(began).await
        };
        self.report(work, move |ended| Event::Fetched {
            artifact,
            result: ended.flatten(),
        });
    }

    pub(super) fn compile(&mut self, artifact: Artifact, world: &mut World<'_>) {
        if self.compiler.has(artifact) {
            self.artifact_failures.remove(&artifact);
            world
                .observed
                .artifacts
                .insert(artifact, ArtifactState::Ready);
            return;
        }
        world
            .observed
            .artifacts
            .insert(artifact, ArtifactState::Compiling { since: None });
        self.compilations += 1;
        let (compiler, events) = (self.compiler.clone(), self.events.clone());
        let source = self.blobs.path(&artifact.digest);
        let work = async move {
            let began = async || {
                let stage = Stage::Compile;
                let _ = events.send(Event::Began { artifact, stage }).await;
            };
            compiler.compile(artifact, source, began).await
        };
        self.report(work, move |ended| {
            let result = ended.unwrap_or_else(|panicked| {
                Err(CompileFailure {
                    code: panicked.code,
                    message: panicked.reason,
                    permanent: panicked.permanent,
                })
            });
            Event::Compiled { artifact, result }
        });
    }

    /// A fetch or a compilation got its turn.
    pub(crate) fn began(&mut self, artifact: Artifact, stage: Stage, world: &mut World<'_>) {
        let now = world.now;
        match (stage, world.observed.artifacts.get_mut(&artifact)) {
            (Stage::Fetch, Some(ArtifactState::Fetching { since }))
            | (Stage::Compile, Some(ArtifactState::Compiling { since })) => *since = Some(now),
            (Stage::Fetch | Stage::Compile, _) => {}
        }
    }

    /// A fetch ended.
    pub(crate) fn fetched(
        &mut self,
        artifact: Artifact,
        result: Result<(), StepFailure>,
        world: &mut World<'_>,
    ) {
        let state = match result {
            Ok(()) => ArtifactState::Fetched,
            // They came while it was looked for them: the plan looks again.
            Err(failure) if failure.code == NOT_UPLOADED && self.blobs.has(&artifact.digest) => {
                world.observed.artifacts.remove(&artifact);
                return;
            }
            Err(failure) => {
                tracing::warn!(digest = %artifact.digest, code = failure.code, reason = failure.reason, "fetch failed");
                self.artifact_failure(
                    artifact,
                    failure.code,
                    failure.reason,
                    failure.permanent,
                    world.now,
                )
            }
        };
        world.observed.artifacts.insert(artifact, state);
    }

    /// A compilation ended.
    pub(crate) fn compiled(
        &mut self,
        artifact: Artifact,
        result: Result<(), CompileFailure>,
        world: &mut World<'_>,
    ) {
        let state = match result {
            Ok(()) => {
                self.artifact_failures.remove(&artifact);
                ArtifactState::Ready
            }
            Err(failure) => {
                tracing::warn!(digest = %artifact.digest, code = failure.code, reason = failure.message, "compilation failed");
                self.artifact_failure(
                    artifact,
                    failure.code,
                    failure.message,
                    failure.permanent,
                    world.now,
                )
            }
        };
        world.observed.artifacts.insert(artifact, state);
    }

    /// A compiled file was unloaded and cannot be loaded again. Its replicas stay: once it is
    /// compiled again, the next request loads it.
    pub(crate) fn lost(&mut self, compiled: &Path, world: &mut World<'_>) {
        let known = world.observed.artifacts.iter();
        let ready = |(artifact, state): &(&Artifact, &ArtifactState)| {
            matches!(state, ArtifactState::Ready) && self.compiler.path(**artifact) == compiled
        };
        // Otherwise it is being made already, or nobody wants it any more.
        let Some(artifact) = known.into_iter().find(ready).map(|(artifact, _)| *artifact) else {
            return;
        };
        let before = self.losses.get(&artifact);
        let again = before.filter(|losses| world.now.since(losses.last) < LOSS_FORGOTTEN_MS);
        let count = again.map_or(0, |losses| losses.count).saturating_add(1);
        let last = world.now;
        self.losses.insert(artifact, Losses { count, last });
        tracing::warn!(path = %compiled.display(), count, "a compiled file is lost; it is compiled again");
        self.discard(artifact);
        let state = match count {
            1 => ArtifactState::Fetched,
            attempts => ArtifactState::Failed {
                code: "bad-artifact".to_owned(),
                reason: "the compiled file is lost again and again".to_owned(),
                attempts,
                retry_at: Some(last.plus(delay_ms(attempts, seed(artifact)))),
            },
        };
        world.observed.artifacts.insert(artifact, state);
    }

    /// Removes a compiled file that is of no use.
    pub(super) fn discard(&self, artifact: Artifact) {
        let path = self.compiler.path(artifact);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a damaged compiled file could not be removed");
        }
    }

    pub(super) fn artifact_failure(
        &mut self,
        artifact: Artifact,
        code: String,
        reason: String,
        permanent: bool,
        now: Millis,
    ) -> ArtifactState {
        let failures = self.artifact_failures.entry(artifact).or_default();
        *failures = failures.saturating_add(1);
        ArtifactState::Failed {
            code,
            reason,
            attempts: *failures,
            retry_at: (!permanent).then(|| now.plus(delay_ms(*failures, seed(artifact)))),
        }
    }

    /// Bytes arrived: what failed for want of them is tried again at once.
    pub(crate) fn uploaded(&mut self, digest: &Digest, world: &mut World<'_>) {
        let failed = |artifact: &Artifact, state: &mut ArtifactState| {
            artifact.digest == *digest && matches!(state, ArtifactState::Failed { .. })
        };
        world
            .observed
            .artifacts
            .retain(|artifact, state| !failed(artifact, state));
        self.artifact_failures
            .retain(|artifact, _| artifact.digest != *digest);
    }
}

/// So that what failed together is tried apart.
fn seed(artifact: Artifact) -> u64 {
    u64::from(artifact.digest.as_bytes()[0])
}

/// The artifact under which a fetch of `digest` is recorded: one that is wanted.
fn wanted_artifact(desired: &Desired, digest: Digest) -> Artifact {
    let manifest = desired.manifest.as_deref();
    let fuel = manifest.is_some_and(|manifest| {
        manifest.components.iter().any(|(name, spec)| {
            desired.pin(name).is_some_and(|pin| pin.digest == digest)
                && spec.limits.fuel_per_sec.is_some()
        })
    });
    Artifact { digest, fuel }
}
