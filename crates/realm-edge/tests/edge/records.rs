//! What a request over FastCGI says of its body and its path is what is read of it: no byte more, and no
//! other route.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use realm_edge::Backend;

use crate::fastcgi::{KEEP, RESPONDER, Server};
use crate::support::{Rig, backend, named, table, text};

/// A guest gets so many bytes as were said, though more come: they are nobody's, and not the beginning of
/// what follows.
#[tokio::test]
async fn no_more_of_a_body_is_read_than_it_says() {
    let echo = backend(|request| async move {
        let read = request.into_body().collect().await;
        Ok(match read {
            Ok(body) => Response::new(text(body.to_bytes())),
            Err(_) => Response::new(text("cut")),
        })
    });
    let rig = Rig::new(echo).await;
    let mut server = Server::of(&rig);
    for (length, expected) in [
        ("0", ""),
        ("1", "0"),
        ("4", "0123"),
        ("9", "012345678"),
        ("10", "0123456789"),
        ("11", "cut"),
    ] {
        let said = [("CONTENT_LENGTH", length)];
        server.begin(1, RESPONDER, KEEP, &said).await;
        // In records of three bytes: the length ends within one, and between two.
        for part in b"0123456789".chunks(3) {
            server.record(crate::fastcgi::STDIN, 1, part).await;
        }
        server.body(1, b"").await;
        let came = server.came(1).await.answer;
        let (_, body) = came.split_once("\r\n\r\n").expect("a head");
        assert_eq!(body, expected, "{length}");
    }
}

/// As over HTTP: whoever decodes or folds a path ends at another route than whoever reads it as it is.
#[tokio::test]
async fn no_spelling_in_request_uri_reaches_around_a_route() {
    let rig = Rig::new(named("root")).await;
    let backends: Vec<(&str, Vec<Arc<dyn Backend>>)> = ["root", "auth", "login"]
        .map(|name| (name, vec![named(name)]))
        .to_vec();
    let routes = [
        ("*/...", "root"),
        ("*/auth/...", "auth"),
        ("*/auth/login", "login"),
    ];
    rig.handle.set_table(table(&routes, &backends));
    let mut server = Server::of(&rig);
    let mut ask = async |params: &[(&str, &str)]| {
        server.begin(1, RESPONDER, KEEP, params).await;
        server.body(1, b"").await;
        let came = server.came(1).await.answer;
        let (head, body) = came.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).expect("a status").to_owned();
        let code = head
            .lines()
            .find_map(|line| line.strip_prefix("realm-error: "));
        (status, code.unwrap_or(body).to_owned())
    };
    let bad = (
        StatusCode::BAD_REQUEST.as_str().to_owned(),
        "bad-path".to_owned(),
    );
    for path in [
        "/auth/../orders",
        "/auth/%2e%2e/orders",
        "/auth/.%2E/orders",
        "/auth/..%2forders",
        "/auth%2f..%2forders",
        "/auth\\..\\orders",
        "/..%2fauth/x",
        "/x/%2e%2e/auth/login",
        "//auth/x",
        "/%61uth/x",
        "/auth%2fx",
        "/auth/%6cogin",
        "/auth;v=1/x",
        "/x/..",
    ] {
        assert_eq!(ask(&[("REQUEST_URI", path)]).await, bad, "{path}");
    }
    let owners: BTreeMap<&str, &str> = [
        ("/x//y", "root"),
        ("/%78%2Fy", "root"),
        ("/authority", "root"),
        ("/auth/a%2Fb//c", "auth"),
        ("/auth/login", "login"),
        ("/auth/login?x=/../y", "login"),
    ]
    .into();
    for (path, owner) in owners {
        let expected = ("200".to_owned(), owner.to_owned());
        assert_eq!(ask(&[("REQUEST_URI", path)]).await, expected, "{path}");
    }
    // Nor where a web server has decoded the path, and says it in two parts.
    for (name, path) in [
        ("/auth/..", "/orders"),
        ("", "//auth/x"),
        ("/auth/", "/../x"),
    ] {
        let params = [
            ("REQUEST_URI", ""),
            ("SCRIPT_NAME", name),
            ("PATH_INFO", path),
        ];
        let (_, seen) = ask(&params).await;
        assert_eq!(seen, "bad-path", "{name} {path}");
    }
}
