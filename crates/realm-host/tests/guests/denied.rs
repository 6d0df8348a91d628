//! One test per capability: without a grant there is nothing, with one there is that.

use realm_model::grants::{ClockGrant, DirGrant};
use realm_test_guests as guests;

use crate::harness::{Loaded, guest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn env_dump() {
    let nothing = guest(guests::ENV_DUMP).load();
    assert_eq!(
        nothing.body("/").await,
        "{\"env\":{},\"args\":[],\"cwd\":null}\n"
    );
    let granted = guest(guests::ENV_DUMP)
        .grants(|grants| {
            grants.env.insert("A".into(), "1".into());
            grants.args.push("--fast".into());
        })
        .load();
    assert_eq!(
        granted.body("/").await,
        "{\"env\":{\"A\":\"1\"},\"args\":[\"guest\",\"--fast\"],\"cwd\":null}\n"
    );
}

fn files_of(folder: &std::path::Path, writable: bool) -> Loaded {
    let host = folder.to_str().unwrap().to_owned();
    guest(guests::FILES)
        .config(|config| config.policy.dirs = vec![host.clone()])
        .grants(|grants| {
            grants.dirs = vec![DirGrant {
                host,
                guest: "/data".into(),
                writable,
            }];
        })
        .load()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn files() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "inside").unwrap();
    std::fs::write(outside.path().join("b"), "outside").unwrap();
    std::os::unix::fs::symlink(outside.path().join("b"), folder.path().join("link")).unwrap();

    let nothing = guest(guests::FILES).load();
    assert_eq!(nothing.body("/preopens").await, "{\"ok\":\"\"}\n");
    assert!(
        nothing
            .body("/read?path=/etc/passwd")
            .await
            .contains("error")
    );
    assert!(nothing.body("/list?path=/").await.contains("error"));

    let reader = files_of(folder.path(), false);
    assert_eq!(reader.body("/preopens").await, "{\"ok\":\"/data\"}\n");
    assert_eq!(
        reader.body("/read?path=/data/a").await,
        "{\"ok\":\"inside\"}\n"
    );
    for target in [
        "/write?path=/data/a&text=x",
        "/write?path=/data/new&text=x",
        "/remove?path=/data/a",
        "/read?path=/data/link",
        "/read?path=/data/../etc/passwd",
        "/read?path=/etc/passwd",
    ] {
        assert!(reader.body(target).await.contains("error"), "{target}");
    }
    assert_eq!(
        std::fs::read_to_string(folder.path().join("a")).unwrap(),
        "inside"
    );
    assert!(!folder.path().join("new").exists());

    let writer = files_of(folder.path(), true);
    assert!(
        writer
            .body("/write?path=/data/new&text=x")
            .await
            .contains("ok")
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("new")).unwrap(),
        "x"
    );
    assert!(
        writer
            .body("/write?path=/data/link&text=x")
            .await
            .contains("error")
    );
    assert_eq!(
        std::fs::read_to_string(outside.path().join("b")).unwrap(),
        "outside"
    );
}

#[test]
fn a_directory_that_the_operator_does_not_allow_is_not_granted() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = guest(guests::FILES)
        .grants(|grants| {
            grants.dirs = vec![DirGrant {
                host: folder.path().to_str().unwrap().into(),
                guest: "/data".into(),
                writable: false,
            }];
        })
        .try_load();
    assert_eq!(loaded.map(drop).unwrap_err().code(), "dir-denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sockets() {
    // Somebody listens, so that a connection would be made if it were allowed.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let guest = guest(guests::SOCKETS)
        .config(|config| config.policy.private_ranges = vec!["127.0.0.0/8".into()])
        .load();
    let told = guest.body(&format!("/?address={address}")).await;
    assert!(!told.contains("\"open\""), "{told}");
    for door in ["tcp_connect", "tcp_listen", "udp_send", "udp_bind"] {
        assert!(
            told.contains(&format!("\"{door}\":\"access-denied\"")),
            "{door}: {told}"
        );
    }
    assert!(told.contains("\"resolve\":"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn clock() {
    for (grant, monotonic, wall) in [
        (ClockGrant::None, 0..=0, 0..=0),
        (
            ClockGrant::Coarse,
            1_000_000..=u128::MAX,
            1_000_000..=u128::MAX,
        ),
        (ClockGrant::Precise, 1..=999_999, 1..=999_999),
    ] {
        let guest = guest(guests::CLOCK)
            .grants(|grants| grants.clock = grant)
            // It reads the clock many thousand times, which takes a while on a busy machine.
            .limits(|limits| limits.epoch_timeout_ms = 20_000)
            .load();
        let told = guest.body("/").await;
        assert!(
            monotonic.contains(&number(&told, "monotonic_step")),
            "{grant:?}: {told}"
        );
        assert!(
            wall.contains(&number(&told, "wall_step")),
            "{grant:?}: {told}"
        );
        let stands = number(&told, "wall_now") == 0 && number(&told, "monotonic_now") == 0;
        assert_eq!(stands, grant == ClockGrant::None, "{told}");
    }
}

/// The same of WASI 0.3: environment, arguments, directories and clocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_grants() {
    // It reads the clocks many thousand times, which takes a while on a busy machine.
    let patient = || guest(guests::P3_GRANTS).limits(|limits| limits.epoch_timeout_ms = 20_000);
    let nothing = patient()
        .grants(|grants| grants.clock = ClockGrant::None)
        .load();
    assert_eq!(
        nothing.body("/").await,
        r#"{"env":{},"args":[],"cwd":null,"dirs":[],"monotonic_step":0,"wall_step":0}"#
    );

    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("a"), "above").unwrap();
    std::fs::write(folder.path().join("data/a"), "inside").unwrap();
    std::fs::write(outside.path().join("b"), "outside").unwrap();
    let link = folder.path().join("data/link");
    std::os::unix::fs::symlink(outside.path().join("b"), link).unwrap();
    for writable in [false, true] {
        let host = folder.path().join("data").to_str().unwrap().to_owned();
        let granted = patient()
            .config(|config| config.policy.dirs = vec![host.clone()])
            .grants(|grants| {
                grants.env.insert("A".into(), "1".into());
                grants.args.push("--fast".into());
                grants.dirs = vec![DirGrant {
                    host,
                    guest: "/data".into(),
                    writable,
                }];
            })
            .load();
        let told = granted.body("/").await;
        let expected = format!(
            r#"{{"env":{{"A":"1"}},"args":["guest","--fast"],"cwd":null,"dirs":[{{"name":"/data","read":true,"link":false,"up":false,"write":{writable}}}],"#
        );
        assert!(told.starts_with(&expected), "{told}");
        assert_eq!(folder.path().join("data/new").exists(), writable);
        // A millisecond each, and not finer.
        for clock in ["monotonic_step", "wall_step"] {
            assert!(number(&told, clock) >= 1_000_000, "{told}");
        }
    }
}

fn number(json: &str, key: &str) -> u128 {
    let (_, rest) = json.split_once(&format!("\"{key}\":")).unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn random() {
    for (path, few, many) in [
        (guests::RANDOM, "/?bytes=16", "/?bytes=1048577"),
        (guests::P3_GRANTS, "/random/16", "/random/1048577"),
    ] {
        let guest = guest(path).load();
        let (one, two) = (guest.body(few).await, guest.body(few).await);
        for source in ["secure", "insecure", "seed"] {
            let of = |json: &str| {
                let (_, value) = json.split_once(&format!("\"{source}\":\"")).unwrap();
                value[..32].to_owned()
            };
            assert_ne!(of(&one), of(&two), "{path} {source}");
        }
        // No more than a mebibyte at once: WASI 0.3 says how much it wants at most, and gets less.
        if path == guests::RANDOM {
            assert_eq!(guest.refusal(many).await.0, "trap");
            continue;
        }
        let told = guest.body(many).await;
        let digits = |part: &str| part.split('"').next().map_or(0, str::len);
        let longest = told.split(":\"").map(digits).max();
        assert_eq!(longest, Some(2 * 1024 * 1024));
    }
}
