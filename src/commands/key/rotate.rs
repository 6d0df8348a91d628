//! `realm key rotate`: another owner key in place of the one here.
//!
//! In an order that survives a crash anywhere: the new key is on the disk before the entry is sent, and
//! takes the old one's place only after the entry was taken. Run again, it goes on where it stopped.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use realm_model::api::Heads;
use realm_model::entry::{Body, Fence, Rotate};
use realm_model::key::{PublicKey, SecretKey};

use crate::authority::{check_may, fence, owned, submit_at};
use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::Failure;
use crate::{key_files, output, owner};

/// Give the realm another owner key in place of the one here
///
/// Both keys sign: so the new one is known to work. From that entry on the old key signs nothing,
/// not even with an older date. The old key goes to `owner.key.old`, which can be deleted. If the old
/// key was stolen, somebody may have signed with it before: `realm key recover` undoes that, if there
/// is a recovery key.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file with the new key, as `realm key new` makes it; absent: a key is made
    #[arg(long, value_name = "FILE")]
    new: Option<PathBuf>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    context.block_on(rotate(context, args))
}

async fn rotate(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let client = context.client().await?;
    let mut heads = client.heads().await?;
    let path = context.key_path()?;
    let pending = key_files::beside(&path, ".new");
    let new = prepared(&path, &pending, args).await?;
    if !heads.owners.contains(&new.public()) {
        let old = context.owner_key().await?;
        let body = body(&heads, old.public(), new.public());
        check_may(&heads, &old, &body)?;
        output::note(&format!(
            "the realm goes from {} to {}\n  words: {}",
            old.public(),
            new.public(),
            new.public().words().join(" ")
        ));
        confirm("Rotate the owner key?", args.yes).await?;
        let parent = heads.authority;
        let accepted = submit_at(&client, &mut heads, parent, &[&old, &new], body).await?;
        output::note(&format!("entry {} of `authority`", accepted.head.seq));
    }
    replace(&path, &pending)?;
    if context.json() {
        output::json(&serde_json::json!({
            "key": new.public(),
            "words": new.public().words(),
            "file": path,
            "old": key_files::beside(&path, ".old"),
        }))?;
    } else {
        output::data(&format!(
            "owner {}\nwords {}",
            new.public(),
            new.public().words().join(" ")
        ));
        output::note(&format!(
            "`{}` has the new key: keep a copy offline; the old one in `{}` signs nothing any longer",
            path.display(),
            key_files::beside(&path, ".old").display()
        ));
        output::note("`[owner] pubkey` in realm.toml, if it is there, wants the new key");
    }
    Ok(ExitCode::SUCCESS)
}

/// The new key, on the disk: that of an attempt before, the one that was given, or one that is made.
async fn prepared(path: &Path, pending: &Path, args: &Args) -> Result<SecretKey, Failure> {
    if pending.symlink_metadata().is_ok() {
        let key = owner::load(pending).await?;
        if let Some(file) = &args.new
            && owner::load(file).await?.public() != key.public()
        {
            // An entry whose answer was lost may have made it the owner.
            return Err(Failure::new(
                "exists",
                format!(
                    "`{}` has another key, of an attempt that did not end",
                    pending.display()
                ),
            )
            .hint("`realm key rotate` without `--new` ends it"));
        }
        output::note(&format!("going on with the key in `{}`", pending.display()));
        return Ok(key);
    }
    let text = match &args.new {
        Some(file) => key_files::read(file)?,
        None => {
            let sealed = owner::is_sealed(&key_files::read(path)?);
            key_files::text_of(&owner::generate()?, sealed).await?
        }
    };
    key_files::write(pending, text.as_bytes())?;
    owner::load(pending).await
}

fn body(heads: &Heads, old: PublicKey, new: PublicKey) -> Body {
    let owners = heads
        .owners
        .iter()
        .map(|key| if *key == old { new } else { *key });
    let fences: Vec<Fence> = owned(heads).filter_map(|name| fence(heads, name)).collect();
    Body::Rotate(Rotate {
        owners: owners.collect(),
        threshold: heads.threshold,
        recovery: heads.recovery.clone(),
        fences,
    })
}

/// Puts the new key into the old one's place, and keeps the old one beside it.
fn replace(path: &Path, pending: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::from_error("not-written", &error)
            .context(format!("the new owner key is in `{}`", pending.display()))
            .hint("the realm belongs to it already: run `realm key rotate` again")
    };
    let kept = key_files::beside(path, ".old");
    let old = key_files::read(path)?;
    match std::fs::remove_file(&kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    key_files::write(&kept, old.as_bytes())?;
    std::fs::rename(pending, path).map_err(failed)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = std::fs::File::open(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    folder.sync_all().map_err(failed)
}
