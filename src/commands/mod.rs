//! The verbs, a file each: arguments with their help, and what they do.

pub(crate) mod beacon;
pub(crate) mod delegate;
pub(crate) mod init;
pub(crate) mod invite;
pub(crate) mod join;
pub(crate) mod key;
pub(crate) mod node;
pub(crate) mod resolve;

pub(crate) mod agent;
pub(crate) mod cert;
pub(crate) mod up;

pub(crate) mod abort;
pub(crate) mod apply;
pub(crate) mod plan;
pub(crate) mod promote;
pub(crate) mod push;
pub(crate) mod restart;
pub(crate) mod rollback;
pub(crate) mod secret;
pub(crate) mod submit;
pub(crate) mod verify;

pub(crate) mod exec;
pub(crate) mod run;
pub(crate) mod serve;

pub(crate) mod audit;
pub(crate) mod doctor;
pub(crate) mod edge;
pub(crate) mod explain;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod messages;
pub(crate) mod nodes;
pub(crate) mod peer;
pub(crate) mod status;

pub(crate) mod completions;
pub(crate) mod schema;
pub(crate) mod version;

pub(crate) mod compile;
pub(crate) mod reference;

use std::process::ExitCode;

use crate::cli::{Cli, Verb};
use crate::context::Context;
use crate::failure::Failure;

/// Runs the verb.
pub(crate) fn run(mut cli: Cli) -> Result<ExitCode, Failure> {
    if let Verb::Delegate(args) = &mut cli.verb {
        args.take_key(&mut cli.key);
    }
    let context = Context::new(cli.realm, cli.json, cli.node, cli.key);
    match cli.verb {
        Verb::Init(args) => init::run(&context, args),
        Verb::Key(args) => key::run(&context, &args),
        Verb::Delegate(args) => delegate::run(&context, args),
        Verb::Cert(args) => cert::run(&context, &args),
        Verb::Beacon(args) => beacon::run(&context, &args),
        Verb::Resolve(args) => resolve::run(&context, &args),
        Verb::Node(args) => node::run(&context, &args),
        Verb::Up(args) => up::run(&context, args),
        Verb::Agent(args) => agent::run(&context, args),
        Verb::Invite(args) => invite::run(&context, &args),
        Verb::Join(args) => join::run(&context, args),
        Verb::Peer(args) => peer::run(&context, &args),
        Verb::Nodes(args) => nodes::run(&context, args),
        Verb::Apply(args) => apply::run(&context, args),
        Verb::Plan(args) => plan::run(&context, args),
        Verb::Verify(args) => verify::run(&context, &args),
        Verb::Submit(args) => submit::run(&context, &args),
        Verb::Status(args) => status::run(&context, &args),
        Verb::Explain(args) => explain::run(&context, &args),
        Verb::Push(args) => push::run(&context, args),
        Verb::Restart(args) => restart::run(&context, args),
        Verb::Promote(args) => promote::run(&context, &args),
        Verb::Abort(args) => abort::run(&context, &args),
        Verb::Rollback(args) => rollback::run(&context, &args),
        Verb::Logs(args) => logs::run(&context, args),
        Verb::Messages(args) => messages::run(&context, args),
        Verb::Audit(args) => audit::run(&context, &args),
        Verb::Exec(args) => exec::run(&context, args),
        Verb::Inspect(args) => inspect::run(&context, &args),
        Verb::Run(args) => run::run(&context, args),
        Verb::Serve(args) => serve::run(args),
        Verb::Doctor(args) => doctor::run(&context, &args),
        Verb::Edge(args) => edge::run(&context, args),
        Verb::Schema(args) => schema::run(&args),
        Verb::Secret(args) => secret::run(&context, args),
        Verb::Completions(args) => completions::run(&args),
        Verb::Version(args) => version::run(&context, &args),
        Verb::Reference(args) => reference::run(&args),
        Verb::Compile(args) => compile::run(&args),
    }
}
