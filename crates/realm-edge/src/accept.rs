//! What a client would rather read: JSON or plain text (RFC 9110 §12.5.1), as far as a refusal
//! needs it. Not content negotiation for guests: they see `Accept` as it was sent.

use http::HeaderValue;

/// Whether `Accept` rates JSON above plain text. `*/*` rates both alike, so people get text.
pub(crate) fn prefers_json(accept: &HeaderValue) -> bool {
    let (mut json, mut text) = (0, 0);
    for item in accept.to_str().unwrap_or_default().split(',') {
        let mut parts = item.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")))
            .map_or(1000, thousandths);
        match kind.as_str() {
            "application/json" | "application/*" => json = json.max(weight),
            "text/plain" | "text/*" | "text/html" => text = text.max(weight),
            _ => {}
        }
    }
    json > text
}

/// `0.8` as 800; what is no weight as 0 (RFC 9110 §12.4.2).
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_weight = matches!(whole, "0" | "1")
        && fraction.len() <= 3
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !is_weight {
        return 0;
    }
    let weight: u32 = format!("{whole}{fraction:0<3}").parse().unwrap_or(0);
    weight.min(1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(accept: &str, expected: bool) {
        let value = HeaderValue::from_str(accept).expect("a header value");
        assert_eq!(prefers_json(&value), expected, "{accept}");
    }

    #[test]
    fn json_is_for_who_asks_for_it() {
        check("application/json", true);
        check("Application/JSON;q=0.5, text/plain;q=0.4", true);
        check("application/json; charset=utf-8 ; q=0.1", true);
        check("application/*", true);
        check("*/*", false);
        check("", false);
        check(
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            false,
        );
        check("application/json;q=0.5, text/plain", false);
        check("application/json, text/plain", false);
        check("application/json;q=0", false);
        check("application/json;q=1.1", true);
        check("application/json;q=0.1234", false);
        check("application/json;q=2", false);
    }

    proptest! {
        #[test]
        fn any_value_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = prefers_json(&value);
            }
        }
    }
}
