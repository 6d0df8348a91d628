//! `realm key`: the owner key, as others may see it, and what follows when it changes hands.

mod recover;
mod recovery;
mod rotate;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use realm_model::entry::ChainId;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::time::timestamp;
use crate::{key_files, output};

/// Show, make and change keys: the owner's, and those that can take the realm back
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Debug, clap::Subcommand)]
enum KeyVerb {
    /// Print the owner's public key, and six words for two people to compare aloud
    ///
    /// The key goes into `[owner] pubkey` of realm.toml. The words are made from the key: if both
    /// people read the same six, they have the same key.
    Show,
    /// Make a key in a new file: for a delegate, for another owner, for a drawer
    ///
    /// Prints the public key and its six words. The file has mode 0600.
    New {
        /// The file; it must not exist
        file: PathBuf,

        /// Seal the key with a passphrase
        #[arg(long)]
        passphrase: bool,
    },
    Rotate(rotate::Args),
    Recovery(recovery::Args),
    Recover(recover::Args),
    /// Show the authority chain: who was given what, when and by whom
    Log {
        /// The first entry
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        from: u64,
    },
    /// Write a key as certificate and secret key in PEM: for curl, and others that speak TLS
    ///
    /// A node with `listen.api` in its node.toml takes the certificate for the key that is in it;
    /// names and dates mean nothing. The secret key in PEM is as secret as the key: mode 0600.
    Certificate {
        /// The certificate of this node instead of the owner's
        #[arg(long)]
        of_node: bool,

        /// Write OUT.crt and OUT.key; they must not exist
        #[arg(long, value_name = "OUT", default_value = "realm")]
        out: PathBuf,
    },
}

#[derive(Serialize)]
struct Shown {
    key: String,
    words: Vec<&'static str>,
    realm: String,
    node_key: String,
    node_words: Vec<&'static str>,
}

#[derive(Serialize)]
struct Certified {
    key: String,
    certificate: PathBuf,
    secret: PathBuf,
    pin: String,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    match &args.verb {
        KeyVerb::Show => show(context),
        KeyVerb::New { file, passphrase } => new(context, file, *passphrase),
        KeyVerb::Rotate(args) => rotate::run(context, args),
        KeyVerb::Recovery(args) => recovery::run(context, args),
        KeyVerb::Recover(args) => recover::run(context, args),
        KeyVerb::Log { from } => log(context, *from),
        KeyVerb::Certificate { of_node, out } => certify(context, *of_node, out),
    }
}

/// Makes a key in a new file; also what `realm delegate key` does.
pub(crate) fn new(context: &Context, file: &Path, passphrase: bool) -> Result<ExitCode, Failure> {
    let made = context.block_on(key_files::make(file, passphrase))?;
    if context.json() {
        output::json(&made)?;
    } else {
        output::data(&format!("{}\n{}", made.key, made.words.join(" ")));
        output::note(&format!("`{}` has the secret key", made.file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn log(context: &Context, from: u64) -> Result<ExitCode, Failure> {
    let chain = ChainId::Authority;
    let mut entries =
        context.block_on(async { recover::whole(&context.client().await?, chain).await })?;
    entries.retain(|entry| entry.seq >= from);
    if context.json() {
        output::json(&serde_json::json!({ "chain": chain, "entries": entries }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for entry in &entries {
        let signers: Vec<String> = entry.signers.iter().map(ToString::to_string).collect();
        output::data(&format!(
            "{:>4}  {}  {}\n      by {}, entry {}",
            entry.seq,
            timestamp(entry.created_unix_s.saturating_mul(1_000)),
            entry.says,
            signers.join(", "),
            entry.hash
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn certify(context: &Context, of_node: bool, out: &Path) -> Result<ExitCode, Failure> {
    let key = if of_node {
        context.identity()?.node_key
    } else {
        context.block_on(context.owner_key())?
    };
    let pair = realm_node::pem_pair(&key)
        .map_err(|error| Failure::from_error("no-certificate", &error))?;
    let with = |extension: &str| {
        let mut name = out.as_os_str().to_owned();
        name.push(extension);
        PathBuf::from(name)
    };
    let (certificate, secret) = (with(".crt"), with(".key"));
    // The secret first: a certificate alone is of no use, and none is left behind.
    write_new(&secret, pair.key.as_bytes(), 0o600)?;
    write_new(&certificate, pair.certificate.as_bytes(), 0o644)?;
    let certified = Certified {
        key: key.public().to_string(),
        certificate,
        secret,
        pin: pair.pin,
    };
    if context.json() {
        output::json(&certified)?;
    } else {
        output::note(&format!(
            "wrote `{}` and `{}` for {}",
            certified.certificate.display(),
            certified.secret.display(),
            certified.key
        ));
        output::data(&certified.pin);
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that is not there yet, with this mode from its first moment.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    created
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| {
            Failure::from_error("not-written", &error)
                .context(format!("`{}` cannot be written", path.display()))
        })
}

/// The keys of a machine that waits to become a node: it has no realm and no owner yet.
fn show_joining(context: &Context) -> Result<ExitCode, Failure> {
    let key = realm_node::node_key_of(&context.folder()?)
        .map_err(|error| Failure::from_error("bad-realm-folder", &error))?;
    if context.json() {
        output::json(&serde_json::json!({
            "key": null,
            "realm": null,
            "node_key": key,
            "node_words": key.words(),
        }))?;
    } else {
        output::note("this machine is no node yet: these are its own key and words");
        output::data(&format!("{key}\n{}", key.words().join(" ")));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(context: &Context) -> Result<ExitCode, Failure> {
    if realm_node::joining::is_joining(&context.folder()?) {
        return show_joining(context);
    }
    let identity = context.identity()?;
    let node_key = identity.node_key.public();
    // One owner for now: the genesis that `realm init` makes names exactly one.
    let owner = identity.owners[0];
    let shown = Shown {
        key: owner.to_string(),
        words: owner.words().to_vec(),
        realm: identity.realm.to_string(),
        node_key: node_key.to_string(),
        node_words: node_key.words().to_vec(),
    };
    if context.json() {
        output::json(&shown)?;
    } else {
        output::data(&format!("{}\n{}", shown.key, shown.words.join(" ")));
    }
    Ok(ExitCode::SUCCESS)
}
