//! One call of `wasi:keyvalue@0.2.0-draft2` for each request: `?open=`, `?op=`, `?key=`, and for values
//! `?value=` or so many `?bytes=`; answers with what came back, in one line.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/wasi-keyvalue-0.2.0-draft2", world: "imports" });
}

use bindings::wasi::keyvalue::atomics::{self, Cas};
use bindings::wasi::keyvalue::{batch, store};
use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let parameter = |name| guests::parameter(&request, name).unwrap_or_default();
    let answer = call(
        &parameter("open"),
        &parameter("op"),
        &parameter("key"),
        &|| match guests::number(&request, "bytes", 0) {
            0 => parameter("value").into_bytes(),
            n_bytes => vec![b'v'; n_bytes as usize],
        },
    );
    match answer {
        Ok(words) => guests::text(out, 200, &words),
        Err(error) => guests::text(out, 400, &format!("{error:?}")),
    }
}

fn call(
    identifier: &str,
    op: &str,
    key: &str,
    value: &dyn Fn() -> Vec<u8>,
) -> Result<String, store::Error> {
    let bucket = store::open(identifier)?;
    Ok(match op {
        "set" => format!("{:?}", bucket.set(key, &value())?),
        "delete" => format!("{:?}", bucket.delete(key)?),
        "increment" => atomics::increment(&bucket, key, 1)?.to_string(),
        "keys" => bucket.list_keys(None)?.keys.join(" "),
        "count" => {
            let (mut keys, mut cursor) = (Vec::new(), None);
            loop {
                let page = bucket.list_keys(cursor.as_deref())?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break guests::counted(keys);
                }
            }
        }
        // Each takes as much of the host as the value, twice where the store knows no other way.
        "hold" => {
            let mut all = Vec::new();
            loop {
                match Cas::new(&bucket, key) {
                    Ok(cas) => all.push(cas),
                    Err(error) => break format!("{} {error:?}", all.len()),
                }
            }
        }
        "many" => {
            let pairs: Vec<_> = (0..10)
                .map(|nth| (format!("{key}{nth}"), value()))
                .collect();
            format!("{:?}", batch::set_many(&bucket, &pairs)?)
        }
        _ => match bucket.get(key)? {
            Some(value) if value.len() > 100 => format!("{} bytes", value.len()),
            Some(value) => String::from_utf8_lossy(&value).into_owned(),
            None => "none".to_owned(),
        },
    })
}
