//! `realm cert`: certificates of HTTPS that a realm makes for itself.

use std::process::ExitCode;

use clap::Subcommand;
use realm_node::certificates::dev::{self, DevError, Made};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::time::timestamp;

/// Make a certificate for HTTPS on your own machine
///
/// Certificates for everybody come from files or an authority: docs/https.md.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Dev(Dev),
}

/// A certificate for development, from an authority of this realm folder
///
/// For `localhost`, 127.0.0.1, ::1 and every HOST that was ever named here. `dev = true` under `[tls]`
/// in node.toml shows it, and renews it; a running agent takes up new hosts by itself. The authority's
/// key stays in the realm folder, readable for you alone: whoever has it can pass for every site with
/// those who trust the authority.
#[derive(Debug, clap::Args)]
struct Dev {
    /// A host name or an IP address, beside those of before; repeatable
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Told<'m> {
    authority: &'m std::path::Path,
    certificate: &'m std::path::Path,
    hosts: &'m [String],
    not_after: String,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let Action::Dev(Dev { hosts }) = &args.action;
    let folder = context.folder()?;
    let made = dev::make(&folder, hosts).map_err(|error| failed(&error))?;
    let not_after = timestamp(u64::try_from(made.validity.not_after_s).unwrap_or(0) * 1000);
    if context.json() {
        output::json(&Told {
            authority: &made.authority,
            certificate: &made.leaf,
            hosts: &made.hosts,
            not_after,
        })?;
    } else {
        output::data(&text(&made, &not_after));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(made: &Made, not_after: &str) -> String {
    let authority = made.authority.display();
    format!(
        "a certificate for {hosts}, until {not_after}\n\
         \n\
         Show it: node.toml\n\
         \n\
         \x20   [listen]\n\
         \x20   https = [\"127.0.0.1:8443\"]\n\
         \x20   [tls]\n\
         \x20   dev = true\n\
         \n\
         Trust the authority that gave it:\n\
         \n\
         \x20   curl --cacert {authority} https://localhost:8443/\n\
         \n\
         \x20   Debian, Ubuntu  sudo cp {authority} /usr/local/share/ca-certificates/realm-dev.crt\n\
         \x20                   sudo update-ca-certificates\n\
         \x20   Fedora          sudo cp {authority} /etc/pki/ca-trust/source/anchors/realm-dev.pem\n\
         \x20                   sudo update-ca-trust\n\
         \x20   macOS           security add-trusted-cert -k ~/Library/Keychains/login.keychain-db {authority}\n\
         \x20   Firefox         Settings, Certificates, Authorities, Import",
        hosts = made.hosts.join(", "),
    )
}

fn failed(error: &DevError) -> Failure {
    let (code, hint) = match error {
        DevError::Host { .. } => ("bad-host", "write it as in a URL, without scheme and port"),
        DevError::TooMany => (
            "too-many-hosts",
            "remove those that you do not need from `certificates/dev-hosts` in the realm folder",
        ),
        DevError::Files(_) | DevError::Folder { .. } | DevError::Made(_) | DevError::Read(_) => (
            "no-certificate",
            "look at `certificates/` in the realm folder; without its files named `dev…` all is made anew, to be trusted again",
        ),
    };
    Failure::from_error(code, error).hint(hint)
}
