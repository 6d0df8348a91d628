//! What the operator hears of a backend, beside what guests get as errors.

/// Told when a backend goes away and when it is back.
///
/// Guests read that it is unavailable; the cause, with addresses in it and never with a password, is for
/// who runs the node.
pub trait Watch: Send + Sync {
    /// It cannot be reached, or does not let this node in. Told once until it is back or the cause
    /// changes.
    fn down(&self, why: &str);

    /// It is there again.
    fn up(&self);
}

/// Nobody listens.
impl Watch for () {
    fn down(&self, _: &str) {}

    fn up(&self) {}
}
