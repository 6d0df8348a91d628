//! `realm init`: a new realm with its owner key, and this machine as its first node.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use realm_model::name::NodeName;
use realm_node::found::{Founding, found};
use serde::Serialize;

use crate::context::{Context, user_place};
use crate::failure::{Failure, exit};
use crate::time::now_unix_ms;
use crate::{blocking, key_files, output, owner};

/// Make a new realm: an owner key, a node key, and a realm folder
///
/// The folder is `.realm` here, or what `--realm` names. It holds the owner key (file mode 0600):
/// who has that key decides what runs, so keep a copy of it offline.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of this node; absent: the host name
    #[arg(long, value_name = "NODE")]
    name: Option<NodeName>,

    /// Seal the owner key with a passphrase
    #[arg(long)]
    passphrase: bool,

    /// Make a recovery key as well, in this file: it can take the realm back from a thief
    #[arg(long, value_name = "FILE")]
    recovery: Option<PathBuf>,

    /// Make the realm of this user (in `$XDG_DATA_HOME/realm`) instead of one in `.realm` here
    #[arg(long)]
    user: bool,
}

#[derive(Serialize)]
struct Made {
    folder: String,
    realm: String,
    owner: String,
    words: Vec<&'static str>,
    node: NodeName,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let folder = match (context.named_folder(), args.user) {
        (Some(_), true) => {
            return Err(
                Failure::new("usage", "`--realm` and `--user` name two places")
                    .hint("use one of them")
                    .exit(exit::USAGE),
            );
        }
        (Some(folder), false) => folder.clone(),
        (None, true) => user_place().ok_or_else(|| {
            Failure::new(
                "no-home",
                "neither XDG_DATA_HOME nor HOME says where this user's data is",
            )
        })?,
        (None, false) => PathBuf::from(".realm"),
    };
    let recovery = args.recovery.as_deref();
    let made = context.block_on(make(folder, args.name, args.passphrase, recovery))?;
    if context.json() {
        output::json(&made)?;
    } else {
        output::data(&format!(
            "made {} in {}\nowner {}\nwords {}\nnode  {}",
            made.realm,
            made.folder,
            made.owner,
            made.words.join(" "),
            made.node
        ));
        if let Some(file) = recovery {
            output::note(&format!(
                "`{}` has the recovery key: move it offline, away from the owner key",
                file.display()
            ));
        }
        output::note("keep a copy of the owner key offline; next: `realm up realm.toml`");
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a realm folder for a new realm; also what `realm up` does when there is none.
pub(crate) async fn make_quietly(folder: PathBuf, name: Option<NodeName>) -> Result<(), Failure> {
    let made = make(folder, name, false, None).await?;
    output::note(&format!("made {} in {}", made.realm, made.folder));
    output::note(&format!("owner key {} (keep a copy offline)", made.owner));
    Ok(())
}

async fn make(
    folder: PathBuf,
    name: Option<NodeName>,
    sealed: bool,
    recovery: Option<&Path>,
) -> Result<Made, Failure> {
    if folder.symlink_metadata().is_ok() {
        return Err(
            Failure::new("exists", format!("`{}` is there already", folder.display()))
                .hint("`realm status` shows what it is; `--realm DIR` makes another elsewhere"),
        );
    }
    let owner = owner::generate()?;
    let passphrase = match sealed {
        true => Some(owner::new_passphrase().await?),
        false => None,
    };
    let (owner, owner_file) = blocking::run(move || {
        let text = owner::to_file_text(&owner, passphrase)?;
        Ok((owner, text))
    })
    .await?;
    // The file first: a key that counts and is lost would be of no use to anybody.
    let recovery = match recovery {
        Some(file) => Some(key_files::make(file, false).await?.public),
        None => None,
    };
    let name = match name {
        Some(name) => name,
        None => realm_node::found::host_name(),
    };
    let realm = found(Founding {
        folder: folder.clone(),
        owner: &owner,
        owner_file,
        node: &owner::generate()?,
        recovery,
        nonce: *owner::random()?,
        name: name.clone(),
        created_unix_s: now_unix_ms() / 1_000,
    })
    .map_err(|error| {
        Failure::from_error("not-made", &error).context(format!(
            "failed to make the realm folder `{}`",
            folder.display()
        ))
    })?;
    Ok(Made {
        folder: folder.display().to_string(),
        realm: realm.to_string(),
        owner: owner.public().to_string(),
        words: owner.public().words().to_vec(),
        node: name,
    })
}
