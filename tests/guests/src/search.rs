//! Asks `realm:cloud/search` what every database has to answer, a line for each check: `ok NAME` or
//! `FAIL NAME: why`. `/?db=` names the database.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/realm-cloud/search.wit", world: "realm:cloud/search-imports" });
}

use bindings::realm::cloud::search::{Error, Hit, Index, Part, Weight};

guests::serve!(handle);

type Check = fn(&Index) -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("words", words),
    ("scores", scores),
    ("snippets", snippets),
    ("pages", pages),
    ("written-over", written_over),
    ("no-marks-of-a-database", no_marks),
    ("limits", limits),
];

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let db = guests::parameter(&request, "db").unwrap_or("default".to_owned());
    let mut answer = String::new();
    for (check, run) in CHECKS {
        let result = Index::open(&db, check)
            .map_err(code)
            .and_then(|own| run(&own));
        answer += &match result {
            Ok(()) => format!("ok {check}\n"),
            Err(why) => format!("FAIL {check}: {why}\n"),
        };
    }
    guests::text(out, 200, &answer);
}

/// What a guest can tell an error by.
fn code(error: Error) -> String {
    match error {
        Error::NoSuchDatabase => "no-such-database".to_owned(),
        Error::AccessDenied => "access-denied".to_owned(),
        Error::Quota(which) => format!("quota {which}"),
        Error::TooLarge(_) => "too-large".to_owned(),
        Error::Invalid(_) => "invalid".to_owned(),
        Error::Conflict => "conflict".to_owned(),
        Error::Timeout => "timeout".to_owned(),
        Error::Unavailable => "unavailable".to_owned(),
        Error::Unsupported(why) => format!("unsupported {why}"),
        Error::Other(why) => format!("other {why}"),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{found:?} instead of {wanted:?}"))
}

fn fails<T: std::fmt::Debug>(result: Result<T, Error>, wanted: &str) -> Result<(), String> {
    match result {
        Ok(value) => Err(format!("{value:?} instead of {wanted}")),
        Err(error) => same(code(error).as_str(), wanted),
    }
}

fn part(weight: Weight, text: &str) -> Part {
    Part {
        weight,
        text: text.to_owned(),
    }
}

fn put(own: &Index, id: &str, title: &str, body: &str) -> Result<(), String> {
    let parts = [part(Weight::Title, title), part(Weight::Body, body)];
    own.put(id, &parts, &format!("{{\"id\": \"{id}\"}}"))
        .map_err(code)
}

fn found(own: &Index, query: &str) -> Result<Vec<Hit>, String> {
    own.query(query, 100, 0).map_err(code)
}

/// The ids that a query finds, sorted.
fn ids(own: &Index, query: &str) -> Result<String, String> {
    let mut ids: Vec<_> = found(own, query)?.into_iter().map(|hit| hit.id).collect();
    ids.sort();
    Ok(ids.join(" "))
}

fn words(own: &Index) -> Result<(), String> {
    put(
        own,
        "a",
        "Dogs and cats",
        "The quick brown fox jumps over the lazy dog.",
    )?;
    put(
        own,
        "b",
        "\u{c9}cole",
        "A caf\u{e9} in Stra\u{df}burg; e-mail: x@example.org",
    )?;
    put(own, "c", "\u{6771}\u{4eac}", "lazy LAZY brown, fox")?;
    put(own, "d", "", "version 3.14 of it's own")?;
    for (query, wanted) in [
        ("dog", "a"),
        ("DOG*", "a"),
        ("lazy", "a c"),
        ("brown fox", "a c"),
        ("\"brown fox\"", "a c"),
        ("\"quick fox\"", ""),
        ("\"cats the\"", ""),
        ("lazy -dog", "c"),
        ("lazy -\"lazy dog\"", "c"),
        ("lazy -\"fox lazy\"", "a c"),
        ("ecole", "b"),
        ("cafe\u{301} strasse*", ""),
        ("cafe\u{301} STRASSBURG", "b"),
        ("e-mail", "b"),
        ("example.org", "b"),
        ("\u{4eac}", "c"),
        ("\u{6771}\u{4eac}", "c"),
        ("\u{4eac}\u{6771}", ""),
        ("3.14", "d"),
        ("it's", "d"),
        ("bro* \"the lazy d\"*", "a"),
        ("missing", ""),
        ("dog lazy cats quick", "a"),
    ] {
        same(ids(own, query)?.as_str(), wanted).map_err(|why| format!("{query}: {why}"))?;
    }
    let hit = found(own, "dog")?.remove(0);
    same(hit.attributes.as_str(), "{\"id\": \"a\"}")
}

fn scores(own: &Index) -> Result<(), String> {
    put(own, "in-the-title", "realm", "of something else")?;
    put(
        own,
        "in-the-body",
        "something else",
        "about realm, and more of it",
    )?;
    for n in 0..5 {
        put(own, &format!("other-{n}"), "nothing", "of that kind")?;
    }
    let hits = found(own, "realm")?;
    let order: Vec<_> = hits.iter().map(|hit| hit.id.as_str()).collect();
    same(order, vec!["in-the-title", "in-the-body"])?;
    same(hits[0].score > hits[1].score && hits[1].score > 0.0, true)
}

fn snippets(own: &Index) -> Result<(), String> {
    let filler = "filler ".repeat(200);
    put(
        own,
        "a",
        "A title",
        &format!("{filler}<b>Quick</b> brown F\u{f4}x {filler}"),
    )?;
    let hit = found(own, "quick fox")?.remove(0);
    let marked: Vec<_> = hit
        .marks
        .iter()
        .map(|span| &hit.snippet[span.start as usize..span.end as usize])
        .collect();
    same(marked, vec!["Quick", "F\u{f4}x"])?;
    same(
        hit.snippet.contains("<b>Quick</b> brown") && hit.snippet.len() < 300,
        true,
    )
}

fn pages(own: &Index) -> Result<(), String> {
    for n in 0..25 {
        put(own, &format!("{n:02}"), "page", "the same text")?;
    }
    let mut all = Vec::new();
    for offset in [0, 10, 20, 30] {
        let page = own.query("page", 10, offset).map_err(code)?;
        all.extend(page.into_iter().map(|hit| hit.id));
    }
    same(all, (0..25).map(|n| format!("{n:02}")).collect())
}

fn written_over(own: &Index) -> Result<(), String> {
    put(own, "a", "before", "words")?;
    put(own, "a", "after", "words")?;
    same(ids(own, "before")?.as_str(), "")?;
    same(ids(own, "after words")?.as_str(), "a")?;
    same(own.delete("a").map_err(code)?, true)?;
    same(own.delete("a").map_err(code)?, false)?;
    same(ids(own, "words")?.as_str(), "")
}

/// What means something to a database means nothing here.
fn no_marks(own: &Index) -> Result<(), String> {
    put(own, "a", "x", "one two or near and not a b c d space")?;
    for (query, wanted) in [
        ("one OR two", "a"),
        ("one OR three", ""),
        ("a:one", ""),
        ("b:c", "a"),
        ("NEAR(one two)", ""),
        ("{a b} : c", "a"),
        ("one' & 'two", "a"),
        ("!one", "a"),
        ("one | three", ""),
        ("one\" --", "a"),
        ("'; DROP TABLE realm_texts; --", ""),
        ("^one", "a"),
        ("one + two", "a"),
        ("$1 one", ""),
        ("\\one:* one", "a"),
    ] {
        same(ids(own, query)?.as_str(), wanted).map_err(|why| format!("{query}: {why}"))?;
    }
    same(ids(own, "one")?.as_str(), "a")
}

fn limits(own: &Index) -> Result<(), String> {
    let text = |text: String| [part(Weight::Body, &text)];
    fails(own.put("a", &text("x ".repeat(16_001)), "{}"), "invalid")?;
    fails(
        own.put("a", &text("x".repeat((1 << 20) + 1)), "{}"),
        "too-large",
    )?;
    fails(own.put("a", &text("\0".to_owned()), "{}"), "invalid")?;
    fails(
        own.put("a", &vec![part(Weight::Note, "x"); 17], "{}"),
        "invalid",
    )?;
    fails(own.put("a", &text("x".to_owned()), "[]"), "invalid")?;
    fails(own.put("", &text("x".to_owned()), "{}"), "invalid")?;
    for query in ["", "-x", "\"\"", "!"] {
        fails(own.query(query, 1, 0), "invalid")?;
    }
    fails(own.query(&"x".repeat(2_000), 1, 0), "too-large")?;
    fails(own.query("x", 0, 0), "invalid")?;
    fails(own.query("x", 101, 0), "invalid")?;
    fails(own.query("x", 1, 10_001), "invalid")?;
    fails(Index::open("default", "No Name").map(drop), "invalid")?;
    fails(Index::open("other", "name").map(drop), "no-such-database")?;
    // As many words as there may be, each another one, and one of them too often.
    let many: Vec<_> = (0..15_000)
        .map(|n| format!("{n:x}{}", "y".repeat(40)))
        .collect();
    own.put("many", &text(many.join(" ")), "{}").map_err(code)?;
    own.put("same", &text("again ".repeat(15_000) + "end"), "{}")
        .map_err(code)?;
    same(ids(own, "\"again again\" end")?.as_str(), "same")?;
    same(ids(own, "\"again end\"")?.as_str(), "")?;
    let long = format!("3a97{}", "y".repeat(40));
    same(ids(own, &long)?.as_str(), "many")
}
