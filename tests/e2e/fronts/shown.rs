//! What people are shown: docs/edge.md has what `realm edge` prints, and `make demo-fastcgi` does what it says.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::demos::Demo;
use crate::support::Realm;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/edge.md");

/// One host, and every default.
const MANIFEST: &str = r#"
[components.shop]
source = "file:./shop.wasm"

[routing]
"*" = [{ path = "/...", host = "shop.example.com", component = "shop" }]
"#;

/// `BLESS=1 make test` writes it anew.
#[test]
fn docs_edge_md_has_what_is_printed_for_each_server() {
    let realm = Realm::empty();
    realm.write("realm.toml", MANIFEST);
    let page = std::fs::read_to_string(PAGE).unwrap();
    let mut expected = page.clone();
    for (server, language) in [
        ("nginx", "nginx"),
        ("apache", "apache"),
        ("caddy", "text"),
        ("haproxy", "text"),
        ("lighttpd", "text"),
    ] {
        let at = "unix:/run/realm/fastcgi.sock";
        let args = ["edge", server, "--at", at, "--manifest", "realm.toml"];
        let printed = realm.run(&args).ok().stdout;
        let begin = format!("<!-- generated: realm edge {server} -->\n");
        let (before, rest) = expected.split_once(&begin).unwrap();
        let (_, after) = rest.split_once("<!-- end -->").unwrap();
        expected = format!(
            "{before}{begin}\n```{language}\n{}\n```\n\n<!-- end -->{after}",
            printed.trim_end()
        );
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(PAGE, &expected).unwrap();
    } else {
        assert!(
            page == expected,
            "docs/edge.md is behind what is printed: `BLESS=1 make test` writes it"
        );
    }
}

#[test]
fn make_demo_fastcgi_puts_nginx_in_front_of_a_realm_and_shows_a_page() {
    let demo = Demo::new();
    let guests = Path::new(realm_test_guests::ECHO_REQUEST);
    let guests = guests.ancestors().nth(4).unwrap();
    symlink(guests, demo.target().join("guests")).unwrap();
    let shown = demo.shows("demo-fastcgi");
    for line in [
        "$ realm edge nginx --check --listen 127.0.0.1:",
        "<h1",
        "Server: nginx",
        "<em>nginx</em>",
        "nginx answered, and the component saw its client",
    ] {
        assert!(shown.contains(line), "{line} of {shown}");
    }
    assert_eq!(demo.n_asked(), 2);
}
