//! The reader over bytes from anywhere: cut, flipped, invented.

use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;
use realm_model::entry::{ENTRY_BYTES_MAX, VerifiedEntry, found_realm};
use realm_model::key::SecretKey;

use super::record::{self, Fault, HEADER, Scan};
use super::{LOG_BYTES_MAX, Log, LogError, Recovered};
use crate::files::RealFiles;
use crate::testing::payload;

fn log_of(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = record::header().to_vec();
    for payload in payloads {
        bytes.extend(record::encode(payload).expect("of a fitting length"));
    }
    bytes
}

fn payloads(bytes: &[u8], scan: &Scan) -> Vec<Vec<u8>> {
    scan.records
        .iter()
        .map(|span| bytes[span.payload()].to_vec())
        .collect()
}

fn check_cut(records: &[Vec<u8>], length: usize) {
    let whole = log_of(records);
    let cut = &whole[..length];
    let scan = record::scan(cut).expect("a torn tail is no damage");
    let read = payloads(cut, &scan);
    assert_eq!(read, records[..read.len()], "a prefix");
    let next = records.get(read.len());
    let rest = length - scan.end;
    assert!(next.map_or(rest == 0, |next| rest < next.len() + 8));
}

#[test]
fn a_log_cut_at_any_byte_gives_the_records_before_the_cut() {
    let records = [
        payload(0, 3),
        payload(1, 600),
        payload(2, 1),
        payload(3, 50),
    ];
    let length = log_of(&records).len();
    for cut in HEADER..=length {
        check_cut(&records, cut);
    }
    for cut in 0..HEADER {
        let fault = record::scan(&log_of(&records)[..cut]).expect_err("no header");
        assert_eq!(fault, Fault::NotALog);
    }
}

#[test]
fn format_1_stays_as_it_is() {
    let mut fixture = b"realmlog\x01\0\0\0\x22\x28\x46\x1f".to_vec();
    fixture.extend(b"\x05\0\0\0\x30\x81\x50\x72entry");
    assert_eq!(log_of(&[b"entry".to_vec()]), fixture);
}

#[test]
fn a_later_format_is_not_damage() {
    let mut bytes = record::header();
    bytes[8] = 2;
    let checksum = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(record::scan(&bytes), Err(Fault::UnknownFormat(2)));
    // A flipped bit in the format is.
    bytes[12] ^= 1;
    assert_eq!(record::scan(&bytes), Err(Fault::NotALog));
}

#[test]
fn an_end_that_no_append_can_leave_is_damage() {
    let whole = log_of(&[payload(0, 40), payload(1, 60)]);
    let check = |change: &dyn Fn(&mut Vec<u8>), damaged: Option<u64>| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        match (record::scan(&bytes), damaged) {
            (Ok(scan), None) => assert!(scan.end < bytes.len()),
            (Err(Fault::Damaged { record, .. }), Some(expected)) => assert_eq!(record, expected),
            (other, _) => panic!("{other:?} for {damaged:?}"),
        }
    };
    // Both records changed: no valid one follows, but the first does not reach the end.
    check(&|bytes| [bytes[30], bytes[90]] = [0xff, 0xff], Some(0));
    // A record of full length with a flipped bit and no sector missing.
    check(&|bytes| bytes[80] ^= 1, Some(1));
    // More bytes than one append has, even if they look like a hole.
    check(&|bytes| bytes.extend(vec![0; ENTRY_BYTES_MAX + 9]), Some(2));
    check(&|bytes| bytes.extend(vec![0; ENTRY_BYTES_MAX + 8]), None);
    // A length that is never written.
    check(&|bytes| bytes.extend([0xff; 20]), Some(2));
    // Zeros: the size reached the disk before the bytes.
    check(&|bytes| bytes.extend([0; 300]), None);
    // A length that points beyond the end.
    check(&|bytes| bytes.extend([200, 0, 0, 0, 1, 2, 3, 4, 5]), None);
}

#[test]
fn a_tail_made_of_lengths_is_damage_and_not_an_hour_of_work() {
    let mut bytes = log_of(&[payload(0, 40)]);
    // The longest one first: what follows could be the rest of its record.
    let lengths = [ENTRY_BYTES_MAX, 1 << 20].map(|length| u32::try_from(length).expect("fits"));
    bytes.extend(lengths[0].to_le_bytes());
    bytes.extend(lengths[1].to_le_bytes().repeat(ENTRY_BYTES_MAX / 4 - 1));
    let damaged = Fault::Damaged {
        record: 1,
        offset: (HEADER + 8 + payload(0, 40).len()) as u64,
    };
    assert_eq!(record::scan(&bytes), Err(damaged));
}

#[test]
fn payloads_have_bounds() {
    assert_eq!(record::encode(&[]), None);
    assert_eq!(record::encode(&vec![1; ENTRY_BYTES_MAX + 1]), None);
    let largest = vec![7; ENTRY_BYTES_MAX];
    let bytes = log_of(std::slice::from_ref(&largest));
    let scan = record::scan(&bytes).expect("reads");
    assert_eq!(payloads(&bytes, &scan), [largest]);
}

#[test]
fn a_log_on_this_machine_reads_back_and_loses_only_its_tail() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("authority.log");
    let open = |floor| Log::open(RealFiles, path.clone(), floor);
    let (mut log, recovered) = open(None).expect("made");
    assert_eq!(recovered, Recovered::default());
    let entries = [1, 2, 3].map(genesis);
    for entry in &entries {
        log.append(entry).expect("appended");
    }
    assert_eq!(log.records(), 3);
    drop(log);

    let records = entries.map(|entry| entry.bytes().to_vec());
    let (_, recovered) = open(Some(3)).expect("opens");
    assert_eq!(recovered.records, records);

    let whole = std::fs::read(&path).expect("there");
    std::fs::write(&path, &whole[..whole.len() - 5]).expect("written");
    let error = open(Some(3)).expect_err("below the mark");
    assert!(matches!(error, LogError::ShorterThanMark { .. }));
    let (_, recovered) = open(Some(2)).expect("opens");
    assert_eq!(recovered.records, records[..2]);
    assert_eq!(recovered.torn_tail_bytes, records[2].len() as u64 + 8 - 5);
    let (_, recovered) = open(Some(2)).expect("opens");
    assert_eq!(recovered.torn_tail_bytes, 0, "the tail was cut");

    // As large as no log is: refused before it is read.
    let file = std::fs::File::create(&path).expect("made");
    file.set_len(LOG_BYTES_MAX + 1).expect("sparse");
    let LogError::Io { source, .. } = open(None).expect_err("too large") else {
        panic!("another error");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge);

    let missing = PathBuf::from("no/such/folder/default.log");
    let error = Log::open(RealFiles, missing, None).expect_err("no folder");
    assert!(matches!(error, LogError::Io { .. }));
}

fn genesis(seed: u8) -> VerifiedEntry {
    let (realm, bytes) = found_realm(&SecretKey::from_seed(&[seed; 32]), [seed; 32], 0);
    VerifiedEntry::genesis(&bytes, Some(realm)).expect("a genesis")
}

fn some_payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 1..700), 2..6)
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in vec(any::<u8>(), 0..2_000), headed: bool, from in 0_usize..60) {
        let mut log = if headed { record::header().to_vec() } else { Vec::new() };
        // Runs of zeros and small numbers make lengths that look real.
        log.extend(bytes.iter().map(|byte| if usize::from(*byte) < from * 4 { 0 } else { *byte }));
        if let Ok(scan) = record::scan(&log) {
            // What reads is exactly what was written: nothing is skipped, nothing invented.
            prop_assert_eq!(&log_of(&payloads(&log, &scan)), &log[..scan.end]);
        }
    }

    #[test]
    fn a_flip_before_the_last_record_is_always_found(
        records in some_payloads(),
        place in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut bytes = log_of(&records);
        let last = records.last().expect("two at least").len() + 8;
        let place = place.index(bytes.len() - last);
        bytes[place] ^= 1 << bit;
        let fault = record::scan(&bytes).expect_err("a changed bit");
        let mut end = HEADER;
        let expected = if place < HEADER {
            Fault::NotALog
        } else {
            let before = records.iter().take_while(|payload| {
                end += payload.len() + 8;
                end <= place
            });
            let record = before.count();
            let offset = log_of(&records[..record]).len() as u64;
            Fault::Damaged { record: record as u64, offset }
        };
        prop_assert_eq!(fault, expected);
    }

    #[test]
    fn a_flip_in_the_last_record_never_yields_other_records(
        records in some_payloads(),
        place in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut bytes = log_of(&records);
        let last = records.last().expect("two at least").len() + 8;
        let place = bytes.len() - last + place.index(last);
        bytes[place] ^= 1 << bit;
        if let Ok(scan) = record::scan(&bytes) {
            prop_assert_eq!(payloads(&bytes, &scan), &records[..records.len() - 1]);
        }
    }

    #[test]
    fn a_cut_gives_a_prefix(records in some_payloads(), place in any::<prop::sample::Index>()) {
        let length = log_of(&records).len() - HEADER;
        check_cut(&records, HEADER + place.index(length));
    }
}
