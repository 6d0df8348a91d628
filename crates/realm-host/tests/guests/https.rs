//! The connections behind a guest's requests: whom TLS trusts, HTTP/2, and which are used again.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use realm_host::Resolver;
use realm_test_guests as guests;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Guest, Loaded, eventually, guest};

/// More than is taken of an answer that nobody reads.
const BIG_BYTES: usize = 1024 * 1024;
const GUESTS: [&str; 2] = [guests::OUTBOUND, guests::P3_OUTBOUND];

/// A server that answers with the version of HTTP, and with what it is asked for.
struct Server {
    port: u16,
    connections: Arc<AtomicU32>,
    /// Where `/redirect` leads.
    elsewhere: Arc<Mutex<String>>,
    /// The certificate of who signed for it.
    roots: tempfile::NamedTempFile,
}

impl Server {
    async fn start(alpn: Option<&[&str]>) -> Self {
        Self::start_with(alpn, 200).await
    }

    /// `streams_max`: requests that it takes at once on a connection of HTTP/2.
    async fn start_with(alpn: Option<&[&str]>, streams_max: u32) -> Self {
        let (roots, acceptor) = authority(alpn);
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            elsewhere: Arc::default(),
            roots,
        };
        let (connections, elsewhere) = (
            Arc::clone(&server.connections),
            Arc::clone(&server.elsewhere),
        );
        let is_tls = alpn.is_some();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                let (acceptor, elsewhere) = (acceptor.clone(), Arc::clone(&elsewhere));
                tokio::spawn(async move {
                    if !is_tls {
                        answer(stream, elsewhere, streams_max).await;
                    } else if let Ok(stream) = acceptor.accept(stream).await {
                        answer(stream, elsewhere, streams_max).await;
                    }
                });
            }
        });
        server
    }

    fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// A guest that may reach it as `api.test`, where 127.0.0.1 is open, and trusts its authority.
    fn guest(&self, path: &'static str) -> Guest {
        let roots = self.roots.path().to_str().unwrap().to_owned();
        let port = self.port;
        guest(path)
            .config(|config| {
                config.policy.private_ranges = vec!["127.0.0.1".into()];
                config.policy.tls_roots = vec![roots];
                config.resolver = Resolver::new(|_| Ok(vec![Ipv4Addr::LOCALHOST.into()]));
            })
            .grants(|grants| {
                grants.allowed_outbound = vec![format!("*://*:{port}").parse().unwrap()]
            })
    }

    fn target(&self, scheme: &str, host: &str) -> String {
        format!("/?url={scheme}://{host}:{}/a", self.port)
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    elsewhere: Arc<Mutex<String>>,
    streams_max: u32,
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut response = Response::builder();
        if request.uri().path() == "/redirect" {
            response = response
                .status(302)
                .header("location", &*elsewhere.lock().unwrap());
        }
        let host = request.uri().authority().map(ToString::to_string);
        let host = host.or_else(|| Some(request.headers().get("host")?.to_str().ok()?.to_owned()));
        let text = format!(
            "{:?} {} {}",
            request.version(),
            host.unwrap_or_default(),
            request.uri().path()
        );
        let text = match request.uri().path() {
            "/big" => "big ".repeat(BIG_BYTES / 4),
            _ => text,
        };
        let (heads, trailers) = fields(request.uri().path());
        if let Some(all) = response.headers_mut() {
            all.extend(heads);
        }
        let body = Full::new(Bytes::from(text))
            .with_trailers(async move { (!trailers.is_empty()).then_some(Ok(trailers)) });
        let response = response.body(body);
        async {
            // An answer that comes before the request has ended would hide how its body ends.
            let _ = request.into_body().collect().await;
            response
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(streams_max);
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// An authority of its own, and a server that it signed for as `api.test`.
fn authority(alpn: Option<&[&str]>) -> (tempfile::NamedTempFile, TlsAcceptor) {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut root = rcgen::CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(root, root_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["api.test".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), root_pem).unwrap();

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let alpn = alpn.unwrap_or_default().iter();
    config.alpn_protocols = alpn.map(|name| name.as_bytes().to_vec()).collect();
    (roots, TlsAcceptor::from(Arc::new(config)))
}

/// The fields of the head and of the trailers that `/heads/N` and `/trailers/N` ask for.
fn fields(path: &str) -> (HeaderMap, HeaderMap) {
    let count = |what| path.strip_prefix(what)?.parse().ok();
    let fields = |count: Option<usize>| {
        let name = |field| HeaderName::try_from(format!("x-{field}")).unwrap();
        let names = (0..count.unwrap_or(0)).map(name);
        names
            .map(|name| (name, HeaderValue::from_static("v")))
            .collect()
    };
    (fields(count("/heads/")), fields(count("/trailers/")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_brings_as_many_fields_as_http_1() {
    let server = Server::start(Some(&["h2"])).await;
    let fields_max = realm_host::cgi::FIELDS_MAX;
    for path in GUESTS {
        let guest = server.guest(path).load();
        let told = async |what: &str, count: usize| {
            let port = server.port;
            let target = format!("/?url=https://api.test:{port}/{what}/{count}");
            guest.body(&target).await
        };
        // `date` and `content-length` are the server's own.
        check(&told("heads", fields_max - 2).await, "HTTP/2.0");
        let expected = "HttpResponseHeaderSectionSize";
        check(&told("heads", fields_max + 1).await, expected);
        check(&told("trailers", fields_max).await, "HTTP/2.0");
        let expected = "HttpResponseTrailerSectionSize";
        check(&told("trailers", fields_max + 1).await, expected);
    }
}

#[track_caller]
fn check(told: &str, expected: &str) {
    assert!(told.contains(expected), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_trusts_the_roots_of_the_operator_and_the_name_alone() {
    let server = Server::start(Some(&["http/1.1"])).await;
    for path in GUESTS {
        let trusting = server.guest(path).load();
        let told = trusting.body(&server.target("https", "api.test")).await;
        check(&told, &format!("HTTP/1.1 api.test:{} /a", server.port));
        check(&told, "200");
        for host in ["other.test", "www.api.test", "127.0.0.1"] {
            let told = trusting.body(&server.target("https", host)).await;
            check(&told, "TlsProtocolError");
        }
        let stranger = server
            .guest(path)
            .config(|config| config.policy.tls_roots.clear())
            .load();
        let told = stranger.body(&server.target("https", "api.test")).await;
        check(&told, "TlsProtocolError");
    }
}

#[tokio::test]
async fn a_host_does_not_start_without_the_certificates_it_is_told_of() {
    let mut config = realm_host::Config::default();
    config.policy.tls_roots = vec!["/absent.pem".to_owned()];
    let told = realm_host::Host::new(config)
        .map(drop)
        .unwrap_err()
        .to_string();
    check(&told, "`/absent.pem` (`guests.tls_roots`)");
}

async fn ask(guest: &Loaded, target: &str, count: usize, expected: &str) {
    for _ in 0..count {
        check(&guest.body(target).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_uses_its_connections_again_and_nobody_elses() {
    for (alpn, scheme, version) in [
        (None, "http", "HTTP/1.1"),
        (Some(&["http/1.1"][..]), "https", "HTTP/1.1"),
        (Some(&["h2", "http/1.1"][..]), "https", "HTTP/2.0"),
    ] {
        let server = Server::start(alpn).await;
        let target = server.target(scheme, "api.test");
        let mut connections = 0;
        for path in GUESTS {
            // Each request has an instance of its own.
            let one = server.guest(path).load();
            ask(&one, &target, 5, version).await;
            connections += 1;
            assert_eq!(server.connections(), connections, "{scheme} {version}");
            // Another target, which happens to have the same address; in TLS it has no certificate.
            if scheme == "http" {
                let elsewhere = server.target(scheme, "other.test");
                connections += 1;
                for _ in 0..2 {
                    ask(&one, &elsewhere, 1, version).await;
                    assert_eq!(server.connections(), connections, "{scheme} {version}");
                }
            }
            let other = server.guest(path).load();
            ask(&other, &target, 2, version).await;
            connections += 1;
            assert_eq!(server.connections(), connections, "{scheme} {version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_read_stops_no_other() {
    let server = Server::start(Some(&["h2"])).await;
    let target = server.target("https", "api.test");
    let guest = server.guest(guests::P3_OUTBOUND).load();
    let big = format!("https://api.test:{}/big", server.port);
    // As many as there is room for beside the last one.
    let told = guest.body(&format!("{target}&unread=15&of={big}")).await;
    check(&told, "200 HTTP/2.0");
    assert_eq!(server.connections(), 1);
    // More than there is room for have another connection.
    let told = guest.body(&format!("{target}&unread=20&of={big}")).await;
    check(&told, "200 HTTP/2.0");
    assert_eq!(server.connections(), 2);
    // Fewer, where the other side takes fewer.
    let small = Server::start_with(Some(&["h2"]), 2).await;
    let careful = small.guest(guests::P3_OUTBOUND).load();
    let (target, big) = (
        small.target("https", "api.test"),
        format!("https://api.test:{}/big", small.port),
    );
    let told = careful.body(&format!("{target}&unread=5&of={big}")).await;
    check(&told, "200 HTTP/2.0");
    assert_eq!(small.connections(), 3);
    // More than an instance may have are refused, not queued.
    let told = careful
        .send(crate::harness::get(&format!("{target}&unread=32&of={big}")))
        .await;
    check(told.unwrap().text(), "ConnectionLimitReached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_component_asks_for_so_many_names_at_once() {
    let server = Server::start(None).await;
    let asking = Arc::new(AtomicU32::new(0));
    let (open, count) = (Arc::new(std::sync::RwLock::new(())), Arc::clone(&asking));
    let shut = Arc::clone(&open);
    let guest = server
        .guest(guests::OUTBOUND)
        .config(|config| {
            config.resolver = Resolver::new(move |_| {
                count.fetch_add(1, Relaxed);
                drop(shut.read());
                Ok(vec![Ipv4Addr::LOCALHOST.into()])
            });
        })
        .load();
    let closed = open.write().unwrap();
    let target = server.target("http", "api.test");
    let all = futures_util::future::join_all((0..40).map(|_| guest.body(&target)));
    let released = async {
        eventually(|| asking.load(Relaxed) == 16).await;
        drop(closed);
    };
    let (told, ()) = futures_util::future::join(all, released).await;
    told.iter().for_each(|told| check(told, "200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_gone_is_not_missed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Promises to go on, and closes when the next request is there.
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
                    .await;
                let _ = stream.read(&mut request).await;
            });
        }
    });
    for path in GUESTS {
        let guest = guest(path)
            .config(|config| config.policy.private_ranges = vec!["127.0.0.1".into()])
            .grants(|grants| grants.allowed_outbound = vec!["http://127.0.0.1:*".parse().unwrap()])
            .load();
        ask(&guest, &format!("/?url=http://127.0.0.1:{port}/"), 4, "hi").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_as_long_as_it_says() {
    let server = Server::start(None).await;
    let guest = server.guest(guests::P3_OUTBOUND).load();
    let target = server.target("http", "api.test");
    for (length, expected) in [
        ("", "Ok(()) 200 HTTP/1.1"),
        ("5", "Ok(()) 200 HTTP/1.1"),
        ("4", "Err(ErrorCode::HttpRequestBodySize(Some(5)))"),
        ("6", "Err(ErrorCode::HttpRequestBodySize(Some(5)))"),
    ] {
        let told = guest
            .body(&format!("{target}&send=12345&length={length}"))
            .await;
        check(&told, expected);
        // Nothing of it is left on the connection for the next one.
        check(&guest.body(&target).await, "200 HTTP/1.1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_the_guests_and_checked_anew() {
    let server = Server::start(None).await;
    let redirect = format!("/?url=http://api.test:{}/redirect", server.port);
    let lead = |to: String| *server.elsewhere.lock().unwrap() = to;
    for path in GUESTS {
        let guest = server.guest(path).load();
        lead(format!("http://api.test:{}/found", server.port));
        check(&guest.body(&redirect).await, "302");
        let follow = format!("{redirect}&follow=1");
        check(&guest.body(&follow).await, "/found");
        // 127.0.0.2 stands for what is private, port 1 for what no rule names.
        for (to, expected) in [
            (
                format!("http://127.0.0.2:{}/", server.port),
                "DestinationIpProhibited",
            ),
            (
                format!("http://[::ffff:127.0.0.2]:{}/", server.port),
                "DestinationIpProhibited",
            ),
            ("http://api.test:1/".to_owned(), "HttpRequestDenied"),
            (
                format!("http://api.test@127.0.0.2:{}/", server.port),
                "error",
            ),
            (
                "http://169.254.169.254/latest".to_owned(),
                "HttpRequestDenied",
            ),
            ("file:///etc/passwd".to_owned(), "error"),
        ] {
            lead(to.clone());
            check(&guest.body(&follow).await, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_resolved_once_and_what_was_checked_is_dialled() {
    let server = Server::start(None).await;
    let target = server.target("http", "api.test");
    for path in GUESTS {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        // 127.0.0.1 stands for what is public, 127.0.0.2 for what is private: a server is on both.
        let answers = [[127, 0, 0, 2], [127, 0, 0, 1], [127, 0, 0, 2]];
        let guest = server
            .guest(path)
            .config(|config| {
                config.resolver = Resolver::new(move |_| {
                    let answer = answers[count.fetch_add(1, Relaxed) as usize];
                    Ok(vec![Ipv4Addr::from(answer).into()])
                });
            })
            .load();
        let before = server.connections();
        check(&guest.body(&target).await, "DestinationIpProhibited");
        check(&guest.log.agent(), "`127.0.0.2` is not public");
        check(&guest.body(&target).await, "200");
        assert_eq!(asked.load(Relaxed), 2, "one question for each connection");
        // The connection to what was checked goes on, whatever the name says by then.
        check(&guest.body(&target).await, "200");
        assert_eq!(asked.load(Relaxed), 2);
        assert_eq!(server.connections(), before + 1);
    }
}
