//! The command line as typed: global flags and the list of verbs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

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
  130  interrupted before it was done; Ctrl-C ends `agent`, `up`, `logs -f`,
       `beacon --every` and `status --watch` with 0

Environment:
  REALM_DIR              the realm folder (like --realm)
  REALM_NODE             the node to talk to (like --node)
  REALM_KEY              the file of the key to act with (like --key)
  REALM_PASSPHRASE_FILE  a file with the owner key's passphrase
  REALM_LOG              log filter of the agent, e.g. `info` or `realm_node=debug`
  NO_COLOR               no colours";

/// Over the options that every verb takes, before or behind its name.
const GLOBAL: &str = "Options of every verb";

/// The verbs in the order in which somebody needs them, under the headings of `realm --help`.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Begin",
        &["init", "up", "agent", "invite", "join", "cert", "doctor"],
    ),
    (
        "Say what runs",
        &[
            "apply", "plan", "push", "restart", "promote", "abort", "rollback", "verify", "submit",
            "schema", "secret",
        ],
    ),
    (
        "Look",
        &[
            "status", "explain", "logs", "messages", "audit", "inspect", "node", "version",
        ],
    ),
    (
        "Say who may",
        &["nodes", "peer", "delegate", "beacon", "key", "resolve"],
    ),
    ("Run", &["exec", "run", "serve", "edge", "completions"]),
];

/// Push WebAssembly components to your own machines, from one signed TOML file
#[derive(Debug, Parser)]
#[command(name = "realm", version, after_help = EXIT_CODES, max_term_width = 100)]
#[command(disable_help_subcommand = true, propagate_version = true)]
pub(crate) struct Cli {
    /// Realm folder; absent: `.realm` here or in a parent folder, else the one of this user
    #[arg(long, value_name = "DIR", global = true, env = "REALM_DIR", help_heading = GLOBAL)]
    pub(crate) realm: Option<PathBuf>,

    /// The node to talk to: its name, a multiaddr, a ticket, or `HOST:PORT#KEY`; absent: the agent
    /// of the realm folder
    #[arg(long, value_name = "NODE", global = true, env = "REALM_NODE", help_heading = GLOBAL)]
    pub(crate) node: Option<String>,

    /// File of the key to act with; absent: the owner key of the realm folder
    #[arg(long, value_name = "FILE", global = true, env = "REALM_KEY", help_heading = GLOBAL)]
    pub(crate) key: Option<PathBuf>,

    /// Print JSON on stdout instead of text
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Init(commands::init::Args),
    Key(commands::key::Args),
    Delegate(commands::delegate::Args),
    Beacon(commands::beacon::Args),
    Resolve(commands::resolve::Args),
    Node(commands::node::Args),
    Up(commands::up::Args),
    Agent(commands::agent::Args),
    Cert(commands::cert::Args),
    Invite(commands::invite::Args),
    Join(commands::join::Args),
    Peer(commands::peer::Args),
    Nodes(commands::nodes::Args),
    Apply(commands::apply::Args),
    Plan(commands::plan::Args),
    Verify(commands::verify::Args),
    Submit(commands::submit::Args),
    Status(commands::status::Args),
    Explain(commands::explain::Args),
    Push(commands::push::Args),
    Restart(commands::restart::Args),
    Promote(commands::promote::Args),
    Abort(commands::abort::Args),
    Rollback(commands::rollback::Args),
    Logs(commands::logs::Args),
    Messages(commands::messages::Args),
    Exec(commands::exec::Args),
    Audit(commands::audit::Args),
    Inspect(commands::inspect::Args),
    Doctor(commands::doctor::Args),
    Edge(commands::edge::Args),
    Run(commands::run::Args),
    Serve(commands::serve::Args),
    Schema(commands::schema::Args),
    Secret(commands::secret::Args),
    Completions(commands::completions::Args),
    Version(commands::version::Args),
    #[command(hide = true)]
    Reference(commands::reference::Args),
    #[command(hide = true, name = realm_node::COMPILE_VERB)]
    Compile(commands::compile::Args),
}

/// Parses the arguments of the process; prints help or what is wrong with them.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    let matches = command().try_get_matches();
    let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
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
    let command = Cli::command();
    let listed = listed(&command);
    command.help_template(format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{listed}{GLOBAL}:\n{{options}}{{after-help}}"
    ))
}

/// The verbs under their headings.
fn listed(command: &clap::Command) -> String {
    let about = |name: &str| {
        let verb = command.find_subcommand(name);
        let about = verb.and_then(clap::Command::get_about);
        about.map_or_else(String::new, ToString::to_string)
    };
    let mut text = String::new();
    for (heading, verbs) in GROUPS {
        text.push_str(&format!("{heading}:\n"));
        for verb in verbs {
            text.push_str(&format!("  {verb:<12} {}\n", about(verb)));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_verb_stands_under_one_heading() {
        let command = command();
        let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        let mut verbs: Vec<&str> = verbs.map(clap::Command::get_name).collect();
        let mut listed: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, verbs)| *verbs)
            .copied()
            .collect();
        verbs.sort_unstable();
        listed.sort_unstable();
        assert_eq!(verbs, listed);
    }

    /// A value of a verb with the id of a global flag would be taken for that flag.
    #[test]
    fn no_verb_has_an_argument_with_the_id_of_a_global_flag() {
        fn check(command: &clap::Command, globals: &BTreeSet<String>, path: &str) {
            for verb in command.get_subcommands() {
                let path = format!("{path} {}", verb.get_name());
                for argument in verb.get_arguments().filter(|one| !one.is_global_set()) {
                    let id = argument.get_id().to_string();
                    assert!(!globals.contains(&id), "`{path}` has an argument `{id}`");
                }
                check(verb, globals, &path);
            }
        }
        let command = Cli::command();
        let globals = command.get_arguments().filter(|one| one.is_global_set());
        let globals = globals.map(|one| one.get_id().to_string()).collect();
        check(&command, &globals, "realm");
    }
}
