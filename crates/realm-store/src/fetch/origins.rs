//! Whom this machine asks for the bytes of `registry:`, `s3:` and `ipfs:` sources, and as whom: its
//! settings, and its environment for what is secret. Not a manifest's business: that one only says
//! what is fetched.

use std::collections::BTreeSet;
use std::path::PathBuf;

use realm_model::manifest::is_loopback;
use realm_model::node_config::SourceSettings;
use rusty_s3::Credentials;

/// Whom this machine asks, and as whom.
#[derive(Debug, Clone)]
pub struct Origins {
    /// Gateways of IPFS, in the order in which they are asked.
    pub ipfs_gateways: Vec<String>,
    /// The S3 server.
    pub s3: S3Settings,
    /// A file with log-ins to registries, as `docker login` writes it; read at each fetch.
    pub registry_auth: Option<PathBuf>,
    /// Registries that are asked over `http`, beside those on loopback.
    pub registries_without_tls: BTreeSet<String>,
}

/// How this machine reaches S3.
#[derive(Debug, Clone, Default)]
pub struct S3Settings {
    /// The server of sources that name none; `None`: Amazon's.
    pub endpoint: Option<String>,
    /// The region of sources that name none.
    pub region: Option<String>,
    /// For that server alone; `None`: it is asked without.
    pub credentials: Option<Credentials>,
}

impl Default for Origins {
    fn default() -> Self {
        Self::new(&SourceSettings::default(), |_| None)
    }
}

impl Origins {
    /// From the settings of a machine and its environment, with the names that the tools of each
    /// kind use. The settings come first where both say something.
    pub fn new(settings: &SourceSettings, environment: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        let either = |names: [&str; 2]| variable(names[0]).or_else(|| variable(names[1]));
        let gateways = match variable("IPFS_GATEWAY") {
            Some(gateway) if settings.ipfs_gateways == SourceSettings::default().ipfs_gateways => {
                vec![gateway]
            }
            Some(_) | None => settings.ipfs_gateways.clone(),
        };
        let auth_file = || {
            let docker = variable("DOCKER_CONFIG").map(PathBuf::from);
            let docker = docker.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")));
            let named = variable("REGISTRY_AUTH_FILE").map(PathBuf::from);
            named.or_else(|| Some(docker?.join("config.json")))
        };
        let without_tls = variable("REALM_REGISTRIES_WITHOUT_TLS").unwrap_or_default();
        let without_tls = without_tls
            .split(',')
            .map(|host| host.trim().to_lowercase());
        Self {
            ipfs_gateways: gateways,
            s3: S3Settings {
                endpoint: settings
                    .s3_endpoint
                    .clone()
                    .or_else(|| either(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])),
                region: settings
                    .s3_region
                    .clone()
                    .or_else(|| either(["AWS_REGION", "AWS_DEFAULT_REGION"])),
                credentials: credentials(variable),
            },
            registry_auth: settings
                .registry_auth
                .as_ref()
                .map(PathBuf::from)
                .or_else(auth_file),
            registries_without_tls: settings
                .registries_without_tls
                .iter()
                .cloned()
                .chain(without_tls.filter(|host| !host.is_empty()))
                .collect(),
        }
    }

    /// `http` or `https`, for a registry.
    pub(super) fn scheme_of(&self, registry: &str) -> &'static str {
        match is_loopback(registry) || self.registries_without_tls.contains(registry) {
            true => "http",
            false => "https",
        }
    }
}

fn credentials(variable: impl Fn(&str) -> Option<String>) -> Option<Credentials> {
    let key = variable("AWS_ACCESS_KEY_ID")?;
    let secret = variable("AWS_SECRET_ACCESS_KEY")?;
    Some(match variable("AWS_SESSION_TOKEN") {
        Some(token) => Credentials::new_with_token(key, secret, token),
        None => Credentials::new(key, secret),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(settings: &SourceSettings, environment: &[(&str, &str)]) -> Origins {
        Origins::new(settings, |name| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_fills_what_the_settings_leave_open() {
        let environment = [
            ("IPFS_GATEWAY", "http://127.0.0.1:8081"),
            ("AWS_ENDPOINT_URL", "http://other.example"),
            ("AWS_ENDPOINT_URL_S3", "http://s3.example"),
            ("AWS_REGION", "garage"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
            ("AWS_SESSION_TOKEN", "pssst"),
            ("HOME", "/home/a"),
            ("REALM_REGISTRIES_WITHOUT_TLS", "A.example:5000, b.example,"),
        ];
        let seen = origins(&SourceSettings::default(), &environment);
        assert_eq!(seen.ipfs_gateways, ["http://127.0.0.1:8081"]);
        assert_eq!(seen.s3.endpoint.as_deref(), Some("http://s3.example"));
        assert_eq!(seen.s3.region.as_deref(), Some("garage"));
        assert_eq!(
            seen.registry_auth,
            Some(PathBuf::from("/home/a/.docker/config.json"))
        );
        for (registry, scheme) in [
            ("a.example:5000", "http"),
            ("b.example", "http"),
            ("b.example:1", "https"),
            ("127.0.0.1:5000", "http"),
            ("ghcr.io", "https"),
        ] {
            assert_eq!(seen.scheme_of(registry), scheme, "{registry}");
        }
        let text = format!("{seen:?}");
        assert!(!text.contains("hush") && !text.contains("pssst"), "{text}");
        let credentials = seen.s3.credentials.expect("from the environment");
        assert_eq!(
            (credentials.key(), credentials.token()),
            ("key", Some("pssst"))
        );

        let settings = SourceSettings {
            ipfs_gateways: vec!["http://a".to_owned(), "http://b".to_owned()],
            s3_endpoint: Some("http://mine".to_owned()),
            s3_region: Some("here".to_owned()),
            registry_auth: Some("/etc/realm/registries.json".to_owned()),
            registries_without_tls: Vec::new(),
        };
        let seen = origins(&settings, &environment);
        assert_eq!(seen.ipfs_gateways, ["http://a", "http://b"]);
        assert_eq!(seen.s3.endpoint.as_deref(), Some("http://mine"));
        assert_eq!(seen.s3.region.as_deref(), Some("here"));
        assert_eq!(
            seen.registry_auth,
            Some(PathBuf::from("/etc/realm/registries.json"))
        );
    }

    #[test]
    fn without_settings_and_environment_there_are_no_credentials() {
        let seen = Origins::default();
        assert_eq!(seen.ipfs_gateways, ["http://127.0.0.1:8080"]);
        assert!(seen.s3.credentials.is_none() && seen.registry_auth.is_none());
        let half = origins(
            &SourceSettings::default(),
            &[("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", " ")],
        );
        assert!(half.s3.credentials.is_none());
    }
}
