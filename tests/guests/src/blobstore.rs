//! Asks of `wasi:blobstore@0.2.0-draft` what it promises: a line for each check, `ok NAME` or
//! `FAIL NAME: why`. The same component runs against every backend. `?c=` is the first container's name.
//!
//! `/write?c=&o=&n=` writes one object of n bytes and answers with what came of it; `/read?c=&o=` streams
//! one; `/hold?c=&n=` begins to write n of them, and finishes none.

use guests::wasip2::http::types::OutgoingBody;
use guests::wasip2::io::streams::{InputStream, OutputStream, StreamError};
use guests::{IncomingRequest, ResponseOutparam};

mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/deps/wasi-io-0.2.2", "../../wit/deps/wasi-blobstore-0.2.0-draft"],
        world: "wasi:blobstore/imports@0.2.0-draft",
        with: {
            "wasi:io/error@0.2.2": guests::wasip2::io::error,
            "wasi:io/poll@0.2.2": guests::wasip2::io::poll,
            "wasi:io/streams@0.2.2": guests::wasip2::io::streams,
        },
    });
}

use bindings::wasi::blobstore::blobstore::{
    container_exists, copy_object, create_container, delete_container, get_container, move_object,
};
use bindings::wasi::blobstore::container::Container;
use bindings::wasi::blobstore::types::{IncomingValue, ObjectId, OutgoingValue};

guests::serve!(handle);

/// Why a check failed.
type Checked = Result<(), String>;
type Check = (&'static str, fn(&str) -> Checked);

const CHECKS: &[Check] = &[
    ("containers", containers),
    ("write_and_read", write_and_read),
    ("body_before_write_data", body_before_write_data),
    ("large", large),
    ("ranges", ranges),
    ("bad_ranges", bad_ranges),
    ("unfinished", unfinished),
    ("misuse", misuse),
    ("overwrite", overwrite),
    ("list", list),
    ("objects", objects),
    ("copy_and_move", copy_and_move),
    ("hostile_names", hostile_names),
    ("gone_container", gone_container),
    ("sync_cap", sync_cap),
];

const ALL: u64 = u64::MAX;

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let first = guests::parameter(&request, "c").unwrap_or_else(|| "first".to_owned());
    let object = guests::parameter(&request, "o").unwrap_or_else(|| "o".to_owned());
    let n = guests::number(&request, "n", 1);
    match guests::path(&request).as_str() {
        "/write" => {
            let written = create_container(&first).and_then(|held| write(&held, &object, 7, n));
            guests::text(out, 200, &format!("{written:?}\n"));
        }
        "/read" => read_on(out, &first, &object),
        "/hold" => {
            let held = create_container(&first).expect("made");
            let values: Vec<_> = (0..n)
                .map(|_| OutgoingValue::new_outgoing_value())
                .collect();
            let begun: Vec<String> = values
                .iter()
                .enumerate()
                .map(|(n, value)| format!("{:?}\n", held.write_data(&n.to_string(), value)))
                .collect();
            guests::text(out, 200, &begun.concat());
        }
        _ => {
            let mut lines = String::new();
            for (name, check) in CHECKS {
                let line = match check(&first) {
                    Ok(()) => format!("ok {name}\n"),
                    Err(why) => format!("FAIL {name}: {why}\n"),
                };
                lines.push_str(&line);
            }
            guests::text(out, 200, &lines);
        }
    }
}

fn read_on(out: ResponseOutparam, container: &str, object: &str) {
    let opened = get_container(container)
        .and_then(|held| held.get_data(object, 0, ALL))
        .and_then(IncomingValue::incoming_value_consume_async);
    let source = match opened {
        Ok(source) => source,
        Err(why) => return guests::text(out, 404, &format!("{why}\n")),
    };
    let (body, sink) = guests::start(out, 200, &[]);
    while sink.blocking_splice(&source, 64 * 1024).is_ok() {}
    drop(sink);
    let _ = OutgoingBody::finish(body, None);
}

fn check(holds: bool, what: &str) -> Checked {
    match holds {
        true => Ok(()),
        false => Err(what.to_owned()),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(seen: T, expected: T, what: &str) -> Checked {
    check(
        seen == expected,
        &format!("{what}: {seen:?}, not {expected:?}"),
    )
}

/// A container that is there and empty.
fn empty(name: &str) -> Result<Container, String> {
    delete_container(name)?;
    create_container(name)
}

fn second(first: &str) -> String {
    format!("{first}-2")
}

/// The bytes of a seed, from a place on.
fn bytes(seed: u64, at: u64, n: u64) -> Vec<u8> {
    (at..at + n)
        .map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 7) as u8)
        .collect()
}

/// Waits for room where there is none, as a program does that writes at its own pace.
fn push(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        let room = stream.check_write().map_err(|error| words(&error))?;
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let n = bytes.len().min(room as usize);
        stream.write(&bytes[..n]).map_err(|error| words(&error))?;
        bytes = &bytes[n..];
    }
    Ok(())
}

fn words(error: &StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => error.to_debug_string(),
    }
}

fn write(container: &Container, object: &str, seed: u64, n: u64) -> Result<(), String> {
    let value = OutgoingValue::new_outgoing_value();
    let body = value.outgoing_value_write_body().map_err(|()| "no body")?;
    container.write_data(object, &value)?;
    let mut at = 0;
    while at < n {
        let piece = bytes(seed, at, (n - at).min(100_000));
        // What stopped it is what `finish` says.
        if push(&body, &piece).is_err() {
            break;
        }
        at += piece.len() as u64;
    }
    drop(body);
    OutgoingValue::finish(value)
}

fn read(container: &Container, object: &str, start: u64, end: u64) -> Result<Vec<u8>, String> {
    let value = container.get_data(object, start, end)?;
    let size = value.size();
    let all = IncomingValue::incoming_value_consume_sync(value)?;
    same(all.len() as u64, size, "size")?;
    Ok(all)
}

fn containers(first: &str) -> Checked {
    delete_container(first)?;
    same(container_exists(first), Ok(false), "exists")?;
    let missing = get_container(first).map(drop);
    same(missing, Err("the container is not there".to_owned()), "get")?;
    let held = create_container(first)?;
    same(held.name(), Ok(first.to_owned()), "name")?;
    same(held.info()?.name, first.to_owned(), "info")?;
    check(held.info()?.created_at > 1_700_000_000, "created")?;
    write(&held, "o", 1, 10)?;
    create_container(first)?;
    let again = get_container(first)?;
    same(read(&again, "o", 0, ALL)?, bytes(1, 0, 10), "kept")?;
    same(container_exists(first), Ok(true), "exists")?;
    delete_container(first)?;
    delete_container(first)?;
    same(container_exists(first), Ok(false), "exists")
}

fn write_and_read(first: &str) -> Checked {
    let held = empty(first)?;
    for n in [0, 1, 4_096, 300_000] {
        write(&held, "o", n, n)?;
        same(read(&held, "o", 0, ALL)? == bytes(n, 0, n), true, "bytes")?;
        let info = held.object_info("o")?;
        same((info.size, info.name.as_str()), (n, "o"), "info")?;
        same(info.container, first.to_owned(), "container")?;
        check(info.created_at > 1_700_000_000, "created")?;
    }
    // By the calls that wait for each 4 KiB, too.
    let value = OutgoingValue::new_outgoing_value();
    let body = value.outgoing_value_write_body().map_err(|()| "no body")?;
    held.write_data("slow", &value)?;
    for at in 0..20 {
        let piece = bytes(3, at * 4_096, 4_096);
        let written = body.blocking_write_and_flush(&piece);
        written.map_err(|error| words(&error))?;
    }
    body.blocking_write_zeroes_and_flush(100)
        .map_err(|error| words(&error))?;
    drop(body);
    OutgoingValue::finish(value)?;
    let mut expected = bytes(3, 0, 20 * 4_096);
    expected.extend([0; 100]);
    same(read(&held, "slow", 0, ALL)? == expected, true, "slow")
}

fn body_before_write_data(first: &str) -> Checked {
    let held = empty(first)?;
    let value = OutgoingValue::new_outgoing_value();
    let body = value.outgoing_value_write_body().map_err(|()| "no body")?;
    push(&body, &bytes(1, 0, 900_000))?;
    same(held.has_object("o"), Ok(false), "before")?;
    held.write_data("o", &value)?;
    push(&body, &bytes(1, 900_000, 900_000))?;
    drop(body);
    OutgoingValue::finish(value)?;
    same(
        read(&held, "o", 0, ALL)? == bytes(1, 0, 1_800_000),
        true,
        "bytes",
    )
}

fn drain(stream: &InputStream, seed: u64) -> Result<u64, String> {
    let mut at = 0;
    loop {
        match stream.blocking_read(77_777) {
            Ok(piece) => {
                let n = piece.len() as u64;
                check(n > 0, "an empty piece")?;
                check(piece == bytes(seed, at, n), "other bytes")?;
                at += n;
            }
            Err(StreamError::Closed) => return Ok(at),
            Err(error) => return Err(words(&error)),
        }
    }
}

fn large(first: &str) -> Checked {
    const N: u64 = 12_000_000;
    let held = empty(first)?;
    write(&held, "large", 5, N)?;
    let value = held.get_data("large", 0, ALL)?;
    same(value.size(), N, "size")?;
    let stream = IncomingValue::incoming_value_consume_async(value)?;
    same(drain(&stream, 5)?, N, "bytes")?;
    check(
        matches!(stream.blocking_read(1), Err(StreamError::Closed)),
        "an end is an end",
    )?;
    // One that is left in the middle is no trouble.
    let value = held.get_data("large", 0, ALL)?;
    let stream = IncomingValue::incoming_value_consume_async(value)?;
    stream.blocking_read(10).map_err(|error| words(&error))?;
    drop(stream);
    drop(held.get_data("large", 0, ALL)?);
    Ok(())
}

fn ranges(first: &str) -> Checked {
    let held = empty(first)?;
    write(&held, "o", 9, 1_000)?;
    // `end` is inclusive, and cut off.
    for (start, end, n) in [
        (0, 0, 1),
        (0, 9, 10),
        (10, 19, 10),
        (990, 999, 10),
        (990, 5_000, 10),
        (0, 1_000, 1_000),
    ] {
        let seen = read(&held, "o", start, end)?;
        same(
            seen == bytes(9, start, n),
            true,
            &format!("{start}..={end}"),
        )?;
    }
    write(&held, "empty", 1, 0)?;
    same(read(&held, "empty", 0, ALL)?, Vec::new(), "empty")
}

fn bad_ranges(first: &str) -> Checked {
    let held = empty(first)?;
    write(&held, "o", 9, 1_000)?;
    let why = |start, end| held.get_data("o", start, end).map(drop);
    let expected = |words: &str| Err(words.to_owned());
    same(
        why(5, 4),
        expected("the range begins at 5, behind its end at 4"),
        "5..=4",
    )?;
    let behind = "the object has 1000 bytes, and the range begins at 1000";
    same(why(1_000, ALL), expected(behind), "1000..")?;
    let missing = held.get_data("none", 0, ALL).map(drop);
    same(missing, expected("the object is not there"), "none")
}

fn unfinished(first: &str) -> Checked {
    let held = empty(first)?;
    write(&held, "old", 1, 10)?;
    for n in [0, 100, 500_000, 7_000_000] {
        for object in ["old", "new"] {
            let value = OutgoingValue::new_outgoing_value();
            let body = value.outgoing_value_write_body().map_err(|()| "no body")?;
            held.write_data(object, &value)?;
            push(&body, &bytes(2, 0, n))?;
            drop(body);
            drop(value);
        }
    }
    same(read(&held, "old", 0, ALL)?, bytes(1, 0, 10), "old")?;
    same(held.has_object("new"), Ok(false), "new")
}

fn misuse(first: &str) -> Checked {
    let held = empty(first)?;
    let value = OutgoingValue::new_outgoing_value();
    check(value.outgoing_value_write_body().is_ok(), "a body")?;
    check(value.outgoing_value_write_body().is_err(), "a second body")?;
    let nowhere = "`write-data` was not called: the bytes go nowhere";
    same(
        OutgoingValue::finish(value),
        Err(nowhere.to_owned()),
        "nowhere",
    )?;

    let value = OutgoingValue::new_outgoing_value();
    held.write_data("one", &value)?;
    let twice = "these bytes are written to an object already";
    same(
        held.write_data("two", &value),
        Err(twice.to_owned()),
        "twice",
    )?;
    OutgoingValue::finish(value)?;
    same(held.has_object("one"), Ok(true), "one")?;
    same(held.has_object("two"), Ok(false), "two")?;

    // More than fits before `write-data`: an error, and nobody waits for ever.
    let value = OutgoingValue::new_outgoing_value();
    let body = value.outgoing_value_write_body().map_err(|()| "no body")?;
    let pushed = push(&body, &bytes(1, 0, 2_000_000));
    check(
        pushed.as_ref().is_err_and(|why| why.contains("write-data")),
        &format!("{pushed:?}"),
    )?;
    drop(value);
    let pushed = push(&body, &[1]);
    same(pushed, Err("closed".to_owned()), "after the value")?;
    for bad in ["", "a\0b", &"x".repeat(1_025)] {
        let value = OutgoingValue::new_outgoing_value();
        check(
            held.write_data(bad, &value).is_err(),
            "a bad name is written",
        )?;
        check(held.has_object(bad).is_err(), "a bad name is asked for")?;
    }
    Ok(())
}

fn overwrite(first: &str) -> Checked {
    let held = empty(first)?;
    write(&held, "o", 1, 400_000)?;
    let value = OutgoingValue::new_outgoing_value();
    let body = value.outgoing_value_write_body().map_err(|()| "no body")?;
    held.write_data("o", &value)?;
    push(&body, &bytes(2, 0, 300_000))?;
    same(
        read(&held, "o", 0, ALL)? == bytes(1, 0, 400_000),
        true,
        "the old one",
    )?;
    drop(body);
    OutgoingValue::finish(value)?;
    same(
        read(&held, "o", 0, ALL)? == bytes(2, 0, 300_000),
        true,
        "the new one",
    )
}

fn list(first: &str) -> Checked {
    let held = empty(first)?;
    let listed = held.list_objects()?;
    same(
        listed.read_stream_object_names(10),
        Ok((Vec::new(), true)),
        "empty",
    )?;
    let names: Vec<String> = (0..25).map(|n| format!("dir/{n:02}")).collect();
    for name in names.iter().rev() {
        write(&held, name, 1, 1)?;
    }
    let listed = held.list_objects()?;
    same(
        listed.read_stream_object_names(10)?,
        (names[..10].to_vec(), false),
        "10",
    )?;
    same(listed.skip_stream_object_names(5)?, (5, false), "skip")?;
    same(
        listed.read_stream_object_names(0)?,
        (Vec::new(), false),
        "none",
    )?;
    same(
        listed.read_stream_object_names(100)?,
        (names[15..].to_vec(), true),
        "rest",
    )?;
    same(
        listed.read_stream_object_names(100)?,
        (Vec::new(), true),
        "end",
    )?;
    same(
        listed.skip_stream_object_names(100)?,
        (0, true),
        "behind the end",
    )?;
    let listed = held.list_objects()?;
    same(listed.skip_stream_object_names(ALL)?, (25, true), "all")?;
    held.clear()?;
    let listed = held.list_objects()?;
    same(
        listed.read_stream_object_names(ALL)?,
        (Vec::new(), true),
        "cleared",
    )
}

fn objects(first: &str) -> Checked {
    let held = empty(first)?;
    for name in ["a", "b", "c", "d"] {
        write(&held, name, 1, 5)?;
    }
    held.delete_object("a")?;
    held.delete_object("a")?;
    held.delete_objects(&["b".to_owned(), "none".to_owned(), "c".to_owned()])?;
    held.delete_objects(&[])?;
    same(held.has_object("a"), Ok(false), "a")?;
    same(held.has_object("d"), Ok(true), "d")?;
    let missing = held.object_info("b").map(drop);
    same(missing, Err("the object is not there".to_owned()), "info")?;
    let listed = held.list_objects()?.read_stream_object_names(10)?;
    same(listed, (vec!["d".to_owned()], true), "left")
}

fn id(container: &str, object: &str) -> ObjectId {
    ObjectId {
        container: container.to_owned(),
        object: object.to_owned(),
    }
}

fn copy_and_move(first: &str) -> Checked {
    let second = &second(first);
    let (one, two) = (empty(first)?, empty(second)?);
    write(&one, "a", 4, 700_000)?;
    write(&two, "b", 5, 10)?;
    let all = bytes(4, 0, 700_000);
    copy_object(&id(first, "a"), &id(second, "b"))?;
    same(read(&two, "b", 0, ALL)? == all, true, "copy")?;
    move_object(&id(second, "b"), &id(first, "c"))?;
    same(two.has_object("b"), Ok(false), "moved away")?;
    same(read(&one, "c", 0, ALL)? == all, true, "moved here")?;
    copy_object(&id(first, "c"), &id(first, "c"))?;
    move_object(&id(first, "c"), &id(first, "c"))?;
    same(read(&one, "c", 0, ALL)? == all, true, "onto itself")?;
    let missing = "the object is not there".to_owned();
    same(
        copy_object(&id(first, "none"), &id(second, "x")),
        Err(missing.clone()),
        "copy",
    )?;
    same(
        move_object(&id(first, "none"), &id(second, "x")),
        Err(missing),
        "move",
    )?;
    delete_container(second)?;
    let gone = Err("the container is not there".to_owned());
    same(
        copy_object(&id(first, "a"), &id(second, "x")),
        gone.clone(),
        "no container",
    )?;
    same(
        move_object(&id(first, "a"), &id(second, "x")),
        gone,
        "no container",
    )?;
    same(one.has_object("a"), Ok(true), "nothing is lost")
}

fn hostile_names(first: &str) -> Checked {
    let held = empty(first)?;
    let long = "x".repeat(700);
    let names = [
        "..",
        "../../etc/passwd",
        "/",
        "//",
        "a//b",
        "a/",
        "A",
        "a",
        "%2F",
        "\u{e9}",
        "e\u{301}",
        "\n",
        "\u{1}",
        "<&>\"'",
        "\u{1f408}",
        " ",
        &long,
    ];
    for (n, name) in names.iter().enumerate() {
        write(&held, name, n as u64, n as u64 + 1)?;
    }
    for (n, name) in names.iter().enumerate() {
        let n = n as u64;
        same(read(&held, name, 0, ALL)?, bytes(n, 0, n + 1), name)?;
    }
    let (mut listed, _) = held.list_objects()?.read_stream_object_names(100)?;
    listed.sort();
    let mut expected = names.map(str::to_owned).to_vec();
    expected.sort();
    same(listed, expected, "list")
}

fn gone_container(first: &str) -> Checked {
    let held = empty(first)?;
    let value = OutgoingValue::new_outgoing_value();
    delete_container(first)?;
    let gone = "the container is not there".to_owned();
    same(held.info().map(drop), Err(gone.clone()), "info")?;
    same(held.list_objects().map(drop), Err(gone.clone()), "list")?;
    same(held.has_object("o"), Ok(false), "has")?;
    held.write_data("o", &value)?;
    same(OutgoingValue::finish(value), Err(gone), "write")?;
    same(container_exists(first), Ok(false), "exists")
}

fn sync_cap(first: &str) -> Checked {
    let held = empty(first)?;
    write(&held, "o", 1, 17 * 1024 * 1024)?;
    let value = held.get_data("o", 0, ALL)?;
    let all = IncomingValue::incoming_value_consume_sync(value).map(drop);
    let why = "the value that is to be read at once has 17825792 bytes, at most 16777216 are taken";
    same(all, Err(why.to_owned()), "all")?;
    let part = read(&held, "o", 10, 10 + 1024 * 1024)?;
    same(part == bytes(1, 10, 1024 * 1024 + 1), true, "part")?;
    delete_container(first)
}
