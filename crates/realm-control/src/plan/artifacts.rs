//! How a component's bytes come to be runnable: fetch, compile, wait. Not the fetching.

use realm_model::digest::Digest;
use realm_model::observed::{Artifact, ArtifactState, Millis, Observed};

use super::wanted::Wanted;

/// What is next for the bytes of one component.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    /// Replicas can start.
    Ready,
    Fetch,
    Compile,
    /// It is under way, or a failure waits: this state says which. `None`: nothing is needed.
    Wait(Option<&'a ArtifactState>),
}

pub(super) fn step<'a>(wanted: &Wanted<'_>, observed: &'a Observed, now: Millis) -> Step<'a> {
    if wanted.replicas == 0 {
        return Step::Wait(None);
    }
    match bytes_step(wanted, observed, now) {
        // It starts where it can open what it may open, and nowhere else.
        Step::Ready if wanted.unopened(observed).next().is_some() => Step::Wait(None),
        step @ (Step::Ready | Step::Fetch | Step::Compile | Step::Wait(_)) => step,
    }
}

fn bytes_step<'a>(wanted: &Wanted<'_>, observed: &'a Observed, now: Millis) -> Step<'a> {
    // What answers elsewhere has no bytes.
    if wanted.spec.upstream().is_some() {
        return Step::Ready;
    }
    let Artifact { digest, fuel } = wanted.artifact;
    let own = observed.artifacts.get(&wanted.artifact);
    // The same bytes may be here, or on their way, for the other engine.
    let other = observed.artifacts.get(&Artifact {
        digest,
        fuel: !fuel,
    });
    match own {
        Some(ArtifactState::Ready) => Step::Ready,
        Some(ArtifactState::Fetched) => Step::Compile,
        Some(state @ (ArtifactState::Fetching { .. } | ArtifactState::Compiling { .. })) => {
            Step::Wait(Some(state))
        }
        Some(state @ ArtifactState::Failed { .. }) if !is_due(state, now) => {
            Step::Wait(Some(state))
        }
        // Another attempt begins with the fetch, which re-verifies what is here: a bit that
        // flipped on the disk may be what broke the compiler.
        Some(ArtifactState::Failed { .. }) => bytes_of(other, now, Step::Fetch),
        None => bytes_of(other, now, Step::Compile),
    }
}

/// The next step for bytes of which the other engine's state is known; `on_compile_failure` if
/// they are here and did not compile for that engine.
fn bytes_of<'a>(
    other: Option<&'a ArtifactState>,
    now: Millis,
    on_compile_failure: Step<'a>,
) -> Step<'a> {
    match other {
        None => Step::Fetch,
        Some(ArtifactState::Fetched | ArtifactState::Compiling { .. } | ArtifactState::Ready) => {
            Step::Compile
        }
        Some(state @ ArtifactState::Fetching { .. }) => Step::Wait(Some(state)),
        Some(ArtifactState::Failed { code, .. }) if code.starts_with("compile") => {
            on_compile_failure
        }
        Some(state @ ArtifactState::Failed { .. }) if is_due(state, now) => Step::Fetch,
        Some(state @ ArtifactState::Failed { .. }) => Step::Wait(Some(state)),
    }
}

fn is_due(state: &ArtifactState, now: Millis) -> bool {
    match state {
        ArtifactState::Failed { retry_at, .. } => retry_at.is_some_and(|time| time <= now),
        ArtifactState::Fetching { .. }
        | ArtifactState::Fetched
        | ArtifactState::Compiling { .. }
        | ArtifactState::Ready => false,
    }
}

/// What names a component's bytes to a person.
pub(super) fn short(digest: &Digest) -> String {
    format!("sha256:{}…", digest.short())
}

#[cfg(test)]
mod tests {
    use realm_model::lock::Pin;
    use realm_model::manifest::parse;
    use realm_model::observed::Revision;

    use super::*;

    const NOW: Millis = Millis(1_000);

    #[test]
    fn the_bytes_of_one_engine_serve_the_other() {
        let (fetching, compiling) = (
            ArtifactState::Fetching { since: Some(NOW) },
            ArtifactState::Compiling { since: Some(NOW) },
        );
        let (here, ready) = (ArtifactState::Fetched, ArtifactState::Ready);
        let lost = |at| failed("fetch-failed", at);
        let uncompiled = |at| failed("compile-failed", at);
        for (own, other, expected) in [
            (None, None, "fetch"),
            (None, Some(&here), "compile"),
            (None, Some(&compiling), "compile"),
            (None, Some(&ready), "compile"),
            (None, Some(&fetching), "wait"),
            // The other engine's wait after a failed fetch holds for the bytes, a failed
            // compilation only for that engine.
            (None, Some(&lost(Some(1_001))), "wait"),
            (None, Some(&lost(None)), "wait"),
            (None, Some(&lost(Some(1_000))), "fetch"),
            (None, Some(&uncompiled(None)), "compile"),
            (Some(&fetching), Some(&ready), "wait"),
            (Some(&compiling), Some(&ready), "wait"),
            (Some(&here), Some(&fetching), "compile"),
            (Some(&ready), Some(&lost(None)), "ready"),
            (Some(&lost(Some(1_001))), None, "wait"),
            (Some(&lost(None)), None, "wait"),
            (Some(&lost(Some(1_000))), None, "fetch"),
            (Some(&lost(Some(1_000))), Some(&lost(Some(2_000))), "wait"),
            (Some(&lost(Some(1_000))), Some(&fetching), "wait"),
            (Some(&lost(Some(1_000))), Some(&ready), "compile"),
            // Compiled by neither: the bytes are looked at again.
            (
                Some(&uncompiled(Some(1_000))),
                Some(&uncompiled(None)),
                "fetch",
            ),
        ] {
            assert_eq!(next(own, other), expected, "{own:?}, {other:?}");
        }
    }

    fn failed(code: &str, retry_at: Option<u64>) -> ArtifactState {
        ArtifactState::Failed {
            code: code.to_owned(),
            reason: String::new(),
            attempts: 1,
            retry_at: retry_at.map(Millis),
        }
    }

    fn next(own: Option<&ArtifactState>, other: Option<&ArtifactState>) -> &'static str {
        let (manifest, _) = parse("[components.a]\nsource = \"file:a\"");
        let manifest = manifest.expect("a manifest");
        let digest = Digest::of(b"");
        let artifact = |fuel| Artifact { digest, fuel };
        let wanted = Wanted {
            secrets: None,
            spec: &manifest.components[&crate::testing::component_name("a")],
            pin: Pin { digest, size: 0 },
            revision: Revision(digest),
            artifact: artifact(false),
            replicas: 1,
            entry: 1,
            singleton: false,
        };
        let states = [(artifact(false), own), (artifact(true), other)];
        let states = states
            .into_iter()
            .filter_map(|(key, state)| Some((key, state?.clone())));
        let observed = Observed {
            artifacts: states.collect(),
            ..Observed::default()
        };
        match step(&wanted, &observed, NOW) {
            Step::Ready => "ready",
            Step::Fetch => "fetch",
            Step::Compile => "compile",
            Step::Wait(_) => "wait",
        }
    }
}
