//! What goes in passing: how fast, how much at a time, and what is read for it.

use std::time::Duration;

use redb::{Database, ReadableDatabase};

use super::*;
use crate::disk::{open, write_one};

struct Bed {
    _folder: tempfile::TempDir,
    database: Database,
    records: Records,
}

impl Bed {
    fn new(age: Option<Duration>, bytes: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            database: open::<Records>(&folder.path().join("streams")).unwrap(),
            records: Records::new(Keep { age, bytes }),
            _folder: folder,
        }
    }

    fn write(
        &self,
        now_ms: u64,
        work: impl FnOnce(&mut Batch<'_>) -> Result<(), Fault> + Send + 'static,
    ) -> Option<u64> {
        write_one(&self.records, &self.database, now_ms, work)
    }

    fn append(&self, now_ms: u64, key: &'static str, n: usize, n_bytes: usize) -> Option<u64> {
        self.write(now_ms, move |batch| {
            let record = Record {
                data: vec![7; n_bytes],
                ..Record::default()
            };
            batch.append(key, &vec![record; n], None)?.unwrap();
            Ok(())
        })
    }

    fn stream(&self, key: &str) -> Stream {
        let transaction = self.database.begin_read().unwrap();
        let streams = transaction.open_table(STREAMS).unwrap();
        Stream::of(streams.get(key).unwrap().unwrap().value())
    }

    /// Records that are in the file.
    fn n_there(&self) -> u64 {
        let transaction = self.database.begin_read().unwrap();
        transaction.open_table(RECORDS).unwrap().len().unwrap()
    }
}

#[test]
fn what_is_too_old_goes_as_fast_as_it_comes() {
    let bed = Bed::new(Some(Duration::from_secs(1)), None);
    for nth in 0..60 {
        bed.append(1_000 + nth * 50, "\na", 1_000, 1);
    }
    // 20,000 a second for 3 s, of which those of the last one stay.
    let n = bed.n_there();
    assert!((20_000..26_000).contains(&n), "{n}");
}

#[test]
fn a_stream_whose_oldest_record_is_known_is_not_read_to_know_it_again() {
    let bed = Bed::new(Some(Duration::from_secs(3_600)), None);
    let now_ms = 10_000_000;
    bed.append(now_ms, "\na", 1, 1);
    bed.append(now_ms, "\nb", 9, 1);
    let next_ms = bed.append(now_ms + 1_000, "\nb", 1, 1);
    assert_eq!(next_ms, Some(now_ms + 3_600_000));
    // One that is too old, where it is read.
    bed.write(now_ms + 1_000, |batch| {
        let bytes = tables::bytes((1, 1), 0, &Record::default());
        batch.records.insert((1, 1), &*bytes)?;
        Ok(())
    });
    for (after_ms, before) in [(2_000, 3), (3_000, 5)] {
        bed.write(now_ms + after_ms, move |batch| batch.trim("\nb", before));
        assert_eq!(bed.stream("\nb").swept, before);
        assert_eq!(bed.stream("\na").swept, 1);
    }
    // Who starts does not know it.
    let again = Records::new(bed.records.tidying().keep);
    write_one(&again, &bed.database, now_ms + 4_000, |_| Ok(()));
    assert_eq!(bed.stream("\na").swept, 2);
}

#[test]
fn a_trim_of_what_is_gone_asks_for_no_look() {
    let bed = Bed::new(Some(Duration::from_secs(3_600)), None);
    let next = bed.append(1_000, "\na", 10, 1);
    assert_eq!(next, Some(3_601_000));
    for before in [0, 1] {
        assert_eq!(
            bed.write(1_100, move |batch| batch.trim("\na", before)),
            next
        );
    }
    let trimmed = bed.write(1_100, |batch| batch.trim("\na", 4));
    assert_eq!(trimmed, Some(0), "too early for another look");
    bed.write(1_400, |_| Ok(()));
    assert_eq!((bed.n_there(), bed.stream("\na").swept), (7, 4));
}

#[test]
fn one_transaction_takes_away_so_many_bytes_and_the_next_ones_the_rest() {
    let bed = Bed::new(None, None);
    for _ in 0..20 {
        bed.append(1_000, "\na", 4, 1_000_000);
    }
    bed.append(1_000, "\nb", 1, 1);
    bed.write(1_500, |batch| {
        batch.trim("\na", 81)?;
        batch.trim("\nb", 2)
    });
    let n = bed.n_there();
    assert!((10..20).contains(&n), "{n}");
    // At once, and not after the time between two looks.
    bed.write(1_500, |_| Ok(()));
    assert_eq!(bed.n_there(), 0);
}

#[test]
fn what_a_stream_may_have_holds_also_where_large_ones_come_after_small_ones() {
    let bytes_max = 1_000_000;
    let bed = Bed::new(None, Some(bytes_max));
    for _ in 0..9 {
        bed.append(1_000, "\na", 1_000, 1);
    }
    bed.append(2_000, "\na", 1, 900_000);
    assert!(bed.stream("\na").bytes > bytes_max);
    for _ in 0..10 {
        bed.write(2_000, |_| Ok(()));
    }
    let stream = bed.stream("\na");
    assert!(stream.bytes <= bytes_max, "{}", stream.bytes);
    assert!(bed.n_there() > 500, "no more than what is too much");
}

#[test]
fn each_name_that_a_binding_leads_from_has_so_many_streams_of_its_own() {
    let bed = Bed::new(None, None);
    let fill = |part: usize, n: usize| {
        bed.write(1_000, move |batch| {
            for nth in 0..n {
                let stream = Stream::new(u32::try_from(part * 1_000 + nth).unwrap());
                batch.put(&format!("p{part}\n{nth}"), stream)?;
            }
            Ok(())
        });
    };
    let is_full = |key: &'static str| {
        let (sender, receiver) = std::sync::mpsc::channel();
        bed.write(1_000, move |batch| {
            let ended = batch.append(key, &[Record::default()], None)?;
            sender.send(ended.is_err()).unwrap();
            Ok(())
        });
        receiver.recv().unwrap()
    };
    fill(0, limits::STREAMS_MAX);
    assert!(is_full("p0\nmore") && !is_full("p0\n7"));
    assert!(!is_full("p\nmore") && !is_full("p00\nmore") && !is_full("\nmore"));
    for part in 1..limits::ALL_STREAMS_MAX / limits::STREAMS_MAX {
        fill(part, limits::STREAMS_MAX);
    }
    assert!(is_full("q\nmore") && !is_full("p5\n7"));
}
