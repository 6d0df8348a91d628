//! Reads what a manifest names behind a binding: `embedded`, or the URL of a server.

use std::net::{IpAddr, Ipv6Addr};

use super::{Backend, Server};
use crate::manifest::{check_endpoint, check_region, dns_name, ends_in_a_number};

/// Bytes of a user or the name of a database.
const WORD_BYTES_MAX: usize = 63;

/// What is wrong, and a hint.
pub(super) type Wrong = (String, Option<String>);

fn wrong<T>(why: impl Into<String>) -> Result<T, Wrong> {
    Err((why.into(), None))
}

pub(super) fn read(text: &str) -> Result<Backend, Wrong> {
    if text == "embedded" {
        return Ok(Backend::Embedded);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong(format!("expected {}", Backend::EXPECTED));
    };
    if text.len() > 512 || text.chars().any(|c| c.is_control() || c == ' ') {
        return wrong("it is too long, or has a space or a control character in it");
    }
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, query),
        None => (rest, ""),
    };
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, path),
        None => (rest, ""),
    };
    let no_query = || match query {
        "" => Ok(()),
        _ => wrong("nothing may follow a `?` here"),
    };
    match scheme {
        "redis" | "rediss" => {
            no_query()?;
            let database = match path {
                "" => 0,
                number => number.parse().map_err(|_| {
                    let why = "what follows the `/` is the number of a database";
                    (why.to_owned(), None)
                })?,
            };
            let server = server(authority, 6379, scheme == "rediss")?;
            Ok(Backend::Redis { server, database })
        }
        "nats" | "tls" => {
            let devices = match query {
                "" => false,
                "mqtt=1" => true,
                _ => return wrong("only `?mqtt=1` may follow it"),
            };
            if !path.is_empty() {
                return wrong("a path has no place in it");
            }
            let server = server(authority, 4222, scheme == "tls")?;
            Ok(Backend::Nats { server, devices })
        }
        "postgres" | "postgresql" => {
            let tls = match query {
                "" | "sslmode=verify-full" => true,
                "sslmode=disable" => false,
                "sslmode=require" | "sslmode=prefer" | "sslmode=verify-ca" | "sslmode=allow" => {
                    let hint = "leave `sslmode` out: the certificate is checked; or write `?sslmode=disable`, on a network that nobody reads";
                    return Err((
                        "TLS without a check of the server's name is not spoken".to_owned(),
                        Some(hint.to_owned()),
                    ));
                }
                _ => return wrong("only `?sslmode=disable` may follow it"),
            };
            let server = server(authority, 5432, tls)?;
            let database = word(path, "the name of the database, which follows the `/`,")?;
            Ok(Backend::Postgres { server, database })
        }
        "s3" => s3(authority, path, query),
        "otlp+http" | "otlp+https" => {
            no_query()?;
            let tls = scheme == "otlp+https";
            // What collectors listen on; behind TLS they stand where HTTPS is.
            let server = server(authority, if tls { 443 } else { 4318 }, tls)?;
            if server.user.is_some() {
                return wrong("whoever sends says so in headers: `secret = \"NAME\"`");
            }
            let path = plain_path(path)?;
            let ends = ["/v1/traces", "/v1/metrics", "/v1/logs", "/v1"];
            if ends.iter().any(|end| path.ends_with(end)) {
                return wrong("`/v1/traces` and its siblings are added to it: leave them out");
            }
            Ok(Backend::Otlp { server, path })
        }
        "openai+http" | "openai+https" => {
            no_query()?;
            let tls = scheme == "openai+https";
            let server = server(authority, if tls { 443 } else { 80 }, tls)?;
            if server.user.is_some() {
                return wrong("whoever asks says so with a key: `secret = \"NAME\"`");
            }
            let path = plain_path(path)?;
            let ends = ["/completions", "/embeddings", "/models"];
            if ends.iter().any(|end| path.ends_with(end)) {
                return wrong(
                    "`/chat/completions` and its siblings are added to it: leave them out",
                );
            }
            // What most of them have, and their documentation shows without it as often as with it.
            let path = if path.is_empty() {
                "/v1".to_owned()
            } else {
                path
            };
            Ok(Backend::OpenAi { server, path })
        }
        "smtp" | "smtps" => {
            if !path.is_empty() {
                return wrong("a path has no place in it");
            }
            let starts = scheme == "smtp";
            let tls = match query {
                "" => true,
                "tls=none" if starts => false,
                _ => return wrong("only `?tls=none` may follow `smtp://…`"),
            };
            let server = server(authority, if starts { 587 } else { 465 }, tls)?;
            let starts = starts && tls;
            Ok(Backend::Smtp { server, starts })
        }
        _ => wrong(format!("expected {}", Backend::EXPECTED)),
    }
}

/// What stands between a host and what is added: nothing, or `/` and words.
fn plain_path(path: &str) -> Result<String, Wrong> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let plain = |part: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        !part.is_empty() && part.bytes().all(fits) && !matches!(part, "." | "..")
    };
    if path.is_empty() {
        return Ok(String::new());
    }
    if !path.split('/').all(plain) {
        return wrong(
            "its path is words of letters, digits, `-`, `_`, `.` and `~` with `/` between them",
        );
    }
    Ok(format!("/{path}"))
}

fn s3(bucket: &str, path: &str, query: &str) -> Result<Backend, Wrong> {
    let fits = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)
        });
    if !fits {
        return wrong("a bucket has 3 to 63 lower-case letters, digits, `-` and `.`");
    }
    if !path.is_empty() {
        let hint = "write it as `prefix = \"…\"` beside `backend`";
        return Err((
            "what stands before the names is not a part of the address".to_owned(),
            Some(hint.to_owned()),
        ));
    }
    let (mut region, mut endpoint) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("region", text)) => region = Some(check_region(text)?),
            Some(("endpoint", text)) => endpoint = Some(check_endpoint(text)?),
            Some(_) | None => return wrong("only `region` and `endpoint` may follow the `?`"),
        }
    }
    Ok(Backend::S3 {
        bucket: bucket.to_owned(),
        region,
        endpoint,
    })
}

fn server(authority: &str, default: u16, tls: bool) -> Result<Server, Wrong> {
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        let hint =
            "keep it under `[secrets]` (`realm secret set NAME`), and name it: `secret = \"NAME\"`";
        return Err((
            "a password would be readable in everything that is signed".to_owned(),
            Some(hint.to_owned()),
        ));
    }
    let user = user.map(|user| word(user, "the user")).transpose()?;
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let Some((host, port)) = rest.split_once(']') else {
                return wrong("a bracket is not closed");
            };
            let Ok(host) = host.parse::<Ipv6Addr>() else {
                return wrong("in brackets stands an IPv6 address");
            };
            (host.to_string(), port)
        }
        None => {
            let (host, port) = match address.split_once(':') {
                Some((host, _)) => (host, &address[host.len()..]),
                None => (address, ""),
            };
            let host = match host.parse::<IpAddr>() {
                Ok(address) => address.to_string(),
                Err(_) if ends_in_a_number(host) => {
                    return wrong("its host is neither a name nor an address");
                }
                Err(_) => dns_name(host).map_err(|why| (format!("of its host, {why}"), None))?,
            };
            (host, port)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default,
        Some(number) => match number.parse() {
            Ok(port) if port > 0 => port,
            Ok(_) | Err(_) => return wrong("its port is not one from 1 to 65535"),
        },
        None => return wrong("after the host comes `:` and a port"),
    };
    Ok(Server {
        host,
        port,
        user,
        tls,
    })
}

fn word(text: &str, what: &str) -> Result<String, Wrong> {
    let fits = (1..=WORD_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.$".contains(&byte));
    if fits {
        return Ok(text.to_owned());
    }
    wrong(format!(
        "{what} has 1 to {WORD_BYTES_MAX} letters, digits, `-`, `_`, `.` and `$`"
    ))
}
