//! `realm secret`: values in realm.toml that only the nodes which need them can read, and the owner.
//! Everything here happens on the owner's machine: no value and no key leaves it.

mod edit;
mod list;
mod roster;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use realm_model::entry::NamespaceName;
use realm_model::manifest::Manifest;
use realm_model::name::{NodeName, check_secret};
use realm_model::sealing::{Mark, Sealed, ValueId};
use realm_node::sealing::{OpenError, SealingKey, new_value_id, seal};
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::resolve::read_manifest;
use crate::{output, owner};
use edit::Document;
use roster::Roster;

/// Seal secrets to the nodes that need them
///
/// A secret stands in realm.toml as a file of the `age` tool, in base64. It is sealed to the nodes
/// that may run the components which list it, and to the owner key of this machine: nobody else can
/// read it, also not from a copy of the repository. docs/secrets.md says what that is worth.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: SecretVerb,
}

#[derive(Debug, clap::Subcommand)]
enum SecretVerb {
    /// Seal a new secret and write it into the manifest
    ///
    /// The value comes from standard input (one line break at its end is no part of it), or is typed
    /// where there is a terminal; never from the command line. `realm apply` puts it in force.
    Set(Change),
    /// Give a secret another value
    ///
    /// Components that list it are restarted by the next `realm apply`, in the turns of a rollout.
    Rotate(Change),
    /// Seal secrets anew after nodes joined or left, or components list other ones
    ///
    /// Opens each with the owner key and seals the same value to those that may need it by now.
    /// Nothing is restarted by that. Who left can still read what was sealed to it before: `realm
    /// secret rotate` changes what they know.
    Reseal(Reseal),
    /// List the secrets: who can open each, which components list it, and for whom it is not sealed
    #[command(visible_alias = "list")]
    Ls(At),
    /// Print the value of a secret, with the owner key
    Show {
        /// The secret
        name: String,

        #[command(flatten)]
        at: At,

        /// A file with an older owner key, to which it may be sealed
        #[arg(long, value_name = "FILE")]
        old_key: Option<PathBuf>,
    },
    /// Print to whom secrets for the owner key of this machine are sealed: `age1…`
    ///
    /// Another owner names it with `--also`.
    Recipient,
}

/// Where the secrets are.
#[derive(Debug, clap::Args)]
struct At {
    /// The manifest
    #[arg(long, value_name = "FILE", default_value = "realm.toml")]
    manifest: PathBuf,

    /// The namespace that the manifest is applied in: a secret opens nowhere else
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: NamespaceName,
}

impl At {
    /// The manifest as its namespace has it; every problem is told.
    fn read(&self, context: &Context) -> Result<Manifest, Failure> {
        let (_, mut manifest) = read_manifest(&self.manifest, context.json())?;
        manifest.belong_to(self.namespace);
        Ok(manifest)
    }
}

/// Who is to open them beside the nodes and the owner.
#[derive(Debug, clap::Args)]
struct Readers {
    /// An age recipient (`age1…`) that is to open it as well: another owner's, a key in a drawer
    #[arg(long, value_name = "RECIPIENT")]
    also: Vec<String>,

    /// Leave out nodes whose sealing keys are not known here: they will not be able to open it
    #[arg(long)]
    without_unheard: bool,
}

#[derive(Debug, clap::Args)]
struct Change {
    /// The secret
    name: String,

    #[command(flatten)]
    at: At,

    #[command(flatten)]
    readers: Readers,
}

#[derive(Debug, clap::Args)]
struct Reseal {
    /// The secrets; absent: all
    names: Vec<String>,

    #[command(flatten)]
    at: At,

    #[command(flatten)]
    readers: Readers,

    /// A file with an older owner key, to which they may be sealed
    #[arg(long, value_name = "FILE")]
    old_key: Option<PathBuf>,
}

/// What became of a secret.
#[derive(Serialize)]
struct Outcome {
    name: String,
    /// Nodes that can open it.
    nodes: BTreeSet<NodeName>,
    /// Nodes that could not before.
    added: BTreeSet<NodeName>,
    /// Nodes that could before.
    removed: BTreeSet<NodeName>,
    /// Nodes that may run a component that lists it, and whose sealing keys are not known here.
    unheard: BTreeSet<NodeName>,
    /// Recipients before that are neither nodes of this realm nor named: they cannot open it any more.
    dropped: usize,
    /// Whether the manifest was changed.
    written: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        match args.verb {
            SecretVerb::Set(change) => set(context, change, false).await,
            SecretVerb::Rotate(change) => set(context, change, true).await,
            SecretVerb::Reseal(args) => reseal(context, args).await,
            SecretVerb::Ls(at) => list::run(context, &at).await,
            SecretVerb::Show { name, at, old_key } => {
                let manifest = at.read(context)?;
                let sealed = sealed_of(&manifest, &name)?;
                let keys = keys(context, old_key).await?;
                let value = open(&keys, &name, sealed)?;
                value::print(context, &name, &value)?;
                Ok(ExitCode::SUCCESS)
            }
            SecretVerb::Recipient => {
                let key = SealingKey::of_owner(&context.owner_key().await?);
                if context.json() {
                    let recipient = key.recipient();
                    output::json(&BTreeMap::from([("recipient", recipient)]))?;
                } else {
                    output::data(&key.recipient());
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

async fn set(context: &Context, change: Change, again: bool) -> Result<ExitCode, Failure> {
    let Change { name, at, readers } = change;
    check_name(&name)?;
    let mut document = Document::read(&at.manifest)?;
    match (document.has(&name), again) {
        (true, false) => {
            return Err(
                Failure::new("exists", format!("there is a secret `{name}` already")).hint(
                    format!("`realm secret rotate {name}` gives it another value"),
                ),
            );
        }
        (false, true) => return Err(unknown(&name)),
        (true, true) | (false, false) => {}
    }
    // What lists the secret is known only with the secret in place.
    let before = document.sealed(at.namespace, &name);
    let manifest = document.with(&name, edit::PLACEHOLDER, context.json())?;
    let roster = Roster::of(context).await?;
    let owner = SealingKey::of_owner(&context.owner_key().await?);
    let to = recipients(&roster, &manifest, &name, &owner, &readers)?;
    let value = value::read(&name).await?;
    let id = new_value_id().map_err(|error| Failure::from_error("not-sealed", &error))?;
    let text = sealed_text(at.namespace, &name, id, &value, &to)?;
    document.put(&name, &text)?;
    document.write()?;
    let outcome = to.outcome(&name, before.as_ref(), &roster, true);
    tell(context, &[outcome], &manifest)
}

async fn reseal(context: &Context, args: Reseal) -> Result<ExitCode, Failure> {
    let manifest = args.at.read(context)?;
    let namespace = args.at.namespace;
    let mut document = Document::read(&args.at.manifest)?;
    let roster = Roster::of(context).await?;
    let keys = keys(context, args.old_key).await?;
    let owner = SealingKey::of_owner(&context.owner_key().await?);
    let names: BTreeSet<String> = match args.names.is_empty() {
        true => manifest.secrets.keys().cloned().collect(),
        false => args.names.into_iter().collect(),
    };
    let mut outcomes = Vec::new();
    for name in names {
        let sealed = sealed_of(&manifest, &name)?;
        let to = recipients(&roster, &manifest, &name, &owner, &args.readers)?;
        let before = sealed.label();
        let same = before.as_ref().is_some_and(|label| {
            let marks: BTreeSet<Mark> = label.marks.iter().copied().collect();
            (label.namespace, &label.name) == (namespace, &name) && marks == to.marks()
        });
        if !same {
            let value = open(&keys, &name, sealed)?;
            let id = match &before {
                Some(label) => label.value,
                // Made with another tool: from here on it has a number.
                None => {
                    new_value_id().map_err(|error| Failure::from_error("not-sealed", &error))?
                }
            };
            let text = sealed_text(namespace, &name, id, &value, &to)?;
            document.put(&name, &text)?;
        }
        outcomes.push(to.outcome(&name, Some(sealed), &roster, !same));
    }
    if outcomes.iter().any(|outcome| outcome.written) {
        document.write()?;
    }
    tell(context, &outcomes, &manifest)
}

/// To whom a secret is sealed.
struct Recipients {
    nodes: BTreeMap<NodeName, String>,
    unheard: BTreeSet<NodeName>,
    owner: String,
    also: Vec<String>,
}

impl Recipients {
    fn all(&self) -> Vec<String> {
        let nodes = self.nodes.values();
        let all: BTreeSet<&String> = nodes.chain([&self.owner]).chain(&self.also).collect();
        all.into_iter().cloned().collect()
    }

    fn marks(&self) -> BTreeSet<Mark> {
        self.all().iter().map(|one| Mark::of(one)).collect()
    }

    fn outcome(
        &self,
        name: &str,
        before: Option<&Sealed>,
        roster: &Roster,
        written: bool,
    ) -> Outcome {
        let label = before.and_then(Sealed::label);
        let marks = label.map_or_else(Vec::new, |label| label.marks);
        let had = |recipient: &str| marks.contains(&Mark::of(recipient));
        let now = self.marks();
        let known = roster.marks();
        let removed = marks.iter().filter(|mark| !now.contains(mark));
        let removed: Vec<Option<&NodeName>> =
            removed.map(|mark| known.get(mark).copied()).collect();
        let added = self.nodes.iter().filter(|(_, recipient)| !had(recipient));
        Outcome {
            name: name.to_owned(),
            nodes: self.nodes.keys().cloned().collect(),
            added: added.map(|(node, _)| node.clone()).collect(),
            removed: removed
                .iter()
                .flatten()
                .map(|node| (*node).clone())
                .collect(),
            unheard: self.unheard.clone(),
            dropped: removed.iter().filter(|node| node.is_none()).count(),
            written,
        }
    }
}

/// The nodes that may run what lists the secret, the owner, and whom the command line names.
fn recipients(
    roster: &Roster,
    manifest: &Manifest,
    name: &str,
    owner: &SealingKey,
    readers: &Readers,
) -> Result<Recipients, Failure> {
    let mut to = Recipients {
        nodes: BTreeMap::new(),
        unheard: BTreeSet::new(),
        owner: owner.recipient(),
        also: readers.also.clone(),
    };
    for node in roster.may_need(manifest, name) {
        match roster.recipient(&node) {
            Some(recipient) => drop(to.nodes.insert(node, recipient.to_owned())),
            None => drop(to.unheard.insert(node)),
        }
    }
    if !to.unheard.is_empty() && !readers.without_unheard {
        let nodes: Vec<&str> = to.unheard.iter().map(NodeName::as_str).collect();
        return Err(Failure::new(
            "unheard-node",
            format!(
                "`{name}` is to be sealed to {}, whose sealing keys are not known here: {}",
                nodes.join(", "),
                roster.why_unknown()
            ),
        )
        .hint("see that their agents run; `--without-unheard` leaves them out: they cannot open it until it is sealed anew")
        .exit(exit::REFUSED));
    }
    Ok(to)
}

fn sealed_text(
    namespace: NamespaceName,
    name: &str,
    id: ValueId,
    value: &[u8],
    to: &Recipients,
) -> Result<String, Failure> {
    seal(namespace, name, id, value, &to.all())
        .map_err(|error| Failure::from_error("not-sealed", &error))
}

/// The argument is judged before the manifest is looked at, which has no part in it.
fn check_name(name: &str) -> Result<(), Failure> {
    check_secret(name).map_err(|error| {
        Failure::from_error("bad-name", &error)
            .hint(
                "a secret is named in at most 63 letters, digits, `-`, `_` and `.`: `db.password`",
            )
            .exit(exit::USAGE)
    })
}

fn sealed_of<'a>(manifest: &'a Manifest, name: &str) -> Result<&'a Sealed, Failure> {
    check_name(name)?;
    manifest.secrets.get(name).ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Failure {
    Failure::new("unknown-secret", format!("there is no secret `{name}`")).hint(format!(
        "`realm secret set {name}` makes it; `realm secret ls` lists them"
    ))
}

/// The keys that may open what is sealed to the owner.
async fn keys(context: &Context, old: Option<PathBuf>) -> Result<Vec<SealingKey>, Failure> {
    let mut keys = vec![SealingKey::of_owner(&context.owner_key().await?)];
    if let Some(old) = old {
        keys.push(SealingKey::of_owner(&owner::load(&old).await?));
    }
    Ok(keys)
}

fn open(
    keys: &[SealingKey],
    name: &str,
    sealed: &Sealed,
) -> Result<zeroize::Zeroizing<Vec<u8>>, Failure> {
    let mut last = OpenError::NotForMe;
    for key in keys {
        match key.open(name, sealed) {
            Ok(value) => return Ok(value),
            Err(error) => last = error,
        }
    }
    let failure = Failure::from_error("not-opened", &last).context(format!("secret `{name}`"));
    Err(match last {
        OpenError::NotForMe => failure.hint(
            "it was sealed by another owner, or before the owner key changed: `--old-key FILE`; else `realm secret rotate` gives it a new value",
        ),
        OpenError::OtherName(before) => failure.hint(format!(
            "somebody moved it in realm.toml: write it under `{before}` again"
        )),
        OpenError::OtherNamespace(_) | OpenError::NoNamespace(_) => failure.hint(
            "a secret opens in its own namespace alone: `--namespace NAME`, or `realm secret rotate` gives it a new value",
        ),
        OpenError::Damaged(_) | OpenError::TooLarge => {
            failure.hint("take it from an older copy of realm.toml, or `realm secret rotate` it")
        }
    })
}

fn tell(context: &Context, outcomes: &[Outcome], manifest: &Manifest) -> Result<ExitCode, Failure> {
    if context.json() {
        output::json(&outcomes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let names = |nodes: &BTreeSet<NodeName>| {
        let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
        names.join(", ")
    };
    for outcome in outcomes {
        let name = &outcome.name;
        let mut line = match (outcome.written, outcome.nodes.is_empty()) {
            (false, _) => format!("{name}: stays as it is"),
            (true, false) => format!("{name}: sealed to {} and the owner", names(&outcome.nodes)),
            (true, true) => format!("{name}: sealed to the owner alone"),
        };
        for (what, nodes) in [("new", &outcome.added), ("no longer", &outcome.removed)] {
            if outcome.written && !nodes.is_empty() && *nodes != outcome.nodes {
                line += &format!("; {what}: {}", names(nodes));
            }
        }
        output::data(&line);
        if outcome.written && outcome.dropped > 0 {
            output::note(&format!(
                "{name}: {} that could open it before cannot any more: an owner's key or one of `--also` that was not named this time, or a node that left",
                outcome.dropped
            ));
        }
        if !outcome.unheard.is_empty() {
            let left_out = names(&outcome.unheard);
            output::note(&format!("{name}: not sealed to {left_out}, as you said"));
        }
        let listed = manifest
            .components
            .values()
            .any(|spec| spec.grants.secret_names().contains(name));
        if !listed {
            output::note(&format!(
                "{name}: no component lists it under `secrets`; once one does, `realm secret reseal` seals it to the nodes that may run it"
            ));
        }
    }
    if outcomes.iter().any(|outcome| outcome.written) {
        output::note("`realm apply` puts it in force");
    }
    Ok(ExitCode::SUCCESS)
}
