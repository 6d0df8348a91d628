//! What one or two servers alone can do: log-ins, authorizers, and programs in place of a server. More of
//! the first two: `passed`.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::client::{Ask, CLIENT};
use super::gone::{Then, ends, runs};
use super::servers::{Behind, Door, Front, PATIENT, Server, realm};

/// What a client without a log-in gets, and one with; and what the guest believes.
pub(super) fn check_log_in(front: &Front) {
    let wrong = Ask::get("/request").header("authorization", "Basic YW5uOndyb25n");
    for ask in [Ask::get("/request"), wrong] {
        assert_eq!(ask.send(front.port).status, 401, "{}", front.log());
    }
    let ask = Ask::get("/request")
        .header("authorization", "Basic YW5uOnNlY3JldA==")
        .header("x-realm-remote-user", "root")
        .header("x_realm_remote_user", "root");
    let got = ask.send(front.port);
    assert_eq!(got.status, 200, "{got:?}");
    let headers = got.json()["headers"].clone();
    assert_eq!(headers["x-realm-remote-user"], "ann", "{headers}");
    // Caddy has no word for it.
    if front.server != Server::Caddy {
        assert_eq!(headers["x-realm-auth-type"], "Basic", "{headers}");
    }
}

/// Takes the mark of a comment from lines with these words.
pub(super) fn uncommented(config: &str, words: &[&str]) -> String {
    let lines = config.lines().map(|line| {
        let is_meant = words.iter().any(|word| line.contains(&format!("# {word}")));
        match is_meant {
            true => line.replacen("# ", "", 1),
            false => line.to_owned(),
        }
    });
    lines.map(|line| line + "\n").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_at_nginx_reaches_the_guest() {
    let users = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(users.path(), "ann:{PLAIN}secret\n").unwrap();
    let front = Front::start_with(Server::Nginx, Door::Unix, &[], |config| {
        let lines = [
            "auth_basic",
            "fastcgi_param AUTH_TYPE",
            "fastcgi_param REMOTE_USER",
        ];
        let config = uncommented(&config, &lines);
        config.replace("/etc/nginx/users", users.path().to_str().unwrap())
    });
    check_log_in(&front);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_at_apache_reaches_the_guest() {
    let users = tempfile::NamedTempFile::new().unwrap();
    write_users(users.path());
    let front = Front::start_with(Server::Apache, Door::Unix, &[], |config| {
        let lines = ["AuthType", "AuthName", "AuthUserFile", "Require valid-user"];
        let config = uncommented(&config, &lines);
        config.replace("/etc/apache2/users", users.path().to_str().unwrap())
    });
    check_log_in(&front);
}

/// `ann` with the password `secret`, as Apache writes it.
pub(super) fn write_users(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut command = Command::new("openssl");
    command.args(["passwd", "-apr1", "secret"]);
    let hashed = crate::support::said(command).ok().stdout;
    std::fs::write(path, format!("ann:{hashed}")).unwrap();
    // Web servers run as others.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
}

/// lighttpd asks a component who may have its files.
#[tokio::test(flavor = "multi_thread")]
async fn lighttpd_asks_an_authorizer() {
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir(files.path().join("private")).unwrap();
    std::fs::write(files.path().join("private/file.txt"), "a file\n").unwrap();
    let front = Front::start_with(Server::Lighttpd, Door::Unix, &[], |config| {
        let config = uncommented(&config, &["fastcgi.server = (", "    \"check-local\""]);
        // In front of its own files: nothing of that host goes to realm otherwise.
        let config = without_responder(&config);
        config.replace("/var/www/html", files.path().to_str().unwrap())
    });
    let allowed = Ask::get("/private/file.txt").header("x-pass", "yes");
    let got = allowed.send(front.port);
    assert_eq!(
        (got.status, got.text().as_str()),
        (200, "a file\n"),
        "{}",
        front.log()
    );
    let got = Ask::get("/private/file.txt").send(front.port);
    assert_eq!((got.status, got.text().as_str()), (403, "not you\n"));
}

/// The configuration without its own `fastcgi.server`, whose place the one of the comment takes.
fn without_responder(config: &str) -> String {
    let mut kept = String::new();
    let mut is_left_out = false;
    for line in config.lines() {
        is_left_out |= line.contains("fastcgi.server = ( \"/\"");
        if !is_left_out {
            kept += line;
            kept.push('\n');
        }
        is_left_out &= line.trim() != ")) )";
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorizer_lets_pass_or_answers_itself() {
    let behind = realm(Door::Unix);
    let ask = |pass: &str| {
        let params = [("REQUEST_URI", "/private/x"), ("HTTP_X_PASS", pass)];
        let mut bytes = crate::fastcgi::asked(&params, b"");
        // The role, in the body of the first record.
        bytes[9] = 2;
        let mut stream = UnixStream::connect(behind.realm.path("fastcgi.sock")).unwrap();
        stream.write_all(&bytes).unwrap();
        crate::fastcgi::read_answer(&mut stream)
    };
    let allowed = ask("yes");
    assert!(allowed.stdout.starts_with("Status: 200 "), "{allowed:?}");
    assert!(
        allowed.stdout.contains("\r\nVariable-WHO: ann\r\n"),
        "{allowed:?}"
    );
    let denied = ask("no");
    assert!(denied.stdout.starts_with("Status: 403 "), "{denied:?}");
    assert!(denied.stdout.ends_with("not you\n"), "{denied:?}");
    assert_eq!((allowed.ended, denied.ended), (Some((0, 0)), Some((0, 0))));
}

/// Bodies of unknown length, for who wants them more than streams.
#[tokio::test(flavor = "multi_thread")]
async fn lighttpd_takes_bodies_of_unknown_length_where_it_keeps_them_first() {
    let front = Front::start_with(Server::Lighttpd, Door::Unix, &[], |config| {
        config.replace(
            "    server.stream-request-body = 2",
            "    server.stream-request-body = 0",
        )
    });
    let got = Ask::post_chunked("/length", vec![7; 1_000_000]).send(front.port);
    assert!(
        got.status == 200 && got.text().starts_with("1000000 "),
        "{got:?}"
    );
}

/// `cgi-fcgi` in place of a web server: parameters from its environment, a body from its input.
struct Program {
    behind: Behind,
    door: Door,
}

impl Program {
    fn command(&self, method: &str, target: &str, more: &[(&str, &str)]) -> Command {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let address = self.behind.address(self.door).trim_start_matches("unix:");
        let client = CLIENT.to_string();
        let mut command = Command::new("cgi-fcgi");
        command
            .args(["-bind", "-connect", address])
            .env_clear()
            .envs([
                ("REQUEST_METHOD", method),
                ("REQUEST_URI", target),
                ("SCRIPT_NAME", path),
                ("QUERY_STRING", query),
                ("HTTP_HOST", super::HOST),
                ("REMOTE_ADDR", client.as_str()),
            ])
            .envs(more.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// (head, body, stderr)
    fn ask(
        &self,
        method: &str,
        target: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> (String, Vec<u8>, String) {
        let length = body.len().to_string();
        let mut command = self.command(method, target, more);
        if !body.is_empty() || method == "POST" {
            command.env("CONTENT_LENGTH", length);
        }
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let body = body.to_vec();
        let writing = std::thread::spawn(move || {
            let _ = stdin.write_all(&body);
        });
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap();
        let end = output
            .stdout
            .windows(4)
            .position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stdout)));
        let head = String::from_utf8(output.stdout[..end + 2].to_vec()).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (head, output.stdout[end + 4..].to_vec(), stderr)
    }

    /// The same as over HTTP.
    fn same(&self, method: &str, target: &str, ask: &Ask, body: &[u8]) -> String {
        let (head, came, _) = self.ask(method, target, &[], body);
        let direct = ask.send(self.behind.http_port());
        assert!(
            head.starts_with(&format!("Status: {} ", direct.status)),
            "{head}"
        );
        assert!(came == direct.body, "{target}: {} bytes", came.len());
        for name in [
            "content-type",
            "content-length",
            "etag",
            "location",
            "x-own",
            "realm-error",
        ] {
            let line = direct
                .header(name)
                .map(|value| format!("\r\n{name}: {value}\r\n"));
            assert!(
                line.is_none_or(|line| head.contains(&line)),
                "{name} of {head}"
            );
        }
        head
    }

    /// It is killed where it stands: so a server ends that runs it for a client that has gone.
    fn killed(&self, mut command: Command, go: impl FnOnce(&mut Child)) {
        ends(&self.behind, Then::LetGo, || {
            let mut child = command.spawn().unwrap();
            runs(&self.behind);
            go(&mut child);
            child.kill().unwrap();
            child.wait().unwrap();
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cgi_fcgi_over_a_socket() {
    cgi_fcgi(Door::Unix);
}

#[tokio::test(flavor = "multi_thread")]
async fn cgi_fcgi_over_tcp() {
    cgi_fcgi(Door::Tcp);
}

fn cgi_fcgi(door: Door) {
    let behind = realm(door);
    let program = Program { behind, door };
    program.same("GET", "/text?a=b", &Ask::get("/text?a=b"), b"");
    program.same("HEAD", "/text", &Ask::head("/text"), b"");
    program.same(
        "GET",
        "/status?code=304",
        &Ask::get("/status?code=304"),
        b"",
    );
    program.same("GET", "/redirect?to=/x", &Ask::get("/redirect?to=/x"), b"");
    program.same("GET", "/trap", &Ask::get("/trap"), b"");
    for length in [0, 1, 64 * 1024, 1024 * 1024, 10 * 1024 * 1024] {
        let body = vec![7; length];
        program.same(
            "POST",
            "/length",
            &Ask::post("/length", body.clone()),
            &body,
        );
    }
    let (_, body, stderr) = program.ask("GET", "/stderr", &[], b"");
    assert_eq!(
        (body.as_slice(), stderr.lines().next()),
        (&b"written\n"[..], Some("said by the guest"))
    );
    assert!(!stderr.contains('\u{1b}'), "{stderr}");
    let large = "x".repeat(7_680);
    let names: Vec<String> = (0..8).map(|index| format!("HTTP_X_BIG_{index}")).collect();
    let more: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), large.as_str()))
        .collect();
    assert_eq!(program.ask("GET", "/sizes", &more, b"").1, b"61440\n");
    let seen = program.ask("GET", "/request", &[], b"").1;
    let seen: serde_json::Value = serde_json::from_slice(&seen).unwrap();
    let client = CLIENT.to_string();
    assert_eq!(seen["headers"]["x-forwarded-for"], client, "{seen}");
    let length = [("CONTENT_LENGTH", "8388608")];
    let command = program.command("POST", &format!("{PATIENT}/length"), &length);
    program.killed(command, |child| {
        // It stays open: the child is in the middle of it.
        let stdin = child.stdin.as_mut().unwrap();
        stdin.write_all(&[7; 1_000_000]).unwrap();
    });
    let waits = format!("{PATIENT}/wait?ms=599000");
    program.killed(program.command("GET", &waits, &[]), |_| {});
    let endless = format!("{PATIENT}/endless");
    program.killed(program.command("GET", &endless, &[]), |child| {
        let mut some = [0; 10_000];
        let stdout = child.stdout.as_mut().unwrap();
        std::io::Read::read_exact(stdout, &mut some).unwrap();
    });
    // It waits for the first line before the guest has written the last one.
    let mut command = program.command("GET", "/stream?ms=3000", &[]);
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(
        lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line == "first")
    );
    let began = std::time::Instant::now();
    assert_eq!(lines.map_while(Result::ok).last().as_deref(), Some("last"));
    assert!(
        began.elapsed().as_millis() > 1_500,
        "all of it came at once"
    );
    child.wait().unwrap();
}
