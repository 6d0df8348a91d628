//! A run that is claimed: its journal in memory, and what is written to it.
//!
//! Who has claimed a run is alone with its journal, so it is read once; what is asked for and was done in an
//! earlier call costs nothing. Not here: what is asked of the tables (`journal`).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use realm_model::cloud::workflows::{
    End, Ended, Facts, Handling, Heard, Run, Slept, WorkflowError, check_run_name, check_run_wait,
    run_why,
};
use realm_model::cloud::{Answer, CloudError, Quota, limits, within};
use realm_model::trigger::backoff;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, MutexGuard};

use super::journal::{Again, Entry, Extend, Finish, Load, Own, Sleep, Suspend, Wait, Write};
use super::statements::{Claimed, NEVER_MS, millis, size};
use super::{Shared, full_journal};
use crate::data::Work;

/// Why a run failed that came to more than the store takes.
const NO_ROOM: &[u8] = b"the store is full, and has no room for what it came to";

/// A run that is claimed. Dropped without a word it goes back as if it had not been.
pub(super) struct Working {
    held: Arc<Held>,
    facts: Facts,
    handling: Arc<Handling>,
    /// The time by the database's clock when it was claimed.
    claimed_ms: u64,
    claimed: Instant,
    is_settled: AtomicBool,
    call: Mutex<Call>,
}

/// What it takes to write for it.
struct Held {
    shared: Arc<Shared>,
    id: String,
    workflow: String,
    token: u64,
    bytes_max: u64,
}

/// What one call of the handler asked for and did.
struct Call {
    /// `None`: nothing was asked for yet.
    journal: Option<HashMap<String, Entry>>,
    n_steps: u64,
    step_bytes: u64,
    asked: HashMap<String, Asked>,
    /// When what it waits for is due at the latest, and for which signals it waits.
    due_ms: Option<u64>,
    signals: BTreeSet<String>,
    /// There is more in the journal than when it began.
    went_on: bool,
}

/// What became of a name that was asked for.
#[derive(PartialEq, Eq)]
enum Asked {
    /// A step that is to be done.
    Begun,
    Over,
}

impl Call {
    /// A name is asked for: what the journal has of it.
    fn ask(&mut self, name: &str) -> Result<Option<Entry>, CloudError> {
        if self.asked.contains_key(name) {
            let words = format!("the name `{name}` is used twice in this call");
            return Err(CloudError::Invalid(words));
        }
        if self.asked.len() >= limits::RUN_NAMES_MAX {
            return Err(full_journal());
        }
        let entry = self.journal.as_mut().and_then(|all| all.remove(name));
        self.asked.insert(name.to_owned(), Asked::Over);
        Ok(entry)
    }

    /// Whether so much more fits into the journal.
    fn fits(&self, n_bytes: u64) -> Result<(), CloudError> {
        let within = self.n_steps < limits::RUN_STEPS_MAX
            && self.step_bytes.saturating_add(n_bytes) <= limits::RUN_JOURNAL_BYTES_MAX;
        if within { Ok(()) } else { Err(full_journal()) }
    }

    fn wrote(&mut self, n_bytes: u64) {
        self.n_steps += 1;
        self.step_bytes += n_bytes;
        self.went_on = true;
    }

    fn waits_until(&mut self, due_ms: u64) {
        self.due_ms = Some(self.due_ms.unwrap_or(NEVER_MS).min(due_ms));
    }
}

/// A name that stood for something else before.
fn another_kind(name: &str) -> WorkflowError {
    let words = format!("the name `{name}` is that of something else in the journal of this run");
    CloudError::Invalid(words).into()
}

impl Working {
    pub(super) fn new(shared: Arc<Shared>, handling: Arc<Handling>, claimed: Claimed) -> Self {
        let Claimed {
            facts,
            token,
            n_steps,
            step_bytes,
            now_ms,
        } = claimed;
        Self {
            held: Arc::new(Held {
                shared,
                id: facts.id.clone(),
                workflow: facts.workflow.clone(),
                token,
                bytes_max: handling.bytes_max,
            }),
            facts,
            handling,
            claimed_ms: now_ms,
            claimed: Instant::now(),
            is_settled: AtomicBool::new(false),
            call: Mutex::new(Call {
                journal: None,
                n_steps,
                step_bytes,
                asked: HashMap::new(),
                due_ms: None,
                signals: BTreeSet::new(),
                went_on: false,
            }),
        }
    }

    fn now_ms(&self) -> u64 {
        self.claimed_ms
            .saturating_add(millis(self.claimed.elapsed()))
    }

    /// The journal, read if it was not.
    async fn call(&self, name: &str) -> Result<MutexGuard<'_, Call>, WorkflowError> {
        check_run_name("the name", name)?;
        let mut call = self.call.lock().await;
        if call.journal.is_none() {
            let load = Load(&self.held.id);
            let entries = self.held.shared.read(&load).await?;
            call.journal = Some(entries.into_iter().collect());
        }
        Ok(call)
    }

    async fn known(&self, name: &str) -> Result<bool, WorkflowError> {
        let call = self.call(name).await?;
        let entry = call.journal.as_ref().and_then(|all| all.get(name));
        Ok(match entry {
            Some(Entry::Done(_) | Entry::Heard(_) | Entry::TimedOut) => true,
            Some(Entry::Sleep { due_ms }) => *due_ms <= self.now_ms(),
            Some(Entry::Wait { .. }) | None => false,
        })
    }

    async fn ask_step(&self, name: &str) -> Result<Option<Vec<u8>>, WorkflowError> {
        let mut call = self.call(name).await?;
        match call.ask(name)? {
            Some(Entry::Done(result)) => Ok(Some(result)),
            None => {
                call.asked.insert(name.to_owned(), Asked::Begun);
                Ok(None)
            }
            Some(Entry::Sleep { .. } | Entry::Wait { .. } | Entry::Heard(_) | Entry::TimedOut) => {
                Err(another_kind(name))
            }
        }
    }

    async fn write(&self, name: &str, result: &[u8]) -> Result<(), WorkflowError> {
        within("the result", result.len(), limits::RUN_BYTES_MAX)?;
        let mut call = self.call(name).await?;
        if call.asked.get(name) != Some(&Asked::Begun) {
            let words = format!("`{name}` is no step that was asked for and is not done");
            return Err(CloudError::Invalid(words).into());
        }
        let n_bytes = size(name, result);
        call.fits(n_bytes)?;
        let own = self.held.own();
        let write = Write { own, name, result };
        let written = self.held.shared.write(self.held.bytes_max, &write).await?;
        written.ok_or(WorkflowError::Lost)?;
        call.wrote(n_bytes);
        call.asked.insert(name.to_owned(), Asked::Over);
        Ok(())
    }

    async fn rest(&self, name: &str, time: Duration) -> Result<Slept, WorkflowError> {
        check_run_wait(time)?;
        let mut call = self.call(name).await?;
        let due_ms = match call.ask(name)? {
            Some(Entry::Sleep { due_ms }) => due_ms,
            None => {
                let n_bytes = size(name, b"");
                call.fits(n_bytes)?;
                let sleep = Sleep {
                    own: self.held.own(),
                    name,
                    for_ms: millis(time),
                };
                let due_ms = self.held.shared.write(self.held.bytes_max, &sleep).await?;
                call.wrote(n_bytes);
                due_ms.ok_or(WorkflowError::Lost)?
            }
            Some(Entry::Done(_) | Entry::Wait { .. } | Entry::Heard(_) | Entry::TimedOut) => {
                return Err(another_kind(name));
            }
        };
        if due_ms <= self.now_ms() {
            return Ok(Slept::Over);
        }
        call.waits_until(due_ms);
        Ok(Slept::Suspend)
    }

    async fn hear(
        &self,
        name: &str,
        signal: &str,
        time: Option<Duration>,
    ) -> Result<Heard, WorkflowError> {
        check_run_name("the signal", signal)?;
        check_run_wait(time.unwrap_or_default())?;
        let mut call = self.call(name).await?;
        let known_ms = match call.ask(name)? {
            Some(Entry::Heard(data)) => return Ok(Heard::Signal(data)),
            Some(Entry::TimedOut) => return Ok(Heard::TimedOut),
            Some(Entry::Wait { due_ms }) => Some(due_ms),
            None => None,
            Some(Entry::Done(_) | Entry::Sleep { .. }) => return Err(another_kind(name)),
        };
        if known_ms.is_none() {
            call.fits(size(name, b""))?;
        }
        let wait = Wait {
            own: self.held.own(),
            name,
            signal,
            for_ms: time.map(millis),
            is_known: known_ms.is_some(),
            is_over: known_ms.is_some_and(|due_ms| due_ms <= self.now_ms()),
            room: limits::RUN_JOURNAL_BYTES_MAX.saturating_sub(call.step_bytes),
        };
        let waited = self.held.shared.write(self.held.bytes_max, &wait).await?;
        let (entry, n_bytes) = waited.ok_or(WorkflowError::Lost)?;
        if known_ms.is_none() {
            call.wrote(n_bytes);
        } else if !matches!(entry, Entry::Wait { .. }) {
            call.step_bytes += n_bytes;
            call.went_on = true;
        }
        match entry {
            Entry::Heard(data) => Ok(Heard::Signal(data)),
            Entry::TimedOut => Ok(Heard::TimedOut),
            Entry::Wait { due_ms } => {
                call.waits_until(known_ms.unwrap_or(due_ms));
                call.signals.insert(signal.to_owned());
                Ok(Heard::Suspend)
            }
            Entry::Done(_) | Entry::Sleep { .. } => Err(another_kind(name)),
        }
    }

    async fn settle(&self, end: End) -> Result<Ended, WorkflowError> {
        let call = self.call.lock().await;
        let is_large = |output: &[u8]| output.len() > limits::RUN_BYTES_MAX;
        let ended = match end {
            End::Done(output) if is_large(&output) => {
                let most = limits::RUN_BYTES_MAX;
                let why = format!("its output has more than {most} bytes");
                self.finish(false, why.as_bytes()).await?;
                Ended::Failed
            }
            End::Done(output) => {
                if self.finish(true, &output).await? {
                    Ended::Done
                } else {
                    Ended::Failed
                }
            }
            End::Rejected(why) => {
                self.finish(false, run_why(&why).as_bytes()).await?;
                Ended::Failed
            }
            End::Suspended => match call.due_ms {
                Some(due_ms) => {
                    let signals: Vec<String> = call.signals.iter().cloned().collect();
                    let suspend = Suspend {
                        own: self.held.own(),
                        due_ms,
                        signals: &signals,
                    };
                    self.held.mark(&suspend).await?;
                    Ended::Suspended
                }
                None => {
                    let why = "it says that it is suspended, and waits for nothing";
                    self.failed(&call, why).await?
                }
            },
            End::Failed(why) => self.failed(&call, &why).await?,
        };
        self.is_settled.store(true, Ordering::Relaxed);
        self.held.shared.tell(&self.held.workflow);
        Ok(ended)
    }

    async fn failed(&self, call: &Call, why: &str) -> Result<Ended, WorkflowError> {
        let before = if call.went_on {
            0
        } else {
            self.facts.n_failures
        };
        let n_failures = before.saturating_add(1);
        let why = run_why(why);
        if n_failures >= self.handling.n_attempts {
            self.finish(false, why.as_bytes()).await?;
            return Ok(Ended::Failed);
        }
        let after = backoff(millis(self.handling.backoff), n_failures);
        let again = |why| Again {
            own: self.held.own(),
            after_ms: millis(after),
            failed: Some((n_failures, why)),
        };
        self.held.settle(&again(&why), &again("")).await?;
        Ok(Ended::Again(n_failures, after))
    }

    /// Whether it is at its end as it says: where there is no room for that, it has failed.
    async fn finish(&self, is_done: bool, said: &[u8]) -> Result<bool, WorkflowError> {
        let own = self.held.own();
        let in_short = Finish {
            own,
            is_done: false,
            said: NO_ROOM,
        };
        let finish = Finish { own, is_done, said };
        self.held.settle(&finish, &in_short).await
    }
}

impl Held {
    fn own(&self) -> Own<'_> {
        Own {
            id: &self.id,
            token: self.token,
        }
    }

    /// Writes what became of the run, with what it says; where there is no room for that, in short. Whether
    /// all of it is there.
    async fn settle(
        &self,
        work: &dyn Work<Option<()>>,
        in_short: &dyn Work<Option<()>>,
    ) -> Result<bool, WorkflowError> {
        match self.shared.keep_books(self.bytes_max, work).await {
            Err(CloudError::Quota(Quota::Bytes)) => {
                self.mark(in_short).await?;
                Ok(false)
            }
            written => written?.map(|()| true).ok_or(WorkflowError::Lost),
        }
    }

    /// Writes where the run stands.
    async fn mark(&self, work: &dyn Work<Option<()>>) -> Result<(), WorkflowError> {
        let written = self.shared.mark(work).await?;
        written.ok_or(WorkflowError::Lost)
    }

    async fn give_back(&self) -> Result<(), WorkflowError> {
        let again = Again {
            own: self.own(),
            after_ms: 0,
            failed: None,
        };
        self.mark(&again).await?;
        self.shared.tell(&self.workflow);
        Ok(())
    }
}

impl Run for Working {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn knows<'a>(&'a self, name: &'a str) -> Answer<'a, bool, WorkflowError> {
        Box::pin(self.known(name))
    }

    fn step<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Vec<u8>>, WorkflowError> {
        Box::pin(self.ask_step(name))
    }

    fn done<'a>(&'a self, name: &'a str, result: &'a [u8]) -> Answer<'a, (), WorkflowError> {
        Box::pin(self.write(name, result))
    }

    fn sleep<'a>(&'a self, name: &'a str, time: Duration) -> Answer<'a, Slept, WorkflowError> {
        Box::pin(self.rest(name, time))
    }

    fn wait_for<'a>(
        &'a self,
        name: &'a str,
        signal: &'a str,
        time: Option<Duration>,
    ) -> Answer<'a, Heard, WorkflowError> {
        Box::pin(self.hear(name, signal, time))
    }

    fn extend(&self) -> Answer<'_, (), WorkflowError> {
        Box::pin(async {
            let extend = Extend {
                own: self.held.own(),
                lease_ms: millis(self.handling.lease),
            };
            self.held.mark(&extend).await
        })
    }

    fn give_back(&self) -> Answer<'_, (), WorkflowError> {
        Box::pin(async {
            self.held.give_back().await?;
            self.is_settled.store(true, Ordering::Relaxed);
            Ok(())
        })
    }

    fn end(&self, end: End) -> Answer<'_, Ended, WorkflowError> {
        Box::pin(self.settle(end))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.is_settled.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let held = Arc::clone(&self.held);
            // Where this fails, its lease comes to an end.
            runtime.spawn(async move { drop(held.give_back().await) });
        }
    }
}
