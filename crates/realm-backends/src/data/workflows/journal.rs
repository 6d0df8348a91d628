//! What is asked of the tables of runs for a run that is claimed. Each of these writes begins with the row
//! of the run and its token: with an older token nothing is written, and `None` says so.

use realm_model::cloud::{Session, SqlValue};

use super::super::dialect::Ground;
use super::super::steps::{Failure, Row, first, number, rows, strange, text};
use super::super::work;
use super::statements::{
    DONE, FAILED, HEARD, NEVER_MS, READY, RUNNING, SLEEP, STEP, TIMED_OUT, WAIT, WAITING, bytes,
    forget, size,
};
use realm_model::cloud::limits;

/// An entry of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Done(Vec<u8>),
    Sleep { due_ms: u64 },
    Wait { due_ms: u64 },
    Heard(Vec<u8>),
    TimedOut,
}

/// A run, as who has claimed it knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) id: &'a str,
    pub(super) token: u64,
}

impl Own<'_> {
    /// Changes the row of the run, where it is still this one's: `change` has parameters from `$3` on.
    async fn change(
        self,
        ground: &Ground,
        session: &mut dyn Session,
        change: &str,
        values: &[SqlValue],
    ) -> Result<bool, Failure> {
        let statement = ground.timed(&format!(
            "UPDATE realm_runs SET {change} WHERE id = $1 AND token = $2 AND state = {RUNNING}"
        ));
        let own = [text(self.id), number(self.token)];
        let values: Vec<SqlValue> = own.into_iter().chain(values.iter().cloned()).collect();
        Ok(session.execute(&statement, &values).await? == 1)
    }
}

pub(super) type Entries = Vec<(String, Entry)>;

pub(super) struct Load<'a>(pub(super) &'a str);
work!(Load -> Entries);

impl Load<'_> {
    async fn work(&self, _: &Ground, session: &mut dyn Session) -> Result<Entries, Failure> {
        let all = "SELECT name, kind, due_ms, result FROM realm_run_steps WHERE run = $1";
        let rows = rows(session, all, &[text(self.0)], limits::RUN_NAMES_MAX).await?;
        rows.into_iter().map(|row| entry(Row::of(row))).collect()
    }
}

fn entry(mut row: Row) -> Result<(String, Entry), Failure> {
    let (name, kind, due_ms) = (
        row.text_within(limits::RUN_WHY_BYTES_MAX)?,
        row.number()?,
        row.number()?,
    );
    let entry = match kind {
        STEP => Entry::Done(row.bytes()?),
        SLEEP => Entry::Sleep { due_ms },
        WAIT => Entry::Wait { due_ms },
        HEARD => Entry::Heard(row.bytes()?),
        TIMED_OUT => Entry::TimedOut,
        _ => return Err(strange()),
    };
    Ok((name, entry))
}

/// One more entry.
const ONE_MORE: &str = "n_steps = n_steps + 1, step_bytes = step_bytes + $3, failures = 0";

/// Writes what a step came to.
pub(super) struct Write<'a> {
    pub(super) own: Own<'a>,
    pub(super) name: &'a str,
    pub(super) result: &'a [u8],
}
type Held<T> = Option<T>;
type Written = Held<()>;
work!(Write -> Written);

impl Write<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<Written, Failure> {
        ground.begin(session).await?;
        let size = [number(size(self.name, self.result))];
        if !self.own.change(ground, session, ONE_MORE, &size).await? {
            session.roll_back().await?;
            return Ok(None);
        }
        let insert = format!(
            "INSERT INTO realm_run_steps (run, name, kind, due_ms, signal, result) \
             VALUES ($1, $2, {STEP}, 0, '', $3) ON CONFLICT (run, name) DO NOTHING"
        );
        let values = [text(self.own.id), text(self.name), bytes(self.result)];
        if session.execute(&insert, &values).await? == 1 {
            session.commit().await?;
        } else {
            // An earlier call of this one was done, and its answer did not come.
            session.roll_back().await?;
        }
        Ok(Some(()))
    }
}

/// Writes that a sleep begins: when it ends.
pub(super) struct Sleep<'a> {
    pub(super) own: Own<'a>,
    pub(super) name: &'a str,
    pub(super) for_ms: u64,
}
type Due = Held<u64>;
work!(Sleep -> Due);

impl Sleep<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<Due, Failure> {
        ground.begin(session).await?;
        let size = [number(size(self.name, b""))];
        if !self.own.change(ground, session, ONE_MORE, &size).await? {
            session.roll_back().await?;
            return Ok(None);
        }
        let insert = ground.timed(&format!(
            "INSERT INTO realm_run_steps (run, name, kind, due_ms, signal, result) \
             VALUES ($1, $2, {SLEEP}, NOW + $3, '', $4) \
             ON CONFLICT (run, name) DO UPDATE SET due_ms = realm_run_steps.due_ms RETURNING due_ms",
        ));
        let values = [
            text(self.own.id),
            text(self.name),
            number(self.for_ms),
            bytes(b""),
        ];
        let row = first(session, &insert, &values)
            .await?
            .ok_or_else(strange)?;
        let due_ms = Row::of(row).number()?;
        session.commit().await?;
        Ok(Some(due_ms))
    }
}

/// Takes a signal if one is there; else writes that it is waited for, or that it was for long enough.
pub(super) struct Wait<'a> {
    pub(super) own: Own<'a>,
    pub(super) name: &'a str,
    pub(super) signal: &'a str,
    /// `None`: until it comes.
    pub(super) for_ms: Option<u64>,
    /// The entry is there already.
    pub(super) is_known: bool,
    /// Its time is over.
    pub(super) is_over: bool,
    /// Bytes that the journal may still take.
    pub(super) room: u64,
}
/// What the entry is from here on, and how much larger the journal.
type Waited = Held<(Entry, u64)>;
work!(Wait -> Waited);

impl Wait<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<Waited, Failure> {
        ground.begin(session).await?;
        // First: who leaves a signal at this moment waits for it.
        let held = self.own.change(ground, session, "state = state", &[]);
        if !held.await? {
            session.roll_back().await?;
            return Ok(None);
        }
        let oldest = "SELECT number, data FROM realm_run_signals WHERE run = $1 AND name = $2 \
            ORDER BY number LIMIT 1";
        let own = [text(self.own.id), text(self.signal)];
        let found = first(session, oldest, &own).await?;
        let (entry, kind) = match found {
            Some(row) => {
                let mut row = Row::of(row);
                let (nth, data) = (row.number()?, row.bytes()?);
                let heard = self.hear(ground, session, nth, &data).await?;
                (heard, HEARD)
            }
            None if self.is_known && self.is_over => (Entry::TimedOut, TIMED_OUT),
            // What is there stays as it is: no step forward.
            None if self.is_known => {
                session.roll_back().await?;
                return Ok(Some((Entry::Wait { due_ms: NEVER_MS }, 0)));
            }
            None => (Entry::Wait { due_ms: NEVER_MS }, WAIT),
        };
        let (entry, more) = self.write(ground, session, entry, kind).await?;
        session.commit().await?;
        Ok(Some((entry, more)))
    }

    async fn hear(
        &self,
        ground: &Ground,
        session: &mut dyn Session,
        nth: u64,
        data: &[u8],
    ) -> Result<Entry, Failure> {
        let more = size(self.name, data);
        if more > self.room {
            return Err(super::full_journal().into());
        }
        let forget = "DELETE FROM realm_run_signals WHERE run = $1 AND number = $2";
        let which = [text(self.own.id), number(nth)];
        session.execute(forget, &which).await?;
        let fewer = "n_signals = n_signals - 1, signal_bytes = signal_bytes - $3";
        let less = [number(size(self.signal, data))];
        self.own.change(ground, session, fewer, &less).await?;
        Ok(Entry::Heard(data.to_vec()))
    }

    /// Writes the entry, whether it is there or not.
    async fn write(
        &self,
        ground: &Ground,
        session: &mut dyn Session,
        entry: Entry,
        kind: u64,
    ) -> Result<(Entry, u64), Failure> {
        let result: &[u8] = match &entry {
            Entry::Heard(data) => data,
            Entry::Done(_) | Entry::Sleep { .. } | Entry::Wait { .. } | Entry::TimedOut => b"",
        };
        let (more, one) = if self.is_known {
            (result.len() as u64, 0)
        } else {
            (size(self.name, result), 1)
        };
        let counted = "n_steps = n_steps + $3, step_bytes = step_bytes + $4, failures = 0";
        let values = [number(one), number(more)];
        self.own.change(ground, session, counted, &values).await?;
        let due = match self.for_ms {
            Some(for_ms) => format!("NOW + {for_ms}"),
            None => NEVER_MS.to_string(),
        };
        let upsert = ground.timed(&format!(
            "INSERT INTO realm_run_steps (run, name, kind, due_ms, signal, result) \
             VALUES ($1, $2, {kind}, {due}, $3, $4) \
             ON CONFLICT (run, name) DO UPDATE SET kind = {kind}, result = excluded.result \
             RETURNING due_ms"
        ));
        let values = [
            text(self.own.id),
            text(self.name),
            text(self.signal),
            bytes(result),
        ];
        let row = first(session, &upsert, &values)
            .await?
            .ok_or_else(strange)?;
        let due_ms = Row::of(row).number()?;
        let entry = match entry {
            Entry::Wait { .. } => Entry::Wait { due_ms },
            entry @ (Entry::Done(_) | Entry::Sleep { .. } | Entry::Heard(_) | Entry::TimedOut) => {
                entry
            }
        };
        Ok((entry, more))
    }
}

/// The lease begins anew.
pub(super) struct Extend<'a> {
    pub(super) own: Own<'a>,
    pub(super) lease_ms: u64,
}
work!(Extend -> Written);

impl Extend<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<Written, Failure> {
        let lease = [number(self.lease_ms)];
        let extended = self
            .own
            .change(ground, session, "due_ms = NOW + $3", &lease);
        Ok(extended.await?.then_some(()))
    }
}

/// The run is to be called again, after so long.
pub(super) struct Again<'a> {
    pub(super) own: Own<'a>,
    pub(super) after_ms: u64,
    /// Failures in a row, and what the last one was; `None`: it did not fail.
    pub(super) failed: Option<(u32, &'a str)>,
}
work!(Again -> Written);

impl Again<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<Written, Failure> {
        let ready = format!("state = {READY}, due_ms = NOW + $3, changed_ms = NOW");
        let after = number(self.after_ms);
        let done = match self.failed {
            None => self.own.change(ground, session, &ready, &[after]).await?,
            Some((n_failures, why)) => {
                let failed = format!("{ready}, failures = $4, said = $5");
                let values = [after, number(n_failures.into()), bytes(why.as_bytes())];
                self.own.change(ground, session, &failed, &values).await?
            }
        };
        Ok(done.then_some(()))
    }
}

/// The run waits: until then, or for one of these signals.
pub(super) struct Suspend<'a> {
    pub(super) own: Own<'a>,
    pub(super) due_ms: u64,
    pub(super) signals: &'a [String],
}
work!(Suspend -> Written);

impl Suspend<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<Written, Failure> {
        ground.begin(session).await?;
        let waiting = format!("state = {WAITING}, due_ms = $3, changed_ms = NOW");
        let due = [number(self.due_ms)];
        if !self.own.change(ground, session, &waiting, &due).await? {
            session.roll_back().await?;
            return Ok(None);
        }
        if self.has_come(session).await? {
            let wake = ground.timed("UPDATE realm_runs SET due_ms = NOW WHERE id = $1");
            session.execute(&wake, &[text(self.own.id)]).await?;
        }
        session.commit().await?;
        Ok(Some(()))
    }

    /// Whether one of the signals came since it was asked for.
    async fn has_come(&self, session: &mut dyn Session) -> Result<bool, Failure> {
        if self.signals.is_empty() {
            return Ok(false);
        }
        let places = (2..=self.signals.len() + 1).map(|nth| format!("${nth}"));
        let places: Vec<String> = places.collect();
        let look = format!(
            "SELECT number FROM realm_run_signals WHERE run = $1 AND name IN ({}) LIMIT 1",
            places.join(", ")
        );
        let own = std::iter::once(text(self.own.id));
        let values: Vec<SqlValue> = own
            .chain(self.signals.iter().map(|one| text(one)))
            .collect();
        Ok(first(session, &look, &values).await?.is_some())
    }
}

/// The run is at its end.
pub(super) struct Finish<'a> {
    pub(super) own: Own<'a>,
    pub(super) is_done: bool,
    pub(super) said: &'a [u8],
}
work!(Finish -> Written);

impl Finish<'_> {
    async fn work(&self, ground: &Ground, session: &mut dyn Session) -> Result<Written, Failure> {
        ground.begin(session).await?;
        let state = if self.is_done { DONE } else { FAILED };
        let end = format!(
            "state = {state}, is_open = 0, due_ms = NOW + {}, changed_ms = NOW, said = $3, input = $4",
            limits::RUN_KEPT_MS,
        );
        // Nobody is called with its input any more.
        let values = [bytes(self.said), bytes(b"")];
        if !self.own.change(ground, session, &end, &values).await? {
            session.roll_back().await?;
            return Ok(None);
        }
        forget(session, self.own.id).await?;
        session.commit().await?;
        Ok(Some(()))
    }
}
