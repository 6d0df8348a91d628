//! `realm run` and `realm serve`: one component, no realm.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use realm_test_guests::{
    BIG_BODY, CGI_ENV, CGI_HELLO, CONFIG, ECHO, FETCH, FILES, HELLO, LIBRARY, MEMORY_BOMB, NET,
    OUTBOUND, P3_COMMAND, P3_ECHO, P3_FETCH, P3_OUTBOUND, PARK, PROGRAM, SPIN,
};

use crate::support::{Realm, Said, eventually, get, said};

#[test]
fn run_passes_streams_arguments_and_the_exit_code_through() {
    let realm = Realm::empty();
    realm.guest(PROGRAM, "program.wasm");
    realm.guest(P3_COMMAND, "p3.wasm");
    let run = |args: &[&str], stdin: &[u8]| fed(&realm, "program.wasm", args, stdin);
    let checked = |file: &str, args: &[&str], stdin: &[u8], code: i32, stdout: &str| {
        let seen = fed(&realm, file, args, stdin);
        assert_eq!(
            (seen.code, seen.stdout.as_str()),
            (code, stdout),
            "{args:?}: {}",
            seen.stderr
        );
    };
    let check = |args: &[&str], stdin: &[u8], code: i32, stdout: &str| {
        checked("program.wasm", args, stdin, code, stdout);
    };
    check(&["echo"], b"what comes in", 0, "what comes in");
    check(&["echo"], b"", 0, "");
    check(&["exit", "33"], b"", 33, "");
    check(&["out", "2"], b"", 0, "line 0\nline 1\n");
    assert!(run(&["mixed"], b"").stderr.contains("err 2"));
    run(&["trap"], b"").fails(1, "trap");
    checked("p3.wasm", &[], b"what comes in", 0, "what comes in");
    checked("p3.wasm", &["fail"], b"in", 1, "in");
    checked("p3.wasm", &["code"], b"", 7, "");
    // Nothing is made in the folder.
    assert!(!realm.path(".realm").exists());
}

/// Runs a file on some input.
fn fed(realm: &Realm, file: &str, args: &[&str], stdin: &[u8]) -> Said {
    let mut child = realm
        .command(&[&["run", file, "--"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who ends without reading closes it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn each_flag_of_run_arrives() {
    let realm = Realm::empty();
    realm.guest(PROGRAM, "program.wasm");
    std::fs::create_dir(realm.path("data")).unwrap();
    realm.write("data/file", "old");
    let run = |flags: &str, args: &str| {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let args: Vec<&str> = args.split_whitespace().collect();
        realm.run(&[&["run"], &*flags, &["program.wasm", "--"], &*args].concat())
    };
    for (flags, args, told) in [
        ("", "env COLOR", "absent"),
        ("--env COLOR=red --env A=b=c", "env COLOR", "red"),
        ("--env COLOR=red --env A=b=c", "env A", "b=c"),
        ("", "told a b", "program.wasm told a b"),
        (
            "--env Z=1 --env B=2 --env A=3 --env B=4",
            "told",
            "program.wasm told Z=1 B=4 A=3",
        ),
        ("--dir data::/data::ro", "read /data/file", "old"),
        ("--dir data::/data", "write /data/file new", "written"),
        ("--dir data::/data::rw", "read /data/file", "new"),
        (
            "--dir data::/data --dir data::/more::ro",
            "read /more/file",
            "new",
        ),
        // Names as conformance suites give them, and as a shell completes them.
        ("--dir data::.", "read file", "new"),
        ("--dir data::.", "dirs", "."),
        ("--dir data --dir data::tests.dir", "dirs", "data tests.dir"),
        ("--dir data::tests.dir", "read tests.dir/file", "new"),
        ("--dir data", "read data/file", "new"),
        ("--dir ./data/../data::/data", "read /data/file", "new"),
    ] {
        let seen = run(flags, args).ok();
        assert_eq!(seen.stdout.trim(), told, "{flags} {args}: {}", seen.stderr);
    }
    let seen = realm
        .command(&["run", "--env", "COLOR", "program.wasm", "env", "COLOR"])
        .env("COLOR", "of the shell")
        .output()
        .unwrap();
    assert_eq!(seen.stdout.trim_ascii(), b"of the shell");
    for (flags, args) in [
        ("--dir data::/data::ro", "write /data/file other"),
        (
            "--dir data::/data --dir data::/more::ro",
            "write /more/file other",
        ),
        ("", "write /data/file other"),
        ("--dir data::data::ro", "write data/file other"),
        ("--dir data::.", "write ../data/file other"),
    ] {
        assert_ne!(run(flags, args).ok().stdout.trim(), "written", "{flags}");
        assert_eq!(realm.read("data/file"), "new", "{flags}");
    }
    for (flags, args, code) in [
        ("--memory-max-mb 8", "bomb", "memory-limit"),
        ("--epoch-timeout-ms 100", "spin", "epoch-timeout"),
        ("--wall-timeout-ms 100", "park", "wall-timeout"),
        // With fuel for a few milliseconds per second it never runs that long.
        (
            "--fuel-per-sec 1000000 --epoch-timeout-ms 1000 --wall-timeout-ms 3000",
            "spin",
            "wall-timeout",
        ),
    ] {
        run(flags, args).fails(1, code);
    }
}

#[test]
fn run_gives_the_network_that_is_named_and_no_other() {
    let realm = Realm::empty();
    realm.guest(PROGRAM, "program.wasm");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"welcome");
        }
    });
    let check = |flags: &[&str], args: &[&str], stdout: &str| -> Said {
        let seen = realm.run(&[&["run"], flags, &["program.wasm", "--"], args].concat());
        assert_eq!(
            seen.stdout.trim(),
            stdout,
            "{flags:?} {args:?}: {}",
            seen.stderr
        );
        seen
    };
    let by_address = format!("127.0.0.1:{port}");
    let by_name = format!("localhost:{port}");
    let denied = check(&[], &["connect", &by_address], "PermissionDenied");
    assert!(
        denied.stderr.contains("outbound-denied: a tcp socket"),
        "{}",
        denied.stderr
    );
    check(&[], &["listen"], "PermissionDenied");
    for (to, rule) in [
        (&by_address, format!("tcp://127.0.0.1:{port}")),
        (&by_name, format!("redis://localhost:{port}")),
    ] {
        check(&["--allow", &rule], &["connect", to], "welcome");
        check(&["--allow", &rule], &["listen"], "PermissionDenied");
    }
    let other = check(
        &["--allow", "tcp://127.0.0.1:1"],
        &["connect", &by_address],
        "PermissionDenied",
    );
    let missing = format!("add `allowed_outbound = [\"tcp://{by_address}\"]`");
    assert!(other.stderr.contains(&missing), "{}", other.stderr);
    // Nobody named the loopback address.
    check(
        &["--allow", "*://*:*"],
        &["connect", &by_address],
        "PermissionDenied",
    );
    check(&["--inherit-network"], &["connect", &by_address], "welcome");
    check(&["--inherit-network"], &["connect", &by_name], "welcome");
    check(&["--inherit-network"], &["listen"], "listening");
}

#[test]
fn run_refuses_what_is_no_program_by_name() {
    let realm = Realm::empty();
    realm.guest(LIBRARY, "library.wasm");
    let said = realm.run(&["run", "library.wasm"]).fails(1, "wrong-world");
    assert!(
        said.stderr.contains("hint: `realm serve FILE`"),
        "{}",
        said.stderr
    );
    std::fs::write(realm.path("module.wasm"), b"\0asm\x01\0\0\0").unwrap();
    realm
        .run(&["run", "module.wasm"])
        .fails(1, "compile-failed");
    realm.run(&["run", "absent.wasm"]).fails(1, "no-file");
    for env in ["ABSENT_HERE", "", "=value"] {
        let seen = realm.run(&["run", "--env", env, "library.wasm"]);
        assert_eq!(seen.code, 64, "{env}: {}", seen.stderr);
    }
    for dir in [
        "",
        "::",
        "::/data",
        "here::",
        "here::ro",
        "here::rw",
        "a::b::c",
        "a::b::ro::rw",
    ] {
        let seen = realm.run(&["run", "--dir", dir, "library.wasm"]);
        let seen = seen.fails(64, "usage");
        assert!(seen.stderr.contains("is not a directory grant"), "{dir}");
    }
    let twice = [
        "run",
        "--dir",
        "a::/d",
        "--dir",
        "b::/d::ro",
        "library.wasm",
    ];
    let seen = realm.run(&twice).fails(64, "usage");
    assert!(
        seen.stderr.contains("two directories are called `/d`"),
        "{}",
        seen.stderr
    );
}

/// Serves a file; (the process, its base URL).
pub(crate) fn serve(realm: &Realm, args: &[&str]) -> (std::process::Child, String) {
    let mut child = realm
        .command(&[&["serve", "--addr", "127.0.0.1:0"], args].concat())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let url = first
        .trim()
        .strip_prefix("Serving HTTP on ")
        .unwrap()
        .to_owned();
    (child, url)
}

/// Ends a server as a person does.
pub(crate) fn interrupt(mut child: std::process::Child) {
    let pid = child.id().to_string();
    assert!(said(kill(&pid)).code == 0);
    assert!(child.wait().unwrap().success());
}

fn kill(pid: &str) -> std::process::Command {
    let mut kill = std::process::Command::new("kill");
    kill.args(["-INT", pid]);
    kill
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_says_where_answers_and_stops_cleanly() {
    let realm = Realm::empty();
    for (guest, answer) in [(HELLO, "hello\n"), (CGI_HELLO, "hello\n")] {
        realm.guest(guest, "app.wasm");
        let (child, url) = serve(&realm, &["app.wasm"]);
        assert_eq!(get(&url).await, (200, answer.to_owned()), "{guest}");
        interrupt(child);
    }
    realm.guest(ECHO, "app.wasm");
    let (child, url) = serve(&realm, &["app.wasm"]);
    let sent = vec![7; 1_000_000];
    let answer = reqwest::Client::new()
        .post(&url)
        .body(sent.clone())
        .send()
        .await
        .unwrap();
    assert!(answer.bytes().await.unwrap() == sent);
    interrupt(child);
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_speaks_each_generation_of_wasi() {
    let realm = Realm::empty();
    for (guest, sent) in [
        (ECHO, "what comes in"),
        (P3_ECHO, "what comes in"),
        (P3_COMMAND, "Content-Type: a/b\n\nwhat comes in"),
    ] {
        realm.guest(guest, "app.wasm");
        let (child, url) = serve(&realm, &["app.wasm"]);
        let answer = reqwest::Client::new().post(&url).body(sent).send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200, "{guest}");
        assert_eq!(answer.text().await.unwrap(), "what comes in", "{guest}");
        interrupt(child);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_ends_after_the_requests_in_flight() {
    let realm = Realm::empty();
    realm.guest(ECHO, "app.wasm");
    let (mut child, url) = serve(&realm, &["app.wasm"]);
    let address = url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let mut client = TcpStream::connect(address).unwrap();
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(b"3\r\none\r\n").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"one\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
    assert!(said(kill(&child.id().to_string())).code == 0);
    // It takes no more, and the one that it has it answers to its end.
    eventually("it listens no more", async || {
        TcpStream::connect(address).is_err().then_some(())
    })
    .await;
    assert!(child.try_wait().unwrap().is_none());
    client.write_all(b"3\r\ntwo\r\n0\r\n\r\n").unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "3\r\ntwo\r\n0\r\n\r\n");
    assert!(child.wait().unwrap().success());
}

/// A server that says `welcome` to who has said all; its port.
fn welcoming() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
            let _ = stream.write_all(b"welcome");
        }
    });
    port
}

/// What an answer of `serve` says first of all: the code of an error, or its body.
async fn told(url: &str) -> String {
    let answer = reqwest::get(url).await.unwrap();
    match answer.headers().get("realm-error") {
        Some(code) => code.to_str().unwrap().to_owned(),
        None => answer.text().await.unwrap().trim().to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_flag_of_serve_arrives() {
    let realm = Realm::empty();
    std::fs::create_dir(realm.path("data")).unwrap();
    let port = welcoming();
    let tcp = format!("tcp?to=127.0.0.1:{port}");
    let allow = format!("--allow tcp://127.0.0.1:{port}");
    let listen = "listen?at=127.0.0.1:0";
    let denied = "error: PermissionDenied";
    let fuel = "--fuel-per-sec 1000000 --epoch-timeout-ms 1000 --wall-timeout-ms 3000";
    for (guest, flags, target, expected) in [
        (CGI_ENV, "--env COLOR=red", "", r#""COLOR":"red""#),
        (NET, "", &*tcp, denied),
        (NET, &*allow, &*tcp, "welcome"),
        (NET, &*allow, listen, denied),
        (NET, "--inherit-network", &*tcp, "welcome"),
        (NET, "--inherit-network", listen, "listening"),
        (
            FILES,
            "--dir data::/data",
            "write?path=/data/a&text=b",
            "written",
        ),
        (MEMORY_BOMB, "--memory-max-mb 16", "", "memory-limit"),
        (SPIN, "--epoch-timeout-ms 50", "spin", "epoch-timeout"),
        (PARK, "--wall-timeout-ms 100", "?ms=600000", "wall-timeout"),
        // With fuel for a few milliseconds per second it never runs that long.
        (SPIN, fuel, "spin", "wall-timeout"),
        (
            BIG_BODY,
            "--max-response-bytes 1000",
            "?bytes=1001&length=1",
            "response-too-large",
        ),
    ] {
        realm.guest(guest, "app.wasm");
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let (child, url) = serve(&realm, &[&flags[..], &["app.wasm"]].concat());
        let seen = told(&format!("{url}{target}")).await;
        assert!(seen.contains(expected), "{flags:?} {target}: {seen}");
        interrupt(child);
    }
    assert_eq!(realm.read("data/a"), "b");

    realm.guest(ECHO, "app.wasm");
    let (child, url) = serve(&realm, &["--max-request-bytes", "1000", "app.wasm"]);
    for (bytes, status) in [(1_000, 200), (1_001, 413)] {
        let posted = reqwest::Client::new().post(&url).body(vec![7; bytes]);
        assert_eq!(posted.send().await.unwrap().status(), status);
    }
    interrupt(child);

    realm.guest(PARK, "app.wasm");
    let limits = ["--max-concurrency", "1", "--wall-timeout-ms", "60000"];
    let (child, url) = serve(&realm, &[&limits[..], &["app.wasm"]].concat());
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let url = format!("{url}?ms=600000");
        asking.spawn(async move { told(&url).await });
    }
    // One runs, the other one waits for a moment.
    assert_eq!(asking.join_next().await.unwrap().unwrap(), "overloaded");
    asking.shutdown().await;
    interrupt(child);
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_holds_to_the_limits_and_grants_of_the_command_line() {
    let realm = Realm::empty();
    realm.guest(SPIN, "spin.wasm");
    let (child, url) = serve(&realm, &["--epoch-timeout-ms", "50", "spin.wasm"]);
    assert_eq!(get(&format!("{url}spin")).await.0, 504);
    interrupt(child);

    realm.guest(CONFIG, "config.wasm");
    let (child, url) = serve(&realm, &["--var", "db url=a=b", "config.wasm"]);
    assert_eq!(get(&url).await.1.trim(), r#"{"db url":"a=b"}"#);
    interrupt(child);
    realm.guest(CGI_ENV, "env.wasm");
    let (child, url) = serve(&realm, &["--arg", "--fast", "--arg", "", "env.wasm"]);
    let seen = get(&url).await.1;
    assert!(seen.contains(r#""args":["env","--fast",""]"#), "{seen}");
    interrupt(child);

    realm.guest(FILES, "files.wasm");
    std::fs::create_dir(realm.path("data")).unwrap();
    realm.write("data/file", "text");
    let (child, url) = serve(&realm, &["--dir", "data::/data::ro", "files.wasm"]);
    assert!(
        get(&format!("{url}read?path=/data/file"))
            .await
            .1
            .contains("text")
    );
    assert!(
        get(&format!("{url}write?path=/data/file&text=x"))
            .await
            .1
            .contains("error")
    );
    interrupt(child);
    let (child, url) = serve(&realm, &["files.wasm"]);
    assert!(
        get(&format!("{url}read?path=/data/file"))
            .await
            .1
            .contains("error")
    );
    interrupt(child);
    assert_eq!(realm.read("data/file"), "text");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_lets_a_component_ask_over_http_what_allow_names() {
    let realm = Realm::empty();
    realm.guest(HELLO, "hello.wasm");
    let (asked, target) = serve(&realm, &["hello.wasm"]);
    let exact = target.trim_end_matches('/').to_owned();
    let secure = exact.replace("http:", "https:");
    for guest in [OUTBOUND, P3_OUTBOUND] {
        realm.guest(guest, "outbound.wasm");
        for (flags, reached) in [
            (&["--allow", &exact, "outbound.wasm"][..], true),
            (&["--allow", "http://127.0.0.1:1", "outbound.wasm"], false),
            (&["--allow", &secure, "outbound.wasm"], false),
            // Addresses of this machine have to be named.
            (&["--allow", "*://*:*", "outbound.wasm"], false),
            (&["outbound.wasm"], false),
        ] {
            let (child, url) = serve(&realm, flags);
            let told = get(&format!("{url}?url={target}")).await.1;
            assert_eq!(told.contains("hello"), reached, "{flags:?}: {told}");
            assert_eq!(told.contains("error"), !reached, "{flags:?}: {told}");
            interrupt(child);
        }
    }
    interrupt(asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_lets_a_command_ask_over_http_what_allow_names() {
    let realm = Realm::empty();
    realm.guest(HELLO, "hello.wasm");
    let (asked, target) = serve(&realm, &["hello.wasm"]);
    let exact = target.trim_end_matches('/').to_owned();
    let secure = exact.replace("http:", "https:");
    for guest in [FETCH, P3_FETCH] {
        realm.guest(guest, "fetch.wasm");
        for (flags, reached) in [
            (&["--allow", &exact][..], true),
            (&["--allow", "http://127.0.0.1:1", "--allow", &exact], true),
            (&["--inherit-network"], true),
            (&["--allow", "http://127.0.0.1:1"], false),
            (&["--allow", &secure], false),
            // Addresses of this machine have to be named.
            (&["--allow", "*://*:*"], false),
            (&[], false),
        ] {
            let fetch = ["fetch.wasm", "--", &target];
            let said = realm.run(&[&["run"], flags, &fetch].concat()).ok();
            let told = said.stdout.trim();
            let denied = [
                "error: ErrorCode::HttpRequestDenied",
                "error: ErrorCode::DestinationIpProhibited",
            ];
            let as_expected = match reached {
                true => told == "200 hello",
                false => denied.contains(&told),
            };
            assert!(as_expected, "{flags:?}: {told}: {}", said.stderr);
            let remark = said.stderr.contains("outbound-denied: http://127.0.0.1");
            assert_eq!(remark, !reached, "{flags:?}: {}", said.stderr);
        }
    }
    interrupt(asked);
}
