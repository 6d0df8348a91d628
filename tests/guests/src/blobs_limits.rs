//! Goes for what `wasi:blobstore` bounds, and answers with how far it came. `/unplaced?n=` writes into n
//! values that go nowhere, `/fill?c=&n=` n empty objects, `/move_away?c=&o=&n=` moves o away while n bytes
//! are written over it, `/copy?c=&o=&to=` copies to another container, `/delete?c=&n=` deletes n names.

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

use bindings::wasi::blobstore::blobstore::{copy_object, get_container, move_object};
use bindings::wasi::blobstore::types::{ObjectId, OutgoingValue};

guests::serve!(handle);

/// What a stream takes at a time.
const PIECE: usize = 256 * 1024;

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let container = guests::parameter(&request, "c").unwrap_or_default();
    let object = guests::parameter(&request, "o").unwrap_or_default();
    let n = guests::number(&request, "n", 1);
    let said = match guests::path(&request).as_str() {
        "/unplaced" => unplaced(n).to_string(),
        "/fill" => format!("{:?}", fill(&container, n)),
        "/move_away" => format!("{:?}", move_away(&container, &object, n)),
        "/copy" => {
            let to = guests::parameter(&request, "to").unwrap_or_default();
            let copied = copy_object(&id(&container, &object), &id(&to, &object));
            format!("{copied:?}")
        }
        _ => {
            let names: Vec<String> = (0..n).map(|nth| nth.to_string()).collect();
            let deleted = get_container(&container).and_then(|held| held.delete_objects(&names));
            format!("{deleted:?}")
        }
    };
    guests::text(out, 200, &said);
}

fn id(container: &str, object: &str) -> ObjectId {
    ObjectId {
        container: container.to_owned(),
        object: object.to_owned(),
    }
}

/// How many values took 1 MiB that goes nowhere yet.
fn unplaced(n: u64) -> usize {
    let values: Vec<_> = (0..n)
        .map(|_| OutgoingValue::new_outgoing_value())
        .collect();
    let piece = vec![7; PIECE];
    let whole = values.iter().filter(|value| {
        let body = value.outgoing_value_write_body().expect("the first one");
        (0..4).all(|_| body.check_write().is_ok() && body.write(&piece).is_ok())
    });
    whole.count()
}

/// How many objects without a byte were written into a container that is held.
fn fill(container: &str, n: u64) -> Result<u64, String> {
    let held = get_container(container)?;
    for nth in 0..n {
        let value = OutgoingValue::new_outgoing_value();
        let written = held.write_data(&format!("e{nth}"), &value);
        if written.and_then(|()| OutgoingValue::finish(value)).is_err() {
            return Ok(nth);
        }
    }
    Ok(n)
}

fn move_away(container: &str, object: &str, n: u64) -> Result<(), String> {
    let held = get_container(container)?;
    let value = OutgoingValue::new_outgoing_value();
    let body = value.outgoing_value_write_body().map_err(|()| "no body")?;
    held.write_data(object, &value)?;
    move_object(
        &id(container, object),
        &id(container, &format!("{object}-moved")),
    )?;
    let mut left = usize::try_from(n).unwrap_or(usize::MAX);
    while left > 0 {
        // What stopped it is what `finish` says.
        let Ok(room) = body.check_write() else { break };
        let room = usize::try_from(room).unwrap_or(PIECE).min(left).min(PIECE);
        if room == 0 {
            body.subscribe().block();
        } else if body.write(&vec![7; room]).is_err() {
            break;
        }
        left -= room;
    }
    drop(body);
    OutgoingValue::finish(value)
}
