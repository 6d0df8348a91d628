//! Each cap of FastCGI that node.toml sets, here alone and small: it is that one which is kept, and no other.

use std::time::Duration;

use http::Response;
use http_body_util::BodyExt as _;
use realm_edge::fastcgi::{Limits, Times};

use crate::fastcgi::{BEGIN, KEEP, PARAMS, RESPONDER, Server};
use crate::pressure::server;
use crate::support::{Rig, backend, get, named, soon, text, whole};

const GET_VALUES: u8 = 9;
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(600);

const TIMES: Times = Times {
    head: LONG,
    body: LONG,
    idle: LONG,
    stall: LONG,
};

async fn is_served(server: &mut Server) {
    server.begin(1, RESPONDER, KEEP, &[]).await;
    server.body(1, b"").await;
    let came = server.came(1).await;
    assert!(
        came.has_ended && came.answer.starts_with("Status: 200"),
        "{came:?}"
    );
}

#[tokio::test]
async fn a_question_is_as_long_as_it_may_be() {
    let rig = Rig::new(named("a")).await;
    for (bytes, is_answered) in [(100, true), (101, false)] {
        let limits = Limits {
            question_bytes_max: 100,
            ..Limits::default()
        };
        let mut server = server(&rig, limits);
        let name = "x".repeat(bytes - 2 - 17);
        let length = u8::try_from(name.len()).expect("short");
        let other = [&[length, 0][..], name.as_bytes()].concat();
        let question = [&b"\x0f\x00FCGI_MPXS_CONNS"[..], &other].concat();
        assert_eq!(question.len(), bytes);
        server.record(GET_VALUES, 0, &question).await;
        let answer = server.next().await.map(|(_, _, content)| content);
        // A name that is longer than any is no question; the record is one all the same.
        let expected = is_answered.then_some(Vec::new());
        assert_eq!(answer, expected, "{bytes}");
    }
}

#[tokio::test]
async fn each_time_is_its_own() {
    /// What stands still, beside one that waits for its first request.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Still {
        Head,
        Idle,
        Stall,
        Body,
    }
    let does = backend(|request| async move {
        if request.uri().path() == "/large" {
            return Ok(Response::new(text("x".repeat(1 << 20))));
        }
        let read = request.into_body().collect().await;
        read.map(|_| Response::new(text("read")))
            .map_err(|_| realm_edge::CallError::new(http::StatusCode::BAD_GATEWAY, "cut", "cut"))
    });
    let rig = Rig::new(does).await;
    let begin = async |times: Times, still: Still| {
        let limits = Limits {
            times: Some(times),
            ..Limits::default()
        };
        let mut server = server(&rig, limits);
        match still {
            Still::Head => {
                let begun = [0, RESPONDER, KEEP, 0, 0, 0, 0, 0];
                server.record(BEGIN, 1, &begun).await;
                server.record(PARAMS, 1, b"\x0e\x03REQUEST").await;
            }
            Still::Idle => is_served(&mut server).await,
            Still::Stall => {
                let large = [("REQUEST_URI", "/large")];
                server.begin(1, RESPONDER, KEEP, &large).await;
                server.body(1, b"").await;
            }
            Still::Body => {
                let length = [("CONTENT_LENGTH", "5")];
                server.begin(1, RESPONDER, KEEP, &length).await;
            }
        }
        server
    };
    let all = [Still::Head, Still::Idle, Still::Stall, Still::Body];
    for short in all {
        let mut times = TIMES;
        match short {
            Still::Head => times.head = SHORT,
            Still::Idle => times.idle = SHORT,
            Still::Stall => times.stall = SHORT,
            Still::Body => times.body = SHORT,
        }
        let mut others = Vec::new();
        for other in all.into_iter().filter(|other| *other != short) {
            others.push((other, begin(times, other).await));
        }
        let before = rig.handle.connections();
        assert_eq!(before, 3);
        let mut server = begin(times, short).await;
        match short {
            Still::Head | Still::Idle => assert!(server.is_closed().await),
            // It is not read: else it would not stand still.
            Still::Stall => {
                soon(async {
                    while rig.handle.connections() > before {
                        tokio::time::sleep(SHORT / 10).await;
                    }
                })
                .await;
            }
            Still::Body => {
                let came = server.came(1).await;
                assert!(came.answer.starts_with("Status: 408 "), "{came:?}");
                drop(server);
            }
        }
        // The others stand as still, and go on.
        for (other, mut server) in others {
            match other {
                Still::Head => {
                    server.record(PARAMS, 1, b"_METHODGET").await;
                    let rest = b"\x0b\x01REQUEST_URI/\x09\x01HTTP_HOSTa";
                    server.record(PARAMS, 1, rest).await;
                    server.record(PARAMS, 1, b"").await;
                    server.body(1, b"").await;
                }
                Still::Idle => {
                    server.begin(1, RESPONDER, KEEP, &[]).await;
                    server.body(1, b"").await;
                }
                Still::Stall => {}
                Still::Body => server.body(1, b"12345").await,
            }
            let came = server.came(1).await;
            let is_whole = came.has_ended && came.answer.starts_with("Status: 200 ");
            assert!(is_whole, "{short:?}: {other:?}");
        }
        soon(async {
            while rig.handle.connections() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn web_servers_have_so_many_connections_and_clients_the_others() {
    let holds = backend(|request| async move {
        if request.uri().path() == "/held" {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(text("a")))
    });
    let rig = Rig::with_config(vec![holds], |config| config.fastcgi.connections_max = 2).await;
    let mut first = Server::of(&rig);
    first.record(GET_VALUES, 0, b"\x0e\x00FCGI_MAX_CONNS").await;
    let (_, _, content) = first.next().await.expect("an answer");
    assert_eq!(content, b"\x0e\x01FCGI_MAX_CONNS2");
    let mut second = Server::of(&rig);
    let held = [("REQUEST_URI", "/held")];
    for server in [&mut first, &mut second] {
        server.begin(1, RESPONDER, KEEP, &held).await;
        server.body(1, b"").await;
        // A second one on the same connection: whoever is busy stays.
        server.begin(2, RESPONDER, KEEP, &[]).await;
        server.body(2, b"").await;
        assert!(server.came(2).await.has_ended);
    }
    assert!(Server::of(&rig).is_closed().await);
    let (status, _, _) = whole(rig.send1(get("http://a/")).await).await;
    assert_eq!(status, 200);
    drop(second);
    soon(async {
        while rig.handle.connections() > 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut third = Server::of(&rig);
    is_served(&mut third).await;
}
