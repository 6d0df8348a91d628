//! What blocks a thread (a person at a prompt, scrypt on purpose), away from the one that waits for
//! signals.

use crate::failure::Failure;

/// Runs `work` on a thread of its own. Who stops waiting leaves it behind: the runtime must not
/// wait for it at its end.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Failure::from_error("internal", &error)),
    }
}
