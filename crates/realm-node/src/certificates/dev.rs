//! A certificate for development, from an authority that this realm folder has for itself.
//!
//! A browser that trusts the authority shows no warning for the hosts on this machine. Not for anybody
//! else: whoever has the authority's key can pass for every site, so it stays in the folder, for its user.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use realm_edge::tls::{Certificate, CertificateError, Validity};
use realm_model::digest::Digest;
use realm_store::folder::{
    FolderError, RealmFolder, read_secret, read_small, replace_secret, write_atomic, write_secret,
};
use zeroize::Zeroizing;

use super::{folder_of, now_s};

const SECONDS_PER_DAY: i64 = 86_400;
/// Browsers refuse certificates of more than 398 days, some of more than 200.
const LEAF_DAYS: i64 = 90;
/// A third: a machine that is off for a few weeks still has a valid one.
const RENEW_DAYS: i64 = 30;
/// Making browsers trust it again is a nuisance.
const AUTHORITY_DAYS: i64 = 3_650;
/// Clocks of virtual machines and phones go wrong.
const BACK_DAYS: i64 = 1;
/// Hosts of one certificate.
const HOSTS_MAX: usize = 100;
const HOSTS_BYTES_MAX: u64 = 64 * 1024;
const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// It could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file cannot be read or written.
    #[error("the certificate for development cannot be kept")]
    Files(#[from] FolderError),
    /// A folder cannot be made.
    #[error("cannot create `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A host is no name and no address.
    #[error("`{host}` is no host name and no IP address")]
    Host {
        /// As it was written.
        host: String,
    },
    /// More hosts than a certificate is made for.
    #[error("there are more than {HOSTS_MAX} hosts")]
    TooMany,
    /// A key or a certificate cannot be made.
    #[error("the certificate for development cannot be made")]
    Made(#[source] rcgen::Error),
    /// What was made before cannot be read.
    #[error("the certificate for development cannot be read")]
    Read(#[from] CertificateError),
}

/// What there is.
#[derive(Debug, Clone)]
pub struct Made {
    /// The certificate of the authority, in PEM.
    pub authority: PathBuf,
    /// The certificate and its key, in PEM.
    pub leaf: PathBuf,
    /// What it is for.
    pub hosts: Vec<String>,
    /// When it is valid.
    pub validity: Validity,
}

/// Makes a certificate for this machine and `hosts`, beside those that it was for before. A node that
/// shows it takes it up by itself.
pub fn make(folder: &RealmFolder, hosts: &[String]) -> Result<Made, DevError> {
    let own = folder_of(folder);
    create(&own)?;
    let mut all = known_hosts(&own)?;
    for host in hosts {
        all.insert(checked(host)?);
    }
    if all.len() > HOSTS_MAX {
        return Err(DevError::TooMany);
    }
    let lines: Vec<&str> = all.iter().map(String::as_str).collect();
    write_atomic(
        &hosts_file(&own),
        format!("{}\n", lines.join("\n")).as_bytes(),
    )?;
    issue(&own, &all, now_s())
}

/// Makes one where there is none, or where it ends in a while.
pub(super) fn keep(own: &Path, now_s: i64) -> Result<(), DevError> {
    let leaf = leaf_file(own);
    let is_good = read_small(&leaf, HOSTS_BYTES_MAX).is_ok_and(|bytes| {
        let certificate = Certificate::from_pem(&bytes, &bytes);
        certificate.is_ok_and(|certificate| {
            certificate.validity().not_after_s - now_s > RENEW_DAYS * SECONDS_PER_DAY
        })
    });
    if !is_good {
        create(own)?;
        let hosts = known_hosts(own)?;
        issue(own, &hosts, now_s)?;
    }
    Ok(())
}

/// Where the certificate and its key lie.
pub(super) fn leaf_file(own: &Path) -> PathBuf {
    own.join("dev.pem")
}

fn authority_file(own: &Path) -> PathBuf {
    own.join("dev-ca.pem")
}

fn hosts_file(own: &Path) -> PathBuf {
    own.join("dev-hosts")
}

/// A folder that only its user looks into.
pub(super) fn create(own: &Path) -> Result<(), DevError> {
    use std::os::unix::fs::DirBuilderExt as _;

    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(own);
    made.map_err(|source| DevError::Folder {
        path: own.to_owned(),
        source,
    })
}

fn known_hosts(own: &Path) -> Result<BTreeSet<String>, DevError> {
    let mut hosts: BTreeSet<String> = ALWAYS.into_iter().map(str::to_owned).collect();
    match read_small(&hosts_file(own), HOSTS_BYTES_MAX) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines = text.lines().filter(|line| !line.is_empty());
            for line in lines.take(HOSTS_MAX) {
                hosts.insert(checked(line)?);
            }
            Ok(hosts)
        }
        Err(FolderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(hosts)
        }
        Err(error) => Err(error.into()),
    }
}

fn checked(host: &str) -> Result<String, DevError> {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = address.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = host.to_ascii_lowercase();
    let plain = name.strip_prefix("*.").unwrap_or(&name);
    match name.len() <= 253 && plain.split('.').all(is_label) {
        true => Ok(name),
        false => Err(DevError::Host {
            host: host.to_owned(),
        }),
    }
}

fn issue(own: &Path, hosts: &BTreeSet<String>, now_s: i64) -> Result<Made, DevError> {
    let authority = authority(own, now_s)?;
    let hosts: Vec<String> = hosts.iter().cloned().collect();
    let mut params = rcgen::CertificateParams::new(hosts.clone()).map_err(DevError::Made)?;
    let (back_s, leaf_s) = (BACK_DAYS * SECONDS_PER_DAY, LEAF_DAYS * SECONDS_PER_DAY);
    lasts(&mut params, now_s - back_s, now_s + leaf_s);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.distinguished_name = name_of("realm development");
    let key = rcgen::KeyPair::generate().map_err(DevError::Made)?;
    let leaf = params.signed_by(&key, &authority).map_err(DevError::Made)?;
    let secret = Zeroizing::new(key.serialize_pem());
    let text = Zeroizing::new(format!("{}{}", leaf.pem(), secret.as_str()));
    replace_secret(&leaf_file(own), text.as_bytes())?;
    let certificate = Certificate::from_pem(text.as_bytes(), text.as_bytes())?;
    Ok(Made {
        authority: authority_file(own),
        leaf: leaf_file(own),
        hosts,
        validity: certificate.validity(),
    })
}

/// The authority of this folder; it is made where there is none.
fn authority(own: &Path, now_s: i64) -> Result<rcgen::Issuer<'static, rcgen::KeyPair>, DevError> {
    let path = own.join("dev-ca.key");
    let key = match read_secret(&path) {
        Ok(text) => rcgen::KeyPair::from_pem(&text).map_err(DevError::Made)?,
        Err(FolderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = rcgen::KeyPair::generate().map_err(DevError::Made)?;
            let text = Zeroizing::new(key.serialize_pem());
            write_secret(&path, text.as_bytes())?;
            key
        }
        Err(error) => return Err(error.into()),
    };
    // Its name says which it is, where several are trusted.
    let digest = Digest::of(key.public_key_raw()).to_string();
    let short: String = digest.chars().rev().take(8).collect();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = name_of(&format!("realm development CA {short}"));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    let (back_s, long_s) = (
        BACK_DAYS * SECONDS_PER_DAY,
        AUTHORITY_DAYS * SECONDS_PER_DAY,
    );
    lasts(&mut params, now_s - back_s, now_s + long_s);
    let file = authority_file(own);
    if !file.exists() {
        let certificate = params.self_signed(&key).map_err(DevError::Made)?;
        write_atomic(&file, certificate.pem().as_bytes())?;
    }
    Ok(rcgen::Issuer::new(params, key))
}

fn name_of(common: &str) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::CommonName, common);
    name
}

/// From the beginning of the one day to that of the other.
fn lasts(params: &mut rcgen::CertificateParams, from_s: i64, to_s: i64) {
    let day = |unix_s: i64| {
        let at = jiff::Timestamp::from_second(unix_s).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        let small = |number: i8| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(date.year().into(), small(date.month()), small(date.day()))
    };
    params.not_before = day(from_s);
    params.not_after = day(to_s);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn folder() -> (tempfile::TempDir, RealmFolder) {
        let place = tempfile::tempdir().unwrap();
        let folder = RealmFolder::create(place.path().join(".realm")).unwrap();
        (place, folder)
    }

    #[test]
    fn one_authority_gives_certificates_for_more_and_more_hosts() {
        let (_place, folder) = folder();
        let first = make(&folder, &[]).unwrap();
        assert_eq!(first.hosts, ["127.0.0.1", "::1", "localhost"]);
        let authority = std::fs::read(&first.authority).unwrap();
        let next = make(&folder, &["Shop.localhost".to_owned(), "[::2]".to_owned()]).unwrap();
        assert_eq!(
            next.hosts,
            ["127.0.0.1", "::1", "::2", "localhost", "shop.localhost"]
        );
        assert_eq!(std::fs::read(&next.authority).unwrap(), authority);
        let days = (next.validity.not_after_s - now_s()) / SECONDS_PER_DAY;
        assert!((LEAF_DAYS - 1..=LEAF_DAYS).contains(&days), "{days}");
        let own = folder_of(&folder);
        for (name, mode) in [("dev-ca.key", 0o600), ("dev.pem", 0o600), ("", 0o700)] {
            let found = std::fs::metadata(own.join(name)).unwrap().mode() & 0o777;
            assert_eq!(found, mode, "{name}");
        }
    }

    #[test]
    fn a_certificate_is_renewed_before_it_ends_and_when_it_is_broken() {
        let (_place, folder) = folder();
        let own = folder_of(&folder);
        let leaf = || std::fs::read(leaf_file(&own)).unwrap();
        keep(&own, now_s()).unwrap();
        let first = leaf();
        let after = |days: i64| now_s() + days * SECONDS_PER_DAY;
        keep(&own, after(LEAF_DAYS - RENEW_DAYS - 2)).unwrap();
        assert_eq!(leaf(), first);
        keep(&own, after(LEAF_DAYS - RENEW_DAYS)).unwrap();
        let second = leaf();
        assert_ne!(second, first);
        std::fs::write(leaf_file(&own), b"nothing").unwrap();
        keep(&own, now_s()).unwrap();
        assert!(Certificate::from_pem(&leaf(), &leaf()).is_ok());
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let (_place, folder) = folder();
        for host in [
            "", "a b", "-a", "a..b", "a/b", "a\nb", "*.", "*", "a*.b", "http://a",
        ] {
            let made = make(&folder, &[host.to_owned()]);
            assert!(matches!(made, Err(DevError::Host { .. })), "{host}");
        }
        let many: Vec<String> = (0..HOSTS_MAX).map(|number| format!("h{number}")).collect();
        assert!(matches!(make(&folder, &many), Err(DevError::TooMany)));
    }
}
