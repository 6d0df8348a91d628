//! Commands on a node, and the control API over mutual TLS: who may, what passes through, what ends.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use realm_model::digest::Digest;
use realm_model::entry::{Body, ChainId, Delegate, Fence, Payload, Undelegate};
use realm_model::key::SecretKey;
use realm_model::request::{AUTH_HEADER, Asked, SignedRequest, TIME_HEADER};
use realm_test_guests::{CHATTY, HELLO, PROGRAM, SPIN};

use crate::support::{Agent, PATIENCE, Realm, Running, Said, ended, get, said};

/// A realm whose node runs commands of its owner, and answers over mutual TLS.
fn open(more: &str) -> (Realm, Agent, String) {
    let realm = Realm::new();
    let allow = "[listen]\napi = \"127.0.0.1:0\"\n[exec]\nallow = [\"owner\"]\n";
    realm.write(
        ".realm/node.toml",
        &format!("name = \"node-1\"\n{allow}{more}"),
    );
    let agent = realm.agent();
    let address = agent.after("control API on ").trim().to_owned();
    (realm, agent, address)
}

fn node_key(realm: &Realm) -> String {
    let shown = realm.run(&["key", "show", "--json"]).ok().stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown["node_key"].as_str().unwrap().to_owned()
}

fn exec(realm: &Realm, command: &[&str]) -> Command {
    realm.command(&[&["exec", "node-1", "--"], command].concat())
}

/// Runs a command with this on its stdin.
fn fed(mut command: Command, input: &[u8]) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A command that does not read to the end breaks the pipe.
    let _ = feeding.join().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits until a process is gone.
fn gone(process: &str) {
    let began = Instant::now();
    let alive = || {
        // A zombie has ended.
        std::fs::read_to_string(format!("/proc/{process}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    while alive() {
        assert!(began.elapsed() < PATIENCE, "process {process} does not end");
        std::thread::yield_now();
    }
}

#[test]
fn streams_and_exit_code_pass_through() {
    let (realm, _agent, _) = open("");
    let check = |command: &[&str], input: &str, code, stdout: &str, stderr: &str| {
        let said = fed(exec(&realm, command), input.as_bytes()).code_is(code);
        assert_eq!(
            (said.stdout.as_str(), said.stderr.as_str()),
            (stdout, stderr)
        );
    };
    check(
        &["cat; echo to stderr >&2; exit 7"],
        "in\n",
        7,
        "in\n",
        "to stderr\n",
    );
    check(&["printf", "%s|", "a b", "$HOME"], "", 0, "a b|$HOME|", "");
    check(&["kill -9 $$"], "", 137, "", "");
    // The environment of the agent is not the command's.
    check(
        &["echo $REALM_CALLER $LANG"],
        "",
        0,
        &format!("{} C.UTF-8\n", realm.owner().public()),
        "",
    );
    let said = fed(exec(&realm, &["/no/such/program", "x"]), b"").fails(1, "not-started");
    assert!(said.stderr.contains("/no/such/program"), "{}", said.stderr);
    // More than every window and pipe on the way, both ways at once.
    let large = "0123456789abcdef".repeat(256 * 1024);
    let said = fed(exec(&realm, &["cat"]), large.as_bytes()).ok();
    assert!(said.stdout == large, "{} bytes", said.stdout.len());
    // A command that does not read is not waited for, nor one that leaves something behind.
    check(&["exec <&-; echo done"], &large, 0, "done\n", "");
    let said = fed(exec(&realm, &["sleep 1000 & echo $!"]), b"").ok();
    gone(said.stdout.trim());
}

#[test]
fn signals_pass_through_and_a_caller_that_leaves_ends_the_command() {
    let (realm, _agent, _) = open("");
    let trap = "trap 'echo got it; exit 3' INT; echo $$; while :; do sleep 0.1; done";
    let running = Running::start(exec(&realm, &[trap]));
    let process = running.stdout.next().unwrap();
    running.signal("INT");
    assert_eq!(running.stdout.after("got"), " it");
    assert_eq!(running.ended().code(), Some(3));
    gone(&process);
    // Deaf to SIGTERM, with a child that is as well.
    let deaf = "trap '' TERM; (sleep 1000) & echo $$ $!; wait";
    let running = Running::start(exec(&realm, &[deaf]));
    let processes = running.stdout.next().unwrap();
    running.signal("KILL");
    drop(running);
    processes.split(' ').for_each(gone);
    let audit = realm.run(&["--json", "audit"]).ok().stdout;
    assert!(audit.contains("caller-gone"), "{audit}");
}

#[test]
fn a_slow_reader_holds_up_the_command_and_a_closed_one_ends_it() {
    let (realm, _agent, _) = open("");
    let mut child = exec(&realm, &["echo $$; exec yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut process = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut process).unwrap();
    let process = process.trim();
    // Nobody reads on: it comes to a halt.
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap();
        let line = io.lines().find(|line| line.starts_with("wchar")).unwrap();
        line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
    };
    // It has come to a halt once it sleeps, and has written as much before and after.
    let asleep = || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        stat.contains(") S ")
    };
    let (began, mut last, mut same) = (Instant::now(), 0, 0);
    while same < 1_000 {
        assert!(began.elapsed() < PATIENCE, "it writes on and on");
        let before = std::mem::replace(&mut last, written());
        same = if before == last && asleep() {
            same + 1
        } else {
            0
        };
    }
    assert!(last < 4 * 1024 * 1024, "{last} bytes are under way");
    drop(stdout);
    assert_eq!(ended(&mut child).code(), Some(1));
    gone(process);
}

#[tokio::test]
async fn commands_are_off_unless_the_node_says_otherwise_and_bounded() {
    let realm = Realm::new();
    let agent = realm.agent();
    let off = said(exec(&realm, &["true"])).fails(3, "exec-off");
    assert!(off.stderr.contains("exec.allow"), "{}", off.stderr);
    drop(agent);
    let (realm, agent, _) = open("max_seconds = 1\nmax_at_once = 1\n");
    let running = Running::start(exec(&realm, &["echo $$; sleep 1000"]));
    let process = running.stdout.next().unwrap();
    said(exec(&realm, &["true"])).fails(1, "too-many-commands");
    assert!(running.stderr.after("error[").starts_with("time-limit]"));
    gone(&process);
    said(exec(&realm, &["true"])).ok();
    let page = get(&agent.metrics_url).await.1;
    for line in [
        "realm_api_sessions_total{call=\"exec\",outcome=\"ok\"} 1",
        "realm_api_sessions_total{call=\"exec\",outcome=\"error\"} 1",
    ] {
        assert!(page.contains(line), "no {line}");
    }
}

#[test]
fn who_ran_what_is_written_down() {
    let (realm, agent, _) = open("");
    said(exec(&realm, &["exit 4 # \u{1b}[2J"])).code_is(4);
    let shown = realm.run(&["audit", "--json"]).ok().stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let entry = &shown["entries"][0];
    assert_eq!(entry["caller"], realm.owner().public().to_string());
    assert_eq!(entry["outcome"], "4");
    assert_eq!(entry["what"], "exit 4 # [2J");
    let line = agent.after("audit: exec ended");
    assert!(line.contains("outcome=\"4\""), "{line}");
}

/// Runs curl with the certificate `name`; the status and the body.
fn curl(realm: &Realm, name: &str, args: &[&str]) -> (i32, String) {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "-k", "-w", "\n%{http_code}"])
        .args([
            "--cert",
            &format!("{name}.crt"),
            "--key",
            &format!("{name}.key"),
        ])
        .args(args)
        .current_dir(realm.path(""));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
    (status.parse().unwrap(), body.to_owned())
}

#[test]
fn curl_speaks_to_a_node_with_the_certificate_of_a_key() {
    let (realm, _agent, address) = open("");
    realm.run(&["key", "certificate", "--out", "owner"]).ok();
    assert_eq!(crate::support::mode(&realm.path("owner.key")), 0o600);
    realm
        .run(&["key", "certificate", "--out", "owner"])
        .fails(1, "not-written");
    let pin = realm
        .run(&["key", "certificate", "--of-node", "--out", "node"])
        .ok()
        .stdout;
    let status = format!("https://{address}/v1/status");
    let (code, body) = curl(&realm, "owner", &["--pinnedpubkey", pin.trim(), &status]);
    assert_eq!(code, 200, "{body}");
    assert!(body.contains("\"node-1\""), "{body}");
    let wrong = pin.replace("sha256//", "sha256//A");
    assert_eq!(
        curl(&realm, "owner", &["--pinnedpubkey", wrong.trim(), &status]).0,
        0
    );
    // A key without a role; no certificate at all.
    let other = Realm::new();
    let out = realm.path("other").display().to_string();
    other.run(&["key", "certificate", "--out", &out]).ok();
    let (code, body) = curl(&realm, "other", &[&status]);
    assert!(
        code == 401 && body.contains("\"unauthorized\""),
        "{code} {body}"
    );
    let anonymous = Command::new("curl")
        .args(["-sk", &status])
        .output()
        .unwrap();
    assert!(!anonymous.status.success());
    // A command wants a signature even so.
    let exec = format!("https://{address}/v1/exec");
    let body = ["-d", "{\"command\":[\"true\"]}"];
    let (code, answer) = curl(&realm, "owner", &[body[0], body[1], &exec]);
    assert!(
        code == 401 && answer.contains("\"unauthorized\""),
        "{code} {answer}"
    );
}

#[test]
fn verbs_work_from_a_machine_that_has_the_key_alone() {
    let (realm, _agent, address) = open("");
    realm.app(HELLO, "");
    realm.run(&["apply", "--yes"]).ok();
    // Another folder: no realm, no agent, one key.
    let away = Realm::empty();
    std::fs::copy(realm.path(".realm/owner.key"), away.path("key")).unwrap();
    std::fs::copy(realm.path("app.wasm"), away.path("app.wasm")).unwrap();
    let node = format!("{address}#{}", node_key(&realm));
    let run = |args: &[&str]| {
        away.run(
            &[
                &["--realm", "nowhere", "--node", &node, "--key", "key"],
                args,
            ]
            .concat(),
        )
    };
    assert!(run(&["status"]).ok().stdout.contains("app"));
    run(&["restart", "app"]).ok();
    run(&["push", "app", "app.wasm"]).ok();
    run(&["logs", "app"]).ok();
    assert_eq!(
        run(&["exec", &node, "--", "echo there"]).ok().stdout,
        "there\n"
    );
    // Another node than the one that was meant.
    let other = format!("{address}#{}", Realm::new().owner().public());
    let args = [
        "--realm", "nowhere", "--node", &other, "--key", "key", "status",
    ];
    away.run(&args).fails(4, "no-agent");
    away.run(&[
        "--realm", "nowhere", "--node", "bm-7", "--key", "key", "status",
    ])
    .fails(1, "no-realm");
    // A key without a role.
    std::fs::copy(Realm::new().path(".realm/owner.key"), away.path("stranger")).ok();
    let stranger = Realm::new();
    std::fs::copy(stranger.path(".realm/owner.key"), away.path("stranger")).unwrap();
    let args = [
        "--realm", "nowhere", "--node", &node, "--key", "stranger", "status",
    ];
    away.run(&args).fails(3, "unauthorized");
}

/// A request as somebody would send it who has seen one: by curl, on the socket.
pub(crate) fn send(socket: &Path, header: &str, command: &str) -> (String, Option<u64>) {
    let output = Command::new("curl")
        .args(["-sS", "-i", "--max-time", "20", "--unix-socket"])
        .arg(socket)
        .args(["-H", &format!("{AUTH_HEADER}: {header}"), "-d", command])
        // Without the upgrade, which curl does not speak: an accepted request ends there.
        .arg("http://realm/v1/exec")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let time = text
        .lines()
        .find_map(|line| line.strip_prefix(TIME_HEADER)?.strip_prefix(": "))
        .map(|time| time.trim().parse().unwrap());
    let body = text.lines().last().unwrap_or_default();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    (body["code"].as_str().unwrap().to_owned(), time)
}

#[tokio::test]
async fn case_32_a_command_is_for_one_node_once_and_soon() {
    let (realm, _agent, _) = open("");
    let heads = realm.heads().await;
    let command = "{\"command\":[\"touch ran\"]}";
    let mut nonce = 0;
    let mut signed = |key: &SecretKey, node, deadline, body: &str| {
        let asked = Asked {
            realm: heads.realm,
            target: node,
            method: "POST",
            path: "/v1/exec",
        };
        nonce += 1;
        SignedRequest::sign(
            &asked,
            Digest::of(body.as_bytes()),
            [nonce; 16],
            deadline,
            key,
        )
        .to_header()
    };
    let socket = realm.path(".realm/agent.sock");
    let check = |header: &str, expected: &str| {
        let (code, time) = send(&socket, header, command);
        assert_eq!(code, expected);
        time
    };
    let owner = realm.owner();
    let stranger = SecretKey::from_seed(&[5; 32]);
    // The node tells its time, and asks for a full minute: it has just started.
    let now = check(&signed(&owner, heads.node_key, 1, command), "clock").unwrap();
    let soon = now + 60_000;
    check(
        &signed(&owner, heads.node_key, now + 30_000, command),
        "clock",
    );
    check(
        &signed(&owner, heads.node_key, now + 660_000, command),
        "clock",
    );
    check(
        &signed(&owner, stranger.public(), soon, command),
        "wrong-target",
    );
    check(
        &signed(&stranger, heads.node_key, soon, command),
        "unauthorized",
    );
    check(
        &signed(&owner, heads.node_key, soon, "{\"command\":[\"true\"]}"),
        "unauthorized",
    );
    let good = signed(&owner, heads.node_key, soon, command);
    // It came through: what is left is that curl does not speak the stream.
    check(&good, "upgrade-required");
    check(&good, "replayed-request");
    assert!(!realm.path(".realm/ran").exists() && !realm.path("ran").exists());
}

#[test]
fn a_component_runs_on_a_node_within_what_is_named() {
    let (realm, _agent, _) = open("run = [\"owner\"]\nmax_seconds = 20\n");
    realm.guest(PROGRAM, "program.wasm");
    realm.guest(SPIN, "spin.wasm");
    let run = |flags: &[&str], args: &[&str], input: &[u8]| {
        let flags = [
            &["--node", "node-1", "run"],
            flags,
            &["program.wasm", "--"],
            args,
        ]
        .concat();
        fed(realm.command(&flags), input)
    };
    assert_eq!(
        run(&[], &["echo"], b"what comes in").ok().stdout,
        "what comes in"
    );
    run(&[], &["exit", "33"], b"").code_is(33);
    let trapped = run(&[], &["trap"], b"").fails(1, "trap");
    assert!(trapped.stderr.contains("realm: trap"), "{}", trapped.stderr);
    // Neither the network nor a directory of the node, unless its operator opens them.
    let denied = run(&[], &["connect", "127.0.0.1:9"], b"");
    assert_eq!(denied.stdout.trim(), "PermissionDenied");
    let denied = run(
        &["--allow", "tcp://127.0.0.1:9"],
        &["connect", "127.0.0.1:9"],
        b"",
    );
    assert_eq!(
        denied.stdout.trim(),
        "PermissionDenied",
        "{}",
        denied.stderr
    );
    let dir = format!("{}::/data", realm.path("").display());
    let denied = run(&["--dir", &dir], &["echo"], b"");
    assert_ne!(denied.code, 0, "{}", denied.stdout);
    run(&["--inherit-network"], &["echo"], b"").fails(64, "usage");
    run(&["--memory-max-mb", "1"], &["echo"], b"").code_is(1);
    let running = Running::start(realm.command(&["--node", "node-1", "run", "spin.wasm"]));
    let audit = || realm.run(&["audit"]).ok().stdout;
    let began = Instant::now();
    while !audit().contains("run [runs] spin") {
        assert!(began.elapsed() < PATIENCE, "{}", audit());
    }
    running.signal("INT");
    assert_eq!(running.ended().code(), Some(130));
}

#[test]
fn components_of_callers_are_off_unless_the_node_says_otherwise() {
    let (realm, _agent, _) = open("");
    realm.guest(PROGRAM, "program.wasm");
    let off = realm
        .run(&["--node", "node-1", "run", "program.wasm"])
        .fails(3, "run-off");
    assert!(off.stderr.contains("exec.run"), "{}", off.stderr);
}

/// Puts an entry of the owner into the authority chain.
async fn decree(realm: &Realm, body: Body) {
    let heads = realm.heads().await;
    let payload = Payload {
        seq: heads.authority.seq + 1,
        prev: heads.authority.hash,
        authority: heads.authority,
        created_unix_s: 0,
        body,
    };
    let entry = payload.sign(heads.realm, ChainId::Authority, &realm.owner());
    std::fs::write(realm.path("entry"), entry).unwrap();
    realm.run(&["submit", "entry", "--chain", "authority"]).ok();
}

#[tokio::test]
async fn case_32_delegates_run_what_their_scope_and_the_node_allow_until_it_is_taken_back() {
    let realm = Realm::new();
    let allow = "[listen]\napi = \"127.0.0.1:0\"\n[exec]\nallow = [\"delegates\"]\n";
    realm.write(".realm/node.toml", &format!("name = \"node-1\"\n{allow}"));
    let agent = realm.agent();
    let address = agent.after("control API on ").trim().to_owned();
    let node = format!("{address}#{}", node_key(&realm));
    let heads = realm.heads().await;
    let delegate = async |name: &str, seed: u8, apps: &[&str], may_exec: bool| {
        let key = SecretKey::from_seed(&[seed; 32]);
        realm.write(name, key.to_text().as_str());
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(realm.path(name), private).unwrap();
        let body = Delegate {
            namespace: name.parse().unwrap(),
            key: key.public(),
            apps: apps.iter().map(|app| (*app).to_owned()).collect(),
            hosts: Vec::new(),
            tags: Vec::new(),
            capabilities: Vec::new(),
            may_exec,
            may_approve: false,
            fences: Vec::new(),
            replicas_max: None,
            not_after_unix_s: None,
        };
        decree(&realm, Body::Delegate(body)).await;
    };
    delegate("builder", 11, &["*"], false).await;
    delegate("operator", 12, &[], true).await;
    delegate("reader", 13, &[], false).await;
    let with = |key: &str, args: &[&str]| {
        let mut command = realm.command(&[&["--node", &node, "--key", key], args].concat());
        command.env("REALM_DIR", "nowhere");
        command
    };
    let run = |key: &str, args: &[&str]| said(with(key, args));
    let there = |command: &str| -> Vec<String> {
        ["exec", &node, "--", command].map(str::to_owned).to_vec()
    };
    let exec = |key: &str, command: &str| {
        let words = there(command);
        with(key, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run("reader", &["status"]).ok();
    run("reader", &["audit"]).fails(3, "forbidden");
    run("reader", &["submit", "entry"]).fails(3, "forbidden");
    said(exec("reader", "true")).fails(3, "forbidden");
    said(exec("builder", "true")).fails(3, "forbidden");
    // The owner is not on this node's list.
    said(exec(".realm/owner.key", "true")).fails(3, "forbidden");
    assert_eq!(said(exec("operator", "echo hello")).ok().stdout, "hello\n");
    // Taken back while a command runs: it ends, and no other begins.
    let running = Running::start(exec("operator", "echo $$; sleep 1000"));
    let process = running.stdout.next().unwrap();
    let origin = heads.realm.origin();
    let fence = Fence {
        namespace: "operator".parse().unwrap(),
        base: origin,
        head: origin,
    };
    let end = Undelegate {
        namespace: "operator".parse().unwrap(),
        fences: vec![fence],
    };
    decree(&realm, Body::Undelegate(end)).await;
    said(exec("operator", "true")).fails(3, "unauthorized");
    assert!(running.stderr.after("error[").starts_with("forbidden]"));
    gone(&process);
    // And who follows a log reads no more of it.
    realm.app(CHATTY, "");
    realm.run(&["apply", "--yes"]).ok();
    let following = Running::start(with("reader", &["logs", "app", "-f"]));
    get(&agent.url("/lines?n=1")).await;
    following.stdout.next().unwrap();
    let fence = Fence {
        namespace: "reader".parse().unwrap(),
        base: origin,
        head: origin,
    };
    let end = Undelegate {
        namespace: "reader".parse().unwrap(),
        fences: vec![fence],
    };
    decree(&realm, Body::Undelegate(end)).await;
    following.ended();
}
