//! Asks `realm:cloud/streams` what every backend has to answer, a line for each check: `ok NAME` or
//! `FAIL NAME: why`. `/?store=` names the store, `/?run=` a part of the names of the streams, so that each
//! run has streams of its own. What else it does is the last part of its path:
//!
//! `append?name=&words=` appends a record: its number. `replay?name=&after=` reads all from there on: a line
//! for each, `SEQ WORDS`. `follow?name=&consumer=` reads what comes after the consumer's position, up to a
//! hundred at a time, and commits that: the same lines.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/realm-cloud/streams.wit", world: "realm:cloud/stream-imports" });
}

use bindings::realm::cloud::streams::{Bounds, Error, Record, StoredRecord, Stream};

guests::serve!(handle);

type Check = fn(&dyn Fn(&str) -> Result<Stream, Error>) -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("nothing-yet", nothing_yet),
    ("as-it-was-appended", as_it_was_appended),
    ("in-order-from-anywhere", in_order_from_anywhere),
    ("one-state-one-append", one_state_one_append),
    ("waits", waits),
    ("trimmed", trimmed),
    ("found-by-time", found_by_time),
    ("positions", positions),
    ("pages", pages),
    ("limits", limits),
    ("names", names),
];

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let word = |name| guests::parameter(&request, name).unwrap_or_default();
    let store = guests::parameter(&request, "store").unwrap_or("default".to_owned());
    let opened = || Stream::open(&store, &word("name"));
    // Behind whichever route.
    let path = guests::path(&request);
    let answer = match path.rsplit('/').next().unwrap_or_default() {
        "append" => opened().and_then(|stream| {
            let numbers = stream.append(&[record(word("words").as_bytes())], None)?;
            Ok(numbers[0].to_string())
        }),
        "replay" => opened().and_then(|stream| {
            let after = word("after").parse().unwrap_or(0);
            Ok(lines(&all_after(&stream, after)?))
        }),
        "follow" => opened().and_then(|stream| follow(&stream, &word("consumer"))),
        _ => Ok(checks(&store, &word("run"))),
    };
    match answer {
        Ok(text) => guests::text(out, 200, &text),
        Err(error) => guests::text(out, 500, &format!("{error:?}")),
    }
}

fn record(data: &[u8]) -> Record {
    Record {
        key: None,
        data: data.to_vec(),
        metadata: Vec::new(),
    }
}

fn all_after(stream: &Stream, after: u64) -> Result<Vec<StoredRecord>, Error> {
    let mut all: Vec<StoredRecord> = Vec::new();
    loop {
        let after = all.last().map_or(after, |one| one.seq);
        let page = stream.read(after, 1_000, 0)?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn lines(all: &[StoredRecord]) -> String {
    let line = |one: &StoredRecord| format!("{} {}\n", one.seq, String::from_utf8_lossy(&one.data));
    all.iter().map(line).collect()
}

fn follow(stream: &Stream, consumer: &str) -> Result<String, Error> {
    let position = stream.position(consumer)?;
    let found = stream.read(position.unwrap_or(0), 100, 0)?;
    if let Some(last) = found.last() {
        stream.commit(consumer, last.seq, position)?;
    }
    Ok(lines(&found))
}

fn checks(store: &str, run: &str) -> String {
    let mut answer = String::new();
    for (check, run_check) in CHECKS {
        let open = |name: &str| Stream::open(store, &format!("{check}{name}{run}"));
        answer += &match run_check(&open) {
            Ok(()) => format!("ok {check}\n"),
            Err(why) => format!("FAIL {check}: {why}\n"),
        };
    }
    answer
}

type Open<'a> = &'a dyn Fn(&str) -> Result<Stream, Error>;

fn words(error: Error) -> String {
    format!("{error:?}")
}

fn same<T: PartialEq + std::fmt::Debug>(is: T, expected: T) -> Result<(), String> {
    if is == expected {
        return Ok(());
    }
    Err(format!("{is:?}, not {expected:?}"))
}

fn that(what: &str, holds: bool) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn bounds(stream: &Stream) -> Result<(u64, u64), String> {
    let Bounds { first, last } = stream.first_and_last().map_err(words)?;
    Ok((first, last))
}

fn append(stream: &Stream, n: std::ops::Range<u32>) -> Result<Vec<u64>, String> {
    let records: Vec<Record> = n.map(|n| record(n.to_string().as_bytes())).collect();
    stream.append(&records, None).map_err(words)
}

fn nothing_yet(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    same(bounds(&stream)?, (1, 0))?;
    same(stream.read(0, 10, 0).map_err(words)?.len(), 0)?;
    same(stream.find(0).map_err(words)?, 1)?;
    same(stream.position("a").map_err(words)?, None)?;
    stream.trim(10).map_err(words)?;
    same(bounds(&stream)?, (1, 0))
}

fn as_it_was_appended(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let whole = Record {
        key: Some("customer 7: é".to_owned()),
        data: (0..=255).collect(),
        metadata: vec![pair("b", "2"), pair("a", " é"), pair("b", "1")],
    };
    let numbers = stream.append(&[whole.clone(), record(b"")], None);
    same(numbers.map_err(words)?, vec![1, 2])?;
    let found = stream.read(0, 10, 0).map_err(words)?;
    let sorted = vec![pair("a", " é"), pair("b", "2"), pair("b", "1")];
    same(&found[0].key, &whole.key)?;
    same(&found[0].data, &whole.data)?;
    same(&found[0].metadata, &sorted)?;
    same((found[1].key.clone(), found[1].data.len()), (None, 0))?;
    that(
        "times go up",
        found[0].time <= found[1].time && found[0].time > 1_700_000_000_000,
    )
}

fn in_order_from_anywhere(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    same(append(&stream, 1..301)?, (1..=300).collect())?;
    for after in [0, 1, 150, 299, 300, 500, u64::MAX] {
        let found = all_after(&stream, after).map_err(words)?;
        let numbers: Vec<u64> = found.iter().map(|one| one.seq).collect();
        same(numbers, (after.saturating_add(1)..=300).collect())?;
        let well = |one: &StoredRecord| one.data == one.seq.to_string().as_bytes();
        that("each is what was appended", found.iter().all(well))?;
    }
    same(stream.read(10, 3, 0).map_err(words)?.len(), 3)
}

fn one_state_one_append(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    let at = |last| stream.append(&[record(b"x")], Some(last));
    same(at(3).map_err(words), Err("Error::Conflict(0)".to_owned()))?;
    same(bounds(&stream)?, (1, 0))?;
    same(at(0).map_err(words)?, vec![1])?;
    same(at(0).map_err(words), Err("Error::Conflict(1)".to_owned()))?;
    same(at(1).map_err(words)?, vec![2])?;
    // Who cannot do several at once says so, and does none.
    let several = [record(b"y"), record(b"z")];
    match stream.append(&several, Some(2)) {
        Ok(numbers) => same(numbers, vec![3, 4]),
        Err(Error::Unsupported(_)) => same(bounds(&stream)?, (1, 2)),
        Err(error) => Err(words(error)),
    }
}

fn waits(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    let began = std::time::Instant::now();
    same(stream.read(0, 1, 200).map_err(words)?.len(), 0)?;
    that("it waits", began.elapsed().as_millis() >= 190)?;
    append(&stream, 0..2)?;
    // Where there is something nobody waits.
    let began = std::time::Instant::now();
    same(stream.read(0, 5, 9_000).map_err(words)?.len(), 2)?;
    that("it does not wait", began.elapsed().as_millis() < 8_000)
}

fn trimmed(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    append(&stream, 0..10)?;
    stream.trim(4).map_err(words)?;
    same(bounds(&stream)?, (4, 10))?;
    same(stream.read(0, 1, 0).map_err(words)?[0].seq, 4)?;
    stream.trim(1_000).map_err(words)?;
    same(bounds(&stream)?, (11, 10))?;
    same(append(&stream, 0..1)?, vec![11])
}

fn found_by_time(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    for n in 0..5 {
        append(&stream, n..n + 1)?;
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let all = all_after(&stream, 0).map_err(words)?;
    for one in &all {
        let first = all.iter().find(|other| other.time >= one.time);
        same(
            Some(stream.find(one.time).map_err(words)?),
            first.map(|first| first.seq),
        )?;
    }
    same(stream.find(all[4].time + 1).map_err(words)?, 6)?;
    same(stream.find(0).map_err(words)?, 1)
}

fn positions(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    append(&stream, 0..3)?;
    stream.commit("bills", 2, None).map_err(words)?;
    let again = stream.commit("bills", 3, None).map_err(words);
    same(again, Err("Error::Conflict(2)".to_owned()))?;
    let other = stream.commit("mail", 3, Some(1)).map_err(words);
    same(other, Err("Error::Conflict(0)".to_owned()))?;
    stream.commit("bills", 3, Some(2)).map_err(words)?;
    same(stream.position("bills").map_err(words)?, Some(3))?;
    same(stream.position("mail").map_err(words)?, None)
}

fn pages(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    for n in 0..6 {
        let large = record(&vec![n; 1_000_000]);
        stream.append(&[large], None).map_err(words)?;
    }
    let page = stream.read(0, 1_000, 0).map_err(words)?;
    same(page.len(), 4)?;
    let all = all_after(&stream, 0).map_err(words)?;
    let first: Vec<u8> = all.iter().map(|one| one.data[0]).collect();
    same(first, (0..6).collect())
}

fn limits(open: Open<'_>) -> Result<(), String> {
    let stream = open("").map_err(words)?;
    let refused = |records: &[Record]| match stream.append(records, None) {
        Err(Error::TooLarge(_) | Error::Invalid(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    refused(&[])?;
    refused(&[record(&vec![0; 1024 * 1024])])?;
    refused(&vec![record(&[0; 1_000_000]); 5])?;
    refused(&vec![record(b""); 1_001])?;
    let line = Record {
        key: Some("a\nb".to_owned()),
        ..record(b"")
    };
    refused(&[line])?;
    same(bounds(&stream)?, (1, 0))
}

fn names(open: Open<'_>) -> Result<(), String> {
    let (one, other) = (open(".").map_err(words)?, open("=").map_err(words));
    that("`=` is in no name", other.is_err())?;
    let other = open("-").map_err(words)?;
    append(&one, 0..1)?;
    same((bounds(&one)?, bounds(&other)?), ((1, 1), (1, 0)))?;
    for name in ["", "a b", "a/b", "*", &"x".repeat(65)] {
        let refused = matches!(Stream::open("default", name), Err(Error::Invalid(_)));
        that("a name is refused", refused)?;
    }
    let unbound = Stream::open("nobody", "a");
    that(
        "what is not bound is not there",
        matches!(unbound, Err(Error::NoSuchStore)),
    )
}
