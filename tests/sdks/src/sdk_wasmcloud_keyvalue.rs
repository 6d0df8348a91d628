//! Built with `wasmcloud-component` as wasmCloud's own components are: `wasi:keyvalue@0.2.0-draft`, behind
//! its HTTP server.

use wasmcloud_component::http;
use wasmcloud_component::wasi::keyvalue::store::{Error, open};
use wasmcloud_component::wasi::keyvalue::{atomics, batch};

struct Component;

http::export!(Component);

impl http::Server for Component {
    fn handle(
        request: http::IncomingRequest,
    ) -> http::Result<http::Response<impl http::OutgoingBody>> {
        assert_eq!(request.uri().path(), "/wasmcloud");
        check().expect("a store that works");
        Ok(http::Response::new("ok"))
    }
}

fn check() -> Result<(), Error> {
    assert!(matches!(open("nobody"), Err(Error::NoSuchStore)));
    let bucket = open("default")?;
    bucket.set("k", b"\0value")?;
    assert_eq!(bucket.get("k")?.as_deref(), Some(&b"\0value"[..]));
    assert!(bucket.exists("k")?);
    bucket.delete("k")?;
    assert_eq!(bucket.get("k")?, None);

    assert_eq!(atomics::increment(&bucket, "n", 2)?, 2);
    assert_eq!(atomics::increment(&bucket, "n", 40)?, 42);
    bucket.delete("n")?;

    let pairs: Vec<_> = (0..1_500)
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
    assert!(keys.iter().eq(pairs.iter().map(|(key, _)| key)));
    let asked = ["k0001".to_owned(), "none".to_owned()];
    let seen = batch::get_many(&bucket, &asked)?;
    assert_eq!(seen, [Some(("k0001".to_owned(), vec![b'v'])), None]);
    for keys in keys.chunks(1_000) {
        batch::delete_many(&bucket, keys)?;
    }
    assert!(!bucket.exists("k0001")?);
    Ok(())
}
