//! `realm delegate`: namespaces that the owner gives to others, and people who may look.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use realm_model::api::DelegateView;
use realm_model::entry::{Body, Delegate, NamespaceName, Undelegate};
use realm_model::grants::Capability;
use realm_model::key::PublicKey;
use realm_model::view::BeaconView;

use crate::commands::{beacon, key};
use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::time::{now_unix_ms, parse_lifetime, timestamp};
use crate::{authority, output};

const HEADER: [&str; 7] = ["NAMESPACE", "ROLE", "KEY", "APPS", "SCOPE", "MAY", "ENDS"];

/// Give namespaces to others, and say who may look
///
/// A delegate has a namespace and a key of its own, and applies its own manifest there: `realm apply
/// --namespace NAME --key FILE`. A delegate without components and powers is a reader: it sees the
/// status, the logs and the figures, and changes nothing. A beacon signs every so often that the realm
/// goes on, and nothing else: `realm beacon`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: DelegateVerb,
}

#[derive(Debug, clap::Subcommand)]
enum DelegateVerb {
    /// Give a namespace to a key; without `--apps` and `--may-…`, make its holder a reader
    ///
    /// For a namespace that has a delegate already, this replaces key and scope as a whole: what the
    /// delegate before signed and nobody saw yet is abandoned.
    Add(Scope),
    /// Take a namespace back: the owners sign for it again, and what runs goes on; or the beacon away
    Rm {
        /// The namespace, or the name of the beacon
        name: NamespaceName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// List the delegates and readers, and the beacon
    Ls,
    /// Make a key in a new file, for a person or for CI
    ///
    /// Run it where the key will be used: only the public key, which it prints, goes to the owner.
    Key {
        /// The file; it must not exist
        file: PathBuf,

        /// Seal the key with a passphrase
        #[arg(long)]
        passphrase: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Scope {
    /// The namespace: lower-case letters, digits and `-`
    name: NamespaceName,

    /// The public key that signs there (`realm delegate key` prints it); `--key KEY` says the same
    #[arg(id = "delegate", value_name = "KEY")]
    key: Option<PublicKey>,

    /// Names that its components may have, `*` for any characters
    #[arg(long, value_name = "GLOB", num_args = 1.., value_delimiter = ',')]
    apps: Vec<String>,

    /// Hosts that its routes must name, `*` for any characters; absent: any, or none
    #[arg(long, value_name = "GLOB", num_args = 1.., value_delimiter = ',')]
    hosts: Vec<String>,

    /// Tags of the nodes that its routes may name; absent: any node
    #[arg(long, value_name = "TAG", num_args = 1.., value_delimiter = ',')]
    tags: Vec<String>,

    /// What its manifests may grant to components; absent: nothing
    #[arg(long, value_name = "CAPABILITY", num_args = 1.., value_delimiter = ',',
        value_parser = clap::builder::PossibleValuesParser::new(Capability::ALL.map(Capability::as_str)))]
    capabilities: Vec<String>,

    /// Replicas that one route may ask for; absent: any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    replicas_max: Option<u32>,

    /// It may run commands on nodes whose own policy agrees
    #[arg(long)]
    may_exec: bool,

    /// It may approve nodes
    #[arg(long)]
    may_approve: bool,

    /// How long it holds; absent: until it is taken back
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
    expires: Option<Duration>,

    /// It signs beacons, and nothing else; a realm has one
    #[arg(long, conflicts_with_all = ["apps", "hosts", "tags", "capabilities", "replicas_max", "may_exec", "may_approve", "expires"])]
    beacon: bool,

    /// How often a beacon is promised
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime, default_value = "5m", requires = "beacon")]
    every: Duration,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Args {
    /// Takes the delegate's key from the global `--key`: the file of the key to act with is no text of a
    /// public key, and whoever writes one there means the delegate.
    pub(crate) fn take_key(&mut self, global: &mut Option<PathBuf>) {
        if let DelegateVerb::Add(scope) = &mut self.verb
            && scope.key.is_none()
            && let Some(key) = global
                .as_deref()
                .and_then(|text| text.to_str()?.parse().ok())
        {
            scope.key = Some(key);
            *global = None;
        }
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    match args.verb {
        DelegateVerb::Add(scope) => context.block_on(add(context, scope)),
        DelegateVerb::Rm { name, yes } => context.block_on(remove(context, name, yes)),
        DelegateVerb::Ls => context.block_on(list(context)),
        DelegateVerb::Key { file, passphrase } => key::new(context, &file, passphrase),
    }
}

async fn add(context: &Context, scope: Scope) -> Result<ExitCode, Failure> {
    if scope.name.is_default() {
        return Err(
            Failure::new("usage", "namespace `default` is the owners' own")
                .hint("choose another name")
                .exit(exit::USAGE),
        );
    }
    let Some(delegated) = scope.key else {
        return Err(
            Failure::new("usage", "the delegate's public key is missing")
                .hint(format!(
                    "`realm delegate add {} ed25519:…`; `realm delegate key FILE` makes one",
                    scope.name
                ))
                .exit(exit::USAGE),
        );
    };
    if scope.beacon {
        return beacon::set(context, scope.name, delegated, scope.every, scope.yes).await;
    }
    let client = context.client().await?;
    let mut heads = client.heads().await?;
    let ends = scope
        .expires
        .map(|time| now_unix_ms() / 1_000 + time.as_secs());
    let delegate = Delegate {
        namespace: scope.name,
        key: delegated,
        apps: scope.apps,
        hosts: scope.hosts,
        tags: scope.tags,
        capabilities: scope.capabilities,
        may_exec: scope.may_exec,
        may_approve: scope.may_approve,
        // A namespace that was there before is cut where it stands.
        fences: authority::fence(&heads, scope.name).into_iter().collect(),
        replicas_max: scope.replicas_max,
        not_after_unix_s: ends,
    };
    let view = DelegateView::from(&delegate);
    output::note(&format!(
        "{}\n  words: {}",
        text(std::slice::from_ref(&view)),
        view.key.words().join(" ")
    ));
    let before = heads
        .delegates
        .iter()
        .find(|one| one.namespace == scope.name);
    if let Some(before) = before.filter(|before| before.key != delegated) {
        output::note(&format!("it takes the place of {}", before.key));
    }
    confirm("Sign this?", scope.yes).await?;
    let key = context.owner_key().await?;
    let accepted = authority::submit(&client, &mut heads, &key, Body::Delegate(delegate)).await?;
    if context.json() {
        output::json(&serde_json::json!({ "delegate": view, "seq": accepted.head.seq }))?;
    } else {
        output::data(&format!(
            "`{}` is a {} (entry {} of `authority`)",
            view.namespace, view.role, accepted.head.seq
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(context: &Context, name: NamespaceName, yes: bool) -> Result<ExitCode, Failure> {
    let client = context.client().await?;
    let mut heads = client.heads().await?;
    if let Some(beacon) = heads.beacon.clone().filter(|beacon| beacon.name == name) {
        return beacon::unset(context, heads, beacon, yes).await;
    }
    let Some(before) = heads.delegates.iter().find(|one| one.namespace == name) else {
        return Err(Failure::new(
            "unknown-name",
            format!("namespace `{name}` has no delegate"),
        )
        .hint("`realm delegate ls` lists them"));
    };
    confirm(&format!("Take `{name}` back from {}?", before.key), yes).await?;
    let key = context.owner_key().await?;
    let body = Body::Undelegate(Undelegate {
        namespace: name,
        fences: authority::fence(&heads, name).into_iter().collect(),
    });
    let accepted = authority::submit(&client, &mut heads, &key, body).await?;
    if context.json() {
        output::json(&serde_json::json!({ "namespace": name, "seq": accepted.head.seq }))?;
    } else {
        output::data(&format!(
            "`{name}` is the owners' again (entry {} of `authority`)",
            accepted.head.seq
        ));
        output::note(&format!(
            "what it applied runs on: `realm apply --namespace {name}` changes it"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(context: &Context) -> Result<ExitCode, Failure> {
    let heads = context.client().await?.heads().await?;
    if context.json() {
        let (delegates, beacon) = (heads.delegates, heads.beacon);
        output::json(&serde_json::json!({ "delegates": delegates, "beacon": beacon }))?;
    } else if heads.delegates.is_empty() && heads.beacon.is_none() {
        output::note("there are no delegates: `realm delegate add` makes one");
    } else {
        let beacon = heads.beacon.iter().map(beacon_row);
        let rows = heads.delegates.iter().map(row).chain(beacon);
        output::data(&output::table(&HEADER, rows.collect()));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(delegates: &[DelegateView]) -> String {
    output::table(&HEADER, delegates.iter().map(row).collect())
}

fn beacon_row(beacon: &BeaconView) -> Vec<String> {
    let mut row = vec![String::new(); HEADER.len()];
    row[0] = beacon.name.to_string();
    row[1] = "beacon".to_owned();
    row[2] = beacon.key.to_string();
    row[4] = format!("every {} s", beacon.every_s);
    row
}

fn row(delegate: &DelegateView) -> Vec<String> {
    let replicas = delegate.replicas_max.map(|max| format!("replicas≤{max}"));
    let of = |word: &str, list: &[String]| {
        (!list.is_empty()).then(|| format!("{word}={}", list.join(",")))
    };
    let scope: Vec<String> = of("hosts", &delegate.hosts)
        .into_iter()
        .chain(of("tags", &delegate.tags))
        .chain(of("grants", &delegate.capabilities))
        .chain(replicas)
        .collect();
    let may: Vec<&str> = [
        ("exec", delegate.may_exec),
        ("approve", delegate.may_approve),
    ]
    .into_iter()
    .filter_map(|(word, may)| may.then_some(word))
    .collect();
    vec![
        delegate.namespace.to_string(),
        delegate.role.clone(),
        delegate.key.to_string(),
        delegate.apps.join(","),
        scope.join(" "),
        may.join(","),
        delegate
            .not_after_unix_s
            .map_or_else(String::new, |end| timestamp(end.saturating_mul(1_000))),
    ]
}
