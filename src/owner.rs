//! The owner key at rest: a file of mode 0600, plain or sealed with a passphrase.
//!
//! A sealed key is an age file (scrypt), so that the `age` tool opens it as well.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use age::secrecy::SecretString;
use realm_model::key::SecretKey;
use zeroize::Zeroizing;

use crate::failure::{Failure, exit};
use crate::output;

/// A key file larger than this is none: a sealed key has about 500 bytes.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
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
    let failed = |error: std::io::Error| Failure::from_error("seal-failed", &error);
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
pub(crate) fn load(path: &Path) -> Result<SecretKey, Failure> {
    let text = read_private(path)?;
    let plain = if text.trim_start().starts_with(SEALED_MARK) {
        open_sealed(&text, passphrase("Passphrase of the owner key")?)?
    } else {
        text
    };
    let line = plain
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .unwrap_or_default();
    SecretKey::from_text(line).map_err(|error| {
        Failure::from_error("bad-key-file", &error)
            .context(format!("`{}` holds no owner key", path.display()))
    })
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let file = std::fs::File::open(path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let failure = Failure::from_error("no-owner-key", &error)
            .context(format!("failed to open the owner key `{}`", path.display()));
        if missing {
            failure.hint("`realm init` makes one; or point `--realm` at the folder that has it")
        } else {
            failure
        }
    })?;
    let metadata = file.metadata()?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Failure::new(
            "key-exposed",
            format!(
                "others on this machine can read the owner key `{}`",
                path.display()
            ),
        )
        .hint(format!("chmod 600 {}", path.display())));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
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
pub(crate) fn passphrase(prompt: &str) -> Result<SecretString, Failure> {
    if let Some(path) = std::env::var_os("REALM_PASSPHRASE_FILE") {
        let text = Zeroizing::new(std::fs::read_to_string(&path).map_err(|error| {
            Failure::from_error("no-passphrase", &error)
                .context(format!("failed to read `{}`", Path::new(&path).display()))
        })?);
        return Ok(SecretString::from(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "no-passphrase",
            "the owner key needs a passphrase, and there is no terminal to ask on",
        )
        .hint("put it into a file and set REALM_PASSPHRASE_FILE")
        .exit(exit::USAGE));
    }
    let text = rpassword::prompt_password(format!("{prompt}: "))?;
    Ok(SecretString::from(text))
}

/// A new passphrase, typed twice on a terminal.
pub(crate) fn new_passphrase() -> Result<SecretString, Failure> {
    use age::secrecy::ExposeSecret as _;
    let first = passphrase("New passphrase for the owner key")?;
    if first.expose_secret().is_empty() {
        return Err(Failure::new(
            "empty-passphrase",
            "an empty passphrase protects nothing",
        ));
    }
    if std::env::var_os("REALM_PASSPHRASE_FILE").is_none() {
        let second = passphrase("The same again")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, mode: u32, expected: Result<&SecretKey, &str>) {
        let folder = std::env::temp_dir().join(format!(
            "realm-owner-{}-{mode:o}-{}",
            std::process::id(),
            text.len()
        ));
        std::fs::write(&folder, text).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
        let loaded = load(&folder);
        std::fs::remove_file(&folder).unwrap();
        match (loaded, expected) {
            (Ok(key), Ok(expected)) => assert_eq!(key.public(), expected.public()),
            (Err(failure), Err(code)) => {
                assert!(format!("{failure:?}").contains(code), "{failure:?}")
            }
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
        let opened = open_sealed(&sealed, SecretString::from("correct horse".to_owned())).unwrap();
        assert_eq!(
            SecretKey::from_text(&opened).unwrap().public(),
            key.public()
        );
        assert!(open_sealed(&sealed, SecretString::from("battery staple".to_owned())).is_err());
    }
}
