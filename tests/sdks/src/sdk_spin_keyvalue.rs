//! Built with `spin-sdk` as Spin's own applications are: `spin:key-value@3.0.0`, behind Spin's HTTP trigger
//! of WASI 0.3. It counts what it was asked, after it has looked at everything that the SDK can do.

use spin_sdk::http::{IntoResponse, Request};
use spin_sdk::http_service;
use spin_sdk::key_value::{Error, Store};

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    assert_eq!(request.uri().path(), "/spin");
    check().await.expect("a store that works")
}

async fn check() -> Result<String, Error> {
    assert!(matches!(
        Store::open("nobody").await,
        Err(Error::NoSuchStore)
    ));
    let store = Store::open_default().await?;
    let every_byte: Vec<u8> = (0..=255).collect();
    store.set("bytes", &every_byte).await?;
    assert_eq!(store.get("bytes").await?, Some(every_byte));
    assert!(store.exists("bytes").await?);
    store.delete("bytes").await?;
    store.delete("bytes").await?;
    assert!(!store.exists("bytes").await?);
    assert_eq!(store.get("bytes").await?, None);

    let names: Vec<String> = (0..100).map(|nth| format!("k{nth:04}")).collect();
    for name in &names {
        store.set(name, name).await?;
    }
    let mut seen = store.get_keys().await.collect().await?;
    seen.retain(|name| name != "count");
    seen.sort();
    assert_eq!(seen, names);

    let before = store.get("count").await?.unwrap_or_default();
    let count = String::from_utf8(before).expect("its own").len() + 1;
    store.set("count", "x".repeat(count)).await?;
    Ok(format!("ok {count}"))
}
