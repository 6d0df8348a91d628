//! Bindings: what stands behind the interfaces that guests use, as a manifest names it, and what a node
//! allows of it. Not how it is spoken to: that is the backends'.

mod read;
mod values;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::manifest::{ValueError, check_endpoint};
use crate::{codes, fields::cut};

pub(crate) use values::{issuer, model, prefix, sender};

/// Identifiers that every component may open by itself, whatever it binds: its secrets.
pub const SECRETS: &str = "secrets";

/// An interface with something behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interface {
    /// `wasi:keyvalue`.
    Keyvalue,
    /// `wasi:blobstore`.
    Blobstore,
    /// `wasi:messaging`.
    Messaging,
    /// `wasi:sql`.
    Sql,
    /// `wasi:otel`.
    Otel,
    /// `realm:cloud/keys`.
    Keys,
    /// `realm:cloud/identity`.
    Identity,
    /// `realm:cloud/mail`.
    Mail,
    /// `realm:cloud/streams`.
    Streams,
    /// `realm:cloud/workflows`.
    Workflows,
    /// `realm:cloud/inference`.
    Inference,
    /// `wasi:config`.
    Config,
}

impl Interface {
    /// Every interface, in the order of [`Interface::as_str`] in keys.
    pub const ALL: [Self; 12] = [
        Self::Keyvalue,
        Self::Blobstore,
        Self::Messaging,
        Self::Sql,
        Self::Otel,
        Self::Keys,
        Self::Identity,
        Self::Mail,
        Self::Streams,
        Self::Workflows,
        Self::Inference,
        Self::Config,
    ];

    /// As a manifest writes it: `wasi:keyvalue`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keyvalue => "wasi:keyvalue",
            Self::Blobstore => "wasi:blobstore",
            Self::Messaging => "wasi:messaging",
            Self::Sql => "wasi:sql",
            Self::Otel => "wasi:otel",
            Self::Keys => "realm:cloud/keys",
            Self::Identity => "realm:cloud/identity",
            Self::Mail => "realm:cloud/mail",
            Self::Streams => "realm:cloud/streams",
            Self::Workflows => "realm:cloud/workflows",
            Self::Inference => "realm:cloud/inference",
            Self::Config => "wasi:config",
        }
    }

    /// Its last word: `keyvalue`.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Keyvalue => "keyvalue",
            Self::Blobstore => "blobstore",
            Self::Messaging => "messaging",
            Self::Sql => "sql",
            Self::Otel => "otel",
            Self::Keys => "keys",
            Self::Identity => "identity",
            Self::Mail => "mail",
            Self::Streams => "streams",
            Self::Workflows => "workflows",
            Self::Inference => "inference",
            Self::Config => "config",
        }
    }

    /// Whose stores stand behind it: a binding of one can be bound as the other.
    #[must_use]
    pub const fn kept_as(self) -> Self {
        match self {
            Self::Config => Self::Keyvalue,
            Self::Keyvalue
            | Self::Blobstore
            | Self::Messaging
            | Self::Sql
            | Self::Otel
            | Self::Keys
            | Self::Identity
            | Self::Mail
            | Self::Streams
            | Self::Workflows
            | Self::Inference => self,
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One `[bindings.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Binding {
    /// What it is for.
    pub interface: Interface,
    /// What stands behind it.
    pub backend: Backend,
    /// What stands before every name on a server, and tells vaults over the same roots apart: `None`: the
    /// binding's own name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prefix: Option<String>,
    /// The name under `[secrets]` of the password, or of `USER:PASSWORD`; of a collector that of its
    /// headers, of a model that of the key of its engine, of keys and identities that of their roots.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<String>,
    /// Of an identity: who signs, as its tokens say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub issuer: Option<String>,
    /// Of mail: who may send, addresses and `*@DOMAIN`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub senders: Vec<String>,
    /// Of inference: the model, as its engine calls it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// Of objects: where their changes are told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub events: Option<Events>,
    /// Of streams: hours after which records go; `None`: they stay.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keep_hours: Option<u32>,
    /// Of streams: MiB of each, of which the oldest records go for new ones.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keep_mb: Option<u32>,
}

/// Where the changes of objects are told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Events {
    /// The name of a binding of `wasi:messaging`.
    pub binding: String,
    /// The topic.
    pub topic: String,
    /// What that binding says.
    pub spec: Box<Binding>,
}

/// What stands behind a binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Backend {
    /// A store of the node's own.
    Embedded,
    /// Redis or Valkey.
    Redis {
        /// Where.
        server: Server,
        /// The number of the database.
        database: u16,
    },
    /// NATS with JetStream.
    Nats {
        /// Where.
        server: Server,
        /// Whether devices are connected with it over MQTT, for which messages are kept while they are
        /// away.
        devices: bool,
    },
    /// A bucket behind the API of S3.
    S3 {
        /// Its name.
        bucket: String,
        /// The region; `None`: `us-east-1`.
        region: Option<String>,
        /// The server, `https://HOST[:PORT]` or `http://…`; `None`: Amazon's.
        endpoint: Option<String>,
    },
    /// PostgreSQL.
    Postgres {
        /// Where.
        server: Server,
        /// The name of the database.
        database: String,
    },
    /// A collector of OpenTelemetry, by OTLP over HTTP.
    Otlp {
        /// Where.
        server: Server,
        /// What stands before `/v1/traces`, or nothing: `/otlp`.
        path: String,
    },
    /// A server that takes mail.
    Smtp {
        /// Where; `tls` is whether there is TLS at all.
        server: Server,
        /// Whether TLS begins after the first words.
        starts: bool,
    },
    /// An engine that runs models, behind the API of OpenAI.
    OpenAi {
        /// Where.
        server: Server,
        /// What stands before `/chat/completions`: `/v1`.
        path: String,
    },
}

/// Where a server listens, and as whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// A name, lower case, or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user, where one is named here; the password is a secret.
    pub user: Option<String>,
    /// Whether it is asked over TLS, with its certificate checked.
    pub tls: bool,
}

impl Backend {
    /// What a manifest may write, in words.
    pub const EXPECTED: &str = "`embedded`, `redis://HOST[:PORT][/NUMBER]`, `nats://HOST[:PORT]`, `s3://BUCKET[?region=…&endpoint=https://HOST]`, `postgres://[USER@]HOST[:PORT]/DATABASE`, `otlp+http://HOST[:PORT]`, `smtp://[USER@]HOST[:PORT]` or `openai+http://HOST[:PORT][/PATH]` (with TLS `rediss://`, `tls://`, `otlp+https://`, `smtps://`, `openai+https://`; PostgreSQL without it by `?sslmode=disable`, mail by `?tls=none`; `nats://…?mqtt=1` where devices are)";

    /// Whom a node has to allow, as `[backends] allow` in node.toml writes it; `None`: nobody.
    pub fn origin(&self) -> Option<String> {
        match self {
            Self::Embedded => None,
            Self::Redis { server, .. } => Some(format!("{}://{server}", redis_scheme(server))),
            Self::Nats { server, .. } => Some(format!("{}://{server}", nats_scheme(server))),
            Self::Postgres { server, .. } => {
                let open = open(server, "?sslmode=disable");
                Some(format!("postgres://{server}{open}"))
            }
            Self::Otlp { server, .. } => Some(format!("{}://{server}", otlp_scheme(server))),
            Self::Smtp { server, starts } => {
                let open = open(server, "?tls=none");
                Some(format!("{}://{server}{open}", smtp_scheme(server, *starts)))
            }
            Self::OpenAi { server, .. } => Some(format!("{}://{server}", openai_scheme(server))),
            Self::S3 {
                endpoint, bucket, ..
            } => Some(match endpoint {
                Some(endpoint) => endpoint.clone(),
                None => format!("s3://{bucket}"),
            }),
        }
    }

    /// Whether it can stand behind an interface.
    pub const fn fits(&self, interface: Interface) -> bool {
        match self {
            Self::Embedded => !matches!(interface, Interface::Mail | Interface::Inference),
            Self::Redis { .. } => matches!(interface, Interface::Keyvalue | Interface::Config),
            Self::Nats { devices, .. } => match interface {
                Interface::Messaging => true,
                Interface::Keyvalue | Interface::Config | Interface::Streams => !*devices,
                Interface::Blobstore
                | Interface::Sql
                | Interface::Otel
                | Interface::Keys
                | Interface::Identity
                | Interface::Mail
                | Interface::Workflows
                | Interface::Inference => false,
            },
            Self::S3 { .. } => matches!(interface, Interface::Blobstore),
            Self::Postgres { .. } => matches!(interface, Interface::Sql | Interface::Workflows),
            Self::Otlp { .. } => matches!(interface, Interface::Otel),
            Self::Smtp { .. } => matches!(interface, Interface::Mail),
            Self::OpenAi { .. } => matches!(interface, Interface::Inference),
        }
    }

    /// What can stand behind an interface, in words.
    pub const fn fitting(interface: Interface) -> &'static str {
        match interface {
            Interface::Keyvalue | Interface::Config => "`embedded`, `redis://…` or `nats://…`",
            Interface::Blobstore => "`embedded` or `s3://…`",
            Interface::Messaging => "`embedded`, `nats://…` or `nats://…?mqtt=1`",
            Interface::Streams => "`embedded` or `nats://…`",
            Interface::Sql | Interface::Workflows => "`embedded` or `postgres://…`",
            Interface::Otel => "`embedded`, `otlp+http://…` or `otlp+https://…`",
            Interface::Keys | Interface::Identity => "`embedded`",
            Interface::Mail => "`smtp://…` or `smtps://…`",
            Interface::Inference => "`openai+http://…` or `openai+https://…`",
        }
    }
}

impl Server {
    /// Whether it is on this machine, whoever asks.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

/// What a rule says of a server that is asked without TLS, where the scheme does not tell: who allows it
/// with TLS has not allowed it without. Nobody listens on the way within one machine.
fn open(server: &Server, words: &'static str) -> &'static str {
    if server.tls || server.is_loopback() {
        ""
    } else {
        words
    }
}

const fn redis_scheme(server: &Server) -> &'static str {
    if server.tls { "rediss" } else { "redis" }
}

const fn nats_scheme(server: &Server) -> &'static str {
    if server.tls { "tls" } else { "nats" }
}

const fn otlp_scheme(server: &Server) -> &'static str {
    if server.tls {
        "otlp+https"
    } else {
        "otlp+http"
    }
}

const fn smtp_scheme(server: &Server, starts: bool) -> &'static str {
    if server.tls && !starts {
        "smtps"
    } else {
        "smtp"
    }
}

const fn openai_scheme(server: &Server) -> &'static str {
    if server.tls {
        "openai+https"
    } else {
        "openai+http"
    }
}

/// Host and port, without the user.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = |server: &Server| match &server.user {
            Some(user) => format!("{user}@"),
            None => String::new(),
        };
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Redis { server, database } => {
                let (scheme, user) = (redis_scheme(server), user(server));
                write!(f, "{scheme}://{user}{server}/{database}")
            }
            Self::Nats { server, devices } => {
                let more = if *devices { "?mqtt=1" } else { "" };
                let scheme = nats_scheme(server);
                write!(f, "{scheme}://{}{server}{more}", user(server))
            }
            Self::Postgres { server, database } => {
                let mode = if server.tls { "" } else { "?sslmode=disable" };
                write!(f, "postgres://{}{server}/{database}{mode}", user(server))
            }
            Self::Otlp { server, path } => write!(f, "{}://{server}{path}", otlp_scheme(server)),
            Self::OpenAi { server, path } => {
                write!(f, "{}://{server}{path}", openai_scheme(server))
            }
            Self::Smtp { server, starts } => {
                let mode = if server.tls { "" } else { "?tls=none" };
                let scheme = smtp_scheme(server, *starts);
                write!(f, "{scheme}://{}{server}{mode}", user(server))
            }
            Self::S3 {
                bucket,
                region,
                endpoint,
            } => {
                write!(f, "s3://{bucket}")?;
                let mut mark = '?';
                for (key, value) in [("region", region), ("endpoint", endpoint)] {
                    if let Some(value) = value {
                        write!(f, "{mark}{key}={value}")?;
                        mark = '&';
                    }
                }
                Ok(())
            }
        }
    }
}

impl From<Backend> for String {
    fn from(backend: Backend) -> Self {
        backend.to_string()
    }
}

impl TryFrom<String> for Backend {
    type Error = NotABackend;

    fn try_from(text: String) -> Result<Self, NotABackend> {
        text.parse()
    }
}

/// A text is no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a backend: {why}")]
pub struct NotABackend {
    text: String,
    why: String,
    hint: Option<String>,
}

impl From<NotABackend> for ValueError {
    fn from(error: NotABackend) -> Self {
        Self::new(codes::BAD_BINDING, error.to_string()).hint(error.hint)
    }
}

impl FromStr for Backend {
    type Err = NotABackend;

    fn from_str(text: &str) -> Result<Self, NotABackend> {
        read::read(text).map_err(|(why, hint)| NotABackend {
            text: without_password(text),
            why,
            hint,
        })
    }
}

/// A password that somebody wrote all the same stays out of messages.
fn without_password(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => cut(&format!("{scheme}://…@{rest}")),
        _ => cut(text),
    }
}

/// Reads a rule of `[backends] allow`: the origin of a backend, as [`Backend::origin`] says it.
pub(crate) fn allowed(text: &str) -> Result<String, ValueError> {
    let because = |why: String, hint: Option<String>| {
        let message = format!("`{}` is not an origin of a backend: {why}", cut(text));
        ValueError::new(codes::BAD_VALUE, message).hint(hint)
    };
    if text.starts_with("https://") || text.starts_with("http://") {
        return check_endpoint(text).map_err(|(why, hint)| because(why, hint));
    }
    // A database has no place in a rule, and an address without one is none.
    let full = match text.split_once("://") {
        Some((scheme @ ("postgres" | "postgresql"), rest)) if !rest.contains('/') => {
            let (server, options) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
            format!("{scheme}://{server}/a{options}")
        }
        Some(_) | None => text.to_owned(),
    };
    let backend: Backend = full
        .parse()
        .map_err(|error: NotABackend| because(error.why, error.hint))?;
    match (backend.origin(), &backend) {
        (
            Some(origin),
            Backend::Redis {
                server,
                database: 0,
            },
        ) if server.user.is_none() => Ok(origin),
        (Some(origin), Backend::Otlp { path, .. }) if path.is_empty() => Ok(origin),
        (Some(origin), Backend::OpenAi { .. }) if !text_has_path(text) => Ok(origin),
        (
            Some(origin),
            Backend::Nats {
                server,
                devices: false,
            }
            | Backend::Smtp { server, .. },
        ) if server.user.is_none() => Ok(origin),
        (Some(origin), Backend::Postgres { server, database })
            if server.user.is_none() && database == "a" =>
        {
            Ok(origin)
        }
        (
            Some(origin),
            Backend::S3 {
                region: None,
                endpoint: None,
                ..
            },
        ) => Ok(origin),
        _ => Err(because(
            "a rule names a scheme, a host and a port, and nothing else".to_owned(),
            Some("write it like `redis://cache.internal:6379`".to_owned()),
        )),
    }
}

/// Whether something stands behind the host of a URL.
fn text_has_path(text: &str) -> bool {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    rest.contains('/')
}

#[cfg(test)]
#[path = "binding_tests.rs"]
mod tests;
