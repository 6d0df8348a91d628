//! The part of the suite that is about names: listings, and names that mean something elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use realm_model::cloud::CloudError;

use crate::conformance::Subject;
use crate::sources::{Pattern, bytes, get, names, put};

pub(crate) async fn a_listing_has_each_name_once(subject: &Subject) {
    let blobs = &subject.blobs;
    blobs.create("c").await.unwrap();
    let n = subject.n_listed;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let blobs = Arc::clone(blobs);
            tokio::spawn(async move {
                for number in (writer..n).step_by(8) {
                    put(&*blobs, "c", &name(number), 1, 3).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut expected: Vec<String> = (0..n).map(name).collect();
    expected.sort();
    for page in [1_000, 333] {
        assert_eq!(names(&**blobs, "c", page).await, expected);
    }
    assert_eq!(blobs.list("c", None, 0).await, Ok(Vec::new()));
    assert_eq!(blobs.list("c", Some("zzz"), 10).await, Ok(Vec::new()));
    // From a name that is not there, too.
    let from = blobs.list("c", Some("img-0000009.j"), 2).await.unwrap();
    let at = expected
        .iter()
        .position(|name| name.as_str() > "img-0000009.j")
        .unwrap();
    assert_eq!(from, expected[at..at + 2]);

    // What is written between two pages is in the second one, and what is removed is not.
    let page = blobs.list("c", None, 10).await.unwrap();
    let between = format!("{}+", page[9]);
    put(&**blobs, "c", &between, 1, 3).await;
    blobs.remove("c", &expected[10..11]).await.unwrap();
    let next = blobs.list("c", Some(&page[9]), 2).await.unwrap();
    assert_eq!(next, [between.as_str(), expected[11].as_str()]);
    blobs
        .rename(("c", &between), ("c", &expected[10]))
        .await
        .unwrap();

    // What is there all the time comes once, whatever else comes and goes.
    let mut seen: Vec<String> = Vec::new();
    let mut gone = BTreeSet::new();
    let mut round = 0;
    loop {
        let page = blobs
            .list("c", seen.last().map(String::as_str), 100)
            .await
            .unwrap();
        let is_last = page.len() < 100;
        seen.extend(page);
        if is_last {
            break;
        }
        // One before the place of the listing, and one behind it.
        for at in [round * 3, n - 1 - round * 3] {
            if round < 20 && gone.insert(expected[at].clone()) {
                blobs.remove("c", &expected[at..=at]).await.unwrap();
            }
        }
        if round < 20 {
            put(&**blobs, "c", &format!("img-{:07}.new", round * 40), 1, 3).await;
        }
        round += 1;
    }
    let stays: Vec<&String> = expected
        .iter()
        .filter(|name| !gone.contains(*name))
        .collect();
    let listed: Vec<&String> = seen
        .iter()
        .filter(|name| !name.ends_with(".new") && !gone.contains(*name))
        .collect();
    assert_eq!(listed, stays);
    assert!(
        seen.is_sorted_by(|one, two| one < two),
        "sorted, and none twice"
    );
}

fn name(number: usize) -> String {
    // Not in the order in which they are written.
    format!("img-{:07}.jpg", number * 7_919 % 1_000_003)
}

pub(crate) async fn no_name_is_taken_for_another(subject: &Subject) {
    let blobs = &*subject.blobs;
    blobs.create("c").await.unwrap();
    blobs.create("d").await.unwrap();
    put(blobs, "d", "mine", 1, 1).await;
    let longest = subject.object_bytes_max;
    let mut all: Vec<String> = [
        ".",
        "..",
        "...",
        "/",
        "//",
        "///",
        "a",
        "A",
        "a/",
        "/a",
        "a//",
        "a//b",
        "a/b",
        "a/./b",
        "a/../b",
        "../d/mine",
        "../../etc/passwd",
        "d/mine",
        "./a",
        "a/.",
        "a/..",
        "%2F",
        "%2f",
        "%",
        "%%",
        "a%2Fb",
        "a%2fb",
        "~",
        "~x",
        ".hidden",
        " ",
        " a",
        "a ",
        "a b",
        "a+b",
        "a&b",
        "<a>",
        "\"",
        "'",
        "]]>",
        "&amp;",
        "\\",
        "a\\b",
        "a:b",
        "C:",
        "con",
        "a?b#c",
        "a;b",
        "a=b",
        "\t",
        "\n",
        "\r\n",
        "\u{1}",
        "\u{1b}[2J",
        "\u{7f}",
        "\u{85}",
        "\u{e9}",
        "e\u{301}",
        "\u{212b}",
        "\u{c5}",
        "\u{200b}",
        "\u{202e}x",
        "\u{feff}",
        "\u{fffe}",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{1f408}\u{200d}\u{2b1b}",
        "\u{df}",
        "ss",
        "SS",
        "\u{130}",
        "i",
        "I",
        "\u{131}",
        "objects",
        "created",
        "names",
        "*",
        "|",
        "{}",
        "[]",
        "^",
        "`",
        "$(id)",
        "-rf",
    ]
    .map(str::to_owned)
    .to_vec();
    // The longest, of which the last byte alone differs; in signs that have to be spelled as well.
    for last in ["x", "y", "-"] {
        all.push("a".repeat(longest - 1) + last);
    }
    all.push("a".repeat(longest - 2));
    all.push("\u{e9}".repeat(longest / 3 / 2));
    for (n, name) in all.iter().enumerate() {
        put(blobs, "c", name, n as u64, n as u64 + 1).await;
    }
    for (n, name) in all.iter().enumerate() {
        let shown = name.escape_debug();
        assert_eq!(
            get(blobs, "c", name).await,
            Ok(bytes(n as u64, 0, n + 1)),
            "{shown}"
        );
        let info = blobs.object("c", name).await.unwrap();
        assert_eq!(info.map(|info| info.n_bytes), Some(n as u64 + 1), "{shown}");
    }
    let mut expected = all.clone();
    expected.sort();
    for page in [1_000, 7, 1] {
        let mut listed = names(blobs, "c", page).await;
        if !subject.is_sorted {
            listed.sort();
        }
        assert_eq!(listed, expected);
    }
    assert_eq!(names(blobs, "d", 10).await, ["mine"]);
    // Moved, copied and removed under every name.
    for name in &all {
        blobs.rename(("c", name), ("d", name)).await.unwrap();
        blobs.copy(("d", name), ("c", name)).await.unwrap();
        blobs.remove("d", std::slice::from_ref(name)).await.unwrap();
    }
    assert_eq!(names(blobs, "d", 10).await, ["mine"]);
    blobs.remove("c", &all).await.unwrap();
    assert_eq!(names(blobs, "c", 10).await, Vec::<String>::new());
    assert_eq!(get(blobs, "d", "mine").await, Ok(bytes(1, 0, 1)));

    let too_long = "a".repeat(longest + 1);
    for bad in ["", "a\0b", &too_long] {
        let written = blobs.write("c", bad, Pattern::new(1, 1).boxed()).await;
        let refused = |error: &CloudError| {
            matches!(error, CloudError::Invalid(_) | CloudError::TooLarge { .. })
        };
        assert!(written.as_ref().is_err_and(refused), "{written:?}");
        assert!(blobs.object("c", bad).await.is_err());
        assert!(get(blobs, "c", bad).await.is_err());
        assert!(blobs.remove("c", &[bad.to_owned()]).await.is_err());
        assert!(blobs.copy(("d", "mine"), ("d", bad)).await.is_err());
        assert!(blobs.rename(("d", "mine"), ("d", bad)).await.is_err());
    }
    assert_eq!(get(blobs, "d", "mine").await, Ok(bytes(1, 0, 1)));
}
