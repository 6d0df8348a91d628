//! Built with `spin-sdk`: the interfaces of WASI that it has beside its own, `wasi:keyvalue@0.2.0-draft2` and
//! `wasi:config@0.2.0-draft-2024-09-27`, behind Spin's HTTP trigger.

use spin_sdk::experimental::wasi::config::store as config;
use spin_sdk::experimental::wasi::keyvalue::store::{Error, open};
use spin_sdk::experimental::wasi::keyvalue::{atomics, batch};
use spin_sdk::http::{IntoResponse, Request};
use spin_sdk::http_service;

#[http_service]
async fn handle(_request: Request) -> impl IntoResponse {
    configured();
    check().expect("a store that works");
    "ok"
}

fn configured() {
    let color = config::get("color").expect("configuration");
    assert_eq!(color.as_deref(), Some("red"));
    assert_eq!(config::get("size").expect("configuration"), None);
    let all = config::get_all().expect("configuration");
    assert_eq!(all, [("color".to_owned(), "red".to_owned())]);
}

fn check() -> Result<(), Error> {
    assert!(matches!(open("nobody"), Err(Error::NoSuchStore)));
    let bucket = open("default")?;
    bucket.set("k", b"\0value")?;
    assert_eq!(bucket.get("k")?.as_deref(), Some(&b"\0value"[..]));
    assert!(bucket.exists("k")?);
    bucket.delete("k")?;
    assert_eq!(bucket.get("k")?, None);

    assert_eq!(atomics::increment(&bucket, "n", 44)?, 44);
    assert_eq!(atomics::increment(&bucket, "n", -2)?, 42);
    let cas = atomics::Cas::new(&bucket, "n")?;
    assert_eq!(cas.current()?.as_deref(), Some(&b"42"[..]));
    bucket.set("n", b"43")?;
    match atomics::swap(cas, b"1") {
        Err(atomics::CasError::CasFailed(again)) => {
            assert!(atomics::swap(again, b"2").is_ok());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bucket.get("n")?.as_deref(), Some(&b"2"[..]));
    bucket.delete("n")?;

    let pairs: Vec<_> = (0..1_500)
        .map(|nth| (format!("k{nth:04}"), vec![b'v']))
        .collect();
    for pairs in pairs.chunks(1_000) {
        batch::set_many(&bucket, pairs)?;
    }
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor.as_deref())?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort();
    assert!(keys.iter().eq(pairs.iter().map(|(key, _)| key)));
    let asked = ["k0001".to_owned(), "none".to_owned()];
    let seen = batch::get_many(&bucket, &asked)?;
    let [there, none] = asked;
    assert_eq!(seen, [(there, Some(vec![b'v'])), (none, None)]);
    for keys in keys.chunks(1_000) {
        batch::delete_many(&bucket, keys)?;
    }
    assert!(!bucket.exists("k0001")?);
    Ok(())
}
