//! What makes two replicas interchangeable: the digest of a component's settings, and with the
//! node's restart count its [`Revision`]. Not the number of replicas, and not where the bytes
//! come from: changing those replaces nothing.

use std::collections::BTreeMap;

use realm_model::digest::Digest;
use realm_model::grants::Grants;
use realm_model::limits::Limits;
use realm_model::lock::Pin;
use realm_model::manifest::{ComponentSpec, HealthCheck, RestartPolicy, Serve, World};
use realm_model::observed::Revision;
use realm_model::sealing::Sealed;
use realm_model::trigger::Triggers;
use realm_model::upstream::Upstream;
use serde::Serialize;

#[derive(Serialize)]
struct Settings<'a> {
    pin: Pin,
    world: Option<World>,
    serve: Option<Serve>,
    limits: &'a Limits,
    grants: &'a Grants,
    listen: Option<u16>,
    scheduled: bool,
    reuse: bool,
    restart: RestartPolicy,
    health: &'a Option<HealthCheck>,
    /// Left out where there is none: what agents before this key called a revision stays one.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a Upstream>,
    /// The values of its secrets: another one is another revision, and who it is sealed to is not.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    secrets: BTreeMap<&'a str, Digest>,
    #[serde(skip_serializing_if = "Triggers::is_empty")]
    triggers: &'a Triggers,
}

/// The digest of everything that changes how a component runs, restarts aside.
pub(crate) fn settings_digest(
    spec: &ComponentSpec,
    pin: Pin,
    secrets: &BTreeMap<String, Sealed>,
) -> Digest {
    // Named one by one: a new field of the manifest has to decide here whether it replaces replicas.
    let ComponentSpec {
        source: _,
        world,
        serve,
        limits,
        grants,
        listen,
        schedule,
        reuse,
        // Who may run it, not how it runs.
        singleton: _,
        restart,
        health,
        triggers,
        // What happens before it runs.
        front: _,
    } = spec;
    let settings = Settings {
        pin,
        world: *world,
        serve: *serve,
        limits,
        grants,
        listen: *listen,
        // Other times replace nothing that runs; no times do, since then it runs once for each version.
        scheduled: schedule.is_some(),
        reuse: *reuse,
        restart: *restart,
        health,
        upstream: spec.upstream(),
        secrets: secrets
            .iter()
            .map(|(name, sealed)| (name.as_str(), sealed.value()))
            .collect(),
        triggers,
    };
    let bytes = serde_json::to_vec(&settings).expect("settings have only string keys");
    Digest::of(&bytes)
}

/// The revision of a component with these settings that was restarted so many times.
pub(crate) fn revision(settings: Digest, restarts: u64) -> Revision {
    let mut bytes = settings.as_bytes().to_vec();
    bytes.extend_from_slice(&restarts.to_le_bytes());
    Revision(Digest::of(&bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use realm_model::entry::NamespaceName;
    use realm_model::manifest::parse;
    use realm_model::sealing::{self, Label, Mark, ValueId};

    use super::*;
    use crate::testing::{component_name, pin};

    #[test]
    fn whatever_changes_how_it_runs_is_another_revision() {
        let keys = [
            "",
            "world = \"wasi:http/proxy\"",
            "serve = \"http\"",
            "memory_max_mb = 1",
            "fuel_per_sec = 1_000",
            "max_concurrency = 1",
            "env = { A = \"1\" }",
            "clock = \"none\"",
            "allowed_outbound = [\"https://a.example\"]",
            "listen = 80\nserve = \"socket\"",
            "serve = \"socket\"",
            "serve = \"service\"",
            "serve = \"job\"",
            "schedule = \"@daily\"",
            "reuse = true",
            "restart = \"never\"",
            "health = \"/healthz\"",
            "storage_max_mb = 1",
            "operations_per_sec = 1",
        ];
        let mut seen: BTreeSet<Digest> = keys.iter().map(|keys| of("file:a", keys, "1")).collect();
        seen.insert(of("file:a", "", "2"));
        assert_eq!(seen.len(), keys.len() + 1);
        assert_eq!(of("file:a", "", "1"), of("file:b", "", "1"));
        let (daily, hourly) = ("schedule = \"@daily\"", "schedule = \"@hourly\"");
        assert_eq!(of("file:a", daily, "1"), of("file:a", hourly, "1"));
        let singleton = of("file:a", "singleton = true", "1");
        assert_eq!(of("file:a", "", "1"), singleton);
    }

    #[test]
    fn another_way_to_an_upstream_is_another_revision() {
        let keys = [
            "upstream = \"fastcgi:unix:/a\"\nroot = \"/a\"",
            "upstream = \"fastcgi:unix:/a\"\nroot = \"/b\"",
            "upstream = \"fastcgi:unix:/a\"\nroot = \"/a\"\nindex = \"/index.php\"",
            "upstream = \"fastcgi:unix:/a\"\nroot = \"/a\"\nkeep_connections = 1",
            "upstream = \"http:unix:/a\"",
        ];
        let revisions = keys.map(|keys| {
            let (manifest, problems) = parse(&format!("[components.a]\n{keys}"));
            let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
            // The pin is of the address: the rest has to count by itself.
            let spec = &manifest.components[&component_name("a")];
            settings_digest(spec, pin("same"), &BTreeMap::new())
        });
        assert_eq!(BTreeSet::from(revisions).len(), keys.len());
    }

    #[test]
    fn what_was_a_revision_stays_one() {
        // Agents of all versions have to call one component by one name.
        let expected = "d22d5f4fe64937ba110e044a01731313972446987a897a1564ebc80a8bef425b";
        assert_eq!(of("file:a", "", "1").hex(), expected);
    }

    fn of(source: &str, keys: &str, build: &str) -> Digest {
        let text = format!("[components.a]\nsource = \"{source}\"\n{keys}");
        let (manifest, problems) = parse(&text);
        let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
        let spec = &manifest.components[&component_name("a")];
        settings_digest(spec, pin(build), &BTreeMap::new())
    }

    #[test]
    fn another_value_of_a_secret_is_another_revision_and_another_recipient_is_none() {
        let of = |secrets: &[(&str, &str)]| {
            let text = "[components.a]\nsource = \"file:a\"";
            let (manifest, _) = parse(text);
            let manifest = manifest.expect("it is a manifest");
            let secrets = secrets.iter().map(|(name, value)| {
                let sealed = Sealed::new(NamespaceName::DEFAULT, name, (*value).to_owned());
                ((*name).to_owned(), sealed)
            });
            let secrets = secrets.collect();
            settings_digest(
                &manifest.components[&component_name("a")],
                pin("1"),
                &secrets,
            )
        };
        let sealed = |value: u8, recipients: usize| {
            let label = Label {
                namespace: NamespaceName::DEFAULT,
                name: "key".to_owned(),
                value: ValueId([value; ValueId::BYTES]),
                marks: vec![Mark::of("somebody"); recipients],
            };
            let file = format!("age-encryption.org/v1\n{}--- mac\n", label.stanza());
            sealing::text(file.as_bytes())
        };
        let (first, anew, rotated) = (sealed(1, 1), sealed(1, 2), sealed(2, 1));
        assert_ne!(of(&[]), of(&[("key", &first)]));
        assert_eq!(of(&[("key", &first)]), of(&[("key", &anew)]));
        assert_ne!(of(&[("key", &first)]), of(&[("key", &rotated)]));
        assert_ne!(of(&[("key", &first)]), of(&[("other", &first)]));
    }
}
