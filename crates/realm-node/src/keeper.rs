//! The node keeps the compiled files that the host maps: it vouches for them, and is told when one
//! is lost.
//!
//! Not what follows from a loss: that is the loop's.

use std::path::Path;

use realm_host::Keeper;
use tokio::sync::mpsc;

use crate::compile::is_sound;
use crate::event::Event;

/// Tells the loop.
#[derive(Debug)]
pub(crate) struct CompiledFiles(pub(crate) mpsc::Sender<Event>);

impl Keeper for CompiledFiles {
    fn is_sound(&self, compiled: &Path) -> std::io::Result<bool> {
        is_sound(compiled)
    }

    fn lost(&self, compiled: &Path) {
        // A loop with more to do than it can hear of is told again by the next request.
        let _ = self.0.try_send(Event::Lost(compiled.to_owned()));
    }
}
