//! What backends tell the operator: that they are down, and why; that they are back.

/// Hears how a backend does. Called from the backend's own tasks: it must not block.
pub trait Watch: Send + Sync {
    /// It cannot be used. Said again where the reason changes.
    fn down(&self, why: &str);

    /// It can be used again.
    fn up(&self);

    /// A message was delivered as often as it may be, and is dead.
    fn dead(&self, topic: &str, group: &str, n_deliveries: u32, why: &str) {
        let _ = (topic, group, n_deliveries, why);
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn down(&self, _why: &str) {}

    fn up(&self) {}
}
