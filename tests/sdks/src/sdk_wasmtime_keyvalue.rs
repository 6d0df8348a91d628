//! Built against the WIT in wasmtime's own crate, `wasi:keyvalue@0.2.0-draft`, as a command, which is what
//! wasmtime tests that crate with.

mod bindings {
    include!(concat!(env!("OUT_DIR"), "/keyvalue.rs"));
}

use bindings::wasi::keyvalue::store::{Error, open};
use bindings::wasi::keyvalue::{atomics, batch};

fn main() {
    check().expect("a store that works");
    println!("ok");
}

fn check() -> Result<(), Error> {
    assert!(matches!(open("nobody"), Err(Error::NoSuchStore)));
    let bucket = open("default")?;
    bucket.set("k", b"\0value")?;
    assert_eq!(bucket.get("k")?.as_deref(), Some(&b"\0value"[..]));
    assert!(bucket.exists("k")?);
    bucket.delete("k")?;
    assert_eq!(bucket.get("k")?, None);
    assert_eq!(bucket.list_keys(None)?.keys, [""; 0]);

    assert_eq!(atomics::increment(&bucket, "n", 2)?, 2);
    assert_eq!(atomics::increment(&bucket, "n", 40)?, 42);
    assert_eq!(bucket.get("n")?.as_deref(), Some(&b"42"[..]));

    let pairs = ["a", "b", "c"].map(|name| (name.to_owned(), name.as_bytes().to_vec()));
    batch::set_many(&bucket, &pairs)?;
    let names = ["a", "none", "c"].map(str::to_owned);
    let seen = batch::get_many(&bucket, &names)?;
    let [a, _, c] = pairs;
    assert_eq!(seen, [Some(a), None, Some(c)]);
    batch::delete_many(&bucket, &names)?;
    let mut left = bucket.list_keys(None)?.keys;
    left.sort();
    assert_eq!(left, ["b", "n"]);
    Ok(())
}
