//! Paths: of routes (`/auth/...`, `/health`), of health checks, and of directories.

use super::value::ValueError;
use crate::codes;
use crate::fields::cut;
use crate::route::PathPattern;

const PATH_BYTES_MAX: usize = 1_024;

/// Reads the `path` of a route.
///
/// A pattern is compared with a request's path byte by byte, so that only spellings that a
/// client cannot vary are taken: no percent-encoding, no `.` or `..`, no empty segments.
pub(crate) fn route_path(text: &str) -> Result<PathPattern, ValueError> {
    let error = |why: &str, hint: Option<String>| {
        let message = format!("`{}` is not a path of a route: {why}", cut(text));
        Err(ValueError::new(codes::BAD_PATH, message).hint(hint))
    };
    if !text.starts_with('/') {
        let hint = text
            .bytes()
            .all(is_plain)
            .then(|| format!("write `/{}`", cut(text)));
        return error("it must begin with `/`", hint);
    }
    if text.len() > PATH_BYTES_MAX {
        return error("it has more than 1024 characters", None);
    }
    if let Some(prefix) = text.strip_suffix('*') {
        let prefix = prefix.trim_end_matches(['*', '/']);
        let hint = format!("a prefix is written `{}/...`", cut(prefix));
        return error("`*` has no meaning here", Some(hint));
    }
    if text.contains(['?', '#']) {
        return error("a query or a fragment cannot be matched", None);
    }
    if text.contains('%') {
        let hint = "match a prefix that needs no encoding".to_owned();
        return error(
            "percent-encoding has several spellings for one path",
            Some(hint),
        );
    }
    if !text.bytes().all(is_plain) {
        let hint = "match a prefix of plain characters".to_owned();
        return error(
            "a character stands in it that a request encodes",
            Some(hint),
        );
    }
    let (plain, prefix) = match text.strip_suffix("/...") {
        Some(plain) => (plain, true),
        None => (text, false),
    };
    let last = plain.matches('/').count();
    for (index, segment) in plain.split('/').enumerate().skip(1) {
        if segment == "." || segment == ".." {
            return error("clients resolve `.` and `..` before they ask", None);
        }
        if segment == "..." {
            return error("`...` can only be the last segment", None);
        }
        // `/a/` is a path of its own; `//` is read in several ways.
        if segment.is_empty() && (index != last || prefix) {
            return error("it has an empty segment", None);
        }
    }
    if let Some(before) = plain.strip_suffix("...") {
        let hint = format!("a prefix is written `{}/...`", cut(before));
        return error("`...` must be a segment of its own", Some(hint));
    }
    Ok(if prefix {
        PathPattern::Prefix(plain.to_owned())
    } else {
        PathPattern::Exact(text.to_owned())
    })
}

/// `pchar` of RFC 3986 without percent-encoding, and `/`.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'/' | b'-'
                | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
        )
}

/// Reads the path of a health check: what stands in the request line, a query included.
pub(crate) fn health_path(text: &str) -> Result<String, ValueError> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !text.starts_with('/') || !plain || text.len() > PATH_BYTES_MAX {
        let message = format!(
            "`{}` is not a health check, expected a path like `/healthz`, or `export`",
            cut(text)
        );
        return Err(ValueError::new(codes::BAD_VALUE, message));
    }
    Ok(text.to_owned())
}

/// An absolute directory without a trailing slash, or the rule it breaks, as a clause.
pub(crate) fn directory(text: &str) -> Result<String, &'static str> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err("a directory must be absolute: it begins with `/`");
    };
    if text.len() > PATH_BYTES_MAX {
        return Err("a directory has more than 1024 characters");
    }
    if text.chars().any(char::is_control) {
        return Err("a directory has a control character");
    }
    // The trailing slash of `/srv/` goes; `//` is no spelling of `/`.
    let rest = match rest.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => shorter,
        Some(_) | None => rest,
    };
    if !rest.is_empty()
        && rest
            .split('/')
            .any(|segment| matches!(segment, "" | "." | ".."))
    {
        return Err("a directory has no `.`, `..` or empty segments");
    }
    Ok(format!("/{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<PathPattern, &str>) {
        match (route_path(text), expected) {
            (Ok(path), expected) => assert_eq!(Ok(path), expected, "{text}"),
            (Err(error), Err(part)) => {
                assert!(
                    format!("{} {:?}", error.message, error.hint).contains(part),
                    "{text}: {error:?}"
                );
            }
            (Err(error), Ok(path)) => panic!("{text}: {error}, expected {path:?}"),
        }
    }

    #[test]
    fn a_path_is_exact_or_a_prefix() {
        let exact = |path: &str| Ok(PathPattern::Exact(path.to_owned()));
        let prefix = |path: &str| Ok(PathPattern::Prefix(path.to_owned()));
        check("/auth/...", prefix("/auth"));
        check("/a/b/...", prefix("/a/b"));
        check("/...", prefix(""));
        check("/", exact("/"));
        check("/health", exact("/health"));
        check("/a/", exact("/a/"));
        check("/.well-known/x", exact("/.well-known/x"));
        check("/v1.0/@me", exact("/v1.0/@me"));
    }

    #[test]
    fn other_spellings_are_refused_with_the_reason() {
        check("", Err("must begin with `/`"));
        check("auth/...", Err("write `/auth/...`"));
        check("/auth/*", Err("a prefix is written `/auth/...`"));
        check("/*", Err("a prefix is written `/...`"));
        check("/auth...", Err("a prefix is written `/auth/...`"));
        check("/a/.../b", Err("the last segment"));
        check("/a?b", Err("query"));
        check("/a#b", Err("fragment"));
        check("/%61", Err("percent"));
        check("/a b", Err("encodes"));
        check("/ü", Err("encodes"));
        check("/a\\b", Err("encodes"));
        check("/a\n", Err("encodes"));
        check("/a//b", Err("empty segment"));
        check("//...", Err("empty segment"));
        check("//", Err("empty segment"));
        check("/a/../b", Err("resolve"));
        check("/./...", Err("resolve"));
        check(&format!("/{}", "a".repeat(PATH_BYTES_MAX)), Err("1024"));
    }

    #[test]
    fn directories_are_absolute_and_plain() {
        for (text, expected) in [
            ("/srv/data", Some("/srv/data")),
            ("/srv/data/", Some("/srv/data")),
            ("/", Some("/")),
            ("/srv/my data", Some("/srv/my data")),
            ("srv", None),
            ("", None),
            ("/srv/../etc", None),
            ("/srv//data", None),
            ("/srv/.", None),
            ("/srv\0", None),
            ("//", None),
        ] {
            assert_eq!(directory(text).ok().as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_health_path_is_a_request_target() {
        for good in ["/healthz", "/", "/health?deep=1", "/%61"] {
            assert!(health_path(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "healthz",
            "/a b",
            "/a#b",
            "/a\r\nHost: b",
            "/ü",
            "exports",
        ] {
            assert!(health_path(bad).is_err(), "{bad}");
        }
    }
}
