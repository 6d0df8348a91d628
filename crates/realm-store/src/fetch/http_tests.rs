//! Against real servers on this machine, honest and hostile.

use std::convert::Infallible;
use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::files::RealFiles;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

const COMPONENT: &[u8] = b"the bytes of a component";

/// Short, so that a test of silence is short; long enough for a busy machine to answer.
const PATIENCE: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    idle: Duration::from_millis(700),
    total: Duration::from_secs(20),
};

fn full(bytes: &'static [u8]) -> Answer {
    Response::new(Full::new(Bytes::from_static(bytes)).boxed_unsync())
}

fn redirect_to(location: String) -> Answer {
    let mut answer = full(b"");
    *answer.status_mut() = hyper::StatusCode::FOUND;
    let location = location.parse().expect("a header");
    answer.headers_mut().insert("location", location);
    answer
}

fn answer(path: &str) -> Answer {
    let hops = path.strip_prefix("/hops/").map(|hops| hops.parse::<u32>());
    match (path, hops) {
        (_, Some(Ok(0))) | ("/component", _) => full(COMPONENT),
        (_, Some(Ok(hops))) => redirect_to(format!("/hops/{}", hops - 1)),
        ("/wrong", _) => full(b"other bytes of a length "),
        ("/loop", _) => redirect_to("/loop".to_owned()),
        ("/to-a-file", _) => redirect_to("file:///etc/passwd".to_owned()),
        ("/endless", _) => {
            let piece = || Ok(Frame::data(Bytes::from_static(&[7; 1_000])));
            Response::new(StreamBody::new(stream::repeat_with(piece)).boxed_unsync())
        }
        ("/stalls", _) => {
            let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"the")))]);
            let body = StreamBody::new(first.chain(stream::pending()));
            Response::new(body.boxed_unsync())
        }
        ("/trickle", _) => {
            let pause = tokio::time::interval(PATIENCE.idle / 10);
            let body = stream::unfold(pause, async |mut pause| {
                pause.tick().await;
                Some((Ok(Frame::data(Bytes::from_static(b"."))), pause))
            });
            Response::new(StreamBody::new(body).boxed_unsync())
        }
        _ => {
            let mut answer = full(b"no");
            *answer.status_mut() = hyper::StatusCode::NOT_FOUND;
            answer
        }
    }
}

async fn respond(request: Request<Incoming>) -> Result<Answer, Infallible> {
    if request.uri().path() == "/silent" {
        std::future::pending::<()>().await;
    }
    Ok(answer(request.uri().path()))
}

async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                // A client that hangs up is what some tests are about.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(connection), service_fn(respond))
                    .await;
            });
        }
    });
    address
}

/// A server that answers with these bytes and hangs up: no library would send them.
async fn serve_raw(bytes: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let _ = connection.read(&mut request).await;
            let _ = connection.write_all(&bytes).await;
            let _ = connection.shutdown().await;
        }
    });
    address
}

fn pin(size: u64) -> Pin {
    Pin {
        digest: Digest::of(COMPONENT),
        size,
    }
}

/// Fetches, checks that blobs hold the component or nothing, and that `resolve` says the same.
async fn get(server: SocketAddr, path: &str) -> Result<(), FetchError> {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(folder.path().to_owned()).expect("opens");
    let pin = pin(COMPONENT.len() as u64);
    let source = Source::Http {
        url: format!("http://user:password@{server}{path}?token=hidden"),
        digest: pin.digest,
    };
    let fetched = fetch_within(
        &blobs,
        pin,
        &source,
        folder.path(),
        &Origins::default(),
        PATIENCE,
    )
    .await;
    let resolved = resolve_within(
        &source,
        folder.path(),
        &Origins::default(),
        pin.size,
        PATIENCE,
    )
    .await;
    let left = RealFiles.names(folder.path()).expect("listed");
    match (&fetched, resolved) {
        (Ok(()), Ok((resolved, bytes))) => {
            assert_eq!((resolved, &bytes[..]), (pin, COMPONENT));
            assert_eq!(left, [pin.digest.hex()]);
        }
        (Err(fetched), Err(resolved)) => {
            assert_eq!(fetched.to_string(), resolved.to_string());
            assert_eq!(left, [""; 0], "nothing partial");
            check_message(fetched, server);
        }
        (fetched, resolved) => panic!("{fetched:?} and {resolved:?}"),
    }
    fetched
}

fn check_message(error: &FetchError, server: SocketAddr) {
    let mut text = error.to_string();
    assert!(text.contains(&server.to_string()), "{text}");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    assert!(
        !text.contains("password") && !text.contains("hidden"),
        "{text}"
    );
}

fn http_error(result: Result<(), FetchError>) -> reqwest::Error {
    let error = result.expect_err("no component");
    let FetchError::Http { source, .. } = error else {
        panic!("{error:?}");
    };
    source
}

#[tokio::test]
async fn an_honest_server_is_believed_because_of_the_digest() {
    let server = serve().await;
    get(server, "/component").await.expect("fetched");
    let error = get(server, "/wrong").await.expect_err("other bytes");
    let FetchError::Mismatch {
        from,
        expected,
        got,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(from, format!("http://{server}/wrong"));
    assert_eq!(expected, Digest::of(COMPONENT));
    assert_eq!(got, Digest::of(b"other bytes of a length "));
    let error = get(server, "/nothing").await.expect_err("not there");
    assert!(matches!(error, FetchError::Status { status: 404, .. }));
}

#[tokio::test]
async fn redirects_are_followed_five_times() {
    let server = serve().await;
    get(server, "/hops/5").await.expect("fetched");
    for path in ["/hops/6", "/loop"] {
        let error = http_error(get(server, path).await);
        assert!(error.is_redirect(), "{error:?}");
        let reason = error.source().expect("a reason").to_string();
        assert_eq!(reason, RedirectError::TooMany.to_string());
    }
    let error = get(server, "/to-a-file").await.expect_err("not followed");
    assert!(matches!(error, FetchError::Status { status: 302, .. }));
}

/// Case 24: an endless stream.
#[tokio::test]
async fn case_24_a_stream_without_end_is_cut_at_the_cap() {
    let server = serve().await;
    let error = get(server, "/endless").await.expect_err("endless");
    assert!(matches!(error, FetchError::TooLarge { bytes_max: 24, .. }));
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let server = serve().await;
    for path in ["/silent", "/stalls"] {
        let got = tokio::time::timeout(PATIENCE.total / 2, get(server, path)).await;
        let error = http_error(got.expect("given up long before the total time"));
        assert!(error.is_timeout(), "{error:?}");
    }
}

#[tokio::test]
async fn a_trickle_is_ended_by_the_total_time() {
    let server = serve().await;
    let source = Source::Http {
        url: format!("http://{server}/trickle"),
        digest: Digest::of(COMPONENT),
    };
    let hasty = Timeouts {
        total: PATIENCE.idle,
        ..PATIENCE
    };
    let origins = Origins::default();
    let resolved = resolve_within(&source, Path::new("."), &origins, 1_000_000, hasty);
    let resolved = tokio::time::timeout(PATIENCE.total / 2, resolved).await;
    let error = http_error(resolved.expect("ended").map(|_| ()));
    assert!(error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn a_length_that_lies_gains_nothing() {
    let check = async |length: usize, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        let server = serve_raw([head.as_bytes(), body].concat()).await;
        get(server, "/component").await
    };
    check(COMPONENT.len(), COMPONENT).await.expect("the truth");
    // Cut short, and with bytes beyond the declared length.
    let error = http_error(check(COMPONENT.len(), &COMPONENT[..10]).await);
    assert!(error.is_body() || error.is_decode(), "{error:?}");
    let error = check(10, COMPONENT).await.expect_err("the first 10");
    assert!(matches!(error, FetchError::Mismatch { .. }), "{error:?}");
    // Refused by the declared length alone: the body would have been right.
    let error = check(25, COMPONENT).await.expect_err("above the cap");
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error:?}");
    // No length, no chunks: the end of the connection is the end.
    let server = serve_raw([b"HTTP/1.0 200 OK\r\n\r\n", COMPONENT].concat()).await;
    get(server, "/component").await.expect("whole");
    let server = serve_raw([b"HTTP/1.0 200 OK\r\n\r\n", &COMPONENT[..9]].concat()).await;
    let error = get(server, "/component").await.expect_err("cut");
    assert!(matches!(error, FetchError::Mismatch { .. }), "{error:?}");
    let server = serve_raw(b"not http at all\r\n\r\n".to_vec()).await;
    http_error(get(server, "/component").await);
}

#[tokio::test]
async fn a_server_that_is_not_there_and_another_pin_are_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let error = http_error(get(address, "/component").await);
    assert!(error.is_connect(), "{error:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(folder.path().to_owned()).expect("opens");
    let source = Source::Http {
        url: format!("http://{address}/"),
        digest: Digest::of(b"another"),
    };
    let error = fetch(&blobs, pin(1), &source, folder.path()).await;
    assert!(matches!(error, Err(FetchError::OtherPin { .. })));
}

#[test]
fn the_tls_set_up_needs_nothing_from_the_process() {
    // No crypto provider is installed here, and the machine may have no certificates.
    http::client(PATIENCE).expect("a client");
}

/// Half of the component lies here; `second` is what the server says to the next request. Returns
/// the request, and what came of it.
async fn resume_with(second: String) -> (String, Result<(), FetchError>) {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(folder.path().to_owned()).expect("opens");
    let pin = pin(COMPONENT.len() as u64);
    let half = folder.path().join("partial").join(pin.digest.hex());
    std::fs::write(half, &COMPONENT[..10]).expect("written");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.expect("a client");
        let mut request = vec![0; 4_096];
        let read = connection.read(&mut request).await.expect("a request");
        request.truncate(read);
        // The client may have seen enough of it.
        let _ = connection.write_all(second.as_bytes()).await;
        String::from_utf8(request).expect("text").to_lowercase()
    });
    let source = Source::Http {
        url: format!("http://{address}/component"),
        digest: pin.digest,
    };
    let fetched = fetch_within(
        &blobs,
        pin,
        &source,
        folder.path(),
        &Origins::default(),
        PATIENCE,
    )
    .await;
    assert_eq!(fetched.is_ok(), blobs.verify_pin(pin).await.is_ok());
    (server.await.expect("no panic"), fetched)
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let (rest, all) = (text(&COMPONENT[10..]), text(COMPONENT));
    let part = |range: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {range}\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
    };
    let (request, fetched) = resume_with(part("10-23/24", &rest)).await;
    assert!(request.contains("\r\nrange: bytes=10-\r\n"), "{request}");
    fetched.expect("the rest");

    // A server that knows no ranges sends all.
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: 24\r\nconnection: close\r\n\r\n{all}");
    resume_with(whole).await.1.expect("all of it");

    // Another part than was asked for, and more than there can be.
    let error = resume_with(part("0-23/24", &all)).await.1;
    assert!(
        matches!(error, Err(FetchError::Status { status: 206, .. })),
        "{error:?}"
    );
    let error = resume_with(part("10-24/25", &format!("{rest}x"))).await.1;
    assert!(
        matches!(error, Err(FetchError::TooLarge { .. })),
        "{error:?}"
    );
}
