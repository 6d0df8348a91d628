//! Built with `wasmcloud-component`: `wasi:blobstore@0.2.0-draft`, whose objects are streams of WASI 0.2.2.

use std::io::Write as _;

use wasmcloud_component::http;
use wasmcloud_component::wasi::blobstore::blobstore;
use wasmcloud_component::wasi::blobstore::container::Container;
use wasmcloud_component::wasi::blobstore::types::{IncomingValue, ObjectId, OutgoingValue};

const BYTES: usize = 1_000_000;

struct Component;

http::export!(Component);

impl http::Server for Component {
    fn handle(
        _request: http::IncomingRequest,
    ) -> http::Result<http::Response<impl http::OutgoingBody>> {
        check().expect("a store that works");
        Ok(http::Response::new("ok"))
    }
}

fn check() -> Result<(), String> {
    assert!(blobstore::create_container(&"nobody".to_owned()).is_err());
    let name = "photos".to_owned();
    let photos = blobstore::create_container(&name)?;
    assert!(blobstore::container_exists(&name)?);
    assert_eq!(photos.name()?, name);
    let large: Vec<u8> = (0..BYTES).map(|nth| (nth % 251) as u8).collect();
    write(&photos, "large", &large)?;
    write(&photos, "small", b"few bytes")?;

    let info = photos.object_info(&"large".to_owned())?;
    assert_eq!((info.name.as_str(), info.size), ("large", BYTES as u64));
    assert_eq!(read(&photos, "large", 0, u64::MAX)?, large);
    assert_eq!(read(&photos, "small", 4, 8)?, b"bytes");

    let (from, to) = (id("large"), id("copied"));
    blobstore::copy_object(&from, &to)?;
    assert_eq!(read(&photos, "copied", 0, u64::MAX)?, large);
    blobstore::move_object(&to, &id("moved"))?;
    assert!(!photos.has_object(&"copied".to_owned())?);
    assert_eq!(names(&photos)?, ["large", "moved", "small"]);

    photos.delete_objects(&["large".to_owned(), "moved".to_owned()])?;
    assert_eq!(names(&photos)?, ["small"]);
    assert!(read(&photos, "large", 0, 1).is_err());
    photos.clear()?;
    assert!(names(&photos)?.is_empty());
    Ok(())
}

fn id(object: &str) -> ObjectId {
    ObjectId {
        container: "photos".to_owned(),
        object: object.to_owned(),
    }
}

fn write(container: &Container, name: &str, bytes: &[u8]) -> Result<(), String> {
    let value = OutgoingValue::new_outgoing_value();
    let mut body = value.outgoing_value_write_body().expect("it is new");
    container.write_data(&name.to_owned(), &value)?;
    body.write_all(bytes).map_err(|error| error.to_string())?;
    drop(body);
    OutgoingValue::finish(value)
}

fn read(container: &Container, name: &str, start: u64, end: u64) -> Result<Vec<u8>, String> {
    let value = container.get_data(&name.to_owned(), start, end)?;
    IncomingValue::incoming_value_consume_sync(value)
}

fn names(container: &Container) -> Result<Vec<String>, String> {
    let listed = container.list_objects()?;
    let mut names = Vec::new();
    loop {
        let (some, end) = listed.read_stream_object_names(100)?;
        names.extend(some);
        if end {
            names.sort();
            return Ok(names);
        }
    }
}
