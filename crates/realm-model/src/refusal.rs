//! Why an agent refuses an entry: a closed list of stable codes. Not how a refusal is counted or shown.

use serde::{Deserialize, Serialize};

use crate::text::one_line;

/// Characters of a message that are kept: the longest one of ours lists the 16 keys of an entry.
pub const MESSAGE_CHARS_MAX: usize = 1_000;

/// A reason to refuse, as a stable code: metrics, scripts and tests depend on the spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// No signature at all.
    Unsigned,
    /// A signature by a key that may sign does not hold over these bytes.
    BadSignature,
    /// Signed, but by no key that may sign this chain, or the manifest names another owner.
    WrongOwner,
    /// Made for another realm.
    WrongRealm,
    /// Made for another chain of this realm.
    WrongChain,
    /// Its sequence number or version is not above what was accepted already.
    Stale,
    /// Exactly this entry was accepted already.
    Replayed,
    /// Its sequence number is not the next one.
    Gap,
    /// Its parent is not the head: two histories.
    WrongParent,
    /// Larger than the cap.
    Oversized,
    /// The bytes are not an entry.
    Malformed,
    /// A kind or format that this version of the agent does not know.
    NeedsNewerAgent,
    /// The manifest inside does not validate.
    InvalidManifest,
    /// The lock inside does not fit the manifest.
    InvalidLock,
    /// Bytes do not have the digest that was signed.
    DigestMismatch,
    /// It names a component, node or key that is not there.
    UnknownName,
    /// The name belongs to another node's key.
    NameTaken,
    /// Another entry than the one here has its place, and both are well signed: two histories.
    Forked,
    /// Its chain stands still, because there are two histories of it.
    Frozen,
    /// It belongs to a history that the owners ended.
    Abandoned,
    /// Its signer may not say this.
    OutOfScope,
    /// Its signer's time is over.
    Expired,
    /// The log could not be made durable; nothing changed.
    NotDurable,
}

impl RefusalCode {
    /// Every code, for metrics and documentation.
    pub const ALL: [Self; 23] = [
        Self::Unsigned,
        Self::BadSignature,
        Self::WrongOwner,
        Self::WrongRealm,
        Self::WrongChain,
        Self::Stale,
        Self::Replayed,
        Self::Gap,
        Self::WrongParent,
        Self::Oversized,
        Self::Malformed,
        Self::NeedsNewerAgent,
        Self::InvalidManifest,
        Self::InvalidLock,
        Self::DigestMismatch,
        Self::UnknownName,
        Self::NameTaken,
        Self::Forked,
        Self::Frozen,
        Self::Abandoned,
        Self::OutOfScope,
        Self::Expired,
        Self::NotDurable,
    ];

    /// The stable spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::BadSignature => "bad-signature",
            Self::WrongOwner => "wrong-owner",
            Self::WrongRealm => "wrong-realm",
            Self::WrongChain => "wrong-chain",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
            Self::Gap => "gap",
            Self::WrongParent => "wrong-parent",
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::NeedsNewerAgent => "needs-newer-agent",
            Self::InvalidManifest => "invalid-manifest",
            Self::InvalidLock => "invalid-lock",
            Self::DigestMismatch => "digest-mismatch",
            Self::UnknownName => "unknown-name",
            Self::NameTaken => "name-taken",
            Self::Forked => "forked",
            Self::Frozen => "frozen",
            Self::Abandoned => "abandoned",
            Self::OutOfScope => "out-of-scope",
            Self::Expired => "expired",
            Self::NotDurable => "not-durable",
        }
    }

    /// What a person does next; one line without a full stop.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Unsigned => "sign it: `realm apply realm.toml` signs with your owner key",
            Self::BadSignature => {
                "the bytes changed after they were signed: run `realm apply` again with the owner key"
            }
            Self::WrongOwner => {
                "compare `realm key show` here with the owner that `realm status` shows"
            }
            Self::WrongRealm => "check `--realm`: this entry was signed for another realm",
            Self::WrongChain => "submit it to the chain it was signed for",
            Self::Stale => "somebody applied since: run `realm plan`, then `realm apply` again",
            Self::Replayed => "nothing to do: it is in force already",
            Self::Gap => "entries before it are missing here: submit them first",
            Self::WrongParent => {
                "somebody applied since: run `realm plan`, then `realm apply` again"
            }
            Self::Oversized => "make the manifest smaller: an entry has at most 8 MiB",
            Self::Malformed => "sign it again with `realm apply`",
            Self::NeedsNewerAgent => "install a newer realm on this node",
            Self::InvalidManifest => "run `realm plan realm.toml` to see every problem",
            Self::InvalidLock => "run `realm apply realm.toml` to resolve the sources again",
            Self::DigestMismatch => "build it again, then `realm apply` to pin what is there now",
            Self::UnknownName => "`realm status` lists the names",
            Self::NameTaken => "give this node another name, or revoke the node that has it first",
            Self::Forked | Self::Frozen => {
                "two entries have one place: `realm resolve` shows both, and ends it"
            }
            Self::Abandoned => {
                "run `realm plan`, then `realm apply` again: it stands on what holds"
            }
            Self::OutOfScope => "ask an owner for a wider scope: `realm delegate add`",
            Self::Expired => {
                "check the clock here (`date`); an owner renews with `realm delegate add`"
            }
            Self::NotDurable => "look at the disk (`df`, `dmesg`), then try again",
        }
    }
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused entry: the code, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(from = "Received")]
#[error("{message}")]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// What happened, with values; lower case, no full stop.
    pub message: String,
}

impl Refusal {
    /// Makes a refusal. The message becomes one printable line of at most [`MESSAGE_CHARS_MAX`]
    /// characters, since much of what is quoted was written by whoever made the entry.
    pub fn new(code: RefusalCode, message: impl AsRef<str>) -> Self {
        Self {
            code,
            message: one_line(message.as_ref(), MESSAGE_CHARS_MAX),
        }
    }
}

/// A refusal as it comes from an agent, which may be anybody.
#[derive(Deserialize)]
struct Received {
    code: RefusalCode,
    message: String,
}

impl From<Received> for Refusal {
    fn from(received: Received) -> Self {
        Self::new(received.code, received.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spelling_is_the_same_in_json_and_in_metrics() {
        for code in RefusalCode::ALL {
            let json = serde_json::to_string(&code).expect("serialises");
            assert_eq!(json, format!("\"{code}\""));
        }
    }

    #[test]
    fn a_message_is_one_printable_line_however_it_was_made() {
        let check = |message: &str, expected: &str| {
            let made = Refusal::new(RefusalCode::Malformed, message);
            assert_eq!(made.message, expected);
            let json = serde_json::json!({ "code": "malformed", "message": message });
            let received: Refusal = serde_json::from_value(json).expect("a refusal");
            assert_eq!(received, made);
        };
        check("entry 4 is `a`", "entry 4 is `a`");
        check("a\u{1b}[2J\r\nb\u{202e}", "a [2J b\\u{202e}");
        let cut = format!("{}…", "x".repeat(MESSAGE_CHARS_MAX - 1));
        check(&"x".repeat(1_000_000), &cut);
    }
}
