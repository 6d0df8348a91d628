//! Reads one `[components.NAME]`: its source, limits, grants and health check.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeString, DeValue};

use super::value::{ValueError, plain_name, without_nul};
use super::{ComponentSpec, HealthCheck, Probe, Serve, keys};
use super::{dir, front, path, runs, source, stores, upstreams};
use crate::codes;
use crate::fields::{Fields, Placed, Report, cut, text_of};
use crate::grants::{ClockGrant, DirGrant, Grants};
use crate::limits::{self, Limits};

/// Names that a component may refer to.
pub(super) struct Known<'k> {
    pub(super) secrets: &'k BTreeSet<String>,
    pub(super) bindings: &'k stores::Bindings,
}

/// Reads a component; `None` if it has no source that can be read.
pub(super) fn read(
    report: &mut Report<'_>,
    name: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    known: &Known<'_>,
) -> Option<ComponentSpec> {
    let fields = Fields::open(report, value, &keys::COMPONENT, name.span(), name.get_ref())?;
    let source = fields.text(report, "source", source::source);
    let source = upstreams::read(report, &fields, source);
    let world = fields.text(report, "world", source::world);
    let runs = runs::read(report, &fields, world);
    let is_job = runs.serve == Some(Serve::Job);
    let grants = read_grants(report, &fields, known);
    let spec = ComponentSpec {
        triggers: stores::triggers(report, &fields, name.get_ref(), &grants.stores),
        limits: read_limits(report, &fields, is_job),
        grants,
        listen: runs.listen,
        schedule: runs.schedule,
        reuse: fields.boolean(report, "reuse"),
        singleton: fields.boolean(report, "singleton"),
        restart: runs.restart,
        health: read_health(report, &fields),
        world,
        serve: runs.serve,
        front: front::read(report, &fields, runs.serve),
        source: source?,
    };
    runs::check_health(report, &fields, &spec);
    Some(spec)
}

fn read_limits(report: &mut Report<'_>, fields: &Fields<'_, '_>, is_job: bool) -> Limits {
    let wall_timeout_ms = fields.number(report, "wall_timeout_ms");
    let written = fields.key_span("wall_timeout_ms").is_some();
    Limits {
        memory_max_mb: fields.number(report, "memory_max_mb"),
        fuel_per_sec: fields.integer(report, "fuel_per_sec"),
        epoch_timeout_ms: fields.number(report, "epoch_timeout_ms"),
        wall_timeout_ms: if is_job && !written {
            limits::JOB_WALL_TIMEOUT_MS
        } else {
            wall_timeout_ms
        },
        max_concurrency: fields.number_u32(report, "max_concurrency"),
        max_request_bytes: fields.number(report, "max_request_bytes"),
        max_response_bytes: fields.integer(report, "max_response_bytes"),
        websocket_idle_ms: fields.number(report, "websocket_idle_ms"),
        storage_max_mb: fields.number(report, "storage_max_mb"),
        operations_per_sec: fields
            .integer(report, "operations_per_sec")
            .and_then(|number| u32::try_from(number).ok()),
    }
}

fn read_grants(report: &mut Report<'_>, fields: &Fields<'_, '_>, known: &Known<'_>) -> Grants {
    let clocks = [ClockGrant::None, ClockGrant::Coarse, ClockGrant::Precise];
    let args = fields.texts(report, "args", without_nul);
    let allowed = fields.texts(report, "allowed_outbound", str::parse);
    Grants {
        allowed_outbound: without_places(allowed),
        env: read_strings(report, fields, "env", env_name),
        vars: read_strings(report, fields, "vars", var_name),
        args: without_places(args),
        dirs: read_dirs(report, fields),
        clock: fields.choice(report, "clock", &clocks).unwrap_or_default(),
        secrets: read_secret_names(report, fields, known.secrets),
        stores: stores::bind(report, fields, known.bindings),
    }
}

/// The items alone.
pub(crate) fn without_places<T>(items: Vec<Placed<T>>) -> Vec<T> {
    items.into_iter().map(|(item, _)| item).collect()
}

/// The items of a list; one that is named twice is reported.
pub(crate) fn without_duplicates<T: Ord + std::fmt::Display>(
    report: &mut Report<'_>,
    name: &str,
    items: Vec<Placed<T>>,
) -> Vec<T> {
    let mut seen = BTreeSet::new();
    for (item, span) in &items {
        if !seen.insert(item) {
            let message = format!("`{name}` names `{}` twice", cut(&item.to_string()));
            report.error(codes::DUPLICATE_VALUE, span.clone(), message, None);
        }
    }
    without_places(items)
}

fn read_strings(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    key: &str,
    check_name: fn(&str) -> Result<(), ValueError>,
) -> BTreeMap<String, String> {
    let mut strings = BTreeMap::new();
    for ((name, name_span), (value, span)) in fields.text_table(report, key) {
        if let Err(error) = check_name(&name) {
            report.value_error(name_span, error);
        }
        match without_nul(&value) {
            Ok(value) => {
                strings.insert(name, value);
            }
            Err(error) => report.value_error(span, error),
        }
    }
    strings
}

fn env_name(name: &str) -> Result<(), ValueError> {
    if name.is_empty() || name.contains(['=', '\0']) {
        let message = format!("`{}` is not the name of an environment variable", cut(name));
        let hint = "a name has at least one character, and no `=`";
        return Err(ValueError::new(codes::BAD_NAME, message).hint(Some(hint)));
    }
    Ok(())
}

fn var_name(name: &str) -> Result<(), ValueError> {
    if name.is_empty() || name.chars().any(char::is_control) {
        let message = format!("`{}` is not the name of a variable", cut(name));
        return Err(ValueError::new(codes::BAD_NAME, message));
    }
    Ok(())
}

fn read_dirs(report: &mut Report<'_>, fields: &Fields<'_, '_>) -> Vec<DirGrant> {
    let dirs = fields.texts(report, "dirs", dir::parse_dir);
    let mut guests = BTreeSet::new();
    for (dir, span) in &dirs {
        if !guests.insert(&dir.guest) {
            let message = format!(
                "the guest sees another directory at `{}` already",
                cut(&dir.guest)
            );
            report.error(codes::DUPLICATE_VALUE, span.clone(), message, None);
        }
    }
    without_places(dirs)
}

fn read_secret_names(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    secrets: &BTreeSet<String>,
) -> Vec<String> {
    let names = fields.texts(report, "secrets", |text| plain_name(text, "secret"));
    for (name, span) in &names {
        if secrets.contains(name) || report.is_broken() {
            continue;
        }
        let hint = match report.nearest(name, secrets.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("`realm secret set {name}` adds it"),
        };
        let message = format!("no secret `{name}` under `[secrets]`");
        report.error(codes::UNKNOWN_SECRET, span.clone(), message, Some(hint));
    }
    without_duplicates(report, "secrets", names)
}

fn read_health(report: &mut Report<'_>, fields: &Fields<'_, '_>) -> Option<HealthCheck> {
    let value = fields.value(report, "health")?;
    if let DeValue::Table(_) = value.get_ref() {
        let place = fields.key_span("health").unwrap_or(value.span());
        let table = Fields::open(report, value, &keys::HEALTH, place, "")?;
        return read_health_table(report, &table);
    }
    let expected = keys::COMPONENT.key("health")?.kind.expected();
    let (text, span) = text_of(report, value, &expected)?;
    let probe = match text {
        "export" => Ok(Probe::Export),
        path => path::health_path(path).map(Probe::Http),
    };
    match probe {
        Ok(probe) => Some(HealthCheck::with_defaults(probe)),
        Err(error) => {
            report.value_error(span, error);
            None
        }
    }
}

fn read_health_table(report: &mut Report<'_>, table: &Fields<'_, '_>) -> Option<HealthCheck> {
    let path = table.text(report, "path", path::health_path);
    let export = table.boolean(report, "export");
    let interval_ms = table.number(report, "interval_ms");
    let mut timeout_ms = table.number(report, "timeout_ms");
    let failures = table.number_u32(report, "failures");
    match table.key_span("timeout_ms") {
        None => timeout_ms = timeout_ms.min(interval_ms),
        Some(span) if timeout_ms > interval_ms => {
            let message = format!(
                "`timeout_ms` is {timeout_ms}, expected at most `interval_ms`, {interval_ms}"
            );
            report.error(codes::OUT_OF_RANGE, span, message, None);
        }
        Some(_) => {}
    }
    let probe = match (path, export) {
        (Some(path), false) => Probe::Http(path),
        (None, true) => Probe::Export,
        (None, false) if table.key_span("path").is_some() => return None,
        (Some(_), true) | (None, false) => {
            let message = "a health check names either `path` or `export = true`";
            let hint = "write `health = \"/healthz\"` or `health = \"export\"`".to_owned();
            report.error(codes::MISSING_KEY, table.place(), message, Some(hint));
            return None;
        }
    };
    Some(HealthCheck {
        probe,
        interval_ms,
        timeout_ms,
        failures,
    })
}

impl HealthCheck {
    /// A check with the default interval, timeout and failures.
    pub fn with_defaults(probe: Probe) -> Self {
        Self {
            probe,
            interval_ms: keys::HEALTH.default_of("interval_ms"),
            timeout_ms: keys::HEALTH.default_of("timeout_ms"),
            failures: u32::try_from(keys::HEALTH.default_of("failures"))
                .expect("the key's range fits 32 bits"),
        }
    }
}
