//! Questions to a person: only on a terminal, and each has a flag instead.

use std::io::{IsTerminal as _, Write as _};

use crate::failure::{Failure, exit};
use crate::{blocking, output};

/// Asks `question`; `yes` answers for the person. Without a terminal and without `yes` it fails.
pub(crate) async fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(
            Failure::new("confirmation-needed", "there is no terminal to ask on")
                .hint("add `--yes`")
                .exit(exit::USAGE),
        );
    }
    let mut stderr = anstream::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let answer = blocking::run(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.await?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    output::note("nothing was changed");
    Err(Failure::new("declined", "you said no"))
}
