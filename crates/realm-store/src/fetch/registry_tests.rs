//! What a registry says, in every form that is known, and in any other.

use proptest::prelude::*;

use super::*;

const A: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const B: &str = "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afe48bb";

/// The first letters of the digest that is chosen, or a part of why none is.
fn check(layers: &[(&str, &str)], expected: Result<&str, &str>) {
    let layers: Vec<Layer> = layers
        .iter()
        .map(|(kind, digest)| Layer {
            media_type: (*kind).to_owned(),
            digest: (*digest).to_owned(),
            size: 1,
        })
        .collect();
    match (choose_layer(&layers), expected) {
        (Ok(layer), Ok(digest)) => assert_eq!(layer.digest, digest),
        (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
        (seen, expected) => panic!("{seen:?} instead of {expected:?}"),
    }
}

#[test]
fn the_layer_is_that_of_webassembly() {
    for kind in [
        "application/wasm",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.module.wasm.content.layer.v1+wasm",
        "application/octet-stream",
        // What `oras push` calls a file that it was told nothing about.
        "application/vnd.oci.image.layer.v1.tar",
        "",
    ] {
        check(&[(kind, A)], Ok(A));
    }
    check(&[("text/html", B), ("application/wasm", A)], Ok(A));
    check(&[], Err("no layer"));
    check(&[("text/html", A), ("text/css", B)], Err("none of its 2"));
    for kind in [
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ] {
        check(&[(kind, A)], Err("packed archive"));
    }
    check(
        &[("application/wasm", A), ("application/wasm", B)],
        Err(&format!("pin the one that is meant ({A})")),
    );
}

#[test]
fn a_list_gives_the_one_for_webassembly_or_the_only_one() {
    let check = |entries: &str, expected: Result<&str, &str>| {
        let text = format!(r#"{{"schemaVersion": 2, "manifests": [{entries}]}}"#);
        let manifest = read_manifest(text.as_bytes()).expect(&text);
        let entries = manifest.manifests.expect("a list");
        match (choose_entry(&entries), expected) {
            (Ok(entry), Ok(digest)) => assert_eq!(entry.digest, digest),
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (seen, expected) => panic!("{seen:?} instead of {expected:?}"),
        }
    };
    let entry = |digest: &str, architecture: &str| {
        format!(
            r#"{{"digest": "{digest}", "platform": {{"architecture": "{architecture}", "os": "x"}}}}"#
        )
    };
    let (wasm, amd64) = (entry(A, "wasm"), entry(A, "amd64"));
    check(&wasm, Ok(A));
    check(&amd64, Ok(A));
    check(&format!("{amd64}, {wasm}"), Ok(A));
    check(&format!(r#"{{"digest": "{A}"}}"#), Ok(A));
    check("", Err("a list of 0"));
    check(&format!("{amd64}, {amd64}"), Err("a list of 2"));
    check(&format!("{wasm}, {wasm}"), Err("a list of 2"));
    check(&entry("../../x", "wasm"), Err("not of SHA-256"));
}

#[test]
fn a_challenge_is_read_and_a_token_comes_before_a_password() {
    let check = |texts: &[&'static str], expected: Option<(&str, Option<&str>)>| {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(text));
        }
        let expected = expected.map(|(realm, service)| match realm {
            "" => Challenge::Basic,
            realm => Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
            },
        });
        assert_eq!(challenge(&headers), expected, "{texts:?}");
    };
    check(&[], None);
    check(&["Negotiate"], None);
    check(&["Bearer"], None);
    check(&["Bearer realm="], None);
    check(&["Basic realm=\"x\""], Some(("", None)));
    check(
        &["Bearer realm=\"https://a/token\",service=\"a,b\",scope=\"repository:x:pull,push\""],
        Some(("https://a/token", Some("a,b"))),
    );
    check(
        &["Basic realm=\"x\", bearer REALM=\"https://a\""],
        Some(("https://a", None)),
    );
    check(
        &["Basic realm=x", "Bearer realm=\"https://a\""],
        Some(("https://a", None)),
    );
}

#[test]
fn a_token_is_asked_for_over_tls_unless_the_registry_has_none() {
    let origins = Origins::default();
    let check = |host: &str, realm: &str, expected: bool| {
        let source = RegistrySource {
            host: host.to_owned(),
            repository: "a".to_owned(),
            tag: None,
            digest: None,
        };
        let registry = Registry::new(&source, &origins, Timeouts::default()).expect("a client");
        assert_eq!(registry.token_url(realm).is_some(), expected, "{realm}");
    };
    check("ghcr.io", "https://ghcr.io/token", true);
    check("ghcr.io", "http://ghcr.io/token", false);
    check("ghcr.io", "/token", false);
    check("ghcr.io", "file:///etc/passwd", false);
    check("127.0.0.1:5000", "http://127.0.0.1:5001/token", true);
}

#[test]
fn docker_hub_has_its_own_ways() {
    let origins = Origins::default();
    let check = |host: &str, repository: &str, expected: (&str, &str)| {
        let source = RegistrySource {
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: None,
            digest: None,
        };
        let registry = Registry::new(&source, &origins, Timeouts::default()).expect("a client");
        let (host, repository) = registry.there();
        assert_eq!((host, repository.as_str()), expected);
    };
    check("ghcr.io", "orders", ("ghcr.io", "orders"));
    check(
        "docker.io",
        "orders",
        ("registry-1.docker.io", "library/orders"),
    );
    check(
        "docker.io",
        "acme/orders",
        ("registry-1.docker.io", "acme/orders"),
    );
}

#[test]
fn a_token_has_two_names_and_is_not_shown() {
    let check = |answer: &str, expected: Option<&str>| {
        let header = bearer(answer.as_bytes());
        let seen = header.as_ref().and_then(|header| header.to_str().ok());
        assert_eq!(seen, expected, "{answer}");
        assert!(header.is_none_or(|header| header.is_sensitive()));
    };
    check(r#"{"token": "abc", "expires_in": 300}"#, Some("Bearer abc"));
    check(r#"{"access_token": "abc"}"#, Some("Bearer abc"));
    check(r#"{}"#, None);
    check(r#"{"token": "a\r\nb: c"}"#, None);
    check("no", None);
}

proptest! {
    #[test]
    fn any_answer_gives_an_answer(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in "\\PC{0,20}",
        digest in "\\PC{0,80}",
        header in "[ -~]{0,80}",
    ) {
        let _ = (read_manifest(&bytes), bearer(&bytes));
        let layer = serde_json::json!({"mediaType": kind, "digest": digest, "size": 1});
        let text = serde_json::json!({"layers": [layer], "manifests": [layer]}).to_string();
        let manifest = read_manifest(text.as_bytes()).expect("of the form");
        let _ = choose_layer(&manifest.layers.expect("there"));
        if let Ok(entry) = choose_entry(&manifest.manifests.expect("there")) {
            prop_assert!(entry.digest.parse::<Digest>().is_ok());
        }
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(&header).expect("visible"));
        let _ = challenge(&headers);
    }
}
