//! Spellings of backends, and what is none.

use super::*;

#[track_caller]
fn check(text: &str, expected: Result<(&str, Option<&str>), &str>) {
    let seen = text.parse::<Backend>();
    match (seen, expected) {
        (Ok(backend), Ok((shown, origin))) => {
            assert_eq!(backend.to_string(), shown);
            assert_eq!(backend.origin().as_deref(), origin);
            let again: Backend = shown.parse().expect("what is shown reads again");
            assert_eq!(again, backend);
        }
        (Err(error), Err(why)) => {
            assert!(error.to_string().contains(why), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        (seen, expected) => panic!("{text}: {seen:?}, expected {expected:?}"),
    }
}

#[test]
fn a_backend_is_read_in_one_way() {
    check("embedded", Ok(("embedded", None)));
    let origin = Some("redis://cache.internal:6379");
    let full = "redis://cache.internal:6379/0";
    check("redis://Cache.Internal", Ok((full, origin)));
    check(
        "rediss://app@[fd00::1]:7000/3",
        Ok((
            "rediss://app@[fd00::1]:7000/3",
            Some("rediss://[fd00::1]:7000"),
        )),
    );
    check(
        "nats://127.0.0.1",
        Ok(("nats://127.0.0.1:4222", Some("nats://127.0.0.1:4222"))),
    );
    check(
        "tls://app@n?mqtt=1",
        Ok(("tls://app@n:4222?mqtt=1", Some("tls://n:4222"))),
    );
    check("nats://n?mqtt=0", Err("only `?mqtt=1`"));
    check("tls://n", Ok(("tls://n:4222", Some("tls://n:4222"))));
    check(
        "postgresql://shop@db.internal/shop",
        Ok((
            "postgres://shop@db.internal:5432/shop",
            Some("postgres://db.internal:5432"),
        )),
    );
    check(
        "postgres://db/shop?sslmode=disable",
        Ok((
            "postgres://db:5432/shop?sslmode=disable",
            Some("postgres://db:5432?sslmode=disable"),
        )),
    );
    check(
        "otlp+http://Collector.Internal",
        Ok((
            "otlp+http://collector.internal:4318",
            Some("otlp+http://collector.internal:4318"),
        )),
    );
    check(
        "otlp+https://api.example/otlp/x/",
        Ok((
            "otlp+https://api.example:443/otlp/x",
            Some("otlp+https://api.example:443"),
        )),
    );
    check(
        "s3://photos?region=eu-central-1",
        Ok(("s3://photos?region=eu-central-1", Some("s3://photos"))),
    );
    check(
        "s3://photos?endpoint=http://127.0.0.1:9000",
        Ok((
            "s3://photos?endpoint=http://127.0.0.1:9000",
            Some("http://127.0.0.1:9000"),
        )),
    );
}

#[test]
fn mail_is_brought_over_tls_unless_it_says_otherwise() {
    for (text, shown, origin) in [
        ("smtp://Mail", "smtp://mail:587", "smtp://mail:587"),
        ("smtps://a@mail", "smtps://a@mail:465", "smtps://mail:465"),
        ("smtps://mail:587", "smtps://mail:587", "smtps://mail:587"),
        (
            "smtp://[::1]:25?tls=none",
            "smtp://[::1]:25?tls=none",
            "smtp://[::1]:25",
        ),
    ] {
        check(text, Ok((shown, Some(origin))));
        assert_eq!(super::allowed(origin).as_deref(), Ok(origin));
    }
    check("smtps://mail?tls=none", Err("only `?tls=none`"));
    check("smtp://mail?tls=maybe", Err("only `?tls=none`"));
    check("smtp://mail/x", Err("path"));
    check("smtp://a:hunter2@mail", Err("a password would be readable"));
}

#[test]
fn engines_are_asked_below_v1_unless_it_says_otherwise() {
    for (text, shown, origin) in [
        (
            "openai+http://127.0.0.1:8080",
            "openai+http://127.0.0.1:8080/v1",
            "openai+http://127.0.0.1:8080",
        ),
        (
            "openai+https://API.example.com/openai/v1/",
            "openai+https://api.example.com:443/openai/v1",
            "openai+https://api.example.com:443",
        ),
    ] {
        check(text, Ok((shown, Some(origin))));
        assert_eq!(super::allowed(origin).as_deref(), Ok(origin));
    }
}

#[test]
fn what_is_none_says_why_and_shows_no_password() {
    check("mongodb://a", Err("expected `embedded`"));
    check("redis://app:hunter2@a", Err("a password would be readable"));
    check("redis://a/x", Err("number of a database"));
    check("redis://a:0", Err("port"));
    check("redis://1.2.3", Err("neither a name nor an address"));
    check("postgres://a", Err("name of the database"));
    check("postgres://a/b?sslmode=require", Err("not spoken"));
    check("s3://A", Err("bucket"));
    check("s3://photos/album", Err("not a part of the address"));
    check("nats://a/b", Err("path"));
    check("redis://[::1", Err("bracket"));
    check("redis://a b", Err("space"));
    check(
        "otlp+http://u:hunter2@a",
        Err("a password would be readable"),
    );
    check("otlp+http://u@a", Err("headers"));
    check("otlp+http://a/v1/traces", Err("leave them out"));
    check("otlp+http://a/../b", Err("path"));
    check("otlp+http://a//b", Err("path"));
    check("otlp+http://a?b", Err("`?`"));
    check("otlp://a", Err("expected `embedded`"));
    check("openai+http://u@a", Err("with a key"));
    check(
        "openai+https://u:hunter2@a",
        Err("a password would be readable"),
    );
    check("openai+http://a/v1/chat/completions", Err("leave them out"));
    check("openai+http://a/v1/../b", Err("path"));
    check("openai+https://a?key=b", Err("`?`"));
    check("openai://a", Err("expected `embedded`"));
}

#[test]
fn a_rule_is_an_origin_and_nothing_else() {
    for (text, expected) in [
        ("redis://cache", Some("redis://cache:6379")),
        ("redis://cache/1", None),
        ("redis://app@cache", None),
        ("postgres://db:5432", Some("postgres://db:5432")),
        (
            "postgres://db?sslmode=disable",
            Some("postgres://db:5432?sslmode=disable"),
        ),
        (
            "postgres://localhost?sslmode=disable",
            Some("postgres://localhost:5432"),
        ),
        ("smtp://mail?tls=none", Some("smtp://mail:587?tls=none")),
        ("smtp://127.0.0.1:25?tls=none", Some("smtp://127.0.0.1:25")),
        ("postgres://db/shop", None),
        ("https://s3.internal", Some("https://s3.internal")),
        ("s3://photos", Some("s3://photos")),
        ("otlp+http://c", Some("otlp+http://c:4318")),
        ("otlp+http://c/otlp", None),
        ("openai+http://gpu:8000", Some("openai+http://gpu:8000")),
        ("openai+https://api.example.com/v1", None),
        ("embedded", None),
        ("*", None),
    ] {
        let seen = allowed(text).ok();
        assert_eq!(seen.as_deref(), expected, "{text}");
    }
}

/// A manifest may leave TLS out: then its password and its data are open to everybody on the way.
#[test]
fn a_rule_for_a_server_with_tls_is_none_for_it_without() {
    for (with, without) in [
        ("postgres://db/shop", "postgres://db/shop?sslmode=disable"),
        ("smtp://mail:25", "smtp://mail:25?tls=none"),
        ("redis://db", "rediss://db:6379"),
        ("nats://db", "tls://db"),
        ("otlp+http://c:1", "otlp+https://c:1"),
    ] {
        let origin = |text: &str| text.parse::<Backend>().unwrap().origin().unwrap();
        assert_ne!(origin(with), origin(without), "{with}");
        for text in [with, without] {
            assert_eq!(allowed(&origin(text)), Ok(origin(text)), "{text}");
        }
    }
}
