//! `[tls]` and `[tls.acme]`: certificates of HTTPS, and what else belongs to it.
//!
//! Not the files themselves, which the node reads.

use serde::{Deserialize, Serialize};

use super::{bad, section};
use crate::codes;
use crate::fields::{Fields, Report, cut};
use crate::manifest::{ValueError, directory, dns_name, without_duplicates, without_places};
use crate::section::{Absent, Form, Key, Kind, Section};

/// Between the two files of a pair, as in `dirs` of the manifest.
const BETWEEN: &str = "::";
/// Where Let's Encrypt takes orders.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Names that one node may order certificates for: each is an order of its own, and authorities count.
pub const ACME_NAMES_MAX: usize = 100;
const SECONDS_PER_DAY: u64 = 86_400;
/// Ten years: more days in `hsts` are a mistake.
const HSTS_DAYS_MAX: u64 = 3_650;

const FILE: Form = Form {
    expected: "an absolute path of a file",
    pattern: "^/",
    example: "/etc/realm/clients.pem",
};
const PAIR: Form = Form {
    expected: "`CERTIFICATES::KEY`, two absolute paths, or one of a file that has both",
    pattern: "^/",
    example: "/etc/realm/shop.crt::/etc/realm/shop.key",
};
const DAYS: Form = Form {
    expected: "a number of days like `365d`",
    pattern: "^[0-9]{1,4}d$",
    example: "365d",
};
const HOST: Form = Form {
    expected: "a host name without wildcards",
    pattern: "^[A-Za-z0-9.-]+$",
    example: "www.example.com",
};
const DIRECTORY: Form = Form {
    expected: "the `https://` address of an ACME directory",
    pattern: "^https://[^ ]+$",
    example: "https://acme-v02.api.letsencrypt.org/directory",
};
const CONTACT: Form = Form {
    expected: "an address like `ops@example.com`",
    pattern: "^[^@ ]+@[^@ ]+$",
    example: "ops@example.com",
};

/// `[tls]`.
pub(super) static TLS: Section = Section {
    title: "[tls]",
    doc: "Certificates of HTTPS (`https` under [listen]), and what else belongs to it. See [https.md](https.md).",
    keys: &[
        Key {
            name: "certificates",
            kind: Kind::Texts(PAIR),
            absent: Absent::Means("none"),
            doc: "Certificates in PEM, each with its chain and its key. The name that a client asks for chooses, an exact one before a wildcard; where none fits, the first is shown. Read again when they change",
        },
        Key {
            name: "dev",
            kind: Kind::Boolean,
            absent: Absent::Word("false"),
            doc: "Show the certificate of `realm cert dev`; it is made if there is none",
        },
        Key {
            name: "acme",
            kind: Kind::Table(&ACME),
            absent: Absent::Means("not at all"),
            doc: "Order certificates from an authority, and renew them",
        },
        Key {
            name: "redirect",
            kind: Kind::Boolean,
            absent: Absent::Word("false"),
            doc: "Send requests over plain HTTP to HTTPS (308), instead of answering them",
        },
        Key {
            name: "redirect_port",
            kind: Kind::Integer {
                min: 1,
                max: u16::MAX as u64,
            },
            absent: Absent::Means("that of the first `https` address"),
            doc: "The port that clients reach HTTPS on, where another one is forwarded here",
        },
        Key {
            name: "hsts",
            kind: Kind::Text(DAYS),
            absent: Absent::Means("nothing is said"),
            doc: "For how long browsers shall ask for nothing but HTTPS (`Strict-Transport-Security`)",
        },
        Key {
            name: "client_ca",
            kind: Kind::Text(FILE),
            absent: Absent::Means("clients need no certificate"),
            doc: "Certificates in PEM of the authorities that vouch for clients, on all `https` addresses",
        },
        Key {
            name: "client_auth",
            kind: Kind::OneOf(&["required", "optional"]),
            absent: Absent::Word("required"),
            doc: "With `client_ca`: whether a client without a certificate comes in",
        },
    ],
};

/// `[tls.acme]`.
pub(super) static ACME: Section = Section {
    title: "[tls.acme]",
    doc: "An authority that gives certificates by ACME (RFC 8555): Let's Encrypt, or another one. It looks at port 80 (HTTP-01) or 443 (TLS-ALPN-01) of each name.",
    keys: &[
        Key {
            name: "terms_agreed",
            kind: Kind::Boolean,
            absent: Absent::Refused,
            doc: "`true`: you agree to the terms of the authority",
        },
        Key {
            name: "contact",
            kind: Kind::Text(CONTACT),
            absent: Absent::Means("none is given"),
            doc: "Whom the authority writes to",
        },
        Key {
            name: "names",
            kind: Kind::Texts(HOST),
            absent: Absent::Means("the hosts of all routes, as far as they are exact names"),
            doc: "Names to order certificates for, one each; at most 100",
        },
        Key {
            name: "directory",
            kind: Kind::Text(DIRECTORY),
            absent: Absent::Word(LETS_ENCRYPT),
            doc: "Where the authority takes orders",
        },
        Key {
            name: "challenge",
            kind: Kind::OneOf(&["http-01", "tls-alpn-01"]),
            absent: Absent::Means(
                "`http-01` where the node listens for plain HTTP, else `tls-alpn-01`",
            ),
            doc: "How the authority sees that a name leads here",
        },
        Key {
            name: "shared",
            kind: Kind::Boolean,
            absent: Absent::Word("true"),
            doc: "Approved nodes of the realm that order for the same name share one certificate with its key, so that one of them orders it, and any of them answers the authority",
        },
        Key {
            name: "root",
            kind: Kind::Text(FILE),
            absent: Absent::Means("what this machine trusts"),
            doc: "Certificates in PEM that the connection to the authority is checked with instead: for one in your own network",
        },
    ],
};

/// HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// Certificates in files; the first is the default.
    pub certificates: Vec<CertificateFiles>,
    /// Whether the certificate for development is shown.
    pub dev: bool,
    /// The authority that certificates are ordered from.
    pub acme: Option<AcmeSettings>,
    /// Whether plain HTTP is sent to HTTPS.
    pub redirect: bool,
    /// The port that it is sent to; `None`: that of the first address.
    pub redirect_port: Option<u16>,
    /// For how many seconds browsers shall stay with HTTPS.
    pub hsts_s: Option<u64>,
    /// The file of authorities that vouch for clients.
    pub client_ca: Option<String>,
    /// Whether clients must have a certificate, where there are such authorities.
    pub client_auth: ClientAuth,
}

/// A certificate with its chain, and its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The file of the chain, the server's own certificate first.
    pub chain: String,
    /// The file of the key; it may be the same.
    pub key: String,
}

/// Whether clients must have a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAuth {
    /// Nobody comes in without one.
    #[default]
    Required,
    /// Who has none comes in too.
    Optional,
}

/// An authority that certificates are ordered from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeSettings {
    /// Where it takes orders.
    pub directory: String,
    /// Whom it writes to.
    pub contact: Option<String>,
    /// For what; empty: the exact hosts of the routes.
    pub names: Vec<String>,
    /// How it sees that a name leads here; `None`: by what is listened on.
    pub challenge: Option<AcmeChallenge>,
    /// Whether nodes of the realm share certificates.
    pub shared: bool,
    /// Certificates that the connection to it is checked with.
    pub root: Option<String>,
}

/// How an authority sees that a name leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcmeChallenge {
    /// By a request over plain HTTP, on port 80.
    #[serde(rename = "http-01")]
    Http,
    /// By a handshake on port 443.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn,
}

impl TlsSettings {
    /// Whether anything of it says where certificates come from.
    pub fn has_certificates(&self) -> bool {
        !self.certificates.is_empty() || self.dev || self.acme.is_some()
    }
}

pub(super) fn read(report: &mut Report<'_>, root: &Fields<'_, '_>) -> TlsSettings {
    let Some(tls) = section(report, root, "tls", &TLS) else {
        return TlsSettings::default();
    };
    let certificates = tls.texts(report, "certificates", files);
    let settings = TlsSettings {
        certificates: without_places(certificates),
        dev: tls.boolean(report, "dev"),
        acme: read_acme(report, &tls),
        redirect: tls.boolean(report, "redirect"),
        redirect_port: tls
            .integer(report, "redirect_port")
            .and_then(|port| u16::try_from(port).ok()),
        hsts_s: tls.text(report, "hsts", days),
        client_ca: tls.text(report, "client_ca", file),
        client_auth: tls
            .choice(
                report,
                "client_auth",
                &[ClientAuth::Required, ClientAuth::Optional],
            )
            .unwrap_or_default(),
    };
    for (key, of, is_there) in [
        ("client_auth", "client_ca", settings.client_ca.is_some()),
        ("redirect_port", "redirect", settings.redirect),
    ] {
        if let Some(place) = tls.key_span(key).filter(|_| !is_there) {
            let message = format!("`{key}` says nothing without `{of}`");
            report.warning(codes::NO_EFFECT, place, message, None);
        }
    }
    settings
}

fn read_acme(report: &mut Report<'_>, tls: &Fields<'_, '_>) -> Option<AcmeSettings> {
    let acme = section(report, tls, "acme", &ACME)?;
    let agreed = acme.boolean(report, "terms_agreed");
    if let Some(place) = acme.key_span("terms_agreed").filter(|_| !agreed) {
        let message = "an authority gives certificates to those who agree to its terms".to_owned();
        let hint = "read them, then write `terms_agreed = true`".to_owned();
        report.error(codes::BAD_VALUE, place, message, Some(hint));
    }
    let names = acme.texts(report, "names", host);
    if let Some((_, place)) = names.get(ACME_NAMES_MAX) {
        let message = format!("certificates are ordered for at most {ACME_NAMES_MAX} names");
        report.error(codes::OUT_OF_RANGE, place.clone(), message, None);
    }
    let directory = acme.text(report, "directory", |text| {
        let rest = text.strip_prefix("https://");
        let is_plain =
            |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
        match rest.is_some_and(is_plain) {
            true => Ok(text.to_owned()),
            false => Err(bad(text, DIRECTORY.expected)),
        }
    });
    let challenges = [AcmeChallenge::Http, AcmeChallenge::TlsAlpn];
    Some(AcmeSettings {
        directory: directory.unwrap_or_else(|| LETS_ENCRYPT.to_owned()),
        contact: acme.text(report, "contact", contact),
        names: without_duplicates(report, "names", names),
        challenge: acme.choice(report, "challenge", &challenges),
        shared: acme.boolean(report, "shared"),
        root: acme.text(report, "root", file),
    })
}

fn files(text: &str) -> Result<CertificateFiles, ValueError> {
    let (chain, key) = text.split_once(BETWEEN).unwrap_or((text, text));
    let wrong = |hint: Option<String>| bad(text, PAIR.expected).hint(hint);
    let path = |path: &str| {
        if path.is_empty() {
            let hint =
                "`::` stands between two paths; one file that has both is written without `::`";
            return Err(wrong(Some(hint.to_owned())));
        }
        if path.contains(BETWEEN) {
            return Err(wrong(None));
        }
        if let Some((chain, key)) = path.split_once(":/") {
            let hint = format!(
                "two colons stand between both: `{}::/{}`",
                cut(chain),
                cut(key)
            );
            return Err(wrong(Some(hint)));
        }
        directory(path).map_err(|_| {
            let name = path.trim_start_matches("./");
            let is_relative = !name.starts_with('/') && !name.contains("..");
            wrong(is_relative.then(|| format!("write the whole path: `/etc/realm/{}`", cut(name))))
        })
    };
    Ok(CertificateFiles {
        chain: path(chain)?,
        key: path(key)?,
    })
}

fn file(text: &str) -> Result<String, ValueError> {
    directory(text).map_err(|_| bad(text, FILE.expected))
}

fn days(text: &str) -> Result<u64, ValueError> {
    let number = text
        .strip_suffix('d')
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse::<u64>().ok());
    match number {
        Some(days) if days <= HSTS_DAYS_MAX => Ok(days * SECONDS_PER_DAY),
        Some(_) => {
            let message = format!("`{}` is more than {HSTS_DAYS_MAX} days", cut(text));
            Err(ValueError::new(codes::OUT_OF_RANGE, message))
        }
        None => Err(bad(text, DAYS.expected)),
    }
}

fn host(text: &str) -> Result<String, ValueError> {
    let name = text.to_ascii_lowercase();
    if name.starts_with("*.") {
        let hint = "a wildcard needs a challenge in the DNS, which is not there: name each host";
        return Err(bad(text, HOST.expected).hint(Some(hint.to_owned())));
    }
    match dns_name(&name) {
        Ok(name) if name.contains('.') => Ok(name),
        Ok(_) | Err(_) => Err(bad(text, HOST.expected)),
    }
}

fn contact(text: &str) -> Result<String, ValueError> {
    let text = text.strip_prefix("mailto:").unwrap_or(text);
    let is_plain = text.len() <= 254 && text.bytes().all(|byte| byte.is_ascii_graphic());
    let parts = text.split_once('@').filter(|_| is_plain);
    match parts {
        Some((name, host)) if !name.is_empty() && host.contains('.') && !host.contains('@') => {
            Ok(text.to_owned())
        }
        Some(_) | None => Err(bad(text, CONTACT.expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn good(text: &str) -> super::super::NodeConfig {
        let (config, problems) = parse(text);
        assert_eq!(problems, [], "{text}");
        config.expect("no problems")
    }

    #[test]
    fn every_key_is_read() {
        let config = good(
            r#"
[listen]
https = ["0.0.0.0:443", "[::]:443"]
proxy_protocol_from = ["10.0.0.0/8", "192.0.2.1"]
[tls]
certificates = ["/etc/a.crt::/etc/a.key", "/etc/both.pem"]
dev = true
redirect = true
redirect_port = 8443
hsts = "365d"
client_ca = "/etc/clients.pem"
client_auth = "optional"
[tls.acme]
terms_agreed = true
contact = "mailto:ops@example.com"
names = ["Example.com", "www.example.com"]
directory = "https://localhost:14000/dir"
challenge = "tls-alpn-01"
root = "/etc/pebble.pem"
shared = false
"#,
        );
        let listen = config.listen.https.iter().map(ToString::to_string);
        assert_eq!(listen.collect::<Vec<_>>(), ["0.0.0.0:443", "[::]:443"]);
        assert_eq!(
            config.listen.proxy_protocol_from,
            ["10.0.0.0/8", "192.0.2.1"]
        );
        let files = |chain: &str, key: &str| CertificateFiles {
            chain: chain.to_owned(),
            key: key.to_owned(),
        };
        let expected = TlsSettings {
            certificates: vec![
                files("/etc/a.crt", "/etc/a.key"),
                files("/etc/both.pem", "/etc/both.pem"),
            ],
            dev: true,
            redirect: true,
            redirect_port: Some(8443),
            hsts_s: Some(31_536_000),
            client_ca: Some("/etc/clients.pem".to_owned()),
            client_auth: ClientAuth::Optional,
            acme: Some(AcmeSettings {
                directory: "https://localhost:14000/dir".to_owned(),
                contact: Some("ops@example.com".to_owned()),
                names: vec!["example.com".to_owned(), "www.example.com".to_owned()],
                challenge: Some(AcmeChallenge::TlsAlpn),
                shared: false,
                root: Some("/etc/pebble.pem".to_owned()),
            }),
        };
        assert_eq!(config.tls, expected);
        let least = "[listen]\nhttps = [\"127.0.0.1:443\"]\n[tls.acme]\nterms_agreed = true\n";
        let least = good(least).tls.acme.expect("there");
        assert_eq!(
            (least.directory.as_str(), least.names.len()),
            (LETS_ENCRYPT, 0)
        );
    }

    #[test]
    fn what_does_not_do_is_told() {
        let check = |text: &str, code: &str| {
            let (config, problems) = parse(text);
            let errors = problems.iter().filter(|one| one.code != codes::NO_EFFECT);
            let codes: Vec<_> = errors.map(|problem| problem.code).collect();
            assert_eq!((config, codes), (None, vec![code]), "{text} {problems:?}");
        };
        let tls = |rest: &str, code| check(&format!("[tls]\n{rest}\n"), code);
        let acme = |rest: &str, code| {
            check(&format!("[tls.acme]\nterms_agreed = true\n{rest}\n"), code);
        };
        tls("certificates = [\"a.pem\"]", codes::BAD_VALUE);
        tls("certificates = [\"/a.pem::\"]", codes::BAD_VALUE);
        tls("certificates = [\"/a::/b::/c\"]", codes::BAD_VALUE);
        tls("certificates = [\"/a/../b\"]", codes::BAD_VALUE);
        tls("hsts = \"1y\"", codes::BAD_VALUE);
        tls("hsts = \"+1d\"", codes::BAD_VALUE);
        tls("hsts = \"9999d\"", codes::OUT_OF_RANGE);
        tls(
            "client_ca = \"/a\"\nclient_auth = \"maybe\"",
            codes::BAD_VALUE,
        );
        tls("redirect = true\nredirect_port = 0", codes::OUT_OF_RANGE);
        let (config, problems) = parse("[tls]\nclient_auth = \"optional\"\nredirect_port = 443\n");
        let codes: Vec<_> = problems.iter().map(|problem| problem.code).collect();
        // And that nobody is shown anything.
        assert_eq!((config.is_some(), codes), (true, vec![codes::NO_EFFECT; 3]));
        tls("redirect = \"yes\"", codes::WRONG_TYPE);
        tls("certificate = []", codes::UNKNOWN_KEY);
        check("[tls.acme]\n", codes::MISSING_KEY);
        check("[tls.acme]\nterms_agreed = false\n", codes::BAD_VALUE);
        acme("names = [\"*.example.com\"]", codes::BAD_VALUE);
        acme("names = [\"localhost\"]", codes::BAD_VALUE);
        acme("names = [\"192.0.2.1\"]", codes::BAD_VALUE);
        acme("directory = \"http://a.example/\"", codes::BAD_VALUE);
        acme(
            "names = [\"a.example\", \"A.example\"]",
            codes::DUPLICATE_VALUE,
        );
        acme("contact = \"ops\"", codes::BAD_VALUE);
        acme("challenge = \"dns-01\"", codes::BAD_VALUE);
        check("[listen]\nhttps = [\"127.0.0.1:443\"]\n", codes::BAD_VALUE);
        check(
            "[listen]\nproxy_protocol_from = [\"10.0.0.1/8\"]\n",
            codes::BAD_VALUE,
        );
    }
}
