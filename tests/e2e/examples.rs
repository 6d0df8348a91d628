//! The examples, as a newcomer meets them: `realm up` on a copy, and a request on every route.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{PROGRAM, Realm, Running, on_free_ports};

const BUILT: &str = "target/wasm32-wasip2/release";

/// Copies realm.toml and the built components; builds them first if one is missing.
fn copy(realm: &Realm) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("examples/realm.toml")).unwrap();
    realm.write("realm.toml", &manifest);
    std::fs::create_dir_all(realm.path(BUILT)).unwrap();
    let names: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("source = \"file:./")?.strip_suffix('"'))
        .collect();
    let examples = root.join("examples");
    if names.iter().any(|name| !examples.join(name).exists()) {
        let built = Command::new(root.join("scripts/examples.sh")).status();
        assert!(built.unwrap().success());
    }
    for name in &names {
        std::fs::copy(examples.join(name), realm.path(name)).unwrap();
    }
    names.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_serves_every_example() {
    let realm = Realm::empty();
    let components = copy(&realm);
    let up = [&on_free_ports("up")[..], &["--timeout", "5m"]].concat();
    let up = Running::start(realm.command(&up));
    let lines: Vec<String> =
        tokio::task::block_in_place(|| (0..components).filter_map(|_| up.stdout.next()).collect());
    let url = |name: &str| -> String {
        let words = lines.iter().map(|line| line.split_whitespace());
        let mut found =
            words.filter_map(|mut words| (words.next()? == name).then(|| words.next())?);
        found
            .next()
            .unwrap_or_else(|| panic!("no `{name}` in {lines:?}"))
            .to_owned()
    };
    let client = reqwest::Client::new();
    for (name, status, text) in [
        ("index", 200, "curl"),
        ("hello", 200, "hello"),
        ("hello-p3", 200, "hello"),
        ("echo", 200, ""),
        ("markdown", 405, "POST a Markdown document"),
        ("qr", 200, "<svg"),
        ("limits", 200, "epoch_timeout_ms"),
        ("visits", 200, "since this instance began"),
        ("links", 400, "?page=URL"),
    ] {
        let answer = client.get(url(name)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{name}");
        let body = answer.text().await.unwrap().to_lowercase();
        assert!(body.contains(&text.to_lowercase()), "{name}: {body}");
    }
    assert_eq!(components, 9, "every example has a line above");
    let posted = async |url: String, body: &str| {
        let answer = client.post(url).body(body.to_owned()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    };
    assert_eq!(
        posted(url("echo"), "there and back").await,
        "there and back"
    );
    let page = posted(url("markdown"), "# One\n\n*two* <script>").await;
    assert!(
        page.contains("<h1>One</h1>") && page.contains("<em>two</em>"),
        "{page}"
    );
    assert!(!page.contains("<script>"), "{page}");
    let spin = client.get(url("limits") + "spin").send().await.unwrap();
    assert_eq!(spin.status(), 504);
    // A private address, whatever the manifest says of the web.
    let own = url("links") + "?page=" + &url("index");
    let refused = client.get(own).send().await.unwrap();
    assert_eq!(refused.status(), 502);
    let why = refused.text().await.unwrap();
    assert!(why.contains("not allowed"), "{why}");
    assert!(up.interrupt().success());
}

/// The page that is checked leads to itself, to what is not there, and into a network that is shut.
#[tokio::test(flavor = "multi_thread")]
async fn links_are_asked_for_where_the_operator_lets_them() {
    let realm = Realm::empty();
    copy(&realm);
    realm.run(&["init"]).ok();
    let config = std::fs::read_to_string(realm.path(".realm/node.toml")).unwrap();
    realm.write(
        ".realm/node.toml",
        &format!("{config}\n[guests]\nprivate_ranges = [\"127.0.0.1\"]\n"),
    );
    let up = [&on_free_ports("up")[..], &["--timeout", "5m"]].concat();
    let up = Running::start(realm.command(&up));
    let lines: Vec<String> =
        tokio::task::block_in_place(|| (0..9).filter_map(|_| up.stdout.next()).collect());
    let url = |name: &str| {
        let mut words = lines.iter().map(|line| line.split_whitespace());
        let found = words.find_map(|mut words| (words.next()? == name).then(|| words.next())?);
        found.unwrap_or_else(|| panic!("no `{name}` in {lines:?}"))
    };
    let port = url("links").split(':').nth(2).unwrap();
    let port: u16 = port.split('/').next().unwrap().parse().unwrap();
    let site = "<a href='/hello/'>a</a><a href=\"/no-such\">b</a><img src=http://127.0.0.2:9/>"
        .to_owned()
        + "<a href='mailto:a@example.com'>c</a>";
    // A page of any content: what is posted to `echo` comes back, but a GET brings none. So it is served here.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let page = listener.local_addr().unwrap();
    let site = site
        .replace("'/", &format!("'http://127.0.0.1:{port}/"))
        .replace("\"/", &format!("\"http://127.0.0.1:{port}/"));
    let served = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut client, _) = listener.accept().await.unwrap();
        let _ = client.read(&mut [0; 4096]).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", site.len());
        client.write_all((head + &site).as_bytes()).await.unwrap();
    });
    let asked = format!("{}?page=http://{page}/", url("links"));
    let report = reqwest::get(asked).await.unwrap().text().await.unwrap();
    served.abort();
    let expected = [
        format!("200\thttp://127.0.0.1:{port}/hello/"),
        format!("404\thttp://127.0.0.1:{port}/no-such"),
        "not allowed\thttp://127.0.0.2:9/".to_owned(),
    ];
    for line in &expected {
        assert!(
            report.lines().any(|seen| seen == line),
            "{line} in {report}"
        );
    }
    assert!(report.contains("3 links"), "{report}");
    assert!(up.interrupt().success());
}

/// What `make run` serves: one manifest of all examples.
fn run_manifest(change: impl FnOnce(&mut Command)) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/run-manifest.sh"));
    change(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

/// Components, and where each is, as `realm up` lists them.
const SHOWN: [(&str, &str, u16); 16] = [
    ("c", "/c/", 200),
    ("echo", "/echo/", 200),
    ("gallery", "/gallery/", 200),
    ("guestbook", "/guestbook/", 200),
    ("hello", "/hello/", 200),
    ("hello-p3", "/hello-p3/", 200),
    ("index", "/", 200),
    ("javascript", "/javascript/", 200),
    ("limits", "/limits/", 200),
    ("links", "/links/", 400),
    ("markdown", "/markdown/", 405),
    ("python", "/python/", 200),
    ("qr", "/qr/", 200),
    ("shop", "/orders/", 405),
    ("todo", "/todo/", 200),
    ("visits", "/visits/", 200),
];

/// Four components of whole language runtimes, of which each takes a minute on a busy machine.
const COMPILED: std::time::Duration = std::time::Duration::from_secs(420);

#[tokio::test(flavor = "multi_thread")]
async fn make_run_shows_every_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Brings the toolchains, so that none is missing.
    for script in ["scripts/examples.sh", "scripts/languages.sh"] {
        let built = Command::new(root.join(script)).output().unwrap();
        assert!(built.status.success(), "{built:?}");
    }
    let output = run_manifest(|_| {});
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!told.contains("not shown"), "{told}");
    let path = String::from_utf8(output.stdout).unwrap();
    let manifest = std::fs::read_to_string(root.join(path.trim())).unwrap();
    let realm = Realm::empty();
    std::fs::create_dir_all(realm.path("run")).unwrap();
    realm.write("run/realm.toml", &manifest);
    let sources = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("source = \"file:../")?.strip_suffix('"'));
    for source in sources {
        let target = realm.path(source);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(root.join("examples/target").join(source), target).unwrap();
    }
    let up = [
        &on_free_ports("up")[..],
        &["run/realm.toml", "--timeout", "7m"],
    ]
    .concat();
    let up = Running::start(realm.command(&up));
    let lines: Vec<String> = tokio::task::block_in_place(|| {
        SHOWN
            .iter()
            .filter_map(|_| up.stdout.within(COMPILED))
            .collect()
    });
    for ((name, path, status), line) in SHOWN.iter().zip(&lines) {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some(*name), "{lines:?}");
        let url = words.next().unwrap();
        assert!(url.ends_with(path), "{url}");
        let answer = reqwest::get(url).await.unwrap();
        assert_eq!(answer.status().as_u16(), *status, "{name}");
    }
    assert!(up.interrupt().success());
}

/// The script behind `make run`, on a machine with Rust and nothing else: it builds, joins the manifests and
/// serves, and what it is given goes to `realm up`.
#[tokio::test(flavor = "multi_thread")]
async fn make_run_serves_from_its_script() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let tools = few_tools(folder.path());
    // What is tested is built already, and would be again with other features.
    let asked = folder.path().join("asked");
    let stub = format!(
        "#!/bin/sh\ncase \"$*\" in *\"--bin realm\") echo \"$*\" >> {}; exit 0;; esac\nexec {} \"$@\"\n",
        asked.display(),
        found("cargo").display()
    );
    let cargo = tools.join("cargo");
    std::fs::remove_file(&cargo).unwrap();
    std::fs::write(&cargo, stub).unwrap();
    std::fs::set_permissions(&cargo, PermissionsExt::from_mode(0o755)).unwrap();
    let target = folder.path().join("target");
    std::fs::create_dir_all(target.join("debug")).unwrap();
    symlink(PROGRAM, target.join("debug/realm")).unwrap();
    // Sources are named from there; another test has the folder that is meant for it.
    let joined = root.join(format!("examples/target/run-{}", std::process::id()));
    let realm = folder.path().join("realm");
    let mut command = Command::new(root.join("scripts/run.sh"));
    command
        .args(&on_free_ports("up")[1..])
        .env("PATH", &tools)
        .env("CARGO_TARGET_DIR", &target)
        .env("EXAMPLES_RUN_DIR", &joined)
        .env("RUN_REALM_DIR", &realm)
        .current_dir(folder.path());
    let up = Running::start(command);
    let line = tokio::task::block_in_place(|| up.stdout.within(COMPILED)).unwrap();
    let mut words = line.split_whitespace();
    let (name, url) = (words.next().unwrap(), words.next().unwrap());
    let (_, _, status) = SHOWN.iter().find(|(one, ..)| *one == name).unwrap();
    let answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.status().as_u16(), *status, "{name}");
    assert!(up.interrupt().success());
    std::fs::remove_dir_all(&joined).unwrap();
    let asked = std::fs::read_to_string(asked).unwrap();
    assert_eq!(asked, "build --locked --bin realm\n");
    assert!(realm.join("node.toml").exists());
}

/// On a machine with Rust and nothing else the examples in Rust are shown, and the others are named with
/// what would have to be installed.
#[test]
fn make_run_names_what_it_cannot_show() {
    let folder = tempfile::tempdir().unwrap();
    let tools = few_tools(folder.path());
    let output = run_manifest(|command| {
        // Without what was built before, and with a home in which no tools are.
        command
            .env("PATH", &tools)
            .env("CARGO_HOME", folder.path())
            .env("CARGO_TARGET_DIR", folder.path().join("target"))
            .env("EXAMPLES_RUN_DIR", folder.path().join("run"));
    });
    let told = String::from_utf8(output.stderr).unwrap();
    for (name, how) in [
        ("c", "sudo apt-get install clang-19"),
        ("python", "sudo apt-get install python3-venv"),
        ("gallery", "sudo apt-get install python3-venv"),
        ("javascript", "https://nodejs.org"),
        ("todo", "https://nodejs.org"),
    ] {
        let line = format!("not shown: `{name}`, since ");
        let line = told.lines().find(|one| one.starts_with(&line));
        assert!(
            line.is_some_and(|line| line.contains(how)),
            "{name}: {told}"
        );
    }
    let path = String::from_utf8(output.stdout).unwrap();
    let manifest = std::fs::read_to_string(path.trim()).unwrap();
    let components = manifest
        .lines()
        .filter(|line| line.starts_with("source = "));
    assert_eq!(components.count(), 12, "{manifest}");
    for route in ["/guestbook/", "/orders/", "/links/", "/hello/"] {
        assert!(manifest.contains(route), "{route}");
    }
    for route in ["/gallery/", "/todo/", "/python/"] {
        assert!(!manifest.contains(route), "{route}");
    }
}

/// A folder with what a machine with Rust has, and nothing else.
fn few_tools(folder: &Path) -> PathBuf {
    let tools = folder.join("bin");
    std::fs::create_dir(&tools).unwrap();
    let all = "awk basename bash cargo cat cc cmp cp cut dirname env flock grep install mkdir mv rm rustc sed \
        sha256sum sort touch";
    for tool in all.split_whitespace() {
        symlink(found(tool), tools.join(tool)).unwrap();
    }
    tools
}

/// Where a tool is, as a shell finds it.
fn found(tool: &str) -> PathBuf {
    let path = Command::new("sh")
        .args(["-c", &format!("command -v {tool}")])
        .output()
        .unwrap();
    let path = String::from_utf8(path.stdout).unwrap();
    let path = PathBuf::from(path.trim());
    assert!(path.is_absolute(), "`{tool}` is missing");
    path
}
