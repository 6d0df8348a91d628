//! Names of components, nodes and chains: short, printable, safe in a path, a label and a URL.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names longer than this are refused: they become metric labels, file names and table cells.
pub const NAME_LENGTH_MAX: usize = 63;

/// A text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what} name: {why}")]
pub struct NameError {
    /// The text, cut to 80 characters.
    pub text: String,
    /// `component`, `node`, `secret` and the like.
    pub what: &'static str,
    /// The broken rule, as a clause.
    pub why: &'static str,
}

fn error(text: &str, what: &'static str, why: &'static str) -> NameError {
    NameError {
        text: text.chars().take(80).collect(),
        what,
        why,
    }
}

pub(crate) fn check(text: &str, what: &'static str, extra: &[char]) -> Result<(), NameError> {
    let error = |why| error(text, what, why);
    let first = text.chars().next().ok_or_else(|| error("it is empty"))?;
    if text.len() > NAME_LENGTH_MAX {
        return Err(error("it has more than 63 characters"));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(error("it must begin with a letter or a digit"));
    }
    if !text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || extra.contains(&c))
    {
        return Err(error(
            "only ASCII letters, digits, `-`, `_`, (for nodes) `.` and (before the label of a component) `@` are allowed",
        ));
    }
    Ok(())
}

/// Checks the name of a secret: letters, digits, `-`, `_` and `.`, as under `[secrets]`.
///
/// # Errors
/// The broken rule.
pub fn check_secret(text: &str) -> Result<(), NameError> {
    check(text, "secret", &['-', '_', '.'])
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        // Cheap to clone: a node of thousands of components holds each name a dozen times.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text, $what)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`{}`", self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }

        impl<C> minicbor::Encode<C> for $type {
            fn encode<W: minicbor::encode::Write>(
                &self,
                encoder: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                encoder.str(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $type {
            fn decode(
                decoder: &mut minicbor::Decoder<'b>,
                _: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                decoder
                    .str()?
                    .parse()
                    .map_err(|_| minicbor::decode::Error::message(concat!("not a ", $what, " name")))
            }
        }
    };
}

name!(
    /// A component's name: the key under `[components]`. `orders@blue` is the version `blue` of the
    /// app `orders`.
    ComponentName,
    "component",
    check_component
);
name!(
    /// A node's name: chosen at the node, bound to its key by the owner's approval.
    NodeName,
    "node",
    check_node
);

/// What stands between an app and the label of one of its versions.
const LABEL_MARK: char = '@';

fn check_component(text: &str, what: &'static str) -> Result<(), NameError> {
    check(text, what, &['-', '_', LABEL_MARK])?;
    let why = match text.split_once(LABEL_MARK) {
        Some((_, label)) if label.contains(LABEL_MARK) => "`@` may stand in it once",
        Some((_, label)) if !label.starts_with(|c: char| c.is_ascii_alphanumeric()) => {
            "after `@` comes a label that begins with a letter or a digit"
        }
        Some(_) | None => return Ok(()),
    };
    Err(error(text, what, why))
}

fn check_node(text: &str, what: &'static str) -> Result<(), NameError> {
    check(text, what, &['-', '_', '.'])
}

impl ComponentName {
    /// The app: the name without its label.
    pub fn app(&self) -> &str {
        self.parts().0
    }

    /// The label: what stands behind `@`.
    pub fn label(&self) -> Option<&str> {
        self.parts().1
    }

    /// The version `label` of this app.
    ///
    /// # Errors
    /// When that is no name.
    pub fn labelled(&self, label: &str) -> Result<Self, NameError> {
        format!("{}{LABEL_MARK}{label}", self.app()).parse()
    }

    fn parts(&self) -> (&str, Option<&str>) {
        match self.0.split_once(LABEL_MARK) {
            Some((app, label)) => (app, Some(label)),
            None => (&self.0, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["auth", "bm-01", "a_b", "0", "orders@blue", "a@0-b_c"] {
            assert!(good.parse::<ComponentName>().is_ok(), "{good}");
        }
        for bad in ["@", "@a", "a@", "a@b@c", "a@@b", "a@-b"] {
            assert!(bad.parse::<ComponentName>().is_err(), "{bad}");
        }
        assert!("a@b".parse::<NodeName>().is_err());
        for bad in ["", "-a", "a/b", "..", "ä", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<ComponentName>().is_err(), "{bad}");
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
        assert!("dev-laptop.local".parse::<NodeName>().is_ok());
        assert!("a.b".parse::<ComponentName>().is_err());
    }

    proptest! {
        #[test]
        fn a_name_is_safe_wherever_it_is_written(text in "[a-zA-Z0-9@._-]{0,70}|\\PC{0,70}") {
            let component = text.parse::<ComponentName>();
            let node = text.parse::<NodeName>();
            if let Ok(name) = &component {
                prop_assert_eq!(name.as_str(), &text);
                let is_plain = name.label().is_none();
                prop_assert!(node.is_ok() == is_plain, "without a label it is good for a node as well");
                if let Some(label) = name.label() {
                    prop_assert_eq!(&name.labelled(label), &Ok(name.clone()));
                }
            }
            if let Ok(name) = &node {
                prop_assert_eq!(name.to_string(), text.as_str());
                prop_assert!(!text.is_empty() && text.len() <= NAME_LENGTH_MAX);
                // A path, a URL, a label: none of them has to be escaped.
                prop_assert!(!text.starts_with(['.', '-', '_']));
                prop_assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)));
            }
        }
    }
}
