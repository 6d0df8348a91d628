//! `realm apply`: resolve, sign, submit, wait.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use realm_model::api::Accepted;
use realm_model::entry::Body;
use realm_model::key::SecretKey;
use realm_node::Client;

use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::Failure;
use crate::files::write;
use crate::resolve::Proposal;
use crate::sign::{self, Signed, Standing};
use crate::{output, progress};

/// Sign the manifest with the owner key and put it in force
///
/// Resolves every source to a digest, shows what changes, signs the bytes of realm.toml and
/// realm.lock, and submits them. The agent takes them onto its disk before it says yes; then this
/// waits until everything runs. Beside the manifest stand realm.lock (the pins) and realm.toml.sig
/// (the signature).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest
    #[arg(default_value = "realm.toml")]
    manifest: PathBuf,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    of: sign::Of,

    #[command(flatten)]
    wait: progress::Wait,

    /// Write the signed entry into a file instead of submitting it (for `realm submit`)
    #[arg(long, value_name = "ENTRY")]
    sign_only: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        let standing = context.standing(args.of.namespace).await?;
        let proposal = Proposal::make(&args.manifest, &standing, context.json()).await?;
        if !proposal.differs(&standing) {
            return unchanged(context, &standing, &proposal, &args).await;
        }
        output::note(&proposal.shown());
        proposal.tell_taken_back();
        if let Some(path) = &args.sign_only {
            let signed = sign::sign(
                &standing,
                &context.owner_key().await?,
                Body::Manifest(proposal.body.clone()),
            )?;
            write_beside(&proposal, &signed)?;
            write(path, &signed.entry)?;
            output::note(&format!(
                "signed, not submitted: `realm submit {}{}`",
                path.display(),
                match standing.namespace.is_default() {
                    true => String::new(),
                    false => format!(" --chain {}", standing.namespace),
                }
            ));
            return Ok(ExitCode::SUCCESS);
        }
        let client = context.client().await?;
        // Who is not running cannot be asked to agree: first see that somebody listens.
        client.heads().await?;
        confirm("Sign and apply this?", args.yes).await?;
        let key = context.owner_key().await?;
        let accepted = put_in_force(&client, &standing, &key, &proposal).await?;
        output::note(&format!(
            "version {} is in force, as entry {}",
            accepted.version, accepted.head.seq
        ));
        progress::finish(
            &client,
            &accepted,
            proposal.awaited.as_ref(),
            &args.wait,
            context.json(),
        )
        .await
    })
}

/// Uploads what is missing, signs, submits, and writes the lock and the signature beside the manifest.
pub(crate) async fn put_in_force(
    client: &Client,
    standing: &Standing,
    key: &SecretKey,
    proposal: &Proposal,
) -> Result<Accepted, Failure> {
    bring_bytes(client, proposal).await?;
    let signed = sign::sign(standing, key, Body::Manifest(proposal.body.clone()))?;
    let accepted = sign::submit(client, &signed).await?;
    // Only what was accepted is written beside the manifest: a refused entry leaves no trace.
    write_beside(proposal, &signed)?;
    Ok(accepted)
}

/// Uploads what the agent lacks: also where nothing changes, since bytes may have been lost there.
pub(crate) async fn bring_bytes(client: &Client, proposal: &Proposal) -> Result<(), Failure> {
    for upload in &proposal.uploads {
        upload.bring(client).await?;
    }
    Ok(())
}

async fn unchanged(
    context: &Context,
    standing: &Standing,
    proposal: &Proposal,
    args: &Args,
) -> Result<ExitCode, Failure> {
    output::note(&format!(
        "nothing to change: version {} is in force",
        standing.version
    ));
    if args.sign_only.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    let client = context.client().await?;
    bring_bytes(&client, proposal).await?;
    let in_force = progress::in_force(standing);
    progress::finish(
        &client,
        &in_force,
        proposal.awaited.as_ref(),
        &args.wait,
        context.json(),
    )
    .await
}

fn write_beside(proposal: &Proposal, signed: &Signed) -> Result<(), Failure> {
    write(&lock_path(&proposal.path), proposal.body.lock.as_bytes())?;
    if let Some(file) = &signed.signature_file {
        write(&signature_path(&proposal.path), file.to_text().as_bytes())?;
    }
    Ok(())
}

/// `realm.lock` beside the manifest (`shop.toml` → `shop.lock`).
pub(crate) fn lock_path(manifest: &Path) -> PathBuf {
    manifest.with_extension("lock")
}

/// `realm.toml.sig` beside the manifest.
pub(crate) fn signature_path(manifest: &Path) -> PathBuf {
    let mut name = manifest.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}
