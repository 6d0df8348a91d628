//! `realm verify`: a manifest, its lock and its signature, offline.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use realm_model::entry::ChainId;
use realm_model::key::PublicKey;
use realm_model::lock::Lock;
use realm_model::manifest::Manifest;
use realm_model::signature_file::SignatureFile;
use serde::Serialize;

use crate::commands::apply::{lock_path, signature_path};
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::files::read_text;
use crate::resolve::read_manifest;
use crate::{output, sign, time};

/// Check a manifest and its signature, without an agent
///
/// Checks that realm.toml is valid, that realm.lock pins each of its components, that
/// realm.toml.sig holds over both files, and that an owner of this realm made it. Exit code 3 if not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest
    #[arg(default_value = "realm.toml")]
    manifest: PathBuf,

    #[command(flatten)]
    of: sign::Of,

    /// The key that must have signed; absent: an owner of this realm folder, or the delegate of the
    /// namespace
    #[arg(long, value_name = "KEY")]
    owner: Option<PublicKey>,
}

#[derive(Serialize)]
struct Verified {
    manifest: String,
    version: u64,
    realm: String,
    seq: u64,
    key: String,
    words: Vec<&'static str>,
    signed: String,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let (owners, signers) = signers(context, args)?;
    let (text, manifest) = read_manifest(&args.manifest, context.json())?;
    let lock_text = read_text(&lock_path(&args.manifest))
        .map_err(|failure| failure.hint("`realm apply` writes it"))?;
    let lock = Lock::parse(&lock_text)
        .map_err(|error| Failure::from_error("invalid-lock", &error).exit(exit::REFUSED))?;
    let file = read_signature(&args.manifest)?;
    if file.chain != ChainId::Namespace(args.of.namespace) {
        return Err(Failure::new(
            "wrong-chain",
            format!("the signature was made for chain `{}`", file.chain),
        )
        .hint("`--namespace NAME` names another namespace than the owners'")
        .exit(exit::REFUSED));
    }
    // What an agent checks. A push raises the version of the lock alone.
    let manifest = match file.pushed {
        None => manifest,
        Some(_) => Manifest {
            version: None,
            ..manifest
        },
    };
    realm_control::check_files(&manifest, &lock, &owners)?;
    file.verify(&text, &lock_text).map_err(|error| {
        Failure::from_error("bad-signature", &error)
            .hint("the manifest or realm.lock changed after it was signed: `realm plan` shows what, `realm apply` signs it")
            .exit(exit::REFUSED)
    })?;
    if !signers.contains(&file.key) {
        return Err(Failure::new(
            "wrong-owner",
            format!("signed by {}, who does not sign here", file.key),
        )
        .hint("compare with `realm key show`")
        .exit(exit::REFUSED));
    }
    if let Some(realm) = context.find_folder()?.filter(|_| args.owner.is_none())
        && let Ok(identity) = realm_node::Identity::load(&realm)
        && identity.realm != file.realm
    {
        return Err(Failure::new(
            "wrong-realm",
            format!("signed for {}, this is {}", file.realm, identity.realm),
        )
        .exit(exit::REFUSED));
    }
    report(context, args, &lock, &file)
}

/// The owners, and who signs: they, or the delegate of the namespace.
fn signers(context: &Context, args: &Args) -> Result<(Vec<PublicKey>, Vec<PublicKey>), Failure> {
    if let Some(owner) = args.owner {
        return Ok((vec![owner], vec![owner]));
    }
    let Some(folder) = context.find_folder()? else {
        return Err(Failure::new(
            "no-owner",
            "there is no realm folder that says who the owner is",
        )
        .hint("name the key: `realm verify --owner ed25519:…`"));
    };
    let heads = realm_node::offline_heads(&folder, None)
        .map_err(|error| Failure::from_error("bad-realm-folder", &error))?;
    let standing = sign::Standing::of(heads, args.of.namespace)?;
    Ok((standing.owners, standing.signers))
}

fn read_signature(manifest: &Path) -> Result<SignatureFile, Failure> {
    let path = signature_path(manifest);
    let text = read_text(&path).map_err(|failure| {
        failure
            .code("unsigned")
            .context(format!("there is no signature `{}`", path.display()))
            .hint("`realm apply` signs")
            .exit(exit::REFUSED)
    })?;
    SignatureFile::parse(&text).map_err(|error| {
        Failure::from_error("bad-signature", &error)
            .context(format!("`{}` is damaged", path.display()))
            .exit(exit::REFUSED)
    })
}

fn report(
    context: &Context,
    args: &Args,
    lock: &Lock,
    file: &SignatureFile,
) -> Result<ExitCode, Failure> {
    let verified = Verified {
        manifest: args.manifest.display().to_string(),
        version: lock.version,
        realm: file.realm.to_string(),
        seq: file.seq,
        key: file.key.to_string(),
        words: file.key.words().to_vec(),
        signed: time::timestamp(file.created_unix_s.saturating_mul(1_000)),
    };
    if context.json() {
        output::json(&verified)?;
    } else {
        output::data(&format!(
            "good signature on {}: version {}, entry {} of {}\nby {} ({})\nsigned {} by the signer's clock",
            verified.manifest,
            verified.version,
            verified.seq,
            verified.realm,
            verified.key,
            verified.words.join(" "),
            verified.signed
        ));
    }
    Ok(ExitCode::SUCCESS)
}
