//! To whom secrets are sealed: what a node says of its sealing key, and what a sealed secret says of
//! itself without being opened. Not here: any cryptography but the node's signature; sealing and opening
//! are `realm-node`'s.
//!
//! A sealed secret is an [age](https://age-encryption.org/v1) file for X25519 recipients. Such recipients
//! leave no trace in the file, so realm adds a stanza of its own, which every reader of age files passes
//! over and which the file's key authenticates: the namespace and the name it was sealed under, a number
//! that stays while the value stays, and a short mark for each recipient. Format: docs/formats.md.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::entry::{NamespaceName, RealmId};
use crate::key::{PublicKey, SecretKey, Signature};
use crate::wire::authenticated;

/// What a sealed secret begins with in a manifest.
pub const PREFIX: &str = "age-encrypted:";

/// Bytes of a secret: a private key with its chain of certificates has a few thousand.
pub const SECRET_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a sealed secret as text: the largest one, sealed to a thousand nodes.
pub const SEALED_BYTES_MAX: usize = 256 * 1024;

/// Recipients of one secret: the nodes of a large realm, and some owners.
pub const RECIPIENTS_MAX: usize = 1_200;

/// Characters of a recipient: bech32 of an X25519 key, with `age` before it.
const RECIPIENT_CHARS: usize = 62;

/// The type of realm's own stanza.
pub const STANZA: &str = "realm-secret";

/// The first line of every age file.
const AGE: &str = "age-encryption.org/v1";

/// Characters of a full line of a stanza's body.
const BODY_LINE: usize = 64;

const DOMAIN: &[u8] = b"realm.sealing.v1";

/// A node's own word on its sealing key, signed with the key that its owner approved: whoever passes it
/// on cannot put another one in its place.
#[derive(Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Sealing {
    /// The public half, as age writes it: `age1…`.
    #[n(0)]
    pub recipient: String,
    /// The node's signature over the realm, the node and the recipient.
    #[n(1)]
    #[serde(with = "signature")]
    signature: Signature,
}

impl Sealing {
    /// Signs which key secrets for this node are sealed to.
    pub fn sign(realm: RealmId, node: &SecretKey, recipient: String) -> Self {
        let signature = node.sign(&message(realm, node.public(), &recipient));
        Self {
            recipient,
            signature,
        }
    }

    /// The recipient, if `node` itself said so in this realm.
    pub fn verified(&self, realm: RealmId, node: PublicKey) -> Option<&str> {
        let message = message(realm, node, &self.recipient);
        (is_recipient(&self.recipient) && node.verifies(&message, &self.signature))
            .then_some(&*self.recipient)
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealing({})", self.recipient)
    }
}

/// Whether a text has the form of an age recipient; whether it is one, its checksum says.
fn is_recipient(text: &str) -> bool {
    text.len() == RECIPIENT_CHARS
        && text.strip_prefix("age1").is_some_and(|rest| {
            rest.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        })
}

fn message(realm: RealmId, node: PublicKey, recipient: &str) -> Vec<u8> {
    authenticated(&[
        DOMAIN,
        realm.digest().as_bytes(),
        node.as_bytes(),
        recipient.as_bytes(),
    ])
}

/// What stands for a recipient in a sealed secret: enough to tell a realm's nodes apart, and no way to
/// seal to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark([u8; Mark::BYTES]);

impl Mark {
    const BYTES: usize = 8;

    /// The mark of a recipient.
    pub fn of(recipient: &str) -> Self {
        let digest = Digest::of(&authenticated(&[
            b"realm.sealing.mark.v1",
            recipient.as_bytes(),
        ]));
        Self(std::array::from_fn(|at| digest.as_bytes()[at]))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A random number that a value keeps for as long as it is the same one, whoever it is sealed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueId(pub [u8; ValueId::BYTES]);

impl ValueId {
    /// Its bytes.
    pub const BYTES: usize = 16;
}

/// What a sealed secret says of itself. Only who opens it knows that it is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The namespace whose manifest it was sealed for: who copies it into another one opens nothing.
    pub namespace: NamespaceName,
    /// The name that it was sealed under.
    pub name: String,
    /// The number of its value.
    pub value: ValueId,
    /// To whom it is sealed.
    pub marks: Vec<Mark>,
}

impl Label {
    /// The arguments of the stanza.
    pub fn arguments(&self) -> Vec<String> {
        let namespace = self.namespace.as_str().to_owned();
        vec!["1".to_owned(), namespace, self.name.clone()]
    }

    /// The body of the stanza.
    pub fn body(&self) -> Vec<u8> {
        let marks = self.marks.iter().flat_map(|mark| mark.0);
        self.value.0.into_iter().chain(marks).collect()
    }

    /// The stanza as it stands in a file.
    pub fn stanza(&self) -> String {
        let mut text = format!("-> {STANZA} {}\n", self.arguments().join(" "));
        let body = STANDARD_NO_PAD.encode(self.body());
        let mut rest = body.as_str();
        while let Some((line, after)) = rest.split_at_checked(BODY_LINE) {
            text += &format!("{line}\n");
            rest = after;
        }
        text += &format!("{rest}\n");
        text
    }

    /// Reads the label of a sealed secret as a manifest has it; `None`: it has none that this version
    /// reads, as one that was made with another tool.
    pub fn of(text: &str) -> Option<Self> {
        Self::read(&bytes(text)?)
    }

    /// Reads the label of the bytes of an age file.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes
            .split(|byte| *byte == b'\n')
            .map_while(|line| str::from_utf8(line).ok());
        if lines.next()? != AGE {
            return None;
        }
        let mut found = None;
        // The lines of the header: after it come bytes of no form.
        while let Some(line) = lines.next().filter(|line| !line.starts_with("---")) {
            let Some(stanza) = line.strip_prefix("-> ") else {
                continue;
            };
            let mut words = stanza.split(' ');
            if words.next() != Some(STANZA) {
                continue;
            }
            let (Some("1"), Some(namespace), Some(name), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return None;
            };
            // It is shown: one word that a terminal takes as it is, as age has it.
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return None;
            }
            let body = body(&mut lines)?;
            let (value, marks) = body.split_at_checked(ValueId::BYTES)?;
            let marks = marks.chunks(Mark::BYTES).map(|mark| mark.try_into());
            let label = Self {
                namespace: namespace.parse().ok()?,
                name: name.to_owned(),
                value: ValueId(value.try_into().ok()?),
                marks: marks
                    .map(|mark| mark.map(Mark))
                    .collect::<Result<_, _>>()
                    .ok()?,
            };
            // Two of them would let two readers see different things.
            if label.marks.len() > RECIPIENTS_MAX || found.replace(label).is_some() {
                return None;
            }
        }
        found
    }
}

/// The lines of a stanza's body: full ones, and a last one that is shorter.
fn body<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Option<Vec<u8>> {
    let mut text = String::new();
    loop {
        let line = lines.next()?;
        text.push_str(line);
        if line.len() > BODY_LINE || text.len() > SEALED_BYTES_MAX {
            return None;
        }
        if line.len() < BODY_LINE {
            return STANDARD_NO_PAD.decode(text).ok();
        }
    }
}

/// A sealed secret as a manifest has it; cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Arc<Parts>);

#[derive(PartialEq, Eq)]
struct Parts {
    namespace: NamespaceName,
    text: String,
    digest: Digest,
    value: Digest,
}

impl Sealed {
    /// Takes the text of a manifest of this namespace, under this name.
    pub fn new(namespace: NamespaceName, name: &str, text: String) -> Self {
        let place = [namespace.as_str(), name, &text].map(str::as_bytes);
        Self(Arc::new(Parts {
            namespace,
            digest: Digest::of(&authenticated(&place)),
            value: value_digest(&text),
            text,
        }))
    }

    /// The same text, in the manifest of another namespace.
    #[must_use]
    pub fn within(&self, namespace: NamespaceName, name: &str) -> Self {
        Self::new(namespace, name, self.0.text.clone())
    }

    /// Whose manifest has it.
    pub fn namespace(&self) -> NamespaceName {
        self.0.namespace
    }

    /// The text, with [`PREFIX`].
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The digest of namespace, name and text: to whom a value is sealed counts as well.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// What a change of the value is told by: see [`value_digest`].
    pub fn value(&self) -> Digest {
        self.0.value
    }

    /// What it says of itself.
    pub fn label(&self) -> Option<Label> {
        Label::of(self.text())
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({})", self.0.digest.short())
    }
}

impl Serialize for Sealed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

/// The bytes of a sealed secret, from its text in a manifest.
pub fn bytes(text: &str) -> Option<Vec<u8>> {
    let base64 = text.strip_prefix(PREFIX)?;
    if text.len() > SEALED_BYTES_MAX {
        return None;
    }
    let url_safe = || URL_SAFE_NO_PAD.decode(base64.trim_end_matches('='));
    STANDARD.decode(base64).or_else(|_| url_safe()).ok()
}

/// The text of a sealed secret in a manifest.
pub fn text(bytes: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(bytes))
}

/// What a change of a secret is told by: the number of its value, so that sealing it to other nodes
/// restarts nothing; of one without a label its bytes.
pub fn value_digest(text: &str) -> Digest {
    match Label::of(text) {
        Some(label) => Digest::of(&authenticated(&[
            b"realm.secret.value.v1",
            label.name.as_bytes(),
            &label.value.0,
        ])),
        None => Digest::of(text.as_bytes()),
    }
}

mod signature {
    //! A signature in JSON: base64.

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::key::Signature;

    pub(super) fn serialize<S: Serializer>(of: &Signature, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(of.as_bytes()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Signature, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        let bytes: [u8; 64] = bytes
            .try_into()
            .map_err(|_| serde::de::Error::custom("a signature has 64 bytes"))?;
        Ok(Signature::from_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECIPIENT: &str = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";

    fn realm(of: &[u8]) -> RealmId {
        RealmId::new(Digest::of(of))
    }

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn label(name: &str, recipients: usize) -> Label {
        let marks = (0..recipients).map(|number| Mark::of(&number.to_string()));
        Label {
            namespace: NamespaceName::DEFAULT,
            name: name.to_owned(),
            value: ValueId([7; 16]),
            marks: marks.collect(),
        }
    }

    const X25519: &str = "-> X25519 c2hhcmU\nAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\n";

    /// A file with these stanzas.
    fn file(stanzas: &[String]) -> Vec<u8> {
        let text = format!("{AGE}\n{}--- bWFj\n", stanzas.concat());
        let mut bytes = text.into_bytes();
        bytes.extend([0xff, 0x00, b'\n', 0x80]);
        bytes
    }

    #[test]
    fn a_recipient_counts_for_who_signed_it_and_in_its_realm_alone() {
        let sealing = Sealing::sign(realm(b"a"), &key(1), RECIPIENT.to_owned());
        let (node, other) = (key(1).public(), key(2).public());
        assert_eq!(sealing.verified(realm(b"a"), node), Some(RECIPIENT));
        assert_eq!(sealing.verified(realm(b"b"), node), None);
        assert_eq!(sealing.verified(realm(b"a"), other), None);
        let json = serde_json::to_string(&sealing).expect("it serialises");
        let again: Sealing = serde_json::from_str(&json).expect("its own text");
        assert_eq!(again, sealing);
        let thief = RECIPIENT.replace("lggy", "thie");
        let forged = Sealing {
            recipient: thief,
            ..sealing
        };
        assert_eq!(forged.verified(realm(b"a"), node), None);
    }

    #[test]
    fn what_is_no_recipient_counts_for_nobody() {
        for text in [
            "",
            "age1",
            "AGE-SECRET-KEY-1",
            &"a".repeat(62),
            &RECIPIENT.to_uppercase(),
        ] {
            let sealing = Sealing::sign(realm(b"a"), &key(1), text.to_owned());
            assert_eq!(
                sealing.verified(realm(b"a"), key(1).public()),
                None,
                "{text}"
            );
        }
    }

    #[test]
    fn a_label_reads_back_among_other_stanzas() {
        for recipients in [0, 1, 3, 4, 5, 100] {
            let label = label("db.password", recipients);
            let bytes = file(&[X25519.to_owned(), label.stanza(), X25519.to_owned()]);
            assert_eq!(Label::read(&bytes).as_ref(), Some(&label), "{recipients}");
            assert_eq!(Label::of(&text(&bytes)), Some(label));
        }
    }

    #[test]
    fn two_labels_are_none() {
        let (one, two) = (label("a", 1), label("b", 1));
        assert_eq!(Label::read(&file(&[one.stanza(), two.stanza()])), None);
        assert_eq!(Label::read(&file(&[label("a\u{1b}[2J", 1).stanza()])), None);
        // What stands behind the header is no label.
        let mut bytes = file(&[]);
        bytes.extend(&file(&[one.stanza()])[AGE.len()..]);
        assert_eq!(Label::read(&bytes), None);
    }

    #[test]
    fn sealing_anew_leaves_the_value_as_it_is() {
        let digest = |label: &Label| value_digest(&text(&file(&[label.stanza()])));
        let before = label("a", 1);
        assert_eq!(digest(&before), digest(&label("a", 5)));
        let rotated = Label {
            value: ValueId([8; 16]),
            ..before.clone()
        };
        assert_ne!(digest(&before), digest(&rotated));
        assert_ne!(digest(&before), digest(&label("b", 1)));
        let foreign = |stanza: &str| value_digest(&text(&file(&[stanza.to_owned()])));
        assert_ne!(foreign(X25519), foreign(&X25519.replace("AQEB", "AgIC")));
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_label_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            with in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let _ = Label::read(&bytes);
            let mut changed = file(&[label("a", 9).stanza()]);
            let start = at.index(changed.len());
            let end = (start + 4).min(changed.len());
            changed.splice(start..end, with);
            if let Some(label) = Label::read(&changed) {
                prop_assert!(label.marks.len() <= RECIPIENTS_MAX);
            }
        }

        #[test]
        fn any_text_has_a_digest(text in "(age-encrypted:)?[A-Za-z0-9+/=_ -]{0,200}") {
            let _ = value_digest(&text);
        }
    }
}
