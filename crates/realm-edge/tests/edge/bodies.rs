//! Bodies both ways: streaming with back-pressure, trailers, 100-continue, limits, clients that
//! go away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use realm_edge::{Backend, Body, CallError, Outcome};
use tokio::io::AsyncWriteExt;

use crate::support::{
    Rig, backend, channel, data, empty, for_http1, get, read_until, request, soon, text, trailers,
    whole,
};

/// A backend that reads the body to its end, and answers with what it got.
pub(crate) fn echo() -> Arc<dyn Backend> {
    backend(|request| async move {
        let body = request.into_body().collect().await.map_err(|error| {
            CallError::new(StatusCode::BAD_REQUEST, "upload-failed", error.to_string())
        })?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let mut response = Response::new(text(body.to_bytes()));
        for (name, value) in &trailers {
            let name = format!("seen-{name}").parse::<http::HeaderName>();
            response
                .headers_mut()
                .insert(name.expect("a name"), value.clone());
        }
        Ok(response)
    })
}

/// A backend that answers at once and copies frames, trailers too.
fn pipe() -> Arc<dyn Backend> {
    backend(|request| async move {
        let mut response = Response::new(request.into_body());
        response
            .headers_mut()
            .insert("trailer", "x-sum".parse().expect("a value"));
        Ok(response)
    })
}

#[tokio::test]
async fn bodies_and_trailers_go_both_ways() {
    let mut rig = Rig::new(pipe()).await;
    for version in [1, 2] {
        let (sender, body) = channel();
        let mut request = request("POST", "http://h/", body);
        let fields = request.headers_mut();
        fields.insert("te", "trailers".parse().expect("a value"));
        fields.insert("trailer", "x-sum".parse().expect("a value"));
        let sending = tokio::spawn(async move {
            for frame in [data("one "), data("two"), trailers("x-sum", "7")] {
                sender.send(frame).await.expect("it is read");
            }
        });
        let response = match version {
            1 => {
                request
                    .headers_mut()
                    .insert("connection", "te".parse().expect("a value"));
                rig.send1(request).await
            }
            _ => rig.send2(request).await,
        };
        let body = soon(response.into_body().collect())
            .await
            .expect("a whole body");
        let expected: HeaderMap = [("x-sum", "7")]
            .map(|(name, value)| {
                (
                    name.parse().expect("a name"),
                    value.parse().expect("a value"),
                )
            })
            .into_iter()
            .collect();
        assert_eq!(body.trailers(), Some(&expected), "HTTP/{version}");
        assert_eq!(body.to_bytes(), "one two", "HTTP/{version}");
        soon(sending).await.expect("all was sent");
        let seen = rig.seen().await;
        assert_eq!((seen.bytes_in, seen.bytes_out), (7, 7), "HTTP/{version}");
        assert_eq!(seen.outcome, Outcome::Complete, "HTTP/{version}");
    }
}

#[tokio::test]
async fn trailers_need_a_client_that_takes_them() {
    let rig = Rig::new(backend(|_| async {
        let (sender, body) = channel();
        tokio::spawn(async move {
            let _ = sender.send(data("x")).await;
            let _ = sender.send(trailers("x-sum", "7")).await;
        });
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert("trailer", "x-sum".parse().expect("a value"));
        Ok(response)
    }))
    .await;
    let head = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n";
    let answer = rig.raw(format!("{head}\r\n")).await;
    assert!(answer.ends_with("\r\n1\r\nx\r\n0\r\n\r\n"), "{answer}");
    let answer = rig.raw(format!("{head}TE: trailers\r\n\r\n")).await;
    assert!(
        answer.ends_with("\r\n1\r\nx\r\n0\r\nx-sum: 7\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn frames_arrive_before_the_body_ends() {
    let rig = Rig::new(pipe()).await;
    for version in [1, 2] {
        let (sender, body) = channel();
        let request = request("POST", "http://h/", body);
        let mut response = match version {
            1 => rig.send1(request).await,
            _ => rig.send2(request).await,
        };
        for word in ["one", "two", "three"] {
            sender.send(data(word)).await.expect("it is read");
            let frame = soon(response.frame())
                .await
                .expect("a frame")
                .expect("sound");
            assert_eq!(frame.into_data().expect("data"), word, "HTTP/{version}");
        }
        drop(sender);
        let rest = soon(response.into_body().collect())
            .await
            .expect("a clean end");
        assert!(rest.to_bytes().is_empty(), "HTTP/{version}");
    }
}

#[tokio::test]
async fn continue_is_sent_when_the_backend_reads() {
    let rig = Rig::new(echo()).await;
    let mut stream = rig.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let interim = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.expect("sent");
    let answer = read_until(&mut stream, "abc").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    // A backend that answers without reading: no interim answer, nothing else to send.
    let rig = Rig::new(backend(|request| async move {
        assert!(!request.headers().contains_key("expect"));
        Ok(Response::new(text("no")))
    }))
    .await;
    let answer = rig.raw(head).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn too_large_is_refused_before_and_within() {
    let rig = Rig::with_limits(echo(), |limits| limits.request_bytes_max = 10).await;
    for version in [1, 2] {
        let declared = request("POST", "http://h/", text("12345678901"));
        let (sender, body) = channel();
        tokio::spawn(async move {
            for _ in 0..20 {
                let _ = sender.send(data("12345")).await;
            }
            sender.closed().await;
        });
        let streamed = request("POST", "http://h/", body);
        for request in [declared, streamed] {
            let response = match version {
                1 => rig.send1(request).await,
                _ => rig.send2(request).await,
            };
            assert_eq!(
                response.status(),
                StatusCode::PAYLOAD_TOO_LARGE,
                "HTTP/{version}"
            );
            assert_eq!(response.headers()["realm-error"], "request-too-large");
        }
    }
    let fits = rig
        .both(|| request("POST", "http://h/", text("1234567890")))
        .await;
    assert_eq!(fits.2, "1234567890");
}

#[tokio::test]
async fn trailers_carry_nothing_of_the_connection() {
    let rig = Rig::new(echo()).await;
    let answer = rig
        .raw(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             0\r\nKeep-Alive: 5\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
             X_Forwarded_Proto: https\r\nHost: evil\r\nAuthorization: x\r\nContent-Length: 7\r\n\
             Transfer-Encoding: chunked\r\nX-Sum: 7\r\n\r\n",
        )
        .await;
    assert!(answer.contains("\r\nseen-x-sum: 7\r\n"), "{answer}");
    assert_eq!(answer.matches("\r\nseen-").count(), 1, "{answer}");

    let rig = Rig::new(backend(|_| async {
        let (sender, body) = channel();
        tokio::spawn(async move {
            let mut fields = HeaderMap::new();
            for name in ["keep-alive", "set-cookie", "content-length", "realm-error"] {
                fields.insert(name, "5".parse().expect("a value"));
            }
            sender.send(Ok(Frame::trailers(fields))).await
        });
        Ok(Response::new(body))
    }))
    .await;
    let response = rig.send2(get("http://h/")).await;
    let body = soon(response.into_body().collect())
        .await
        .expect("a whole body");
    assert_eq!(body.trailers().map(HeaderMap::len), Some(0));
}

#[tokio::test]
async fn a_slow_upload_times_out() {
    let mut rig = Rig::with_limits(echo(), |limits| {
        limits.body_read_timeout = Duration::from_millis(50);
    })
    .await;
    let mut stream = rig.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let answer = crate::support::read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(rig.seen().await.code, Some("request-timeout"));
}

#[tokio::test]
async fn a_body_knows_its_size_before_it_is_read() {
    let rig = Rig::new(backend(|request| async move {
        let body: &Body = request.body();
        let hint = body.size_hint().exact();
        Ok(Response::new(text(format!(
            "{hint:?} {}",
            body.is_end_stream()
        ))))
    }))
    .await;
    let sized = rig.both(|| request("POST", "http://h/", text("abc"))).await;
    assert_eq!(sized.2, "Some(3) false");
    assert_eq!(rig.both(|| get("http://h/")).await.2, "Some(0) true");
    let (_sender, body) = channel();
    let unsized_body = rig.send1(request("POST", "http://h/", body)).await;
    assert_eq!(whole(unsized_body).await.2, "None false");
}

#[tokio::test]
async fn a_kept_connection_carries_many_requests() {
    let rig = Rig::new(echo()).await;
    let mut client = rig.http1().await;
    for round in 0..50 {
        let body = Bytes::from(vec![b'x'; round * 1000]);
        let answer =
            client.send_request(for_http1(request("POST", "http://h/", text(body.clone()))));
        assert_eq!(whole(soon(answer).await.expect("an answer")).await.2, body);
        let answer = client.send_request(for_http1(request("GET", "http://h/", empty())));
        assert_eq!(whole(soon(answer).await.expect("an answer")).await.2, "");
    }
    assert_eq!(rig.handle.connections(), 1);
}
