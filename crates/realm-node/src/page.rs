//! Gathers what the metrics page shows from where it is counted.

use std::sync::Arc;

use crate::access::Gate;
use crate::machine::Machine;
use crate::metrics::{NodeFigures, Page};
use crate::remote::Sessions;
use crate::stores::Shelf;
use crate::traffic::Traffic;

/// The sources of the page besides the loop; cheap to clone.
#[derive(Clone)]
pub(crate) struct MetricsPage {
    pub(crate) machine: Arc<Machine>,
    pub(crate) traffic: Traffic,
    pub(crate) edge: realm_edge::Handle,
    pub(crate) gate: Arc<Gate>,
    pub(crate) sessions: Sessions,
    pub(crate) shelf: Shelf,
}

impl MetricsPage {
    /// The text of the page; reads the machine, so not for a thread that serves.
    pub(crate) fn text(&self, node: &NodeFigures) -> String {
        let machine = self.machine.figures();
        let (traffic, unrouted) = self.traffic.figures();
        let own = Page {
            node,
            machine: &machine,
            traffic: &traffic,
            unrouted: &unrouted,
            cache: &self.edge.cache_figures(),
            connections: self.edge.connections(),
            resident_bytes: resident_bytes(),
            denied: &self.gate.refusals(),
            sessions: &self.sessions.ended(),
        };
        // What guests measure stands behind: none of its names is one of realm's own.
        own.encode() + &self.shelf.guests_page()
    }
}

/// Resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else {
        return 0;
    };
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}
