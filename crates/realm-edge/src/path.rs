//! Which paths are refused, and the other readings of a path.
//!
//! Routes match the path as it was sent, and the guest sees it as it was sent. Some guests decode
//! `%2f`, turn `\` into `/`, fold `//` or drop `;parameters`; where such a reading belongs to another
//! route, the request is ambiguous and is refused (`answer` asks for all). Nothing is rewritten here.

use std::borrow::Cow;

/// A path that means different things to different readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
}

/// Checks a path, and reads it in the ways in which it may be read beside the one as it was sent: of most
/// paths there is none. The first is the most permissive one: decoded once, `\` as `/`, repeated slashes
/// folded.
///
/// A dot segment is refused in all of them, so `%2e%2e`, `..%2f`, `\..` and `..;x` are refused
/// too: clients in good faith resolve dot segments before they send (RFC 3986 §5.2.4).
pub(crate) fn other_readings(path: &str) -> Result<Vec<String>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let others = others(path);
    check_segments(path)?;
    for other in &others {
        check_segments(other)?;
    }
    Ok(others)
}

/// A path that is none of those refused, in all the ways in which it may be read, as it was sent first.
pub(crate) fn readings(path: &str) -> Vec<Cow<'_, str>> {
    let others = others(path).into_iter().map(Cow::Owned);
    std::iter::once(Cow::Borrowed(path)).chain(others).collect()
}

fn others(path: &str) -> Vec<String> {
    let mut others: Vec<String> = Vec::new();
    let mut add = |reading: String| {
        if reading != path && !others.contains(&reading) {
            others.push(reading);
        }
    };
    let decoded = (!is_plain(path)).then(|| read_permissively(path));
    let last = decoded.as_deref().unwrap_or(path);
    // Some decode first, some drop parameters first, which may hide an encoded slash.
    let bare = last
        .contains(';')
        .then(|| [bare(last), read_permissively(&bare(path))]);
    decoded
        .into_iter()
        .chain(bare.into_iter().flatten())
        .for_each(&mut add);
    others
}

/// A path without `;parameters`.
fn bare(path: &str) -> String {
    let names = path.split('/').map(|segment| {
        let name = segment.split(';').next();
        name.unwrap_or(segment)
    });
    let names: Vec<&str> = names.collect();
    // A segment of parameters alone leaves an empty one.
    let mut bare = names.join("/");
    while let Some(at) = bare.find("//") {
        bare.remove(at);
    }
    bare
}

/// Whether every reader agrees on the path, dot segments aside.
fn is_plain(path: &str) -> bool {
    let mut previous = 0;
    path.bytes().all(|byte| {
        let is_doubled = byte == b'/' && previous == b'/';
        let plain = !is_doubled && !matches!(byte, b'%' | b'\\');
        previous = byte;
        plain
    })
}

fn check_segments(path: &str) -> Result<(), PathError> {
    let is_dots = |segment: &str| {
        // Some servers drop `;parameters` before they resolve dots.
        let name = segment.split(';').next().unwrap_or(segment);
        matches!(name, "." | "..")
    };
    if path.split('/').any(is_dots) {
        return Err(PathError::DotSegment);
    }
    Ok(())
}

fn read_permissively(path: &str) -> String {
    let mut reading = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail) = match decode(rest) {
            Some(byte) => (byte, &rest[3..]),
            None => (first, tail),
        };
        rest = tail;
        let byte = if byte == b'\\' { b'/' } else { byte };
        if !(byte == b'/' && reading.last() == Some(&b'/')) {
            reading.push(byte);
        }
    }
    // Bytes that are no UTF-8 never match a route, whose text is UTF-8; what stands in for them
    // does not matter.
    match String::from_utf8_lossy(&reading) {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(text) => text,
    }
}

/// The byte that `%41` at the front stands for.
fn decode(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(path: &str, expected: Result<Option<&str>, PathError>) {
        let found = other_readings(path).map(|all| all.into_iter().next());
        assert_eq!(
            found.as_ref().map(|reading| reading.as_deref()),
            expected.as_ref().map(|reading| *reading),
            "{path}"
        );
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in [
            "/",
            "/a/b",
            "/a/b/",
            "/.well-known/x",
            "/...",
            "/a..b",
            "/ä",
        ] {
            check(path, Ok(None));
        }
    }

    #[test]
    fn dots_are_refused_however_they_are_written() {
        for path in [
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a/..%2fb",
            "/a%2f..%2fb",
            "/a\\..\\b",
            "/a%5c..%5cb",
            "/a/..;x=1/b",
            "/a/.;/b",
            "//../b",
            "/%2e",
            "/a/%2e%2e%3bx/b",
        ] {
            check(path, Err(PathError::DotSegment));
        }
    }

    #[test]
    fn other_spellings_have_a_second_reading() {
        check("/%61uth/x", Ok(Some("/auth/x")));
        check("/auth%2Fx", Ok(Some("/auth/x")));
        check("/auth\\x", Ok(Some("/auth/x")));
        check("//auth///x", Ok(Some("/auth/x")));
        check("/a%2f/b", Ok(Some("/a/b")));
        check("/a;b=c", Ok(Some("/a")));
        // Decoded once: what is written twice is the guest's own business.
        check("/%252e%252e/x", Ok(Some("/%2e%2e/x")));
        check("/100%", Ok(None));
        check("/100%zz", Ok(None));
        check("/%e4", Ok(Some("/\u{fffd}")));
    }

    #[test]
    fn a_path_begins_with_a_slash() {
        for path in ["", "*", "a/b", "?x", "%2fa"] {
            check(path, Err(PathError::NotAbsolute));
        }
    }

    #[test]
    fn a_path_is_read_in_all_ways_that_readers_have() {
        let check = |path: &str, expected: &[&str]| {
            assert_eq!(readings(path), expected, "{path}");
        };
        check("/admin/x", &["/admin/x"]);
        check("/%61dmin", &["/%61dmin", "/admin"]);
        check("//admin\\x", &["//admin\\x", "/admin/x"]);
        check("/admin;v=1/x", &["/admin;v=1/x", "/admin/x"]);
        check("/;v/admin", &["/;v/admin", "/admin"]);
        check("/%61dmin%3bv", &["/%61dmin%3bv", "/admin;v", "/admin"]);
        let hidden = "/;%2fa/admin/users";
        check(
            hidden,
            &[hidden, "/;/a/admin/users", "/a/admin/users", "/admin/users"],
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC{0,80}") {
            let _ = other_readings(&text);
        }

        #[test]
        fn no_reading_hides_a_dot_segment(path in "/[a./\\\\%25ceEfF;]{0,24}") {
            if let Ok(others) = other_readings(&path) {
                for reading in others.iter().chain([&path]) {
                    prop_assert!(!reading.split('/').any(|segment| matches!(segment, "." | "..")));
                }
                prop_assert!(!others.iter().any(|reading| reading.contains("//")));
                prop_assert!(!path.contains("//") || !others.is_empty());
            }
        }
    }
}
