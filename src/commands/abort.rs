//! `realm abort`: ends what is in the middle, and goes back to what was before it.

use std::process::ExitCode;

use realm_model::name::ComponentName;
use realm_model::record::ROLLOUT_FAILED;
use realm_model::why::ExplainView;

use crate::context::Context;
use crate::failure::Failure;
use crate::past::{Past, answering};
use crate::{progress, sign};

/// End a rollout or a promotion that is in the middle, and go back
///
/// Of an app whose requests are divided between several versions, the one that had them all before
/// gets them again. Of a component whose new version is on its way, or stands still because it
/// failed, the version before comes back. What has come to its end is left alone:
/// `realm rollback` undoes that.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The component or the app
    component: ComponentName,

    #[command(flatten)]
    of: sign::Of,

    #[command(flatten)]
    wait: progress::Wait,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        let client = context.client().await?;
        let past = Past::fetch(&client, &args.of, &args.component).await?;
        if let Some((now, mut before)) = past.divisions() {
            if answering(now) == 1 {
                return Err(nothing(&past, "one version has every request"));
            }
            let Some(before) = before.find(|one| answering(one) == 1) else {
                return Err(nothing(&past, "no version had every request before")
                    .hint("`realm promote APP@LABEL` gives them to one"));
            };
            return past.divide(context, &client, &before, &args.wait).await;
        }
        let (now, mut before) = past.versions()?;
        if !is_underway(&client.explain(&past.name).await?) {
            return Err(nothing(&past, "its version is healthy everywhere"));
        }
        let Some(to) = before
            .find(|one| one.entry != now.entry && !one.failed)
            .cloned()
        else {
            return Err(nothing(&past, "nothing was before"));
        };
        past.go_back(context, &client, &to, &args.wait).await
    })
}

fn nothing(past: &Past, why: &str) -> Failure {
    let name = &past.name;
    Failure::new(
        "nothing-underway",
        format!("nothing of `{name}` is in the middle: {why}"),
    )
    .hint(format!("`realm rollback {name}` goes back"))
}

/// Whether a version is on its way somewhere, or got stuck: what runs is older, or does not get up.
fn is_underway(view: &ExplainView) -> bool {
    let failed = view
        .reasons
        .iter()
        .any(|one| one.reason.code == ROLLOUT_FAILED);
    failed || view.current < view.wanted
}
