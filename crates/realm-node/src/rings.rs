//! Bounded rings of log lines, one per component, that outlive its instances.
//!
//! Readers pull with a cursor, so a slow reader costs nothing and learns exactly how many lines it
//! missed. Not a log store: what falls out of the ring is gone.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use realm_model::api::{LogLine, LogStream};
use realm_model::name::ComponentName;
use tokio::sync::Notify;

/// Lines per component: some minutes of a talkative guest.
const LINES_MAX: usize = 10_000;
/// Bytes per component: 10,000 lines of the usual length; long lines push others out sooner.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Lines per batch that a reader takes: bounds what one slow connection holds.
const BATCH_LINES: usize = 256;
/// What a line costs besides its text.
const LINE_OVERHEAD_BYTES: usize = 64;

/// All rings of a node; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Rings {
    rings: Arc<Mutex<BTreeMap<ComponentName, Arc<Ring>>>>,
}

/// The ring of one component.
pub(crate) struct Ring {
    component: ComponentName,
    lines: Mutex<Lines>,
    // Rung with each line.
    news: Notify,
}

#[derive(Default)]
struct Lines {
    lines: VecDeque<LogLine>,
    bytes: usize,
    next_seq: u64,
    newest_dropped_unix_ms: Option<u64>,
}

impl Rings {
    /// The ring of `component`, made when it is first asked for.
    pub(crate) fn ring(&self, component: &ComponentName) -> Arc<Ring> {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = rings.entry(component.clone()).or_insert_with(|| {
            Arc::new(Ring {
                component: component.clone(),
                lines: Mutex::default(),
                news: Notify::new(),
            })
        });
        Arc::clone(ring)
    }

    /// Drops the rings of other components than `keep` says; readers of a dropped one keep it.
    pub(crate) fn retain(&self, keep: impl Fn(&ComponentName) -> bool) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.retain(|component, _| keep(component));
    }

    /// The ring of `component`, if a line was ever written to it.
    pub(crate) fn existing(&self, component: &ComponentName) -> Option<Arc<Ring>> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.get(component).cloned()
    }
}

impl Ring {
    /// Appends a line; the oldest ones make room.
    pub(crate) fn push(&self, slot: u32, stream: LogStream, text: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = lines.next_seq;
        lines.next_seq += 1;
        lines.bytes += text.len() + LINE_OVERHEAD_BYTES;
        lines.lines.push_back(LogLine {
            seq,
            unix_ms: unix_ms(),
            component: self.component.clone(),
            slot,
            stream,
            text,
            dropped: 0,
        });
        while lines.lines.len() > LINES_MAX || lines.bytes > BYTES_MAX {
            let Some(oldest) = lines.lines.pop_front() else {
                break;
            };
            lines.bytes -= oldest.text.len() + LINE_OVERHEAD_BYTES;
            lines.newest_dropped_unix_ms = Some(oldest.unix_ms);
        }
        drop(lines);
        self.news.notify_waiters();
    }

    /// Up to 256 lines from `cursor` on, and the cursor after them. Where lines before
    /// the first one were dropped, a [`LogStream::Gap`] marker says how many.
    pub(crate) fn read(&self, cursor: u64) -> (Vec<LogLine>, u64) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = lines.next_seq - lines.lines.len() as u64;
        let mut batch = Vec::new();
        if cursor < oldest {
            batch.push(LogLine {
                seq: cursor,
                unix_ms: lines
                    .lines
                    .front()
                    .map_or_else(unix_ms, |line| line.unix_ms),
                component: self.component.clone(),
                slot: 0,
                stream: LogStream::Gap,
                text: format!("{} lines were dropped here", oldest - cursor),
                dropped: oldest - cursor,
            });
        }
        let skip = usize::try_from(cursor.saturating_sub(oldest)).unwrap_or(usize::MAX);
        batch.extend(lines.lines.iter().skip(skip).take(BATCH_LINES).cloned());
        let after = batch
            .iter()
            .rev()
            .find(|line| line.stream != LogStream::Gap)
            .map_or(cursor.max(oldest), |line| line.seq + 1);
        (batch, after)
    }

    /// The cursor of the first line at or after `since_unix_ms`; where such lines were dropped, the
    /// one before the oldest, so that the reader is told.
    pub(crate) fn cursor_since(&self, since_unix_ms: u64) -> u64 {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines
            .newest_dropped_unix_ms
            .is_some_and(|newest| newest >= since_unix_ms)
        {
            return 0;
        }
        lines
            .lines
            .iter()
            .find(|line| line.unix_ms >= since_unix_ms)
            .map_or(lines.next_seq, |line| line.seq)
    }

    /// Waits until there is a line at `cursor`.
    pub(crate) async fn wait(&self, cursor: u64) {
        loop {
            // Listens before it looks: a line in between would ring for nobody.
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            if self.next_seq() > cursor {
                return;
            }
            news.await;
        }
    }

    fn next_seq(&self) -> u64 {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.next_seq
    }
}

impl realm_host::LogSink for Ring {
    fn line(&self, slot: u32, stream: LogStream, text: String) {
        self.push(slot, stream, text);
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Arc<Ring> {
        Rings::default().ring(&"chatty".parse().unwrap())
    }

    #[test]
    fn a_reader_that_keeps_up_sees_every_line_once() {
        let ring = ring();
        let mut cursor = 0;
        for round in 0..3 {
            for line in 0..300 {
                ring.push(0, LogStream::Stdout, format!("{round}/{line}"));
            }
            let mut seen = 0;
            loop {
                let (lines, after) = ring.read(cursor);
                if lines.is_empty() {
                    break;
                }
                assert!(lines.len() <= BATCH_LINES);
                assert!(lines.iter().all(|line| line.stream == LogStream::Stdout));
                seen += lines.len();
                cursor = after;
            }
            assert_eq!(seen, 300);
        }
    }

    #[test]
    fn a_slow_reader_is_told_how_many_lines_it_missed() {
        let ring = ring();
        for line in 0..LINES_MAX + 5 {
            ring.push(0, LogStream::Stderr, line.to_string());
        }
        let (lines, _) = ring.read(0);
        assert_eq!(lines[0].stream, LogStream::Gap);
        assert_eq!(lines[0].dropped, 5);
        assert_eq!(lines[1].text, "5");
    }

    #[test]
    fn a_point_in_time_before_dropped_lines_begins_with_the_gap() {
        let ring = ring();
        let before = unix_ms();
        for line in 0..LINES_MAX + 1 {
            ring.push(0, LogStream::Stdout, line.to_string());
        }
        let (lines, _) = ring.read(ring.cursor_since(before));
        assert_eq!(lines[0].stream, LogStream::Gap);
        let (lines, _) = ring.read(ring.cursor_since(unix_ms() + 60_000));
        assert!(lines.is_empty());
    }

    #[test]
    fn long_lines_do_not_grow_the_ring() {
        let ring = ring();
        for _ in 0..1_000 {
            ring.push(0, LogStream::Stdout, "x".repeat(8 * 1024));
        }
        let lines = ring.lines.lock().unwrap();
        assert!(lines.bytes <= BYTES_MAX);
        assert!(lines.lines.len() < 1_000);
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes_up() {
        let ring = ring();
        let reader = {
            let ring = Arc::clone(&ring);
            tokio::spawn(async move {
                ring.wait(0).await;
                ring.read(0).0
            })
        };
        ring.push(3, LogStream::Stdout, "hello".to_owned());
        let lines = reader.await.unwrap();
        assert_eq!((lines[0].slot, lines[0].text.as_str()), (3, "hello"));
    }
}
