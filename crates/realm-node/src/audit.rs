//! The audit: who changed or ran what on this node, the newest of it, and a log line for each.
//!
//! It is in memory, for `GET /v1/audit`; what must last longer is the log's. Words of a caller are
//! made printable and cut.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use realm_model::api::{AuditEntry, AuditPage};
use realm_model::text::one_line;

use crate::access::{Call, Caller};
use crate::unix_ms;

/// Entries that are kept: some hundred KiB.
const ENTRIES_MAX: usize = 1_000;
/// Characters of a command that are kept.
const WHAT_CHARS_MAX: usize = 400;

/// The audit of a node; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Audit(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    entries: VecDeque<AuditEntry>,
    next_seq: u64,
}

/// A command that runs; its end is written down, at the latest when this is dropped.
pub(crate) struct Running {
    audit: Audit,
    seq: u64,
    ended: bool,
}

impl Audit {
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
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        AuditPage {
            entries: entries.entries.iter().cloned().collect(),
        }
    }

    fn push(&self, entry: AuditEntry) -> u64 {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = entries.next_seq;
        entries.next_seq += 1;
        if entries.entries.len() == ENTRIES_MAX {
            entries.entries.pop_front();
        }
        entries.entries.push_back(AuditEntry { seq, ..entry });
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
        let mut entries = self.audit.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = entries
            .entries
            .iter_mut()
            .find(|entry| entry.seq == self.seq);
        // A busy node may have forgotten the beginning: the log has it.
        if let Some(entry) = found {
            entry.ended_unix_ms = Some(now);
            entry.outcome = Some(outcome.to_owned());
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
    fn the_oldest_make_room() {
        let audit = Audit::default();
        let first = audit.begin(Caller::Local, Call::Exec, &[]);
        for _ in 0..ENTRIES_MAX {
            audit.call(
                Caller::Local,
                Call::Submit,
                "/v1/entries/default",
                StatusCode::OK,
            );
        }
        first.end("0");
        let entries = audit.page().entries;
        assert_eq!(entries.len(), ENTRIES_MAX);
        assert_eq!(entries[0].seq, 1);
        assert!(entries.iter().all(|entry| entry.call == "submit"));
    }
}
