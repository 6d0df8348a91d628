//! Messages by topic: sent, answered, and delivered until somebody took them.

use std::time::Duration;

use super::rules::Wanted;
use super::{Answer, CloudError, limits, within};

/// A place where messages are exchanged.
///
/// What [`Messaging::send`] returned `Ok` for reaches each group that is subscribed to the topic at least
/// once, in the life of the agent and after it. A topic that no group is subscribed to keeps nothing.
/// Topics are text of parts with `.` between them; a subscription may have `*` for one part, and `>` at
/// its end for one and more.
pub trait Messaging: Send + Sync {
    /// Sends a message. With `delay` it is delivered not before that time is over.
    fn send<'a>(
        &'a self,
        topic: &'a str,
        message: Message,
        delay: Option<Duration>,
    ) -> Answer<'a, ()>;

    /// Sends a message and waits for so many replies, at least for one: those that came in time.
    /// [`super::CloudError::Timeout`] if none did.
    fn request<'a>(
        &'a self,
        topic: &'a str,
        message: Message,
        timeout: Duration,
        n_replies: u32,
    ) -> Answer<'a, Vec<Message>>;

    /// Replies to a message that asks for it: `reply_to` is what that message says.
    fn reply<'a>(&'a self, reply_to: &'a str, message: Message) -> Answer<'a, ()>;

    /// Takes part in a group that gets what is sent to a topic. The group is made with the first call.
    fn subscribe<'a>(&'a self, subscription: &'a Subscription) -> Answer<'a, Box<dyn Deliveries>>;

    /// Which groups there are to be: those that are missing are made, so that what is sent from here on
    /// waits for them though nobody takes part yet; others of this node are forgotten, with all that
    /// waits for them.
    fn keep_groups<'a>(&'a self, groups: &'a [Group]) -> Answer<'a, ()>;

    /// The newest dead letters, at most `n_max` of them, the newest first: kept here wherever else they
    /// are sent, until newer ones need their place.
    fn dead(&self, n_max: usize) -> Answer<'_, Vec<Message>>;
}

/// Those who share the messages of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// The topic, with `*` and `>`.
    pub topic: String,
    /// Its name; the same name on another topic is another group.
    pub name: String,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Where it was sent; `None` for one that is not sent yet.
    pub topic: Option<String>,
    /// MIME type.
    pub content_type: Option<String>,
    /// Its bytes, up to [`super::limits::MESSAGE_BYTES_MAX`].
    pub data: Vec<u8>,
    /// Pairs beside it; a key may be there several times.
    pub metadata: Vec<(String, String)>,
    /// Where a reply goes, if one is waited for.
    pub reply_to: Option<String>,
}

/// What a group takes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Who shares the messages: each goes to one member.
    pub group: Group,
    /// Deliveries under way at once, to this member.
    pub n_in_flight: u32,
    /// How long a member has a message without a word until it is delivered anew.
    pub ack_wait: Duration,
    /// Deliveries until a message is dead.
    pub n_deliveries: u32,
    /// Where the dead are sent as well, with why in their metadata.
    pub dead_letter: Option<String>,
    /// What of the topic it takes; `None`: everything. What it does not take is done with at once.
    pub wanted: Option<Wanted>,
}

impl Subscription {
    /// Whether it takes a message.
    pub fn takes(&self, message: &Message) -> bool {
        self.wanted
            .as_ref()
            .is_none_or(|wanted| wanted.takes(message))
    }
}

/// A member of a group: what is dropped takes no more part.
pub trait Deliveries: Send {
    /// The next message. A future that is dropped has taken none.
    fn next(&mut self) -> Answer<'_, Delivery>;
}

/// A message that is delivered.
pub struct Delivery {
    /// The message, with its topic.
    pub message: Message,
    /// The first is 1.
    pub attempt: u32,
    /// Where the member says how it went.
    pub receipt: Box<dyn Receipt>,
}

/// What a member says of a delivery. One that is dropped without a word is delivered again, at the
/// latest after `ack_wait`. A request that waits for a reply is never delivered again, whatever is said.
pub trait Receipt: Send + Sync {
    /// Done with: it is not delivered again.
    fn ack(&self) -> Answer<'_, ()>;

    /// To be delivered again after a while, or dead where it was delivered often enough: whether it is
    /// dead, with `why` for who looks at dead letters.
    fn retry<'a>(&'a self, after: Duration, why: &'a str) -> Answer<'a, bool>;

    /// Back to the queue as if it had not been delivered.
    fn give_back(&self) -> Answer<'_, ()>;

    /// Still being worked on: `ack_wait` begins anew.
    fn extend(&self) -> Answer<'_, ()>;
}

/// Metadata of a dead letter: the topic that it was sent to.
pub const DEAD_TOPIC: &str = "realm-dead-topic";
/// Metadata of a dead letter: the group in which it died.
pub const DEAD_GROUP: &str = "realm-dead-group";
/// Metadata of a dead letter: how often it was delivered.
pub const DEAD_DELIVERIES: &str = "realm-dead-deliveries";
/// Metadata of a dead letter: what the last delivery came to.
pub const DEAD_WHY: &str = "realm-dead-why";

impl Message {
    /// Whether it is a dead letter already, which is sent to no further topic when nobody deals with it
    /// either: two subscriptions that meet their own letters would make ever more of them.
    pub fn is_dead(&self) -> bool {
        self.metadata.iter().any(|(key, _)| key == DEAD_TOPIC)
    }

    /// This message as a dead letter.
    pub fn into_dead(mut self, group: &str, n_deliveries: u32, why: &str) -> Self {
        self.metadata
            .retain(|(key, _)| !key.starts_with("realm-dead-"));
        let topic = self.topic.take().unwrap_or_default();
        let pairs = [
            (DEAD_TOPIC, topic),
            (DEAD_GROUP, group.to_owned()),
            (DEAD_DELIVERIES, n_deliveries.to_string()),
            (DEAD_WHY, first_bytes(why, WHY_BYTES_MAX).to_owned()),
        ];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value));
        self.metadata.extend(pairs);
        self.reply_to = None;
        self
    }
}

/// Bytes of a reason that are kept with a dead letter.
const WHY_BYTES_MAX: usize = 1_024;

fn first_bytes(text: &str, n_max: usize) -> &str {
    let end = (0..=n_max.min(text.len())).rev();
    let end = end.into_iter().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// Checks a message before it goes anywhere.
pub fn check_message(message: &Message) -> Result<(), CloudError> {
    let pairs = message.metadata.iter();
    let bytes: usize = pairs.map(|(key, value)| key.len() + value.len()).sum();
    let content_type = message.content_type.as_ref().map_or(0, String::len);
    within("the message", message.data.len(), limits::MESSAGE_BYTES_MAX)?;
    within("the metadata", bytes, limits::METADATA_BYTES_MAX)?;
    within("the content type", content_type, limits::NAME_BYTES_MAX)?;
    if message.metadata.len() > limits::METADATA_PAIRS_MAX {
        let n_max = limits::METADATA_PAIRS_MAX;
        let words = format!("the metadata has more than {n_max} pairs");
        return Err(CloudError::Invalid(words));
    }
    let texts = message
        .metadata
        .iter()
        .flat_map(|(key, value)| [key, value]);
    if texts
        .chain(&message.content_type)
        .any(|text| text.contains(char::is_control))
    {
        let words = "the metadata has a control character".to_owned();
        return Err(CloudError::Invalid(words));
    }
    Ok(())
}

/// Checks a topic that something is sent to.
pub fn check_topic(topic: &str) -> Result<(), CloudError> {
    check(topic, false)
}

/// Checks the topic of a subscription, which may have `*` and `>`.
pub fn check_pattern(topic: &str) -> Result<(), CloudError> {
    check(topic, true)
}

fn check(topic: &str, pattern: bool) -> Result<(), CloudError> {
    within("the topic", topic.len(), limits::NAME_BYTES_MAX)?;
    let n_parts = topic.split('.').count();
    for (index, part) in topic.split('.').enumerate() {
        let wild = part == "*" || (part == ">" && index + 1 == n_parts);
        let odd = |letter: char| letter.is_whitespace() || letter.is_control();
        if part.is_empty() || part.contains(odd) {
            let words = "a topic has parts of text without spaces, with `.` between them";
            return Err(CloudError::Invalid(words.to_owned()));
        }
        if part.contains(['*', '>']) && !(pattern && wild) {
            let words = if pattern {
                "`*` stands for one part of a topic, and `>` at its end for the rest"
            } else {
                "a topic that is sent to has no `*` and no `>`"
            };
            return Err(CloudError::Invalid(words.to_owned()));
        }
    }
    Ok(())
}

/// Whether what is sent to a topic is for who subscribed to a pattern.
pub fn topic_matches(pattern: &str, topic: &str) -> bool {
    let mut parts = topic.split('.');
    for wanted in pattern.split('.') {
        let Some(part) = parts.next() else {
            return false;
        };
        if wanted == ">" {
            return true;
        }
        if wanted != "*" && wanted != part {
            return false;
        }
    }
    parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_those_of_nats_do() {
        let cases = [
            ("orders", "orders", true),
            ("orders", "orders.new", false),
            ("orders.*", "orders.new", true),
            ("orders.*", "orders", false),
            ("orders.*", "orders.new.eu", false),
            ("orders.*.eu", "orders.new.eu", true),
            ("orders.>", "orders.new.eu", true),
            ("orders.>", "orders", false),
            (">", "orders", true),
            ("*", "orders.new", false),
            ("Orders", "orders", false),
        ];
        for (pattern, topic, expected) in cases {
            assert_eq!(topic_matches(pattern, topic), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn topics_are_checked() {
        for topic in ["orders", "orders.new", "a", "größe.ß"] {
            check_topic(topic).unwrap();
            check_pattern(topic).unwrap();
        }
        for pattern in ["*", ">", "orders.*", "orders.>", "*.new.>"] {
            check_topic(pattern).unwrap_err();
            check_pattern(pattern).unwrap();
        }
        let long = "x".repeat(limits::NAME_BYTES_MAX + 1);
        for odd in [
            "", ".", "a.", ".a", "a..b", "a b", "a\n", ">.a", "a*", "a.b>", &long,
        ] {
            check_topic(odd).unwrap_err();
            check_pattern(odd).unwrap_err();
        }
    }

    #[test]
    fn messages_are_checked() {
        let message = |data: usize, pairs: usize, value: &str| Message {
            data: vec![0; data],
            metadata: vec![("key".to_owned(), value.to_owned()); pairs],
            ..Message::default()
        };
        let n = limits::METADATA_PAIRS_MAX;
        check_message(&message(limits::MESSAGE_BYTES_MAX, n, "v")).unwrap();
        check_message(&message(limits::MESSAGE_BYTES_MAX + 1, 0, "v")).unwrap_err();
        check_message(&message(0, n + 1, "v")).unwrap_err();
        check_message(&message(0, 9, &"v".repeat(1_000))).unwrap_err();
        check_message(&message(0, 1, "a\r\nb: c")).unwrap_err();
    }

    #[test]
    fn a_dead_letter_says_why() {
        let message = Message {
            topic: Some("orders".to_owned()),
            data: b"7".to_vec(),
            metadata: vec![("a".to_owned(), "b".to_owned())],
            reply_to: Some("inbox".to_owned()),
            ..Message::default()
        };
        let once = message.into_dead("workers", 3, &"é".repeat(2_000));
        let twice = Message {
            topic: Some("dead".to_owned()),
            ..once
        };
        assert!(twice.is_dead() && !Message::default().is_dead());
        let twice = twice.into_dead("people", 1, "no");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected = [
            pair("a", "b"),
            pair(DEAD_TOPIC, "dead"),
            pair(DEAD_GROUP, "people"),
            pair(DEAD_DELIVERIES, "1"),
            pair(DEAD_WHY, "no"),
        ];
        assert_eq!(twice.metadata, expected);
        assert_eq!((twice.topic, twice.reply_to), (None, None));
    }
}
