//! Asks `wasi:keyvalue@0.2.0-draft2`, and what realm adds to it, whether it keeps its word: a line for each
//! check, `ok`, `FAIL` with why, or `lacks` for what a backend may lack. `?open=` names the bucket.

mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/deps/wasi-keyvalue-0.2.0-draft2", "../../wit/deps/wasi-messaging-0.2.0-draft", "../../wit/deps/realm-cloud"],
        inline: "
            package realm:guest;
            world keyvalue {
                include wasi:keyvalue/imports@0.2.0-draft2;
                import realm:cloud/ttl@0.1.0;
                import realm:cloud/transactions@0.1.0;
                import realm:cloud/locks@0.1.0;
            }
        ",
        world: "realm:guest/keyvalue",
        generate_all,
    });
}

use bindings::realm::cloud::{locks, transactions, ttl};
use bindings::wasi::keyvalue::atomics::{self, Cas, CasError};
use bindings::wasi::keyvalue::batch;
use bindings::wasi::keyvalue::store::{self, Bucket, Error};
use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

type Check = fn(&Bucket) -> Result<(), Wrong>;

enum Wrong {
    Why(String),
    Lacks,
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        match error {
            Error::Other(words) if words.starts_with("this backend cannot") => Self::Lacks,
            error => Self::Why(format!("{error:?}")),
        }
    }
}

const CHECKS: &[(&str, Check)] = &[
    ("values", values),
    ("keys", keys),
    ("listing", listing),
    ("large", large),
    ("refusals", refusals),
    ("increment", increment),
    ("swap", swap),
    ("batch", many),
    ("ttl", ends),
    ("transactions", all_or_nothing),
    ("locks", one_at_a_time),
];

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let identifier = guests::parameter(&request, "open").unwrap_or_else(|| "default".to_owned());
    let bucket = match store::open(&identifier) {
        Ok(bucket) => bucket,
        Err(error) => return guests::text(out, 500, &format!("{error:?}\n")),
    };
    let mut answer = String::new();
    for (name, check) in CHECKS {
        let line = match empty(&bucket).and_then(|()| check(&bucket)) {
            Ok(()) => format!("ok {name}\n"),
            Err(Wrong::Lacks) => format!("lacks {name}\n"),
            Err(Wrong::Why(why)) => format!("FAIL {name}: {why}\n"),
        };
        answer.push_str(&line);
    }
    guests::text(out, 200, &answer);
}

fn all_keys(bucket: &Bucket) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    let mut cursor = None;
    loop {
        let page = bucket.list_keys(cursor.as_deref())?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            keys.sort();
            return Ok(keys);
        }
    }
}

fn empty(bucket: &Bucket) -> Result<(), Wrong> {
    for keys in all_keys(bucket)?.chunks(1_000) {
        batch::delete_many(bucket, keys)?;
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(seen: T, expected: T) -> Result<(), Wrong> {
    if seen == expected {
        return Ok(());
    }
    Err(Wrong::Why(format!("{seen:?} is not {expected:?}")))
}

fn values(bucket: &Bucket) -> Result<(), Wrong> {
    same(bucket.get("k")?, None)?;
    same(bucket.exists("k")?, false)?;
    for value in [&b"one"[..], b"", b"\0\xff\r\n", b"two"] {
        bucket.set("k", value)?;
        same(bucket.get("k")?.as_deref(), Some(value))?;
        same(bucket.exists("k")?, true)?;
    }
    bucket.delete("k")?;
    bucket.delete("k")?;
    same(bucket.get("k")?, None)
}

fn keys(bucket: &Bucket) -> Result<(), Wrong> {
    let long = "ü".repeat(512);
    let names = [
        "a",
        "A",
        "..",
        "a b",
        "*",
        "%3A",
        "a:b",
        "\n",
        "grüße",
        "日本語",
        "🦀",
        &long,
    ];
    for name in names {
        bucket.set(name, name.as_bytes())?;
    }
    for name in names {
        same(bucket.get(name)?.as_deref(), Some(name.as_bytes()))?;
    }
    let mut sorted = names.map(str::to_owned);
    sorted.sort();
    same(all_keys(bucket)?, sorted.to_vec())
}

fn listing(bucket: &Bucket) -> Result<(), Wrong> {
    let pairs: Vec<_> = (0..3_500)
        .map(|nth| (format!("k{nth:05}"), b"v".to_vec()))
        .collect();
    for pairs in pairs.chunks(1_000) {
        batch::set_many(bucket, pairs)?;
    }
    let expected: Vec<String> = pairs.into_iter().map(|(key, _)| key).collect();
    same(all_keys(bucket)?.len(), 3_500)?;
    same(all_keys(bucket)? == expected, true)
}

fn large(bucket: &Bucket) -> Result<(), Wrong> {
    let value: Vec<u8> = (0..1_000_000_u32).map(|nth| (nth % 251) as u8).collect();
    bucket.set("k", &value)?;
    same(bucket.get("k")?.is_some_and(|seen| seen == value), true)?;
    let refused = bucket.set("larger", &vec![0; 17 * 1024 * 1024]);
    same(
        matches!(refused, Err(Error::Other(words)) if words.contains("bytes")),
        true,
    )?;
    same(bucket.exists("larger")?, false)
}

fn refusals(bucket: &Bucket) -> Result<(), Wrong> {
    let long = "k".repeat(1_025);
    for key in ["", &long] {
        same(bucket.get(key).is_err(), true)?;
        same(bucket.set(key, b"").is_err(), true)?;
        same(atomics::increment(bucket, key, 1).is_err(), true)?;
        same(Cas::new(bucket, key).is_err(), true)?;
    }
    for identifier in ["", "*", "nobody", "a\nb", &long] {
        same(
            matches!(store::open(identifier), Err(Error::NoSuchStore)),
            true,
        )?;
    }
    Ok(())
}

fn increment(bucket: &Bucket) -> Result<(), Wrong> {
    same(atomics::increment(bucket, "n", 5)?, 5)?;
    same(atomics::increment(bucket, "n", -7)?, -2)?;
    same(bucket.get("n")?.as_deref(), Some(&b"-2"[..]))?;
    bucket.set("n", b"9223372036854775807")?;
    same(atomics::increment(bucket, "n", 1).is_err(), true)?;
    bucket.set("n", b"one")?;
    same(atomics::increment(bucket, "n", 1).is_err(), true)?;
    same(bucket.get("n")?.as_deref(), Some(&b"one"[..]))
}

fn swap(bucket: &Bucket) -> Result<(), Wrong> {
    let cas = Cas::new(bucket, "k")?;
    same(cas.current()?, None)?;
    let other = Cas::new(bucket, "k")?;
    same(atomics::swap(cas, b"one").is_ok(), true)?;
    let Err(CasError::CasFailed(now)) = atomics::swap(other, b"two") else {
        return Err(Wrong::Why("two were first".to_owned()));
    };
    same(now.current()?.as_deref(), Some(&b"one"[..]))?;
    same(atomics::swap(now, b"two").is_ok(), true)?;
    same(bucket.get("k")?.as_deref(), Some(&b"two"[..]))?;
    let cas = Cas::new(bucket, "k")?;
    bucket.delete("k")?;
    same(
        matches!(atomics::swap(cas, b"three"), Err(CasError::CasFailed(_))),
        true,
    )?;
    same(bucket.get("k")?, None)
}

fn many(bucket: &Bucket) -> Result<(), Wrong> {
    let pair = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
    batch::set_many(bucket, &[pair("a", "1"), pair("b", "2"), pair("c", "3")])?;
    let names = ["b", "none", "a"].map(str::to_owned);
    let seen = batch::get_many(bucket, &names)?;
    same(seen, vec![Some(pair("b", "2")), None, Some(pair("a", "1"))])?;
    batch::delete_many(bucket, &["a".to_owned(), "none".to_owned()])?;
    same(all_keys(bucket)?, vec!["b".to_owned(), "c".to_owned()])?;
    let many: Vec<String> = (0..1_001).map(|nth| nth.to_string()).collect();
    same(batch::get_many(bucket, &many).is_err(), true)
}

fn ends(bucket: &Bucket) -> Result<(), Wrong> {
    ttl::set(bucket, "k", b"v", 1_000)?;
    same(
        matches!(ttl::remaining(bucket, "k")?, ttl::Life::EndsInMs(ms) if ms <= 1_000),
        true,
    )?;
    bucket.set("stays", b"v")?;
    same(
        matches!(ttl::remaining(bucket, "stays")?, ttl::Life::Stays),
        true,
    )?;
    same(
        matches!(ttl::remaining(bucket, "none")?, ttl::Life::Missing),
        true,
    )?;
    same(ttl::set(bucket, "k2", b"v", 10).is_err(), true)?;
    let began = std::time::Instant::now();
    while bucket.exists("k")? {
        if began.elapsed().as_secs() > 5 {
            return Err(Wrong::Why("it stays".to_owned()));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    same(bucket.get("k")?, None)?;
    same(all_keys(bucket)?, vec!["stays".to_owned()])
}

fn all_or_nothing(bucket: &Bucket) -> Result<(), Wrong> {
    use transactions::{Check, Edit, Setting, commit, read};
    let set = |key: &str, value: &str| {
        Edit::Set(Setting {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            ttl_ms: None,
        })
    };
    let check = |key: &str| -> Result<Check, Error> {
        Ok(Check {
            key: key.to_owned(),
            revision: read(bucket, key)?.revision,
        })
    };
    let one = [check("a")?];
    same(commit(bucket, &one, &[set("a", "1")])?, true)?;
    same(commit(bucket, &one, &[set("a", "2")])?, false)?;
    same(bucket.get("a")?.as_deref(), Some(&b"1"[..]))?;
    let both = [check("a")?, check("b")?];
    let edits = [Edit::Delete("a".to_owned()), set("b", "2")];
    same(commit(bucket, &both, &edits)?, true)?;
    same(commit(bucket, &both, &edits)?, false)?;
    same(all_keys(bucket)?, vec!["b".to_owned()])
}

fn one_at_a_time(bucket: &Bucket) -> Result<(), Wrong> {
    let first = locks::acquire(bucket, "door", 60_000, 0)?;
    let Some(first) = first else {
        return Err(Wrong::Why("nobody has it".to_owned()));
    };
    same(locks::acquire(bucket, "door", 60_000, 200)?.is_none(), true)?;
    same(locks::acquire(bucket, "window", 1_000, 0)?.is_some(), true)?;
    same(first.remaining_ms() > 50_000, true)?;
    same(first.renew()?, true)?;
    first.release()?;
    same(first.remaining_ms(), 0)?;
    same(first.renew()?, false)?;
    let Some(second) = locks::acquire(bucket, "door", 1_000, 0)? else {
        return Err(Wrong::Why("it was given back".to_owned()));
    };
    same(second.token() > first.token(), true)?;
    drop(second);
    // Its lease ends, and then it is free.
    let Some(third) = locks::acquire(bucket, "door", 1_000, 10_000)? else {
        return Err(Wrong::Why("its lease has ended".to_owned()));
    };
    same(third.token() > first.token() + 1, true)?;
    same(locks::acquire(bucket, "", 1_000, 0).is_err(), true)?;
    same(locks::acquire(bucket, "door", 10, 0).is_err(), true)
}
