//! `realm resolve`: shows chains that have two histories, and signs which of them holds.

use std::process::ExitCode;

use realm_control::changes::{changes, render};
use realm_model::api::{EntryView, ForkView, Heads};
use realm_model::entry::{Body, ChainId, Fence, Head, Opened, Recover, Resolve, TwoEntries};
use realm_model::lock::Lock;
use realm_model::manifest;
use realm_model::text::from_base64;
use realm_node::Client;

use crate::authority::{submit, submit_at};
use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::sign::{Standing, check_threshold, not_an_owner};
use crate::time::timestamp;
use crate::{output, resolve};

/// Characters of a hash that are enough to mean one of two.
const PREFIX_CHARS_MIN: usize = 4;

/// Show chains that have two histories, and say which of them holds
///
/// Two entries were signed for one place of a chain: from two machines at once, or with a stolen key.
/// Every node that saw both lets that chain stand still; what runs goes on. Without `--keep` this shows
/// both histories. With it, the owner signs that one of them holds. On the authority chain neither
/// entry stays: it is recovered at that place, and what the kept entry says is signed again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The chain: `authority`, or a namespace; absent: all that stand still
    #[arg(value_name = "CHAIN", value_parser = parse_chain)]
    chain: Option<ChainId>,

    /// The hash of the entry that holds, or the beginning of it
    #[arg(long, value_name = "HASH", requires = "chain")]
    keep: Option<String>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

fn parse_chain(text: &str) -> Result<ChainId, String> {
    ChainId::of(text).ok_or_else(|| format!("`{text}` is no chain"))
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        let client = context.client().await?;
        let heads = client.heads().await?;
        match (args.chain, &args.keep) {
            (Some(chain), Some(keep)) => {
                let fork = fork(&client, &heads, chain).await?;
                end(context, &client, heads, &fork, keep, args.yes).await
            }
            (chain, _) => show(context, &client, &heads, chain).await,
        }
    })
}

async fn fork(client: &Client, heads: &Heads, chain: ChainId) -> Result<ForkView, Failure> {
    if heads.forks.iter().any(|fork| fork.chain == chain) {
        return Ok(client.fork(chain).await?);
    }
    Err(Failure::new(
        "no-fork",
        format!("chain `{chain}` has one history at {}", heads.node),
    )
    .hint("`realm resolve` lists the chains that stand still"))
}

async fn show(
    context: &Context,
    client: &Client,
    heads: &Heads,
    chain: Option<ChainId>,
) -> Result<ExitCode, Failure> {
    let mut forks = Vec::new();
    match chain {
        Some(chain) => forks.push(fork(client, heads, chain).await?),
        None => {
            for frozen in &heads.forks {
                forks.push(client.fork(frozen.chain).await?);
            }
        }
    }
    if context.json() {
        output::json(&serde_json::json!({ "forks": forks }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if forks.is_empty() {
        output::note(&format!("no chain stands still at {}", heads.node));
    }
    for fork in &forks {
        output::data(&told(client, heads, fork).await?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Both histories of a chain, in words.
async fn told(client: &Client, heads: &Heads, fork: &ForkView) -> Result<String, Failure> {
    let chain = fork.chain;
    let mut text = format!(
        "chain `{chain}` stands still: entry {} has two versions\n",
        fork.entries[0].seq
    );
    for entry in &fork.entries {
        let signers: Vec<String> = entry.signers.iter().map(|key| signer(heads, key)).collect();
        text.push_str(&format!(
            "\n  {}{}\n    {}\n    signed {} by {}\n",
            entry.hash,
            if entry.here {
                format!("  (in force at {})", heads.node)
            } else {
                String::new()
            },
            entry.says,
            timestamp(entry.created_unix_s.saturating_mul(1_000)),
            signers.join(", ")
        ));
        if let (Some(changed), false) = (changed(client, heads, chain, entry).await?, entry.here) {
            text.push_str(&format!(
                "    compared with what is in force at {}:\n",
                heads.node
            ));
            for line in changed.lines() {
                text.push_str(&format!("      {line}\n"));
            }
        }
    }
    text.push_str(&format!(
        "\nhint: `realm resolve {chain} --keep HASH` signs which one holds"
    ));
    Ok(text)
}

fn signer(heads: &Heads, key: &realm_model::key::PublicKey) -> String {
    let delegate = heads.delegates.iter().find(|one| one.key == *key);
    let who = match delegate {
        _ if heads.owners.contains(key) => "owner".to_owned(),
        Some(delegate) => format!("delegate of `{}`", delegate.namespace),
        None => "no owner any longer".to_owned(),
    };
    format!("{key} ({who})")
}

/// What a manifest changes, compared with the one in force.
async fn changed(
    client: &Client,
    heads: &Heads,
    chain: ChainId,
    entry: &EntryView,
) -> Result<Option<String>, Failure> {
    let Some(namespace) = chain.namespace() else {
        return Ok(None);
    };
    let (_, body) = opened(heads, chain, entry)?;
    let Body::Manifest(body) = body else {
        return Ok(None);
    };
    let (Some(theirs), _) = manifest::parse(&body.manifest) else {
        return Ok(None);
    };
    let lock = Lock::parse(&body.lock).unwrap_or_default();
    let standing = Standing::fetch(client, namespace).await?;
    let before = resolve::in_force(&standing)?;
    let changes = changes(
        before.as_ref().map(|(manifest, lock)| (manifest, lock)),
        (&theirs, &lock),
    );
    Ok(Some(render(&changes)))
}

/// The bytes of an entry, and what it says.
fn opened(heads: &Heads, chain: ChainId, entry: &EntryView) -> Result<(Vec<u8>, Body), Failure> {
    let bytes = entry.bytes.as_deref().and_then(from_base64);
    let bytes = bytes.ok_or_else(|| Failure::new("agent-answer", "the entry has no bytes"))?;
    let opened = Opened::open(&bytes, heads.realm, chain)?;
    // The hash was chosen by a person: what is signed must be that very entry.
    if opened.hash() != entry.hash {
        return Err(Failure::new(
            "agent-answer",
            "the entry has another hash than the node says",
        ));
    }
    let (payload, _) = opened.claims()?;
    if (payload.seq, payload.prev) != (entry.seq, entry.prev) {
        return Err(Failure::new(
            "agent-answer",
            "the entry has another place than the node says",
        ));
    }
    Ok((bytes, payload.body))
}

async fn end(
    context: &Context,
    client: &Client,
    mut heads: Heads,
    fork: &ForkView,
    keep: &str,
    yes: bool,
) -> Result<ExitCode, Failure> {
    let kept = meant(fork, keep)?;
    let key = context.owner_key().await?;
    output::note(&format!("kept: {}\n  {}", kept.hash, kept.says));
    let parent = Head {
        seq: kept.seq - 1,
        hash: kept.prev,
    };
    let (_, body) = opened(&heads, fork.chain, kept)?;
    let accepted = match fork.chain {
        ChainId::Namespace(namespace) => {
            confirm("Sign that this one holds, and the other one does not?", yes).await?;
            // What follows the kept entry here holds as well.
            let tip = heads.namespaces.get(&namespace).map(|found| found.head);
            let head = Head {
                seq: kept.seq,
                hash: kept.hash,
            };
            let fence = Fence {
                namespace,
                base: parent,
                head: tip
                    .filter(|tip| kept.here && tip.seq > head.seq)
                    .unwrap_or(head),
            };
            submit(client, &mut heads, &key, Body::Resolve(Resolve { fence })).await?
        }
        ChainId::Authority => {
            if !heads.owners.contains(&key.public()) {
                return Err(not_an_owner(heads.realm, &key));
            }
            check_threshold(heads.threshold, heads.owners.len())?;
            let again = repeatable(&body);
            if !again {
                output::note(
                    "this entry cannot be signed again as it is: give the command for it once more afterwards",
                );
            }
            output::note(&format!(
                "entries of `authority` from {} on are abandoned; what they say has to be signed again",
                kept.seq
            ));
            confirm("Recover the authority chain at this place?", yes).await?;
            let [first, second] = &fork.entries;
            let recover = Recover {
                owners: heads.owners.clone(),
                threshold: heads.threshold,
                recovery: heads.recovery.clone(),
                fences: Vec::new(),
                fork: Some(TwoEntries {
                    first: opened(&heads, fork.chain, first)?.0.into(),
                    second: opened(&heads, fork.chain, second)?.0.into(),
                }),
            };
            let recover = Body::Recover(recover);
            let accepted = submit_at(client, &mut heads, parent, &[&key], recover).await?;
            match again {
                true => submit(client, &mut heads, &key, body).await?,
                false => accepted,
            }
        }
    };
    if context.json() {
        output::json(&serde_json::json!({
            "chain": fork.chain,
            "kept": kept.hash,
            "seq": accepted.head.seq,
        }))?;
    } else {
        output::data(&format!(
            "chain `{}` goes on (entry {} of `authority`)",
            fork.chain, accepted.head.seq
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The entry that a hash, or the beginning of one, means.
fn meant<'a>(fork: &'a ForkView, keep: &str) -> Result<&'a EntryView, Failure> {
    let hex = keep.strip_prefix("sha256:").unwrap_or(keep);
    let means =
        |entry: &&EntryView| hex.len() >= PREFIX_CHARS_MIN && entry.hash.hex().starts_with(hex);
    let mut meant = fork.entries.iter().filter(means);
    match (meant.next(), meant.next()) {
        (Some(entry), None) => Ok(entry),
        (Some(_), Some(_)) | (None, _) => Err(Failure::new(
            "unknown-name",
            format!("`{keep}` is none of the two entries"),
        )
        .hint(format!("`realm resolve {}` shows both", fork.chain))
        .exit(exit::USAGE)),
    }
}

/// Whether the owner can sign it again after the chain was recovered: one that changes the owners has
/// the signatures of others as well.
const fn repeatable(body: &Body) -> bool {
    match body {
        Body::ApproveNode(_)
        | Body::ApproveUntil(_)
        | Body::RevokeNode(_)
        | Body::SetNode(_)
        | Body::Delegate(_)
        | Body::Undelegate(_)
        | Body::SetBeacon(_)
        | Body::Resolve(_) => true,
        Body::Genesis(_)
        | Body::Rotate(_)
        | Body::Recover(_)
        | Body::Manifest(_)
        | Body::Push(_)
        | Body::Restart(_)
        | Body::Weigh(_)
        | Body::Rollback(_) => false,
    }
}
