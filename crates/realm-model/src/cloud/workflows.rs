//! Workflows: runs with a journal, that go on after a crash from what is in it.
//!
//! A run is claimed by one worker at a time, under a token that is greater with each claim. Everything that
//! is written for it is written with that token, and with an older one nothing is: of two workers that both
//! take themselves for the one, the journal hears the later. Not here: what calls a guest.

use std::sync::Arc;
use std::time::Duration;

use super::{Answer, CloudError, limits, within};

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkflowError {
    /// Runs stay on the node where they are started, and nobody takes those of this workflow there.
    #[error("no component of this node takes runs of this workflow")]
    Nowhere,
    /// The run was cancelled, or somebody else has claimed it.
    #[error("this run is no longer worked on here")]
    Lost,
    /// Everything that any backend may say.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

impl WorkflowError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Nowhere => "nowhere",
            Self::Lost => "lost",
            Self::Cloud(error) => error.code(),
        }
    }
}

/// The runs of a binding.
pub trait Workflows: Send + Sync {
    /// Starts a run, unless there is one of this id: whether there was none. Durable at return.
    fn start<'a>(&'a self, new: New<'a>) -> Answer<'a, bool, WorkflowError>;

    /// Where a run stands.
    fn status<'a>(&'a self, id: &'a str) -> Answer<'a, Option<RunStatus>, WorkflowError>;

    /// Keeps a signal for a run that is not at its end: whether there is one. Durable at return. `bytes_max`:
    /// what the store may have, where it is counted.
    fn signal<'a>(
        &'a self,
        id: &'a str,
        name: &'a str,
        data: &'a [u8],
        bytes_max: u64,
    ) -> Answer<'a, bool, WorkflowError>;

    /// Ends a run that is not at its end: whether there was one.
    fn cancel<'a>(&'a self, id: &'a str) -> Answer<'a, bool, WorkflowError>;

    /// Runs by id, after that of the cursor.
    fn list<'a>(&'a self, cursor: Option<&'a str>) -> Answer<'a, RunPage, WorkflowError>;

    /// Takes part in running a workflow.
    fn take_part<'a>(
        &'a self,
        handling: &'a Handling,
    ) -> Answer<'a, Box<dyn Claiming>, WorkflowError>;
}

/// A run to be started.
#[derive(Debug, Clone, Copy)]
pub struct New<'a> {
    /// What runs it.
    pub workflow: &'a str,
    /// Its id.
    pub id: &'a str,
    /// What it is called with.
    pub input: &'a [u8],
    /// Bytes that the store may have, where they are counted.
    pub bytes_max: u64,
}

/// How runs of a workflow are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handling {
    /// Its name.
    pub workflow: String,
    /// Failures in a row, without a step forward, until a run has failed.
    pub n_attempts: u32,
    /// How long until the second attempt; it doubles with each further one.
    pub backoff: Duration,
    /// How long a worker that says nothing has a run until another one gets it.
    pub lease: Duration,
    /// Bytes that the store may have, where they are counted.
    pub bytes_max: u64,
}

/// A worker: what is dropped takes no more runs.
pub trait Claiming: Send {
    /// The next run that is due. A future that is dropped may have claimed one, which somebody gets once its
    /// lease is over.
    fn next(&mut self) -> Answer<'_, Arc<dyn Run>, WorkflowError>;
}

/// A run that is claimed.
pub trait Run: Send + Sync {
    /// What is known of it from the beginning.
    fn facts(&self) -> &Facts;

    /// Whether `name` is in the journal with all that is to be known of it: asking costs nothing then.
    fn knows<'a>(&'a self, name: &'a str) -> Answer<'a, bool, WorkflowError>;

    /// What a step came to, if it is in the journal.
    fn step<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Vec<u8>>, WorkflowError>;

    /// Writes what a step came to into the journal. Durable at return.
    fn done<'a>(&'a self, name: &'a str, result: &'a [u8]) -> Answer<'a, (), WorkflowError>;

    /// Whether so long is over since this was first asked.
    fn sleep<'a>(&'a self, name: &'a str, time: Duration) -> Answer<'a, Slept, WorkflowError>;

    /// A signal, or whether so long is over since this was first asked.
    fn wait_for<'a>(
        &'a self,
        name: &'a str,
        signal: &'a str,
        time: Option<Duration>,
    ) -> Answer<'a, Heard, WorkflowError>;

    /// Still being worked on: the lease begins anew.
    fn extend(&self) -> Answer<'_, (), WorkflowError>;

    /// Back as if it had not been claimed.
    fn give_back(&self) -> Answer<'_, (), WorkflowError>;

    /// Says how it went.
    fn end(&self, end: End) -> Answer<'_, Ended, WorkflowError>;
}

/// What is known of a run from the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its workflow.
    pub workflow: String,
    /// Its id.
    pub id: String,
    /// What it is called with.
    pub input: Vec<u8>,
    /// Failures in a row, without a step forward.
    pub n_failures: u32,
    /// Those are as many as there may be: it is not to be called any more.
    pub is_spent: bool,
    /// Bytes of its input and its journal.
    pub n_bytes: u64,
}

/// How a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// Its time is over.
    Over,
    /// Not yet.
    Suspend,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// With a signal.
    Signal(Vec<u8>),
    /// Its time is over.
    TimedOut,
    /// Not yet.
    Suspend,
}

/// How a call of a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is at its end.
    Done(Vec<u8>),
    /// It waits for what it was told to.
    Suspended,
    /// It failed, and may be tried again.
    Failed(String),
    /// It failed, and is not tried again.
    Rejected(String),
}

/// What became of a run after a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It is done.
    Done,
    /// It is called again when it is time.
    Suspended,
    /// It is called again after a while: the number of the failure.
    Again(u32, Duration),
    /// It has failed.
    Failed,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// To be called.
    Ready,
    /// Being worked on.
    Running,
    /// Waiting for a time or a signal.
    Waiting,
    /// At its end, with this output.
    Done(Vec<u8>),
    /// It has failed: why.
    Failed(String),
    /// It was cancelled.
    Cancelled,
}

/// Where a run stands, without what it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// To be called.
    Ready,
    /// Being worked on.
    Running,
    /// Waiting for a time or a signal.
    Waiting,
    /// At its end.
    Done,
    /// It has failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// A run. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStatus {
    /// Its workflow.
    pub workflow: String,
    /// Where it stands.
    pub state: RunState,
    /// Failures in a row, without a step forward.
    pub n_failures: u32,
    /// What the last one was.
    pub last_failure: Option<String>,
    /// When it was started.
    pub started_ms: u64,
    /// When its state changed last.
    pub changed_ms: u64,
    /// When it is called again, where that is known.
    pub next_ms: Option<u64>,
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSummary {
    /// Its id.
    pub id: String,
    /// Its workflow.
    pub workflow: String,
    /// Where it stands.
    pub phase: Phase,
    /// When it was started, milliseconds since 1970.
    pub started_ms: u64,
    /// When its state changed last.
    pub changed_ms: u64,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunPage {
    /// By id.
    pub runs: Vec<RunSummary>,
    /// Where the next part begins; `None`: this was the last.
    pub cursor: Option<String>,
}

/// Checks an id, or a name of a workflow, a step or a signal: text of guests, or of strangers.
pub fn check_run_name(what: &'static str, name: &str) -> Result<(), CloudError> {
    within(what, name.len(), limits::NAME_BYTES_MAX)?;
    if name.is_empty() || name.contains(char::is_control) {
        let words = format!("{what} is text of 1 to 255 bytes without control characters");
        return Err(CloudError::Invalid(words));
    }
    Ok(())
}

/// Checks how long something is to be waited for.
pub fn check_run_wait(time: Duration) -> Result<(), CloudError> {
    if time > Duration::from_millis(limits::RUN_WAIT_MS_MAX) {
        return Err(CloudError::Invalid(
            "a run waits for a year at most".to_owned(),
        ));
    }
    Ok(())
}

/// Why a run failed, as it is kept: one line, and not all that a guest says.
pub fn run_why(words: &str) -> String {
    let mut line = crate::text::one_line(words, limits::RUN_WHY_BYTES_MAX / 4);
    line.truncate(line.floor_char_boundary(limits::RUN_WHY_BYTES_MAX));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text_that_a_log_can_show() {
        let long = "x".repeat(256);
        for bad in ["", "a\nb", "\0", "a\u{7f}", &long] {
            assert!(check_run_name("the id", bad).is_err(), "{bad:?}");
        }
        for good in ["order/7 \u{e4}", "..", "' OR 1=1 --", &long[..255]] {
            check_run_name("the id", good).unwrap();
        }
    }

    #[test]
    fn reasons_are_short_and_of_one_line() {
        let why = run_why(&"\u{20ac}\n".repeat(10_000));
        assert!(why.len() <= limits::RUN_WHY_BYTES_MAX && !why.contains('\n'));
    }

    #[test]
    fn nobody_waits_for_longer_than_a_year() {
        let year = Duration::from_millis(limits::RUN_WAIT_MS_MAX);
        check_run_wait(year).unwrap();
        assert!(check_run_wait(year + Duration::from_millis(1)).is_err());
        assert!(check_run_wait(Duration::MAX).is_err());
    }
}
