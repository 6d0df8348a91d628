//! Workflows over a database with SQL: the runs of a binding, and who takes those that are due.
//!
//! Each run is a row with a token, which grows with each claim; its journal is a row for each step. In files
//! of the node a run is taken where it was started, and a start of the agent adopts what the one before it
//! was at. On a server whoever comes first takes what is due, wherever it was started, and what a node that
//! died was at comes again when its lease is over.

mod journal;
mod run;
mod statements;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use realm_model::cloud::documents::{Meter, Place};
use realm_model::cloud::workflows::{
    Claiming, Handling, New, Run, RunPage, RunStatus, WorkflowError, Workflows, check_run_name,
};
use realm_model::cloud::{Answer, CloudError, DataError, Quota, limits, within};
use tokio::sync::{Notify, OnceCell, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::dialect::{Dialect, Part};
use super::{Database, Work};
use crate::sql::{Postgres, Sqlite};
use run::Working;
use statements::{Adopt, Cancel, Claim, Count, List, NextDue, Signal, Start, Status, Sweep};

/// The database of a binding that runs lie in.
const DATABASE: &str = "workflows";
/// What runs come to may take beside what a store may have: a run comes to its end also where it is full.
const SLACK_BYTES: u64 = 64 * 1024 * 1024;
/// How long a quota counts after it was heard of: as long as a run at its end is remembered, so that nobody
/// with a smaller one has the runs forgotten of somebody who has come by since.
const QUOTA_COUNTS_FOR: Duration = Duration::from_millis(limits::RUN_KEPT_MS);
/// How long a start waits for somebody on this node who takes such runs: a replica that is replaced, or an
/// agent that starts.
const NOWHERE_AFTER: Duration = Duration::from_secs(5);
/// How often a server is asked what is due, which others may have started.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often the files are: their clock may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between two looks at what somebody else is about to take.
const PAUSE: Duration = Duration::from_millis(5);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long a count of runs is taken for true, and where there is no room.
const COUNTED_FOR: Duration = Duration::from_secs(10);
const COUNTED_FOR_IF_FULL: Duration = Duration::from_secs(1);

/// The runs of a binding.
pub struct Flows(Arc<Shared>);

struct Shared {
    database: Database,
    /// Whether they lie in files that this node alone has.
    is_own: bool,
    /// Of files: who writes, one after the other and in the order in which they came.
    turn: Semaphore,
    adopted: OnceCell<()>,
    /// Who takes runs on this node, by workflow.
    here: Mutex<BTreeMap<String, Here>>,
    /// Somebody joined them.
    joined: Notify,
    counted: Mutex<Counted>,
    swept: Mutex<Instant>,
    /// The largest quota of those who come here, and when it was heard of last.
    most: Mutex<Option<(u64, Instant)>>,
}

#[derive(Default)]
struct Here {
    n_members: usize,
    news: Arc<Notify>,
}

/// How many runs there were, and how many were started since.
struct Counted {
    at: Option<Instant>,
    n: u64,
}

fn full_journal() -> CloudError {
    CloudError::Full("the journal of this run")
}

/// What nobody but documents says is nothing that this says.
fn said(error: DataError) -> CloudError {
    match error {
        DataError::Cloud(error) => error,
        DataError::Conflict => CloudError::Timeout,
    }
}

impl Flows {
    /// In a file below a folder of this node.
    pub fn sqlite(folder: &Path) -> Self {
        Self::over(Database::sqlite(Sqlite::new(folder)))
    }

    /// On a server.
    pub fn postgres(sql: Postgres) -> Self {
        Self::over(Database::postgres(sql))
    }

    fn over(database: Database) -> Self {
        Self(Arc::new(Shared {
            is_own: database.dialect == Dialect::Sqlite,
            database,
            turn: Semaphore::new(1),
            adopted: OnceCell::new(),
            here: Mutex::default(),
            joined: Notify::new(),
            counted: Mutex::new(Counted { at: None, n: 0 }),
            swept: Mutex::new(Instant::now()),
            most: Mutex::default(),
        }))
    }
}

/// Journals, whose bytes have an end of their own, as have the runs that an instance works on.
struct Bounded;

impl Meter for Bounded {
    fn more(&self, _: usize) -> Result<(), CloudError> {
        Ok(())
    }

    fn less(&self, _: usize) {}
}

impl Shared {
    async fn ask<T>(&self, bytes_max: u64, work: &dyn Work<T>) -> Result<T, CloudError> {
        let at = Place {
            database: DATABASE,
            collection: "",
            bytes_max,
            meter: &Bounded,
        };
        let asked = self.database.with(at, Part::Runs, work).await;
        asked.map_err(said)
    }

    async fn read<T>(&self, work: &dyn Work<T>) -> Result<T, CloudError> {
        // A read makes the tables where they are missing.
        self.ask(SLACK_BYTES, work).await
    }

    /// Writes within a quota. Where it is used up runs at their end are forgotten first, unless somebody
    /// else may have more: the store is not full for him, and they may be his.
    async fn write<T>(&self, bytes_max: u64, work: &dyn Work<T>) -> Result<T, CloudError> {
        if self.most(bytes_max) > bytes_max {
            return self.in_turn(bytes_max, work).await;
        }
        self.forgetting(bytes_max, work).await
    }

    /// Writes what a run came to, also where every quota is used up.
    async fn keep_books<T>(&self, bytes_max: u64, work: &dyn Work<T>) -> Result<T, CloudError> {
        let bytes_max = self.most(bytes_max).saturating_add(SLACK_BYTES);
        self.forgetting(bytes_max, work).await
    }

    /// Writes what takes no more than is there already, whatever there may be: claims and ends are written
    /// also after a quota was lowered.
    async fn mark<T>(&self, work: &dyn Work<T>) -> Result<T, CloudError> {
        self.in_turn(u64::MAX, work).await
    }

    /// Writes within so many bytes, and forgets runs at their end as long as there is no room.
    async fn forgetting<T>(&self, bytes_max: u64, work: &dyn Work<T>) -> Result<T, CloudError> {
        loop {
            let written = self.in_turn(bytes_max, work).await;
            let Err(CloudError::Quota(Quota::Bytes)) = written else {
                return written;
            };
            if self.mark(&Sweep { early: true }).await? == 0 {
                return written;
            }
        }
    }

    /// The largest quota of those who come here, of whom one comes with this one.
    fn most(&self, bytes_max: u64) -> u64 {
        let mut most = held(&self.most);
        if let Some((known, at)) = *most
            && known > bytes_max
            && at.elapsed() < QUOTA_COUNTS_FOR
        {
            return known;
        }
        *most = Some((bytes_max, Instant::now()));
        bytes_max
    }

    async fn in_turn<T>(&self, bytes_max: u64, work: &dyn Work<T>) -> Result<T, CloudError> {
        if !self.is_own {
            return self.ask(bytes_max, work).await;
        }
        let whole = Duration::from_millis(limits::CALL_TIMEOUT_MS);
        let turn = timeout(whole, self.turn.acquire()).await;
        let _turn = turn
            .map_err(|_| CloudError::Timeout)?
            .map_err(|_| CloudError::Unavailable)?;
        self.ask(bytes_max, work).await
    }

    /// Tells who waits for runs of a workflow that one may be due.
    fn tell(&self, workflow: &str) {
        if let Some(here) = held(&self.here).get(workflow) {
            here.news.notify_one();
        }
    }

    /// Whether somebody takes runs of a workflow on this node, or does in a moment.
    async fn is_taken_here(&self, workflow: &str) -> bool {
        let waiting = async {
            loop {
                let joined = self.joined.notified();
                if held(&self.here).contains_key(workflow) {
                    return;
                }
                joined.await;
            }
        };
        timeout(NOWHERE_AFTER, waiting).await.is_ok()
    }

    /// Whether there is room for one more run.
    async fn has_room(&self) -> Result<(), CloudError> {
        let is_known = {
            let counted = held(&self.counted);
            let fresh = if counted.n < limits::RUNS_MAX {
                COUNTED_FOR
            } else {
                COUNTED_FOR_IF_FULL
            };
            counted.at.is_some_and(|at| at.elapsed() < fresh)
        };
        if !is_known {
            let n = self.read(&Count).await?;
            let at = Some(Instant::now());
            *held(&self.counted) = Counted { at, n };
        }
        let mut counted = held(&self.counted);
        if counted.n >= limits::RUNS_MAX {
            return Err(CloudError::Full("the list of runs"));
        }
        counted.n += 1;
        Ok(())
    }

    async fn start(&self, new: New<'_>) -> Result<bool, WorkflowError> {
        check_run_name("the workflow", new.workflow)?;
        check_run_name("the id", new.id)?;
        within("the input", new.input.len(), limits::RUN_BYTES_MAX)?;
        if self.is_own && !self.is_taken_here(new.workflow).await {
            return Err(WorkflowError::Nowhere);
        }
        self.has_room().await?;
        let is_new = self.write(new.bytes_max, &Start(new)).await?;
        if is_new {
            self.tell(new.workflow);
        }
        Ok(is_new)
    }

    async fn signal(&self, signal: &Signal<'_>, bytes_max: u64) -> Result<bool, WorkflowError> {
        check_run_name("the id", signal.id)?;
        check_run_name("the signal", signal.name)?;
        within("the signal", signal.data.len(), limits::RUN_BYTES_MAX)?;
        let left = self.write(bytes_max, signal).await?;
        if let Some(workflow) = &left {
            self.tell(workflow);
        }
        Ok(left.is_some())
    }

    /// Forgets runs whose time is over, now and then.
    async fn sweep(&self) -> Result<(), CloudError> {
        let is_time = {
            let mut swept = held(&self.swept);
            let is_time = swept.elapsed() >= SWEEP_EVERY;
            if is_time {
                *swept = Instant::now();
            }
            is_time
        };
        if is_time {
            self.mark(&Sweep { early: false }).await?;
        }
        Ok(())
    }

    /// Runs that an earlier life of this node was at are nobody's.
    async fn adopt(&self) -> Result<(), CloudError> {
        if !self.is_own {
            return Ok(());
        }
        let adopt = || async { self.mark(&Adopt).await.map(drop) };
        self.adopted.get_or_try_init(adopt).await.copied()
    }
}

impl Workflows for Flows {
    fn start<'a>(&'a self, new: New<'a>) -> Answer<'a, bool, WorkflowError> {
        Box::pin(self.0.start(new))
    }

    fn status<'a>(&'a self, id: &'a str) -> Answer<'a, Option<RunStatus>, WorkflowError> {
        Box::pin(async move {
            check_run_name("the id", id)?;
            Ok(self.0.read(&Status(id)).await?)
        })
    }

    fn signal<'a>(
        &'a self,
        id: &'a str,
        name: &'a str,
        data: &'a [u8],
        bytes_max: u64,
    ) -> Answer<'a, bool, WorkflowError> {
        Box::pin(async move {
            let signal = Signal { id, name, data };
            self.0.signal(&signal, bytes_max).await
        })
    }

    fn cancel<'a>(&'a self, id: &'a str) -> Answer<'a, bool, WorkflowError> {
        Box::pin(async move {
            check_run_name("the id", id)?;
            Ok(self.0.mark(&Cancel(id)).await?)
        })
    }

    fn list<'a>(&'a self, cursor: Option<&'a str>) -> Answer<'a, RunPage, WorkflowError> {
        Box::pin(async move {
            if let Some(cursor) = cursor {
                check_run_name("the cursor", cursor)?;
            }
            Ok(self.0.read(&List(cursor.unwrap_or_default())).await?)
        })
    }

    fn take_part<'a>(
        &'a self,
        handling: &'a Handling,
    ) -> Answer<'a, Box<dyn Claiming>, WorkflowError> {
        Box::pin(async move {
            check_run_name("the workflow", &handling.workflow)?;
            self.0.most(handling.bytes_max);
            self.0.adopt().await?;
            let member: Box<dyn Claiming> = Box::new(Member::join(&self.0, handling));
            Ok(member)
        })
    }
}

/// Who takes runs of a workflow on this node.
struct Member {
    shared: Arc<Shared>,
    handling: Arc<Handling>,
    news: Arc<Notify>,
}

impl Member {
    fn join(shared: &Arc<Shared>, handling: &Handling) -> Self {
        let news = {
            let mut here = held(&shared.here);
            let here = here.entry(handling.workflow.clone()).or_default();
            here.n_members += 1;
            Arc::clone(&here.news)
        };
        shared.joined.notify_waiters();
        Self {
            shared: Arc::clone(shared),
            handling: Arc::new(handling.clone()),
            news,
        }
    }

    /// In a task of its own: a run that is claimed while nobody waits for it any more goes back.
    async fn claim(&self) -> Result<Option<Working>, WorkflowError> {
        let (shared, handling) = (Arc::clone(&self.shared), Arc::clone(&self.handling));
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let claimed = shared.mark(&Claim(&handling)).await;
            let working = |claimed| Working::new(Arc::clone(&shared), handling.clone(), claimed);
            let _ = sender.send(claimed.map(|claimed| claimed.map(working)));
        });
        let claimed = receiver.await.unwrap_or(Err(CloudError::Unavailable));
        Ok(claimed?)
    }

    async fn next(&self) -> Result<Arc<dyn Run>, WorkflowError> {
        let (shared, handling) = (&self.shared, &self.handling);
        loop {
            shared.most(handling.bytes_max);
            shared.sweep().await?;
            if let Some(working) = self.claim().await? {
                // There may be another one, for another member.
                self.news.notify_one();
                return Ok(Arc::new(working));
            }
            let due_ms = shared.read(&NextDue(&handling.workflow)).await?;
            let most = if shared.is_own { LOOK_EVERY } else { ASK_EVERY };
            let wait = due_ms.map_or(most, Duration::from_millis);
            tokio::select! {
                () = self.news.notified() => {}
                () = sleep(wait.clamp(PAUSE, most)) => {}
            }
        }
    }
}

impl Claiming for Member {
    fn next(&mut self) -> Answer<'_, Arc<dyn Run>, WorkflowError> {
        Box::pin(Self::next(self))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut here = held(&self.shared.here);
        let workflow = &self.handling.workflow;
        if let Some(one) = here.get_mut(workflow) {
            one.n_members -= 1;
            if one.n_members == 0 {
                here.remove(workflow);
            } else {
                // What this one was told of is for another one.
                one.news.notify_one();
            }
        }
    }
}

/// Values that are written at once: no panic can leave them torn.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
