//! The audit: who changed or ran what on this node, the newest of it, and a log line for each.
//!
//! The newest are in memory, for `GET /v1/audit`, and in the realm folder (`kept`), from where they come
//! back after a restart. Commands have room of their own, so that no number of other calls hides one.
//! Words of a caller are made printable and cut.

mod kept;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use realm_model::api::{AuditEntry, AuditPage};
use realm_model::text::one_line;
use realm_store::folder::RealmFolder;

use crate::access::{Call, Caller};
use crate::unix_ms;
use kept::Keeper;

/// Entries that are kept of either kind: some hundred KiB.
const ENTRIES_MAX: usize = 1_000;
/// Characters of a command that are kept.
const WHAT_CHARS_MAX: usize = 400;

/// The audit of a node; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Audit(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    commands: Kind,
    others: Kind,
    next_seq: u64,
}

/// Entries of one kind.
#[derive(Default)]
struct Kind {
    entries: VecDeque<AuditEntry>,
    /// Writes them down; `None`: nobody does.
    keeper: Option<Keeper>,
}

impl Kind {
    /// With what was written down before.
    fn open(mut entries: Vec<AuditEntry>, keeper: Option<Keeper>) -> Self {
        let older = entries.len().saturating_sub(ENTRIES_MAX);
        entries.drain(..older);
        for entry in entries.iter_mut().filter(|entry| entry.outcome.is_none()) {
            // Its agent ended first.
            entry.outcome = Some("cut-off".to_owned());
        }
        Self {
            entries: entries.into(),
            keeper,
        }
    }

    fn push(&mut self, entry: AuditEntry) {
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
        }
        if let Some(keeper) = &self.keeper {
            keeper.keep(&entry);
        }
        self.entries.push_back(entry);
    }
}

/// Whether the call of this word runs something.
fn is_command(call: &str) -> bool {
    [Call::Exec, Call::Run].iter().any(|run| run.word() == call)
}

/// A command that runs; its end is written down, at the latest when this is dropped.
pub(crate) struct Running {
    audit: Audit,
    seq: u64,
    ended: bool,
}

impl Audit {
    /// The audit of a realm folder, with what was written down before.
    pub(crate) fn open(folder: &RealmFolder) -> Self {
        // Until there was a file for commands they were among the others.
        let entries = [kept::OTHERS, kept::COMMANDS].map(|kind| kept::read(folder, kind));
        let entries = entries.into_iter().flatten();
        let (mut commands, mut others): (Vec<_>, Vec<_>) =
            entries.partition(|entry| is_command(&entry.call));
        commands.sort_by_key(|entry| entry.seq);
        others.sort_by_key(|entry| entry.seq);
        let last = [commands.last(), others.last()].into_iter().flatten();
        let next_seq = last.map(|entry| entry.seq.saturating_add(1)).max();
        let keeper = |kind| Keeper::start(folder, kind);
        Self(Arc::new(Mutex::new(Entries {
            next_seq: next_seq.unwrap_or(0),
            commands: Kind::open(commands, keeper(kept::COMMANDS)),
            others: Kind::open(others, keeper(kept::OTHERS)),
        })))
    }

    /// A call that was answered.
    pub(crate) fn call(&self, caller: Caller, call: Call, path: &str, status: StatusCode) {
        let (method, _) = call.route();
        let what = one_line(&format!("{method} {path}"), WHAT_CHARS_MAX);
        let (caller, role) = name(caller);
        tracing::info!(caller, role, what, status = status.as_u16(), "audit: call");
        let now = unix_ms();
        self.push(AuditEntry {
            seq: 0,
            caller,
            role: role.to_owned(),
            call: call.word().to_owned(),
            what,
            began_unix_ms: now,
            ended_unix_ms: Some(now),
            outcome: Some(status.as_u16().to_string()),
        });
    }

    /// A command begins.
    pub(crate) fn begin(&self, caller: Caller, call: Call, command: &[String]) -> Running {
        let words: Vec<String> = command
            .iter()
            .map(|word| one_line(word, WHAT_CHARS_MAX))
            .collect();
        let what = one_line(&words.join(" "), WHAT_CHARS_MAX);
        let (caller, role) = name(caller);
        tracing::info!(caller, role, what, "audit: {} begins", call.word());
        let seq = self.push(AuditEntry {
            seq: 0,
            caller,
            role: role.to_owned(),
            call: call.word().to_owned(),
            what,
            began_unix_ms: unix_ms(),
            ended_unix_ms: None,
            outcome: None,
        });
        Running {
            audit: self.clone(),
            seq,
            ended: false,
        }
    }

    /// What is kept, the oldest first.
    pub(crate) fn page(&self) -> AuditPage {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let both = kinds.commands.entries.iter().chain(&kinds.others.entries);
        let mut entries: Vec<_> = both.cloned().collect();
        entries.sort_by_key(|entry| entry.seq);
        AuditPage { entries }
    }

    /// Waits until what was said is written down.
    #[cfg(test)]
    fn flush(&self) {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in [&kinds.commands, &kinds.others] {
            if let Some(keeper) = &kind.keeper {
                keeper.flush();
            }
        }
    }

    fn push(&self, entry: AuditEntry) -> u64 {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = kinds.next_seq;
        kinds.next_seq += 1;
        let entry = AuditEntry { seq, ..entry };
        if is_command(&entry.call) {
            kinds.commands.push(entry);
        } else {
            kinds.others.push(entry);
        }
        seq
    }
}

impl Running {
    /// The end of the command.
    pub(crate) fn end(mut self, outcome: &str) {
        self.close(outcome);
    }

    fn close(&mut self, outcome: &str) {
        self.ended = true;
        let now = unix_ms();
        let mut kinds = self.audit.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Kind { entries, keeper } = &mut kinds.commands;
        let found = entries.iter_mut().find(|entry| entry.seq == self.seq);
        // A busy node may have forgotten the beginning: the log has it.
        if let Some(entry) = found {
            entry.ended_unix_ms = Some(now);
            entry.outcome = Some(outcome.to_owned());
            if let Some(keeper) = keeper {
                keeper.keep(entry);
            }
            let (caller, what) = (&entry.caller, &entry.what);
            tracing::info!(caller, what, outcome, "audit: {} ended", entry.call);
        } else {
            tracing::info!(seq = self.seq, outcome, "audit: a command ended");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.close("cut-off");
        }
    }
}

fn name(caller: Caller) -> (String, &'static str) {
    match caller {
        Caller::Local => ("local".to_owned(), "local"),
        Caller::Key { key, role } => (key.to_string(), role.word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_printable_and_end() {
        let audit = Audit::default();
        let words = ["sh".to_owned(), "-c".to_owned(), "\u{1b}[2J\nrm".to_owned()];
        let running = audit.begin(Caller::Local, Call::Exec, &words);
        let before = audit.page().entries.remove(0);
        assert_eq!(
            (before.what.as_str(), before.outcome),
            ("sh -c [2J rm", None)
        );
        running.end("7");
        drop(audit.begin(Caller::Local, Call::Exec, &[]));
        let outcomes: Vec<_> = audit.page().entries;
        assert_eq!(outcomes[0].outcome.as_deref(), Some("7"));
        assert!(outcomes[0].ended_unix_ms.is_some());
        assert_eq!(outcomes[1].outcome.as_deref(), Some("cut-off"));
    }

    #[test]
    fn what_was_written_down_comes_back_after_a_restart() {
        let real = tempfile::tempdir().unwrap();
        let folder = RealmFolder::create(real.path().join("realm")).unwrap();
        let audit = Audit::open(&folder);
        let command = ["true".to_owned()];
        audit.begin(Caller::Local, Call::Exec, &command).end("0");
        // The agent dies before this one ends.
        let running = audit.begin(Caller::Local, Call::Exec, &command);
        audit.flush();
        std::mem::forget(running);
        let again = Audit::open(&folder);
        let entries = again.page().entries;
        let outcomes: Vec<_> = entries
            .iter()
            .map(|entry| (entry.seq, entry.outcome.as_deref()))
            .collect();
        assert_eq!(outcomes, [(0, Some("0")), (1, Some("cut-off"))]);
        // Numbers go on, and a line that was torn costs itself alone.
        again.begin(Caller::Local, Call::Exec, &command).end("1");
        again.flush();
        let path = folder.root().join("audit").join("commands-newest.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{\"seq\": 9")).unwrap();
        let entries = Audit::open(&folder).page().entries;
        assert_eq!(entries.last().map(|entry| entry.seq), Some(2));
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn the_file_is_bounded_and_keeps_the_newest() {
        let real = tempfile::tempdir().unwrap();
        let folder = RealmFolder::create(real.path().join("realm")).unwrap();
        let audit = Audit::open(&folder);
        let command = ["x".repeat(WHAT_CHARS_MAX)];
        for _ in 0..2_200 {
            audit.begin(Caller::Local, Call::Exec, &command).end("0");
            audit.flush();
        }
        let files = std::fs::read_dir(folder.root().join("audit")).unwrap();
        let bytes: u64 = files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= 2 * (kept::FILE_BYTES_MAX + 4_096), "{bytes} bytes");
        assert!(
            bytes > kept::FILE_BYTES_MAX,
            "{bytes} bytes: it never went round"
        );
        let entries = Audit::open(&folder).page().entries;
        assert_eq!(entries.len(), ENTRIES_MAX);
        assert_eq!(entries.last().map(|entry| entry.seq), Some(2_199));
    }

    #[test]
    fn calls_do_not_hide_a_command_and_the_oldest_make_room() {
        let real = tempfile::tempdir().unwrap();
        let folder = RealmFolder::create(real.path().join("realm")).unwrap();
        let audit = Audit::open(&folder);
        let first = audit.begin(Caller::Local, Call::Exec, &[]);
        for _ in 0..=ENTRIES_MAX {
            let path = "/v1/entries/default";
            audit.call(Caller::Local, Call::Submit, path, StatusCode::OK);
        }
        first.end("0");
        let check = |audit: &Audit| {
            let entries = audit.page().entries;
            assert_eq!(entries.len(), ENTRIES_MAX + 1);
            assert_eq!((entries[0].seq, entries[0].call.as_str()), (0, "exec"));
            assert_eq!(entries[0].outcome.as_deref(), Some("0"));
            assert_eq!(entries[1].seq, 2);
            assert!(entries[1..].iter().all(|entry| entry.call == "submit"));
        };
        check(&audit);
        audit.flush();
        drop(audit);
        let again = Audit::open(&folder);
        check(&again);
        for _ in 0..ENTRIES_MAX {
            again.begin(Caller::Local, Call::Run, &[]).end("0");
        }
        let first = again.page().entries.remove(0);
        assert_eq!((first.seq, first.call.as_str()), (2, "submit"));
    }
}
