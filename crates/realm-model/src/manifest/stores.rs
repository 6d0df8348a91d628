//! Reads `[bindings]`, and what components bind, subscribe to, watch and run. The spelling of backends is in
//! [`crate::binding`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::upkeep::time;
use super::value::{ValueError, plain_name};
use super::{component, keys, rules};
use crate::binding::{self, Backend, Binding, Interface, NotABackend};
use crate::cloud::limits::NAME_BYTES_MAX;
use crate::codes;
use crate::fields::{Fields, ITEMS_MAX, Report, cut, fits};
use crate::grants::StoreGrant;
use crate::name::ComponentName;
use crate::trigger::{SubscriptionSpec, Triggers, WorkflowSpec};

/// Subscriptions of one component, and identifiers that it binds: each costs the host a connection.
const PER_COMPONENT_MAX: usize = 32;
/// An hour: nothing that takes longer is a message's work.
const ACK_WAIT_MS_RANGE: (u64, u64) = (1_000, 3_600_000);
const BACKOFF_MS_RANGE: (u64, u64) = (1, 3_600_000);

/// What components may bind.
pub(super) struct Bindings {
    /// Names that are written, also of bindings that have other problems.
    names: BTreeSet<String>,
    pub(super) specs: BTreeMap<String, Binding>,
}

/// `[bindings]`.
pub(super) fn bindings(
    report: &mut Report<'_>,
    root: &Fields<'_, '_>,
    secrets: &BTreeSet<String>,
) -> Bindings {
    let entries = root.entries(report, "bindings");
    if let Some(span) = root.key_span("bindings") {
        fits(report, "bindings", entries.len(), ITEMS_MAX, span);
    }
    let (mut names, mut specs) = (BTreeSet::new(), BTreeMap::new());
    let (mut told, mut databases) = (Vec::new(), BTreeMap::new());
    for (key, value) in entries.into_iter().take(ITEMS_MAX) {
        let name = match plain_name(key.get_ref(), "binding") {
            Ok(name) => name,
            Err(error) => {
                report.value_error(key.span(), error);
                continue;
            }
        };
        names.insert(name.clone());
        let Some(fields) = Fields::open(report, value, &keys::BINDING, key.span(), key.get_ref())
        else {
            continue;
        };
        if let Some(binding) = read_binding(report, &fields, secrets) {
            let events = fields.text(report, "events", events);
            if let Some(events) = events {
                told.push((name.clone(), events, fields.value_span("events")));
            }
            let span = fields.value_span("backend");
            apart(report, &mut databases, (&name, &binding), span);
            specs.insert(name, binding);
        }
    }
    // The other binding may stand behind this one.
    for (name, (queue, topic), span) in told {
        tell(report, &names, &mut specs, &name, (queue, topic), span);
    }
    Bindings { names, specs }
}

/// As whom a database of a server is asked: its address, its name, and the user, or the secret that names one.
type Login = (String, u16, String, Result<String, Option<String>>);

/// Warns of a second binding of one database as one user, where one of both speaks SQL: a server has no wall
/// between them. Runs of workflows lie apart.
fn apart(
    report: &mut Report<'_>,
    databases: &mut BTreeMap<Login, Vec<(String, Interface)>>,
    (name, binding): (&str, &Binding),
    span: Range<usize>,
) {
    let Backend::Postgres { server, database } = &binding.backend else {
        return;
    };
    let user = server.user.clone().ok_or_else(|| binding.secret.clone());
    let login = (server.host.clone(), server.port, database.clone(), user);
    let there = databases.entry(login).or_default();
    let speaks_sql = |interface: Interface| interface == Interface::Sql;
    let is_open = |of: Interface| speaks_sql(of) || speaks_sql(binding.interface);
    if let Some((other, _)) = there.iter().find(|(_, of)| is_open(*of)) {
        let message = format!(
            "`{name}` is in the same database as `{other}`, as the same user: a statement of one gets at what the other has"
        );
        let hint =
            "give each a user and a database of its own, or bind one name where they shall share";
        report.warning(codes::SHARED_DATABASE, span, message, Some(hint.to_owned()));
    }
    there.push((name.to_owned(), binding.interface));
}

/// `queue/objects.changed` in its parts.
fn events(text: &str) -> Result<(String, String), ValueError> {
    let Some((queue, topic)) = text.split_once('/') else {
        let message = format!("`{}` names no topic", cut(text));
        let hint = "write a binding of `wasi:messaging`, `/` and a topic: `queue/objects.changed`";
        return Err(ValueError::new(codes::BAD_BINDING, message).hint(Some(hint)));
    };
    check_topic(topic, false)?;
    Ok((plain_name(queue, "binding")?, topic.to_owned()))
}

/// Has the changes of objects told, if it is objects, and messages that tell of them.
fn tell(
    report: &mut Report<'_>,
    names: &BTreeSet<String>,
    specs: &mut BTreeMap<String, Binding>,
    name: &str,
    (queue, topic): (String, String),
    span: Range<usize>,
) {
    let spec = specs.get(&queue).cloned();
    let Some(binding) = specs.get_mut(name) else {
        return;
    };
    if binding.interface != Interface::Blobstore {
        let message = "`events` has no effect here: only changes of objects are told";
        report.warning(codes::NO_EFFECT, span, message, None);
        return;
    }
    match spec {
        Some(spec) if spec.interface == Interface::Messaging => {
            binding.events = Some(binding::Events {
                binding: queue,
                topic,
                spec: Box::new(spec),
            });
        }
        Some(spec) => {
            let message = format!(
                "`{queue}` is for `{}`, not `wasi:messaging`",
                spec.interface
            );
            report.error(codes::BAD_BINDING, span, message, None);
        }
        None if names.contains(&queue) || report.is_broken() => {}
        None => {
            let hint = match report.nearest(&queue, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add `[bindings.{queue}]`, with `interface` and `backend`"),
            };
            let message = format!("no binding `{}` under `[bindings]`", cut(&queue));
            report.error(codes::UNKNOWN_BINDING, span, message, Some(hint));
        }
    }
}

fn read_binding(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    secrets: &BTreeSet<String>,
) -> Option<Binding> {
    let interface = fields.choice(report, "interface", &Interface::ALL);
    let backend = fields.text(report, "backend", |text| {
        text.parse::<Backend>()
            .map_err(|error: NotABackend| ValueError::from(error))
    });
    let prefix = fields.text(report, "prefix", binding::prefix);
    let secret = fields.text(report, "secret", |text| plain_name(text, "secret"));
    let issuer = fields.text(report, "issuer", binding::issuer);
    let senders = fields.texts(report, "senders", binding::sender);
    let model = fields.text(report, "model", binding::model);
    let (interface, backend) = (interface?, backend?);
    if !backend.fits(interface) {
        let message = format!("`{backend}` cannot stand behind `{interface}`");
        let hint = format!("write {}", Backend::fitting(interface));
        let span = fields.value_span("backend");
        report.error(codes::BAD_BINDING, span, message, Some(hint));
        return None;
    }
    if let Some(secret) = &secret
        && !secrets.contains(secret)
        && !report.is_broken()
    {
        let message = format!("no secret `{secret}` under `[secrets]`");
        let hint = format!("`realm secret set {secret}` adds it");
        let span = fields.value_span("secret");
        report.error(codes::UNKNOWN_SECRET, span, message, Some(hint));
    }
    let is_derived = matches!(interface, Interface::Keys | Interface::Identity);
    if is_derived && secret.is_none() && fields.key_span("secret").is_none() {
        let message = format!("`{interface}` is derived from a `secret`, which is not named");
        let hint = "`openssl rand -base64 32 | realm secret set NAME` makes one: write `secret = \"NAME\"`";
        let span = fields.value_span("interface");
        report.error(codes::BAD_BINDING, span, message, Some(hint.to_owned()));
    }
    let is_identity = interface == Interface::Identity;
    if is_identity && issuer.is_none() && fields.key_span("issuer").is_none() {
        let message = "an identity has an `issuer`, which its tokens name";
        let hint = "write the URL below which `/.well-known/jwks.json` is served: `issuer = \"https://shop.example.org\"`";
        let span = fields.value_span("interface");
        report.error(
            codes::BAD_BINDING,
            span,
            message.to_owned(),
            Some(hint.to_owned()),
        );
    }
    if !is_identity && issuer.is_some() {
        let message = "`issuer` has no effect here: only tokens of an identity name one";
        let span = fields.value_span("issuer");
        report.warning(codes::NO_EFFECT, span, message, None);
    }
    let is_mail = interface == Interface::Mail;
    if is_mail && senders.is_empty() && fields.key_span("senders").is_none() {
        let message = "nobody may send through this: it has no `senders`";
        let hint = "write whom the mail may come from: `senders = [\"shop@example.org\"]`";
        let span = fields.value_span("interface");
        report.error(codes::BAD_BINDING, span, message, Some(hint.to_owned()));
    }
    if !is_mail && !senders.is_empty() {
        let message = "`senders` has no effect here: only mail has some";
        let span = fields.value_span("senders");
        report.warning(codes::NO_EFFECT, span, message, None);
    }
    if let Backend::Smtp { server, .. } = &backend
        && !server.tls
        && secret.is_some()
        && !server.is_loopback()
    {
        let message = "the password would go over the network for everybody to read";
        let hint = "leave `?tls=none` out, or `secret`";
        let span = fields.value_span("secret");
        report.error(codes::BAD_BINDING, span, message, Some(hint.to_owned()));
    }
    let of_streams = ["keep_hours", "keep_mb"].map(|key| {
        let number = fields.integer(report, key);
        if number.is_some() && interface != Interface::Streams {
            let message =
                format!("`{key}` has no effect here: only streams keep something for a while");
            let span = fields.value_span(key);
            report.warning(codes::NO_EFFECT, span, message, None);
        }
        number.and_then(|number| u32::try_from(number).ok())
    });
    let is_inference = interface == Interface::Inference;
    if is_inference && model.is_none() && fields.key_span("model").is_none() {
        let message = "an engine is asked for a `model`, which is not named";
        let hint = "write what the engine calls it: `model = \"llama3.2:3b\"`";
        let span = fields.value_span("interface");
        report.error(codes::BAD_BINDING, span, message, Some(hint.to_owned()));
    }
    if !is_inference && model.is_some() {
        let message = "`model` has no effect here: only inference has one";
        let span = fields.value_span("model");
        report.warning(codes::NO_EFFECT, span, message, None);
    }
    if let Backend::OpenAi { server, .. } = &backend
        && !server.tls
        && secret.is_some()
        && !server.is_loopback()
    {
        let message = "the key would go over the network for everybody to read";
        let hint = "write `openai+https://…`, or leave `secret` out";
        let span = fields.value_span("secret");
        report.error(codes::BAD_BINDING, span, message, Some(hint.to_owned()));
    }
    let is_own =
        is_mail || is_inference || matches!(backend, Backend::Embedded | Backend::Otlp { .. });
    if is_own && !is_derived && prefix.is_some() {
        let message = "`prefix` has no effect here: the store is the binding's own";
        let span = fields.value_span("prefix");
        report.warning(codes::NO_EFFECT, span, message, None);
    }
    Some(Binding {
        interface,
        backend,
        prefix,
        secret,
        issuer,
        senders: component::without_duplicates(report, "senders", senders),
        model,
        events: None,
        keep_hours: of_streams[0],
        keep_mb: of_streams[1],
    })
}

/// `bind` of a component.
pub(super) fn bind(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    bindings: &Bindings,
) -> Vec<StoreGrant> {
    let written = fields.text_table(report, "bind");
    if let Some(span) = fields.key_span("bind") {
        fits(report, "bind", written.len(), PER_COMPONENT_MAX, span);
    }
    let mut grants: Vec<StoreGrant> = Vec::new();
    for ((key, key_span), (name, span)) in written.into_iter().take(PER_COMPONENT_MAX) {
        let Some(binding) = bindings.specs.get(&name) else {
            if !bindings.names.contains(&name) && !report.is_broken() {
                let hint = match report.nearest(&name, bindings.names.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("add `[bindings.{name}]`, with `interface` and `backend`"),
                };
                let message = format!("no binding `{}` under `[bindings]`", cut(&name));
                report.error(codes::UNKNOWN_BINDING, span, message, Some(hint));
            }
            continue;
        };
        let (interface, identifier) = match of_interface(&key) {
            Some((interface, identifier)) => (interface, identifier),
            None => (binding.interface, key.as_str()),
        };
        if let Err(error) = check_identifier(identifier) {
            report.value_error(key_span, error);
            continue;
        }
        if interface.kept_as() != binding.interface.kept_as() {
            let message = format!("`{name}` is for `{}`, not `{interface}`", binding.interface);
            report.error(codes::BAD_BINDING, span, message, None);
            continue;
        }
        let is_one = matches!(
            interface,
            Interface::Identity | Interface::Mail | Interface::Workflows | Interface::Inference
        );
        if is_one && identifier == StoreGrant::ANY {
            let message = format!(
                "`{interface}` is bound to a name, not to `*`: it would be the same under each"
            );
            report.error(codes::BAD_BINDING, key_span, message, None);
            continue;
        }
        if grants
            .iter()
            .any(|grant| grant.interface == interface && grant.identifier == identifier)
        {
            let message = format!("`{identifier}` of `{interface}` is bound twice");
            report.error(codes::DUPLICATE_VALUE, key_span, message, None);
            continue;
        }
        // They have no names to open: a second one would never be reached.
        let is_nameless = matches!(interface, Interface::Otel | Interface::Config);
        if is_nameless && grants.iter().any(|grant| grant.interface == interface) {
            let message = format!("`{interface}` is bound twice: it has no names to open");
            let hint = if interface == Interface::Otel {
                "keep one; a collector passes on to several"
            } else {
                "keep one; `vars` stand beside what is in it"
            };
            report.error(
                codes::DUPLICATE_VALUE,
                key_span,
                message,
                Some(hint.to_owned()),
            );
            continue;
        }
        grants.push(StoreGrant {
            interface,
            identifier: identifier.to_owned(),
            binding: name,
            spec: binding.clone(),
        });
    }
    grants.sort_by(|a, b| (a.interface, &a.identifier).cmp(&(b.interface, &b.identifier)));
    grants
}

/// `sql:default` in its parts.
fn of_interface(key: &str) -> Option<(Interface, &str)> {
    let (interface, identifier) = key.split_once(':')?;
    let mut all = Interface::ALL.into_iter();
    let interface = all.find(|one| one.short() == interface)?;
    Some((interface, identifier))
}

fn check_identifier(identifier: &str) -> Result<(), ValueError> {
    let bad = |why: &str| {
        let message = format!(
            "`{}` is not an identifier of a store: {why}",
            cut(identifier)
        );
        ValueError::new(codes::BAD_NAME, message)
    };
    if identifier.is_empty() || identifier.len() > NAME_BYTES_MAX {
        return Err(bad("it has 1 to 255 bytes"));
    }
    if identifier.chars().any(char::is_control) {
        return Err(bad("it has a control character"));
    }
    if identifier == binding::SECRETS {
        return Err(
            bad("under this name a component has its secrets").hint(Some("take another one"))
        );
    }
    Ok(())
}

/// `subscribe`, `watch` and `workflows` of a component.
pub(super) fn triggers(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    name: &str,
    stores: &[StoreGrant],
) -> Triggers {
    let entries = fields.entries(report, "subscribe");
    if let Some(span) = fields.key_span("subscribe") {
        fits(report, "subscribe", entries.len(), PER_COMPONENT_MAX, span);
    }
    let group = name
        .parse()
        .map_or(name.to_owned(), |name: ComponentName| name.app().to_owned());
    let mut subscriptions = Vec::new();
    for (key, value) in entries.into_iter().take(PER_COMPONENT_MAX) {
        let topic = key.get_ref().as_ref();
        if let Err(error) = check_topic(topic, true) {
            report.value_error(key.span(), error);
            continue;
        }
        let Some(table) = Fields::open(report, value, &keys::SUBSCRIBE, key.span(), topic) else {
            continue;
        };
        subscriptions.push(subscription(report, &table, topic, &group, stores));
    }
    let watched = fields.texts(report, "watch", |text| Ok::<_, ValueError>(text.to_owned()));
    for (identifier, span) in &watched {
        bound(
            report,
            identifier,
            span.clone(),
            Interface::Keyvalue,
            stores,
        );
    }
    Triggers {
        subscriptions,
        watches: component::without_duplicates(report, "watch", watched),
        workflows: workflows(report, fields, stores),
    }
}

fn workflows(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    stores: &[StoreGrant],
) -> Vec<WorkflowSpec> {
    let entries = fields.entries(report, "workflows");
    if let Some(span) = fields.key_span("workflows") {
        fits(report, "workflows", entries.len(), PER_COMPONENT_MAX, span);
    }
    let mut specs = Vec::new();
    for (key, value) in entries.into_iter().take(PER_COMPONENT_MAX) {
        let name = key.get_ref().as_ref();
        let workflow = match plain_name(name, "workflow") {
            Ok(workflow) => workflow,
            Err(error) => {
                report.value_error(key.span(), error);
                continue;
            }
        };
        let Some(table) = Fields::open(report, value, &keys::WORKFLOW, key.span(), name) else {
            continue;
        };
        let from = from(report, &table, Interface::Workflows, stores);
        specs.push(WorkflowSpec {
            workflow,
            from,
            concurrency: table.number_u32(report, "concurrency"),
            lease_ms: time(report, &table, "lease", ACK_WAIT_MS_RANGE).unwrap_or(30_000),
            attempts: table.number_u32(report, "attempts"),
            backoff_ms: time(report, &table, "backoff", BACKOFF_MS_RANGE).unwrap_or(1_000),
        });
    }
    specs
}

/// The identifier that something comes from.
fn from(
    report: &mut Report<'_>,
    table: &Fields<'_, '_>,
    interface: Interface,
    stores: &[StoreGrant],
) -> String {
    let from = table
        .text(report, "from", |text| Ok::<_, ValueError>(text.to_owned()))
        .unwrap_or_else(|| "default".to_owned());
    let span = table.value_span("from");
    bound(report, &from, span, interface, stores);
    from
}

fn subscription(
    report: &mut Report<'_>,
    table: &Fields<'_, '_>,
    topic: &str,
    group: &str,
    stores: &[StoreGrant],
) -> SubscriptionSpec {
    SubscriptionSpec {
        topic: topic.to_owned(),
        from: from(report, table, Interface::Messaging, stores),
        group: table
            .text(report, "group", |text| plain_name(text, "group"))
            .unwrap_or_else(|| group.to_owned()),
        concurrency: table.number_u32(report, "concurrency"),
        ack_wait_ms: time(report, table, "ack_wait", ACK_WAIT_MS_RANGE).unwrap_or(30_000),
        attempts: table.number_u32(report, "attempts"),
        backoff_ms: time(report, table, "backoff", BACKOFF_MS_RANGE).unwrap_or(1_000),
        dead_letter: table.text(report, "dead_letter", |text| {
            check_topic(text, false).map(|()| text.to_owned())
        }),
        rules: rules::read(report, table, "where"),
    }
}

/// Whether an identifier is one that the component binds.
fn bound(
    report: &mut Report<'_>,
    identifier: &str,
    span: Range<usize>,
    interface: Interface,
    stores: &[StoreGrant],
) {
    let known = stores.iter().any(|store| {
        store.interface == interface && [identifier, StoreGrant::ANY].contains(&&*store.identifier)
    });
    if known || report.is_broken() {
        return;
    }
    let message = format!("`{}` is not bound to a `{interface}`", cut(identifier));
    let hint = format!("write `bind = {{ {identifier:?} = \"…\" }}`, with the name of a binding");
    report.error(codes::UNKNOWN_BINDING, span, message, Some(hint));
}

/// Checks the name of a topic: parts with `.` between them; in a pattern `*` for one, `>` at the end.
fn check_topic(topic: &str, pattern: bool) -> Result<(), ValueError> {
    let parts: Vec<&str> = topic.split('.').collect();
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = parts.len() - 1;
    let fits = topic.len() <= NAME_BYTES_MAX
        && parts.iter().enumerate().all(|(index, part)| {
            plain(part) || pattern && (*part == "*" || *part == ">" && index == last)
        });
    if fits {
        return Ok(());
    }
    let forms = if pattern {
        ", or `*` in place of one, or `>` in place of the last ones"
    } else {
        ""
    };
    let message = format!(
        "`{}` is not a topic: words of letters, digits, `-` and `_` with `.` between them{forms}",
        cut(topic)
    );
    Err(ValueError::new(codes::BAD_VALUE, message))
}
