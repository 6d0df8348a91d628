//! `realm promote`: the requests of an app to one of its versions, or a share of them.

use std::process::ExitCode;

use realm_model::name::ComponentName;
use realm_model::why::ExplainView;

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::past::{Division, Past};
use crate::{progress, sign};

/// What the weights of a division add up to: thousandths, so that shares of a percent add up.
const WHOLE: u32 = 1_000;

/// Give a version of an app the requests, or a share of them
///
/// `realm promote orders@green` sends every request of `orders` to its version `green`; with
/// `--percent 10` one of ten, and the other versions share the rest as before. No replica starts or
/// stops: those that get nothing wait, so that `realm rollback orders` takes effect at once. It is an
/// entry in the signed chain, and holds until the `weights` in the manifest are changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The version, as `APP@LABEL`
    #[arg(value_name = "APP@LABEL")]
    component: ComponentName,

    /// How many of a hundred requests it gets
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100))]
    percent: u32,

    /// Promote it although it does not run everywhere where it shall
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    of: sign::Of,

    #[command(flatten)]
    wait: progress::Wait,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let version = &args.component;
    if version.label().is_none() {
        let message = format!("`{version}` names no version");
        let hint =
            format!("write `realm promote {version}@LABEL`; `realm status` lists the versions");
        return Err(Failure::new("usage", message).hint(hint).exit(exit::USAGE));
    }
    let app: ComponentName = version
        .app()
        .parse()
        .map_err(|error| Failure::from_error("usage", &error))?;
    context.block_on(async {
        let client = context.client().await?;
        let past = Past::fetch(&client, &args.of, &app).await?;
        let known = past.divisions().map(|(now, _)| now);
        let Some(now) = known.filter(|now| now.contains_key(version)) else {
            let message = format!("no route divides the requests of `{app}` with `{version}`");
            return Err(Failure::new("unknown-name", message)
                .hint("a route has `weights = { blue = 100, green = 0 }` for that"));
        };
        if !args.force && args.percent > 0 {
            check_runs(&client.explain(version).await?)?;
        }
        let division = promoted(now, version, args.percent);
        past.divide(context, &client, &division, &args.wait).await
    })
}

/// The version gets so many of a hundred, and the others share the rest as before: equally, if they had
/// nothing.
fn promoted(now: &Division, version: &ComponentName, percent: u32) -> Division {
    let others = || now.iter().filter(|(name, _)| *name != version);
    let before: u32 = others().map(|(_, weight)| *weight).sum();
    let count = u32::try_from(others().count()).unwrap_or(u32::MAX);
    // Alone it has everything, whatever is asked.
    let own = if count == 0 {
        WHOLE
    } else {
        percent * (WHOLE / 100)
    };
    let rest = WHOLE - own;
    let mut division = Division::from([(version.clone(), own)]);
    let (mut seen, mut given) = (0, 0);
    for (name, weight) in others() {
        seen += if before == 0 { 1 } else { *weight };
        let until = rest * seen / if before == 0 { count } else { before };
        division.insert(name.clone(), until - given);
        given = until;
    }
    division
}

/// Refuses a version that could not take the requests.
fn check_runs(view: &ExplainView) -> Result<(), Failure> {
    let ExplainView {
        component,
        wanted,
        current,
        ..
    } = view;
    if *wanted > 0 && current >= wanted {
        return Ok(());
    }
    let message = format!("`{component}` runs with {current} of {wanted} replicas");
    let hint = format!(
        "`realm explain {component}` says what it waits for; `--force` promotes it all the same"
    );
    Err(Failure::new("not-running", message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn division(weights: &[(&str, u32)]) -> Division {
        let weights = weights.iter();
        let named = weights.map(|(label, weight)| (format!("a@{label}"), *weight));
        named
            .map(|(name, weight)| (name.parse().expect("a name"), weight))
            .collect()
    }

    #[track_caller]
    fn check(now: &[(&str, u32)], percent: u32, expected: &[(&str, u32)]) {
        let green = "a@green".parse().expect("a name");
        assert_eq!(
            promoted(&division(now), &green, percent),
            division(expected)
        );
    }

    #[test]
    fn the_others_share_what_is_left_as_before() {
        check(
            &[("blue", 100), ("green", 0)],
            100,
            &[("blue", 0), ("green", 1_000)],
        );
        check(
            &[("blue", 100), ("green", 0)],
            10,
            &[("blue", 900), ("green", 100)],
        );
        check(
            &[("blue", 0), ("green", 7)],
            25,
            &[("blue", 750), ("green", 250)],
        );
        check(
            &[("blue", 2), ("green", 0), ("red", 1)],
            1,
            &[("blue", 660), ("green", 10), ("red", 330)],
        );
        check(
            &[("blue", 0), ("green", 1), ("red", 0)],
            50,
            &[("blue", 250), ("green", 500), ("red", 250)],
        );
        check(&[("green", 3)], 5, &[("green", 1_000)]);
        check(
            &[("blue", 1), ("green", 1)],
            0,
            &[("blue", 1_000), ("green", 0)],
        );
    }
}
