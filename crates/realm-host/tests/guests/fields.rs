//! How many fields a head may have that a guest makes, or that somebody sends whom it asks; and why a
//! body ended early.

use realm_test_guests as guests;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Loaded, guest};

const GUESTS: [&str; 2] = [guests::OUTBOUND, guests::P3_OUTBOUND];
/// As many as the head of a CGI program may have.
const FIELDS_MAX: usize = realm_host::cgi::FIELDS_MAX;

/// A server that answers as its path says: `/heads/N`, `/trailers/N`, `/cut`. Its port.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    port
}

async fn answer(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut path = head.split(' ').nth(1).unwrap().split('/').skip(1);
    let (what, count) = (path.next().unwrap(), path.next());
    let count: usize = count.map_or(0, |count| count.parse().unwrap());
    let fields: String = (0..count).map(|field| format!("x-{field}: \r\n")).collect();
    let text = match what {
        "heads" => format!("HTTP/1.1 200 OK\r\n{fields}\r\nwhole"),
        "trailers" => format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n{fields}\r\n"
        ),
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot".to_owned(),
    };
    // Who does not like it hangs up.
    let _ = stream.write_all(text.as_bytes()).await;
}

fn loaded(path: &'static str) -> Loaded {
    guest(path)
        .config(|config| config.policy.private_ranges = vec!["127.0.0.1".into()])
        .grants(|grants| grants.allowed_outbound = vec!["http://127.0.0.1:*".parse().unwrap()])
        .load()
}

#[track_caller]
fn check(told: &str, expected: &str) {
    assert!(told.contains(expected), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_from_elsewhere_has_so_many_fields() {
    let port = server().await;
    for path in GUESTS {
        let guest = loaded(path);
        let told = async |what: &str, count: usize| {
            let target = format!("/?url=http://127.0.0.1:{port}/{what}/{count}");
            guest.body(&target).await
        };
        check(&told("heads", FIELDS_MAX).await, "whole");
        check(
            &told("heads", FIELDS_MAX + 1).await,
            "HttpResponseHeaderSectionSize",
        );
        check(&told("trailers", 50).await, "whole");
        let refused = told("trailers", FIELDS_MAX + 1).await;
        assert!(!refused.contains("whole"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_of_a_guest_has_so_many_fields() {
    let port = server().await;
    for path in GUESTS {
        let guest = loaded(path);
        let ask = async |count: usize| {
            let target = format!("/?url=http://127.0.0.1:{port}/heads/1&fields={count}");
            guest.body(&target).await
        };
        // `host` is one of them.
        check(&ask(FIELDS_MAX - 1).await, "whole");
        check(&ask(FIELDS_MAX + 1).await, "HttpRequestHeaderSectionSize");

        let answer = guest.get(&format!("/?answer={FIELDS_MAX}")).await.unwrap();
        assert_eq!((answer.status, answer.headers.len()), (200, FIELDS_MAX));
        let refused = guest.refusal(&format!("/?answer={}", FIELDS_MAX + 1)).await;
        assert_eq!(refused, ("bad-response", 502));
        let trailing = async |count: usize| {
            let answer = guest.get(&format!("/?answer=1&trailers={count}")).await;
            answer.unwrap().broken
        };
        assert_eq!(trailing(FIELDS_MAX).await, None);
        let broken = trailing(FIELDS_MAX + 1).await;
        assert!(broken.is_some(), "{broken:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_learns_why_a_body_ended() {
    let port = server().await;
    for (path, expected) in [
        (
            guests::OUTBOUND,
            "cut off after 3 bytes: Some(ErrorCode::HttpProtocolError)",
        ),
        (guests::P3_OUTBOUND, "error: ErrorCode::HttpProtocolError"),
    ] {
        let told = loaded(path)
            .body(&format!("/?url=http://127.0.0.1:{port}/cut"))
            .await;
        check(&told, expected);
    }
}
