//! `realm rollback`: what was before, signed anew.

use std::process::ExitCode;

use realm_model::name::ComponentName;

use crate::context::Context;
use crate::failure::Failure;
use crate::past::Past;
use crate::{output, progress, sign};

/// Go back to what ran before, or to how requests were divided
///
/// A component runs again with the bytes and the settings of the version before, or of `--to`: one
/// replica follows the other, as for any version. Of an app whose requests are divided
/// (`weights`), the requests are divided as they were before. Both are entries in the signed chain.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The component or the app
    component: ComponentName,

    /// The version to go back to; absent: the one before
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,

    /// Only list what there is to go back to
    #[arg(long)]
    list: bool,

    #[command(flatten)]
    of: sign::Of,

    #[command(flatten)]
    wait: progress::Wait,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        let client = context.client().await?;
        let past = Past::fetch(&client, &args.of, &args.component).await?;
        if args.list {
            return list(context, &past);
        }
        if past.is_divided() && args.to.is_none() {
            let before = past
                .divisions()
                .and_then(|(now, mut before)| before.find(|one| one != now));
            let Some(before) = before else {
                let message = format!("the requests of `{}` were never divided otherwise", past.name);
                return Err(Failure::new("nothing-before", message)
                    .hint("`realm promote APP@LABEL` divides them"));
            };
            return past.divide(context, &client, &before, &args.wait).await;
        }
        let (now, mut before) = past.versions()?;
        let to = match args.to {
            None => before.find(|one| one.entry != now.entry && !one.failed),
            Some(version) => before.find(|one| one.version == version),
        };
        let Some(to) = to.cloned() else {
            let message = match args.to {
                None => format!("nothing is remembered of `{}` from before", past.name),
                Some(version) => format!("version {version} brought nothing to `{}`", past.name),
            };
            return Err(Failure::new("nothing-before", message).hint(
                "`realm rollback --list COMPONENT` shows what there is; `realm apply` takes any manifest",
            ));
        };
        past.go_back(context, &client, &to, &args.wait).await
    })
}

fn list(context: &Context, past: &Past) -> Result<ExitCode, Failure> {
    if context.json() {
        output::json(past.history())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some((now, before)) = past.divisions() {
        output::data(&format!("now     {}", crate::past::in_words(now)));
        for division in before {
            output::data(&format!("before  {}", crate::past::in_words(&division)));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (now, before) = past.versions()?;
    output::data(&format!("now     version {}  {}", now.version, now.digest));
    for one in before {
        output::data(&format!("before  version {}  {}", one.version, one.digest));
    }
    Ok(ExitCode::SUCCESS)
}
