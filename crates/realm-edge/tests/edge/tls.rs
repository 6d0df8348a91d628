//! HTTPS with rustls, `openssl s_client` and `curl` as clients.

use std::time::Duration;

use http::{Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use realm_edge::tls::{Certificate, CertificateError, Clients};
use rustls::pki_types::PrivateSec1KeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::secure::anybody::Anybody;
use crate::secure::{As, Authority, Secure, shown};
use crate::support::{backend, empty, get, mirror, named, read_all, soon, whole};

/// What the mirror saw of a request.
async fn seen(secure: &Secure, args: &[&str]) -> String {
    secure.curl(args, "/a?b=c").await
}

#[tokio::test]
async fn guests_are_told_how_their_clients_come() {
    let secure = Secure::new(mirror()).await;
    let host = format!("localhost:{}", secure.https.port());
    for (version, told) in [("--http1.1", "TLSv1.3"), ("--http2", "TLSv1.3")] {
        let said = seen(&secure, &[version]).await;
        for expected in [
            format!("https://{host}/a?b=c"),
            "x-forwarded-proto: https".to_owned(),
            format!("forwarded: for=127.0.0.1;host=\"{host}\";proto=https"),
            format!("x-realm-ssl-protocol: {told}"),
            "x-realm-ssl-cipher: TLS_AES_".to_owned(),
            "x-realm-ssl-tls-sni: localhost".to_owned(),
        ] {
            assert!(said.contains(&expected), "no `{expected}` in {said}");
        }
        assert!(!said.contains("ssl-client"), "{said}");
    }
    // A client's own word for it is dropped, here as over plain HTTP.
    let lie = ["-H", "x-realm-ssl-client-verify: SUCCESS"];
    assert!(!seen(&secure, &lie).await.contains("SUCCESS"));
    let older = seen(&secure, &["--tls-max", "1.2"]).await;
    assert!(older.contains("x-realm-ssl-protocol: TLSv1.2"), "{older}");
    assert!(older.contains("x-realm-ssl-cipher: TLS_ECDHE_"), "{older}");
}

#[tokio::test]
async fn only_modern_versions_and_ciphers_are_spoken() {
    let secure = Secure::new(named("hello")).await;
    for (args, expected) in [
        (&["-tls1_3"][..], true),
        (&["-tls1_2"], true),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], false),
        (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"], false),
        (&["-tls1_2", "-cipher", "ECDHE+AESGCM"], true),
        (&["-tls1_2", "-cipher", "ECDHE+CHACHA20"], true),
        // Without forward secrecy, without authentication, or with a mode that was broken.
        (&["-tls1_2", "-cipher", "kRSA:@SECLEVEL=0"], false),
        (&["-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"], false),
        (
            &[
                "-tls1_2",
                "-cipher",
                "ECDHE+AES+SHA:ECDHE+AES+SHA256:@SECLEVEL=0",
            ],
            false,
        ),
        (&["-tls1_2", "-cipher", "DHE:@SECLEVEL=0"], false),
        (&["-tls1_2", "-cipher", "3DES:RC4:@SECLEVEL=0"], false),
    ] {
        let (connected, said) = secure.openssl(args).await;
        assert_eq!(connected, expected, "{args:?} {said}");
    }
    let (_, said) = secure
        .openssl(&["-tls1_2", "-servername", "localhost"])
        .await;
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(said.contains("Compression: NONE"), "{said}");
}

#[tokio::test]
async fn the_protocol_is_what_both_agree_on() {
    let secure = Secure::new(mirror()).await;
    let check = async |protocols: &[&str], expected: Option<&str>| {
        let like = As {
            protocols,
            ..As::default()
        };
        let stream = secure.connect("localhost", &like).await.expect("connected");
        let agreed = stream.get_ref().1.alpn_protocol();
        assert_eq!(agreed, expected.map(str::as_bytes), "{protocols:?}");
    };
    check(&["h2", "http/1.1"], Some("h2")).await;
    check(&["http/1.1", "h2"], Some("h2")).await;
    check(&["http/1.1"], Some("http/1.1")).await;
    check(&[], None).await;
    let like = As {
        protocols: &["spdy/3"],
        ..As::default()
    };
    assert!(secure.connect("localhost", &like).await.is_err());
    // What was agreed on is spoken, and nothing else.
    let like = As {
        protocols: &["h2"],
        ..As::default()
    };
    let stream = secure.connect("localhost", &like).await.expect("connected");
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut client, connection) = shaken.await.expect("HTTP/2");
    tokio::spawn(connection);
    let answer = soon(client.send_request(get("https://localhost/x"))).await;
    assert_eq!(whole(answer.expect("an answer")).await.0, StatusCode::OK);
    let mut stream = secure
        .connect("localhost", &As::default())
        .await
        .expect("connected");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    stream.write_all(preface).await.expect("sent");
    let mut said = String::new();
    let _ = soon(stream.read_to_string(&mut said)).await;
    assert_eq!(said, "", "HTTP/2 that nobody agreed on");
}

#[tokio::test]
async fn the_name_chooses_the_certificate() {
    let secure = Secure::new(named("hello")).await;
    let leaves = [
        &["first.example", "also.example"][..],
        &["*.example"],
        &["www.example"],
        &["*.www.example", "UPPER.example"],
    ]
    .map(|names| secure.authority.leaf(names));
    let certificates = leaves.each_ref().map(|leaf| leaf.read());
    secure.identity.show(&certificates);
    let check = async |name: &str, expected: usize| {
        // Whether the name fits is not what is asked.
        let mut config = secure.client(&As::default());
        config
            .dangerous()
            .set_certificate_verifier(std::sync::Arc::new(Anybody));
        let stream = secure.connect_by(name, config).await.expect("connected");
        let is = shown(stream.get_ref().1) == leaves[expected].der;
        assert!(is, "{name}");
    };
    check("first.example", 0).await;
    check("also.example", 0).await;
    // An exact name comes before a wildcard, wherever it stands.
    check("www.example", 2).await;
    check("WWW.Example", 2).await;
    check("other.example", 1).await;
    check("upper.example", 3).await;
    check("a.www.example", 3).await;
    // A wildcard stands for one label; else the first is shown, and where no name is told.
    check("a.other.example", 0).await;
    check("example", 0).await;
    check("elsewhere.test", 0).await;
    check("127.0.0.1", 0).await;
}

#[tokio::test]
async fn certificates_change_while_connections_go_on() {
    let secure = Secure::new(named("hello")).await;
    let mut before = secure
        .connect("localhost", &As::default())
        .await
        .expect("connected");
    let next = secure.authority.leaf(&["localhost"]);
    assert_ne!(shown(before.get_ref().1), next.der);
    secure.identity.show(&[next.read()]);
    let after = secure.connect("localhost", &As::default()).await;
    assert_eq!(shown(after.expect("connected").get_ref().1), next.der);
    before
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .expect("sent");
    let mut said = String::new();
    soon(before.read_to_string(&mut said)).await.expect("read");
    assert!(said.ends_with("hello"), "{said}");
    // None at all: nobody comes in, and it is told so.
    secure.identity.show(&[]);
    assert!(secure.connect("localhost", &As::default()).await.is_err());
}

#[tokio::test]
async fn sessions_are_taken_up_again() {
    let secure = Secure::new(named("hello")).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = secure.client(&As {
            versions: Some(version),
            ..As::default()
        });
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = secure
                .connect_by("localhost", config.clone())
                .await
                .expect("connected");
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                .await
                .expect("sent");
            let mut said = String::new();
            soon(stream.read_to_string(&mut said)).await.expect("read");
            kinds.push(stream.get_ref().1.handshake_kind().expect("done"));
        }
        use rustls::HandshakeKind::{Full, Resumed};
        assert_eq!(kinds, [Full, Resumed], "{version:?}");
    }
}

#[tokio::test]
async fn who_speaks_http_there_is_told_so() {
    let secure = Secure::new(named("hello")).await;
    let raw = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(secure.https).await.expect("connected");
        stream.write_all(bytes).await.expect("sent");
        let mut said = Vec::new();
        soon(stream.read_to_end(&mut said)).await.expect("an end");
        said
    };
    for request in [
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "P",
    ] {
        let said = String::from_utf8(raw(request.as_bytes()).await).expect("text");
        assert!(said.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{said}");
        assert!(said.contains("realm-error: plain-http\r\n"), "{said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
    }
    // What is neither gets the alert of TLS, and the connection ends.
    for garbage in [
        &b"\0\0\0\0\0\0\0\0"[..],
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        b"\x16\x03\x01\xff\xff\x01\0\0\0",
        b"\x16\x03\x01\x00\x05hello",
        b"\x80\x2e\x01\x03\x01",
    ] {
        let said = raw(garbage).await;
        assert!(said.is_empty() || said[0] == 0x15, "{garbage:?} {said:?}");
    }
    assert_eq!(secure.curl(&[], "/").await, "hello");
}

#[tokio::test]
async fn slow_handshakes_end_and_hold_nobody_up() {
    let secure = Secure::with(named("hello"), |_, https| {
        https.limits.handshake_timeout = Duration::from_secs(2);
        https.limits.handshakes_max = 4;
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(secure.https).await.expect("connected"));
    }
    // Those that begin and go no further as well.
    for stream in &mut idle[10..] {
        stream.write_all(b"\x16\x03\x01").await.expect("sent");
    }
    assert_eq!(secure.curl(&[], "/").await, "hello");
    for stream in &mut idle {
        let mut said = Vec::new();
        // Some were ended for later ones, the last ones when their time was up.
        let _ = soon(stream.read_to_end(&mut said)).await;
        assert!(said.is_empty());
    }
    while secure.rig.handle.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn clients_show_certificates_where_they_must() {
    let secure = Secure::new(mirror()).await;
    let people = Authority::new();
    let ann = people.leaf_with(&["ann.example"], |params| {
        let name = &mut params.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::OrganizationName, "Sales, CN=admin");
        name.push(rcgen::DnType::CommonName, "Ann");
        params.serial_number = Some(rcgen::SerialNumber::from(0x7A_BC_u64));
    });
    let stranger = Authority::new().leaf(&["ann.example"]);
    let pair = |leaf: &crate::secure::Leaf, name: &str| {
        let certificate = secure.file(&format!("{name}.pem"), &leaf.chain);
        let key = secure.file(&format!("{name}.key"), &leaf.key);
        let text = |path: std::path::PathBuf| path.display().to_string();
        [text(certificate), text(key)]
    };
    let [anns, anns_key] = pair(&ann, "ann");
    let [strangers, strangers_key] = pair(&stranger, "stranger");
    let (as_ann, as_stranger) = (
        ["--cert", &anns, "--key", &anns_key],
        ["--cert", &strangers, "--key", &strangers_key],
    );

    secure.admit(&people, false);
    let said = seen(&secure, &as_ann).await;
    for expected in [
        "x-realm-ssl-client-verify: SUCCESS",
        "x-realm-ssl-client-s-dn: CN=Ann,O=Sales\\, CN\\=admin",
        "x-realm-ssl-client-i-dn: CN=an authority",
        "x-realm-ssl-client-m-serial: 7ABC",
    ] {
        assert!(said.contains(expected), "no `{expected}` in {said}");
    }
    assert!(!secure.try_curl(&[], "/").await.status.success());
    assert!(!secure.try_curl(&as_stranger, "/").await.status.success());

    secure.admit(&people, true);
    let said = seen(&secure, &[]).await;
    assert!(said.contains("x-realm-ssl-client-verify: NONE"), "{said}");
    assert!(!said.contains("-s-dn"), "{said}");
    assert!(seen(&secure, &as_ann).await.contains("SUCCESS"));
    assert!(!secure.try_curl(&as_stranger, "/").await.status.success());

    // Who may come is not known: nobody.
    secure.identity.admit_nobody();
    assert!(!secure.try_curl(&as_ann, "/").await.status.success());
    secure.identity.admit(None).expect("everybody");
    assert!(!seen(&secure, &[]).await.contains("client-verify"));
}

#[tokio::test]
async fn a_session_does_not_outlive_a_clients_certificate() {
    let secure = Secure::new(named("hello")).await;
    let people = Authority::new();
    let ann = people.leaf(&["ann.example"]);
    secure.admit(&people, false);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = secure.client(&As {
            certificate: Some(&ann),
            versions: Some(version),
            ..As::default()
        });
        for _ in 0..2 {
            let stream = secure.connect_by("localhost", config.clone()).await;
            let mut stream = stream.expect("connected");
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                .await
                .expect("sent");
            let mut said = String::new();
            soon(stream.read_to_string(&mut said)).await.expect("read");
            let kind = stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full), "{version:?}");
        }
    }
}

#[tokio::test]
async fn plain_requests_are_sent_over_and_browsers_stay() {
    let secure = Secure::with(named("app"), |_, https| {
        https.redirect = Some(0);
        https.hsts = Some(Duration::from_secs(86_400));
    })
    .await;
    let rig = &secure.rig;
    let port = secure.https.port();
    let request =
        |method: &str| crate::support::request(method, "http://a.example:80/x%20y?q=1", empty());
    for method in ["GET", "POST", "HEAD"] {
        let moved = rig.send1(request(method)).await;
        let (status, headers, _) = whole(moved).await;
        assert_eq!(status, StatusCode::PERMANENT_REDIRECT, "{method}");
        let expected = format!("https://a.example:{port}/x%20y?q=1");
        assert_eq!(headers["location"], expected, "{method}");
        // Never over plain HTTP.
        assert!(!headers.contains_key("strict-transport-security"));
    }
    assert_eq!(
        rig.send2(request("GET")).await.status(),
        StatusCode::PERMANENT_REDIRECT
    );
    // A host that has no route is none of ours.
    let table = crate::support::table(&[("a.example/...", "app")], &[("app", vec![named("app")])]);
    rig.handle.set_table(table);
    assert_eq!(
        rig.send1(get("http://b.example/")).await.status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        rig.send1(get("http://a.example/")).await.status(),
        StatusCode::PERMANENT_REDIRECT
    );
    let said = secure.curl(&["--include", "--http1.1"], "/").await;
    assert!(said.starts_with("HTTP/1.1 404"), "{said}");
    assert!(
        said.contains("strict-transport-security: max-age=86400\r\n"),
        "{said}"
    );
}

#[tokio::test]
async fn a_guests_own_word_on_strictness_counts() {
    let guest = backend(|_| async {
        let response = Response::builder().header("strict-transport-security", "max-age=0");
        Ok(response
            .body(crate::support::text("hello"))
            .expect("a response"))
    });
    let secure = Secure::with(guest, |_, https| https.hsts = Some(Duration::from_secs(9))).await;
    let said = secure.curl(&["--include"], "/").await;
    assert_eq!(said.matches("max-age").count(), 1, "{said}");
    assert!(said.contains("max-age=0"), "{said}");
    // Over plain HTTP it is not said.
    let secure = Secure::with(named("app"), |_, https| {
        https.hsts = Some(Duration::from_secs(9));
    });
    let secure = secure.await;
    let plain = secure.rig.send1(get("http://a.example/")).await;
    assert!(!plain.headers().contains_key("strict-transport-security"));
    assert!(secure.curl(&["--include"], "/").await.contains("max-age=9"));
}

#[tokio::test]
async fn what_a_trusted_proxy_took_over_https_is_not_sent_there_again() {
    let secure = Secure::with(named("app"), |config, https| {
        https.redirect = Some(443);
        config.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    })
    .await;
    let mut request = get("http://a.example/");
    let proto = "https".parse().expect("a value");
    request.headers_mut().insert("x-forwarded-proto", proto);
    assert_eq!(secure.rig.send1(request).await.status(), StatusCode::OK);
    let moved = secure.rig.send1(get("http://a.example:8080/")).await;
    assert_eq!(moved.headers()["location"], "https://a.example/");
}

#[tokio::test]
async fn an_edge_that_stops_ends_handshakes_too() {
    let secure = Secure::with(named("hello"), |_, https| {
        https.limits.handshake_timeout = Duration::from_secs(60);
    })
    .await;
    let mut waiting = TcpStream::connect(secure.https).await.expect("connected");
    while secure.rig.handle.connections() == 0 {
        tokio::task::yield_now().await;
    }
    let cut = soon(secure.rig.handle.shutdown(Duration::from_secs(60))).await;
    assert_eq!(cut, 0);
    assert_eq!(read_all(&mut waiting).await, "");
}

#[test]
fn what_cannot_be_shown_is_told_apart() {
    let authority = Authority::new();
    let (one, other) = (
        authority.leaf(&["a.example"]),
        authority.leaf(&["b.example"]),
    );
    let both = format!("{}{}", one.key, one.chain);
    assert!(Certificate::from_pem(both.as_bytes(), both.as_bytes()).is_ok());
    let names = authority
        .leaf(&["*.A.example", "b.example", "192.0.2.1"])
        .read();
    assert_eq!(names.names(), ["*.a.example", "b.example"]);
    let error = |chain: &str, key: &str| {
        let read = Certificate::from_pem(chain.as_bytes(), key.as_bytes());
        read.expect_err("it does not do")
    };
    assert!(matches!(
        error("", &one.key),
        CertificateError::NoCertificate
    ));
    assert!(matches!(error(&one.chain, ""), CertificateError::NoKey));
    assert!(matches!(
        error(&one.chain, &other.key),
        CertificateError::Key(_)
    ));
    let encrypted = one.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let old = one.key.replacen(
        "KEY-----\n",
        "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
        1,
    );
    for encrypted in [encrypted, old] {
        assert!(matches!(
            error(&one.chain, &encrypted),
            CertificateError::Encrypted
        ));
    }
    assert!(matches!(
        error(&one.key, &one.chain),
        CertificateError::Swapped
    ));
    // As OpenSSL wrote keys before PKCS #8 (RFC 5915).
    let begins = |at: &[u8]| at[0] == 0x30 && at[2..7] == [2, 1, 1, 4, 0x20];
    let at = one.key_der.windows(7).position(begins).expect("it is EC");
    let end = at + 2 + usize::from(one.key_der[at + 1]);
    let sec1 = PrivateSec1KeyDer::from(one.key_der[at..end].to_vec());
    assert!(Certificate::from_der(vec![one.der.clone()], sec1.into()).is_ok());
    let behind = format!("{}{}", other.chain, one.chain);
    assert!(matches!(
        error(&behind, &one.key),
        CertificateError::NotFirst { number: 2 }
    ));
    let cut = &one.chain[..one.chain.len() / 2];
    assert!(matches!(error(cut, &one.key), CertificateError::Pem(_)));
    let nothing = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        error(nothing, &one.key),
        CertificateError::Malformed
    ));
    assert!(matches!(
        error(&one.chain.repeat(11), &one.key),
        CertificateError::ChainTooLong
    ));
    assert!(Clients::from_pem(b"", false).is_err());
    assert!(Clients::from_pem(nothing.as_bytes(), false).is_err());
}
