//! A message as NATS carries it: its metadata are headers.
//!
//! A pair that can be a header is one, so that other clients read it. What cannot, or what the server
//! would take for its own, is written into [`PAIR`], percent-encoded.

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use realm_model::cloud::{Message, limits};

const CONTENT_TYPE: &str = "Content-Type";
/// `=TYPE`, percent-encoded: a content type that can be no header.
const TYPE: &str = "Realm-Type";
/// `KEY=VALUE`, percent-encoded.
const PAIR: &str = "Realm-Pair";
/// Milliseconds that a request waits for replies.
pub(super) const TIMEOUT: &str = "Realm-Timeout-Ms";
/// Milliseconds since 1970 at which a message is to be sent.
pub(super) const DUE: &str = "Realm-Due-Ms";
/// Room for what is said of a message when it is sent, and not yet while it waits for that.
pub(super) const SPARE: &str = "Realm-Spare";
pub(super) const SPARE_BYTES: usize = 64;
/// What the server itself says of a message of a device: the quality of service that it was sent with.
/// Who subscribed over MQTT with more than 0 gets what says `1` from the server's store for devices, and
/// not from here as well.
pub(super) const MQTT: &str = "Nmqtt-Pub";
pub(super) const AT_LEAST_ONCE: &str = "1";

/// Whether the server does something because of a header, or says something with it.
pub(super) fn is_of_server(key: &str) -> bool {
    key.get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
}

/// What the server or this module reads for itself.
fn is_reserved(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.starts_with("nats-")
        || key.starts_with("nmqtt-")
        || key.starts_with("realm-")
        || key == "content-type"
        || key == "status"
}

pub(crate) fn write(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(value) = &message.content_type {
        if let (true, Ok(value)) = (fits(value), value.parse::<HeaderValue>()) {
            headers.insert(CONTENT_TYPE, value);
        } else {
            headers.insert(TYPE, encoded("", value));
        }
    }
    for (key, value) in &message.metadata {
        let name = key.parse::<HeaderName>().ok();
        // Of one key all are headers, or none is: values keep their order.
        let of_key = message.metadata.iter().filter(|(other, _)| other == key);
        let all_fit = of_key
            .map(|(_, value)| value)
            .all(|value| fits(value) && value.parse::<HeaderValue>().is_ok());
        let name = name.filter(|_| !key.is_empty() && !is_reserved(key) && all_fit);
        // The names of dead letters are for every reader.
        let is_dead = all_fit && key.starts_with("realm-dead-");
        let name = name.or_else(|| is_dead.then(|| key.parse().ok())?);
        match (name, value.parse::<HeaderValue>()) {
            (Some(name), Ok(value)) => headers.append(name, value),
            (Some(_) | None, _) => headers.append(PAIR, encoded(key, value)),
        }
    }
    headers
}

/// Whether the other end reads the same value.
fn fits(value: &str) -> bool {
    !value.is_empty() && value.trim() == value && !value.contains(char::is_control)
}

fn encoded(key: &str, value: &str) -> String {
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    format!("{}={}", encode(key), encode(value))
}

/// What a message says, wherever it comes from: pairs beyond the caps are left out.
pub(crate) fn read(topic: &str, headers: Option<&HeaderMap>, data: &[u8]) -> Message {
    let mut message = Message {
        topic: Some(topic.to_owned()),
        data: data.to_vec(),
        ..Message::default()
    };
    let mut n_bytes = 0;
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        for value in values {
            let value = value.as_str();
            // Twice the cap: a dead letter has pairs of the house beside its own.
            n_bytes += name.len() + value.len();
            if n_bytes > 4 * limits::METADATA_BYTES_MAX
                || message.metadata.len() >= 2 * limits::METADATA_PAIRS_MAX
            {
                break;
            }
            if name.eq_ignore_ascii_case(CONTENT_TYPE) {
                message.content_type = Some(value.to_owned());
            } else if name == TYPE {
                message.content_type = pair(value).map(|(_, value)| value);
            } else if name == PAIR {
                message.metadata.extend(pair(value));
            } else if name.starts_with("realm-dead-") || !is_reserved(name) {
                message.metadata.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    // Headers have no order among names.
    message.metadata.sort_by(|one, other| one.0.cmp(&other.0));
    message
}

fn pair(text: &str) -> Option<(String, String)> {
    let decode = |text| percent_decode_str(text).decode_utf8().ok();
    let (key, value) = text.split_once('=')?;
    Some((decode(key)?.into_owned(), decode(value)?.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_key_travel_together_and_keep_their_order() {
        let pairs = [
            ("kind", "e"),
            ("kind", " b "),
            ("kind", "c"),
            ("plain", "d"),
        ];
        let message = Message {
            metadata: pairs
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .to_vec(),
            ..Message::default()
        };
        let headers = write(&message);
        assert!(headers.get("kind").is_none());
        assert_eq!(headers.get("plain").map(HeaderValue::as_str), Some("d"));
        assert_eq!(read("a", Some(&headers), b"").metadata, message.metadata);
    }
}
