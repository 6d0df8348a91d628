//! `realm key recovery`: keys that are kept offline, each of which can take the realm back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use realm_model::api::Heads;
use realm_model::entry::{Body, Rotate};
use realm_model::key::{PublicKey, SecretKey};

use crate::authority::{check_may, submit_at};
use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::{key_files, output, owner};

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

        /// The file of a recovery key that the realm has: from the first one on, one of them signs as
        /// well
        #[arg(long, value_name = "FILE")]
        recovery_key: Option<PathBuf>,
    },
    /// Sign that a key that was made elsewhere (`realm key new`) is a recovery key
    Add {
        /// Its public key
        #[arg(id = "recovery", value_name = "KEY")]
        key: PublicKey,

        /// The file of a recovery key that the realm has: from the first one on, one of them signs as
        /// well
        #[arg(long, value_name = "FILE")]
        recovery_key: Option<PathBuf>,
    },
    /// Sign that a key is no recovery key any longer
    Rm {
        /// Its public key
        #[arg(id = "recovery", value_name = "KEY")]
        key: PublicKey,

        /// The file of a recovery key that the realm has: from the first one on, one of them signs as
        /// well
        #[arg(long, value_name = "FILE")]
        recovery_key: Option<PathBuf>,

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
            RecoveryVerb::Init {
                out,
                passphrase,
                recovery_key,
            } => init(context, out, *passphrase, recovery_key.as_deref()).await,
            RecoveryVerb::Add { key, recovery_key } => {
                add(context, *key, recovery_key.as_deref()).await
            }
            RecoveryVerb::Rm {
                key,
                recovery_key,
                yes,
            } => remove(context, *key, recovery_key.as_deref(), *yes).await,
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

async fn init(
    context: &Context,
    out: &Path,
    passphrase: bool,
    by: Option<&Path>,
) -> Result<ExitCode, Failure> {
    // Who cannot sign learns it before a file is made.
    context.owner_key().await?;
    let heads = context.client().await?.heads().await?;
    second_signer(&heads, by).await?;
    // The file first: a key that is registered and lost would be of no use to anybody.
    let made = key_files::make(out, passphrase).await?;
    let key = made.public;
    let ended = add(context, key, by).await;
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

async fn add(context: &Context, key: PublicKey, by: Option<&Path>) -> Result<ExitCode, Failure> {
    let client = context.client().await?;
    let heads = client.heads().await?;
    if heads.recovery.contains(&key) {
        output::note("it is a recovery key already");
        return Ok(ExitCode::SUCCESS);
    }
    let mut recovery = heads.recovery.clone();
    recovery.push(key);
    sign(context, recovery, key, by, "is a recovery key").await
}

async fn remove(
    context: &Context,
    key: PublicKey,
    by: Option<&Path>,
    yes: bool,
) -> Result<ExitCode, Failure> {
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
    sign(context, rest, key, by, "is no recovery key any longer").await
}

/// The owners stay who they are.
async fn sign(
    context: &Context,
    recovery: Vec<PublicKey>,
    key: PublicKey,
    by: Option<&Path>,
    what: &str,
) -> Result<ExitCode, Failure> {
    let client = context.client().await?;
    let owner = context.owner_key().await?;
    let mut heads = client.heads().await?;
    let second = second_signer(&heads, by).await?;
    let body = Body::Rotate(Rotate {
        owners: heads.owners.clone(),
        threshold: heads.threshold,
        recovery,
        fences: Vec::new(),
    });
    check_may(&heads, &owner, &body)?;
    let parent = heads.authority;
    let keys: Vec<&SecretKey> = std::iter::once(&owner).chain(&second).collect();
    let accepted = submit_at(&client, &mut heads, parent, &keys, body).await?;
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

/// The recovery key that signs beside the owner, if the realm has any: who stole the owner's key alone
/// must not choose who can take the realm back.
async fn second_signer(heads: &Heads, by: Option<&Path>) -> Result<Option<SecretKey>, Failure> {
    if heads.recovery.is_empty() {
        return Ok(None);
    }
    let Some(file) = by else {
        return Err(Failure::new(
            "wrong-owner",
            "the recovery keys change only if one of them signs as well",
        )
        .hint("`--recovery-key FILE` names the file of one")
        .exit(exit::REFUSED));
    };
    let key = owner::load(file).await?;
    if !heads.recovery.contains(&key.public()) {
        let message = format!("{} is no recovery key of this realm", key.public());
        return Err(Failure::new("wrong-owner", message)
            .hint("`realm key recovery ls` lists them")
            .exit(exit::REFUSED));
    }
    Ok(Some(key))
}
