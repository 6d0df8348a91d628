//! What is asked of the tables of runs by who starts, watches, signals and claims them.

use realm_model::cloud::workflows::{
    Facts, Handling, New, Phase, RunPage, RunState, RunStatus, RunSummary,
};
use realm_model::cloud::{Answer, CloudError, Session, SqlValue, limits};

use super::super::dialect::Ground;
use super::super::steps::{Failure, Row, first, number, rows, strange, text};
use super::super::work;

/// What a run's column `state` says.
pub(super) const READY: u64 = 0;
pub(super) const WAITING: u64 = 1;
pub(super) const RUNNING: u64 = 2;
pub(super) const DONE: u64 = 3;
pub(super) const FAILED: u64 = 4;
const CANCELLED: u64 = 5;

/// What an entry of a journal is.
pub(super) const STEP: u64 = 0;
pub(super) const SLEEP: u64 = 1;
pub(super) const WAIT: u64 = 2;
pub(super) const HEARD: u64 = 3;
pub(super) const TIMED_OUT: u64 = 4;

/// When a run is due that waits for a signal alone.
pub(super) const NEVER_MS: u64 = i64::MAX.cast_unsigned();

/// Until a run is called again that this node was at when it went down: not at once, since it may be why.
const ADOPTED_AFTER_MS: u64 = 1_000;

/// Runs that one sweep forgets, and one that is early: no more than it takes.
const SWEPT_AT_ONCE: u64 = 1_000;
const SWEPT_EARLY: u64 = 16;

/// Why a run is called again that nobody said anything of.
const NO_END: &[u8] = b"whoever worked on it came to no end";

pub(super) fn bytes(bytes: &[u8]) -> SqlValue {
    SqlValue::Bytes(bytes.to_vec())
}

pub(super) struct Start<'a>(pub(super) New<'a>);
work!(Start -> bool);

impl Start<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<bool, Failure> {
        // The token is greater than any that an earlier run of this id had.
        let statement = ground.timed(
            "INSERT INTO realm_runs (id, workflow, input, state, is_open, due_ms, token, failures, \
             n_steps, step_bytes, n_signals, signal_bytes, next_signal, started_ms, changed_ms, said) \
             VALUES ($1, $2, $3, 0, 1, NOW, NOW, 0, 0, 0, 0, 0, 0, NOW, NOW, $4) \
             ON CONFLICT (id) DO NOTHING",
        );
        let New {
            workflow,
            id,
            input,
            bytes_max: _,
        } = self.0;
        let values = [text(id), text(workflow), bytes(input), bytes(b"")];
        Ok(session.execute(&statement, &values).await? == 1)
    }
}

pub(super) struct Status<'a>(pub(super) &'a str);
work!(Status -> Option<RunStatus>);

impl Status<'_> {
    async fn work(
        &self,
        _: &Ground,
        session: &mut dyn Session,
    ) -> Result<Option<RunStatus>, Failure> {
        let one = "SELECT workflow, state, failures, started_ms, changed_ms, due_ms, said \
            FROM realm_runs WHERE id = $1";
        let row = first(session, one, &[text(self.0)]).await?;
        row.map(|row| status(Row::of(row))).transpose()
    }
}

fn status(mut row: Row) -> Result<RunStatus, Failure> {
    let workflow = row.text_within(limits::RUN_WHY_BYTES_MAX)?;
    let phase = phase(row.number()?)?;
    let n_failures = u32::try_from(row.number()?).map_err(|_| strange())?;
    let (started_ms, changed_ms, due_ms) = (row.number()?, row.number()?, row.number()?);
    let said = row.bytes()?;
    let words = String::from_utf8_lossy(&said).into_owned();
    let last_failure = (n_failures > 0).then_some(words.clone());
    let is_known = match phase {
        Phase::Waiting => due_ms < NEVER_MS,
        Phase::Ready => n_failures > 0,
        Phase::Running | Phase::Done | Phase::Failed | Phase::Cancelled => false,
    };
    let state = match phase {
        Phase::Ready => RunState::Ready,
        Phase::Running => RunState::Running,
        Phase::Waiting => RunState::Waiting,
        Phase::Done => RunState::Done(said),
        Phase::Failed => RunState::Failed(words),
        Phase::Cancelled => RunState::Cancelled,
    };
    Ok(RunStatus {
        workflow,
        last_failure: last_failure.filter(|_| phase != Phase::Done),
        state,
        n_failures,
        started_ms,
        changed_ms,
        next_ms: is_known.then_some(due_ms),
    })
}

fn phase(state: u64) -> Result<Phase, Failure> {
    Ok(match state {
        READY => Phase::Ready,
        WAITING => Phase::Waiting,
        RUNNING => Phase::Running,
        DONE => Phase::Done,
        FAILED => Phase::Failed,
        CANCELLED => Phase::Cancelled,
        _ => return Err(strange()),
    })
}

pub(super) struct Signal<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) data: &'a [u8],
}
/// The workflow of the run that it was left for.
type Left = Option<String>;
work!(Signal -> Left);

impl Signal<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<Left, Failure> {
        ground.begin(session).await?;
        let size = size(self.name, self.data);
        // First: who suspends the run at this moment sees the signal, or this sees that it is suspended.
        let place = format!(
            "UPDATE realm_runs SET n_signals = n_signals + 1, signal_bytes = signal_bytes + $2, \
             next_signal = next_signal + 1 WHERE id = $1 AND is_open = 1 AND n_signals < {} \
             AND signal_bytes + $2 <= {} RETURNING next_signal, workflow",
            limits::RUN_SIGNALS_MAX,
            limits::RUN_SIGNAL_BYTES_MAX,
        );
        let row = first(session, &place, &[text(self.id), number(size)]).await?;
        let Some(row) = row else {
            let there = "SELECT 1 FROM realm_runs WHERE id = $1 AND is_open = 1";
            let there = first(session, there, &[text(self.id)]).await?;
            session.roll_back().await?;
            return match there {
                Some(_) => Err(CloudError::Full("what waits for this run").into()),
                None => Ok(None),
            };
        };
        let mut row = Row::of(row);
        let (nth, workflow) = (row.number()?, row.text_within(limits::RUN_WHY_BYTES_MAX)?);
        let keep =
            "INSERT INTO realm_run_signals (run, number, name, data) VALUES ($1, $2, $3, $4)";
        let values = [
            text(self.id),
            number(nth),
            text(self.name),
            bytes(self.data),
        ];
        session.execute(keep, &values).await?;
        let wake = ground.timed(&format!(
            "UPDATE realm_runs SET due_ms = NOW WHERE id = $1 AND state = {WAITING} AND EXISTS \
             (SELECT 1 FROM realm_run_steps WHERE run = $1 AND signal = $2 AND kind = {WAIT})",
        ));
        let values = [text(self.id), text(self.name)];
        session.execute(&wake, &values).await?;
        session.commit().await?;
        Ok(Some(workflow))
    }
}

/// What a name and what it stands for count.
pub(super) fn size(name: &str, data: &[u8]) -> u64 {
    limits::RUN_STEP_BYTES + name.len() as u64 + data.len() as u64
}

pub(super) struct Cancel<'a>(pub(super) &'a str);
work!(Cancel -> bool);

impl Cancel<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<bool, Failure> {
        ground.begin(session).await?;
        let end = ground.timed(&format!(
            "UPDATE realm_runs SET state = {CANCELLED}, is_open = 0, token = token + 1, \
             due_ms = NOW + {}, changed_ms = NOW, input = $2 WHERE id = $1 AND is_open = 1",
            limits::RUN_KEPT_MS,
        ));
        if session.execute(&end, &[text(self.0), bytes(b"")]).await? == 0 {
            session.roll_back().await?;
            return Ok(false);
        }
        forget(session, self.0).await?;
        session.commit().await?;
        Ok(true)
    }
}

/// What a run had while it was not at its end.
pub(super) async fn forget(session: &mut dyn Session, id: &str) -> Result<(), Failure> {
    for table in ["realm_run_steps", "realm_run_signals"] {
        let statement = format!("DELETE FROM {table} WHERE run = $1");
        session.execute(&statement, &[text(id)]).await?;
    }
    Ok(())
}

pub(super) struct List<'a>(pub(super) &'a str);
work!(List -> RunPage);

impl List<'_> {
    async fn work(&self, _: &Ground, session: &mut dyn Session) -> Result<RunPage, Failure> {
        let some = format!(
            "SELECT id, workflow, state, started_ms, changed_ms FROM realm_runs \
             WHERE id > $1 ORDER BY id LIMIT {}",
            limits::RUNS_PAGE + 1
        );
        let mut page = RunPage::default();
        for row in rows(session, &some, &[text(self.0)], limits::RUNS_PAGE + 1).await? {
            if page.runs.len() == limits::RUNS_PAGE {
                page.cursor = page.runs.last().map(|run| run.id.clone());
                break;
            }
            let mut row = Row::of(row);
            page.runs.push(RunSummary {
                id: row.text_within(limits::RUN_WHY_BYTES_MAX)?,
                workflow: row.text_within(limits::RUN_WHY_BYTES_MAX)?,
                phase: phase(row.number()?)?,
                started_ms: row.number()?,
                changed_ms: row.number()?,
            });
        }
        Ok(page)
    }
}

/// A run that was claimed, and under which token; the time by the database's clock.
pub(super) struct Claimed {
    pub(super) facts: Facts,
    pub(super) token: u64,
    pub(super) n_steps: u64,
    pub(super) step_bytes: u64,
    pub(super) now_ms: u64,
}

pub(super) struct Claim<'a>(pub(super) &'a Handling);
type MaybeClaimed = Option<Claimed>;
work!(Claim -> MaybeClaimed);

impl Claim<'_> {
    async fn work(
        &self,
        ground: &Ground,
        session: &mut dyn Session,
    ) -> Result<MaybeClaimed, Failure> {
        // One that somebody had until now has failed: he would have given it back.
        let claim = ground.timed(&format!(
            "UPDATE realm_runs SET token = token + 1, due_ms = NOW + $2, changed_ms = NOW, \
             failures = failures + CASE WHEN state = {RUNNING} THEN 1 ELSE 0 END, \
             said = CASE WHEN state = {RUNNING} THEN $3 ELSE said END, state = {RUNNING} \
             WHERE id = (SELECT id FROM realm_runs WHERE is_open = 1 AND workflow = $1 \
             AND due_ms <= NOW ORDER BY due_ms LIMIT 1 LOCKED) \
             RETURNING id, input, token, failures, n_steps, step_bytes, due_ms",
        ));
        let lease_ms = millis(self.0.lease);
        let values = [text(&self.0.workflow), number(lease_ms), bytes(NO_END)];
        let Some(row) = first(session, &claim, &values).await? else {
            return Ok(None);
        };
        let mut row = Row::of(row);
        let (id, input, token) = (
            row.text_within(limits::RUN_WHY_BYTES_MAX)?,
            row.bytes()?,
            row.number()?,
        );
        let n_failures = u32::try_from(row.number()?).map_err(|_| strange())?;
        let (n_steps, step_bytes) = (row.number()?, row.number()?);
        Ok(Some(Claimed {
            token,
            n_steps,
            step_bytes,
            now_ms: row.number()?.saturating_sub(lease_ms),
            facts: Facts {
                workflow: self.0.workflow.clone(),
                id,
                n_bytes: input.len() as u64 + step_bytes,
                input,
                n_failures,
                is_spent: n_failures >= self.0.n_attempts,
            },
        }))
    }
}

pub(super) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(NEVER_MS)
}

/// Milliseconds until the next run of a workflow is due, from 0.
pub(super) struct NextDue<'a>(pub(super) &'a str);
type MaybeMillis = Option<u64>;
work!(NextDue -> MaybeMillis);

impl NextDue<'_> {
    async fn work(
        &self,
        ground: &Ground,
        session: &mut dyn Session,
    ) -> Result<MaybeMillis, Failure> {
        let next = ground.timed(
            "SELECT due_ms - NOW FROM realm_runs WHERE is_open = 1 AND workflow = $1 \
             ORDER BY due_ms LIMIT 1",
        );
        let row = first(session, &next, &[text(self.0)]).await?;
        let left = row.map(|row| Row::of(row).signed()).transpose()?;
        Ok(left.map(|left| left.max(0).cast_unsigned()))
    }
}

/// Forgets runs that came to their end, the oldest first: `early` also those that are to be remembered for
/// longer. How many.
pub(super) struct Sweep {
    pub(super) early: bool,
}

impl super::super::Work<u64> for Sweep {
    fn run<'a>(
        &'a self,
        ground: &'a Ground,
        session: &'a mut dyn Session,
    ) -> Answer<'a, u64, Failure> {
        Box::pin(async move {
            let (over, most) = if self.early {
                ("", SWEPT_EARLY)
            } else {
                ("AND due_ms <= NOW", SWEPT_AT_ONCE)
            };
            let sweep = ground.timed(&format!(
                "DELETE FROM realm_runs WHERE id IN (SELECT id FROM realm_runs \
                 WHERE is_open = 0 {over} ORDER BY due_ms LIMIT {most})",
            ));
            Ok(session.execute(&sweep, &[]).await?)
        })
    }
}

/// What an earlier life of this node was at: nobody is any more.
pub(super) struct Adopt;

impl super::super::Work<u64> for Adopt {
    fn run<'a>(
        &'a self,
        ground: &'a Ground,
        session: &'a mut dyn Session,
    ) -> Answer<'a, u64, Failure> {
        Box::pin(async move {
            let adopt = ground.timed(&format!(
                "UPDATE realm_runs SET state = {READY}, failures = failures + 1, token = token + 1, \
                 due_ms = NOW + {ADOPTED_AFTER_MS}, changed_ms = NOW, said = $1 \
                 WHERE is_open = 1 AND state = {RUNNING}",
            ));
            Ok(session.execute(&adopt, &[bytes(NO_END)]).await?)
        })
    }
}

/// How many runs are not at their end: no more than matters.
pub(super) struct Count;

impl super::super::Work<u64> for Count {
    fn run<'a>(&'a self, _: &'a Ground, session: &'a mut dyn Session) -> Answer<'a, u64, Failure> {
        Box::pin(async move {
            let count = format!(
                "SELECT COUNT(*) FROM (SELECT 1 AS one FROM realm_runs WHERE is_open = 1 LIMIT {}) \
                 AS open_runs",
                limits::RUNS_MAX
            );
            let row = first(session, &count, &[]).await?.ok_or_else(strange)?;
            Row::of(row).number()
        })
    }
}
