//! `realm beacon`: says that the realm goes on, so that a node notices when news is kept from it. Who
//! may say so is `realm delegate add --beacon`, whose signing is here as well.

use std::process::ExitCode;
use std::time::Duration;

use realm_model::api::Heads;
use realm_model::beacon::{BEACON_EVERY_S, Beacon};
use realm_model::entry::{Body, ChainId, NamespaceName, SetBeacon};
use realm_model::key::PublicKey;
use realm_model::record::ChainHead;
use realm_model::view::BeaconView;

use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::time::{now_unix_ms, parse_duration};
use crate::{authority, output};

/// Said again where an agent is away for a while: it may be restarting.
const AGAIN: Duration = Duration::from_secs(10);

/// Sign a beacon: what is newest, and that the realm goes on
///
/// A node that has had no newer beacon for three times the promised time, or cannot find what the
/// newest one names, shows the alarm `stale`: somebody may be holding back what is new. Nothing stops
/// because of it. `realm delegate add NAME KEY --beacon` says which key signs, and how often one is
/// promised. Run it with that key where a machine is on all the time, beside an agent or with `--node`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go on with this time between two, until it is stopped; absent: once
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    every: Option<Duration>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    match args.every {
        None => context.block_on(once(context)).map(|()| ExitCode::SUCCESS),
        Some(every) => context.watch(again(context, every)),
    }
}

/// Who is away may come back; who is refused will be refused again.
async fn again(context: &Context, every: Duration) -> Result<ExitCode, Failure> {
    // Sooner than any promise: a loop without a pause would be a flood.
    let every = every.max(Duration::from_secs(1));
    once(context).await?;
    let mut wait = every;
    loop {
        tokio::time::sleep(wait).await;
        wait = match once(context).await {
            Ok(()) => every,
            Err(failure) if failure.is_no_agent() || failure.is("not-reached") => {
                output::note(&format!("{}; trying again", failure.message()));
                every.min(AGAIN)
            }
            // Somebody else signed with this key in between.
            Err(failure) if failure.is("stale") => AGAIN.min(every),
            Err(failure) => return Err(failure),
        };
    }
}

/// An agent that has just been started knows its newest beacon a moment later.
async fn once(context: &Context) -> Result<(), Failure> {
    match sign(context).await {
        Err(failure) if failure.is("stale") => sign(context).await,
        signed => signed,
    }
}

async fn sign(context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    let key = context.owner_key().await?;
    let heads = client.heads().await?;
    let Some(rule) = &heads.beacon else {
        return Err(Failure::new("no-beacon", "the owners want no beacon")
            .hint("`realm delegate add NAME KEY --beacon` says which key signs one")
            .exit(exit::REFUSED));
    };
    if rule.key != key.public() {
        let message = format!(
            "the beacon is signed by {}, not by {}",
            rule.key,
            key.public()
        );
        return Err(Failure::new("wrong-owner", message)
            .hint("`--key FILE` names the file of that key")
            .exit(exit::REFUSED));
    }
    let counter = rule.counter.map_or(1, |counter| counter.saturating_add(1));
    let created_unix_s = now_unix_ms() / 1_000;
    let bytes = Beacon::sign(heads.realm, &key, counter, created_unix_s, named(&heads));
    let taken = client.beacon(bytes).await?;
    if context.json() {
        return output::json_line(&serde_json::json!({
            "name": rule.name, "counter": taken.counter, "authority": heads.authority.seq,
        }));
    }
    output::data(&format!(
        "beacon {} of `{}`: authority is at entry {}, default at {}",
        taken.counter, rule.name, heads.authority.seq, heads.default.seq
    ));
    Ok(())
}

/// The heads that a beacon names: in order, each chain once.
fn named(heads: &Heads) -> Vec<ChainHead> {
    let namespaces = heads
        .namespaces
        .iter()
        .map(|(name, there)| there.head.of(ChainId::Namespace(*name)));
    let mut all: Vec<ChainHead> = std::iter::once(heads.authority.of(ChainId::Authority))
        .chain(namespaces)
        .collect();
    all.sort_unstable_by_key(|head| head.chain);
    all
}

/// Signs which key signs beacons, and how often.
pub(crate) async fn set(
    context: &Context,
    name: NamespaceName,
    key: PublicKey,
    every: Duration,
    yes: bool,
) -> Result<ExitCode, Failure> {
    let every_s = u32::try_from(every.as_secs()).unwrap_or(u32::MAX);
    if !BEACON_EVERY_S.contains(&every_s) {
        let message = "a beacon comes every second to once a week";
        return Err(Failure::new("usage", message)
            .hint("`--every 5m` is usual")
            .exit(exit::USAGE));
    }
    let client = context.client().await?;
    let mut heads = client.heads().await?;
    output::note(&format!(
        "beacon `{name}`, every {every_s} s, signed by {key}\n  words: {}",
        key.words().join(" ")
    ));
    if let Some(before) = heads.beacon.as_ref().filter(|before| before.key != key) {
        output::note(&format!("it takes the place of {}", before.key));
    }
    output::note(
        "agents that do not know beacons stop here until they are upgraded; what runs there goes on",
    );
    confirm("Sign this?", yes).await?;
    let owner = context.owner_key().await?;
    let body = Body::SetBeacon(SetBeacon {
        name,
        every_s,
        key: Some(key),
    });
    let accepted = authority::submit(&client, &mut heads, &owner, body).await?;
    if context.json() {
        let beacon = serde_json::json!({ "name": name, "key": key, "every_s": every_s });
        output::json(&serde_json::json!({ "beacon": beacon, "seq": accepted.head.seq }))?;
    } else {
        output::data(&format!(
            "`{name}` signs a beacon every {every_s} s (entry {} of `authority`): `realm beacon --key FILE --every {every_s}s`",
            accepted.head.seq
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes the beacon away: none is missed any longer.
pub(crate) async fn unset(
    context: &Context,
    mut heads: Heads,
    beacon: BeaconView,
    yes: bool,
) -> Result<ExitCode, Failure> {
    let name = beacon.name;
    confirm(
        &format!("Take the beacon `{name}` away from {}?", beacon.key),
        yes,
    )
    .await?;
    let client = context.client().await?;
    let owner = context.owner_key().await?;
    let body = Body::SetBeacon(SetBeacon {
        name,
        every_s: beacon.every_s,
        key: None,
    });
    let accepted = authority::submit(&client, &mut heads, &owner, body).await?;
    if context.json() {
        output::json(&serde_json::json!({ "name": name, "seq": accepted.head.seq }))?;
    } else {
        output::data(&format!(
            "there is no beacon any longer (entry {} of `authority`)",
            accepted.head.seq
        ));
    }
    Ok(ExitCode::SUCCESS)
}
