//! What holds for any bytes from outside, one function per reader of such bytes.
//!
//! `fuzz/` runs each for as long as somebody likes, the tests below for a moment. A function
//! panics where something does not hold. Not here: examples of what is right; those are with the
//! readers.

#![forbid(unsafe_code)]

mod fastcgi;
mod front;

use std::path::PathBuf;

use realm_model::address;
use realm_model::certificate_message;
use realm_model::entry::{RealmId, VerifiedEntry};
use realm_model::grants::OutboundRule;
use realm_model::join::{Answer, Approved, Ask, JoinCode, Refused, Request};
use realm_model::manifest;
use realm_model::name::NodeName;
use realm_model::ticket::Ticket;
use realm_store::files::RealFiles;
use realm_store::log::Log;

pub use fastcgi::{fastcgi_events, fastcgi_front};
pub use front::http_front;
pub use realm_edge::fastcgi::fuzzing::answer as fastcgi_answer;
pub use realm_edge::fuzzing::proxy_header;
#[cfg(feature = "cgi")]
pub use realm_host::fuzzing::cgi_output;

/// realm.toml: an answer for any text, problems with a place in it, and twice the same.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (manifest, problems) = manifest::parse(text);
    assert!(manifest.is_some() || !problems.is_empty(), "no reason");
    for problem in &problems {
        assert!(
            text.get(problem.span.clone()).is_some(),
            "outside of the text: {problem:?}"
        );
        assert!(problem.line >= 1 && problem.column >= 1, "{problem:?}");
    }
    assert_eq!(manifest::parse(text), (manifest, problems));
}

/// A signed entry: what is taken is taken byte by byte as it came, and has one signer at least.
pub fn entry(bytes: &[u8]) {
    if let Ok(entry) = VerifiedEntry::genesis(bytes, None) {
        assert_eq!(entry.bytes(), bytes);
        assert!(!entry.signers().is_empty());
    }
}

/// A log: what a look reads is what opening it recovers, and what is cut off is gone for good.
pub fn log_file(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = folder.path().join("log");
    std::fs::write(&path, bytes).expect("written");
    let looked = Log::read(&RealFiles, &path, None);
    let opened = Log::open(RealFiles, path.clone(), None).map(|(_, recovered)| recovered);
    let (looked, opened) = match (looked, opened) {
        (Ok(looked), Ok(opened)) => (looked, opened),
        (Err(_), Err(_)) => {
            let after = std::fs::read(&path).expect("it is still there");
            assert_eq!(after, bytes, "a damaged log is left alone");
            return;
        }
        (looked, opened) => panic!("{looked:?} and {opened:?}"),
    };
    assert_eq!(looked.records, opened.records);
    let kept: usize = opened.records.iter().map(Vec::len).sum();
    assert!(kept as u64 + opened.torn_tail_bytes <= bytes.len() as u64);
    let again = Log::read(&RealFiles, &path, None).expect("it was just opened");
    assert_eq!((again.records, again.torn_tail_bytes), (opened.records, 0));
}

/// A rule of `allowed_outbound`, a line break, and a target `SCHEME HOST PORT`.
pub fn allow_list(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (rule, target) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(rule) = rule.parse::<OutboundRule>() else {
        return;
    };
    assert_eq!(rule.to_string().parse(), Ok(rule.clone()), "as written");
    let mut words = target.split(' ');
    let (Some(scheme), Some(host), Some(port)) = (words.next(), words.next(), words.next()) else {
        return;
    };
    let Ok(port) = port.parse::<u16>() else {
        return;
    };
    let allowed = rule.matches(scheme, host, port);
    let shouted = rule.matches(
        &scheme.to_ascii_uppercase(),
        &host.to_ascii_uppercase(),
        port,
    );
    assert_eq!(allowed, shouted, "the case of letters means nothing");
    // What ends a host in a URL is in none.
    let tricky = host.contains(['@', '/', '?', '#', '\\', '%']);
    assert!(!(allowed && (tricky || host.is_empty() || port == 0)));
}

/// A message of the join protocol: what is read is said again in the same words.
pub fn join_message(bytes: &[u8]) {
    if let Ok(request) = Request::from_bytes(bytes) {
        assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
    }
    if let Ok(answer) = Answer::from_bytes(bytes) {
        assert_eq!(Answer::from_bytes(&answer.to_bytes()), Ok(answer));
    }
}

/// A message about certificates, from node to node: questions have one spelling, and answers mean the same
/// when they are passed on.
pub fn certificate_message(bytes: &[u8]) {
    use certificate_message::{Answer, Question};
    if let Some(question) = Question::from_bytes(bytes) {
        let again = question.to_bytes().expect("it came with its lengths");
        assert_eq!(*again, bytes);
        if let Question::ProveHttp { token, answer, .. } = question {
            // What is shown under others' names is no page and no script.
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            assert!(!token.is_empty() && answer.len() < 256);
            assert!(token.bytes().chain(answer.bytes()).all(is_plain));
        }
    }
    if let Some(answer) = Answer::from_bytes(bytes) {
        assert_eq!(Answer::from_bytes(&answer.to_bytes()), Some(answer));
    }
}

/// What somebody pastes: an address of a node or a ticket. Both have one spelling.
pub fn invitation(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match address::read(text) {
        Ok(written) => {
            let proper = written.address.to_string();
            assert_eq!(proper.parse(), Ok(written.address));
            assert_eq!(written.warning.is_none(), proper == text);
        }
        Err(error) => assert!(!error.hint().is_empty() && error.to_string().len() < 1_000),
    }
    if let Ok(ticket) = text.parse::<Ticket>() {
        assert_eq!(ticket.to_text().parse(), Ok(ticket));
    }
}

/// The corpus to begin with: things that are right, for others to be made of.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    const FULL: &str = include_str!("../../../crates/realm-model/tests/fixtures/full.toml");
    const SPECIFICATION: &str =
        include_str!("../../../crates/realm-model/tests/fixtures/3-realm.toml");
    let texts: &[&str] = match target {
        "manifest" => &[FULL, SPECIFICATION],
        "cgi_output" => &[
            "\x05Content-Type: text/plain\r\n\r\nhello",
            "\x02Status: 404 Not Found\nContent-Type: text/html\nX-A: b\n\nno",
            "\x09Location: https://example.com/\n\n",
            "\x01HTTP/1.1 200 OK\r\n\r\n",
        ],
        "fastcgi_answer" => &[
            "\x0c\x01\x06\0\x01\0\x09\x07\0A: b\n\nbody1234567\x01\x07\0\x01\0\x03\0\0log\x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\0\0\0",
            "\x03\x01\x06\0\x01\0\x12\0\0Status: 404 No\r\n\r\n\x01\x06\0\x01\0\0\0\0",
            "\x01\x01\x0b\0\0\0\x08\0\0\x09\0\0\0\0\0\0\0\x01\x03\0\x01\0\x08\0\0\0\0\0\0\x02\0\0\0",
            "\x02/a/..%2fb.php/%00",
        ],
        "allow_list" => &[
            "https://*.example.com:443\nhttps www.example.com 443",
            "postgres://10.0.0.0/8:5432\npostgres 10.1.2.3 5432",
            "*://[2001:db8::]/32:1-1024\nhttp [2001:db8::1] 80",
            "http://example.com:*\nhttp EXAMPLE.com. 8080",
        ],
        "http_front" => &[
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /%2e HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ],
        "invitation" => &[
            "/dns4/bm-01/tcp/443/quic",
            "/ip6/2001:db8::1/udp/443/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
            "[2001:db8::1]:4001",
            "bm-01:443",
            "realm-ticket:ULFUJSja9eBGFS78KXYqF22hS374qSokerc2DWL81nDFnG3eXbPyfN1DHfYVVCc8uCwePrzRDnY2RUyMCvLpNdt6LdMgweNc14BRwcUv5t1dUAa2NVm3fewZosti4dQTyvqDVowdUa4Shy17oppFGbePrY4psF6ep9UTrXHS",
        ],
        "proxy_header" => return proxy_headers(),
        "certificate_message" => &[
            "\0shop.example.com",
            "\x01\x09\0a.example\x05\0token\x31\0token.0123456789012345678901234567890123456789012",
            "\x02\x09\0a.example\x03\0DER\x03\0key",
            "\x01",
        ],
        "fastcgi_events" => return fastcgi::seeds(true),
        "fastcgi_front" => return fastcgi::seeds(false),
        "join_message" => return messages(),
        "entry" => return entries(),
        "log_file" => return vec![log_of_one()],
        other => panic!("no target `{other}`"),
    };
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// One entry of each kind, as the fixture has them.
fn entries() -> Vec<Vec<u8>> {
    let fixture = include_str!("../../../crates/realm-model/tests/fixtures/entries-format-1.txt");
    let hex = fixture.lines().filter_map(|line| line.split_once(' '));
    hex.map(|(_, digits)| {
        let pairs = digits.trim().as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        pairs.filter_map(byte).collect()
    })
    .collect()
}

/// Both versions, with what may be in them.
fn proxy_headers() -> Vec<Vec<u8>> {
    let binary = |command: u8, family: u8, rest: &[u8]| {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        let start = b"\r\n\r\n\0\r\nQUIT\n";
        [&start[..], &[command, family], &length, rest, b"GET /"].concat()
    };
    let four = [203, 0, 113, 9, 192, 0, 2, 1, 19, 136, 1, 187];
    let six = [[7; 32].as_slice(), &[19, 136, 1, 187]].concat();
    let added = [&four[..], &[2, 0, 3, b'a', b'.', b'b']].concat();
    vec![
        b"PROXY TCP4 203.0.113.9 192.0.2.1 5000 443\r\nGET /".to_vec(),
        b"PROXY TCP6 2001:db8::9 2001:db8::1 5000 443\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
        binary(0x21, 0x11, &four),
        binary(0x21, 0x11, &added),
        binary(0x21, 0x21, &six),
        binary(0x20, 0x00, &[]),
        binary(0x21, 0x31, &[0; 216]),
    ]
}

/// A request and two answers.
fn messages() -> Vec<Vec<u8>> {
    let realm = VerifiedEntry::genesis(&entries()[0], None).expect("the fixture is sound");
    let realm = RealmId::new(realm.head().hash);
    let name: NodeName = "bm-01".parse().expect("a name");
    let ask = Ask {
        realm: Some(realm),
        name: name.clone(),
        tags: vec![name.clone()],
        addresses: vec!["/dns/a/udp/443/quic-v1".parse().expect("proper")],
        agent: "realm 0.1.0".to_owned(),
        proof: None,
        from: 0,
    };
    let refused = Refused::new(JoinCode::TooMany, "later", Some(10));
    vec![
        Request::Ask(ask).to_bytes(),
        Answer::Approved(Approved::page(realm, name, 0, entries())).to_bytes(),
        Answer::Refused(refused).to_bytes(),
    ]
}

fn log_of_one() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path: PathBuf = folder.path().join("log");
    let genesis = VerifiedEntry::genesis(&entries()[0], None).expect("the fixture is sound");
    let (mut log, _) = Log::open(RealFiles, path.clone(), None).expect("a new log");
    log.append(&genesis).expect("appended");
    std::fs::read(path).expect("written")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// A seed with some of it replaced: what a fuzzer tries first.
    fn changed(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
        let edit = (any::<Index>(), 0_usize..12, vec(any::<u8>(), 0..8));
        (any::<Index>(), vec(edit, 0..6)).prop_map(move |(seed, edits)| {
            let mut bytes = seed.get(&seeds(target)).clone();
            for (at, cut, with) in edits {
                let start = at.index(bytes.len() + 1);
                let end = (start + cut).min(bytes.len());
                bytes.splice(start..end, with);
            }
            bytes
        })
    }

    fn given(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![3 => changed(target), 1 => vec(any::<u8>(), 0..300)]
    }

    proptest! {
        #[test]
        fn any_manifest(bytes in given("manifest")) {
            manifest(&bytes);
        }

        #[test]
        fn any_entry(bytes in given("entry")) {
            entry(&bytes);
        }

        #[test]
        fn any_log_file(bytes in given("log_file")) {
            log_file(&bytes);
        }

        #[test]
        fn any_join_message(bytes in given("join_message")) {
            join_message(&bytes);
        }

        #[test]
        fn any_invitation(bytes in given("invitation")) {
            invitation(&bytes);
        }

        #[test]
        fn any_cgi_output(bytes in given("cgi_output")) {
            cgi_output(&bytes);
        }

        #[test]
        fn any_fastcgi_answer(bytes in given("fastcgi_answer")) {
            fastcgi_answer(&bytes);
        }

        #[test]
        fn any_allow_list(bytes in given("allow_list")) {
            allow_list(&bytes);
        }

        #[test]
        fn any_fastcgi_events(bytes in given("fastcgi_events")) {
            fastcgi_events(&bytes);
        }

        #[test]
        fn any_fastcgi_front(bytes in given("fastcgi_front")) {
            fastcgi_front(&bytes);
        }

        #[test]
        fn any_proxy_header(bytes in given("proxy_header")) {
            proxy_header(&bytes);
        }

        #[test]
        fn any_certificate_message(bytes in given("certificate_message")) {
            certificate_message(&bytes);
        }

        #[test]
        fn any_http_front(bytes in given("http_front")) {
            http_front(&bytes);
        }
    }

    #[test]
    fn every_seed_passes() {
        let all = |target, check: fn(&[u8])| {
            let seeds = seeds(target);
            assert!(!seeds.is_empty());
            seeds.iter().for_each(|seed| check(seed));
        };
        all("manifest", manifest);
        all("entry", entry);
        all("log_file", log_file);
        all("join_message", join_message);
        all("invitation", invitation);
        all("cgi_output", cgi_output);
        all("fastcgi_answer", fastcgi_answer);
        all("allow_list", allow_list);
        all("fastcgi_events", fastcgi_events);
        all("fastcgi_front", fastcgi_front);
        all("http_front", http_front);
        all("proxy_header", proxy_header);
        all("certificate_message", certificate_message);
    }
}
