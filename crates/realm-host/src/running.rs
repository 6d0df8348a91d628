//! What a replica takes by itself: runs of workflows that are due.
//!
//! Each is handed to a fresh instance, so many at once as the manifest says and `max_concurrency` has room
//! for. What the guest says of it goes back to where the run lies, and so does that it came to no end. Not
//! here: what is due, and what is in a journal.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use realm_model::cloud::workflows::{
    Claiming, End, Ended, Handling, Run, WorkflowError, Workflows,
};
use realm_model::trigger::WorkflowSpec;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{interval_at, sleep};

use crate::replica::Replica;
use crate::trigger::{Event, Said, Undone};
use crate::worker::Counted;

/// Until the next try, where a store does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Until the next try, where a replica has no room for a run that it has claimed.
const NO_ROOM: Duration = Duration::from_millis(100);
/// Characters of an id in the log.
const ID_CHARS_MAX: usize = 80;

/// One workflow of a replica.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) replica: Replica,
    pub(crate) spec: Arc<WorkflowSpec>,
    pub(crate) from: Arc<dyn Workflows>,
    pub(crate) under_way: Arc<AtomicU32>,
    pub(crate) closed: watch::Receiver<bool>,
}

impl Running {
    /// Until it is closed: takes what is due, and anew where the store failed.
    pub(crate) async fn run(mut self) {
        let mut under_way = JoinSet::new();
        let mut pause = PAUSE_MIN;
        while !*self.closed.borrow() {
            let handling = self.handling();
            let failed = match self.from.take_part(&handling).await {
                Ok(member) => self.take(member, &mut under_way, &mut pause).await,
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                let workflow = &self.spec.workflow;
                self.say(&format!("runs of `{workflow}` do not come: {error}"));
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = self.closed.wait_for(|closed| *closed) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    fn handling(&self) -> Handling {
        let limits = &self.replica.0.component.settings.limits;
        Handling {
            workflow: self.spec.workflow.clone(),
            n_attempts: self.spec.attempts,
            backoff: Duration::from_millis(self.spec.backoff_ms),
            lease: Duration::from_millis(self.spec.lease_ms),
            bytes_max: limits.storage_max_mb.saturating_mul(1024 * 1024),
        }
    }

    fn say(&self, line: &str) {
        self.replica.0.say(line);
    }

    /// Takes runs until it is closed (`None`), or the store fails.
    async fn take(
        &mut self,
        mut member: Box<dyn Claiming>,
        under_way: &mut JoinSet<()>,
        pause: &mut Duration,
    ) -> Option<WorkflowError> {
        let n = usize::try_from(self.spec.concurrency.max(1)).unwrap_or(usize::MAX);
        let room = Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)));
        loop {
            while under_way.try_join_next().is_some() {}
            let next = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (permit, member.next().await)
            };
            let (permit, run) = tokio::select! {
                biased;
                _ = self.closed.wait_for(|closed| *closed) => return None,
                next = next => next,
            };
            let run = match run {
                Ok(run) => run,
                Err(error) => return Some(error),
            };
            *pause = PAUSE_MIN;
            let (one, counted) = (self.clone(), Counted::new(&self.under_way));
            under_way.spawn(async move {
                one.deal_with(run).await;
                drop((permit, counted));
            });
        }
    }

    /// Hands a run to the guest, as often as it takes to find room, and says how it went.
    async fn deal_with(mut self, run: Arc<dyn Run>) {
        let settled = match self.called(&run).await {
            Some(end) => self.settle(&*run, end).await,
            None => run.give_back().await,
        };
        match settled {
            // Where it was cancelled or taken for dead, whoever has it sees to it.
            Ok(()) | Err(WorkflowError::Lost) => {}
            Err(error @ (WorkflowError::Nowhere | WorkflowError::Cloud(_))) => {
                let place = self.place(&*run);
                self.say(&format!("{place} is called again: {error}"));
                // What cannot be written down shall not be called as fast as it returns.
                sleep(PAUSE_MIN).await;
            }
        }
    }

    /// What the guest says of a run; `None`: it did not see it to its end, and that is not its fault.
    async fn called(&mut self, run: &Arc<dyn Run>) -> Option<End> {
        let facts = run.facts();
        if facts.is_spent {
            let n = facts.n_failures;
            return Some(End::Rejected(format!("it came to no end {n} times")));
        }
        let every = Duration::from_millis(self.spec.lease_ms / 3).max(Duration::from_millis(1));
        let mut extending = interval_at(tokio::time::Instant::now() + every, every);
        loop {
            let mut calling = Box::pin(self.replica.call_with(Event::Run(Arc::clone(run))));
            let said = loop {
                tokio::select! {
                    said = &mut calling => break said,
                    _ = extending.tick() => {
                        // Whoever has it meanwhile, or cancelled it, wants no more of this one.
                        if let Err(WorkflowError::Lost) = run.extend().await {
                            return None;
                        }
                    }
                }
            };
            match said {
                Ok(Said::Ended(end)) => return Some(end),
                Ok(Said::Done) => return Some(End::Failed("it said nothing".to_owned())),
                Ok(Said::Refused(words)) => return Some(End::Failed(words)),
                Err(Undone::NoRoom) if !*self.closed.borrow() => tokio::select! {
                    () = sleep(NO_ROOM) => {}
                    _ = self.closed.wait_for(|closed| *closed) => {}
                },
                Err(Undone::NoRoom | Undone::Stopped) => return None,
                Err(undone @ (Undone::Refused(_) | Undone::Failed(_))) => {
                    return Some(End::Failed(undone.words()));
                }
            }
        }
    }

    async fn settle(&self, run: &dyn Run, end: End) -> Result<(), WorkflowError> {
        let words = match &end {
            End::Failed(words) | End::Rejected(words) => {
                realm_model::cloud::workflows::run_why(words)
            }
            // Where these are not taken as they are.
            End::Done(_) => "its output is too large, or the store has no room for it".to_owned(),
            End::Suspended => "it says that it is suspended, and waits for nothing".to_owned(),
        };
        let ended = run.end(end).await?;
        self.replica.0.component.settings.meter.run_ended(&ended);
        let place = self.place(run);
        match ended {
            Ended::Done | Ended::Suspended => {}
            Ended::Again(n_failures, after) => {
                let (attempts, ms) = (self.spec.attempts, after.as_millis());
                self.say(&format!(
                    "workflow-retried: {place}, failure {n_failures} of {attempts}, again in {ms} ms: {words}"
                ));
            }
            Ended::Failed => self.say(&format!("workflow-failed: {place}: {words}")),
        }
        Ok(())
    }

    /// For the log: the id may be a stranger's words.
    fn place(&self, run: &dyn Run) -> String {
        let id = realm_model::text::one_line(&run.facts().id, ID_CHARS_MAX);
        format!("the run `{id}` of `{}`", self.spec.workflow)
    }
}
