//! The loop and what this node says of itself: signs its record anew when there is something to say.
//!
//! What it says of its components follows from a plan, which looks at each of them. Between two plans
//! nothing of that changes, so that the figures that are told every few seconds cost no such look: what
//! is idle costs no time. When it is said is paced elsewhere (`network::pacing`).

use realm_control::sync::Input;
use realm_model::record::{Alarm, Load, Machine};

use super::Core;
use crate::machine::serving_threads;
use crate::network::{Facts, OfComponents, Tells};

impl Core {
    /// Signs and publishes this node's record, if there is something to say.
    pub(super) fn say(&mut self) {
        let now = self.now();
        let due = self
            .network
            .as_ref()
            .is_some_and(|network| network.record_due() <= now);
        if !due || !self.is_approved() || self.stale {
            return;
        }
        let of_components = self.told.take().unwrap_or_else(|| {
            let plan = self.plan();
            OfComponents::of(&self.status_of(&plan), &plan.reports)
        });
        let figures = self.machine.figures();
        let load = Load {
            cpu_percent: figures.cpu_percent as u32,
            memory_mb: figures.memory_used_bytes >> 20,
            instances: self.executor.load(),
        };
        let blobs = self.held();
        let facts = Facts {
            ledger: &self.ledger,
            refusals: &self.refusals,
            components: &of_components,
            machine: Machine {
                os: std::env::consts::OS.to_owned(),
                arch: std::env::consts::ARCH.to_owned(),
                cpus: u32::try_from(serving_threads()).unwrap_or(u32::MAX),
                memory_mb: figures.memory_total_bytes >> 20,
            },
            load,
            blobs,
            tags: &self.tags,
            leases: &self.holding.output,
            ports: self.doors.troubles(),
            own_alarms: self.own_alarms(),
            sealing: &self.sealing,
        };
        let record = self
            .network
            .as_mut()
            .and_then(|network| network.record(&facts, now));
        self.told = Some(of_components);
        match record {
            Some((Tells::News, bytes)) => self.feed(Input::OwnRecord(bytes)),
            Some((Tells::Figures, bytes)) => self.feed(Input::OwnFigures(bytes)),
            None => {}
        }
    }

    /// What else does not mend itself here.
    pub(super) fn own_alarms(&self) -> Vec<Alarm> {
        let certificates = self.certificates.iter().flat_map(|all| all.alarms());
        certificates
            .chain(self.shelf.alarms())
            .chain(self.disk_alarm())
            .collect()
    }
}
