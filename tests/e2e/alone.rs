//! `realm run` and `realm serve`: one component, no realm.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use realm_test_guests::{
    CGI_ENV, CGI_HELLO, CONFIG, ECHO, FILES, HELLO, LIBRARY, P3_COMMAND, PROGRAM, SPIN,
};

use crate::support::{Realm, Said, get, said};

#[test]
fn run_passes_streams_arguments_and_the_exit_code_through() {
    let realm = Realm::empty();
    realm.guest(PROGRAM, "program.wasm");
    realm.guest(P3_COMMAND, "p3.wasm");
    let run = |args: &[&str], stdin: &[u8]| -> Said {
        let mut child = realm
            .command(&[&["run", "--env", "KEY=value", "program.wasm", "--"], args].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        let output = child.wait_with_output().unwrap();
        Said {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    };
    let check = |args: &[&str], stdin: &[u8], code: i32, stdout: &str| {
        let seen = run(args, stdin);
        assert_eq!(
            (seen.code, seen.stdout.as_str()),
            (code, stdout),
            "{args:?}: {}",
            seen.stderr
        );
    };
    check(&["echo"], b"what comes in", 0, "what comes in");
    check(&["echo"], b"", 0, "");
    check(&["exit", "33"], b"", 33, "");
    check(&["out", "2"], b"", 0, "line 0\nline 1\n");
    assert!(run(&["mixed"], b"").stderr.contains("err 2"));
    run(&["trap"], b"").fails(1, "trap");
    realm.run(&["run", "p3.wasm"]).ok();
    // Nothing is made in the folder.
    assert!(!realm.path(".realm").exists());
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
    assert_eq!(
        realm.run(&["run", "--env", "broken", "library.wasm"]).code,
        64
    );
    realm
        .run(&["run", "--dir", "here", "library.wasm"])
        .fails(64, "usage");
}

/// Serves a file; (the process, its base URL).
fn serve(realm: &Realm, args: &[&str]) -> (std::process::Child, String) {
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
fn interrupt(mut child: std::process::Child) {
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
