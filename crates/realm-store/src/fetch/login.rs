//! Log-ins to registries, from the file that `docker login` and its kin write.
//!
//! Not here: credential helpers. They are programs, and an agent starts none for a manifest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::{FetchError, Origins, joined};

/// A file with more is no such file: a log-in has some hundred bytes.
pub const AUTH_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// As whom a registry is asked.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Zeroizing<String>,
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
}

/// The log-in to a registry, if the file of this machine has one.
pub(super) async fn login(origins: &Origins, registry: &str) -> Result<Option<Login>, FetchError> {
    let Some(path) = origins.registry_auth.clone() else {
        return Ok(None);
    };
    let bad = FetchError::Setting {
        what: "file with log-ins to registries",
        value: path.display().to_string(),
    };
    match joined(spawn_blocking(move || read(&path)).await) {
        Ok(text) => login_in(&text, registry).map_err(|NotALogin| bad),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(_) => Err(bad),
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    // A device or a pipe has no end.
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(AUTH_FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[derive(Debug, PartialEq, Eq)]
struct NotALogin;

fn login_in(text: &[u8], registry: &str) -> Result<Option<Login>, NotALogin> {
    let file: AuthFile = serde_json::from_slice(text).map_err(|_| NotALogin)?;
    let entry = file
        .auths
        .iter()
        .find(|(key, _)| one_name(host_of(key)) == one_name(registry));
    // What a credential helper keeps has an entry without anything in it.
    let Some(auth) = entry.and_then(|(_, entry)| entry.auth.as_ref()) else {
        return Ok(None);
    };
    let plain = STANDARD.decode(auth.as_bytes()).map_err(|_| NotALogin)?;
    let plain = Zeroizing::new(plain);
    let plain = std::str::from_utf8(&plain).map_err(|_| NotALogin)?;
    let (user, password) = plain.split_once(':').ok_or(NotALogin)?;
    Ok(Some(Login {
        user: user.to_owned(),
        password: Zeroizing::new(password.to_owned()),
    }))
}

/// `https://index.docker.io/v1/` is written for a host.
fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").unwrap_or(key);
    let key = key.strip_prefix("http://").unwrap_or(key);
    match key.split_once('/') {
        Some((host, "" | "v1" | "v1/" | "v2" | "v2/")) => host,
        // A log-in to a part of a registry.
        Some(_) | None => key,
    }
}

/// Docker Hub has three names.
fn one_name(host: &str) -> String {
    match host.to_ascii_lowercase().as_str() {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = r#"{
        "auths": {
            "ghcr.io": {"auth": "YWNtZTpwOnc="},
            "https://index.docker.io/v1/": {"auth": "aHViOmh1c2g="},
            "127.0.0.1:5000": {},
            "quay.io/acme": {"auth": "YTpi"},
            "bad.example": {"auth": "%%%"},
            "half.example": {"auth": "YWNtZQ=="}
        },
        "credsStore": "desktop", "currentContext": "x"
    }"#;

    fn check(text: &str, registry: &str, expected: Result<Option<(&str, &str)>, NotALogin>) {
        let login = login_in(text.as_bytes(), registry);
        let seen = login.map(|login| login.map(|login| (login.user, login.password.to_string())));
        let expected = expected
            .map(|login| login.map(|(user, password)| (user.to_owned(), password.to_owned())));
        assert_eq!(seen, expected, "{registry}");
    }

    #[test]
    fn a_registry_has_the_log_in_that_was_made_for_it() {
        check(FILE, "ghcr.io", Ok(Some(("acme", "p:w"))));
        check(FILE, "GHCR.io", Ok(Some(("acme", "p:w"))));
        check(FILE, "docker.io", Ok(Some(("hub", "hush"))));
        for other in ["127.0.0.1:5000", "quay.io", "ghcr.io:443", "example.com"] {
            check(FILE, other, Ok(None));
        }
        check(FILE, "bad.example", Err(NotALogin));
        check(FILE, "half.example", Err(NotALogin));
        check("{}", "ghcr.io", Ok(None));
        check("", "ghcr.io", Err(NotALogin));
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_no_log_in_and_another_one_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut origins = Origins {
            registry_auth: Some(folder.path().join("config.json")),
            ..Origins::default()
        };
        assert!(matches!(login(&origins, "ghcr.io").await, Ok(None)));
        origins.registry_auth = Some(folder.path().to_owned());
        let error = login(&origins, "ghcr.io").await.err().expect("a folder");
        assert_eq!(error.code(), "bad-source-setting");
        assert!(
            error
                .to_string()
                .contains(&folder.path().display().to_string())
        );
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), auth in "[A-Za-z0-9+/=:]{0,30}") {
            let _ = login_in(&bytes, "ghcr.io");
            let text = format!(r#"{{"auths":{{"ghcr.io":{{"auth":"{auth}"}}}}}}"#);
            let _ = login_in(text.as_bytes(), "ghcr.io");
        }
    }
}
