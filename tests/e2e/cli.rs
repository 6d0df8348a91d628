//! The command line itself: help, reference, completions, data on stdout.

use realm_test_guests::{BAD_IMPORT, HEALTH_OK, HELLO, P3_HELLO};

use crate::support::{Realm, Running};

#[test]
fn the_reference_is_what_help_says() {
    let realm = Realm::empty();
    let text = realm.run(&["reference"]).ok().stdout;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(
        written == text,
        "docs/cli.md is old: `BLESS=1 make test` writes it"
    );
}

#[test]
fn help_is_one_page_and_names_the_exit_codes() {
    let realm = Realm::empty();
    let help = realm.run(&["--help"]).ok().stdout;
    insta::assert_snapshot!(help, @r#"
    Push WebAssembly components to your own machines, from one signed TOML file

    Usage: realm [OPTIONS] <COMMAND>

    Begin:
      init         Make a new realm: an owner key, a node key, and a realm folder
      up           Make a realm here if there is none, start its agent, and apply a manifest
      agent        Run the agent of this realm folder until interrupted
      invite       Print a ticket with which another machine asks to join
      join         Make this machine ask to join the realm of a ticket
      cert         Make a certificate for HTTPS on your own machine
      doctor       Look at this machine and the realm folder, and say what to mend

    Say what runs:
      apply        Sign the manifest with the owner key and put it in force
      plan         Show what `apply` would change, and what would run where
      push         Upload new bytes for a component and put them in force
      restart      Start a component's replicas afresh
      promote      Give a version of an app the requests, or a share of them
      abort        End a rollout or a promotion that is in the middle, and go back
      rollback     Go back to what ran before, or to how requests were divided
      verify       Check a manifest and its signature, without an agent
      submit       Submit an entry that was signed on another machine
      schema       Print the JSON schema of realm.toml, for editors
      secret       Seal secrets to the nodes that need them

    Look:
      status       Show what runs, and in one line per component why something does not
      explain      Say why a component is as it is, on every node, and what to do
      logs         Print what a component wrote to stdout and stderr
      messages     Look after the messages of a binding
      audit        Show who changed or ran what on the node, the newest last
      inspect      Show what a WebAssembly file imports and exports, and how realm would run it
      node         Show this machine as a node
      version      Print the version of realm and of what it runs components with

    Say who may:
      nodes        Show the nodes of the realm, and say which may belong to it
      peer         Introduce the agent to another machine
      delegate     Give namespaces to others, and say who may look
      beacon       Sign a beacon: what is newest, and that the realm goes on
      key          Show, make and change keys: the owner's, and those that can take the realm back
      resolve      Show chains that have two histories, and say which of them holds

    Run:
      exec         Run a command on a node
      run          Run a command component or a preview-1 module, without a realm
      serve        Serve an HTTP component or a command over HTTP, without a realm
      edge         Print the configuration of a web server in front of this node
      completions  Print a completion script for a shell

    Options of every verb:
          --realm <DIR>  Realm folder; absent: `.realm` here or in a parent folder, else the one of this
                         user [env: REALM_DIR=]
          --node <NODE>  The node to talk to: its name, a multiaddr, a ticket, or `HOST:PORT#KEY`;
                         absent: the agent of the realm folder [env: REALM_NODE=]
          --key <FILE>   File of the key to act with; absent: the owner key of the realm folder [env:
                         REALM_KEY=]
          --json         Print JSON on stdout instead of text
      -h, --help         Print help
      -V, --version      Print version

    Exit codes:
      0    done; for `plan`: nothing would change
      1    failed
      2    `plan`: apply would change something
      3    refused: by the agent, or a signature does not hold
      4    no agent answers, or it is stopping
      64   the command line is wrong
      130  interrupted before it was done; Ctrl-C ends `agent`, `up`, `logs -f`,
           `beacon --every` and `status --watch` with 0

    Environment:
      REALM_DIR              the realm folder (like --realm)
      REALM_NODE             the node to talk to (like --node)
      REALM_KEY              the file of the key to act with (like --key)
      REALM_PASSPHRASE_FILE  a file with the owner key's passphrase
      REALM_LOG              log filter of the agent, e.g. `info` or `realm_node=debug`
      NO_COLOR               no colours
    "#);
    for verb in [
        "init",
        "key",
        "up",
        "agent",
        "apply",
        "plan",
        "verify",
        "submit",
        "status",
        "explain",
        "push",
        "restart",
        "logs",
        "messages",
        "exec",
        "audit",
        "inspect",
        "doctor",
        "edge",
        "run",
        "serve",
        "schema",
        "completions",
        "version",
    ] {
        let help = realm.run(&[verb, "--help"]).ok().stdout;
        assert!(help.contains("Usage: "), "{verb}");
    }
    let wrong = realm.run(&["aply"]);
    assert_eq!(wrong.code, 64);
    assert!(wrong.stderr.contains("apply"), "{}", wrong.stderr);
}

#[test]
fn inspect_shows_what_a_component_wants_and_offers() {
    let realm = Realm::empty();
    realm.guest(HELLO, "hello.wasm");
    realm.guest(P3_HELLO, "p3.wasm");
    realm.guest(BAD_IMPORT, "bad.wasm");
    realm.guest(HEALTH_OK, "healthy.wasm");
    let inspect = |file: &str| -> serde_json::Value {
        serde_json::from_str(&realm.run(&["inspect", file, "--json"]).ok().stdout).unwrap()
    };
    let hello = inspect("hello.wasm");
    assert_eq!(hello["kind"], "component");
    assert_eq!(hello["serve"], "http");
    assert!(
        hello["exports"]
            .to_string()
            .contains("wasi:http/incoming-handler@0.2")
    );
    assert!(
        hello["imports"]
            .as_array()
            .unwrap()
            .iter()
            .all(|import| import["provided"] == true)
    );
    let p3 = inspect("p3.wasm");
    assert_eq!(p3["serve"], "http");
    assert!(
        p3["exports"]
            .to_string()
            .contains("wasi:http/handler@0.3.0")
    );
    assert_eq!(inspect("healthy.wasm")["health_export"], true);
    let bad = inspect("bad.wasm");
    assert!(
        bad["imports"]
            .as_array()
            .unwrap()
            .iter()
            .any(|import| import["provided"] == false)
    );
    let text = realm.run(&["inspect", "bad.wasm"]).ok().stdout;
    assert!(text.contains("missing"), "{text}");
    // What to do about it, for each kind of what can be missing, in words and for scripts.
    for (import, advice) in [
        (
            "wasi:http/types@0.3.0-rc-2026-03-15",
            "realm has wasi:http/types in 0.2.x and 0.3.x: build the component with bindings of that version",
        ),
        (
            "wasi:http/tunnel@0.2.0",
            "realm has no wasi:http/tunnel, only ",
        ),
        (
            "wasi:nn/graph@0.2.0",
            "realm has no wasi:nn: build the component without it, or compose it with one that exports it (`wac plug`)",
        ),
        ("log", "not an interface: the host provides only interfaces"),
    ] {
        let kind = if import.contains(':') {
            "instance"
        } else {
            "func"
        };
        let bytes = wat::parse_str(format!(r#"(component (import "{import}" ({kind})))"#)).unwrap();
        std::fs::write(realm.path("lacks.wasm"), bytes).unwrap();
        let text = realm.run(&["inspect", "lacks.wasm"]).ok().stdout;
        let line = text.lines().find(|line| line.contains(import)).unwrap();
        assert!(line.contains("missing"), "{text}");
        assert!(line.contains(advice), "{text}");
        let lacks = inspect("lacks.wasm");
        let note = lacks["imports"][0]["note"].as_str().unwrap_or_default();
        assert!(note.starts_with(advice), "{lacks}");
    }
    realm.write("junk.wasm", "junk");
    realm.run(&["inspect", "junk.wasm"]).fails(1, "not-wasm");
    let said = realm.run(&["inspect", "absent.wasm"]).fails(1, "no-file");
    assert!(
        said.stderr.contains("hint: a path begins"),
        "{}",
        said.stderr
    );
}

#[test]
fn what_is_no_file_or_too_large_is_an_error_and_never_a_wait() {
    let realm = Realm::new();
    let pipe = std::process::Command::new("mkfifo")
        .arg(realm.path("pipe"))
        .status();
    assert!(pipe.unwrap().success());
    for args in [
        &["inspect", "/dev/zero"][..],
        &["inspect", "."],
        &["plan", "/dev/zero"],
        &["submit", "/dev/zero"],
    ] {
        let said = realm.run(args).fails(1, "no-file");
        assert!(
            said.stderr.contains("neither a file nor a pipe"),
            "{}",
            said.stderr
        );
    }
    // A pipe that nobody writes to is empty.
    realm.run(&["inspect", "pipe"]).fails(1, "not-wasm");
    let with = |passphrase: &str| {
        let mut command = realm.command(&["init", "--passphrase", "--realm", "sealed"]);
        command.env("REALM_PASSPHRASE_FILE", realm.path(passphrase));
        crate::support::said(command)
    };
    with("pipe").fails(1, "empty-passphrase");
    with(".").fails(1, "no-passphrase");
    realm.write("large", &"x".repeat(20_000_000));
    with("large").fails(1, "no-passphrase");
    realm.run(&["plan", "large"]).fails(1, "oversized");
    realm.run(&["submit", "large"]).fails(1, "oversized");
    std::fs::write(realm.path("latin"), b"\xe4").unwrap();
    realm.run(&["plan", "latin"]).fails(1, "not-text");
    // A shell's `<(command)` is a pipe as well.
    let shell = std::process::Command::new("bash")
        .args([
            "-c",
            "REALM_PASSPHRASE_FILE=<(echo secret) \"$0\" init --passphrase --realm sealed",
        ])
        .arg(env!("CARGO_BIN_EXE_realm"))
        .current_dir(realm.path("."))
        .output()
        .unwrap();
    assert!(
        shell.status.success(),
        "{}",
        String::from_utf8_lossy(&shell.stderr)
    );
}

#[test]
fn watch_goes_on_showing_the_status_also_after_a_restart_of_the_agent() {
    let realm = Realm::new();
    let watch = |args: &[&str]| Running::start(realm.command(args));
    let without = watch(&["status", "--watch"]);
    assert_eq!(without.ended().code(), Some(4), "nobody to look at");
    let agent = realm.agent();
    let watch = watch(&["status", "--watch", "--json"]);
    let shows = |version: u64| {
        let wanted = format!("\"version\":{version},");
        watch.stdout.after(&wanted);
    };
    shows(0);
    realm.app(HELLO, "");
    realm.run(&["apply", "--yes"]).ok();
    shows(1);
    agent.kill_9();
    watch.stderr.after("no agent answers, trying again");
    let _agent = realm.agent();
    realm.app(HELLO, "memory_max_mb = 32");
    realm.run(&["apply", "--yes"]).ok();
    shows(2);
    // Ctrl-C is how a person ends it.
    assert_eq!(watch.interrupt().code(), Some(0));
}

#[test]
fn a_realm_of_this_user_is_found_from_everywhere() {
    let realm = Realm::empty();
    let with_home = |args: &[&str]| {
        let mut command = realm.command(args);
        command.env("XDG_DATA_HOME", realm.path("data"));
        crate::support::said(command)
    };
    with_home(&["init", "--user"]).ok();
    assert!(realm.path("data/realm/owner.key").exists());
    with_home(&["key", "show"]).ok();
    with_home(&["init", "--user", "--realm", "x"]).fails(64, "usage");
    // One in the project comes first.
    let own = with_home(&["init"]).ok().stdout;
    let shown = with_home(&["key", "show"]).ok().stdout;
    assert!(own.contains(shown.lines().next().unwrap()));
}

#[test]
fn doctor_finds_what_is_in_the_way_and_says_what_to_do() {
    let realm = Realm::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = |admin: std::net::SocketAddr| {
        realm.write(
            ".realm/node.toml",
            &format!("[listen]\nhttp = [\"127.0.0.1:0\"]\nadmin = \"{admin}\"\n"),
        );
    };
    let doctor = || {
        let said = realm.run(&["doctor", "--json"]);
        let findings: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        let level = |code: &str| {
            let findings = findings.as_array().unwrap();
            let levels = findings.iter().filter(|finding| finding["code"] == code);
            levels
                .map(|finding| finding["level"].as_str().unwrap().to_owned())
                .max()
                .unwrap()
        };
        (said.code, level("port"), level("folder"), level("clock"))
    };
    let ok = || "ok".to_owned();
    settings("127.0.0.1:0".parse().unwrap());
    assert_eq!(doctor(), (0, ok(), ok(), ok()));
    settings(taken.local_addr().unwrap());
    assert_eq!(doctor(), (1, "problem".to_owned(), ok(), ok()));
    settings("127.0.0.1:0".parse().unwrap());
    // What does nothing is told.
    let path = realm.path(".realm/node.toml");
    let plain = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{plain}[tls]\ndev = true\n")).unwrap();
    let said = realm.run(&["doctor"]).ok().stdout;
    assert!(
        said.contains("node.toml, line 4: `[tls]` is for `https`"),
        "{said}"
    );
    std::fs::write(&path, plain).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(realm.path(".realm"), open).unwrap();
    assert_eq!(doctor(), (1, ok(), "problem".to_owned(), ok()));
    let text = realm.run(&["doctor"]).stdout;
    assert!(text.contains("-> `chown`"), "{text}");
}

#[test]
fn schema_completions_and_version_are_data() {
    let realm = Realm::empty();
    let schema: serde_json::Value =
        serde_json::from_str(&realm.run(&["schema"]).ok().stdout).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("2020-12"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            realm
                .run(&["completions", shell])
                .ok()
                .stdout
                .contains("restart"),
            "{shell}"
        );
    }
    let version: serde_json::Value =
        serde_json::from_str(&realm.run(&["version", "--json"]).ok().stdout).unwrap();
    assert_eq!(version["realm"], env!("CARGO_PKG_VERSION"));
    assert!(realm.run(&["version"]).ok().stdout.starts_with("realm "));
}

#[test]
fn every_listing_has_json_and_text_without_colour() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let _agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    for args in [
        &["status"][..],
        &["plan"],
        &["explain", "app"],
        &["verify"],
        &["key", "show"],
        &["logs", "app"],
        &["inspect", "app.wasm"],
    ] {
        let text = realm.run(args).ok().stdout;
        assert!(!text.contains('\u{1b}'), "{args:?}: {text}");
        let json = realm.run(&[args, &["--json"]].concat()).ok().stdout;
        for line in json.lines().filter(|_| args[0] == "logs") {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        if args[0] != "logs" {
            serde_json::from_str::<serde_json::Value>(&json).unwrap();
        }
    }
}
