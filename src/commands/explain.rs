//! `realm explain`: why a component is as it is, on every node, with what to do.

use std::process::ExitCode;

use realm_model::name::ComponentName;
use realm_model::view::ReachState;
use realm_model::why::{ExplainView, ExplainedNode, Obstacle, Verdict};

use crate::context::Context;
use crate::failure::Failure;
use crate::{output, progress};

/// Say why a component is as it is, on every node, and what to do
///
/// The first line is the verdict. Then a line for each node: why it has replicas, or every reason why
/// it has none. Then what is in the way, the most important first. The codes are in docs/rollouts.md
/// and docs/operations.md.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The component
    component: ComponentName,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let asked = async { Ok(context.client().await?.explain(&args.component).await?) };
    let view = context.block_on(asked)?;
    if context.json() {
        output::json(&view)?;
    } else {
        output::data(&text(&view));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(view: &ExplainView) -> String {
    let message = output::within_line(&view.verdict.message);
    let message = match view.verdict.code {
        Verdict::AsWanted => output::green(&message),
        Verdict::Updating => output::yellow(&message),
        Verdict::Degraded | Verdict::Down | Verdict::Nowhere => output::red(&message),
    };
    let mut text = format!("{}: {message}\n{}\n", view.component, about(view));
    let header = ["NODE", "WANTED", "RUNNING", "STATE", "VERSION", "WHY"];
    let rows = view.nodes.iter().map(|node| row(node, view.version));
    text += &format!("\n{}\n", output::table(&header, rows.collect()));
    if !view.reasons.is_empty() {
        text += match view.verdict.code {
            Verdict::AsWanted => "\nto know:\n",
            Verdict::Updating | Verdict::Degraded | Verdict::Down | Verdict::Nowhere => {
                "\nin the way:\n"
            }
        };
        text += &view.reasons.iter().map(obstacle).collect::<String>();
    }
    for alarm in &view.alarms {
        text += &format!(
            "\n{} {}: {} (says {})\n  hint: {}\n",
            output::red("alarm"),
            output::within_line(&alarm.code),
            output::within_line(&alarm.message),
            alarm.node,
            output::within_line(&alarm.hint)
        );
    }
    text.trim_end().to_owned()
}

/// `version 7 (sha256:ab…), routes: * /orders/...`
fn about(view: &ExplainView) -> String {
    let version = view.version.map_or_else(
        || "no version".to_owned(),
        |version| format!("version {version}"),
    );
    let digest = view
        .digest
        .map_or(String::new(), |digest| format!(" ({})", digest.short()));
    let namespace = match view.namespace.is_default() {
        true => String::new(),
        false => format!(" of namespace {}", view.namespace),
    };
    let routes = view.routes.iter();
    let routes: Vec<String> = routes
        .map(|one| format!("{} {}", one.list, output::within_line(&one.route)))
        .collect();
    let routes = match routes.is_empty() {
        true => "no routes".to_owned(),
        false => format!("routes: {}", routes.join(", ")),
    };
    format!("{version}{digest}{namespace}, {routes}")
}

fn row(node: &ExplainedNode, wanted: Option<u64>) -> Vec<String> {
    let number = |number: u32| match number {
        0 => "-".to_owned(),
        number => number.to_string(),
    };
    let state = match (node.state, node.reach) {
        (Some(state), _) => progress::state(state),
        (None, ReachState::Lost | ReachState::Unknown) => "not reached".to_owned(),
        (None, ReachState::Here | ReachState::Direct | ReachState::Indirect) => "-".to_owned(),
    };
    let mut versions: Vec<String> = node.versions.iter().map(u64::to_string).collect();
    let wanted = wanted.map_or_else(|| "new".to_owned(), |version| version.to_string());
    // What has just begun is the one that is wanted, if everything that runs there is.
    match (node.unproven, node.current == node.running) {
        (0, _) => {}
        (_, true) if versions.contains(&wanted) => {}
        (_, true) => versions.push(wanted),
        (_, false) => versions.push(format!("not yet {wanted}")),
    }
    // Of what it would have, and may not begin, it has nothing.
    let told = node.reasons.iter();
    let told = told.filter(|one| !(node.withheld && one.is_having()));
    let why: Vec<&str> = told.map(|one| one.message.as_str()).collect();
    vec![
        node.node.to_string(),
        number(if node.withheld { 0 } else { node.replicas }),
        number(node.running),
        state,
        match versions.is_empty() {
            true => "-".to_owned(),
            false => versions.join(", "),
        },
        why.join("; "),
    ]
}

fn obstacle(one: &Obstacle) -> String {
    let about = match &one.node {
        Some(node) => format!("{node}: "),
        None => String::new(),
    };
    let (code, message) = (&one.reason.code, &one.reason.message);
    let (code, message) = (output::within_line(code), output::within_line(message));
    let hint = one.reason.hint.as_deref().map_or(String::new(), |hint| {
        let hint = output::within_line(hint);
        format!("    {} {hint}\n", output::cyan("hint:"))
    });
    format!("  {} {about}{message}\n{hint}", output::yellow(&code))
}
