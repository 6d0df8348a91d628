//! Secrets from the owner's terminal to the component that lists them, and to nobody else.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use realm_test_guests as guests;

use crate::realms::Realms;
use crate::support::{AGENT, Agent, Realm, Said, app_manifest, eventually, get};

const VALUE: &str = "correct horse battery staple 4711";

/// Runs a verb with this on its standard input.
pub(crate) fn with_input(mut command: Command, input: &[u8]) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Writes a manifest whose components and bindings use these secrets.
pub(crate) fn write_with(realm: &Realm, manifest: &str, secrets: &[(&str, &str)]) {
    // Who uses them comes after them: a manifest that names one which is not there is an error.
    let before = manifest.lines().filter(|line| !line.starts_with("secret"));
    realm.write("realm.toml", &before.collect::<Vec<_>>().join("\n"));
    for (name, value) in secrets {
        with_input(realm.command(&["secret", "set", name]), value.as_bytes()).ok();
    }
    let sealed = realm.read("realm.toml");
    let sealed = &sealed[sealed.find("[secrets").unwrap()..];
    realm.write("realm.toml", &format!("{manifest}\n{sealed}"));
    realm.run(&["secret", "reseal"]).ok();
}

/// Every file below a folder that has these bytes in it.
fn files_with(folder: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map_while(Result::ok) {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&path, needle));
        } else if kind.is_file() && has(&std::fs::read(&path).unwrap_or_default(), needle) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn has(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|part| part == needle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_reaches_its_component_and_stands_nowhere_in_the_clear() {
    let realm = Realm::new();
    realm.app(guests::SECRETS, "secrets = [\"db.password\"] # mine");
    realm.run(&["apply", "-y"]).fails(1, "invalid-manifest");
    // Before any agent runs: this machine's own key is known.
    let set = realm.command(&["secret", "set", "db.password"]);
    let said = with_input(set, format!("{VALUE}\n").as_bytes()).ok();
    assert!(
        said.stdout.contains("sealed to node-1 and the owner"),
        "{}",
        said.stdout
    );
    assert!(
        realm
            .read("realm.toml")
            .contains("secrets = [\"db.password\"] # mine")
    );
    let set = realm.command(&["secret", "set", "db.password"]);
    with_input(set, b"other").fails(1, "exists");

    let agent = realm.agent();
    let applied = realm.run(&["apply", "-y"]).ok();
    assert_eq!(
        get(&agent.url("/?key=db.password")).await.1,
        format!("text {VALUE}")
    );
    assert_eq!(get(&agent.url("/?key=other")).await.1, "not found");
    assert_eq!(
        realm.run(&["secret", "show", "db.password"]).ok().stdout,
        VALUE
    );
    let listed = realm.run(&["secret", "ls", "--json"]).ok().stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["nodes"], serde_json::json!(["node-1"]));
    assert_eq!(listed[0]["components"], serde_json::json!(["app"]));
    assert_eq!(listed[0]["missing"], serde_json::json!([]));

    // Nothing that the agent shows, logs or writes has it.
    let process = format!("/proc/{}", agent.id());
    for file in ["environ", "cmdline"] {
        let bytes = std::fs::read(format!("{process}/{file}")).unwrap();
        assert!(!has(&bytes, VALUE.as_bytes()), "{file}");
    }
    for verb in [
        &["logs", "app"][..],
        &["status", "--json"],
        &["explain", "app"],
        &["audit"],
        &["plan"],
        &["secret", "ls"],
        &["key", "log"],
    ] {
        let said = realm.run(verb);
        assert!(
            !said.stdout.contains(VALUE) && !said.stderr.contains(VALUE),
            "{verb:?}"
        );
    }
    assert!(!applied.stderr.contains(VALUE));
    assert!(!get(&agent.metrics_url).await.1.contains(VALUE));
    assert_eq!(
        files_with(&realm.path(""), VALUE.as_bytes()),
        Vec::<String>::new()
    );
    // The search finds what is there.
    realm.write("planted", &format!("x{VALUE}x"));
    assert_eq!(files_with(&realm.path(""), VALUE.as_bytes()).len(), 1);
    std::fs::remove_file(realm.path("planted")).unwrap();

    // It dies without a core file, by the limit and by the flag: the flag holds where the kernel pipes
    // cores to a program, which no limit keeps from them.
    let limits = std::fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let numbers: Vec<&str> = core.unwrap().split_whitespace().skip(4).take(2).collect();
    assert_eq!(numbers, ["0", "0"]);
    agent.signal("ABRT");
    agent.ended();
    assert_eq!(
        files_with(&realm.path(""), VALUE.as_bytes()),
        Vec::<String>::new()
    );
}

/// What the agent says of itself goes into the system's journal, where others read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_says_everything_does_not_say_a_secret() {
    let realm = Realm::new();
    realm.guest(guests::SECRETS, "app.wasm");
    realm.guest(guests::KEYVALUE_CALL, "call.wasm");
    let manifest = app_manifest("secrets = [\"key\"]").replace(
        "[routing]\n\"*\" = [",
        "[bindings.data]\ninterface = \"wasi:keyvalue\"\nbackend = \"embedded\"\n\n\
         [components.call]\nsource = \"file:./call.wasm\"\nsecrets = [\"key\"]\n\
         bind = { default = \"data\" }\n\n\
         [routing]\n\"*\" = [{ path = \"/call\", component = \"call\" }, ",
    );
    realm.write("realm.toml", &manifest);
    with_input(realm.command(&["secret", "set", "key"]), VALUE.as_bytes()).ok();
    let mut command = realm.command(&AGENT);
    command.env("REALM_LOG", "trace");
    let agent = Agent::start(command);
    realm.run(&["apply", "-y"]).ok();
    for path in ["/?key=key", "/?key=key&twice=1"] {
        assert_eq!(get(&agent.url(path)).await.1, format!("text {VALUE}"));
    }
    assert_eq!(get(&agent.url("/call?open=secrets&key=key")).await.1, VALUE);
    let denied = get(&agent.url("/call?open=secrets&op=set&key=key&value=x")).await;
    assert_eq!(denied.1, "Error::AccessDenied");
    let other = b"another value that nobody says 0815";
    with_input(realm.command(&["secret", "rotate", "key"]), other).ok();
    realm.run(&["apply", "-y"]).ok();
    eventually("the other value is there", async || {
        let (_, seen) = get(&agent.url("/?key=key")).await;
        (seen.as_bytes() == [b"text ", &other[..]].concat()).then_some(())
    })
    .await;
    agent.signal("TERM");
    let said = std::iter::from_fn(|| agent.lines().next())
        .chain(std::iter::from_fn(|| agent.printed().next()));
    let said = said.collect::<Vec<_>>().join("\n");
    // It did say everything.
    assert!(said.contains("TRACE") && said.contains("DEBUG"), "{said}");
    for value in [VALUE.as_bytes(), other] {
        // As text, as a program prints bytes, and as it prints them in hexadecimal digits.
        let debug = format!("{value:?}");
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8_lossy(value);
        for spelling in [&*text, debug.trim_matches(['[', ']']), &hex] {
            let line = said.lines().find(|line| line.contains(spelling));
            assert_eq!(line, None, "{spelling}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_value_restarts_who_lists_it_and_nobody_else() {
    let realm = Realm::new();
    realm.guest(guests::COUNTER, "other.wasm");
    realm.guest(guests::SECRETS, "app.wasm");
    let manifest = app_manifest("secrets = [\"key\"]").replace(
        "[routing]\n\"*\" = [",
        "[components.other]\nsource = \"file:./other.wasm\"\nreuse = true\n\n[routing]\n\"*\" = [{ path = \"/other\", component = \"other\" }, ",
    );
    realm.write("realm.toml", &manifest);
    with_input(realm.command(&["secret", "set", "key"]), b"first").ok();
    let agent = realm.agent();
    realm.run(&["apply", "-y"]).ok();
    assert_eq!(get(&agent.url("/?key=key")).await.1, "text first");
    // One instance answers one request after the other, for as long as its replica stays.
    let count = async || {
        get(&agent.url("/other"))
            .await
            .1
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    let before = count().await;
    with_input(realm.command(&["secret", "rotate", "none"]), b"x").fails(1, "unknown-secret");
    with_input(realm.command(&["secret", "rotate", "key"]), b"").fails(64, "empty-value");
    with_input(realm.command(&["secret", "rotate", "key"]), b"second").ok();
    realm.run(&["apply", "-y"]).ok();
    assert_eq!(get(&agent.url("/?key=key")).await.1, "text second");
    assert_eq!(count().await, before + 1);
    // What stays sealed to the same readers is left alone.
    let text = realm.read("realm.toml");
    let said = realm.run(&["secret", "reseal"]).ok();
    assert!(
        said.stdout.contains("key: stays as it is"),
        "{}",
        said.stdout
    );
    assert_eq!(realm.read("realm.toml"), text);
}

/// Moved to another name in a stolen repository, it opens nowhere, and the node says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_was_moved_to_another_name_does_not_open() {
    let realm = Realm::new();
    realm.app(guests::SECRETS, "secrets = [\"password\"]");
    with_input(realm.command(&["secret", "set", "password"]), b"hidden").ok();
    let agent = realm.agent();
    let moved = realm.read("realm.toml").replace("password", "shown");
    realm.write("realm.toml", &moved);
    let applied = realm.run(&["apply", "-y", "--no-wait"]);
    applied.ok();
    let waits = eventually("it waits", async || {
        let app = realm.component("app").await;
        app.waiting_on
            .into_iter()
            .find(|one| one.code == "secret-sealed-away")
    });
    assert!(waits.await.message.contains("secret `shown`"));
    assert_eq!(get(&agent.url("/?key=shown")).await.0, 503);
    let listed = realm.run(&["secret", "ls"]).ok();
    assert!(
        listed.stderr.contains("sealed as `password`"),
        "{}",
        listed.stderr
    );
    realm
        .run(&["secret", "show", "shown"])
        .fails(1, "not-opened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joined_waits_for_the_secret_until_it_is_sealed_to_it() {
    let realms = Realms::meet(&["a", "b"]).await;
    let first = realms.first();
    first.realm.guest(guests::SECRETS, "app.wasm");
    let manifest = app_manifest("secrets = [\"key\"]")
        .replace("\"*\"", "\"a\"")
        .replace("\"app\" }", "\"app\", per_node = true }");
    first.realm.write("realm.toml", &manifest);
    eventually("the sealing key of b is known", async || {
        let said = first.sees("b").await;
        said.sealing
    })
    .await;
    with_input(first.command(&["secret", "set", "key"]), VALUE.as_bytes()).ok();
    first.run(&["apply", "-y"]).ok();
    let url = |at: usize| realms.nodes[at].agent().url("/?key=key");
    assert_eq!(get(&url(0)).await.1, format!("text {VALUE}"));

    let everywhere = first
        .realm
        .read("realm.toml")
        .replace("\"a\" = [", "\"*\" = [");
    first.realm.write("realm.toml", &everywhere);
    let listed = first.run(&["secret", "ls"]).ok();
    assert!(
        listed.stderr.contains("realm secret reseal"),
        "{}",
        listed.stderr
    );
    first.run(&["apply", "-y", "--no-wait"]).ok();
    eventually("b waits, and says so", async || {
        let status = realms.nodes[1].status().await;
        let app = status
            .components
            .iter()
            .find(|one| one.name.as_str() == "app")?;
        let waits = app
            .waiting_on
            .iter()
            .any(|one| one.code == "secret-sealed-away");
        let alarms = first.status().await.alarms;
        let alarm = alarms.iter().find(|one| one.code == "secret-sealed-away")?;
        (waits && alarm.node.as_str() == "b" && alarm.hint.contains("reseal")).then_some(())
    })
    .await;
    let before = first.realm.component("app").await;
    let said = first.run(&["secret", "reseal"]).ok();
    assert!(said.stdout.contains("new: b"), "{}", said.stdout);
    first.run(&["apply", "-y"]).ok();
    eventually("it runs on b", async || {
        let status = realms.nodes[1].status().await;
        let app = status
            .components
            .iter()
            .find(|one| one.name.as_str() == "app")?;
        (app.healthy == 1 && app.waiting_on.is_empty()).then_some(())
    })
    .await;
    let answers = format!("text {VALUE}");
    for at in [0, 1] {
        assert_eq!(get(&url(at)).await.1, answers);
    }
    // On the first node nothing was restarted by that.
    let after = first.realm.component("app").await;
    assert_eq!((after.restarts, after.healthy), (before.restarts, 1));
    for node in &realms.nodes {
        let found = files_with(&node.realm.path(".realm"), VALUE.as_bytes());
        assert_eq!(found, Vec::<String>::new());
        let key = node.realm.path(".realm/sealing.key");
        assert_eq!(crate::support::mode(&key) & 0o777, 0o600);
    }
    // Who left is sealed to no more.
    first.run(&["nodes", "revoke", "b", "-y"]).ok();
    let said = first.run(&["secret", "reseal", "--json"]).ok().stdout;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said[0]["nodes"], serde_json::json!(["a"]));
    assert_eq!(said[0]["written"], serde_json::json!(true));
    assert!(!first.realm.read("realm.toml").contains(VALUE));
}

#[test]
fn a_name_that_no_secret_can_have_is_the_arguments_fault() {
    // Also where there is no manifest, or a broken one.
    let realm = Realm::new();
    let long = "a".repeat(64);
    for manifest in [None, Some("[components]\nbroken = 1\n")] {
        if let Some(text) = manifest {
            realm.write("realm.toml", text);
        }
        for name in ["Bad Name", "", "_a", "db/password", &long] {
            let said = realm.run(&["secret", "set", name]).fails(64, "bad-name");
            assert!(said.stderr.contains("a secret name"), "{}", said.stderr);
            assert!(!said.stderr.contains("realm.toml"), "{}", said.stderr);
        }
    }
    realm.write("realm.toml", "");
    for args in [
        &["secret", "rotate", "Bad Name"][..],
        &["secret", "show", "Bad Name"],
        &["secret", "reseal", "Bad Name"],
    ] {
        realm.run(args).fails(64, "bad-name");
    }
    assert_eq!(realm.read("realm.toml"), "");
}
