//! Who may pass, as a server asks: log-ins of Caddy, HAProxy and lighttpd, and a component as Apache's
//! authorizer. Of nginx, Apache and lighttpd: `more`.

use super::client::Ask;
use super::more::{check_log_in, uncommented, write_users};
use super::servers::{Door, Front, Server};

const DOCS: &str = include_str!("../../../docs/edge.md");

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_at_caddy_reaches_the_guest() {
    let mut command = std::process::Command::new("caddy");
    command.args(["hash-password", "--plaintext", "secret"]);
    let hashed = crate::support::said(command).ok().stdout;
    let front = Front::start_with(Server::Caddy, Door::Unix, &[], |config| {
        let config = uncommented(&config, &["basicauth {", "\tNAME HASH", "}"]);
        config.replace("NAME HASH", &format!("ann {}", hashed.trim()))
    });
    check_log_in(&front);
}

/// By default HAProxy calls everybody what they call themselves, and what is printed takes that away.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_at_haproxy_reaches_the_guest() {
    let users = "userlist USERS\n    user ann insecure-password secret\n\n";
    let front = Front::start_with(Server::Haproxy, Door::Unix, &[], |config| {
        let said = "`http-request auth unless { http_auth(USERS) }` in the frontend it is true: then without these two.";
        assert!(config.contains(said), "{config}");
        let taken = ["set-param REMOTE_USER", "set-param AUTH_TYPE"];
        let is_kept = |line: &&str| !taken.iter().any(|taken| line.contains(taken));
        let lines = config
            .lines()
            .filter(is_kept)
            .map(|line| format!("{line}\n"));
        let first = "    http-request set-var(txn.host)";
        let asked = format!("    http-request auth unless {{ http_auth(USERS) }}\n{first}");
        users.to_owned() + &lines.collect::<String>().replace(first, &asked)
    });
    check_log_in(&front);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_at_lighttpd_reaches_the_guest() {
    let users = tempfile::NamedTempFile::new().unwrap();
    write_users(users.path());
    let front = Front::start_with(Server::Lighttpd, Door::Unix, &[], |config| {
        let config = uncommented(&config, &["auth.backend", "auth.require"]);
        config.replace("/etc/lighttpd/users", users.path().to_str().unwrap())
    });
    check_log_in(&front);
}

/// The lines that docs/edge.md has for Apache's authorizer: of the whole server, and of one host.
fn documented() -> (&'static str, &'static str) {
    let blocks = DOCS.split("```apache\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    let server = blocks.find(|block| block.contains("AuthnzFcgiDefineProvider"));
    let host = blocks.find(|block| block.contains("AuthnzFcgiCheckAuthnProvider"));
    (server.unwrap(), host.unwrap())
}

/// One component says who may pass and who they are; another one answers, and is told.
#[tokio::test(flavor = "multi_thread")]
async fn apache_asks_an_authorizer_and_what_it_says_of_the_client_reaches_the_component() {
    let (server, host) = documented();
    let front = Front::guarded(Server::Apache, Door::Tcp, |config, behind| {
        let server = server.replace("127.0.0.1:9000", behind.address(Door::Tcp));
        let host = format!("{host}</VirtualHost>");
        server + &config.replace("</VirtualHost>", &host)
    });
    let ask = || {
        front
            .named(&Ask::get("/guarded/request"))
            .header("x-realm-remote-user", "root")
            .header("x-realm-param-who", "root")
            .header("who", "root")
    };
    let got = ask().header("x-pass", "yes").send(front.port);
    assert_eq!(got.status, 200, "{got:?}\n{}", front.log());
    let headers = got.json()["headers"].clone();
    assert_eq!(headers["x-realm-remote-user"], "ann", "{headers}");
    assert_eq!(headers["x-realm-param-who"], "ann", "{headers}");
    // The status is the component's; the page is Apache's own.
    let got = ask().send(front.port);
    assert_eq!(got.status, 403, "{got:?}");
    // It says nothing of other paths.
    let got = front.named(&Ask::get("/request")).send(front.port);
    let headers = got.json()["headers"].clone();
    assert!(
        headers.get("x-realm-remote-user").is_none() && headers.get("x-realm-param-who").is_none(),
        "{headers}"
    );
}
