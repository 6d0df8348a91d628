//! What concerns Redis alone, and its connections.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use realm_backends::keyvalue::Redis;
use realm_backends::{Access, Unwatched, Watch};
use realm_model::cloud::{CloudError, KeyValue, limits};

use crate::checks::{SECOND, wait_until};
use crate::races::write_until_it_is_back;
use crate::servers::{self, Server, Tls, words};
use crate::{Bench, Can, conformance};

conformance!(start(servers::redis(&[])));

/// What took over from it in the open.
mod valkey {
    use super::*;

    conformance!(start(servers::valkey()));
}

fn start(server: Server) -> Bench {
    Bench {
        store: Arc::new(open(&server, &access(None))),
        can: Can {
            end_keys: true,
            commit_many: true,
            count_bytes: false,
            tell_each_change: false,
            value_bytes_max: limits::VALUE_BYTES_MAX,
        },
        _held: Box::new(server),
    }
}

fn access(password: Option<&str>) -> Access {
    Access {
        password: password.map(|one| one.to_owned().into()),
        prefix: "shop:".to_owned(),
        ..Access::default()
    }
}

fn open(server: &Server, access: &Access) -> Redis {
    Redis::new(&server.at(false), 0, access, Arc::new(Unwatched)).unwrap()
}

/// What another program sees and does.
fn cli(server: &Server, arguments: &[&str]) -> String {
    let port = server.port.to_string();
    let output = Command::new("redis-cli")
        .args(["-p", &port])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Remembers what the operator is told.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<String>>);

impl Watch for Told {
    fn down(&self, why: &str) {
        self.0.lock().unwrap().push(why.to_owned());
    }

    fn up(&self) {
        self.0.lock().unwrap().push("up".to_owned());
    }
}

impl Told {
    pub(crate) fn has(&self, words: &str) -> bool {
        self.0.lock().unwrap().iter().any(|one| one.contains(words))
    }
}

#[tokio::test]
async fn other_programs_read_and_write_the_same() {
    let server = servers::redis(&[]);
    let store = open(&server, &access(None));
    store.set("default", "color", b"green", None).await.unwrap();
    store.set("a:b", "k", b"x", None).await.unwrap();
    assert_eq!(cli(&server, &["GET", "shop:%default:color"]), "green");
    assert_eq!(cli(&server, &["GET", "shop:%a%3Ab:k"]), "x");
    cli(&server, &["SET", "shop:%default:n", "41"]);
    assert_eq!(store.increment("default", "n", 1).await, Ok(42));
    cli(&server, &["RPUSH", "shop:%default:list", "x"]);
    let refused = store.get("default", "list").await.unwrap_err();
    assert_eq!(refused.code(), "invalid");
    assert!(!refused.to_string().contains("WRONGTYPE"), "{refused}");
    let mut keys = crate::listing::all_keys(&store, "default").await;
    keys.sort();
    assert_eq!(keys, ["color", "n"], "what is no value is not listed");
    let mut changes = store.watch("default").await.unwrap();
    cli(&server, &["SET", "shop:%default:color", "red"]);
    assert_eq!(changes.next().await.unwrap().value, Some(b"red".to_vec()));
    let large = "x".repeat(1024);
    cli(
        &server,
        &["SETRANGE", "shop:%default:huge", "20000000", &large],
    );
    assert_eq!(
        store.get("default", "huge").await.unwrap_err().code(),
        "too-large"
    );
    assert_eq!(
        store
            .get_many("default", &["huge".to_owned()])
            .await
            .unwrap_err()
            .code(),
        "too-large"
    );
}

#[tokio::test]
async fn databases_are_apart() {
    let server = servers::redis(&[]);
    let first = open(&server, &access(None));
    let second = Redis::new(&server.at(false), 3, &access(None), Arc::new(Unwatched)).unwrap();
    first.set("a", "k", b"0", None).await.unwrap();
    assert_eq!(second.get("a", "k").await, Ok(None));
    let mut changes = second.watch("a").await.unwrap();
    first.set("a", "k", b"1", None).await.unwrap();
    second.set("a", "k", b"3", None).await.unwrap();
    assert_eq!(changes.next().await.unwrap().value, Some(b"3".to_vec()));
    assert_eq!(cli(&server, &["-n", "3", "GET", "shop:%a:k"]), "3");
}

#[tokio::test]
async fn a_server_without_notifications_is_not_watched() {
    let server = servers::redis(&words("--notify-keyspace-events Kg$"));
    let told = Arc::new(Told::default());
    let store = Redis::new(&server.at(false), 0, &access(None), told.clone()).unwrap();
    let began = Instant::now();
    let Err(error) = store.watch("a").await else {
        panic!("nothing would come");
    };
    assert_eq!(error.code(), "unsupported");
    assert!(began.elapsed() < 5 * SECOND);
    assert!(told.has("notify-keyspace-events"), "{:?}", told.0);
    store.set("a", "k", b"x", None).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_told_to_the_operator_alone() {
    let server = servers::redis(&words("--requirepass hunter2"));
    let told = Arc::new(Told::default());
    let open =
        |password| Redis::new(&server.at(false), 0, &access(password), told.clone()).unwrap();
    for password in [Some("wrong"), None] {
        let error = open(password).get("a", "k").await.unwrap_err();
        assert_eq!(error, CloudError::Unavailable, "{password:?}");
    }
    assert!(
        told.has("WRONGPASS") || told.has("uthentication"),
        "{:?}",
        told.0
    );
    assert!(told.has("NOAUTH"), "{:?}", told.0);
    assert!(!told.has("hunter2") && !told.has("wrong\""), "{:?}", told.0);
    assert_eq!(open(Some("hunter2")).get("a", "k").await, Ok(None));
}

/// With a name, as `user default` or one of an ACL.
#[tokio::test]
async fn a_user_of_an_acl_does_what_it_may() {
    let server = servers::redis(&[]);
    cli(
        &server,
        &[
            "ACL",
            "SETUSER",
            "shop",
            "on",
            ">pass",
            "~shop:*",
            "+@all",
            "-@dangerous",
        ],
    );
    cli(
        &server,
        &[
            "ACL", "SETUSER", "other", "on", ">pass", "~other:*", "+@all",
        ],
    );
    let told = Arc::new(Told::default());
    let open = |user: &str| {
        let mut access = access(Some("pass"));
        access.user = Some(user.to_owned());
        Redis::new(&server.at(false), 0, &access, told.clone()).unwrap()
    };
    let store = open("shop");
    store.set("a", "k", b"x", None).await.unwrap();
    assert_eq!(store.get("a", "k").await, Ok(Some(b"x".to_vec())));
    let seen = store.read("a", "k").await.unwrap();
    store.swap("a", "k", &seen.revision, b"y").await.unwrap();
    let error = open("other").get("a", "k").await.unwrap_err();
    assert_eq!(error, CloudError::Unavailable);
    assert!(
        told.has("NOPERM") || told.has("permissions"),
        "{:?}",
        told.0
    );
}

#[tokio::test]
async fn tls_is_spoken_with_who_has_the_certificate() {
    let tls = Tls::new();
    let server = servers::redis_tls(&tls);
    let told = Arc::new(Told::default());
    let mut access = access(None);
    let stranger = Redis::new(&server.at(true), 0, &access, told.clone()).unwrap();
    assert_eq!(stranger.get("a", "k").await, Err(CloudError::Unavailable));
    assert!(
        told.has("UnknownIssuer") || told.has("certificate"),
        "{:?}",
        told.0
    );
    access.authorities = Some(tls.authority.clone());
    let store = Redis::new(&server.at(true), 0, &access, told.clone()).unwrap();
    store.set("a", "k", &[1; 100_000], None).await.unwrap();
    assert_eq!(store.get("a", "k").await, Ok(Some(vec![1; 100_000])));
    let mut elsewhere = server.at(true);
    elsewhere.host = "127.0.0.1".to_owned();
    let another = Redis::new(&elsewhere, 0, &access, told.clone()).unwrap();
    assert_eq!(
        another.get("a", "k").await,
        Err(CloudError::Unavailable),
        "another name"
    );
    access.authorities = Some("/nonexistent".into());
    let missing = Redis::new(&server.at(true), 0, &access, told.clone());
    assert!(missing.is_err_and(|error| error.to_string().contains("/nonexistent")));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_in_time() {
    let mut server = servers::redis(&[]);
    let told = Arc::new(Told::default());
    let store = Redis::new(&server.at(false), 0, &access(None), told.clone()).unwrap();
    server.kill();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(store.get("a", "k").await, Err(CloudError::Unavailable));
        let set = store.set("a", "k", b"x", None).await;
        assert_eq!(set, Err(CloudError::Unavailable));
        let watched = store.watch("a").await.err();
        assert_eq!(watched, Some(CloudError::Unavailable));
    }
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    assert!(
        told.has(&format!("127.0.0.1:{}", server.port)),
        "{:?}",
        told.0
    );
    server.run();
    wait_until(5 * SECOND, async || store.get("a", "k").await == Ok(None)).await;
    assert!(told.has("up"));
}

#[tokio::test]
async fn a_server_that_hangs_is_an_error_in_time() {
    let server = servers::redis(&[]);
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
    wait_until(10 * SECOND, async || {
        store.get("a", "k").await == Ok(Some(b"x".to_vec()))
    })
    .await;
}

/// Killed in the middle of the work, and back: nothing that was acknowledged is lost, callers hear of
/// what was not, and who watched is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back() {
    let mut server = servers::redis(&[]);
    let store = Arc::new(open(&server, &access(None)));
    let mut changes = store.watch("a").await.unwrap();
    let writing = tokio::spawn(write_until_it_is_back(store.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill();
    let watching = async {
        loop {
            if let Err(error) = changes.next().await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(10 * SECOND, watching).await.unwrap();
    assert!(
        matches!(error, CloudError::Unavailable | CloudError::Timeout),
        "{error:?}"
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.run();
    let (done, failed) = writing.await.unwrap();
    assert!(failed > 0);
    for key in &done {
        let value = store.get("a", key).await.unwrap();
        assert_eq!(value.as_deref(), Some(key.as_bytes()), "{key}");
    }
}

/// A connection that broke while nobody used it costs no call.
#[tokio::test]
async fn a_restart_between_calls_is_not_seen() {
    let mut server = servers::redis(&[]);
    let store = open(&server, &access(None));
    for nth in 0..8 {
        store.set("a", &nth.to_string(), b"x", None).await.unwrap();
    }
    server.kill();
    server.run();
    // Before that it says that it is loading, which a call is told.
    wait_until(10 * SECOND, async || cli(&server, &["ping"]) == "PONG").await;
    for nth in 0..8 {
        assert_eq!(
            store.get("a", &nth.to_string()).await,
            Ok(Some(b"x".to_vec()))
        );
    }
}

/// What somebody else may say on the server's channels, and write under the prefix.
#[tokio::test]
async fn a_watcher_keeps_no_more_than_it_should() {
    // A server that itself keeps what its clients do not take.
    let server = servers::redis(&words("--client-output-buffer-limit pubsub 0 0 0"));
    let store = open(&server, &access(None));
    let mut changes = store.watch("a").await.unwrap();
    let long = "x".repeat(limits::KEY_BYTES_MAX + 1);
    let channel = format!("__keyspace@0__:shop:%a:{long}");
    assert_eq!(cli(&server, &["PUBLISH", &channel, "set"]), "1");
    cli(&server, &["SET", "shop:%a:k", "v"]);
    let change = changes.next().await.unwrap();
    assert_eq!((&*change.key, change.value), ("k", Some(b"v".to_vec())));
    // 64 MiB of names that nobody takes.
    let script = "for i = 1, 65536 do \
                  redis.call('PUBLISH', '__keyspace@0__:shop:%a:' .. i .. string.rep('x', 1000), 'set') end";
    cli(&server, &["EVAL", script, "0"]);
    let began = Instant::now();
    let mut n_bytes = 0;
    let error = loop {
        match changes.next().await {
            Ok(change) => n_bytes += change.key.len(),
            Err(error) => break error,
        }
        assert!(n_bytes < 32 << 20, "{n_bytes} bytes of names were kept");
        assert!(began.elapsed() < 60 * SECOND);
    };
    assert!(error.to_string().contains("fell behind"), "{error}");
}

/// A connection that nobody can say of what the server did with it: the call fails, and is not done twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_connection_breaks_is_not_sent_again() {
    let server = servers::redis(&[]);
    let (port, broken) = way(server.port, |text| {
        let writes = ["SET", "MSET", "UNLINK"];
        let is_write = |one: &&str| text.contains(&format!("\r\n{one}\r\n"));
        match writes.iter().any(is_write) {
            true => Way::Breaks,
            false => Way::Open,
        }
    })
    .await;
    let mut at = server.at(false);
    at.port = port;
    let store = Redis::new(&at, 0, &access(None), Arc::new(Unwatched)).unwrap();
    store.delete("a", "k").await.unwrap_err();
    let set = store.set("a", "k", b"1", None).await;
    assert_eq!(set, Err(CloudError::Unavailable));
    let many = [("k".to_owned(), b"2".to_vec())];
    store.set_many("a", &many).await.unwrap_err();
    store.delete_many("a", &["k".to_owned()]).await.unwrap_err();
    assert_eq!(broken.load(Ordering::Relaxed), 4);
    assert_eq!(store.get("a", "k").await, Ok(None));
}

/// What happens on the way to a server.
enum Way {
    Open,
    /// It takes so long.
    Slow(Duration),
    /// It breaks after the server did what it was asked.
    Breaks,
}

/// A way to the server, for what is sent to it: how often it broke.
async fn way(to: u16, on: fn(&str) -> Way) -> (u16, Arc<AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let broken = Arc::new(AtomicUsize::new(0));
    let count = broken.clone();
    tokio::spawn(async move {
        while let Ok((mut guest, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await;
                let mut server = server.unwrap();
                let (mut sent, mut answered) = ([0; 4096], [0; 4096]);
                loop {
                    tokio::select! {
                        n = guest.read(&mut sent) => {
                            let Ok(n @ 1..) = n else { return };
                            let what = on(&String::from_utf8_lossy(&sent[..n]));
                            if let Way::Slow(time) = what {
                                tokio::time::sleep(time).await;
                            }
                            server.write_all(&sent[..n]).await.unwrap();
                            if let Way::Breaks = what {
                                let _ = server.read(&mut answered).await;
                                count.fetch_add(1, Ordering::Relaxed);
                                return;
                            }
                        }
                        n = server.read(&mut answered) => {
                            let Ok(n @ 1..) = n else { return };
                            guest.write_all(&answered[..n]).await.unwrap();
                        }
                    }
                }
            });
        }
    });
    (port, broken)
}

/// Each of its requests is answered in time, and there are twenty of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_on_a_slow_server_ends_in_time() {
    let server = servers::redis(&[]);
    let script = "for i = 1, 8000 do redis.call('SET', 'else' .. i, '') end";
    cli(&server, &["EVAL", script, "0"]);
    let (port, _) = way(server.port, |text| {
        if text.contains("\r\nSCAN\r\n") {
            Way::Slow(Duration::from_millis(1_500))
        } else {
            Way::Open
        }
    })
    .await;
    let mut at = server.at(false);
    at.port = port;
    let store = Redis::new(&at, 0, &access(None), Arc::new(Unwatched)).unwrap();
    let began = Instant::now();
    assert_eq!(store.keys("a", None).await, Err(CloudError::Timeout));
    let longest = Duration::from_millis(limits::CALL_TIMEOUT_MS) + 10 * SECOND;
    assert!(began.elapsed() < longest, "{:?}", began.elapsed());
}

/// Told once that a call failed for what the server is, the operator hears when calls succeed again, also
/// where the connection stood all the time.
#[tokio::test]
async fn the_operator_hears_when_it_answers_again() {
    let server = servers::redis(&[]);
    let told = Arc::new(Told::default());
    let store = Redis::new(&server.at(false), 0, &access(None), told.clone()).unwrap();
    store.set("a", "k", b"x", None).await.unwrap();
    cli(
        &server,
        &[
            "ACL",
            "SETUSER",
            "default",
            "-get",
            "-getrange",
            "-eval",
            "-evalsha",
        ],
    );
    for _ in 0..8 {
        assert_eq!(store.get("a", "k").await, Err(CloudError::Unavailable));
    }
    let last = || told.0.lock().unwrap().last().cloned();
    assert_ne!(last().as_deref(), Some("up"));
    cli(&server, &["ACL", "SETUSER", "default", "+@all"]);
    assert_eq!(store.get("a", "k").await, Ok(Some(b"x".to_vec())));
    assert_eq!(last().as_deref(), Some("up"));
}
