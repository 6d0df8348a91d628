//! How a component runs: `serve`, `listen`, `schedule` and `restart`, and what fits what.
//!
//! Where `serve` is not written it follows from the other keys, and is written down as if it were:
//! what comes after reading has one place to look. Not here: what a node does with it.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeValue;

use super::value::ValueError;
use super::{
    ComponentSpec, Mode, NodeSelector, Probe, RestartPolicy, RouteSpec, Serve, World, keys,
};
use crate::codes;
use crate::fields::{Fields, Report, text_of};
use crate::name::ComponentName;
use crate::schedule::{DEFAULT_TIMEZONE, Schedule, ScheduleError};

/// The keys that say how a component runs.
pub(super) struct Runs {
    pub(super) serve: Option<Serve>,
    pub(super) listen: Option<u16>,
    pub(super) schedule: Option<Schedule>,
    pub(super) restart: RestartPolicy,
}

/// Reads them, with what `serve` is where only its neighbours are written.
pub(super) fn read(report: &mut Report<'_>, fields: &Fields<'_, '_>, world: Option<World>) -> Runs {
    let written = read_serve(report, fields, world);
    let inferred = if fields.key_span("schedule").is_some() {
        Some(Serve::Job)
    } else if fields.key_span("listen").is_some() {
        Some(Serve::Socket)
    } else {
        None
    };
    let serve = written.or(inferred);
    if let (None, Some(serve), Some(World::Http)) = (written, inferred, world) {
        mismatch_of_world(report, fields, serve);
    }
    Runs {
        serve,
        listen: read_listen(report, fields, serve),
        schedule: read_schedule(report, fields, serve),
        restart: read_restart(report, fields, serve),
    }
}

fn read_serve(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    world: Option<World>,
) -> Option<Serve> {
    let serves = [
        Serve::Http,
        Serve::Cgi,
        Serve::Socket,
        Serve::Service,
        Serve::Job,
        Serve::Worker,
    ];
    let serve = fields.choice(report, "serve", &serves)?;
    let fits = match world {
        None => true,
        // What is called by events may export anything beside its handlers.
        Some(_) if serve == Serve::Worker => true,
        Some(World::Http) => serve == Serve::Http,
        Some(World::Command) => serve != Serve::Http,
    };
    if !fits {
        mismatch_of_world(report, fields, serve);
    }
    Some(serve)
}

fn mismatch_of_world(report: &mut Report<'_>, fields: &Fields<'_, '_>, serve: Serve) {
    let (message, hint) = match serve {
        Serve::Http => (
            "`serve = \"http\"` needs a world with an HTTP handler, and `wasi:cli/command` has none",
            "leave `serve` out, or build it for `wasi:http/proxy`",
        ),
        Serve::Cgi | Serve::Socket | Serve::Service | Serve::Job | Serve::Worker => (
            "to run like this it must be a `wasi:cli/command`, and `world` names one with an HTTP handler",
            "leave out `serve`, `listen` and `schedule`, or write `serve = \"http\"`",
        ),
    };
    mismatch(report, fields, "serve", message, hint);
}

fn mismatch(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    key: &str,
    message: &str,
    hint: &str,
) {
    let span = fields.key_span(key).unwrap_or(fields.place());
    report.error(codes::SERVE_MISMATCH, span, message, Some(hint.to_owned()));
}

fn without_effect(report: &mut Report<'_>, fields: &Fields<'_, '_>, key: &str, message: &str) {
    if let Some(span) = fields.key_span(key) {
        report.warning(codes::NO_EFFECT, span, message, None);
    }
}

fn read_listen(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    serve: Option<Serve>,
) -> Option<u16> {
    let port = fields.integer(report, "listen")?;
    if serve.is_some_and(|serve| serve != Serve::Socket) {
        let message = "`listen` has an effect with `serve = \"socket\"` alone";
        without_effect(report, fields, "listen", message);
        return None;
    }
    u16::try_from(port).ok()
}

fn read_schedule(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    serve: Option<Serve>,
) -> Option<Schedule> {
    let value = fields.value(report, "schedule")?;
    if serve.is_some_and(|serve| serve != Serve::Job) {
        let message = "only a job has a `schedule`";
        mismatch(
            report,
            fields,
            "schedule",
            message,
            "write `serve = \"job\"`",
        );
    }
    if let DeValue::Table(_) = value.get_ref() {
        let place = fields.key_span("schedule").unwrap_or(value.span());
        let table = Fields::open(report, value, &keys::SCHEDULE, place, "")?;
        let as_written = |text: &str| Ok::<_, ValueError>(text.to_owned());
        let cron = table.text(report, "cron", as_written);
        let timezone = table.text(report, "timezone", as_written);
        let cron = cron?;
        let timezone = timezone.as_deref().unwrap_or(DEFAULT_TIMEZONE);
        return match Schedule::new(&cron, timezone) {
            Ok(schedule) => Some(schedule),
            Err(errors) => {
                for error in errors {
                    let key = match &error {
                        ScheduleError::Timezone(_) => "timezone",
                        ScheduleError::Cron { .. } | ScheduleError::Never(_) => "cron",
                    };
                    report.value_error(table.value_span(key), refused(&error));
                }
                None
            }
        };
    }
    let expected = keys::COMPONENT.key("schedule")?.kind.expected();
    let (text, span) = text_of(report, value, &expected)?;
    match Schedule::new(text, DEFAULT_TIMEZONE) {
        Ok(schedule) => Some(schedule),
        Err(errors) => {
            for error in errors {
                report.value_error(span.clone(), refused(&error));
            }
            None
        }
    }
}

fn refused(error: &ScheduleError) -> ValueError {
    let hint = match error {
        ScheduleError::Cron { .. } => Some("every day at three: `0 3 * * *`"),
        ScheduleError::Timezone(_) => Some("a name like `Europe/Berlin`, or `UTC`"),
        ScheduleError::Never(_) => None,
    };
    ValueError::new(codes::BAD_SCHEDULE, error.to_string()).hint(hint)
}

fn read_restart(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    serve: Option<Serve>,
) -> RestartPolicy {
    let policies = [
        RestartPolicy::Always,
        RestartPolicy::OnFailure,
        RestartPolicy::Never,
    ];
    let is_job = serve == Some(Serve::Job);
    let default = if is_job {
        RestartPolicy::OnFailure
    } else {
        RestartPolicy::Always
    };
    let Some(policy) = fields.choice(report, "restart", &policies) else {
        return default;
    };
    if fields.key_span("schedule").is_some() && is_job {
        let message = "`restart` has no effect beside `schedule`: the next time is the next try";
        without_effect(report, fields, "restart", message);
    } else if is_job && policy == RestartPolicy::Always {
        let message = "a job ends; what is started again whenever it ends is a service";
        mismatch(
            report,
            fields,
            "restart",
            message,
            "write `serve = \"service\"`",
        );
    }
    policy
}

/// Who can be asked for its health.
pub(super) fn check_health(report: &mut Report<'_>, fields: &Fields<'_, '_>, spec: &ComponentSpec) {
    let Some(health) = &spec.health else {
        return;
    };
    match (spec.mode(), &health.probe) {
        (Mode::Answers, _) | (Mode::Server, Probe::Http(_)) | (Mode::Worker, Probe::Export) => {}
        (Mode::Worker, Probe::Http(_)) => {
            let message = "a component without a route is not asked over HTTP";
            let hint = "write `health = true`, and export `realm:app/health`";
            mismatch(report, fields, "health", message, hint);
        }
        (Mode::Upstream, Probe::Http(_)) => {}
        (Mode::Upstream, Probe::Export) => {
            let message = "an upstream is asked over its own protocol: it exports nothing";
            let hint = "write `health = \"/healthz\"`, a path that it answers";
            mismatch(report, fields, "health", message, hint);
        }
        (Mode::Server, Probe::Export) => {
            let message = "a server is asked over HTTP: its exports are another instance's";
            let hint = "write `health = \"/healthz\"`, a path that it answers";
            mismatch(report, fields, "health", message, hint);
        }
        (Mode::Service | Mode::Once | Mode::Scheduled, _) => {
            let message = "`health` has no effect here: it is healthy while it runs";
            without_effect(report, fields, "health", message);
        }
    }
}

/// What a route cannot be for; the reason and what to do.
pub(super) fn unroutable(
    spec: &ComponentSpec,
    replicas: u32,
) -> Option<(&'static str, String, &'static str)> {
    if !spec.mode().takes_requests() {
        let message = "it runs by itself and answers no request".to_owned();
        let hint = "take the route away, or `serve` and `schedule`";
        return Some((codes::SERVE_MISMATCH, message, hint));
    }
    match spec.listen {
        Some(port) if replicas > 1 => {
            let message = format!(
                "`replicas` is {replicas}, and it insists on port {port}, which one instance can have"
            );
            let hint = "let it read the port from `PORT` and leave `listen` out";
            Some((codes::OUT_OF_RANGE, message, hint))
        }
        Some(_) | None => None,
    }
}

/// What no route names runs by itself: what has triggers as a worker, a command as a service.
pub(super) fn infer_services(
    components: &mut BTreeMap<ComponentName, ComponentSpec>,
    routing: &BTreeMap<NodeSelector, Vec<RouteSpec>>,
) {
    let routed: BTreeSet<&ComponentName> = routing
        .values()
        .flatten()
        .flat_map(RouteSpec::answering)
        .collect();
    for (name, spec) in components {
        if spec.serve.is_some() || spec.upstream().is_some() || routed.contains(name) {
            continue;
        }
        if !spec.triggers.is_empty() {
            spec.serve = Some(Serve::Worker);
        } else if spec.world == Some(World::Command) {
            spec.serve = Some(Serve::Service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mode of `a`, its restart policy and its wall time, from a few lines and a route for it.
    #[track_caller]
    fn runs(lines: &str, routed: bool, expected: (Mode, RestartPolicy, u64)) {
        runs_beside("", lines, routed, expected);
    }

    const BINDING: &str = "[bindings.b]\ninterface = 'wasi:messaging'\nbackend = 'embedded'\n";

    #[track_caller]
    fn runs_beside(before: &str, lines: &str, routed: bool, expected: (Mode, RestartPolicy, u64)) {
        let route = if routed {
            "\n[routing]\n'*' = [{ path = '/', component = 'a' }]"
        } else {
            ""
        };
        let text = format!("{before}[components.a]\nsource = 'file:a'\n{lines}{route}");
        let (manifest, problems) = super::super::parse(&text);
        assert!(problems.is_empty(), "{problems:#?}");
        let manifest = manifest.expect("a manifest");
        let spec = &manifest.components[&"a".parse().expect("a name")];
        let seen = (spec.mode(), spec.restart, spec.limits.wall_timeout_ms);
        assert_eq!(seen, expected, "{lines}");
    }

    #[test]
    fn how_it_runs_follows_from_what_is_written() {
        use RestartPolicy::{Always, OnFailure};
        runs("", true, (Mode::Answers, Always, 30_000));
        runs("", false, (Mode::Answers, Always, 30_000));
        let command = "world = 'wasi:cli/command'";
        runs(command, true, (Mode::Answers, Always, 30_000));
        runs(command, false, (Mode::Service, Always, 30_000));
        runs("serve = 'service'", false, (Mode::Service, Always, 30_000));
        runs("listen = 80", true, (Mode::Server, Always, 30_000));
        runs("serve = 'socket'", true, (Mode::Server, Always, 30_000));
        runs("serve = 'job'", false, (Mode::Once, OnFailure, 3_600_000));
        let short = "serve = 'job'\nwall_timeout_ms = 30_000";
        runs(short, false, (Mode::Once, OnFailure, 30_000));
        let nightly = "schedule = '@daily'";
        runs(nightly, false, (Mode::Scheduled, OnFailure, 3_600_000));
        let bound = "bind = { default = 'b' }\nsubscribe.orders = {}";
        runs_beside(BINDING, bound, true, (Mode::Answers, Always, 30_000));
        runs_beside(BINDING, bound, false, (Mode::Worker, Always, 30_000));
        let command = format!("{command}\n{bound}");
        runs_beside(BINDING, &command, false, (Mode::Worker, Always, 30_000));
        let word = "world = 'wasi:cli/command'\nschedule = '@daily'";
        runs(word, false, (Mode::Scheduled, OnFailure, 3_600_000));
    }
}
