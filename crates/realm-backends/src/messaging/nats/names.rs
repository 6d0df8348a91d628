//! How topics and groups are called on the server.
//!
//! A binding's messages are at `PREFIX.TOPIC`, its requests at `PREFIX=request.TOPIC`, its dead letters
//! at `PREFIX=dead.letters`, what is to be sent later at `PREFIX=later.TOPIC`. Two prefixes never meet:
//! they are spelled as [`spelled`] does it, and have no empty parts.

use std::fmt::Write as _;

use realm_model::cloud::Group;
use sha2::{Digest, Sha256};

use crate::nats::spelled;

/// Letters of a group's name that are seen in that of its consumer.
const GROUP_LETTERS: usize = 32;

/// The names of one binding.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// `None`: no subject begins with this prefix, as it is empty or a dot is at an end or beside another.
    pub(super) fn new(prefix: &str) -> Option<Self> {
        if prefix.split('.').any(str::is_empty) {
            return None;
        }
        let prefix = spelled(prefix, true);
        Some(Self { prefix })
    }

    pub(super) fn subject(&self, topic: &str) -> String {
        format!("{}.{topic}", self.prefix)
    }

    pub(super) fn topic<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&self.prefix)?.strip_prefix('.')
    }

    pub(super) fn request(&self, topic: &str) -> String {
        format!("{}=request.{topic}", self.prefix)
    }

    pub(super) fn request_topic<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject
            .strip_prefix(&self.prefix)?
            .strip_prefix("=request.")
    }

    pub(super) fn dead(&self) -> String {
        format!("{}=dead.letters", self.prefix)
    }

    pub(super) fn later(&self, topic: &str) -> String {
        format!("{}=later.{topic}", self.prefix)
    }

    pub(super) fn later_topic<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&self.prefix)?.strip_prefix("=later.")
    }

    /// The name of a stream: of the messages (``), the dead letters (`=dead`), the later ones (`=later`). It
    /// has no dots.
    pub(super) fn stream(&self, which: &str) -> String {
        format!("{}{which}", self.prefix.replace('.', "=2E"))
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// The name of a group's consumer: readable, and another one for each topic and name.
pub(super) fn consumer(group: &Group) -> String {
    let fits = |letter: &char| letter.is_ascii_alphanumeric() || "-_".contains(*letter);
    let mut name: String = group
        .name
        .chars()
        .filter(fits)
        .take(GROUP_LETTERS)
        .collect();
    let digest = Sha256::digest(format!("{}\n{}", group.topic, group.name));
    name.push('-');
    for byte in &digest[..8] {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_become_parts_of_subjects() {
        let cases = [
            ("shop", Some("shop")),
            ("shop:", Some("shop=3A")),
            ("shop.eu", Some("shop.eu")),
            ("team~shop_1", Some("team~shop_1")),
            ("a>*b=c", Some("a=3E=2Ab=3Dc")),
            ("", None),
            (".a", None),
            ("a..b", None),
            ("a.", None),
        ];
        for (prefix, expected) in cases {
            let names = Names::new(prefix);
            assert_eq!(names.as_ref().map(Names::prefix), expected, "{prefix}");
        }
    }

    #[test]
    fn no_two_prefixes_meet() {
        let prefixes = [
            "shop",
            "shop.orders",
            "shop_orders",
            "shop~orders",
            "shop/orders",
            "shop:orders",
            "shop-dead",
            "shop=3Aorders",
            "shop=dead",
            "shop-later",
        ];
        let all = prefixes.map(|prefix| Names::new(prefix).unwrap());
        let mut streams = std::collections::BTreeSet::new();
        for names in &all {
            for which in ["", "=dead", "=later"] {
                let name = names.stream(which);
                assert!(!name.contains(['.', '*', '>', ' ', '/']), "{name}");
                assert!(streams.insert(name.clone()), "{name}");
            }
        }
    }

    #[test]
    fn consumers_of_different_groups_differ() {
        let of = |topic: &str, name: &str| {
            consumer(&Group {
                topic: topic.to_owned(),
                name: name.to_owned(),
            })
        };
        assert_eq!(of("orders", "w"), of("orders", "w"));
        assert_ne!(of("orders", "w"), of("orders.>", "w"));
        assert_ne!(of("orders", "ä"), of("orders", "ö"));
        assert!(of("a", "w.*> x").starts_with("wx-"));
    }
}
