//! What is printed, and that no host and no path is ever more than a name in it.

use proptest::prelude::*;
use realm_model::route::HostPattern;

use super::site::{Door, Listen, Protocol, Site, Wanted};
use super::{Server, render};

const SERVERS: [Server; 5] = [
    Server::Nginx,
    Server::Apache,
    Server::Caddy,
    Server::Haproxy,
    Server::Lighttpd,
];

fn site(hosts: &[HostPattern], any_host: bool, protocol: Protocol) -> Option<Site> {
    let door = match protocol {
        Protocol::FastCgi => Door::usual(),
        Protocol::Http => Door::usual_http(),
    };
    let wanted = Wanted::of(hosts.iter().cloned(), any_host);
    Site::new(wanted, protocol, door, Listen::default()).ok()
}

fn all(hosts: &[HostPattern], any_host: bool) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    for protocol in [Protocol::FastCgi, Protocol::Http] {
        let site = site(hosts, any_host, protocol)?;
        texts.extend(SERVERS.map(|server| render(server, &site)));
    }
    Some(texts)
}

fn exact(name: &str) -> HostPattern {
    HostPattern::Exact(name.to_owned())
}

fn below(name: &str) -> HostPattern {
    HostPattern::Below(name.to_owned())
}

#[test]
fn what_is_printed_of_two_hosts_and_all_others() {
    let hosts = [exact("shop.example.com"), below("example.com")];
    for protocol in [Protocol::FastCgi, Protocol::Http] {
        let site = site(&hosts, true, protocol).expect("plain names");
        for server in SERVERS {
            let name = format!("{server:?}_{protocol:?}").to_lowercase();
            insta::assert_snapshot!(name, render(server, &site));
        }
    }
}

#[test]
fn a_host_that_is_more_than_a_name_is_refused() {
    for name in [
        "",
        "a b",
        "a;",
        "a\"",
        "a'b",
        "a{b",
        "$host",
        "a\n}",
        "a\\",
        "a%{HTTP_HOST}",
        "a)",
        "#a",
        "{env.HOME}",
        "a`",
        "-a",
        "a..",
        "A",
        "bücher",
        "[::1",
        "[::1]]",
        "[a;b]",
        "*",
    ] {
        assert!(
            site(&[exact(name)], false, Protocol::FastCgi).is_none(),
            "{name:?}"
        );
        assert!(
            site(&[below(name)], false, Protocol::FastCgi).is_none(),
            "*.{name:?}"
        );
    }
    assert!(
        site(
            &[exact("[::1]"), exact("127.0.0.1")],
            false,
            Protocol::FastCgi
        )
        .is_some()
    );
    assert!(site(&[below("[::1]")], false, Protocol::FastCgi).is_none());
}

#[test]
fn a_place_is_a_plain_path_or_an_address() {
    let check = |text: &str, expected: Option<&str>| {
        let door: Result<Door, String> = text.parse();
        assert_eq!(
            door.ok().map(|door| door.to_string()).as_deref(),
            expected,
            "{text}"
        );
    };
    check(
        "unix:/run/realm/fastcgi.sock",
        Some("unix:/run/realm/fastcgi.sock"),
    );
    check("127.0.0.1:9000", Some("127.0.0.1:9000"));
    check("0.0.0.0:9000", Some("127.0.0.1:9000"));
    check("[::]:9000", Some("[::1]:9000"));
    for text in [
        "unix:",
        "unix:/",
        "unix:run",
        "unix:/a b",
        "unix:/a;b",
        "unix:/a|fcgi://evil/",
        "unix:/a\"b",
        "unix:/a\nb",
        "unix:/a:b",
        "unix:/${HOME}",
        "unix:/{env.HOME}",
        "127.0.0.1",
        "127.0.0.1:0",
        "localhost:9000",
        "",
    ] {
        check(text, None);
    }
    check(&format!("unix:/{}", "a".repeat(107)), None);
}

/// The texts with a word in place of a name, however a server wants its dots.
fn without(name: &str, texts: Vec<String>) -> Vec<String> {
    let one = |text: String| {
        let text = text.replace("\\.", ".").replace(name, "NAME");
        // Whether Caddy gets a certificate for it depends on the name.
        text.replace("http://NAME", "NAME")
    };
    texts.into_iter().map(one).collect()
}

proptest! {
    /// Whatever a host is, it is refused, or the text is that of any other host with its name in it.
    #[test]
    fn a_host_changes_nothing_but_its_name(
        name in prop_oneof![
            "\\PC{0,20}",
            "[ -~\n\t]{0,20}",
            "[a-z0-9._-]{1,20}",
            "[a-z.]{0,6}[\"'`{}();$%#\\\\ \n]{0,3}[a-z.]{0,6}",
        ],
        is_below: bool,
    ) {
        // So that its name stands nowhere else, and sorts as the other one does.
        let name = format!("zq7-{name}");
        let pattern = |name: &str| if is_below { below(name) } else { exact(name) };
        let other = "zq7-other.example.com";
        if let Some(texts) = all(&[pattern(&name)], true) {
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)));
            let expected = all(&[pattern(other)], true).expect("a plain name");
            prop_assert_eq!(without(&name, texts), without(other, expected));
        }
    }

    #[test]
    fn a_socket_is_a_path_and_nothing_else(path in "\\PC{0,30}|/[ -~\n]{0,30}") {
        if let Ok(door) = format!("unix:{path}").parse::<Door>() {
            prop_assert_eq!(door.to_string(), format!("unix:{path}"));
            prop_assert!(path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte)));
        }
    }
}
