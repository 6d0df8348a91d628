//! What stores have in common: a file in the folder of their binding, or a server that is asked for one.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use realm_backends::{Access, OpenError, ServerError};

use super::Making;
use crate::event::StepFailure;

/// How often it is tried to open a file that the last user of it is about to close, and how long after.
const TRIES: usize = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Opens a file of a binding; its folder is made if it must.
pub(super) fn open<T>(
    making: &Making<'_>,
    file: &str,
    open: impl Fn(&Path) -> Result<T, OpenError>,
) -> Result<T, StepFailure> {
    let path = making.folder.join(file);
    let mut folder = DirBuilder::new();
    folder.recursive(true).mode(0o700);
    let made = folder.create(&making.folder);
    let opened = made.map_err(|source| OpenError::Io {
        path: path.clone(),
        source,
    });
    let mut opened = opened.and_then(|()| open(&path));
    for _ in 0..TRIES {
        if !matches!(opened, Err(OpenError::Locked { .. })) {
            break;
        }
        std::thread::sleep(BETWEEN_TRIES);
        opened = open(&path);
    }
    opened.map_err(|error| {
        let why = std::error::Error::source(&error).map_or(String::new(), |why| format!(": {why}"));
        StepFailure {
            code: error.code().to_owned(),
            reason: format!("binding `{}`: {error}{why}", making.binding),
            // Somebody may put a copy back, or end who else has it.
            permanent: false,
        }
    })
}

/// `mark` stands between the name of a binding and the names of its keys.
pub(super) fn access(making: &Making<'_>, mark: &str) -> Result<Access, StepFailure> {
    let (user, password) = making.login()?;
    Ok(Access {
        user,
        password,
        authorities: making.policy.ca_file.as_ref().map(Into::into),
        prefix: making.prefix(mark),
    })
}

pub(super) fn not_a_server(making: &Making<'_>, error: &ServerError) -> StepFailure {
    let why = std::error::Error::source(error).map_or(String::new(), |why| format!(": {why}"));
    StepFailure {
        code: "backend-unusable".to_owned(),
        reason: format!("binding `{}`: {error}{why}", making.binding),
        permanent: true,
    }
}
