//! `realm key recover`: takes the realm back with a recovery key, and abandons what was signed since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use realm_model::api::{EntryView, Heads};
use realm_model::entry::{Body, ChainId, Fence, Head, NamespaceName, Recover};
use realm_model::key::{PublicKey, SecretKey};
use realm_node::Client;

use crate::authority::submit_at;
use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::{output, owner};

/// Entries in one answer of a node; a chain is looked at from its end, that many at a time.
const LOOK_BACK: u64 = 256;

/// Take the realm back with a recovery key
///
/// The new entry takes the place of entry SEQ of the authority chain; that one and all after it are
/// abandoned, on every node. So are manifests, pushes and restarts of the owners whose signer had seen
/// one of these. `realm key log` shows the entries: choose the first one that a thief signed. What
/// the delegates applied stays.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file of the recovery key
    #[arg(long, value_name = "FILE")]
    recovery_key: PathBuf,

    /// The first entry of the authority chain that shall not hold
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,

    /// The key of the owner from then on: its public key, or its file
    #[arg(long, value_name = "KEY|FILE")]
    owner: String,

    /// Of a namespace of the owners: the last entry that shall hold, where it is earlier than those
    /// that fall by themselves (a thief can sign with an old date); repeatable
    #[arg(long, value_name = "NAMESPACE=SEQ")]
    keep: Vec<Keep>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Where to cut a namespace.
#[derive(Debug, Clone)]
struct Keep {
    namespace: NamespaceName,
    seq: u64,
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, seq) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is not `NAMESPACE=SEQ`"))?;
        Ok(Self {
            namespace: namespace
                .parse()
                .map_err(|error: realm_model::entry::NamespaceNameError| error.to_string())?,
            seq: seq
                .parse()
                .map_err(|_| format!("`{seq}` is not a number"))?,
        })
    }
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    context.block_on(recover(context, args))
}

async fn recover(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let owner = new_owner(&args.owner).await?;
    let recovery = owner::load(&args.recovery_key).await?;
    let client = context.client().await?;
    let mut heads = client.heads().await?;
    check_recovery(&heads, &recovery)?;
    let chain = whole(&client, ChainId::Authority).await?;
    let Some(parent) = chain.iter().find(|entry| entry.seq + 1 == args.from) else {
        let message = format!(
            "entry {} would not follow the authority chain, whose last one is {}",
            args.from, heads.authority.seq
        );
        return Err(Failure::new("gap", message)
            .hint("`realm key log` shows the entries")
            .exit(exit::REFUSED));
    };
    let parent = Head {
        seq: parent.seq,
        hash: parent.hash,
    };
    let mut fences = Vec::new();
    for namespace in owned_at(&chain, parent.seq) {
        let keep = args.keep.iter().find(|keep| keep.namespace == namespace);
        fences.push(cut(&client, &heads, namespace, args.from, keep).await?);
    }
    let fallen = chain.iter().filter(|entry| entry.seq >= args.from);
    for entry in fallen {
        output::note(&format!(
            "  - entry {} of `authority`: {}",
            entry.seq, entry.says
        ));
    }
    output::note(&format!(
        "the realm goes to {owner}\n  words: {}",
        owner.words().join(" ")
    ));
    confirm("Abandon these entries, and take the realm back?", args.yes).await?;
    let body = Body::Recover(Recover {
        owners: vec![owner],
        threshold: 1,
        recovery: match heads.recovery.contains(&recovery.public()) {
            true => heads.recovery.clone(),
            false => vec![recovery.public()],
        },
        fences,
        fork: None,
    });
    let accepted = submit_at(&client, &mut heads, parent, &[&recovery], body).await?;
    if context.json() {
        output::json(&serde_json::json!({
            "owner": owner,
            "words": owner.words(),
            "seq": accepted.head.seq,
        }))?;
    } else {
        output::data(&format!(
            "the realm belongs to {owner} (entry {} of `authority`)",
            accepted.head.seq
        ));
        output::note(
            "put that key where `realm` finds it: `owner.key` of the realm folder, or `--key FILE`",
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn new_owner(text: &str) -> Result<PublicKey, Failure> {
    match text.parse() {
        Ok(key) => Ok(key),
        Err(_) if Path::new(text).exists() => Ok(owner::load(Path::new(text)).await?.public()),
        Err(error) => Err(Failure::from_error("bad-key", &error)
            .hint("`realm key new FILE` makes a key")
            .exit(exit::USAGE)),
    }
}

/// Who lost all recovery keys to a thief may still have one that held before.
fn check_recovery(heads: &Heads, key: &SecretKey) -> Result<(), Failure> {
    if heads.recovery.is_empty() || heads.recovery.contains(&key.public()) {
        return Ok(());
    }
    Err(Failure::new(
        "wrong-owner",
        format!(
            "the key here ({}) is no recovery key of {}",
            key.public(),
            heads.realm
        ),
    )
    .hint("`realm key recovery ls` lists them")
    .exit(exit::REFUSED))
}

/// All entries of a chain as it stands.
pub(super) async fn whole(client: &Client, chain: ChainId) -> Result<Vec<EntryView>, Failure> {
    let mut entries: Vec<EntryView> = Vec::new();
    loop {
        let from = entries.last().map_or(0, |last| last.seq + 1);
        let page = client.entries(chain, from).await?;
        let end = page.head.seq;
        let empty = page.entries.is_empty();
        entries.extend(page.entries);
        if empty || entries.last().is_none_or(|last| last.seq >= end) {
            return Ok(entries);
        }
    }
}

/// The namespaces for which the owners signed when `seq` was the last entry.
fn owned_at(authority: &[EntryView], seq: u64) -> BTreeSet<NamespaceName> {
    let mut owned = BTreeMap::from([(NamespaceName::DEFAULT, true)]);
    for entry in authority.iter().filter(|entry| entry.seq <= seq) {
        if let Some(namespace) = entry.namespace {
            match entry.kind.as_str() {
                "delegate" => drop(owned.insert(namespace, false)),
                "undelegate" => drop(owned.insert(namespace, true)),
                _ => {}
            }
        }
    }
    owned
        .into_iter()
        .filter_map(|(name, owned)| owned.then_some(name))
        .collect()
}

/// The last entry of a namespace whose signer had seen nothing of what falls.
async fn cut(
    client: &Client,
    heads: &Heads,
    namespace: NamespaceName,
    from: u64,
    keep: Option<&Keep>,
) -> Result<Fence, Failure> {
    let chain = ChainId::Namespace(namespace);
    let tip = heads
        .namespaces
        .get(&namespace)
        .map_or(heads.default, |found| found.head);
    let holds = |entry: &&EntryView| {
        entry.authority.seq < from && keep.is_none_or(|keep| entry.seq <= keep.seq)
    };
    let mut head = heads.realm.origin();
    let mut before = tip.seq + 1;
    while before > 1 {
        let first = before.saturating_sub(LOOK_BACK).max(1);
        let page = client.entries(chain, first).await?;
        let last = page
            .entries
            .iter()
            .filter(|entry| entry.seq < before)
            .rfind(holds);
        if let Some(last) = last {
            head = Head {
                seq: last.seq,
                hash: last.hash,
            };
            break;
        }
        before = first;
    }
    if head.seq < tip.seq {
        output::note(&format!(
            "  - {} entries of namespace `{namespace}`, from {} on",
            tip.seq - head.seq,
            head.seq + 1
        ));
    }
    Ok(Fence {
        namespace,
        base: head,
        head,
    })
}
