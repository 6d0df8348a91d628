//! `realm push`: new bytes for one component, without touching the manifest.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use realm_model::digest::Digest;
use realm_model::entry::{Body, PushBody};
use realm_model::lock::{Pin, version_after};
use realm_model::manifest::{ComponentSpec, Source};
use realm_model::name::ComponentName;
use realm_store::blobs::BLOB_BYTES_MAX;
use realm_store::fetch::{Origins, resolve};

use crate::commands::apply;
use crate::context::Context;
use crate::failure::Failure;
use crate::resolve::{check_component, check_exports, in_force, source_failure};
use crate::sign::{Signed, Standing};
use crate::upload::Upload;
use crate::{files, output, progress, sign};

/// Upload new bytes for a component and put them in force
///
/// Signs an entry that changes this one pin (and the version). The manifest stays as it was
/// applied; realm.lock beside it follows, if it is the manifest in force. The next `realm apply` asks
/// the component's `source` anew, and takes the push back where that has other bytes: `realm plan` and
/// `realm apply` say so. To keep what was pushed, have `source` lead to it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The component
    component: ComponentName,

    /// The WebAssembly file
    file: PathBuf,

    /// The manifest whose realm.lock follows
    #[arg(long, value_name = "FILE", default_value = "realm.toml")]
    manifest: PathBuf,

    #[command(flatten)]
    of: sign::Of,

    #[command(flatten)]
    wait: progress::Wait,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        let client = context.client().await?;
        let standing = Standing::fetch(&client, args.of.namespace).await?;
        let source = Source::File {
            path: args.file.display().to_string(),
        };
        let (pin, bytes) = resolve(&source, Path::new(""), &Origins::default(), BLOB_BYTES_MAX)
            .await
            .map_err(|error| {
                source_failure(&error, "the path is relative to the current folder")
            })?;
        let exports = check_component(&args.component, &bytes)?;
        let wanted = in_force(&standing)?
            .and_then(|(mut manifest, _)| manifest.components.remove(&args.component));
        if let Some(spec) = wanted {
            check_exports(&args.component, &spec, exports)?;
        }
        let body = push_body(&standing, &args.component, pin)?;
        drop(bytes);
        // Also where the pin stays: the agent may lack the bytes.
        let upload = Upload {
            component: args.component.clone(),
            pin,
            path: args.file.clone(),
        };
        upload.bring(&client).await?;
        let of = BTreeSet::from([args.component.clone()]);
        let Some(body) = body else {
            output::note(&format!(
                "nothing to change: `{}` is pinned to these bytes",
                args.component
            ));
            let in_force = progress::in_force(&standing);
            return progress::finish(&client, &in_force, Some(&of), &args.wait, context.json())
                .await;
        };
        let key = context.owner_key().await?;
        let signed = sign::sign(&standing, &key, Body::Push(body.clone()))?;
        let accepted = sign::submit(&client, &signed).await?;
        follow_locally(&args.manifest, &standing, &body, &signed)?;
        output::note(&format!(
            "`{}` is {} from version {} on",
            args.component, pin.digest, accepted.version
        ));
        progress::finish(&client, &accepted, Some(&of), &args.wait, context.json()).await
    })
}

fn push_body(
    standing: &Standing,
    component: &ComponentName,
    pin: Pin,
) -> Result<Option<PushBody>, Failure> {
    let (Some((manifest, mut lock)), Some(text)) = (in_force(standing)?, &standing.manifest) else {
        return Err(
            Failure::new("nothing-applied", "no manifest is in force yet")
                .hint("`realm apply realm.toml` comes first"),
        );
    };
    let spec = manifest.components.get(component);
    if let Some(upstream) = spec.and_then(ComponentSpec::upstream) {
        let message = format!("`{component}` is the upstream `{upstream}`, which has no bytes");
        return Err(Failure::new("no-bytes", message).hint(
            "write `source` in place of `upstream` and `realm apply` it, or a version beside it: `NAME@LABEL`",
        ));
    }
    match lock.components.get_mut(component) {
        Some(pinned) if *pinned == pin => return Ok(None),
        Some(pinned) => *pinned = pin,
        None => {
            return Err(Failure::new(
                "unknown-name",
                format!("the manifest in force has no component `{component}`"),
            )
            .hint("`realm status` lists the components; a new one comes with `realm apply`"));
        }
    }
    lock.version = version_after(lock.version)
        .ok_or_else(|| Failure::new("stale", format!("no version comes after {}", lock.version)))?;
    Ok(Some(PushBody {
        component: component.clone(),
        manifest: Digest::of(text.as_bytes()),
        lock: lock.to_text(),
    }))
}

/// Writes realm.lock and realm.toml.sig beside the manifest if that is the one in force.
fn follow_locally(
    manifest: &Path,
    standing: &Standing,
    body: &PushBody,
    signed: &Signed,
) -> Result<(), Failure> {
    if !manifest.exists() {
        return Ok(());
    }
    let here = files::read_text(manifest).ok();
    if here.is_none() || here != standing.manifest {
        output::note(&format!(
            "`{}` is not the manifest in force: its realm.lock stays as it is",
            manifest.display()
        ));
        return Ok(());
    }
    files::write(&apply::lock_path(manifest), body.lock.as_bytes())?;
    if let Some(file) = &signed.signature_file {
        files::write(&apply::signature_path(manifest), file.to_text().as_bytes())?;
    }
    Ok(())
}
