//! Registries against servers of this test: honest ones, liars, and those that want to have what is
//! not theirs. The server is that of `ipfs_tests` as well.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use realm_model::manifest::RegistrySource;
use tokio::net::TcpListener;

use super::*;
use crate::testing::payload;

const PATIENCE: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    idle: Duration::from_millis(700),
    total: Duration::from_secs(20),
};

/// What is answered: status, a header, body.
pub(super) type Reply = (u16, Option<(&'static str, String)>, Bytes);

/// A server on loopback, and every request that came: path with query, and `authorization`.
pub(super) struct Fake {
    pub(super) address: String,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Fake {
    /// Serves with what `reply` says to a path with its query and an `authorization`.
    pub(super) async fn serve(reply: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        let (asked, reply) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(reply));
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                let answer = move |request: Request<Incoming>| {
                    let path = request.uri().path_and_query().expect("a path").to_string();
                    let who = request.headers().get("authorization");
                    let who = who.map_or("", |who| who.to_str().expect("text")).to_owned();
                    let (status, header, body) = reply(&path, &who);
                    seen.lock().expect("no panic").push((path, who));
                    let mut answer = Response::builder().status(status);
                    if let Some((name, value)) = header {
                        answer = answer.header(name, value);
                    }
                    let answer = answer.body(Full::new(body)).expect("an answer");
                    async { Ok::<_, Infallible>(answer) }
                };
                tokio::spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(connection), service_fn(answer))
                        .await;
                });
            }
        });
        Self { address, asked }
    }

    pub(super) fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().expect("no panic").clone()
    }
}

pub(super) fn no() -> Reply {
    (404, None, Bytes::from_static(b"no"))
}

pub(super) fn ok(body: impl Into<Bytes>) -> Reply {
    (200, None, body.into())
}

pub(super) fn pin_of(bytes: &[u8]) -> Pin {
    Pin {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
    }
}

pub(super) async fn fetched(
    source: &Source,
    origins: &Origins,
    bytes: &[u8],
    here: usize,
    peers: &[&dyn PeerSource],
) -> Result<Fetched, FetchError> {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(folder.path().to_owned()).expect("opens");
    let pin = pin_of(bytes);
    if here > 0 {
        let partial = folder.path().join("partial").join(pin.digest.hex());
        fs::write(partial, &bytes[..here]).expect("written");
    }
    let fetched = fetch_shared(&blobs, pin, source, peers, origins, PATIENCE).await;
    assert_eq!(fetched.is_ok(), blobs.verify_pin(pin).await.is_ok());
    fetched
}

/// What `resolve` says: the bytes, or the code of the error and its text.
pub(super) async fn resolved(source: &Source, origins: &Origins) -> Result<Bytes, String> {
    let resolved = resolve_within(source, Path::new("."), origins, 10_000_000, PATIENCE).await;
    let resolved = resolved.map_err(|error| format!("{} {error}", error.code()));
    resolved.map(|(pin, bytes)| {
        assert_eq!(pin, pin_of(&bytes));
        bytes
    })
}

pub(super) fn blamed(result: Result<impl std::fmt::Debug, String>, parts: &[&str]) {
    let error = result.expect_err("refused");
    for part in parts {
        assert!(error.contains(part), "no `{part}` in {error}");
    }
}

const TAGGED: &str = "/v2/acme/orders/manifests/1.2";

fn registry_of(fake: &Fake) -> Source {
    Source::Registry(RegistrySource {
        host: fake.address.clone(),
        repository: "acme/orders".to_owned(),
        tag: Some("1.2".to_owned()),
        digest: None,
    })
}

/// A manifest with these layers.
fn manifest(layers: &[(&str, &[u8])]) -> Bytes {
    let layers: Vec<_> = layers
        .iter()
        .map(|(kind, bytes)| {
            serde_json::json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
        })
        .collect();
    serde_json::json!({"schemaVersion": 2, "layers": layers})
        .to_string()
        .into()
}

fn blob(bytes: &[u8]) -> String {
    format!("/v2/acme/orders/blobs/{}", Digest::of(bytes))
}

/// A machine with a log-in, `acme` and `hush`, to this registry.
fn logged_in(fake: &Fake, folder: &Path) -> Origins {
    let path = folder.join("config.json");
    let auths = serde_json::json!({"auths": {&fake.address: {"auth": "YWNtZTpodXNo"}}});
    fs::write(&path, auths.to_string()).expect("written");
    Origins {
        registry_auth: Some(path),
        ..Origins::default()
    }
}

#[tokio::test]
async fn a_registry_gets_a_token_and_nobody_else_does() {
    let bytes = payload(1, 10_000);
    let (stored, place) = (bytes.clone(), blob(&bytes));
    // Where the registry keeps its blobs: not its own host.
    let storage = Fake::serve(move |_, _| ok(stored.clone())).await;
    let (to, made) = (storage.address.clone(), bytes.clone());
    let own = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&own);
    let fake = Fake::serve(move |path, who| {
        let realm = realm.lock().expect("no panic").clone();
        let challenge = format!(
            "Bearer realm=\"http://{realm}/token?a=b\",service=\"x y\",scope=\"everything\""
        );
        match (path, who) {
            (path, _) if path.starts_with("/token") => ok(&b"{\"token\": \"t0ken\"}"[..]),
            (_, "") => (401, Some(("www-authenticate", challenge)), Bytes::new()),
            (TAGGED, "Bearer t0ken") => ok(manifest(&[("application/wasm", &made)])),
            (path, "Bearer t0ken") if path == place => (
                307,
                Some(("location", format!("http://{to}/signed?token=x"))),
                Bytes::new(),
            ),
            _ => no(),
        }
    })
    .await;
    own.lock().expect("no panic").push_str(&fake.address);
    let folder = tempfile::tempdir().expect("a folder");
    let origins = logged_in(&fake, folder.path());
    assert_eq!(
        resolved(&registry_of(&fake), &origins).await,
        Ok(bytes.clone().into())
    );
    let tokens: Vec<_> = fake
        .asked()
        .into_iter()
        .filter(|(path, _)| path.starts_with("/token"))
        .collect();
    let expected = "/token?a=b&scope=repository%3Aacme%2Forders%3Apull&service=x+y";
    assert_eq!(
        tokens,
        [(expected.to_owned(), "Basic YWNtZTpodXNo".to_owned())]
    );
    assert_eq!(
        storage.asked(),
        [("/signed?token=x".to_owned(), String::new())]
    );

    // Without a log-in it is asked for a token all the same, as nobody.
    let got = fetched(&registry_of(&fake), &Origins::default(), &bytes, 0, &[]).await;
    assert!(got.expect("fetched").faults.is_empty());
    assert_eq!(
        fake.asked()
            .iter()
            .filter(|(_, who)| who.starts_with("Basic"))
            .count(),
        1
    );
}

#[tokio::test]
async fn a_registry_that_wants_no_more_than_it_says_is_told_from_others() {
    let bytes = payload(1, 1_000);
    let check = async |reply: Reply, parts: &[&str]| {
        let fake = Fake::serve(move |path, _| match path {
            TAGGED => reply.clone(),
            _ => no(),
        })
        .await;
        blamed(
            resolved(&registry_of(&fake), &Origins::default()).await,
            parts,
        );
    };
    check(ok(&b"<html>"[..]), &["source-unusable", "not of the form"]).await;
    check(ok(manifest(&[])), &["source-unusable", "no layer"]).await;
    check(
        ok(manifest(&[("a/tar+gzip", &bytes)])),
        &["source-unusable", "packed"],
    )
    .await;
    check(
        ok(manifest(&[("application/wasm", &bytes)])),
        &["fetch-failed", "404"],
    )
    .await;
    check(ok(vec![b' '; MANIFEST_BYTES_MAX + 1]), &["oversized"]).await;
    check(no(), &["fetch-failed", "404"]).await;
    let huge =
        serde_json::json!({"layers": [{"digest": Digest::of(b"").to_string(), "size": u64::MAX}]});
    check(ok(huge.to_string()), &["oversized"]).await;
    let list = serde_json::json!({"manifests": [{"digest": Digest::of(b"").to_string()}]});
    check(ok(list.to_string()), &["fetch-failed", "404"]).await;
    for challenge in ["Negotiate", "Basic realm=\"x\"", ""] {
        let challenge = ("www-authenticate", challenge.to_owned());
        check(
            (401, Some(challenge), Bytes::new()),
            &["fetch-failed", "401"],
        )
        .await;
    }
    let elsewhere = "Bearer realm=\"ftp://127.0.0.1/token\"".to_owned();
    check(
        (401, Some(("www-authenticate", elsewhere)), Bytes::new()),
        &["source-unusable", "unprotected"],
    )
    .await;
}

/// The manifest of a list is named by its digest: another one is noticed.
#[tokio::test]
async fn case_27_a_registry_that_serves_another_manifest_or_layer_is_blamed() {
    let bytes = payload(1, 1_000);
    let inner = manifest(&[("application/wasm", &bytes)]);
    let list = serde_json::json!({"manifests": [{"digest": Digest::of(&inner).to_string()}]});
    let list = list.to_string();
    let serve = async |inner: Bytes, layer: Vec<u8>| {
        let (list, place) = (list.clone(), blob(&bytes));
        Fake::serve(move |path, _| match path {
            TAGGED => ok(list.clone()),
            path if path == place => ok(layer.clone()),
            path if path.starts_with("/v2/acme/orders/manifests/sha256:") => ok(inner.clone()),
            _ => no(),
        })
        .await
    };
    let honest = serve(inner.clone(), bytes.clone()).await;
    assert_eq!(
        resolved(&registry_of(&honest), &Origins::default()).await,
        Ok(bytes.clone().into())
    );
    let other = manifest(&[("application/wasm", b"other")]);
    let liar = serve(other, bytes.clone()).await;
    blamed(
        resolved(&registry_of(&liar), &Origins::default()).await,
        &[
            "digest-mismatch",
            &format!("`http://{}/v2/acme/orders/manifests/", liar.address),
        ],
    );
    let liar = serve(inner, payload(2, 1_000)).await;
    let name = format!(
        "`registry:{}/acme/orders:1.2` has other bytes",
        liar.address
    );
    blamed(
        resolved(&registry_of(&liar), &Origins::default()).await,
        &["digest-mismatch", &name],
    );
}
