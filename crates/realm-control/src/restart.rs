//! What the end of a run means: again, later, or not at all. Not when that is: the plan looks.

use realm_model::manifest::{ComponentSpec, Mode, RestartPolicy};
use realm_model::observed::{Millis, ReplicaState};

use crate::backoff::delay_ms;

/// Attempts of a job that runs once: with the waits between them over a minute and a half, so that
/// a database that restarts does not fail it, and a job that cannot succeed is told soon.
pub const JOB_ATTEMPTS_MAX: u32 = 10;

/// The code of a program that ended by itself.
pub const EXITED: &str = "exited";

/// How an attempt or a run came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// By itself, with an exit code.
    Exit(u8),
    /// Otherwise.
    Failure {
        /// Stable code.
        code: String,
        /// What happened.
        reason: String,
        /// Whether another attempt would fail in the same way.
        permanent: bool,
    },
}

impl End {
    /// Whether it ended as it should.
    pub const fn is_good(&self) -> bool {
        matches!(self, Self::Exit(0))
    }

    fn words(&self) -> (String, String) {
        match self {
            Self::Exit(code) => (EXITED.to_owned(), format!("exit code {code}")),
            Self::Failure { code, reason, .. } => (code.clone(), reason.clone()),
        }
    }
}

/// The state of a replica whose attempt or run ended like this, the `attempts`-th in a row that was
/// no success; `seed` spreads the waits of several.
pub fn after(
    spec: &ComponentSpec,
    end: &End,
    attempts: u32,
    now: Millis,
    seed: u64,
) -> ReplicaState {
    let (code, reason) = end.words();
    let again = || ReplicaState::Backoff {
        until: now.plus(delay_ms(attempts, seed)),
        attempts,
        code: code.clone(),
        reason: reason.clone(),
    };
    let failed = |reason: String| ReplicaState::Failed {
        code: code.clone(),
        reason,
    };
    let done = |ok| ReplicaState::Done {
        ok,
        reason: match end {
            End::Exit(_) => reason.clone(),
            End::Failure { .. } => format!("{code}: {reason}"),
        },
    };
    if let End::Failure {
        permanent: true, ..
    } = end
    {
        return failed(reason);
    }
    match (spec.mode(), spec.restart) {
        // Instances come and go by themselves: the policy is about what runs on.
        // A service beside realm may come back at any time.
        (Mode::Answers | Mode::Upstream | Mode::Worker, _) => again(),
        (Mode::Server | Mode::Service, RestartPolicy::Always) => again(),
        (Mode::Server | Mode::Service, RestartPolicy::OnFailure | RestartPolicy::Never)
        | (Mode::Once, _)
            if end.is_good() =>
        {
            done(true)
        }
        (Mode::Server | Mode::Service, RestartPolicy::OnFailure) => again(),
        (Mode::Server | Mode::Service | Mode::Once, RestartPolicy::Never) => failed(reason),
        (Mode::Once, RestartPolicy::Always | RestartPolicy::OnFailure) => {
            if attempts < JOB_ATTEMPTS_MAX {
                again()
            } else {
                failed(format!("{reason}; no more attempts after {attempts}"))
            }
        }
        (Mode::Scheduled, _) => done(end.is_good()),
    }
}

#[cfg(test)]
mod tests {
    use realm_model::manifest::parse;

    use super::*;

    #[track_caller]
    fn check(keys: &str, end: &End, attempts: u32, expected: &str) {
        let text = format!("[components.a]\nsource = \"file:a\"\n{keys}");
        let (manifest, problems) = parse(&text);
        let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
        let spec = manifest.components.values().next().expect("a component");
        let state = after(spec, end, attempts, Millis(0), 0);
        let seen = match state {
            ReplicaState::Backoff { code, reason, .. } => format!("again: {code}: {reason}"),
            ReplicaState::Done { ok, reason } => format!("done {ok}: {reason}"),
            ReplicaState::Failed { code, reason } => format!("failed: {code}: {reason}"),
            other @ (ReplicaState::Starting { .. }
            | ReplicaState::Healthy { .. }
            | ReplicaState::Draining { .. }) => format!("{other:?}"),
        };
        assert_eq!(seen, expected, "{keys}, {end:?}");
    }

    fn failure(permanent: bool) -> End {
        End::Failure {
            code: "trap".to_owned(),
            reason: "unreachable".to_owned(),
            permanent,
        }
    }

    #[test]
    fn the_policy_says_what_an_end_means() {
        let (good, bad, trap) = (&End::Exit(0), &End::Exit(3), &failure(false));
        let service = "serve = \"service\"";
        check(service, good, 1, "again: exited: exit code 0");
        check(service, bad, 99, "again: exited: exit code 3");
        let on_failure = "serve = \"socket\"\nrestart = \"on-failure\"";
        check(on_failure, good, 1, "done true: exit code 0");
        check(on_failure, bad, 1, "again: exited: exit code 3");
        check(on_failure, trap, 1, "again: trap: unreachable");
        let never = "serve = \"service\"\nrestart = \"never\"";
        check(never, good, 1, "done true: exit code 0");
        check(never, trap, 1, "failed: trap: unreachable");
        let job = "serve = \"job\"";
        check(job, good, 1, "done true: exit code 0");
        check(job, bad, JOB_ATTEMPTS_MAX - 1, "again: exited: exit code 3");
        let told = "failed: exited: exit code 3; no more attempts after 10";
        check(job, bad, JOB_ATTEMPTS_MAX, told);
        check(
            "serve = \"job\"\nrestart = \"never\"",
            bad,
            1,
            "failed: exited: exit code 3",
        );
        check("schedule = \"@daily\"", bad, 1, "done false: exit code 3");
        check("schedule = \"@daily\"", good, 1, "done true: exit code 0");
        check(
            "schedule = \"@daily\"",
            trap,
            1,
            "done false: trap: unreachable",
        );
        check("restart = \"never\"", trap, 1, "again: trap: unreachable");
        for keys in ["", service, on_failure, job, "schedule = \"@daily\""] {
            check(keys, &failure(true), 1, "failed: trap: unreachable");
        }
    }
}
