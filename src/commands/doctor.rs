//! `realm doctor`: what of this machine is in the way.

use std::process::ExitCode;

use realm_model::node_config::NodeConfig;
use realm_node::Config;
use realm_node::doctor::{Finding, Level, examine};

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::output;

/// Look at this machine and the realm folder, and say what to mend
///
/// Kernel, swap, address space, limits, clock, ports, permissions: each finding with its remedy.
/// Nothing is changed. Exit code 1 if something keeps the agent from working.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: &Args) -> Result<ExitCode, Failure> {
    let folder = context.find_folder()?;
    let mut invalid = None;
    let mut warnings = Vec::new();
    let node = match &folder {
        Some(folder) => match Config::load(folder.clone()) {
            Ok(config) => {
                warnings = config.warnings;
                config.node
            }
            // What does not depend on it is looked at all the same.
            Err(error) => {
                invalid = Some(Finding {
                    code: "invalid-node-config",
                    level: Level::Problem,
                    message: error.to_string(),
                    remedy: Some("`realm agent` says where, and what was expected".to_owned()),
                });
                NodeConfig::default()
            }
        },
        None => NodeConfig::default(),
    };
    let mut findings = examine(folder.as_ref(), &node);
    findings.extend(warnings.into_iter().map(|warning| Finding {
        code: "node-config",
        level: Level::Warning,
        message: format!("node.toml, line {}: {}", warning.line, warning.message),
        remedy: warning.hint,
    }));
    if let Some(invalid) = invalid {
        // The ports of the defaults are not those of the file.
        findings.retain(|finding| finding.code != "port");
        findings.insert(0, invalid);
    }
    if context.json() {
        output::json(&findings)?;
    } else {
        for finding in &findings {
            output::data(&text(finding));
        }
    }
    let problem = findings
        .iter()
        .any(|finding| finding.level == Level::Problem);
    Ok(if problem {
        ExitCode::from(exit::FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

fn text(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => output::green("ok     "),
        Level::Warning => output::yellow("warning"),
        Level::Problem => output::red_plain("problem"),
    };
    let remedy = finding
        .remedy
        .as_ref()
        .map_or_else(String::new, |remedy| format!("\n         -> {remedy}"));
    format!("{level}  {:<13} {}{remedy}", finding.code, finding.message)
}
