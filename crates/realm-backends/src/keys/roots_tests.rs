//! What is a root, and what is none; that no two keys are one.

use super::*;

const SALT: &[u8] = b"test";
const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const BASE64_TEXT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER: &str = "/AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// How many roots a text holds; all of it is said of what is none.
fn check(text: &str, expected: Result<usize, RootsError>) {
    let read = Roots::read(text.as_bytes(), SALT).map(|roots| roots.0.len());
    assert_eq!(read, expected, "{text:?}");
}

#[test]
fn roots_are_32_bytes_one_to_a_line() {
    check(HEX, Ok(1));
    check(&HEX.to_uppercase(), Ok(1));
    check(BASE64_TEXT, Ok(1));
    check(BASE64_TEXT.trim_end_matches('='), Ok(1));
    check(&format!("{OTHER}\n{HEX}\n"), Ok(2));
    check(&format!("\r\n  {OTHER}\r\n\n\t{HEX}"), Ok(2));
    check("", Err(RootsError::Empty));
    check(" \n\n", Err(RootsError::Empty));
}

#[test]
fn what_is_no_root_is_refused_by_its_line() {
    let short = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==";
    let two = BASE64_TEXT.replace('=', "A");
    for wrong in [
        "password",
        short,
        &two,
        &HEX[2..],
        &format!("{HEX}0"),
        &format!("g{}", &HEX[1..]),
        &format!("+{}", &HEX[1..]),
        &BASE64_TEXT.replace('A', "-"),
        // The last digit has bits that belong to no byte.
        &BASE64_TEXT.replace("8=", "9="),
        &"00".repeat(32),
        &"ab".repeat(32),
        &format!("{HEX} {HEX}"),
    ] {
        check(wrong, Err(RootsError::Line(1)));
        check(&format!("{OTHER}\n\n{wrong}"), Err(RootsError::Line(3)));
    }
    check(&format!("{OTHER}\u{e9}"), Err(RootsError::Line(1)));
    check(&format!("{HEX}\n{BASE64_TEXT}"), Err(RootsError::Twice(2)));
    let many: Vec<String> = (1..=17)
        .map(|number| format!("{number:02x}{}", &HEX[2..]))
        .collect();
    check(&many[..16].join("\n"), Ok(16));
    check(&many.join("\n"), Err(RootsError::Many));
}

#[test]
fn no_error_tells_what_stands_there() {
    let said = |text: &str| match Roots::read(text.as_bytes(), SALT) {
        Ok(_) => panic!("it is none"),
        Err(error) => format!("{error} {error:?}"),
    };
    for text in [
        "hunter2",
        &format!("{HEX}\nhunter2"),
        &format!("{HEX}\n{HEX}"),
    ] {
        let said = said(text);
        assert!(
            !said.contains("hunter2") && !said.contains("0001"),
            "{said}"
        );
    }
}

#[test]
fn names_do_not_run_into_each_other() {
    let roots = Roots::read(HEX.as_bytes(), SALT).unwrap();
    let other = Roots::read(OTHER.as_bytes(), SALT).unwrap();
    let salted = Roots::read(HEX.as_bytes(), b"other").unwrap();
    let derived = [
        roots.first(Purpose::Encrypt, &["a", "b"]),
        roots.first(Purpose::Encrypt, &["ab", ""]),
        roots.first(Purpose::Encrypt, &["", "ab"]),
        roots.first(Purpose::Encrypt, &["ab"]),
        roots.first(Purpose::Encrypt, &["a", "b", ""]),
        roots.first(Purpose::Wrap, &["a", "b"]),
        roots.first(Purpose::Sign, &["a", "b"]),
        roots.first(Purpose::Mac, &["a", "b"]),
        roots.first(Purpose::Token, &["a", "b"]),
        other.first(Purpose::Encrypt, &["a", "b"]),
        salted.first(Purpose::Encrypt, &["a", "b"]),
    ];
    for (at, one) in derived.iter().enumerate() {
        for another in &derived[..at] {
            assert_ne!(one.id, another.id);
            assert_ne!(one.bytes, another.bytes);
        }
    }
}
