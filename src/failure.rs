//! A failed verb: a stable code, what happened, why, and what to do next. One place decides the
//! exit code and the looks.

use std::error::Error;
use std::process::ExitCode;

use realm_model::refusal::{Refusal, RefusalCode};
use realm_node::ClientError;

use crate::output;

/// Exit codes, as `realm --help` lists them.
pub(crate) mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const CHANGES: u8 = 2;
    pub(crate) const REFUSED: u8 = 3;
    pub(crate) const NO_AGENT: u8 = 4;
    pub(crate) const USAGE: u8 = 64;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: String,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    exit: u8,
}

impl Failure {
    /// A failure that ends with exit code 1.
    pub(crate) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            exit: exit::FAILED,
        }
    }

    /// A failure from an error and everything below it.
    pub(crate) fn from_error(code: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(code, error.to_string());
        let mut cause = error.source();
        while let Some(error) = cause {
            failure.causes.push(error.to_string());
            cause = error.source();
        }
        failure
    }

    /// A signal came before the verb was done.
    pub(crate) fn interrupted() -> Self {
        Self::new("interrupted", "interrupted before it was done")
            .hint("`realm status` shows what is in force")
            .exit(exit::INTERRUPTED)
    }

    /// Puts another code in place of the present one.
    pub(crate) fn code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
        self
    }

    /// Adds what happened in terms of the verb; the present message becomes a cause.
    pub(crate) fn context(mut self, message: impl Into<String>) -> Self {
        let cause = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, cause);
        self
    }

    /// Adds a cause below the present ones.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds the next step.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Ends with another exit code.
    pub(crate) const fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// Whether this is its code.
    pub(crate) fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// Whether a person ended it.
    pub(crate) const fn is_interrupted(&self) -> bool {
        self.exit == exit::INTERRUPTED
    }

    /// Whether nobody answered: it may be otherwise a moment later.
    pub(crate) const fn is_no_agent(&self) -> bool {
        self.exit == exit::NO_AGENT
    }

    /// What happened, without the code.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Prints the failure to stderr.
    pub(crate) fn report(&self) -> ExitCode {
        output::note(&format!(
            "{} {}",
            output::red(&format!("error[{}]:", self.code)),
            self.message
        ));
        for cause in &self.causes {
            output::note(&format!("  because: {}", output::within_line(cause)));
        }
        if let Some(hint) = &self.hint {
            output::note(&format!("{} {hint}", output::cyan("hint:")));
        }
        ExitCode::from(self.exit)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code.as_str(), output::within_line(&refusal.message))
            .hint(refusal.code.hint())
            .exit(exit::REFUSED)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NotRunning { .. } => Self::from_error("no-agent", &error)
                .hint("start one: `realm up` (with a manifest) or `realm agent`")
                .exit(exit::NO_AGENT),
            ClientError::Unreachable { .. } => Self::from_error("no-agent", &error)
                .hint("look at the address, the key after `#`, and `listen.api` in the node's node.toml")
                .exit(exit::NO_AGENT),
            ClientError::AnotherNode { .. } => {
                Self::from_error("wrong-target", &error).exit(exit::REFUSED)
            }
            ClientError::Refused(answer) => Self {
                exit: exit_of(&answer.code),
                code: output::within_line(&answer.code).into_owned(),
                message: output::within_line(&answer.message).into_owned(),
                causes: Vec::new(),
                hint: answer
                    .hint
                    .map(|hint| output::within_line(&hint).into_owned()),
            },
            ClientError::Output(_) => Self::from_error("broken-pipe", &error),
            ClientError::Timeout => Self::from_error("agent-timeout", &error)
                .hint("the agent may be busy or stopped: look at its output")
                .exit(exit::NO_AGENT),
            ClientError::Connection(_) => {
                Self::from_error("agent-connection", &error).exit(exit::NO_AGENT)
            }
            ClientError::Answer(_) => Self::from_error("agent-answer", &error)
                .hint("compare `realm version` with the agent's version in `realm status`"),
        }
    }
}

/// Codes of calls that were judged by who asked, or how.
const DENIALS: [&str; 7] = [
    "unauthorized",
    "forbidden",
    "replayed-request",
    "wrong-target",
    "clock",
    "exec-off",
    "run-off",
];

/// Only who was judged is refused: an agent that is stopping or busy judged nothing.
fn exit_of(code: &str) -> u8 {
    let refused = RefusalCode::ALL.iter().any(|known| known.as_str() == code);
    if refused || DENIALS.contains(&code) {
        exit::REFUSED
    } else if code == "stopping" {
        exit::NO_AGENT
    } else {
        exit::FAILED
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::from_error("io", &error)
    }
}

#[cfg(test)]
mod tests {
    use realm_model::api::ApiError;

    use super::*;

    #[test]
    fn only_what_was_judged_ends_as_refused() {
        let check = |code: &str, exit: u8| {
            let answer = ApiError {
                code: code.to_owned(),
                message: String::new(),
                hint: None,
            };
            let failure = Failure::from(ClientError::Refused(answer));
            assert_eq!((failure.code.as_str(), failure.exit), (code, exit));
        };
        for code in RefusalCode::ALL {
            check(code.as_str(), exit::REFUSED);
        }
        check("exec-off", exit::REFUSED);
        check("stopping", exit::NO_AGENT);
        check("too-many-readers", exit::FAILED);
        check("internal", exit::FAILED);
    }
}
