//! Sources that are a service and not a file: a registry, an S3 bucket, IPFS; as they are written.
//!
//! None of them carries a user or a password: what is signed is read by every node. Which servers
//! are asked, and as whom, is up to the machine that asks. Not here: how they are asked.

use std::fmt;

use serde::Serialize;

use super::host::dns_name;
use super::source::check_authority;
use crate::content_id::ContentId;
use crate::digest::Digest;

/// Bytes of a repository's name, as registries have it.
const REPOSITORY_BYTES_MAX: usize = 255;
/// Bytes of a tag, as registries have it.
const TAG_BYTES_MAX: usize = 128;
/// Bytes of an object's key, as S3 has it.
const KEY_BYTES_MAX: usize = 1_024;
/// Bytes of a region: the longest ones have about 20.
const REGION_BYTES_MAX: usize = 64;
/// Names on the way from a CID to a file in it: each is at least one block that is fetched.
const PATH_NAMES_MAX: usize = 16;

/// `registry:ghcr.io/acme/orders:1.2`, an artifact in an OCI registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RegistrySource {
    /// `host[:port]`.
    pub host: String,
    /// The name of the repository there.
    pub repository: String,
    /// The tag; without one, the pin names the bytes.
    pub tag: Option<String>,
    /// The pin, if written: of the component's bytes, not of the manifest in the registry.
    pub digest: Option<Digest>,
}

/// `s3://bucket/key`, an object in S3 or what speaks its protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObjectSource {
    /// The bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// `http[s]://host[:port]` of the server; absent: the one of the machine that asks.
    pub endpoint: Option<String>,
    /// The region; absent: the one of the machine that asks.
    pub region: Option<String>,
    /// The pin, if written.
    pub digest: Option<Digest>,
}

/// `ipfs://CID`, a file in IPFS, or `ipfs://CID/path`, a file in a folder there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct IpfsSource {
    /// What is named by its own content.
    pub cid: ContentId,
    /// The way from there to the file; empty: the CID is the file's.
    pub path: Vec<String>,
    /// The pin, if written.
    pub digest: Option<Digest>,
}

/// What is wrong, and what to write instead.
pub(super) type Wrong = (String, Option<String>);

fn wrong<T>(why: impl Into<String>) -> Result<T, Wrong> {
    Err((why.into(), None))
}

fn wrong_hint<T>(why: impl Into<String>, hint: impl Into<String>) -> Result<T, Wrong> {
    Err((why.into(), Some(hint.into())))
}

/// Reads what is between `registry:` and the pin.
pub(super) fn registry(rest: &str, digest: Option<Digest>) -> Result<RegistrySource, Wrong> {
    let rest = rest.trim_start_matches('/');
    let Some((host, name)) = rest.split_once('/') else {
        return wrong_hint(
            "it names no repository",
            "write `registry:HOST/REPOSITORY:TAG`",
        );
    };
    if host.contains('@') {
        return wrong("a user or a password would be readable in everything that is signed");
    }
    if !looks_like_a_host(host) {
        let hint = format!("write `registry:docker.io/{rest}`, if it is on Docker Hub");
        return wrong_hint("it begins with no host", hint);
    }
    check_authority(host).map_err(|why| (why, None))?;
    let (repository, tag) = match name.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (name, None),
    };
    let fits = repository.len() <= REPOSITORY_BYTES_MAX && repository.split('/').all(is_component);
    if !fits {
        return wrong("a repository is lower-case words with `/`, `.`, `_` and `-` between them");
    }
    match tag {
        Some(tag) if !is_tag(tag) => {
            return wrong("a tag is up to 128 letters, digits, `_`, `.` and `-`");
        }
        None if digest.is_none() => {
            return wrong_hint(
                "it has neither a tag nor a pin",
                "append `:latest` or another tag, or `@sha256:` and the digest of the component",
            );
        }
        Some(_) | None => {}
    }
    Ok(RegistrySource {
        host: host.to_ascii_lowercase(),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// Registries are told from the first word of a repository by this alone.
fn looks_like_a_host(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost"
}

/// Whether `text` is `host[:port]` of a registry.
pub(crate) fn is_registry(text: &str) -> bool {
    looks_like_a_host(text) && check_authority(text).is_ok()
}

/// One word of a repository's name: groups of letters and digits, with separators between them.
fn is_component(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| plain(*byte));
    let bytes = text.as_bytes();
    let mut separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends(bytes.first())
        && ends(bytes.last())
        && separators
            .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    (1..=TAG_BYTES_MAX).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Reads what is between `s3:` and the pin.
pub(super) fn object(rest: &str, digest: Option<Digest>) -> Result<ObjectSource, Wrong> {
    let rest = rest.trim_start_matches('/');
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    let Some((bucket, key)) = place.split_once('/') else {
        return wrong_hint("it names no object", "write `s3://BUCKET/KEY`");
    };
    check_bucket(bucket)?;
    if key.len() > KEY_BYTES_MAX {
        return wrong("a key has at most 1,024 bytes");
    }
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"#\\".contains(&byte);
    if !key.bytes().all(fits) {
        return wrong("a key has only ASCII, no blanks, no `#` and no `\\`");
    }
    // A URL cannot say them: they would name another object.
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return wrong("a part of the key is empty, `.` or `..`");
    }
    let (mut endpoint, mut region) = (None, None);
    for pair in query.iter().flat_map(|query| query.split('&')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (slot, value) = match name {
            "endpoint" => (&mut endpoint, check_endpoint(value)?),
            "region" => (&mut region, check_region(value)?),
            _ => {
                let hint = "the node has its credentials from its own settings";
                return wrong_hint("after `?` stand `endpoint=` and `region=`", hint);
            }
        };
        if slot.replace(value).is_some() {
            return wrong(format!("`{name}=` is there twice"));
        }
    }
    Ok(ObjectSource {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        endpoint,
        region,
        digest,
    })
}

fn check_bucket(bucket: &str) -> Result<(), Wrong> {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = bucket.as_bytes();
    let fits = (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| plain(byte) || b".-".contains(byte))
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && !bucket.contains("..");
    match fits {
        true => Ok(()),
        false => wrong("a bucket has 3 to 63 lower-case letters, digits, `.` and `-`"),
    }
}

/// Reads `http[s]://host[:port]`.
pub(crate) fn check_endpoint(text: &str) -> Result<String, Wrong> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let authority = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let Some(authority) = authority else {
        let hint = "write `https://HOST` or `http://HOST:PORT`";
        return wrong_hint(
            "an address of a server begins with `https://` or `http://`",
            hint,
        );
    };
    if authority.contains('@') {
        return wrong("a user or a password does not belong into an address");
    }
    match check_authority(authority) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => wrong(why),
    }
}

/// Reads the name of a region.
pub(crate) fn check_region(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match (1..=REGION_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => wrong("a region is letters, digits, `-` and `_`, like `eu-central-1`"),
    }
}

/// Reads what is between `ipfs:` and the pin.
pub(super) fn ipfs(rest: &str, digest: Option<Digest>) -> Result<IpfsSource, Wrong> {
    let rest = rest.trim_start_matches('/');
    // As `ipfs` prints a path.
    let rest = rest.strip_prefix("ipfs/").unwrap_or(rest);
    let mut parts = rest.split('/');
    let cid = parts.next().unwrap_or_default();
    let cid = cid.parse().map_err(|error| {
        let hint = "`ipfs add --cid-version=1 FILE` shows the CID of a file".to_owned();
        (format!("{error}"), Some(hint))
    });
    let path: Vec<String> = parts.map(str::to_owned).collect();
    if path.len() > PATH_NAMES_MAX {
        return wrong(format!("a path has at most {PATH_NAMES_MAX} names"));
    }
    let fits = |name: &String| {
        !matches!(name.as_str(), "" | "." | "..")
            && name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
    };
    if !path.iter().all(fits) {
        return wrong("a name in the path is empty, `.` or `..`, or has other than plain ASCII");
    }
    Ok(IpfsSource {
        cid: cid?,
        path,
        digest,
    })
}

/// Whether `host[:port]` is this machine, as its name or address says.
pub fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => dns_name(host).is_ok_and(|host| host == "localhost"),
    }
}

impl fmt::Display for RegistrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registry:{}/{}", self.host, self.repository)?;
        match &self.tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ObjectSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)?;
        let endpoint = self.endpoint.as_ref().map(|value| ("endpoint", value));
        let region = self.region.as_ref().map(|value| ("region", value));
        let pairs = endpoint.into_iter().chain(region);
        for (mark, (name, value)) in ["?", "&"].iter().zip(pairs) {
            write!(f, "{mark}{name}={value}")?;
        }
        Ok(())
    }
}

impl fmt::Display for IpfsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ipfs://{}", self.cid)?;
        self.path.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::codes;
    use crate::manifest::Source;
    use crate::manifest::source::source;

    const PIN: &str = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const CID: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";

    fn shown(source: &Source) -> String {
        match source {
            Source::Registry(source) => source.to_string(),
            Source::S3(source) => source.to_string(),
            Source::Ipfs(source) => source.to_string(),
            Source::File { .. }
            | Source::Http { .. }
            | Source::Upstream(_)
            | Source::Later { .. } => String::new(),
        }
    }

    /// The one spelling is read as itself again, with a pin and without.
    fn check(text: &str, spelling: &str) {
        let plain = source(text).expect(text);
        assert_eq!(shown(&plain), spelling, "{text}");
        assert_eq!(
            (source(spelling), plain.pinned()),
            (Ok(plain), None),
            "{text}"
        );
        let pinned = source(&format!("{text}{PIN}")).expect(text);
        assert_eq!(shown(&pinned), spelling, "{text}");
        assert!(pinned.pinned().is_some(), "{text}");
    }

    fn refused(text: &str, part: &str) {
        let error = source(text).expect_err(text);
        assert_eq!(error.code, codes::BAD_SOURCE, "{text}");
        let said = format!("{} {:?}", error.message, error.hint);
        assert!(said.contains(part), "{text}: {said}");
    }

    #[test]
    fn registries_are_read() {
        for text in [
            "registry:ghcr.io/acme/orders:1.2",
            "registry:localhost/a:latest",
            "registry:127.0.0.1:5000/a/b/c_d__e.f--g:V1_x.y-z",
            "registry:[::1]:5000/a:1",
        ] {
            check(text, text);
        }
        check("registry://GHCR.io/a:1", "registry:ghcr.io/a:1");
        let pinned = source(&format!("registry:ghcr.io/acme/orders{PIN}")).expect("by the pin");
        assert_eq!(shown(&pinned), "registry:ghcr.io/acme/orders");

        refused("registry:ghcr.io/acme/orders", "append `:latest`");
        refused("registry:ghcr.io", "names no repository");
        refused("registry:acme/orders:1", "docker.io/acme/orders:1");
        refused("registry:user:password@ghcr.io/a:1", "readable");
        refused("registry:ghcr.io:0/a:1", "port");
        refused("registry:gh..cr.io/a:1", "host");
        for name in [
            "", "Acme", "a//b", "a.", "-a", "a..b", "a___b", "a._b", "a b", "é",
        ] {
            refused(&format!("registry:ghcr.io/{name}:1"), "lower-case words");
        }
        for tag in ["", ".x", "-x", "a/b", "a:b", "a b", &"a".repeat(129)] {
            refused(&format!("registry:ghcr.io/a:{tag}"), "a tag is");
        }
    }

    #[test]
    fn objects_are_read() {
        for text in [
            "s3://acme/orders.wasm",
            "s3://acme.builds/a/b@1%20:+(x).wasm?endpoint=https://s3.example.com",
            "s3://acme/a?endpoint=http://127.0.0.1:9000&region=garage",
            "s3://acme/a?region=eu-central-1",
        ] {
            check(text, text);
        }
        check("s3:acme/a", "s3://acme/a");
        check(
            "s3:/acme/a?region=x&endpoint=http://b/",
            "s3://acme/a?endpoint=http://b&region=x",
        );

        refused("s3:", "names no object");
        refused("s3://bucket", "names no object");
        for bucket in [
            "ab",
            "Acme",
            "a_b",
            "-ab",
            "ab-",
            "a..b",
            "é12",
            &"a".repeat(64),
        ] {
            refused(&format!("s3://{bucket}/key"), "a bucket has");
        }
        for key in ["", "/a", "a//b", "a/", "../b", "a/./b", "a/.."] {
            refused(&format!("s3://acme/{key}"), "a part of the key");
        }
        for key in ["a b", "a#b", "a\\b", "ü"] {
            refused(&format!("s3://acme/{key}"), "a key has only");
        }
        refused(&format!("s3://acme/{}", "a".repeat(1_025)), "at most 1,024");
        refused("s3://acme/a?", "after `?` stand");
        refused("s3://acme/a?access_key_id=x", "its own settings");
        refused("s3://acme/a?region=", "a region is");
        refused("s3://acme/a?region=a&region=b", "twice");
        refused(
            "s3://acme/a?endpoint=s3.example.com",
            "begins with `https://`",
        );
        refused("s3://acme/a?endpoint=http://x/path", "host");
        refused(
            "s3://acme/a?endpoint=http://user:password@x",
            "user or a password",
        );
    }

    #[test]
    fn files_of_ipfs_are_read() {
        let file = format!("ipfs://{CID}");
        check(&file, &file);
        check(&format!("ipfs:{CID}"), &file);
        check(&format!("ipfs:/ipfs/{CID}"), &file);
        check(&format!("{file}/a/b.wasm"), &format!("{file}/a/b.wasm"));
        check(
            "ipfs:QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
            "ipfs://QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
        );

        refused("ipfs:", "not a CID");
        refused("ipfs:bafy", "ipfs add --cid-version=1");
        for path in ["", "a//b", "..", "a/./b", "a b", "a?b", "a#b", "ü"] {
            refused(&format!("{file}/{path}"), "a name in the path");
        }
        refused(&format!("{file}{}", "/a".repeat(17)), "at most 16 names");
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (authority, expected) in [
            ("localhost", true),
            ("LOCALHOST:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::2]:5000", false),
            ("10.0.0.1", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com:80", false),
            ("", false),
        ] {
            assert_eq!(super::is_loopback(authority), expected, "{authority}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer_and_the_spelling_is_read_again(
            scheme in "registry:|s3://|ipfs://",
            rest in prop_oneof!["\\PC{0,60}", "[a-z0-9.:/@?=&-]{0,60}"],
        ) {
            if let Ok(read) = source(&format!("{scheme}{rest}")) {
                let pin = read.pinned().map(|digest| format!("@{digest}")).unwrap_or_default();
                prop_assert_eq!(source(&format!("{}{pin}", shown(&read))), Ok(read));
            }
        }
    }
}
