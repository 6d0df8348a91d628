//! What is kept, for how long and for whom, one header at a time.

use proptest::prelude::*;

use super::*;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    headers
}

/// 2024-01-01 00:00:00.
fn came() -> Came {
    let now = Instant::now();
    Came {
        asked: now,
        at: now,
        unix: SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_067_200),
    }
}

/// Seconds for which an answer with these headers may be used; `None`: it is not kept.
fn kept(status: u16, lines: &[(&str, &str)]) -> Option<u64> {
    kept_for(false, status, lines)
}

fn kept_for(is_somebodys: bool, status: u16, lines: &[(&str, &str)]) -> Option<u64> {
    let status = StatusCode::from_u16(status).unwrap();
    let came = came();
    let policy = Policy::of(is_somebodys, status, &map(lines), came)?;
    match policy.freshness(came.at) {
        Freshness::Fresh(left) => Some(left.as_secs()),
        Freshness::Stale(_) => Some(0),
    }
}

const MINUTE: (&str, &str) = ("cache-control", "max-age=60");

#[test]
fn an_answer_is_kept_as_long_as_it_says() {
    assert_eq!(kept(200, &[MINUTE]), Some(60));
    let both = ("cache-control", "max-age=60, s-maxage=10");
    assert_eq!(kept(200, &[both]), Some(10));
    let date = ("date", "Mon, 01 Jan 2024 00:00:00 GMT");
    let expires = ("expires", "Mon, 01 Jan 2024 00:02:00 GMT");
    assert_eq!(kept(200, &[date, expires]), Some(120));
    assert_eq!(kept(200, &[expires]), Some(120));
    assert_eq!(kept(200, &[MINUTE, expires]), Some(60));
    // It was not new when it came.
    let early = ("date", "Sun, 31 Dec 2023 23:59:30 GMT");
    assert_eq!(kept(200, &[MINUTE, early]), Some(30));
    assert_eq!(kept(200, &[MINUTE, ("age", "45")]), Some(15));
    assert_eq!(kept(200, &[MINUTE, ("age", "60")]), None);
}

#[test]
fn what_does_not_say_how_long_is_not_kept() {
    assert_eq!(kept(200, &[]), None);
    assert_eq!(kept(200, &[("cache-control", "public")]), None);
    assert_eq!(kept(200, &[("cache-control", "immutable")]), None);
    let tag = ("etag", "\"a\"");
    assert_eq!(kept(200, &[tag]), None);
    assert_eq!(
        kept(200, &[("last-modified", "Mon, 01 Jan 2020 00:00:00 GMT")]),
        None
    );
    assert_eq!(kept(200, &[("expires", "0")]), None);
    // What can be asked about is, each time.
    let date = ("date", "Mon, 01 Jan 2024 00:00:00 GMT");
    let past = ("expires", "Sun, 31 Dec 2023 23:00:00 GMT");
    assert_eq!(kept(200, &[tag, date, past]), Some(0));
    assert_eq!(kept(200, &[date, past]), None);
    assert_eq!(kept(200, &[tag, ("expires", "0")]), Some(0));
    assert_eq!(kept(200, &[tag, ("cache-control", "no-cache")]), Some(0));
    assert_eq!(kept(200, &[("cache-control", "no-cache")]), None);
    assert_eq!(
        kept(200, &[tag, ("cache-control", "no-cache, max-age=60")]),
        Some(0)
    );
}

#[test]
fn what_is_somebodys_or_a_part_is_not_kept() {
    assert_eq!(kept(200, &[("cache-control", "max-age=60, private")]), None);
    assert_eq!(
        kept(200, &[("cache-control", "max-age=60, No-Store")]),
        None
    );
    let public = ("cache-control", "public, max-age=60");
    assert_eq!(kept(200, &[public, ("set-cookie", "a=b")]), None);
    assert_eq!(kept(200, &[MINUTE, ("content-range", "bytes 0-1/2")]), None);
    assert_eq!(kept(200, &[MINUTE, ("trailer", "x")]), None);
    assert_eq!(kept(206, &[MINUTE]), None);
    assert_eq!(kept(304, &[MINUTE]), None);
    for status in [301, 404, 500, 503] {
        assert_eq!(kept(status, &[MINUTE]), Some(60), "{status}");
        assert_eq!(kept(status, &[]), None, "{status}");
    }
    assert_eq!(kept_for(true, 200, &[MINUTE]), None);
    for open in [
        "public, max-age=60",
        "s-maxage=60",
        "must-revalidate, max-age=60",
    ] {
        assert_eq!(
            kept_for(true, 200, &[("cache-control", open)]),
            Some(60),
            "{open}"
        );
    }
}

#[test]
fn who_has_a_name_is_somebody() {
    for name in [
        "authorization",
        "x-realm-remote-user",
        "x-realm-auth-type",
        "x-realm-ssl-client-s-dn",
    ] {
        assert!(is_somebodys(&map(&[(name, "a")])), "{name}");
    }
    assert!(!is_somebodys(&map(&[
        ("x-realm-ssl-protocol", "TLSv1.3"),
        ("cookie", "a=b")
    ])));
}

#[test]
fn a_stale_answer_is_used_as_long_as_it_allows_and_never_against_its_word() {
    let of = |said: &str| {
        let came = came();
        let headers = map(&[("cache-control", said)]);
        let policy = Policy::of(false, StatusCode::OK, &headers, came).unwrap();
        let (within, after) = (Duration::from_millis(9_999), Duration::from_secs(10));
        let revalidating = |stale| policy.may_serve_while_revalidating(stale);
        let error = |stale| policy.may_serve_on_error(stale);
        assert!(!revalidating(after) && !error(after), "{said}");
        (revalidating(within), error(within))
    };
    assert_eq!(of("max-age=1"), (false, false));
    assert_eq!(of("max-age=1, stale-while-revalidate=10"), (true, false));
    assert_eq!(of("max-age=1, stale-if-error=10"), (false, true));
    let both = "max-age=1, stale-while-revalidate=10, stale-if-error=10";
    assert_eq!(of(both), (true, true));
    assert_eq!(of(&format!("{both}, s-maxage=1")), (true, true));
    assert_eq!(of(&format!("{both}, must-revalidate")), (false, false));
    assert_eq!(of(&format!("{both}, Proxy-Revalidate")), (false, false));
}

#[test]
fn an_answer_ages_where_it_lies() {
    let came = came();
    let policy = Policy::of(false, StatusCode::OK, &map(&[MINUTE, ("age", "10")]), came).unwrap();
    let at = |seconds| came.at + Duration::from_secs(seconds);
    assert_eq!(policy.age(at(5)), Duration::from_secs(15));
    assert_eq!(
        policy.freshness(at(49)),
        Freshness::Fresh(Duration::from_secs(1))
    );
    assert_eq!(policy.freshness(at(50)), Freshness::Stale(Duration::ZERO));
    assert_eq!(
        policy.freshness(at(55)),
        Freshness::Stale(Duration::from_secs(5))
    );
}

#[test]
fn an_answer_is_for_requests_like_the_one_that_it_was_given_to() {
    let given_to = map(&[
        ("accept-language", "de"),
        ("accept-language", "en"),
        ("x", "1"),
    ]);
    let answer = map(&[
        ("vary", "Accept-Language, , x-absent"),
        ("vary", "accept-language"),
    ]);
    let varies = varies(&answer, &given_to).unwrap();
    assert_eq!(varies.len(), 2);
    assert!(is_alike(&varies, &given_to));
    let other = |lines: &[(&str, &str)]| is_alike(&varies, &map(lines));
    assert!(other(&[
        ("accept-language", "de"),
        ("accept-language", "en")
    ]));
    // A second line is no less of a request than the first.
    assert!(!other(&[("accept-language", "de")]));
    assert!(!other(&[
        ("accept-language", "de"),
        ("accept-language", "fr")
    ]));
    let with = [
        ("accept-language", "de"),
        ("accept-language", "en"),
        ("x-absent", ""),
    ];
    assert!(!other(&with));
}

#[test]
fn what_depends_on_everything_is_for_nobody_else() {
    let varies = |value: &str| varies(&map(&[("vary", value)]), &HeaderMap::new());
    assert_eq!(varies("*"), None);
    assert_eq!(varies("accept, *"), None);
    assert_eq!(varies("no header"), None);
    let many: Vec<String> = (0..=VARY_MAX).map(|number| format!("x-{number}")).collect();
    assert_eq!(varies(&many.join(",")), None);
    assert_eq!(
        varies(&many[1..].join(",")).map(|all| all.len()),
        Some(VARY_MAX)
    );
    let long = "a".repeat(VARY_BYTES_MAX + 1);
    let request = map(&[("x-long", &long)]);
    assert_eq!(super::varies(&map(&[("vary", "x-long")]), &request), None);
}

#[test]
fn who_has_an_answer_is_not_sent_it_again() {
    let modified = ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT");
    let answer = map(&[("etag", "\"a,b\""), modified]);
    let check = |lines: &[(&str, &str)]| has_it(&map(lines), StatusCode::OK, &answer);
    assert!(check(&[("if-none-match", "\"x\", \"a,b\"")]));
    assert!(check(&[("if-none-match", "W/\"a,b\"")]));
    assert!(check(&[("if-none-match", "\"x\""), ("if-none-match", "*")]));
    assert!(!check(&[("if-none-match", "\"a\"")]));
    assert!(check(&[(
        "if-modified-since",
        "Mon, 01 Jan 2024 00:00:00 GMT"
    )]));
    assert!(check(&[(
        "if-modified-since",
        "Tue, 02 Jan 2024 00:00:00 GMT"
    )]));
    assert!(!check(&[(
        "if-modified-since",
        "Sun, 31 Dec 2023 23:59:59 GMT"
    )]));
    assert!(!check(&[("if-modified-since", "yesterday")]));
    // The tag is what counts where there is one.
    let both = [
        ("if-none-match", "\"x\""),
        ("if-modified-since", modified.1),
    ];
    assert!(!check(&both));
    assert!(!check(&[]));
    let not_found = StatusCode::NOT_FOUND;
    assert!(!has_it(&map(&[("if-none-match", "*")]), not_found, &answer));
}

#[test]
fn a_304_renews_what_it_is_about_and_nothing_of_the_body() {
    let kept = map(&[
        ("etag", "\"a\""),
        ("age", "7"),
        ("date", "then"),
        ("link", "1"),
        ("link", "2"),
        ("x", "old"),
        ("content-length", "5"),
        ("content-type", "text/plain"),
    ]);
    let answer = map(&[
        ("etag", "W/\"a\""),
        ("x", "new"),
        ("x", "newer"),
        ("content-length", "0"),
        ("content-type", "text/html"),
    ]);
    assert!(is_still_it(&kept, &answer));
    let renewed = renewed(&kept, &answer);
    let all = |name: &str| -> Vec<&str> {
        let lines = renewed.get_all(name).iter();
        lines.map(|line| line.to_str().unwrap()).collect()
    };
    assert_eq!(all("x"), ["new", "newer"]);
    assert_eq!(all("link"), ["1", "2"]);
    assert_eq!(all("content-length"), ["5"]);
    assert_eq!(all("content-type"), ["text/plain"]);
    assert!(all("age").is_empty() && all("date").is_empty());
    assert!(!is_still_it(&kept, &map(&[("etag", "\"b\"")])));
    assert!(is_still_it(&kept, &HeaderMap::new()));
    assert!(!is_still_it(&HeaderMap::new(), &map(&[("etag", "\"b\"")])));
}

proptest! {
    #[test]
    fn any_headers_come_to_a_decision_and_age(
        lines in prop::collection::vec(
            (
                prop::sample::select(vec!["cache-control", "age", "date", "expires", "vary", "etag"]),
                "(max-age=[0-9]{0,25}|[0-9]{0,25}|Mon, 01 Jan [0-9]{4} 00:00:00 GMT|[ -~]{0,12})",
            ),
            0..6,
        ),
        later in 0_u64..u64::MAX / 2,
    ) {
        let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let headers = map(&lines);
        let _ = varies(&headers, &headers);
        if let Some(policy) = Policy::of(false, StatusCode::OK, &headers, came()) {
            let later = Instant::now().checked_add(Duration::from_secs(later));
            let _ = policy.freshness(later.unwrap_or_else(Instant::now));
        }
    }

    /// Nothing is used for longer than it said, whatever its age and its way here.
    #[test]
    fn nobody_is_given_what_is_older_than_it_may_be(
        max_age in 0_u64..100, age in 0_u64..100, date_off in -50_i64..50, delay in 0_u64..50,
        later in 0_u64..200,
    ) {
        let now = Instant::now() + Duration::from_secs(1_000);
        let unix = SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_067_200);
        let date = match u64::try_from(date_off) {
            Ok(ahead) => unix + Duration::from_secs(ahead),
            Err(_) => unix - Duration::from_secs(date_off.unsigned_abs()),
        };
        let came = Came { asked: now - Duration::from_secs(delay), at: now, unix };
        let headers = map(&[
            ("cache-control", &format!("max-age={max_age}")),
            ("age", &age.to_string()),
            ("date", &httpdate::fmt_http_date(date)),
        ]);
        let least = (age + delay).max(u64::try_from(-date_off).unwrap_or(0)) + later;
        if let Some(policy) = Policy::of(false, StatusCode::OK, &headers, came) {
            let at = now + Duration::from_secs(later);
            prop_assert_eq!(policy.age(at), Duration::from_secs(least));
            let is_fresh = matches!(policy.freshness(at), Freshness::Fresh(_));
            prop_assert_eq!(is_fresh, least < max_age);
        }
    }
}
