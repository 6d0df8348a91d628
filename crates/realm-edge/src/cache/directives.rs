//! `Cache-Control` (RFC 9111 §5.2, RFC 5861), read so that what is unclear keeps an answer out of the
//! cache. Not what follows from it: that is `policy`.

use http::HeaderMap;
use http::header::CACHE_CONTROL;

/// Longer than anything that is meant: 2³¹ seconds (RFC 9111 §1.2.2).
const SECONDS_MAX: u64 = 1 << 31;

/// What a response says of its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Directives {
    /// `no-store` or `private`, or words that are no `Cache-Control`.
    pub(super) is_kept_out: bool,
    pub(super) no_cache: bool,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    /// Seconds; a value that is none, or a second one that differs, is 0.
    pub(super) max_age: Option<u64>,
    pub(super) s_maxage: Option<u64>,
    pub(super) stale_while_revalidate: Option<u64>,
    pub(super) stale_if_error: Option<u64>,
}

impl Directives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut read = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            let mut rest = line.as_bytes();
            loop {
                match directive(rest) {
                    Some((name, value, after)) => {
                        read.take(&name, value.as_deref());
                        rest = after;
                    }
                    None => {
                        read.is_kept_out = true;
                        break;
                    }
                }
                match rest.split_first() {
                    Some((b',', after)) => rest = after,
                    Some(_) => {
                        read.is_kept_out = true;
                        break;
                    }
                    None => break,
                }
            }
        }
        read
    }

    fn take(&mut self, name: &str, value: Option<&[u8]>) {
        let seconds = |slot: &mut Option<u64>| {
            let read = value.and_then(seconds).unwrap_or(0);
            *slot = Some(match *slot {
                Some(known) if known != read => 0,
                Some(_) | None => read,
            });
        };
        match name {
            // With names of headers they keep out these alone (RFC 9111 §5.2.2.7); all of it is simpler.
            "no-store" | "private" => self.is_kept_out = true,
            "no-cache" => self.no_cache = true,
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "max-age" => seconds(&mut self.max_age),
            "s-maxage" => seconds(&mut self.s_maxage),
            "stale-while-revalidate" => seconds(&mut self.stale_while_revalidate),
            "stale-if-error" => seconds(&mut self.stale_if_error),
            _ => {}
        }
    }
}

/// A name, a value, and what follows them.
type Read<'t> = (String, Option<Vec<u8>>, &'t [u8]);

/// The first directive: its name in lower case, its value without quotes, and what follows. An empty one
/// has no name.
fn directive(text: &[u8]) -> Option<Read<'_>> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(|byte| !is_token(*byte));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let name = String::from_utf8(name.to_ascii_lowercase()).ok()?;
    let Some(rest) = rest.strip_prefix(b"=") else {
        return Some((name, None, rest.trim_ascii_start()));
    };
    if name.is_empty() {
        return None;
    }
    let Some(quoted) = rest.strip_prefix(b"\"") else {
        let end = rest.iter().position(|byte| !is_token(*byte));
        let (value, rest) = rest.split_at(end.unwrap_or(rest.len()));
        return Some((name, Some(value.to_vec()), rest.trim_ascii_start()));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((name, Some(value), quoted[at + 1..].trim_ascii_start())),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(*byte),
        }
    }
    None
}

fn seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    // More digits than fit are a long time.
    Some(text.parse().unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

/// RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[&[u8]]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line).unwrap();
            headers.append(CACHE_CONTROL, line);
        }
        Directives::of(&headers)
    }

    fn max_age(line: &str) -> Option<u64> {
        of(&[line.as_bytes()]).max_age
    }

    #[test]
    fn directives_are_read_whatever_their_case_quotes_and_lines() {
        let read = of(&[b"PUBLIC, Max-Age=\"60\" ,, s-maxage=5", b"Must-Revalidate"]);
        let expected = Directives {
            public: true,
            must_revalidate: true,
            max_age: Some(60),
            s_maxage: Some(5),
            ..Directives::default()
        };
        assert_eq!(read, expected);
        let read = of(&[b"stale-while-revalidate=1, stale-if-error=2, no-cache"]);
        assert_eq!(read.stale_while_revalidate, Some(1));
        assert_eq!(read.stale_if_error, Some(2));
        assert!(read.no_cache && !read.is_kept_out);
    }

    #[test]
    fn a_number_that_is_none_is_no_time() {
        assert_eq!(max_age("max-age=60"), Some(60));
        assert_eq!(max_age("max-age"), Some(0));
        assert_eq!(max_age("max-age="), Some(0));
        assert_eq!(max_age("max-age=-1"), Some(0));
        assert_eq!(max_age("max-age=1.5"), Some(0));
        assert_eq!(max_age("max-age=60, max-age=60"), Some(60));
        assert_eq!(max_age("max-age=60, max-age=61"), Some(0));
        assert_eq!(
            max_age("max-age=99999999999999999999999"),
            Some(SECONDS_MAX)
        );
        assert_eq!(max_age("x-max-age=60"), None);
    }

    #[test]
    fn what_says_that_it_is_for_one_alone_is_kept_out_however_it_says_so() {
        for line in [
            "no-store",
            "No-Store",
            "max-age=60, Private",
            "private=\"set-cookie, x\", max-age=60",
            "x=\"a, max-age=1",
            "max-age=60; private",
            "=1",
            "max-age=60 private",
            "max-age=60, \u{e4}",
        ] {
            assert!(of(&[line.as_bytes()]).is_kept_out, "{line}");
        }
        assert!(of(&[b"max-age=60", b"no-store"]).is_kept_out);
        // Within quotes it says nothing.
        assert!(!of(&[b"x=\"no-store, private\", max-age=60"]).is_kept_out);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(lines in prop::collection::vec("[ -~\\x80-\\xff]{0,40}", 0..3)) {
            let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
            let _ = of(&lines);
        }

        /// Whatever stands around it, in words that are `Cache-Control`.
        #[test]
        fn no_store_is_never_overlooked(
            before in prop::collection::vec("[a-z-]{1,8}(=[0-9a-z]{0,3}|=\"[ -!#-\\[\\]-~]{0,5}\")?", 0..3),
            word in "[nN][oO]-[sS][tT][oO][rR][eE]", space in "[ \t]{0,2}",
        ) {
            let mut all = before;
            all.push(format!("{space}{word}{space}"));
            all.push("max-age=60".to_owned());
            prop_assert!(of(&[all.join(",").as_bytes()]).is_kept_out);
        }
    }
}
