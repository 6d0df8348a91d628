//! What concerns NATS alone, and its connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream;
use realm_backends::Access;
use realm_backends::keyvalue::Nats;
use realm_model::cloud::{CloudError, KeyValue, limits};

use crate::checks::{SECOND, wait_until};
use crate::races::write_until_it_is_back;
use crate::redis::Told;
use crate::servers::{self, Server, Tls};
use crate::{Bench, Can, conformance};

/// On what Debian has.
mod installed {
    use super::*;

    // The end of single keys came with 2.11.
    conformance!(start(
        servers::nats("", None),
        servers::nats_version() >= (2, 11)
    ));
}

/// On one that ends keys.
mod newer {
    use super::*;

    conformance!(start(servers::newer_nats(), true));
}

fn start(server: Server, end_keys: bool) -> Bench {
    Bench {
        store: Arc::new(open(&server, &access(None))),
        can: Can {
            end_keys,
            commit_many: false,
            count_bytes: false,
            tell_each_change: false,
            value_bytes_max: 1024 * 1024 - 1024,
        },
        _held: Box::new(server),
    }
}

fn access(password: Option<&str>) -> Access {
    Access {
        password: password.map(|one| one.to_owned().into()),
        prefix: "shop".to_owned(),
        ..Access::default()
    }
}

fn open(server: &Server, access: &Access) -> Nats {
    Nats::new(&server.at(false), access, Arc::new(Told::default())).unwrap()
}

/// What another program sees and does.
async fn other(server: &Server) -> async_nats::jetstream::Context {
    let client = async_nats::connect(format!("127.0.0.1:{}", server.port))
        .await
        .unwrap();
    async_nats::jetstream::new(client)
}

#[tokio::test]
async fn other_programs_read_and_write_the_same() {
    let server = servers::nats("", None);
    let store = open(&server, &access(None));
    store.set("default", "color", b"green", None).await.unwrap();
    store.set("default", "a b", b"x", None).await.unwrap();
    let other = other(&server).await;
    let bucket = other.get_key_value("shop__default").await.unwrap();
    assert_eq!(bucket.get("color").await.unwrap().unwrap(), "green");
    assert_eq!(bucket.get("a=20b").await.unwrap().unwrap(), "x");
    let mut changes = store.watch("default").await.unwrap();
    bucket.put("n", "41".into()).await.unwrap();
    assert_eq!(changes.next().await.unwrap().value, Some(b"41".to_vec()));
    assert_eq!(store.increment("default", "n", 1).await, Ok(42));
    bucket.put("not=a=key", "x".into()).await.unwrap();
    bucket.purge("color").await.unwrap();
    assert_eq!(store.get("default", "color").await, Ok(None));
    let mut keys = crate::listing::all_keys(&store, "default").await;
    keys.sort();
    assert_eq!(keys, ["a b", "n"]);
    let nothing = store.get("never written", "k").await;
    assert_eq!(nothing, Ok(None));
    assert!(
        other.get_key_value("shop__never_20written").await.is_err(),
        "reading makes nothing"
    );
}

#[tokio::test]
async fn a_bucket_with_a_history_is_not_used() {
    let server = servers::nats("", None);
    let config = stream::Config {
        name: "KV_shop__default".to_owned(),
        subjects: vec!["$KV.shop__default.>".to_owned()],
        max_messages_per_subject: 5,
        allow_direct: true,
        ..stream::Config::default()
    };
    other(&server).await.create_stream(config).await.unwrap();
    let told = Arc::new(Told::default());
    let store = Nats::new(&server.at(false), &access(None), told.clone()).unwrap();
    assert_eq!(
        store.get("default", "k").await,
        Err(CloudError::Unavailable)
    );
    assert!(told.has("more than the last value"), "{:?}", told.0);
}

/// Somebody deletes a bucket under the node: an error or two, and a new bucket.
#[tokio::test]
async fn a_bucket_that_is_deleted_comes_back_empty() {
    let server = servers::nats("", None);
    let store = open(&server, &access(None));
    store.set("default", "k", b"x", None).await.unwrap();
    other(&server)
        .await
        .delete_key_value("shop__default")
        .await
        .unwrap();
    wait_until(10 * SECOND, async || {
        store.get("default", "k").await == Ok(None)
    })
    .await;
    wait_until(10 * SECOND, async || {
        store.set("default", "k", b"y", None).await.is_ok()
    })
    .await;
    assert_eq!(store.get("default", "k").await, Ok(Some(b"y".to_vec())));
}

#[tokio::test]
async fn a_wrong_password_is_told_to_the_operator_alone() {
    let server = servers::nats("--user shop --pass hunter2", None);
    let told = Arc::new(Told::default());
    let open = |user: Option<&str>, password| {
        let mut access = access(password);
        access.user = user.map(str::to_owned);
        Nats::new(&server.at(false), &access, told.clone()).unwrap()
    };
    for (user, password) in [
        (Some("shop"), Some("wrong")),
        (None, Some("hunter2")),
        (None, None),
    ] {
        let error = open(user, password).get("a", "k").await.unwrap_err();
        assert_eq!(error, CloudError::Unavailable, "{user:?}");
    }
    assert!(told.has("uthorization"), "{:?}", told.0);
    assert!(!told.has("hunter2"), "{:?}", told.0);
    assert_eq!(
        open(Some("shop"), Some("hunter2")).get("a", "k").await,
        Ok(None)
    );
    let server = servers::nats("--auth token", None);
    assert_eq!(
        self::open(&server, &access(Some("token")))
            .get("a", "k")
            .await,
        Ok(None)
    );
}

#[tokio::test]
async fn tls_is_spoken_with_who_has_the_certificate() {
    let tls = Tls::new();
    let server = servers::nats("", Some(&tls));
    let told = Arc::new(Told::default());
    let mut access = access(None);
    let stranger = Nats::new(&server.at(true), &access, told.clone()).unwrap();
    assert_eq!(stranger.get("a", "k").await, Err(CloudError::Unavailable));
    assert!(
        told.has("UnknownIssuer") || told.has("certificate"),
        "{:?}",
        told.0
    );
    access.authorities = Some(tls.authority.clone());
    let store = Nats::new(&server.at(true), &access, told.clone()).unwrap();
    store.set("a", "k", &[1; 100_000], None).await.unwrap();
    assert_eq!(store.get("a", "k").await, Ok(Some(vec![1; 100_000])));
    let mut elsewhere = server.at(true);
    elsewhere.host = "127.0.0.1".to_owned();
    let another = Nats::new(&elsewhere, &access, told.clone()).unwrap();
    assert_eq!(
        another.get("a", "k").await,
        Err(CloudError::Unavailable),
        "another name"
    );
}

#[tokio::test]
async fn a_server_without_jetstream_is_told() {
    let server = Server::start("nats-server", "nats-server", |port, _| {
        servers::words(&format!("-a 127.0.0.1 -p {port}"))
    });
    let told = Arc::new(Told::default());
    let store = Nats::new(&server.at(false), &access(None), told.clone()).unwrap();
    let began = Instant::now();
    assert_eq!(
        store.set("a", "k", b"x", None).await,
        Err(CloudError::Unavailable)
    );
    assert!(began.elapsed() < 6 * SECOND, "{:?}", began.elapsed());
    assert!(!told.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_in_time() {
    let mut server = servers::nats("", None);
    let told = Arc::new(Told::default());
    let open = || Nats::new(&server.at(false), &access(None), told.clone()).unwrap();
    let (first, store) = (open(), open());
    first.set("a", "k", b"x", None).await.unwrap();
    server.kill();
    let began = Instant::now();
    for store in [&first, &store] {
        for _ in 0..10 {
            let got = store.get("a", "k").await;
            assert!(
                matches!(got, Err(CloudError::Unavailable | CloudError::Timeout)),
                "{got:?}"
            );
            let set = store.set("a", "k", b"y", None).await;
            assert!(
                matches!(set, Err(CloudError::Unavailable | CloudError::Timeout)),
                "{set:?}"
            );
            let watched = store.watch("a").await.err();
            assert!(watched.is_some());
        }
    }
    assert!(began.elapsed() < 20 * SECOND, "{:?}", began.elapsed());
    assert!(
        told.has(&format!("127.0.0.1:{}", server.port)),
        "{:?}",
        told.0
    );
    server.run();
    for store in [&first, &store] {
        wait_until(10 * SECOND, async || store.get("a", "k").await.is_ok()).await;
    }
    assert!(told.has("up"));
}

#[tokio::test]
async fn a_server_that_hangs_is_an_error_in_time() {
    let server = servers::nats("", None);
    let store = open(&server, &access(None));
    store.set("a", "k", b"x", None).await.unwrap();
    server.signal("-STOP");
    let began = Instant::now();
    let error = store.get("a", "k").await.unwrap_err();
    assert!(
        matches!(error, CloudError::Timeout | CloudError::Unavailable),
        "{error:?}"
    );
    let longest = Duration::from_millis(limits::CALL_TIMEOUT_MS) + SECOND;
    assert!(began.elapsed() < longest, "{:?}", began.elapsed());
    server.signal("-CONT");
    wait_until(20 * SECOND, async || {
        store.get("a", "k").await == Ok(Some(b"x".to_vec()))
    })
    .await;
}

/// Killed in the middle of the work, and back: nothing that was acknowledged is lost, callers hear of
/// what was not, and who watches sees the last of every key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back() {
    let mut server = servers::nats("", None);
    let store = Arc::new(open(&server, &access(None)));
    let mut changes = store.watch("a").await.unwrap();
    let writing = tokio::spawn(write_until_it_is_back(store.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.run();
    let (done, failed) = writing.await.unwrap();
    assert!(failed > 0);
    for key in &done {
        let value = store.get("a", key).await.unwrap();
        assert_eq!(value.as_deref(), Some(key.as_bytes()), "{key}");
    }
    let last = done.last().unwrap();
    let watching = async { while changes.next().await.unwrap().key != *last {} };
    tokio::time::timeout(30 * SECOND, watching)
        .await
        .expect("it goes on");
}

/// A NATS whose account takes so many streams and no more.
fn with_streams(n_max: u32) -> Server {
    Server::start("nats-server", "nats-server", |port, folder| {
        let path = folder.join("nats.conf");
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\n\
             jetstream {{ store_dir: \"{}/js\" }}\n\
             no_auth_user: shop\n\
             accounts {{ A {{ jetstream: {{ max_streams: {n_max} }}, users: [ {{ user: shop, password: x }} ] }} }}\n",
            folder.display()
        );
        std::fs::write(&path, text).unwrap();
        vec!["-c".to_owned(), path.display().to_string()]
    })
}

/// Buckets that the server did not make are none: who tries and tries takes nothing from others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_full_uses_up_no_buckets() {
    let server = with_streams(1);
    let told = Arc::new(Told::default());
    let store = Nats::new(&server.at(false), &access(None), told.clone()).unwrap();
    store.set("first", "k", b"x", None).await.unwrap();
    for _ in 0..21 {
        let sets = (0..50).map(|_| store.set("second", "k", b"x", None));
        for done in futures_util::future::join_all(sets).await {
            assert!(done.is_err());
        }
    }
    // The connection stood all the time: the next call that succeeds ends the alarm.
    let last = || told.0.lock().unwrap().last().cloned();
    assert_ne!(last().as_deref(), Some("up"));
    assert_eq!(store.get("first", "k").await, Ok(Some(b"x".to_vec())));
    assert_eq!(last().as_deref(), Some("up"));
    let other = other(&server).await;
    other.delete_key_value("shop__first").await.unwrap();
    store.set("second", "k", b"x", None).await.unwrap();
    assert_eq!(store.get("second", "k").await, Ok(Some(b"x".to_vec())));
}

/// So many who write into a bucket that is not there yet make one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_writes_make_one_bucket() {
    let server = servers::nats("", None);
    let store = open(&server, &access(None));
    let keys: Vec<String> = (0..1_200).map(|nth| format!("k{nth}")).collect();
    let sets = keys.iter().map(|key| store.set("first", key, b"x", None));
    for done in futures_util::future::join_all(sets).await {
        done.unwrap();
    }
    store.set("second", "k", b"x", None).await.unwrap();
    assert_eq!(store.get("second", "k").await, Ok(Some(b"x".to_vec())));
}

/// The client would panic over a subject that is not the bucket's: who watches hears of an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_names_another_bucket_ends_the_watch() {
    let server = servers::nats("", None);
    let mut at = server.at(false);
    at.port = renaming(server.port).await;
    let store = Nats::new(&at, &access(None), Arc::new(Told::default())).unwrap();
    let mut changes = store.watch("a").await.unwrap();
    store.set("a", "k", b"x", None).await.unwrap();
    let next = tokio::spawn(async move { changes.next().await });
    let next = tokio::time::timeout(60 * SECOND, next).await.unwrap();
    assert_eq!(next.expect("no panic"), Err(CloudError::Unavailable));
}

/// A way to the server on which messages come under other subjects.
async fn renaming(to: u16) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (guest, _) = listener.accept().await.unwrap();
        let server = tokio::net::TcpStream::connect(("127.0.0.1", to))
            .await
            .unwrap();
        let (mut from_guest, mut to_guest) = guest.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_guest, &mut to_server).await });
        let mut bytes = vec![0; 65_536];
        while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
            let mark = b"MSG $KV.";
            let found = bytes[..n].windows(mark.len()).position(|one| one == mark);
            if let Some(at) = found {
                bytes[at + 5] = b'X';
            }
            to_guest.write_all(&bytes[..n]).await.unwrap();
        }
    });
    port
}
