//! `realm edge`: the configuration of a web server in front of this node. Prints it, and lets the
//! server itself check it; installs nothing.

mod apache;
mod caddy;
mod check;
mod haproxy;
mod lighttpd;
mod nginx;
mod site;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use realm_model::node_config::NodeConfig;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::output;
use site::{Door, Listen, Protocol, Site, Wanted};

/// Print the configuration of a web server in front of this node
///
/// The hosts are those of the routes in force, or of `--manifest`; where realm answers is in node.toml.
/// Every path of a host goes to realm, which knows the routes: print it anew when hosts come or go.
/// Exit code 1, after the configuration, if node.toml has no such listener. docs/edge.md has more.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The web server
    server: Server,

    /// Over FastCGI, which is the default
    #[arg(long, conflicts_with = "http")]
    fastcgi: bool,

    /// Over HTTP
    #[arg(long)]
    http: bool,

    /// The routes of this manifest, in place of those in force
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// Where realm answers: `unix:PATH` or `ADDRESS:PORT`; absent: by node.toml
    #[arg(long, value_name = "ADDRESS")]
    at: Option<Door>,

    /// Where the web server listens; absent: port 80 of every address
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    listen: Option<Listen>,

    /// Let the server itself check it, if it is installed here, and say whether realm answers where
    /// it leads
    #[arg(long)]
    check: bool,
}

/// A web server that people run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Server {
    Nginx,
    Apache,
    Caddy,
    Haproxy,
    Lighttpd,
}

#[derive(Serialize)]
struct EdgeJson<'a> {
    server: Server,
    protocol: Protocol,
    /// Where realm answers.
    at: String,
    /// Those with a block of their own, as routes write them.
    hosts: Vec<String>,
    /// Whether every other host goes to realm as well.
    any_host: bool,
    config: &'a str,
    /// Null: not asked for.
    accepted: Option<bool>,
    /// Whether somebody listens at `at`. Null: not asked for.
    answered: Option<bool>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let protocol = match args.http {
        true => Protocol::Http,
        false => Protocol::FastCgi,
    };
    let listen = args.listen.unwrap_or_default();
    let wanted = context.block_on(Wanted::find(context, args.manifest.as_deref()))?;
    let (door, missing) = door(context, protocol, args.at)?;
    let site = Site::new(wanted, protocol, door, listen)?;
    let config = render(args.server, &site);
    let checked = args
        .check
        .then(|| check::check(args.server, &site, &config));
    let unanswered = args.check.then(|| check::unanswered(&site.door));
    if context.json() {
        output::json(&EdgeJson {
            server: args.server,
            protocol,
            at: site.door.to_string(),
            hosts: site.hosts.iter().map(ToString::to_string).collect(),
            any_host: site.any_host,
            config: &config,
            accepted: checked.as_ref().map(Result::is_ok),
            answered: unanswered.as_ref().map(Option::is_none),
        })?;
    } else {
        output::data(config.trim_end());
    }
    if let Some(warning) = untrusted(context, &site)? {
        output::note(&format!("{} {warning}", output::yellow("warning:")));
    }
    // Where node.toml names no listener, that is said below.
    if let (Some(Some(why)), None) = (unanswered, &missing) {
        output::note(&format!(
            "{} nobody listens at `{}`: {why}\n{} start the agent, or start it anew where it runs: it reads node.toml when it starts; `realm doctor` looks at the folder and the group of a socket",
            output::yellow("warning:"),
            site.door,
            output::cyan("hint:"),
        ));
    }
    if let Some(remark) = &site.remark {
        output::note(remark);
    }
    if let Some(checked) = checked {
        output::note(&format!("{} accepts it", checked?));
    }
    missing.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn render(server: Server, site: &Site) -> String {
    match server {
        Server::Nginx => nginx::render(site),
        Server::Apache => apache::render(site),
        Server::Caddy => caddy::render(site),
        Server::Haproxy => haproxy::render(site),
        Server::Lighttpd => lighttpd::render(site),
    }
}

/// What is to be said where node.toml does not name this web server as a proxy, so that realm takes it for the
/// client of every request.
fn untrusted(context: &Context, site: &Site) -> Result<Option<String>, Failure> {
    let Door::Tcp(address) = &site.door else {
        return Ok(None);
    };
    let node = match context.find_folder()? {
        Some(folder) => site::node_config(folder)?,
        None => NodeConfig::default(),
    };
    let trusted = &node.trusted_proxies;
    // Where the server is on another machine, node.toml alone knows its address.
    let is_named = match address.ip().is_loopback() {
        true => trusted.contains(&address.ip()),
        false => !trusted.is_empty(),
    };
    if site.protocol == Protocol::FastCgi || is_named {
        return Ok(None);
    }
    let proxy = match address.ip().is_loopback() {
        true => address.ip().to_string(),
        false => "ADDRESS".to_owned(),
    };
    Ok(Some(format!(
        "node.toml does not name this server in `trusted_proxies`: realm takes it for the client of every request, and drops what it says of them\n\
         hint: write `trusted_proxies = [\"{proxy}\"]` above all sections of node.toml, and start the agent anew"
    )))
}

/// Where realm answers, and what is to be said where it does not.
fn door(
    context: &Context,
    protocol: Protocol,
    at: Option<Door>,
) -> Result<(Door, Option<Failure>), Failure> {
    if let Some(door) = at {
        if protocol == Protocol::Http && matches!(door, Door::Unix(_)) {
            return Err(Failure::new("usage", "realm answers HTTP on TCP alone")
                .hint("`--fastcgi --at unix:PATH`, or `--http --at ADDRESS:PORT`")
                .exit(exit::USAGE));
        }
        return Ok((door, None));
    }
    let node = match context.find_folder()? {
        Some(folder) => site::node_config(folder)?,
        None => NodeConfig::default(),
    };
    if let Some(door) = site::door_of(&node, protocol)? {
        return Ok((door, None));
    }
    let (key, door) = match protocol {
        Protocol::FastCgi => ("fastcgi", Door::usual()),
        Protocol::Http => ("http", Door::usual_http()),
    };
    let missing = Failure::new(
        "no-listener",
        format!("node.toml has no `{key}` under `[listen]`: nothing answers at `{door}` yet"),
    )
    .hint(format!(
        "write `{key} = [\"{door}\"]` there, and start the agent anew; `--at` names another place"
    ));
    Ok((door, Some(missing)))
}
