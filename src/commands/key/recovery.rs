//! `realm key recovery`: keys that are kept offline, each of which can take the realm back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use realm_model::entry::{Body, Rotate};
use realm_model::key::PublicKey;

use crate::authority::submit;
use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::Failure;
use crate::{key_files, output};

/// Choose the keys that can take the realm back
///
/// A recovery key is kept offline. It signs no manifests; with it, `realm key recover` undoes what
/// somebody signed with a stolen owner key.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: RecoveryVerb,
}

#[derive(Debug, clap::Subcommand)]
enum RecoveryVerb {
    /// Make a recovery key in a new file, and sign that it is one
    Init {
        /// The file, mode 0600: move it to where no thief of the owner key finds it
        #[arg(long, value_name = "FILE", default_value = "recovery.key")]
        out: PathBuf,

        /// Seal the key with a passphrase
        #[arg(long)]
        passphrase: bool,
    },
    /// Sign that a key that was made elsewhere (`realm key new`) is a recovery key
    Add {
        /// Its public key
        #[arg(id = "recovery", value_name = "KEY")]
        key: PublicKey,
    },
    /// Sign that a key is no recovery key any longer
    Rm {
        /// Its public key
        #[arg(id = "recovery", value_name = "KEY")]
        key: PublicKey,

        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// List the recovery keys
    Ls,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        match &args.verb {
            RecoveryVerb::Init { out, passphrase } => init(context, out, *passphrase).await,
            RecoveryVerb::Add { key } => add(context, *key).await,
            RecoveryVerb::Rm { key, yes } => remove(context, *key, *yes).await,
            RecoveryVerb::Ls => {
                let heads = context.client().await?.heads().await?;
                if context.json() {
                    output::json(&serde_json::json!({ "recovery": heads.recovery }))?;
                } else if heads.recovery.is_empty() {
                    output::note("there is no recovery key: `realm key recovery init` makes one");
                } else {
                    for key in &heads.recovery {
                        output::data(&format!("{key}  {}", key.words().join(" ")));
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

async fn init(context: &Context, out: &Path, passphrase: bool) -> Result<ExitCode, Failure> {
    // Who cannot sign learns it before a file is made.
    context.owner_key().await?;
    context.client().await?.heads().await?;
    // The file first: a key that is registered and lost would be of no use to anybody.
    let made = key_files::make(out, passphrase).await?;
    let key = made.public;
    let ended = add(context, key).await;
    let file = out.display();
    match &ended {
        Ok(_) => output::note(&format!(
            "`{file}` has the secret: move it offline, away from the owner key"
        )),
        Err(_) => output::note(&format!(
            "`{file}` was made and is no recovery key yet: `realm key recovery add {key}` makes it one"
        )),
    }
    ended
}

async fn add(context: &Context, key: PublicKey) -> Result<ExitCode, Failure> {
    let client = context.client().await?;
    let heads = client.heads().await?;
    if heads.recovery.contains(&key) {
        output::note("it is a recovery key already");
        return Ok(ExitCode::SUCCESS);
    }
    let mut recovery = heads.recovery.clone();
    recovery.push(key);
    sign(context, recovery, key, "is a recovery key").await
}

async fn remove(context: &Context, key: PublicKey, yes: bool) -> Result<ExitCode, Failure> {
    let heads = context.client().await?.heads().await?;
    if !heads.recovery.contains(&key) {
        return Err(
            Failure::new("unknown-name", format!("{key} is no recovery key"))
                .hint("`realm key recovery ls` lists them"),
        );
    }
    confirm(&format!("Take from {key} the power to recover?"), yes).await?;
    let rest = heads
        .recovery
        .iter()
        .copied()
        .filter(|one| *one != key)
        .collect();
    sign(context, rest, key, "is no recovery key any longer").await
}

/// The owners stay who they are.
async fn sign(
    context: &Context,
    recovery: Vec<PublicKey>,
    key: PublicKey,
    what: &str,
) -> Result<ExitCode, Failure> {
    let client = context.client().await?;
    let owner = context.owner_key().await?;
    let mut heads = client.heads().await?;
    let body = Body::Rotate(Rotate {
        owners: heads.owners.clone(),
        threshold: heads.threshold,
        recovery,
        fences: Vec::new(),
    });
    let accepted = submit(&client, &mut heads, &owner, body).await?;
    if context.json() {
        output::json(&serde_json::json!({
            "key": key,
            "words": key.words(),
            "seq": accepted.head.seq,
        }))?;
    } else {
        output::data(&format!(
            "{key} {what} (entry {} of `authority`)",
            accepted.head.seq
        ));
    }
    Ok(ExitCode::SUCCESS)
}
