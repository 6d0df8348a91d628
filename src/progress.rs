//! Waits until the nodes run what was applied, and says what they wait on meanwhile.

mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use realm_control::failure_hint;
use realm_model::api::Accepted;
use realm_model::entry::ChainId;
use realm_model::name::ComponentName;
use realm_model::record::ROLLOUT_FAILED;
use realm_model::view::{ComponentState, ComponentView, StatusView};
use realm_model::why::Verdict;
use realm_node::Client;

use crate::failure::Failure;
use crate::sign::Standing;
use crate::{everywhere, output};
use others::Others;

/// Often enough to look alive, seldom enough to cost nothing.
const INTERVAL: Duration = Duration::from_millis(150);
/// The status of thousands of components is work for the agent that starts them: of the time that is
/// waited, it is asked for one part in so many, though not less often than a person looks.
const LOOK_PART: u32 = 10;
const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Components that are told of at one look: what goes by faster nobody reads.
const LINES_PER_LOOK_MAX: usize = 20;
/// Components that an error names: the status has them all.
const NAMED_MAX: usize = 20;
/// Components of which it is asked whether every replica has a node: those without any first.
const EXPLAINED_MAX: usize = 50;
/// A node that was approved a moment ago says something of itself within this.
const FIRST_WORDS: Duration = Duration::from_secs(10);

/// How long a verb waits that changed something.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Wait {
    /// Do not wait until everything runs
    #[arg(long)]
    no_wait: bool,

    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = crate::time::parse_duration)]
    timeout: Duration,
}

/// How a component stands on its way.
enum Progress {
    Done,
    Failed,
    Underway,
}

/// The end of a verb that changed something, `of` some components or of any: waits as `wait_for`
/// says, or prints what is in force.
pub(crate) async fn finish(
    client: &Client,
    in_force: &Accepted,
    of: Option<&BTreeSet<ComponentName>>,
    wait_for: &Wait,
    json: bool,
) -> Result<ExitCode, Failure> {
    if !wait_for.no_wait {
        wait(client, in_force, of, wait_for.timeout, json).await?;
    } else if json {
        output::json(in_force)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is in force already, in the words of an answer to an entry.
pub(crate) const fn in_force(standing: &Standing) -> Accepted {
    Accepted {
        chain: standing.chain(),
        head: standing.head,
        version: standing.version,
    }
}

/// Waits until every component, or those that are named, are as wanted by `in_force` or later, on
/// every node that is reached. Nodes that are not are told of at the end; those that were never heard of
/// have a moment to be.
///
/// A component that failed for good ends the wait with an error; what still waits when `timeout`
/// is over does too. Running apps are not touched in either case.
pub(crate) async fn wait(
    client: &Client,
    in_force: &Accepted,
    of: Option<&BTreeSet<ComponentName>>,
    timeout: Duration,
    json: bool,
) -> Result<StatusView, Failure> {
    let start = Instant::now();
    let mut shown = BTreeMap::new();
    loop {
        let asked = Instant::now();
        let mut status = client.status().await?;
        if let Some(names) = of {
            // What others wait for has nothing to do with this verb.
            status
                .components
                .retain(|component| names.contains(&component.name));
        }
        let pause = (asked.elapsed() * LOOK_PART).clamp(INTERVAL, INTERVAL_MAX);
        let underway = show(&status, &mut shown, start, json);
        let others = Others::of(&status);
        // The status has the head of the owners' namespace alone; the node that took an entry of
        // another one has it in force.
        let here = in_force.chain != ChainId::DEFAULT || status.head.seq >= in_force.head.seq;
        let is_early = start.elapsed() < FIRST_WORDS.min(timeout);
        let is_awaited = is_early && !others.unheard.is_empty();
        if here && underway == 0 && others.underway.is_empty() && !is_awaited {
            let failed = failed(&status);
            if json {
                output::json(&status)?;
            }
            if !failed.is_empty() || !others.failed.is_empty() {
                return Err(others.add_failed(not_running(&failed, "failed")));
            }
            if !json {
                let mut away = others.away();
                let lacking = lacking(client, &status.components).await;
                output::note(&as_wanted(
                    &status.components,
                    lacking.len(),
                    away.is_empty(),
                ));
                away.extend(lacking);
                tell(&away);
            }
            return Ok(status);
        }
        if start.elapsed() >= timeout {
            return Err(out_of_time(&status, &others));
        }
        tokio::time::sleep(pause).await;
    }
}

fn as_wanted(components: &[ComponentView], lacking: usize, everywhere: bool) -> String {
    let on = match everywhere {
        true => "",
        false => " on every node that is reached",
    };
    match components {
        [] => "no component is wanted, and none runs".to_owned(),
        [one] if lacking == 0 => format!("`{}` is as wanted{on}", one.name),
        all if lacking == 0 => format!("all {} components are as wanted{on}", all.len()),
        [_] => "it is in force, and nothing failed".to_owned(),
        all => format!(
            "{} of {} components are as wanted{on}",
            all.len().saturating_sub(lacking),
            all.len()
        ),
    }
}

/// What no node may run, or not as often as it is wanted: with each of them the reason. Nothing of it is on its
/// way, so nobody waits for it.
async fn lacking(client: &Client, components: &[ComponentView]) -> Vec<String> {
    let (nowhere, elsewhere): (Vec<_>, Vec<_>) = components
        .iter()
        .partition(|one| everywhere::is_nowhere(one));
    let mut lacking = Vec::new();
    for component in nowhere.into_iter().chain(elsewhere).take(EXPLAINED_MAX) {
        // An agent that cannot say why has said all it knows in its status.
        let Ok(told) = client.explain(&component.name).await else {
            continue;
        };
        if told.unplaced > 0 || told.verdict.code == Verdict::Nowhere {
            lacking.push(format!(
                "`{}`: {}: `realm explain {}`",
                component.name, told.verdict.message, component.name
            ));
        }
    }
    lacking
}

/// Says who was not waited for, and what.
fn tell(away: &[String]) {
    for node in away.iter().take(NAMED_MAX) {
        output::note(&format!("warning: {node}"));
    }
    if let Some(more @ 1..) = away.len().checked_sub(NAMED_MAX) {
        output::note(&format!(
            "warning: and {more} more: `realm status` has them all"
        ));
    }
}

/// Prints what changed since the last look; returns how many components are underway.
fn show(
    status: &StatusView,
    shown: &mut BTreeMap<ComponentName, String>,
    start: Instant,
    json: bool,
) -> usize {
    let mut news = Vec::new();
    for component in &status.components {
        // The key leaves out running seconds, so that a stage is told once.
        let code = component
            .waiting_on
            .first()
            .map(|waiting| waiting.code.as_str());
        let there = (everywhere::state(component), everywhere::count(component));
        let key = format!("{:?} {there:?} {code:?}", component.state);
        if shown.get(&component.name) == Some(&key) {
            continue;
        }
        let first_look = shown.insert(component.name.clone(), key).is_none();
        // What was as wanted all the time is not news.
        if !(first_look && matches!(progress(component), Progress::Done)) {
            news.push(component);
        }
    }
    let of = |wanted: fn(&Progress) -> bool| {
        let progress = status.components.iter().map(progress);
        progress.filter(wanted).count()
    };
    let underway = of(|progress| matches!(progress, Progress::Underway));
    if json {
        return underway;
    }
    let elapsed = format!("{:6.1}s", start.elapsed().as_secs_f64());
    for component in news.iter().take(LINES_PER_LOOK_MAX) {
        output::note(&format!("{elapsed}  {}", line(component)));
    }
    if let Some(more @ 1..) = news.len().checked_sub(LINES_PER_LOOK_MAX) {
        output::note(&format!(
            "{elapsed}  … and {more} more: {} of {} components are as wanted",
            of(|progress| matches!(progress, Progress::Done)),
            status.components.len()
        ));
    }
    underway
}

/// `hello  updating  2/5  compiling …`: over all nodes.
fn line(component: &ComponentView) -> String {
    let (healthy, wanted) = everywhere::count(component);
    let why = component
        .waiting_on
        .first()
        .map_or_else(String::new, |waiting| format!("  {}", waiting.message));
    format!(
        "{:<16} {} {healthy}/{wanted}{why}",
        component.name,
        state(everywhere::state(component)),
    )
}

/// A state as a coloured word; the word alone says it all.
pub(crate) fn state(state: ComponentState) -> String {
    match state {
        ComponentState::Healthy => output::green("healthy"),
        ComponentState::Starting => output::yellow("starting"),
        ComponentState::Updating => output::yellow("updating"),
        ComponentState::Degraded => output::yellow("degraded"),
        ComponentState::Draining => output::yellow("draining"),
        ComponentState::Backoff => output::red_plain("backoff"),
        ComponentState::Failed => output::red_plain("failed"),
        ComponentState::Idle => "idle".to_owned(),
        ComponentState::Running => output::green("running"),
        ComponentState::Scheduled => output::green("scheduled"),
        ComponentState::Done => output::green("done"),
    }
}

fn progress(component: &ComponentView) -> Progress {
    let gave_up = |component: &ComponentView| {
        let mut codes = component.waiting_on.iter().map(|waiting| &waiting.code);
        codes.any(|code| code == "failed")
    };
    // Also where the version before came back: what was asked for does not run.
    let mut codes = component.waiting_on.iter().map(|waiting| &waiting.code);
    if codes.any(|code| code == ROLLOUT_FAILED) {
        return Progress::Failed;
    }
    // An old revision serves while the new one failed for good.
    if component.state == ComponentState::Updating && gave_up(component) {
        return Progress::Failed;
    }
    if component.state == ComponentState::Healthy && component.old > 0 {
        return Progress::Underway;
    }
    progress_of(component.state)
}

/// By the state alone, as another node says it.
const fn progress_of(state: ComponentState) -> Progress {
    match state {
        ComponentState::Healthy
        | ComponentState::Idle
        | ComponentState::Running
        | ComponentState::Scheduled
        | ComponentState::Done => Progress::Done,
        ComponentState::Failed => Progress::Failed,
        ComponentState::Starting
        | ComponentState::Updating
        | ComponentState::Degraded
        | ComponentState::Draining
        | ComponentState::Backoff => Progress::Underway,
    }
}

fn failed(status: &StatusView) -> Vec<ComponentView> {
    let failed = |component: &&ComponentView| matches!(progress(component), Progress::Failed);
    status.components.iter().filter(failed).cloned().collect()
}

/// What the end of the time finds: of a component that failed for good nobody waits for more, whatever else
/// is on its way.
fn out_of_time(status: &StatusView, others: &Others) -> Failure {
    let failed = failed(status);
    let is_late = |component: &&ComponentView| matches!(progress(component), Progress::Underway);
    let late: Vec<_> = status.components.iter().filter(is_late).cloned().collect();
    let is_final = !failed.is_empty() || !others.failed.is_empty();
    let what = match (failed.is_empty(), late.is_empty()) {
        (false, false) => format!(
            "{} failed; {} not ready in time",
            named(&failed),
            named(&late)
        ),
        (false, true) => format!("{} failed", named(&failed)),
        (true, false) => format!("{} not ready in time", named(&late)),
        (true, true) if is_final => {
            "on other nodes components failed or are not ready in time".to_owned()
        }
        (true, true) => "on other nodes components are not ready in time".to_owned(),
    };
    let goes_on = match is_final {
        true => "the agents go on trying what has not failed: `realm status --watch`",
        false => "the agents go on trying: watch `realm status --watch`",
    };
    // What failed is told first, and of it what to do.
    let all = [failed, late].concat();
    let advised = advice(&all, &others.failed).or_else(|| advice(&all, &others.underway));
    let hint = match advised {
        Some(advised) => format!("{advised}; {goes_on}"),
        None if is_final => format!("{}; {goes_on}", what_to_do(&all)),
        None => goes_on.to_owned(),
    };
    others
        .add_underway(others.add_failed(because(what, &all)))
        .hint(hint)
}

fn not_running(components: &[ComponentView], what: &str) -> Failure {
    if components.is_empty() {
        return Failure::new("not-running", format!("on other nodes components are {what}"))
            .hint("`realm status` says what each node waits on; `realm --node NODE logs COMPONENT` shows what it wrote there");
    }
    because(format!("{} {what}", named(components)), components).hint(what_to_do(components))
}

/// `not-running`, with what the first of these wait on.
fn because(message: String, components: &[ComponentView]) -> Failure {
    let waiting = components.iter().take(NAMED_MAX).flat_map(|component| {
        let waiting = component.waiting_on.iter();
        waiting.map(|waiting| format!("{}: {}", component.name, waiting.message))
    });
    waiting.fold(Failure::new("not-running", message), Failure::cause)
}

/// The names of components, as an error has room for them.
fn named(components: &[ComponentView]) -> String {
    let (named, more) = components.split_at(components.len().min(NAMED_MAX));
    let names: Vec<String> = named
        .iter()
        .map(|component| format!("`{}`", component.name))
        .collect();
    match more.len() {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// What the first reason says that to do about it: of these components here, or in these lines about others.
fn advice(components: &[ComponentView], lines: &[String]) -> Option<String> {
    let here = components.iter().find_map(|component| {
        let mut reasons = component.waiting_on.iter();
        let advice = reasons.find_map(|waiting| failure_hint(&waiting.message))?;
        Some(format!("of `{}`: {advice}", component.name))
    });
    here.or_else(|| {
        let mut lines = lines.iter();
        lines.find_map(|line| failure_hint(line)).map(str::to_owned)
    })
}

/// What to do about the first of them about which a reason says that; else where to look.
fn what_to_do(components: &[ComponentView]) -> String {
    let advised = components.iter().find_map(|component| {
        let mut reasons = component.waiting_on.iter();
        let advice = reasons.find_map(|waiting| failure_hint(&waiting.message))?;
        Some((&component.name, advice))
    });
    match (advised, components) {
        (Some((name, advice)), [_]) => {
            format!("{advice}; `realm explain {name}` says where it runs")
        }
        (Some((name, advice)), _) => {
            format!("of `{name}`: {advice}; `realm explain NAME` says it of each")
        }
        (None, [one, ..]) => {
            let name = &one.name;
            format!(
                "`realm logs {name}` shows what it wrote; `realm explain {name}` says why it waits"
            )
        }
        (None, []) => "`realm status` says what each waits on".to_owned(),
    }
}
