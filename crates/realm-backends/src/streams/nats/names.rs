//! How streams and positions are called on the server.
//!
//! Letters, digits, `-`, `_` and `~` stand for themselves, everything else, dots too, as its bytes, `=2F`, in
//! capitals; so what stands between the parts, `=stream=`, is in none of them.

use realm_model::cloud::CloudError;
use realm_model::cloud::streams::Place;

use crate::nats::spelled;

/// What the server takes for the name of a stream.
const STREAM_BYTES_MAX: usize = 255;

/// The names of one binding.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// `None`: nothing would stand before the names.
    pub(super) fn new(prefix: &str) -> Option<Self> {
        let prefix = spelled(prefix, false);
        (!prefix.is_empty()).then_some(Self { prefix })
    }

    /// The name of a stream.
    pub(super) fn stream(&self, at: Place<'_>) -> Result<String, CloudError> {
        let parts = parts(at).join("=in=");
        let name = format!("{}=stream={parts}", self.prefix);
        if name.len() > STREAM_BYTES_MAX {
            let words = "the name of the stream is too long here".to_owned();
            return Err(CloudError::Invalid(words));
        }
        Ok(name)
    }

    /// Where its records are sent.
    pub(super) fn subject(&self, at: Place<'_>) -> String {
        format!("{}=stream.{}", self.prefix, parts(at).join("."))
    }

    /// The name of the stream of positions.
    pub(super) fn positions(&self) -> String {
        format!("{}=positions", self.prefix)
    }

    /// Where the position of a consumer is sent; with `*` those of all.
    pub(super) fn position(&self, at: Place<'_>, consumer: &str) -> String {
        let consumer = match consumer {
            "*" | ">" => consumer.to_owned(),
            name => spelled(name, false),
        };
        format!(
            "{}=position.{}.{consumer}",
            self.prefix,
            parts(at).join(".")
        )
    }

    /// Where those of all streams are sent.
    pub(super) fn all_positions(&self) -> String {
        format!("{}=position.>", self.prefix)
    }
}

fn parts(at: Place<'_>) -> Vec<String> {
    let parts = [at.part, at.name].into_iter();
    let parts = parts.filter(|part| !part.is_empty());
    parts.map(|part| spelled(part, false)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at<'a>(part: &'a str, name: &'a str) -> Place<'a> {
        Place { part, name }
    }

    #[test]
    fn names_are_what_other_programs_expect() {
        let names = Names::new("shop.eu").unwrap();
        let orders = at("", "orders.new");
        assert_eq!(
            names.stream(orders).unwrap(),
            "shop=2Eeu=stream=orders=2Enew"
        );
        assert_eq!(names.subject(orders), "shop=2Eeu=stream.orders=2Enew");
        let part = at("a/b", "x");
        assert_eq!(names.stream(part).unwrap(), "shop=2Eeu=stream=a=2Fb=in=x");
        assert_eq!(names.subject(part), "shop=2Eeu=stream.a=2Fb.x");
        assert_eq!(
            names.position(part, "c.1"),
            "shop=2Eeu=position.a=2Fb.x.c=2E1"
        );
        assert!(Names::new("").is_none());
        let long = "x".repeat(250);
        names.stream(at(&long, "x")).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_two_streams_meet(
            places in prop::collection::btree_set(("[a=.:~E2in]{0,4}", "[a=.~E2in]{1,4}"), 1..30),
        ) {
            let (mut streams, mut subjects) = (BTreeMap::new(), BTreeMap::new());
            for prefix in ["p", "p.a", "p=stream", "p=in=a", "pa", "p~a"] {
                let names = Names::new(prefix).unwrap();
                for (part, name) in &places {
                    let place = at(part, name);
                    let stream = names.stream(place).unwrap();
                    prop_assert!(!stream.contains(['.', '*', '>', ' ', '/']), "{}", stream);
                    prop_assert_eq!(streams.insert(stream, (prefix, place)), None);
                    let subject = names.subject(place);
                    prop_assert!(!subject.contains(".."), "{}", subject);
                    prop_assert_eq!(subjects.insert(subject, (prefix, place)), None);
                    let position = names.position(place, "a");
                    prop_assert_eq!(subjects.insert(position, (prefix, place)), None);
                }
            }
        }
    }
}
