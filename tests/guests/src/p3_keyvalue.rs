//! Uses `spin:key-value@3.0.0` from WASI 0.3, as components for Spin are built: `ok`, or a trap. The store
//! has `k0000` to `k1499` in it.
//!
//! `/sets?N` has N calls under way at once, of 4 MiB each, and says how many were done, and what was said
//! of the others; `/listings?N` begins N listings, and says how many gave a key. `/set?KEY=VALUE`,
//! `/get?KEY`, `/delete?KEY` and `/keys` are one call each, with what came back.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/spin-key-value-3.0.0", world: "imports" });
}

use bindings::spin::key_value::key_value::{Error, Store};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};

struct Checked;

wasip3::http::service::export!(Checked);

impl Guest for Checked {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let n = query.parse().unwrap_or(0);
        let said = match path {
            "/set" | "/get" | "/delete" | "/keys" => call(path, query).await,
            "/sets" => sets(n).await,
            "/listings" => listings(n).await,
            _ => check().await.map(|()| "ok".to_owned()),
        };
        let words = said.unwrap_or_else(|error| format!("{error:?}"));
        let (mut body, body_reader) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(words.into_bytes()).await;
        });
        Ok(response)
    }
}

async fn call(path: &str, query: &str) -> Result<String, Error> {
    let store = Store::open("default".to_owned()).await?;
    let (key, value) = query.split_once('=').unwrap_or((query, ""));
    let key = key.to_owned();
    Ok(match path {
        "/set" => format!("{:?}", store.set(key, value.as_bytes().to_vec()).await?),
        "/delete" => format!("{:?}", store.delete(key).await?),
        "/keys" => {
            let (keys, end) = store.get_keys().await;
            let mut keys = keys.collect().await;
            end.await?;
            keys.sort();
            keys.join(" ")
        }
        _ => match store.get(key).await? {
            Some(value) => String::from_utf8_lossy(&value).into_owned(),
            None => "none".to_owned(),
        },
    })
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

/// A value on its way.
type Set<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

async fn sets(n: usize) -> Result<String, Error> {
    let store = Store::open("default".to_owned()).await?;
    let mut sets: Vec<Set<'_>> = Vec::new();
    for nth in 0..n {
        sets.push(Box::pin(store.set(nth.to_string(), vec![7; 4 << 20])));
    }
    let (mut done, mut refused) = (0, String::new());
    poll_fn(|context| {
        sets.retain_mut(|set| match set.as_mut().poll(context) {
            Poll::Ready(Ok(())) => {
                done += 1;
                false
            }
            Poll::Ready(Err(error)) => {
                refused = format!(", {error:?}");
                false
            }
            Poll::Pending => true,
        });
        if sets.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    Ok(format!("{done} done{refused}"))
}

async fn listings(n: usize) -> Result<String, Error> {
    let store = Store::open("default".to_owned()).await?;
    let mut open = Vec::new();
    let mut given = 0;
    for _ in 0..n {
        let (mut keys, end) = store.get_keys().await;
        given += usize::from(keys.next().await.is_some());
        open.push((keys, end));
    }
    Ok(given.to_string())
}
