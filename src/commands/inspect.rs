//! `realm inspect`: what a WebAssembly file is, wants and offers.

use std::path::PathBuf;
use std::process::ExitCode;

use realm_model::inspection::{Inspection, WasmKind};
use realm_model::manifest::Serve;
use realm_store::blobs::BLOB_BYTES_MAX;

use crate::context::Context;
use crate::failure::Failure;
use crate::{files, output};

/// Show what a WebAssembly file imports and exports, and how realm would run it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The WebAssembly file
    file: PathBuf,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let bytes = files::read(&args.file, BLOB_BYTES_MAX)?;
    let inspection = realm_host::inspect(&bytes).map_err(|error| {
        Failure::from_error("not-wasm", &error)
            .context(format!(
                "`{}` is no WebAssembly that realm can read",
                args.file.display()
            ))
            .hint("build for the target `wasm32-wasip2`")
    })?;
    if context.json() {
        output::json(&inspection)?;
    } else {
        output::data(&text(&inspection));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(inspection: &Inspection) -> String {
    let kind = match inspection.kind {
        WasmKind::Component => "component",
        WasmKind::Module => "core module",
    };
    let mut text = format!("{kind}, {} bytes, {}\n", inspection.size, inspection.digest);
    if let Some(why) = &inspection.refused {
        text.push_str(&format!("{} {why}\n", output::red("refused:")));
    }
    text.push_str(&format!("serve:   {}\n", serve(inspection.serve)));
    let health = if inspection.health_export {
        "exported"
    } else {
        "not exported"
    };
    text.push_str(&format!("health:  {health}\n\nexports\n"));
    for export in &inspection.exports {
        text.push_str(&format!("  {export}\n"));
    }
    text.push_str("\nimports\n");
    for import in &inspection.imports {
        let mark = if import.provided {
            output::green("provided")
        } else {
            output::red("missing ")
        };
        let note = import
            .note
            .as_deref()
            .map_or_else(String::new, |note| format!("  {note}"));
        let versions = match (import.provided, &*import.versions) {
            (false, _) | (true, "") => String::new(),
            (true, versions) => format!(" (realm has {versions})"),
        };
        text.push_str(&format!("  {mark}  {}{versions}{note}\n", import.name));
    }
    text.trim_end().to_owned()
}

const fn serve(serve: Option<Serve>) -> &'static str {
    match serve {
        Some(Serve::Http) => "http (one call of the exported handler per request)",
        Some(Serve::Cgi) => {
            "cgi (one run of the command per request; `serve` makes it a server, a service or a job)"
        }
        Some(Serve::Socket) => "socket (a long-running command that listens)",
        Some(Serve::Service) => "service (a long-running command)",
        Some(Serve::Job) => "job (a command that runs to its end)",
        Some(Serve::Worker) => "worker (calls of the exported handlers of events)",
        None => "nothing that realm calls is exported",
    }
}
