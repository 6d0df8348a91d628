//! `source`: where a component's bytes come from, as it is written. Not how they are fetched.

use super::host::dns_name;
use super::value::ValueError;
use super::{Source, World, origin};
use crate::codes;
use crate::digest::Digest;
use crate::fields::{cut, nearest};

const SCHEMES: [&str; 7] = ["file", "http", "https", "registry", "s3", "ipfs", "p2p"];

/// Reads the `source` of a component.
pub(crate) fn source(text: &str) -> Result<Source, ValueError> {
    if text.chars().any(|c| c.is_control()) {
        return error(text, "it has a control character", None);
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        let hint = looks_like_a_path(text).then(|| format!("write `file:{}`", cut(text)));
        return error(text, "it has no scheme", hint);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => file(text, rest),
        scheme @ ("http" | "https") => http(text, scheme, rest),
        "registry" => from_service(text, rest, origin::registry).map(Source::Registry),
        "s3" => from_service(text, rest, origin::object).map(Source::S3),
        "ipfs" => from_service(text, rest, origin::ipfs).map(Source::Ipfs),
        "p2p" => later(text, "p2p", rest),
        unknown => {
            let hint = match unknown {
                "oci" | "docker" | "ghcr.io" => Some("write `registry:…`".to_owned()),
                _ => nearest(unknown, SCHEMES.into_iter())
                    .map(|near| format!("did you mean `{near}:`?")),
            };
            let known = SCHEMES.map(|scheme| format!("`{scheme}:`")).join(", ");
            error(text, &format!("expected one of {known}"), hint)
        }
    }
}

fn file(text: &str, rest: &str) -> Result<Source, ValueError> {
    if rest.contains("@sha256:") {
        let hint = "leave the pin out: `realm.lock` holds the digests of files".to_owned();
        return error(text, "a file carries no pin", Some(hint));
    }
    // `file:///abs` is the URL form of `file:/abs`; anything else after `//` would be a host.
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(path) => {
            let hint = format!("write `file:{}`", cut(path));
            return error(text, "a file is on no other host", Some(hint));
        }
        None => rest,
    };
    if path.trim().is_empty() || path.ends_with('/') {
        return error(text, "it names no file", None);
    }
    Ok(Source::File {
        path: path.to_owned(),
    })
}

fn http(text: &str, scheme: &str, rest: &str) -> Result<Source, ValueError> {
    let Some(rest) = rest.strip_prefix("//") else {
        return error(text, &format!("a URL begins with `{scheme}://`"), None);
    };
    let (location, digest) = pin(text, rest)?;
    let authority = location.split(['/', '?', '#']).next().unwrap_or(location);
    if authority.contains('@') {
        let why = "a user or a password would be readable in everything that is signed";
        return error(text, why, None);
    }
    check_authority(authority).or_else(|why| error(text, &why, None))?;
    if location.contains('#') || !location.bytes().all(|byte| byte.is_ascii_graphic()) {
        return error(
            text,
            "a URL has no blanks, no fragment, and only ASCII",
            None,
        );
    }
    let Some(digest) = digest else {
        let message = format!("`{}` has no pin", cut(text));
        return Err(ValueError::new(codes::PIN_REQUIRED, message).hint(Some(
            "append `@sha256:` and the digest of the bytes: `realm inspect FILE` shows it",
        )));
    };
    Ok(Source::Http {
        url: format!("{scheme}://{location}"),
        digest,
    })
}

/// Reads what a service has; the pin is optional, because `realm apply` writes it into `realm.lock`.
fn from_service<T>(
    text: &str,
    rest: &str,
    read: impl Fn(&str, Option<Digest>) -> Result<T, origin::Wrong>,
) -> Result<T, ValueError> {
    let (location, digest) = pin(text, rest)?;
    read(location, digest).or_else(|(why, hint)| error(text, &why, hint))
}

fn later(text: &str, kind: &str, rest: &str) -> Result<Source, ValueError> {
    let (location, digest) = pin(text, rest)?;
    let location = location.strip_prefix("//").unwrap_or(location);
    if location.is_empty() || location.contains(char::is_whitespace) {
        return error(text, "it names nothing", None);
    }
    Ok(Source::Later {
        kind: kind.to_owned(),
        location: format!("{kind}:{location}"),
        digest,
    })
}

/// Splits the pin off.
fn pin<'t>(text: &str, rest: &'t str) -> Result<(&'t str, Option<Digest>), ValueError> {
    let Some((location, pin)) = rest.rsplit_once("@sha256:") else {
        return Ok((rest, None));
    };
    match format!("sha256:{pin}").parse() {
        Ok(digest) => Ok((location, Some(digest))),
        Err(_) => {
            let hint = "`realm inspect FILE` shows the digest of a file".to_owned();
            error(text, "a pin is `@sha256:` and 64 hex digits", Some(hint))
        }
    }
}

/// Checks `host[:port]` of a URL.
pub(super) fn check_authority(authority: &str) -> Result<(), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("a bracket is not closed")?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| "in brackets stands an IPv6 address")?;
            (
                None,
                after.strip_prefix(':').or(after.is_empty().then_some("80")),
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(authority), Some("80")),
        },
    };
    if let Some(host) = host
        && host.parse::<std::net::Ipv4Addr>().is_err()
    {
        dns_name(host).map_err(|why| format!("its host does not do: {why}"))?;
    }
    match port.map(str::parse::<u16>) {
        Some(Ok(1..)) => Ok(()),
        Some(Ok(0) | Err(_)) | None => Err("its port is not a number from 1 to 65535".to_owned()),
    }
}

fn looks_like_a_path(text: &str) -> bool {
    text.contains('/') || text.ends_with(".wasm")
}

fn error<T>(text: &str, why: &str, hint: Option<String>) -> Result<T, ValueError> {
    let message = format!("`{}` is not a source: {why}", cut(text));
    Err(ValueError::new(codes::BAD_SOURCE, message).hint(hint))
}

/// Reads the `world` of a component.
pub(crate) fn world(text: &str) -> Result<World, ValueError> {
    let worlds = [
        ("wasi:http/proxy", "0.2", World::Http),
        ("wasi:http/service", "0.3", World::Http),
        ("wasi:cli/command", "0.2", World::Command),
        ("wasi:cli/command", "0.3", World::Command),
    ];
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    };
    let found = worlds.iter().find(|(known, release, _)| {
        *known == name && version.is_none_or(|version| is_release(version, release))
    });
    if let Some((_, _, world)) = found {
        return Ok(*world);
    }
    let releases: Vec<String> = worlds
        .iter()
        .filter(|(known, _, _)| *known == name)
        .map(|(known, release, _)| format!("`{known}@{release}.x`"))
        .collect();
    let hint = if releases.is_empty() {
        nearest(name, worlds.iter().map(|(known, _, _)| *known))
            .map(|near| format!("did you mean `{near}`?"))
    } else {
        Some(format!("realm runs {}", releases.join(" and ")))
    };
    let message = format!(
        "realm does not run the world `{}`, expected `wasi:http/proxy`, `wasi:http/service` or `wasi:cli/command`",
        cut(text)
    );
    Err(ValueError::new(codes::UNKNOWN_WORLD, message).hint(hint))
}

/// Whether `version` is `release` or one of its patches.
fn is_release(version: &str, release: &str) -> bool {
    match version
        .strip_prefix(release)
        .map(|rest| rest.strip_prefix('.'))
    {
        Some(Some(patch)) => {
            !patch.is_empty() && patch.len() < 6 && patch.bytes().all(|byte| byte.is_ascii_digit())
        }
        Some(None) => version == release,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(text: &str, expected: &str) {
        let source = source(text).expect(text);
        let seen = match &source {
            Source::File { path } => format!("file {path}"),
            Source::Http { url, .. } => format!("http {url}"),
            Source::Registry(source) => source.to_string(),
            Source::S3(source) => source.to_string(),
            Source::Ipfs(source) => source.to_string(),
            Source::Upstream(upstream) => upstream.to_string(),
            Source::Later { kind, location, .. } => format!("{kind} {location}"),
        };
        assert_eq!(seen, expected, "{text}");
        assert_eq!(source.pinned().is_some(), text.contains(PIN), "{text}");
    }

    fn refused(text: &str, code: &str, part: &str) {
        let error = source(text).expect_err(text);
        assert_eq!(error.code, code, "{text}");
        assert!(
            format!("{} {:?}", error.message, error.hint).contains(part),
            "{text}: {error:?}"
        );
    }

    #[test]
    fn sources_are_read() {
        check("file:./build/orders.wasm", "file ./build/orders.wasm");
        check("file:/srv/a b.wasm", "file /srv/a b.wasm");
        check("file:///srv/a.wasm", "file /srv/a.wasm");
        check(
            &format!("https://a.example/x.wasm{PIN}"),
            "http https://a.example/x.wasm",
        );
        check(
            &format!("HTTP://127.0.0.1:8080/x?v=1{PIN}"),
            "http http://127.0.0.1:8080/x?v=1",
        );
        check(&format!("http://[::1]:80/x{PIN}"), "http http://[::1]:80/x");
        check(&format!("http://[::1]/x@y{PIN}"), "http http://[::1]/x@y");
        check(
            &format!("registry:ghcr.io/acme/auth{PIN}"),
            "registry:ghcr.io/acme/auth",
        );
        check("p2p:name", "p2p p2p:name");
    }

    #[test]
    fn other_texts_are_refused_with_what_to_write() {
        refused(
            "./build/a.wasm",
            codes::BAD_SOURCE,
            "write `file:./build/a.wasm`",
        );
        refused("file:", codes::BAD_SOURCE, "names no file");
        refused("file:build/", codes::BAD_SOURCE, "names no file");
        refused("file://host/a.wasm", codes::BAD_SOURCE, "no other host");
        refused(
            &format!("file:a{PIN}"),
            codes::BAD_SOURCE,
            "leave the pin out",
        );
        refused("fil:a", codes::BAD_SOURCE, "did you mean `file:`?");
        refused("oci:ghcr.io/a", codes::BAD_SOURCE, "registry:");
        refused("p2p:", codes::BAD_SOURCE, "names nothing");
        refused("registry:a@sha256:...", codes::BAD_SOURCE, "64 hex digits");
        refused(
            "https://a.example/x.wasm",
            codes::PIN_REQUIRED,
            "append `@sha256:`",
        );
        refused(
            "https:a.example/x",
            codes::BAD_SOURCE,
            "begins with `https://`",
        );
        for authority in [
            "user:pw@a.example",
            "user@a.example",
            "",
            "a b",
            "a:0",
            "a:65536",
            "a:",
            "[::1",
            "[::g]",
            "[::1]x",
            "127.1",
            "a..b",
        ] {
            refused(
                &format!("https://{authority}/x{PIN}"),
                codes::BAD_SOURCE,
                "not a source",
            );
        }
        refused(
            &format!("https://a.example/x#y{PIN}"),
            codes::BAD_SOURCE,
            "fragment",
        );
        refused(
            &format!("https://a.example/x y{PIN}"),
            codes::BAD_SOURCE,
            "blanks",
        );
        refused("file:a\nb", codes::BAD_SOURCE, "control");
    }

    #[test]
    fn worlds_are_named_with_or_without_a_version() {
        for (text, expected) in [
            ("wasi:http/proxy", Ok(World::Http)),
            ("wasi:http/proxy@0.2.6", Ok(World::Http)),
            ("wasi:http/proxy@0.2", Ok(World::Http)),
            ("wasi:http/service@0.3.0", Ok(World::Http)),
            ("wasi:cli/command", Ok(World::Command)),
            ("wasi:cli/command@0.2.0", Ok(World::Command)),
            ("wasi:cli/command@0.3.0", Ok(World::Command)),
            ("wasi:http/proxy@0.3.0", Err("`wasi:http/proxy@0.2.x`")),
            ("wasi:http/proxy@0.20", Err("0.2.x")),
            ("wasi:http/proxy@0.2.", Err("0.2.x")),
            ("wasi:http/proxy@", Err("0.2.x")),
            ("wasi:htp/proxy", Err("did you mean `wasi:http/proxy`?")),
            (
                "wasi:cli/comand@0.2.0",
                Err("did you mean `wasi:cli/command`?"),
            ),
            ("", Err("None")),
        ] {
            match (world(text), expected) {
                (Ok(world), expected) => assert_eq!(Ok(world), expected, "{text}"),
                (Err(error), Err(part)) => assert!(
                    format!("{:?}", error.hint).contains(part),
                    "{text}: {error:?}"
                ),
                (Err(error), Ok(_)) => panic!("{text}: {error}"),
            }
        }
    }
}
