//! `realm invite`: a ticket with which a machine finds this realm and asks to join.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use realm_model::address::{self, Host, NodeAddress};
use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_model::ticket::{ADDRESSES_MAX, Proof, Ticket, VOUCHER_BYTES, Voucher};
use realm_model::view::PendingView;
use tokio::time::Instant;

use crate::commands::nodes::{self, Terms};
use crate::context::Context;
use crate::failure::Failure;
use crate::time::{now_unix_ms, parse_duration, parse_lifetime};
use crate::{output, owner};

/// How often the list of those who ask is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Print a ticket with which another machine asks to join
///
/// On that machine: `realm join TICKET`, then `realm agent`. The ticket holds the realm's id and
/// addresses, so that the machine cannot be led into another realm. With `--wait`, it holds a
/// secret as well: whoever shows it in time is approved without further questions.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait this long, and approve who comes with this ticket
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    wait: Option<Duration>,

    /// With `--wait`: how many machines may come with this ticket
    #[arg(long, value_name = "N", default_value_t = 1, requires = "wait", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    uses: u32,

    /// With `--wait`: tags for them, separated by commas; absent: none, whatever they propose
    #[arg(long, value_name = "TAG", value_delimiter = ',', requires = "wait")]
    tags: Option<Vec<String>>,

    /// With `--wait`: the name of the one that comes, instead of the one that it proposes
    #[arg(long, value_name = "NODE", requires = "wait", conflicts_with = "uses")]
    name: Option<NodeName>,

    /// With `--wait`: how long the approval holds; absent: until it is revoked
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime, requires = "wait")]
    expires: Option<Duration>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        let client = context.client().await?;
        // The passphrase first: nobody wants to be asked when the machine is there.
        let key = match args.wait {
            Some(_) => Some(context.owner_key().await?),
            None => None,
        };
        let invitation = client.invitation().await?;
        if invitation.addresses.is_empty() {
            return Err(Failure::new("alone", "this node listens for no other nodes")
                .hint("set `[p2p] listen` in node.toml, and start the agent again"));
        }
        let mut bytes = [0; VOUCHER_BYTES];
        bytes.copy_from_slice(&owner::random()?[..VOUCHER_BYTES]);
        let voucher = args.wait.is_some().then(|| Voucher::from_bytes(bytes));
        let ticket = Ticket {
            realm: invitation.realm,
            floor: invitation.floor,
            addresses: read(&invitation.addresses),
            voucher: voucher.clone(),
        };
        let text = ticket.to_text();
        if context.json() {
            output::json_line(&serde_json::json!({ "ticket": text.as_str() }))?;
        } else {
            output::data(&text);
        }
        let (Some(wait), Some(key), Some(voucher)) = (args.wait, key, voucher) else {
            output::note("on the other machine: `realm join TICKET`, then `realm agent`; here: `realm nodes ls`");
            return Ok(ExitCode::SUCCESS);
        };
        output::note(&format!(
            "waiting {} s for {} to come with it; Ctrl-C ends that",
            wait.as_secs(),
            if args.uses == 1 { "a machine".to_owned() } else { format!("{} machines", args.uses) }
        ));
        let terms = Terms {
            name: args.name.clone(),
            tags: args.tags.clone(),
            not_after_unix_s: args.expires.map(|time| now_unix_ms() / 1_000 + time.as_secs()),
        };
        let until = Instant::now() + wait;
        let mut came: BTreeSet<PublicKey> = BTreeSet::new();
        while came.len() < args.uses as usize {
            if Instant::now() >= until {
                return Err(Failure::new("nobody-came", "the time is over")
                    .hint("the ticket lets nobody in any longer; `realm invite` makes another"));
            }
            let status = client.status().await?;
            let vouched = status.pending.iter().find(|pending| {
                !came.contains(&pending.key) && shows(&voucher, &ticket, pending)
            });
            match vouched {
                Some(pending) => {
                    let mut heads = client.heads().await?;
                    // Nobody is there who would see what it says of itself.
                    let mut pending = pending.clone();
                    pending.tags.clear();
                    nodes::approve_one(&client, &mut heads, &key, &pending, &terms).await?;
                    came.insert(pending.key);
                }
                None => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The addresses that a machine elsewhere can make something of: those of this machine alone only if
/// there are no others.
fn read(texts: &[String]) -> Vec<NodeAddress> {
    let read = texts.iter().filter_map(|text| address::read(text).ok());
    let all: Vec<NodeAddress> = read.map(|written| written.address).collect();
    let (here, elsewhere): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|address| matches!(address.host, Host::Ip(ip) if ip.is_loopback()));
    let mut chosen = if elsewhere.is_empty() {
        here
    } else {
        elsewhere
    };
    chosen.truncate(ADDRESSES_MAX);
    chosen
}

/// Whether somebody who asks has the voucher.
fn shows(voucher: &Voucher, ticket: &Ticket, pending: &PendingView) -> bool {
    let proof = pending.voucher_proof.as_deref();
    let proof = proof.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
    proof.is_some_and(|proof| {
        let proof = Proof::from_bytes(*proof.as_bytes());
        voucher.vouches(ticket.realm, &pending.key, &proof)
    })
}
