//! Uses `wasi:keyvalue@0.2.0-draft`, as components for wasmtime and wasmCloud are built: `ok`, or what is
//! wrong. With `?op=`, `?key=` and `?value=` one call, and what came back.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/wasi-keyvalue-0.2.0-draft", world: "imports" });
}

use bindings::wasi::keyvalue::store::{self, Error};
use bindings::wasi::keyvalue::{atomics, batch};
use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let parameter = |name| guests::parameter(&request, name).unwrap_or_default();
    let said = match &*parameter("op") {
        "" => check().map(|()| "ok".to_owned()),
        op => call(op, &parameter("key"), &parameter("value")),
    };
    match said {
        Ok(words) => guests::text(out, 200, &words),
        Err(error) => guests::text(out, 500, &format!("{error:?}")),
    }
}

fn call(op: &str, key: &str, value: &str) -> Result<String, Error> {
    let bucket = store::open("default")?;
    Ok(match op {
        "set" => format!("{:?}", bucket.set(key, value.as_bytes())?),
        "delete" => format!("{:?}", bucket.delete(key)?),
        "increment" => atomics::increment(&bucket, key, 1)?.to_string(),
        "keys" => {
            let mut keys = bucket.list_keys(None)?.keys;
            keys.sort();
            keys.join(" ")
        }
        "count" => {
            let (mut keys, mut cursor) = (Vec::new(), None);
            loop {
                let page = bucket.list_keys(cursor)?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break guests::counted(keys);
                }
            }
        }
        _ => match bucket.get(key)? {
            Some(value) => String::from_utf8_lossy(&value).into_owned(),
            None => "none".to_owned(),
        },
    })
}

fn check() -> Result<(), Error> {
    assert!(matches!(store::open("nobody"), Err(Error::NoSuchStore)));
    let bucket = store::open("default")?;
    bucket.set("k", b"\0value")?;
    assert_eq!(bucket.get("k")?.as_deref(), Some(&b"\0value"[..]));
    assert!(bucket.exists("k")?);
    bucket.delete("k")?;
    assert_eq!(bucket.get("k")?, None);

    assert_eq!(atomics::increment(&bucket, "n", 2)?, 2);
    assert_eq!(atomics::increment(&bucket, "n", 40)?, 42);
    assert!(atomics::increment(&bucket, "n", u64::MAX).is_err());
    bucket.set("n", b"-5")?;
    assert!(atomics::increment(&bucket, "n", 1).is_err(), "below zero");
    bucket.delete("n")?;

    let pairs: Vec<_> = (0..2_500)
        .map(|nth| (format!("k{nth:04}"), vec![b'v']))
        .collect();
    for pairs in pairs.chunks(1_000) {
        batch::set_many(&bucket, pairs)?;
    }
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor)?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort();
    assert_eq!(keys.len(), 2_500);
    assert!(keys.iter().zip(&pairs).all(|(seen, (set, _))| seen == set));
    assert!(
        bucket.list_keys(Some(u64::MAX)).is_err(),
        "a cursor that nobody gave"
    );
    let names = ["k0001".to_owned(), "none".to_owned()];
    let seen = batch::get_many(&bucket, &names)?;
    assert_eq!(seen, [Some(("k0001".to_owned(), vec![b'v'])), None]);
    for keys in keys.chunks(1_000) {
        batch::delete_many(&bucket, keys)?;
    }
    assert_eq!(bucket.list_keys(None)?.keys, Vec::<String>::new());
    Ok(())
}
