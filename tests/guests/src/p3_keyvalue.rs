//! Uses `spin:key-value@3.0.0` from WASI 0.3, as components for Spin are built: `ok`, or a trap. The store
//! has `k0000` to `k1499` in it.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/spin-key-value-3.0.0", world: "imports" });
}

use bindings::spin::key_value::key_value::{Error, Store};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};

struct Checked;

wasip3::http::service::export!(Checked);

impl Guest for Checked {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let words = match check().await {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("{error:?}"),
        };
        let (mut body, body_reader) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(words.into_bytes()).await;
        });
        Ok(response)
    }
}

async fn check() -> Result<(), Error> {
    assert!(matches!(
        Store::open("nobody".to_owned()).await,
        Err(Error::NoSuchStore)
    ));
    let store = Store::open("default".to_owned()).await?;
    let key = || "k".to_owned();
    assert_eq!(store.get(key()).await?, None);
    store.set(key(), b"\0value".to_vec()).await?;
    assert_eq!(store.get(key()).await?.as_deref(), Some(&b"\0value"[..]));
    assert!(store.exists(key()).await?);
    store.delete(key()).await?;
    assert!(!store.exists(key()).await?);
    assert!(matches!(
        store.get(String::new()).await,
        Err(Error::Other(_))
    ));

    // Those that the test wrote: more than a page.
    let (keys, end) = store.get_keys().await;
    let mut keys = keys.collect().await;
    end.await?;
    keys.sort();
    assert_eq!(keys.len(), 1_500);
    assert!(
        keys.iter()
            .enumerate()
            .all(|(nth, key)| *key == format!("k{nth:04}"))
    );
    // Who stops reading is not held up.
    let (mut some, _) = store.get_keys().await;
    assert!(some.next().await.is_some());
    drop(some);
    Ok(())
}
