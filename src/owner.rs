//! The owner key at rest: a file of mode 0600, plain or sealed with a passphrase.
//!
//! A sealed key is an age file (scrypt), so that the `age` tool opens it as well.

use std::io::{self, IsTerminal as _, Read as _, Stdin, Write as _};
use std::path::Path;
use std::sync::OnceLock;

use age::secrecy::{ExposeSecret as _, SecretString};
use realm_model::key::{KeyError, SecretKey};
use realm_store::folder::{FolderError, read_secret};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::failure::{Failure, exit};
use crate::{blocking, files, output};

/// A passphrase longer than this is another file.
const PASSPHRASE_BYTES_MAX: u64 = 4 * 1024;
/// scrypt cost that realm opens at most (log2 of N): 2^20 takes about 1 GiB and some seconds, and a
/// planted key file must not take more.
const SCRYPT_WORK_FACTOR_MAX: u8 = 20;
const SEALED_MARK: &str = "-----BEGIN AGE ENCRYPTED FILE-----";

/// Makes an owner key from the system's randomness.
pub(crate) fn generate() -> Result<SecretKey, Failure> {
    let seed = random()?;
    Ok(SecretKey::from_seed(&seed))
}

/// 32 bytes from the system's cryptographic source, wiped when dropped.
pub(crate) fn random() -> Result<Zeroizing<[u8; 32]>, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut())
        .map_err(|error| Failure::new("no-randomness", error.to_string()))?;
    Ok(bytes)
}

/// The text of an owner key file; sealed if there is a passphrase.
pub(crate) fn to_file_text(
    key: &SecretKey,
    passphrase: Option<SecretString>,
) -> Result<Zeroizing<String>, Failure> {
    let plain = key.to_text();
    let Some(passphrase) = passphrase else {
        return Ok(Zeroizing::new(format!(
            "# The owner key of a realm: who has it, decides what runs. Keep a copy offline.\n{}\n",
            plain.as_str()
        )));
    };
    let failed = |error: io::Error| Failure::from_error("seal-failed", &error);
    let mut sealed = Vec::new();
    let armor = age::armor::ArmoredWriter::wrap_output(&mut sealed, age::armor::Format::AsciiArmor)
        .map_err(failed)?;
    let mut writer = age::Encryptor::with_user_passphrase(passphrase)
        .wrap_output(armor)
        .map_err(failed)?;
    writer.write_all(plain.as_bytes()).map_err(failed)?;
    writer
        .finish()
        .and_then(|armor| armor.finish())
        .map_err(failed)?;
    String::from_utf8(sealed)
        .map(Zeroizing::new)
        .map_err(|error| Failure::from_error("seal-failed", &error))
}

/// Reads the owner key; asks for the passphrase of a sealed one.
pub(crate) async fn load(path: &Path) -> Result<SecretKey, Failure> {
    let text = read_secret(path).map_err(|error| unreadable(path, &error))?;
    let plain = if is_sealed(&text) {
        let passphrase = passphrase("Passphrase of the owner key").await?;
        // scrypt takes about a second.
        blocking::run(move || open_sealed(&text, passphrase)).await?
    } else {
        text
    };
    parse(&plain).map_err(|error| {
        Failure::from_error("bad-key-file", &error)
            .context(format!("`{}` holds no owner key", path.display()))
    })
}

/// Whether the text of a key file wants a passphrase.
pub(crate) fn is_sealed(text: &str) -> bool {
    text.trim_start().starts_with(SEALED_MARK)
}

/// The key in the first line that is neither empty nor a comment.
fn parse(text: &str) -> Result<SecretKey, KeyError> {
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    SecretKey::from_text(line.unwrap_or_default())
}

fn unreadable(path: &Path, error: &FolderError) -> Failure {
    if let FolderError::TooOpen { .. } = error {
        return Failure::from_error("key-exposed", error)
            .hint(format!("chmod 600 {}", path.display()));
    }
    let failure =
        Failure::from_error("no-owner-key", error).context("the owner key cannot be read");
    if files::is_missing(error) {
        failure.hint("`--key FILE` names the key, or `--realm DIR` the folder that has it; only a realm that is yet to be made gets one by `realm init`")
    } else {
        failure
    }
}

fn open_sealed(text: &str, passphrase: SecretString) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: age::DecryptError| {
        Failure::from_error("bad-passphrase", &error)
            .context("the owner key did not open")
            .hint("try the passphrase again; nothing can replace a lost one")
    };
    let armor = age::armor::ArmoredReader::new(text.as_bytes());
    let decryptor = age::Decryptor::new(armor).map_err(failed)?;
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(SCRYPT_WORK_FACTOR_MAX);
    let mut reader = decryptor
        .decrypt(std::iter::once(&identity as &dyn age::Identity))
        .map_err(failed)?;
    let mut plain = Zeroizing::new(String::new());
    reader.read_to_string(&mut plain)?;
    Ok(plain)
}

/// A passphrase: from the file that `REALM_PASSPHRASE_FILE` names, else from the terminal.
async fn passphrase(prompt: &'static str) -> Result<SecretString, Failure> {
    if let Some(path) = std::env::var_os("REALM_PASSPHRASE_FILE") {
        return from_file(Path::new(&path));
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            "no-passphrase",
            "the owner key needs a passphrase, and there is no terminal to ask on",
        )
        .hint("put it into a file and set REALM_PASSPHRASE_FILE")
        .exit(exit::USAGE));
    }
    Ok(SecretString::from(
        hidden(prompt.to_owned()).await?.as_str(),
    ))
}

/// What somebody types on the terminal, which does not show it.
pub(crate) async fn hidden(prompt: String) -> Result<Zeroizing<String>, Failure> {
    // A signal before the answer must not leave a terminal that shows nothing.
    let _terminal = TerminalModes::remember();
    let text = blocking::run(move || {
        rpassword::prompt_password(format!("{prompt}: ")).map_err(|error| {
            // While it reads, Ctrl-C is a key before it is a signal.
            if error.kind() == io::ErrorKind::Interrupted {
                Failure::interrupted()
            } else {
                error.into()
            }
        })
    });
    Ok(Zeroizing::new(text.await?))
}

fn from_file(path: &Path) -> Result<SecretString, Failure> {
    let failed = |failure: Failure| failure.code("no-passphrase");
    let bytes = Zeroizing::new(files::read(path, PASSPHRASE_BYTES_MAX).map_err(failed)?);
    let text = str::from_utf8(&bytes).map_err(|error| {
        failed(Failure::from_error("not-text", &error))
            .context(format!("`{}` holds no passphrase", path.display()))
    })?;
    Ok(SecretString::from(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

/// A new passphrase, typed twice on a terminal.
pub(crate) async fn new_passphrase() -> Result<SecretString, Failure> {
    let first = passphrase("New passphrase for the owner key").await?;
    if first.expose_secret().is_empty() {
        return Err(Failure::new(
            "empty-passphrase",
            "an empty passphrase protects nothing",
        ));
    }
    if std::env::var_os("REALM_PASSPHRASE_FILE").is_none() {
        let second = passphrase("The same again").await?;
        if first.expose_secret() != second.expose_secret() {
            return Err(Failure::new(
                "passphrase-differs",
                "the two passphrases differ",
            ));
        }
    }
    output::note("sealing the owner key; this takes a second on purpose");
    Ok(first)
}

/// The modes of the terminal before this process asked anything.
static FIRST_MODES: OnceLock<Termios> = OnceLock::new();

/// Puts the terminal back as it was, as the last deed of the process: a prompt that was given up
/// lives on a thread of its own, and may have hidden the keys only after that.
pub(crate) fn restore_terminal() {
    if let Some(modes) = FIRST_MODES.get() {
        // A terminal that is gone needs no modes.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
    }
}

/// The modes of the terminal as they were; put back when dropped.
struct TerminalModes {
    terminal: Stdin,
    modes: Termios,
}

impl TerminalModes {
    fn remember() -> Option<Self> {
        let terminal = io::stdin();
        let modes = tcgetattr(&terminal).ok()?;
        // The first prompt of a process finds the terminal as the shell left it.
        let modes = FIRST_MODES.get_or_init(|| modes).clone();
        Some(Self { terminal, modes })
    }
}

impl Drop for TerminalModes {
    fn drop(&mut self) {
        // A terminal that is gone needs no modes.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.modes);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, mode: u32, expected: Result<&SecretKey, &str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("owner.key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        match (runtime.block_on(load(&path)), expected) {
            (Ok(key), Ok(expected)) => assert_eq!(key.public(), expected.public()),
            (Err(failure), Err(code)) => assert!(failure.is(code), "{failure:?}"),
            (loaded, expected) => panic!("{loaded:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_plain_key_loads_unless_others_can_read_it() {
        let key = SecretKey::from_seed(&[9; 32]);
        let text = to_file_text(&key, None).unwrap();
        check(&text, 0o600, Ok(&key));
        check(&text, 0o640, Err("key-exposed"));
        check("", 0o600, Err("bad-key-file"));
        check("ed25519-secret:zzz\n", 0o600, Err("bad-key-file"));
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_alone() {
        let key = SecretKey::from_seed(&[8; 32]);
        let sealed =
            to_file_text(&key, Some(SecretString::from("correct horse".to_owned()))).unwrap();
        assert!(!sealed.contains("ed25519-secret"));
        assert!(is_sealed(&sealed));
        let open = |text: &str, passphrase: &str| {
            open_sealed(text, SecretString::from(passphrase.to_owned()))
        };
        let opened = open(&sealed, "correct horse").unwrap();
        assert_eq!(parse(&opened).unwrap().public(), key.public());
        assert!(open(&sealed, "battery staple").is_err());
        // Cut anywhere, it is an error: never a panic, never another key. Once the header is whole a
        // cut costs a second of scrypt, so only one is behind it.
        let cuts = (0..sealed.len() / 3).chain([sealed.len() - 60]);
        for cut in cuts {
            assert!(open(&sealed[..cut], "correct horse").is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn a_key_file_of_any_bytes_is_a_key_or_an_error(text in "\\PC{0,200}(\n\\PC{0,80}){0,3}") {
            if let Ok(key) = parse(&text) {
                prop_assert!(text.contains(key.to_text().as_str()));
            }
        }

        #[test]
        fn a_sealed_file_of_any_bytes_does_not_panic(body in "[A-Za-z0-9+/=\n -]{0,300}") {
            let text = format!("{SEALED_MARK}\n{body}\n-----END AGE ENCRYPTED FILE-----\n");
            prop_assert!(open_sealed(&text, SecretString::from("any".to_owned())).is_err());
        }
    }
}
