//! The bytes of both directions: what is asked, what may come back, and any cut of it.

use bytes::{Bytes, BytesMut};
use http::Request;
use http::request::Parts;
use proptest::collection::vec;
use proptest::prelude::*;
use realm_model::upstream::Scripts;

use super::super::record::{self, HEAD_BYTES, Head, Kind};
use super::super::{Decoder, Event, Limits, Params, ParamsLimits};
use super::asking;
use super::head::{BadHead, HeadReader};
use super::replies::{End, Nonsense, Replies, Reply};
use super::script::{self, BadPath};

/// Of a head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 256;

fn scripts(index: &str) -> Scripts {
    Scripts {
        root: "/srv/www".to_owned(),
        split: ".php".to_owned(),
        index: index.to_owned(),
    }
}

/// A record by hand: what a sound writer would not write can be written as well.
fn raw(kind: u8, id: u8, content: &[u8], padding: u8) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).expect("short").to_be_bytes();
    let head = [1, kind, 0, id, high, low, padding, 0];
    [&head[..], content, &vec![0xff; usize::from(padding)]].concat()
}

/// Streams put together, the end, and why not.
#[derive(Debug, Default, PartialEq)]
struct Told {
    out: Vec<u8>,
    log: Vec<u8>,
    end: Option<End>,
    nonsense: Option<Nonsense>,
}

fn told(parts: &[&[u8]]) -> Told {
    let mut replies = Replies::default();
    let mut input = BytesMut::new();
    let mut told = Told::default();
    for part in parts {
        input.extend_from_slice(part);
        loop {
            match replies.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Reply::Stdout(bytes))) => told.out.extend_from_slice(&bytes),
                Ok(Some(Reply::Stderr(bytes))) => told.log.extend_from_slice(&bytes),
                Ok(Some(Reply::End(end))) => told.end = Some(end),
                Err(nonsense) => {
                    told.nonsense = Some(nonsense);
                    return told;
                }
            }
        }
    }
    told
}

fn cut(bytes: &[u8], at: Vec<usize>) -> Vec<&[u8]> {
    let mut at: Vec<usize> = at.into_iter().map(|one| one % (bytes.len() + 1)).collect();
    at.push(0);
    at.push(bytes.len());
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

#[test]
fn an_answer_is_its_streams_and_its_end() {
    let bytes = [
        raw(10, 0, b"x", 3),
        raw(6, 1, b"one ", 7),
        raw(7, 1, b"log", 0),
        raw(6, 1, b"two", 255),
        raw(6, 1, b"", 8),
        raw(7, 1, b" more", 0),
        raw(3, 1, &[0, 0, 1, 2, 0, 0, 0, 0], 0),
    ];
    let seen = told(&[&bytes.concat()]);
    assert_eq!(seen.out, b"one two");
    assert_eq!(seen.log, b"log more");
    assert_eq!(seen.end, Some(End::Complete(258)));
    assert_eq!(seen.nonsense, None);
    for (status, end) in [
        (1, End::Overloaded),
        (2, End::Overloaded),
        (3, End::UnknownRole),
    ] {
        let record = raw(3, 1, &[0, 0, 0, 0, status, 0, 0, 0], 0);
        assert_eq!(told(&[&record]).end, Some(end));
    }
}

#[test]
fn what_no_application_says_is_nonsense() {
    let end = raw(3, 1, &[0; 8], 0);
    let cases = [
        (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), Nonsense::Version(b'H')),
        (b"H".to_vec(), Nonsense::Version(b'H')),
        (raw(6, 2, b"a", 0), Nonsense::Id(2)),
        (raw(3, 2, &[0; 8], 0), Nonsense::Id(2)),
        (raw(1, 1, &[0; 8], 0), Nonsense::Kind(1)),
        (raw(5, 1, b"a", 0), Nonsense::Kind(5)),
        (raw(99, 1, b"a", 0), Nonsense::Kind(99)),
        (raw(3, 1, &[0; 7], 0), Nonsense::End),
        (raw(3, 1, &[0, 0, 0, 0, 9, 0, 0, 0], 0), Nonsense::End),
        ([end, raw(6, 1, b"a", 0)].concat(), Nonsense::After),
        (
            [raw(6, 1, b"", 0), raw(6, 1, b"a", 0)].concat(),
            Nonsense::After,
        ),
        (raw(11, 0, b"x", 0).repeat(17), Nonsense::Others),
        (raw(7, 1, b"", 0).repeat(17), Nonsense::Others),
    ];
    for (bytes, expected) in cases {
        assert_eq!(told(&[&bytes]).nonsense, Some(expected), "{bytes:?}");
    }
}

#[test]
fn a_declared_length_takes_no_memory() {
    let mut input = BytesMut::from(&[1, 6, 0, 1, 0xff, 0xff, 0xff, 0][..]);
    let mut replies = Replies::default();
    assert_eq!(replies.next(&mut input), Ok(None));
    assert!(input.capacity() < 1024);
    input.extend_from_slice(b"a");
    let reply = replies.next(&mut input);
    assert_eq!(reply, Ok(Some(Reply::Stdout(Bytes::from_static(b"a")))));
}

fn head(text: &[u8]) -> Result<(u16, Vec<String>, usize), Option<BadHead>> {
    let (head, taken) = HeadReader::new(HEAD_BYTES_MAX, FIELDS_MAX)
        .feed(text)
        .map_err(Some)?
        .ok_or(None)?;
    let headers = head.headers().iter();
    let headers = headers.map(|(name, value)| format!("{name}={}", value.to_str().unwrap_or("?")));
    Ok((head.status().as_u16(), headers.collect(), taken))
}

#[test]
fn heads_of_applications_are_read() {
    let lines = |lines: &[&str]| {
        lines
            .iter()
            .map(|line| (*line).to_owned())
            .collect::<Vec<_>>()
    };
    for (text, status, headers) in [
        (
            "Status: 404 Not Found\r\nX-A: b\r\n\r\n",
            404,
            &["x-a=b"][..],
        ),
        (
            "Content-type: text/html; charset=UTF-8\n\n",
            200,
            &["content-type=text/html; charset=UTF-8"],
        ),
        ("Location: /there\r\n\r\n", 302, &["location=/there"]),
        ("Status: 204\r\nContent-Length: 5\r\n\r\n", 204, &[]),
        (
            "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n",
            200,
            &["set-cookie=a=1", "set-cookie=b=2"],
        ),
        ("\n", 200, &[]),
    ] {
        assert_eq!(
            head(text.as_bytes()),
            Ok((status, lines(headers), text.len())),
            "{text}"
        );
    }
    for (text, why) in [
        ("HTTP/1.1 200 OK\r\n\r\n", BadHead::NoField),
        ("<html>\n\n", BadHead::NoField),
        ("A: b\n c\n\n", BadHead::NoField),
        ("A b: c\n\n", BadHead::NoField),
        ("Status: 101\n\n", BadHead::Status),
        ("Status: 999\n\n", BadHead::Status),
        ("Status: OK\n\n", BadHead::Status),
    ] {
        assert_eq!(head(text.as_bytes()), Err(Some(why)), "{text}");
    }
    assert_eq!(
        head(&"A: b\n".repeat(257).into_bytes()),
        Err(Some(BadHead::TooMany(FIELDS_MAX)))
    );
    assert_eq!(head(&vec![b'a'; HEAD_BYTES_MAX]), Err(None));
    assert_eq!(
        head(&vec![b'a'; HEAD_BYTES_MAX + 1]),
        Err(Some(BadHead::TooLong(HEAD_BYTES_MAX)))
    );
}

#[test]
fn a_path_names_a_script() {
    for (index, path, name, info) in [
        ("index.php", "/", "/index.php", ""),
        ("index.php", "/blog/", "/blog/index.php", ""),
        ("index.php", "/blog", "/index.php", ""),
        ("index.php", "/a.php", "/a.php", ""),
        ("index.php", "/a.php/", "/a.php", "/"),
        ("index.php", "/a.php/b/c.php", "/a.php", "/b/c.php"),
        ("index.php", "/a.phpx", "/index.php", ""),
        ("index.php", "/a.PHP", "/index.php", ""),
        ("index.php", "/a.php5/b.php", "/a.php5/b.php", ""),
        ("index.php", "/.php", "/index.php", ""),
        ("index.php", "/up/a.jpg/b.php", "/up/a.jpg/b.php", ""),
        ("index.php", "/a%2ephp%2Fb", "/a.php", "/b"),
        ("index.php", "/%C4%B0.php", "/\u{130}.php", ""),
        // U+212A folds to k in lower case, U+0130 to i with a dot.
        ("index.php", "/a.p%E2%84%AAp", "/index.php", ""),
        ("/index.php", "/2024/hello/", "/index.php", ""),
        ("/index.php", "/wp-login.php", "/wp-login.php", ""),
        ("/app/front.php", "/x", "/app/front.php", ""),
    ] {
        let script = script::of(path, &scripts(index)).expect(path);
        let seen = (
            String::from_utf8(script.name).unwrap(),
            String::from_utf8(script.info).unwrap(),
        );
        assert_eq!(seen, (name.to_owned(), info.to_owned()), "{path}");
    }
    for path in [
        "",
        "*",
        "a.php",
        "/../a.php",
        "/a/../b.php",
        "/%2e%2e/a.php",
        "/a.php/..%2f..",
        "/./a.php",
        "/a%00.php",
        "/a.php%00.jpg",
        "/a.php/%0a",
        "/a.php/%0Ab",
        "/a.php/%7f",
        "/a.php/x/%2e%2e",
    ] {
        assert_eq!(
            script::of(path, &scripts("index.php")),
            Err(BadPath),
            "{path}"
        );
    }
}

fn parts(request: http::request::Builder) -> Parts {
    request.body(()).expect("a request").into_parts().0
}

/// What an application reads of what was written, and how many records of parameters there were.
fn heard(bytes: &[u8]) -> (Params, usize) {
    let limits = Limits {
        params: ParamsLimits {
            bytes_max: 1 << 20,
            pairs_max: 1_000,
            name_bytes_max: 70_000,
        },
        ..Limits::default()
    };
    let mut decoder = Decoder::new(limits);
    let mut input = BytesMut::from(bytes);
    let event = decoder
        .next(&mut input)
        .expect("FastCGI")
        .expect("a request");
    let Event::Request { params, .. } = event else {
        panic!("{event:?}");
    };
    // php-fpm reads each record for itself: a pair that is cut is the end of the request to it.
    let (mut rest, mut records) = (bytes, 0);
    while let Some(head) = rest.first_chunk::<HEAD_BYTES>() {
        let head = Head::of(*head);
        let body = &rest[HEAD_BYTES..][..usize::from(head.content)];
        if head.kind == Kind::Params && !body.is_empty() {
            records += 1;
            let mut alone = BytesMut::from(&raw(1, 1, &[0, 1, 0, 0, 0, 0, 0, 0], 0)[..]);
            record::put(&mut alone, Kind::Params, 1, body);
            record::put(&mut alone, Kind::Params, 1, &[]);
            let event = Decoder::new(limits).next(&mut alone).expect("FastCGI");
            assert!(
                matches!(event, Some(Event::Request { .. })),
                "a pair is cut"
            );
        }
        rest = &rest[HEAD_BYTES + body.len() + usize::from(head.padding)..];
    }
    assert!(rest.is_empty());
    (params, records)
}

fn one<'p>(params: &'p Params, name: &str) -> Option<&'p str> {
    let value = params.get(name.as_bytes())?;
    Some(std::str::from_utf8(value).expect("text"))
}

#[test]
fn a_request_becomes_parameters() {
    let request = Request::post("https://shop.example.com:8443/a.php/b%20c?d=%20e")
        .header("host", "shop.example.com:8443")
        .header("content-type", "text/plain")
        .header("content-length", "7")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("accept", "x/y")
        .header("accept", "z/*")
        .header("x-real-ip", "203.0.113.9")
        .header("x_real_ip", "6.6.6.6")
        .header("proxy", "http://evil.example")
        .header("x-forwarded-for", "6.6.6.6, 7.7.7.7, 203.0.113.9, 10.0.0.1");
    let begun = asking::begin(&parts(request), 7, &scripts("index.php"), false).unwrap();
    assert_eq!(begun[10], 0, "the connection is not kept");
    let (params, _) = heard(&begun);
    for (name, expected) in [
        ("REQUEST_METHOD", Some("POST")),
        ("REQUEST_URI", Some("/a.php/b%20c?d=%20e")),
        ("QUERY_STRING", Some("d=%20e")),
        ("SCRIPT_NAME", Some("/a.php")),
        ("SCRIPT_FILENAME", Some("/srv/www/a.php")),
        ("PATH_INFO", Some("/b c")),
        ("PATH_TRANSLATED", Some("/srv/www/b c")),
        ("DOCUMENT_ROOT", Some("/srv/www")),
        ("DOCUMENT_URI", Some("/a.php/b c")),
        ("SERVER_NAME", Some("shop.example.com")),
        ("SERVER_PORT", Some("8443")),
        ("HTTPS", Some("on")),
        ("REQUEST_SCHEME", Some("https")),
        ("REMOTE_ADDR", Some("203.0.113.9")),
        ("REDIRECT_STATUS", Some("200")),
        ("CONTENT_LENGTH", Some("7")),
        ("CONTENT_TYPE", Some("text/plain")),
        ("HTTP_HOST", Some("shop.example.com:8443")),
        ("HTTP_COOKIE", Some("a=1; b=2")),
        ("HTTP_ACCEPT", Some("x/y, z/*")),
        ("HTTP_X_REAL_IP", Some("203.0.113.9")),
        ("HTTP_PROXY", None),
        ("HTTP_CONTENT_TYPE", None),
        ("HTTP_CONTENT_LENGTH", None),
    ] {
        assert_eq!(one(&params, name), expected, "{name}");
    }
    let request = Request::get("http://a/").header("x-forwarded-for", "10.0.0.1");
    let begun = asking::begin(&parts(request), 0, &scripts("index.php"), true).unwrap();
    assert_eq!(begun[10], 1, "the connection is kept");
    let (params, _) = heard(&begun);
    assert_eq!(one(&params, "CONTENT_LENGTH"), Some("0"));
    assert_eq!(one(&params, "REMOTE_ADDR"), Some("10.0.0.1"));
    assert_eq!(
        (one(&params, "HTTPS"), one(&params, "PATH_INFO")),
        (None, None)
    );
}

#[test]
fn long_parameters_are_cut_between_pairs_and_never_wrap() {
    let mut request = Request::get("http://a/");
    for index in 0..10 {
        request = request.header(format!("x-{index}"), "v".repeat(30_000));
    }
    let begun = asking::begin(&parts(request), 0, &scripts("index.php"), false).unwrap();
    let (params, records) = heard(&begun);
    assert!(records >= 5, "{records}");
    assert_eq!(one(&params, "HTTP_X_9").map(str::len), Some(30_000));
    // `HTTP_X` and its lengths take 11 bytes of a record.
    for (length, fits) in [
        (65_535 - 11, true),
        (65_535 - 10, false),
        (65_536 + 8, false),
    ] {
        let request = Request::get("http://a/").header("x", "v".repeat(length));
        let begun = asking::begin(&parts(request), 0, &scripts("index.php"), false);
        match begun {
            Ok(begun) => assert!(fits && heard(&begun).1 >= 1, "{length}"),
            Err(error) => {
                assert!(!fits, "{length}");
                assert_eq!(
                    (error.status.as_u16(), error.code),
                    (431, "headers-too-large")
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn any_cut_of_an_answer_tells_the_same(
        records in vec((0u8..12, 0u8..3, vec(any::<u8>(), 0..40), 0u8..20), 0..12),
        at in vec(any::<usize>(), 0..12),
    ) {
        let bytes: Vec<u8> = records
            .iter()
            .flat_map(|(kind, id, content, padding)| raw(*kind, *id, content, *padding))
            .collect();
        prop_assert_eq!(told(&cut(&bytes, at)), told(&[&bytes]));
    }

    #[test]
    fn any_bytes_have_an_answer(bytes in vec(any::<u8>(), 0..300), at in vec(any::<usize>(), 0..8)) {
        let seen = told(&cut(&bytes, at));
        prop_assert!(seen.out.len() + seen.log.len() <= bytes.len());
        prop_assert_eq!(seen, told(&[&bytes]));
    }

    #[test]
    fn any_cut_of_a_head_reads_the_same(
        lines in vec("[A-Za-z:; -]{0,12}|Status: [0-9]{2,4}|Location: /[a-z]*", 0..6),
        at in vec(any::<usize>(), 0..6),
    ) {
        let text = format!("{}\n\nbody", lines.join("\r\n"));
        let whole = head(text.as_bytes());
        let mut reader = HeadReader::new(HEAD_BYTES_MAX, FIELDS_MAX);
        let mut before = 0;
        let mut seen = Err(None);
        for part in cut(text.as_bytes(), at) {
            match reader.feed(part) {
                Ok(None) => before += part.len(),
                Ok(Some((head, taken))) => {
                    let headers = head.headers().iter();
                    let headers = headers
                        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap_or("?")));
                    seen = Ok((head.status().as_u16(), headers.collect(), before + taken));
                    break;
                }
                Err(error) => {
                    seen = Err(Some(error));
                    break;
                }
            }
        }
        prop_assert_eq!(seen, whole);
    }

    #[test]
    fn no_path_leads_out_of_the_root(path in "/(a|b/|/\\.\\./|/%2e%2E%2f|%2e|%2F|%00|%0a|\\.php|\\.){0,12}") {
        for index in ["index.php", "/app/index.php"] {
            let Ok(script) = script::of(&path, &scripts(index)) else {
                continue;
            };
            let whole = [&script.name[..], &script.info].concat();
            prop_assert!(whole.starts_with(b"/"));
            prop_assert!(!whole.iter().any(u8::is_ascii_control));
            let mut segments = whole.split(|byte| *byte == b'/');
            prop_assert!(segments.all(|one| one != b".." && one != b"."));
            prop_assert!(script.name.ends_with(b".php"));
            prop_assert!(script.info.is_empty() || script.info.starts_with(b"/"));
        }
    }
}
