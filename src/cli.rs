//! The command line as typed: global flags and the list of verbs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::commands;
use crate::failure::exit;

const EXIT_CODES: &str = "\
Exit codes:
  0    done; for `plan`: nothing would change
  1    failed
  2    `plan`: apply would change something
  3    refused: by the agent, or a signature does not hold
  4    no agent answers, or it is stopping
  64   the command line is wrong
  130  interrupted before it was done; Ctrl-C ends `agent`, `up`, `logs -f` and
       `status --watch` with 0

Environment:
  REALM_DIR              the realm folder (like --realm)
  REALM_NODE             the node to talk to (like --node)
  REALM_KEY              the file of the key to act with (like --key)
  REALM_PASSPHRASE_FILE  a file with the owner key's passphrase
  REALM_LOG              log filter of the agent, e.g. `info` or `realm_node=debug`
  NO_COLOR               no colours";

/// Push WebAssembly components to your own machines, from one signed TOML file
#[derive(Debug, Parser)]
#[command(name = "realm", version, after_help = EXIT_CODES, max_term_width = 100)]
#[command(disable_help_subcommand = true, propagate_version = true)]
pub(crate) struct Cli {
    /// Realm folder; absent: `.realm` here or in a parent folder, else the one of this user
    #[arg(long, value_name = "DIR", global = true, env = "REALM_DIR")]
    pub(crate) realm: Option<PathBuf>,

    /// The node to talk to: its name, or `HOST:PORT#KEY`; absent: the agent of the realm folder
    #[arg(long, value_name = "NODE", global = true, env = "REALM_NODE")]
    pub(crate) node: Option<String>,

    /// File of the key to act with; absent: the owner key of the realm folder
    #[arg(long, value_name = "FILE", global = true, env = "REALM_KEY")]
    pub(crate) key: Option<PathBuf>,

    /// Print JSON on stdout instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Init(commands::init::Args),
    Key(commands::key::Args),
    Up(commands::up::Args),
    Agent(commands::agent::Args),
    Apply(commands::apply::Args),
    Plan(commands::plan::Args),
    Verify(commands::verify::Args),
    Submit(commands::submit::Args),
    Status(commands::status::Args),
    Push(commands::push::Args),
    Restart(commands::restart::Args),
    Logs(commands::logs::Args),
    Exec(commands::exec::Args),
    Audit(commands::audit::Args),
    Inspect(commands::inspect::Args),
    Doctor(commands::doctor::Args),
    Run(commands::run::Args),
    Serve(commands::serve::Args),
    Schema(commands::schema::Args),
    Completions(commands::completions::Args),
    Version(commands::version::Args),
    #[command(hide = true)]
    Reference(commands::reference::Args),
    #[command(hide = true, name = realm_node::COMPILE_VERB)]
    Compile(commands::compile::Args),
}

/// Parses the arguments of the process; prints help or what is wrong with them.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        // A closed stderr is no reason to say more.
        let _ = error.print();
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(exit::USAGE)
        }
    })
}

/// The parser as data, for completions and the reference page.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}
