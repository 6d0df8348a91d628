//! `realm nodes`: the machines of the realm, those that ask to join, and what the owner says of them.

use std::process::ExitCode;
use std::time::Duration;

use realm_control::pending::select;
use realm_model::api::Heads;
use realm_model::entry::{ApproveNode, ApproveUntil, Body, RevokeNode, SetNode};
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_model::view::{NodeView, PendingView, ReachState, StatusView};
use realm_node::Client;

use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::time::{now_unix_ms, parse_lifetime, timestamp};
use crate::{authority, output};

/// Show the nodes of the realm, and say which may belong to it
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: NodesVerb,
}

#[derive(Debug, clap::Subcommand)]
enum NodesVerb {
    /// List the nodes, how each is reached, and who asks to join
    Ls,
    /// Let nodes that ask to join into the realm
    ///
    /// Compare the six words with those that the machine shows (its agent's log, or `realm node show`
    /// there): they are made from its key. A name that two machines ask for can only be approved by
    /// words or by key. The name or key of an approved node gives it other terms, e.g. a later end:
    /// it keeps its name and its tags.
    Approve {
        /// Names, keys, or six words in quotes
        #[arg(required = true, value_name = "NAME|KEY|WORDS")]
        nodes: Vec<String>,
        /// The name under which it is approved, instead of the one that it proposes
        #[arg(long, value_name = "NODE")]
        name: Option<NodeName>,
        /// Tags, separated by commas, instead of those that it proposes
        #[arg(long, value_name = "TAG", value_delimiter = ',')]
        tags: Option<Vec<String>>,
        /// With `--yes`: vouch for the tags that it proposes; absent: for none but `--tags`
        #[arg(long, requires = "yes", conflicts_with = "tags")]
        proposed_tags: bool,
        /// How long the approval holds; absent: until it is revoked
        #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
        expires: Option<Duration>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// End the approval of nodes: no node of the realm talks to them any longer
    Revoke {
        /// Names or keys
        #[arg(required = true, value_name = "NAME|KEY")]
        nodes: Vec<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Keep new components away from nodes; what runs there goes on
    Cordon {
        /// The nodes
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeName>,
        /// For scripts that say it everywhere: this verb asks nothing
        #[arg(short, long)]
        yes: bool,
    },
    /// Take everything away from nodes: replicas go on until others answer in their place
    Drain {
        /// The nodes
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeName>,
        /// For scripts that say it everywhere: this verb asks nothing
        #[arg(short, long)]
        yes: bool,
    },
    /// Undo `cordon` and `drain`
    Uncordon {
        /// The nodes
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeName>,
        /// For scripts that say it everywhere: this verb asks nothing
        #[arg(short, long)]
        yes: bool,
    },
    /// Change the tags that the owner vouches for
    Tag {
        /// The node
        #[arg(value_name = "NODE")]
        name: NodeName,
        /// `TAG` adds, `TAG-` takes away
        #[arg(required = true, value_name = "TAG|TAG-")]
        tags: Vec<String>,
    },
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        let client = context.client().await?;
        match args.verb {
            NodesVerb::Ls => list(context, &client).await,
            NodesVerb::Approve {
                nodes,
                name,
                tags,
                proposed_tags,
                expires,
                yes,
            } => {
                let terms = Terms {
                    name,
                    tags,
                    not_after_unix_s: expires.map(|time| now_unix_ms() / 1_000 + time.as_secs()),
                };
                approve(context, &client, &nodes, &terms, (yes, proposed_tags)).await
            }
            NodesVerb::Revoke { nodes, yes } => revoke(context, &client, &nodes, yes).await,
            NodesVerb::Cordon { nodes, yes: _ } => {
                set(context, &client, &nodes, (true, false)).await
            }
            NodesVerb::Drain { nodes, yes: _ } => set(context, &client, &nodes, (true, true)).await,
            NodesVerb::Uncordon { nodes, yes: _ } => {
                set(context, &client, &nodes, (false, false)).await
            }
            NodesVerb::Tag { name, tags } => tag(context, &client, &name, &tags).await,
        }
    })
}

/// What an approval says beside the key.
pub(crate) struct Terms {
    pub(crate) name: Option<NodeName>,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) not_after_unix_s: Option<u64>,
}

async fn list(context: &Context, client: &Client) -> Result<ExitCode, Failure> {
    let status = client.status().await?;
    if context.json() {
        output::json(&serde_json::json!({ "nodes": status.nodes, "pending": status.pending }))?;
    } else {
        output::data(&text(&status));
    }
    Ok(ExitCode::SUCCESS)
}

/// The nodes and who asks to join, as tables.
pub(crate) fn text(status: &StatusView) -> String {
    let header = [
        "NODE", "STATE", "REACHED", "RTT", "AGENT", "TAGS", "ENDS", "ADDRESS",
    ];
    let mut text = output::table(&header, status.nodes.iter().map(row).collect());
    if !status.pending.is_empty() {
        let header = ["ASKS TO JOIN", "WORDS", "TAGS", "FROM", "SEEN BY"];
        let rows = status.pending.iter().map(|pending| {
            vec![
                pending.name.to_string(),
                pending.key.words().join(" "),
                pending.tags.join(","),
                pending.address.clone(),
                pending.seen_by.to_string(),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&output::table(&header, rows.collect()));
        text.push_str("\n\nhint: `realm nodes approve NAME`, after comparing the words");
    }
    text
}

fn row(node: &NodeView) -> Vec<String> {
    let said = node.said.as_ref();
    vec![
        node.name.to_string(),
        state(node).to_owned(),
        reached(node),
        node.reach.rtt_us.map_or_else(String::new, milliseconds),
        said.map_or_else(String::new, |said| said.agent_version.clone()),
        node.tags.join(","),
        node.not_after_unix_s
            .map_or_else(String::new, |until| timestamp(until.saturating_mul(1_000))),
        address(node),
    ]
}

/// One word for how a node stands.
pub(crate) fn state(node: &NodeView) -> &'static str {
    if node.key.is_none() {
        return "not approved";
    }
    match (node.reach.state, node.drained, node.cordoned) {
        (ReachState::Lost, ..) => "lost",
        (ReachState::Unknown, ..) => "not heard of",
        (_, true, _) => "drained",
        (_, false, true) => "cordoned",
        (ReachState::Here | ReachState::Direct | ReachState::Indirect, false, false) => {
            match node.said.as_ref().is_some_and(|said| !said.in_step) {
                true => "catching up",
                false => "ready",
            }
        }
    }
}

/// How a node is reached, and if not directly, why.
fn reached(node: &NodeView) -> String {
    let reach = &node.reach;
    let why = reach.why_not_direct.as_ref().map(|why| format!("({why})"));
    match (reach.state, reach.how.as_deref()) {
        (ReachState::Here, _) => "here".to_owned(),
        (ReachState::Direct, Some("relay")) => {
            let parts: Vec<String> = [Some("relay".to_owned()), why]
                .into_iter()
                .flatten()
                .collect();
            parts.join(" ")
        }
        (ReachState::Direct, how) => how.unwrap_or("directly").to_owned(),
        (ReachState::Indirect | ReachState::Lost | ReachState::Unknown, _) => {
            let via = reach.via.as_ref().map(|via| format!("through {via}"));
            let parts: Vec<String> = via.into_iter().chain(why).collect();
            parts.join(" ")
        }
    }
}

fn address(node: &NodeView) -> String {
    let said = node.said.as_ref().and_then(|said| said.addresses.first());
    let address = node.reach.address.as_ref().or(said);
    address.cloned().unwrap_or_default()
}

/// `0.8 ms`.
pub(crate) fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1_000, us % 1_000 / 100)
}

async fn approve(
    context: &Context,
    client: &Client,
    wanted: &[String],
    terms: &Terms,
    (yes, proposed_tags): (bool, bool),
) -> Result<ExitCode, Failure> {
    if terms.name.is_some() && wanted.len() > 1 {
        return Err(
            Failure::new("usage", "`--name` names one node, several are given").exit(exit::USAGE),
        );
    }
    let status = client.status().await?;
    let mut found = meant(&status, wanted, terms)?;
    for pending in &mut found {
        let renews = is_approved(&status, pending.key);
        // Without a question nobody has seen what a stranger says of itself.
        if yes && !proposed_tags && !renews {
            pending.tags.clear();
        }
        let tags = terms.tags.as_ref().unwrap_or(&pending.tags);
        output::note(&format!(
            "{}  {}  from {}\n  words: {}\n  tags:  {}",
            terms.name.as_ref().unwrap_or(&pending.name),
            pending.key,
            output::within_line(&pending.address),
            pending.key.words().join(" "),
            match (tags.is_empty(), terms.tags.is_none() && !renews) {
                (true, _) => "(none)".to_owned(),
                (false, true) =>
                    format!("{} (as it proposes)", output::within_line(&tags.join(","))),
                (false, false) => output::within_line(&tags.join(",")).to_string(),
            }
        ));
    }
    confirm("Do the words agree with those that the machine shows?", yes).await?;
    let key = context.owner_key().await?;
    let mut heads = client.heads().await?;
    for pending in &found {
        approve_one(client, &mut heads, &key, pending, terms).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Signs the approval of one node.
pub(crate) async fn approve_one(
    client: &Client,
    heads: &mut Heads,
    key: &realm_model::key::SecretKey,
    pending: &PendingView,
    terms: &Terms,
) -> Result<(), Failure> {
    let name = terms.name.clone().unwrap_or_else(|| pending.name.clone());
    let tags = terms.tags.clone().unwrap_or_else(|| pending.tags.clone());
    let body = approval(pending.key, name.clone(), tags, terms.not_after_unix_s);
    let accepted = authority::submit(client, heads, key, body).await?;
    output::data(&format!(
        "{name} is approved (entry {} of `authority`)",
        accepted.head.seq
    ));
    Ok(())
}

fn approval(
    key: PublicKey,
    name: NodeName,
    tags: Vec<String>,
    not_after_unix_s: Option<u64>,
) -> Body {
    match not_after_unix_s {
        None => Body::ApproveNode(ApproveNode { key, name, tags }),
        Some(not_after_unix_s) => Body::ApproveUntil(ApproveUntil {
            key,
            name,
            tags,
            not_after_unix_s,
        }),
    }
}

fn is_approved(status: &StatusView, key: PublicKey) -> bool {
    status.nodes.iter().any(|node| node.key == Some(key))
}

/// Approved nodes, as if they asked again for what they have.
fn renewed(status: &StatusView, wanted: &[String]) -> Option<Vec<PendingView>> {
    let renewed = wanted.iter().map(|wanted| {
        let (node, key) = approved(status, wanted).ok()?;
        Some(PendingView {
            key,
            name: node.name.clone(),
            tags: node.vouched_tags.clone(),
            address: address(node),
            seen_by: status.node.clone(),
            voucher_proof: None,
        })
    });
    renewed.collect()
}

/// Who is meant. A key that nobody saw ask is taken with `--name`: the list of those who ask may be
/// full.
fn meant(
    status: &StatusView,
    wanted: &[String],
    terms: &Terms,
) -> Result<Vec<PendingView>, Failure> {
    let claims: Vec<(NodeName, PublicKey)> = status
        .pending
        .iter()
        .map(|pending| (pending.name.clone(), pending.key))
        .collect();
    if let Some(renewed) = renewed(status, wanted) {
        let name = |name: &NodeName| claims.iter().any(|(claimed, _)| claimed == name);
        let claimed = renewed
            .iter()
            .zip(wanted)
            .find(|(node, wanted)| node.name.as_str() == wanted.as_str() && name(&node.name));
        return match claimed {
            None => Ok(renewed),
            Some((node, _)) => Err(Failure::new(
                "name-not-unique",
                format!(
                    "`{}` is a node, and the name that another machine asks for",
                    node.name
                ),
            )
            .hint("approve by the key, or by the six words that the machine itself shows")),
        };
    }
    match select(&claims, wanted) {
        Ok(places) => Ok(places
            .into_iter()
            .map(|at| status.pending[at].clone())
            .collect()),
        Err(error) => match (wanted, &terms.name) {
            ([only], Some(name)) if only.parse::<PublicKey>().is_ok() => {
                let key = only.parse().map_err(|error: realm_model::key::KeyError| {
                    Failure::from_error("bad-key", &error)
                })?;
                Ok(vec![PendingView {
                    key,
                    name: name.clone(),
                    tags: Vec::new(),
                    address: "an unknown address".to_owned(),
                    seen_by: status.node.clone(),
                    voucher_proof: None,
                }])
            }
            _ => Err(Failure::from_error(error.code(), &error).hint(error.hint())),
        },
    }
}

/// An approved node by its name or key.
fn approved<'a>(
    status: &'a StatusView,
    wanted: &str,
) -> Result<(&'a NodeView, PublicKey), Failure> {
    let node = status.nodes.iter().find(|node| {
        node.name.as_str() == wanted || node.key.is_some_and(|key| key.to_string() == wanted)
    });
    match node.and_then(|node| node.key.map(|key| (node, key))) {
        Some(found) => Ok(found),
        None => Err(
            Failure::new("unknown-name", format!("no node `{wanted}` is approved"))
                .hint("`realm nodes ls` lists the nodes"),
        ),
    }
}

async fn revoke(
    context: &Context,
    client: &Client,
    wanted: &[String],
    yes: bool,
) -> Result<ExitCode, Failure> {
    let status = client.status().await?;
    let mut nodes = Vec::new();
    for wanted in wanted {
        nodes.push(approved(&status, wanted)?);
    }
    let names: Vec<&str> = nodes.iter().map(|(node, _)| node.name.as_str()).collect();
    let here = nodes.iter().any(|(node, _)| node.here);
    if here {
        output::note("this is the node that answers: nothing more will run on it");
    }
    confirm(&format!("Revoke {}?", names.join(", ")), yes).await?;
    let key = context.owner_key().await?;
    let mut heads = client.heads().await?;
    for (node, node_key) in &nodes {
        let body = Body::RevokeNode(RevokeNode { key: *node_key });
        let accepted = authority::submit(client, &mut heads, &key, body).await?;
        output::data(&format!(
            "{} is revoked (entry {} of `authority`)",
            node.name, accepted.head.seq
        ));
    }
    output::note("what that machine knew it still knows: change secrets that it could read");
    Ok(ExitCode::SUCCESS)
}

async fn set(
    context: &Context,
    client: &Client,
    names: &[NodeName],
    (cordoned, drained): (bool, bool),
) -> Result<ExitCode, Failure> {
    let status = client.status().await?;
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(approved(&status, name.as_str())?);
    }
    let key = context.owner_key().await?;
    let mut heads = client.heads().await?;
    let word = match (cordoned, drained) {
        (_, true) => "is drained",
        (true, false) => "is cordoned",
        (false, false) => "takes components again",
    };
    for (node, node_key) in nodes {
        if (node.cordoned, node.drained) == (cordoned, drained) {
            output::note(&format!("{} {word} already", node.name));
            continue;
        }
        let body = Body::SetNode(SetNode {
            key: node_key,
            cordoned,
            drained,
        });
        let accepted = authority::submit(client, &mut heads, &key, body).await?;
        output::data(&format!(
            "{} {word} (entry {} of `authority`)",
            node.name, accepted.head.seq
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn tag(
    context: &Context,
    client: &Client,
    name: &NodeName,
    changes: &[String],
) -> Result<ExitCode, Failure> {
    let status = client.status().await?;
    let (node, node_key) = approved(&status, name.as_str())?;
    let mut tags = node.vouched_tags.clone();
    for change in changes {
        match change.strip_suffix('-') {
            Some(gone) => tags.retain(|tag| tag != gone),
            None if tags.contains(change) => {}
            None => tags.push(change.clone()),
        }
    }
    if tags == node.vouched_tags {
        output::note(&format!(
            "{name} has these tags already: {}",
            tags.join(",")
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let key = context.owner_key().await?;
    let mut heads = client.heads().await?;
    let body = approval(node_key, name.clone(), tags.clone(), node.not_after_unix_s);
    let accepted = authority::submit(client, &mut heads, &key, body).await?;
    output::data(&format!(
        "{name} has the tags {} (entry {} of `authority`)",
        if tags.is_empty() {
            "(none)".to_owned()
        } else {
            tags.join(",")
        },
        accepted.head.seq
    ));
    if let Some(until) = node.not_after_unix_s {
        output::note(&format!(
            "its approval holds until {}",
            timestamp(until * 1_000)
        ));
    }
    Ok(ExitCode::SUCCESS)
}
