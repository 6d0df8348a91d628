//! Sealing secrets to nodes and owners, and opening them: age files for X25519 recipients, with a label
//! (`realm_model::sealing`). Not here: who may open what, and where sealed secrets lie.
//!
//! A node's sealing key is a file of its own beside the node key: who opens secrets with it signs nothing.
//! An owner's follows from the owner key, so that a copy of that key is a copy of both.

use std::collections::HashSet;
use std::fmt;
use std::io::{Read as _, Write as _};

use age::secrecy::ExposeSecret as _;
use age::x25519::{Identity, Recipient};
use age_core::format::{FileKey, Stanza};
use realm_model::entry::{NamespaceName, RealmId};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::sealing::{
    self, Label, Mark, RECIPIENTS_MAX, SEALED_BYTES_MAX, SECRET_BYTES_MAX, STANZA, Sealed, Sealing,
    ValueId,
};
use realm_store::folder::{FolderError, RealmFolder, read_secret, write_secret};
use zeroize::Zeroizing;

/// What an owner's sealing key is derived for.
const OWNER_PURPOSE: &[u8] = b"realm.sealing.owner.v1";

/// The human-readable part of an age identity.
const IDENTITY_PREFIX: &str = "age-secret-key-";

/// A key that opens what is sealed to it; never shown, and wiped from memory when dropped.
pub struct SealingKey(Identity);

/// The sealing key of a node cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// Its file cannot be read or written.
    #[error("the sealing key of this node cannot be read")]
    Folder(#[from] FolderError),
    /// Its file holds something else.
    #[error("`{}` holds no sealing key", path.display())]
    NotAKey {
        /// The file.
        path: std::path::PathBuf,
    },
}

/// A secret cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The value is too long.
    #[error("the secret has {0} bytes, at most {SECRET_BYTES_MAX} are taken")]
    TooLarge(usize),
    /// Sealed to so many, a manifest does not take it.
    #[error("sealed to {0} recipients it is larger than a manifest takes")]
    TooMany(usize),
    /// A text that is no recipient.
    #[error("`{0}` is no age recipient")]
    NotARecipient(String),
    /// The library refused.
    #[error("it was not sealed")]
    Age(#[source] Box<age::EncryptError>),
    /// There is no randomness, or no memory.
    #[error("it was not sealed")]
    Io(#[from] std::io::Error),
}

/// A sealed secret does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is no age file, or a damaged one.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Not to this key.
    #[error("it is not sealed to this key")]
    NotForMe,
    /// Somebody moved it to another name.
    #[error("it was sealed under the name `{0}`")]
    OtherName(String),
    /// Somebody copied it from the manifest of another namespace.
    #[error("it was sealed for namespace `{0}`")]
    OtherNamespace(NamespaceName),
    /// Another tool made it: whom it was meant for is not known, and only the owners may say.
    #[error("it does not say that it was sealed for namespace `{0}`: `realm secret set` does")]
    NoNamespace(NamespaceName),
    /// The value is too long.
    #[error("it has more than {SECRET_BYTES_MAX} bytes")]
    TooLarge,
}

impl SealingKey {
    /// The sealing key of a realm folder; made there if the folder is of a version before it.
    pub fn open_or_make(folder: &RealmFolder) -> Result<Self, SealingError> {
        let path = folder.sealing_key();
        let text = match read_secret(&path) {
            Ok(text) => text,
            Err(FolderError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                let made = Self(Identity::generate());
                match write_secret(&path, made.file_text().as_bytes()) {
                    Ok(()) => return Ok(made),
                    // Another process was first: its key counts.
                    Err(FolderError::Exists { .. }) => read_secret(&path)?,
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        let line = text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'));
        let identity = line.and_then(|line| line.parse().ok());
        identity.map(Self).ok_or(SealingError::NotAKey { path })
    }

    /// The sealing key that follows from an owner's key.
    pub fn of_owner(key: &SecretKey) -> Self {
        let bytes = key.derive(OWNER_PURPOSE);
        let prefix = bech32::Hrp::parse(IDENTITY_PREFIX).expect("a human-readable part");
        let text = bech32::encode::<bech32::Bech32>(prefix, bytes.as_slice());
        let text = Zeroizing::new(text.expect("32 bytes are few"));
        let upper = Zeroizing::new(text.to_uppercase());
        Self(upper.parse().expect("the form of an identity"))
    }

    /// To whom secrets for this key are sealed: `age1…`.
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// The node's word on this key.
    pub fn sealing(&self, realm: RealmId, node: &SecretKey) -> Sealing {
        Sealing::sign(realm, node, self.recipient())
    }

    /// Whether it opens a sealed secret under this name. Its value stays sealed.
    pub fn opens(&self, name: &str, sealed: &Sealed) -> Result<(), OpenError> {
        let bytes = bytes(sealed.text())?;
        self.reader(sealed.namespace(), name, &bytes).map(drop)
    }

    /// Opens a sealed secret.
    pub fn open(&self, name: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let bytes = bytes(sealed.text())?;
        let reader = self.reader(sealed.namespace(), name, &bytes)?;
        // Room for all of it at once: a buffer that grows would leave copies in memory.
        let mut value = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
        reader
            .take(SECRET_BYTES_MAX as u64 + 1)
            .read_to_end(&mut value)
            .map_err(|error| OpenError::Damaged(error.to_string()))?;
        if value.len() > SECRET_BYTES_MAX {
            return Err(OpenError::TooLarge);
        }
        Ok(value)
    }

    /// The value of a sealed secret, whose header is opened and whose label is true.
    fn reader<'a>(
        &self,
        namespace: NamespaceName,
        name: &str,
        bytes: &'a [u8],
    ) -> Result<age::stream::StreamReader<&'a [u8]>, OpenError> {
        let label = Label::read(bytes);
        let own = Mark::of(&self.recipient());
        let marks = label.as_ref().map(|label| label.marks.as_slice());
        let at = marks.and_then(|marks| marks.iter().position(|mark| *mark == own));
        let decryptor = age::Decryptor::new(bytes).map_err(|error| damaged(&error))?;
        let way = Way {
            identity: &self.0,
            at,
        };
        let opened = decryptor.decrypt(std::iter::once(&way as &dyn age::Identity));
        let reader = opened.map_err(|error| {
            if matches!(error, age::DecryptError::NoMatchingKeys) {
                OpenError::NotForMe
            } else {
                damaged(&error)
            }
        })?;
        match label {
            Some(label) if label.namespace != namespace => {
                Err(OpenError::OtherNamespace(label.namespace))
            }
            Some(label) if label.name != name => Err(OpenError::OtherName(label.name)),
            None if !namespace.is_default() => Err(OpenError::NoNamespace(namespace)),
            Some(_) | None => Ok(reader),
        }
    }

    fn file_text(&self) -> Zeroizing<String> {
        let secret = self.0.to_string();
        Zeroizing::new(format!(
            "# Opens the secrets that are sealed to this node. It belongs to this one machine.\n\
             # public key: {}\n{}\n",
            self.recipient(),
            secret.expose_secret()
        ))
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey of {}", self.recipient())
    }
}

/// Seals a value under a name to all of these recipients; returns the text for a manifest of this namespace.
pub fn seal(
    namespace: NamespaceName,
    name: &str,
    value_id: ValueId,
    value: &[u8],
    recipients: &[String],
) -> Result<String, SealError> {
    if value.len() > SECRET_BYTES_MAX {
        return Err(SealError::TooLarge(value.len()));
    }
    if recipients.len() > RECIPIENTS_MAX {
        return Err(SealError::TooMany(recipients.len()));
    }
    let label = Labelled(Label {
        namespace,
        name: name.to_owned(),
        value: value_id,
        marks: recipients.iter().map(|one| Mark::of(one)).collect(),
    });
    let parsed = recipients.iter().map(|one| {
        let recipient: Result<Recipient, _> = one.parse();
        recipient.map_err(|_| SealError::NotARecipient(one.clone()))
    });
    let parsed: Vec<Recipient> = parsed.collect::<Result<_, _>>()?;
    let all = parsed.iter().map(|one| one as &dyn age::Recipient);
    let all = std::iter::once(&label as &dyn age::Recipient).chain(all);
    let encryptor =
        age::Encryptor::with_recipients(all).map_err(|error| SealError::Age(Box::new(error)))?;
    let mut bytes = Vec::new();
    let mut writer = encryptor.wrap_output(&mut bytes)?;
    writer.write_all(value)?;
    writer.finish()?;
    let text = sealing::text(&bytes);
    if text.len() > SEALED_BYTES_MAX {
        return Err(SealError::TooMany(recipients.len()));
    }
    Ok(text)
}

/// A number for a new value.
pub fn new_value_id() -> Result<ValueId, SealError> {
    let mut bytes = [0; ValueId::BYTES];
    getrandom::fill(&mut bytes).map_err(|error| SealError::Io(error.into()))?;
    Ok(ValueId(bytes))
}

/// The recipient that a node vouches for with its key, if it is one.
pub fn recipient_of(sealing: &Sealing, realm: RealmId, node: PublicKey) -> Option<String> {
    let recipient = sealing.verified(realm, node)?;
    let parsed: Recipient = recipient.parse().ok()?;
    Some(parsed.to_string())
}

fn bytes(text: &str) -> Result<Vec<u8>, OpenError> {
    sealing::bytes(text).ok_or_else(|| OpenError::Damaged("it is not base64".to_owned()))
}

fn damaged(error: &age::DecryptError) -> OpenError {
    OpenError::Damaged(error.to_string())
}

/// Wraps no key: it puts the label into the header.
struct Labelled(Label);

impl age::Recipient for Labelled {
    fn wrap_file_key(
        &self,
        _: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let stanza = Stanza {
            tag: STANZA.to_owned(),
            args: self.0.arguments(),
            body: self.0.body(),
        };
        Ok((vec![stanza], HashSet::new()))
    }
}

/// Tries first what the label says is for this key: each other try costs a point multiplication, of
/// which a large realm has a thousand.
struct Way<'a> {
    identity: &'a Identity,
    at: Option<usize>,
}

impl age::Identity for Way<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        self.identity.unwrap_stanza(stanza)
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, age::DecryptError>> {
        let first = self.at.and_then(|at| {
            let mut of_keys = stanzas.iter().filter(|stanza| stanza.tag == "X25519");
            self.unwrap_stanza(of_keys.nth(at)?)
        });
        first.or_else(|| stanzas.iter().find_map(|stanza| self.unwrap_stanza(stanza)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ID: ValueId = ValueId([1; ValueId::BYTES]);
    const HOME: NamespaceName = NamespaceName::DEFAULT;

    /// As the owners' manifest has it.
    fn at_home(name: &str, text: &str) -> Sealed {
        Sealed::new(HOME, name, text.to_owned())
    }

    fn owner(seed: u8) -> SealingKey {
        SealingKey::of_owner(&SecretKey::from_seed(&[seed; 32]))
    }

    fn folder() -> (tempfile::TempDir, RealmFolder) {
        let place = tempfile::tempdir().unwrap();
        let folder = RealmFolder::create(place.path().join(".realm")).unwrap();
        (place, folder)
    }

    #[test]
    fn what_is_sealed_opens_for_its_recipients_alone() {
        let keys = [owner(1), owner(2), owner(3)];
        let recipients = [keys[0].recipient(), keys[1].recipient()];
        for value in [&b""[..], b"hunter2", &[0xff; SECRET_BYTES_MAX]] {
            let text = seal(HOME, "db", ID, value, &recipients).unwrap();
            for key in &keys[..2] {
                assert_eq!(
                    key.open("db", &at_home("db", &text)).unwrap().as_slice(),
                    value
                );
                assert_eq!(key.opens("db", &at_home("db", &text)), Ok(()));
            }
            assert_eq!(
                keys[2].opens("db", &at_home("db", &text)),
                Err(OpenError::NotForMe)
            );
            assert_eq!(
                keys[2].open("db", &at_home("db", &text)),
                Err(OpenError::NotForMe)
            );
        }
        let label = Label::of(&seal(HOME, "db", ID, b"x", &recipients).unwrap()).unwrap();
        let marks = recipients.map(|one| Mark::of(&one)).to_vec();
        assert_eq!((label.name.as_str(), label.value), ("db", ID));
        assert_eq!(label.marks, marks);
    }

    #[test]
    fn a_secret_opens_under_its_own_name_alone() {
        let key = owner(1);
        let text = seal(HOME, "db", ID, b"hunter2", &[key.recipient()]).unwrap();
        let moved = Err(OpenError::OtherName("db".to_owned()));
        assert_eq!(key.open("public", &at_home("public", &text)), moved);
        assert_eq!(
            key.opens("public", &at_home("public", &text)),
            moved.map(drop)
        );
        // Who changes the label breaks the file.
        let mut bytes = sealing::bytes(&text).unwrap();
        let needle = b"realm-secret 1 default db";
        let at = bytes.windows(needle.len()).position(|part| part == needle);
        bytes[at.unwrap() + needle.len() - 1] = b'x';
        let changed = sealing::text(&bytes);
        assert_eq!(Label::of(&changed).unwrap().name, "dx");
        let broken = key.open("dx", &at_home("dx", &changed));
        assert!(matches!(broken, Err(OpenError::Damaged(_))), "{broken:?}");
    }

    #[test]
    fn a_secret_opens_in_its_own_namespace_alone() {
        let key = owner(1);
        let team: NamespaceName = "team".parse().unwrap();
        let seal = |namespace| {
            let text = seal(namespace, "db", ID, b"hunter2", &[key.recipient()]).unwrap();
            move |at| Sealed::new(at, "db", text.clone())
        };
        // Both are sealed to the same key; a delegate can read the text in the owners' manifest.
        let (owners, teams) = (seal(HOME), seal(team));
        assert!(key.open("db", &owners(HOME)).is_ok());
        assert!(key.open("db", &teams(team)).is_ok());
        let copied = Err(OpenError::OtherNamespace(HOME));
        assert_eq!(key.open("db", &owners(team)), copied);
        assert_eq!(key.opens("db", &owners(team)), copied.map(drop));
        let back = key.opens("db", &teams(HOME));
        assert_eq!(back, Err(OpenError::OtherNamespace(team)));
        // What names nobody is the owners' alone.
        let plain = age::encrypt(&key.0.to_public(), b"from age").unwrap();
        let plain = Sealed::new(team, "db", sealing::text(&plain));
        assert_eq!(key.opens("db", &plain), Err(OpenError::NoNamespace(team)));
    }

    #[test]
    fn what_another_tool_sealed_opens_under_any_name() {
        let key = owner(1);
        let plain = age::encrypt(&key.0.to_public(), b"from age").unwrap();
        let text = sealing::text(&plain);
        assert_eq!(
            key.open("any", &at_home("any", &text)).unwrap().as_slice(),
            b"from age"
        );
        assert!(at_home("any", &text).label().is_none());
    }

    #[test]
    fn no_bit_of_a_sealed_secret_can_change() {
        let key = owner(1);
        let text = seal(HOME, "db", ID, b"hunter2", &[key.recipient()]).unwrap();
        let bytes = sealing::bytes(&text).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(
                key.open("db", &at_home("db", &sealing::text(&changed)))
                    .is_err(),
                "byte {at}"
            );
            assert!(
                key.open("db", &at_home("db", &sealing::text(&bytes[..at])))
                    .is_err(),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn what_is_too_large_or_no_recipient_is_refused() {
        let key = owner(1).recipient();
        let large = seal(
            HOME,
            "db",
            ID,
            &[0; SECRET_BYTES_MAX + 1],
            std::slice::from_ref(&key),
        );
        assert!(matches!(large, Err(SealError::TooLarge(_))));
        let many = seal(HOME, "db", ID, b"x", &vec![key.clone(); RECIPIENTS_MAX + 1]);
        assert!(matches!(many, Err(SealError::TooMany(_))));
        let typo = key.replace('q', "p");
        let other = seal(HOME, "db", ID, b"x", &[typo]);
        assert!(matches!(other, Err(SealError::NotARecipient(_))));
        assert!(seal(HOME, "db", ID, &[7; SECRET_BYTES_MAX], &vec![key; 1_000]).is_ok());
    }

    #[test]
    fn the_key_of_a_node_is_made_once_and_others_cannot_read_it() {
        let (_place, folder) = folder();
        let made = SealingKey::open_or_make(&folder).unwrap();
        let again = SealingKey::open_or_make(&folder).unwrap();
        assert_eq!(made.recipient(), again.recipient());
        let path = folder.sealing_key();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            SealingKey::open_or_make(&folder),
            Err(SealingError::Folder(_))
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(matches!(
            SealingKey::open_or_make(&folder),
            Err(SealingError::NotAKey { .. })
        ));
    }

    #[test]
    fn an_owners_key_follows_from_the_owner_key_and_stays() {
        assert_eq!(owner(1).recipient(), owner(1).recipient());
        assert_ne!(owner(1).recipient(), owner(2).recipient());
        // Secrets of years ago have to open: this may never change.
        assert_eq!(owner(1).recipient(), RECIPIENT_OF_OWNER_1);
        let shown = format!("{:?}", owner(1));
        assert!(!shown.to_uppercase().contains("SECRET"), "{shown}");
    }

    const RECIPIENT_OF_OWNER_1: &str =
        "age1rdrd499lsh3k2zfakanvx8zc9mqamrwfa3pxyke3vq6y4hc09d6q992adr";
}
