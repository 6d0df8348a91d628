//! Servers that are asked over HTTP: as whom, when again, and what is told of an error.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

/// Headers that a secret may name.
const HEADERS_MAX: usize = 16;
/// A longer pause than this is as good as none known.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// A secret is no list of headers. What is in it is not told.
#[derive(Debug, thiserror::Error)]
#[error("the secret is neither `NAME=VALUE,..` nor the value of an `authorization` header")]
pub struct NotHeaders;

/// What a secret is that names no header.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Alone {
    /// The value of `authorization`.
    Value,
    /// A key, which stands behind `Bearer`, unless the secret says what it stands behind.
    Key,
}

/// The headers that a secret says: `NAME=VALUE`, with commas between several, as
/// `OTEL_EXPORTER_OTLP_HEADERS` has them; or one value alone.
pub(crate) fn headers(text: &str, alone: Alone) -> Result<HeaderMap, NotHeaders> {
    let text = text.trim();
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| -> Result<(), NotHeaders> {
        let name: HeaderName = name.parse().map_err(|_| NotHeaders)?;
        let mut value: HeaderValue = value.parse().map_err(|_| NotHeaders)?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    };
    let is_name = |name: &str| name.trim().parse::<HeaderName>().is_ok();
    let listed = text
        .split_once('=')
        .is_some_and(|(name, value)| is_name(name) && !value.trim_matches('=').is_empty());
    if !listed {
        match alone {
            Alone::Key if !text.contains(' ') => add("authorization", &format!("Bearer {text}"))?,
            Alone::Key | Alone::Value => add("authorization", text)?,
        }
        return Ok(headers);
    }
    for pair in text.split(',').take(HEADERS_MAX) {
        let (name, value) = pair.split_once('=').ok_or(NotHeaders)?;
        let value = percent_encoding::percent_decode_str(value.trim());
        let value = value.decode_utf8().map_err(|_| NotHeaders)?;
        add(name.trim(), &value)?;
    }
    Ok(headers)
}

/// How long a server wants to be left alone, where it says so in seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Whether a connection ended before anything of the answer came.
pub(crate) fn is_hung_up(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let ended = error.downcast_ref::<hyper::Error>();
        if ended.is_some_and(hyper::Error::is_incomplete_message) {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{BrokenPipe, ConnectionReset};
            return matches!(error.kind(), ConnectionReset | BrokenPipe);
        }
        cause = error.source();
    }
    false
}

/// An error with what is behind it, without headers: none of it has them.
pub(crate) fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(secret: &str, alone: Alone, expected: Option<&[(&str, &str)]>) {
        let read = headers(secret, alone).ok().map(|headers| {
            let pair = |(name, value): (&HeaderName, &HeaderValue)| {
                assert!(value.is_sensitive());
                (name.to_string(), value.to_str().unwrap().to_owned())
            };
            headers.iter().map(pair).collect::<Vec<_>>()
        });
        let expected = expected.map(|expected| {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            expected.iter().map(pair).collect::<Vec<_>>()
        });
        assert_eq!(read, expected, "{secret}");
    }

    #[test]
    fn a_secret_is_headers_or_the_value_of_one() {
        use Alone::Value;
        check(
            "Bearer abc",
            Value,
            Some(&[("authorization", "Bearer abc")]),
        );
        check(
            "Basic dTpw\n",
            Value,
            Some(&[("authorization", "Basic dTpw")]),
        );
        check(
            "Basic dTpwYQ==",
            Value,
            Some(&[("authorization", "Basic dTpwYQ==")]),
        );
        check("dTpwYQ==", Value, Some(&[("authorization", "dTpwYQ==")]));
        check(
            "api-key=k%20v,x-team=a=b",
            Value,
            Some(&[("api-key", "k v"), ("x-team", "a=b")]),
        );
        check("api-key=a,nothing", Value, None);
        check("api-key=a%0Ab", Value, None);
        check("api-key=a%ff", Value, None);
        check("Bearer a\nb", Value, None);
    }

    #[test]
    fn a_key_alone_stands_behind_bearer() {
        use Alone::Key;
        check("sk-abc\n", Key, Some(&[("authorization", "Bearer sk-abc")]));
        check("dTpw==", Key, Some(&[("authorization", "Bearer dTpw==")]));
        check("Basic dTpw", Key, Some(&[("authorization", "Basic dTpw")]));
        check("api-key=abc", Key, Some(&[("api-key", "abc")]));
        check("a\nb", Key, None);
    }

    #[test]
    fn a_pause_is_seconds_and_an_hour_at_most() {
        let check = |value: &str, expected| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            let expected = Option::map(expected, Duration::from_secs);
            assert_eq!(retry_after(&headers), expected, "{value}");
        };
        check("7", Some(7));
        check("0", Some(0));
        check("999999999999", Some(3_600));
        check("-1", None);
        check("Sun, 06 Nov 1994 08:49:37 GMT", None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
