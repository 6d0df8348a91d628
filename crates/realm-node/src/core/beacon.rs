//! The beacon at this node: handed in, kept on the disk, and told when it is missed. Which one is
//! newest, and when it is overdue, is decided in `realm_control`.

use realm_control::sync::Input;
use realm_model::api::BeaconTaken;
use realm_model::record::STALE;
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::view::BeaconView;

use super::Core;

impl Core {
    /// Takes a beacon that somebody hands in here, and tells the others.
    pub(super) fn take_beacon(&mut self, bytes: Vec<u8>) -> Result<BeaconTaken, Refusal> {
        let Some(network) = &self.network else {
            let why = match self.networking {
                true => "this node has only begun to meet the others: try again",
                false => "this node meets no others: nobody would hear a beacon",
            };
            return Err(Refusal::new(RefusalCode::UnknownName, why));
        };
        let judged = network.sync.judge_beacon(&bytes, &self.ledger);
        let mark = judged.map_err(|refusal| self.refuse(refusal))?;
        self.feed(Input::Beacon(bytes));
        Ok(BeaconTaken {
            counter: mark.counter,
        })
    }

    /// The beacon as the status and the heads show it.
    pub(super) fn beacon(&self) -> Option<BeaconView> {
        let state = self.network.as_ref()?.sync.beacon(self.now().0)?;
        Some(BeaconView {
            counter: state.newest.map(|(counter, _)| counter),
            created_unix_s: state.newest.map(|(_, created)| created),
            met: state.met,
            age_s: state.age_ms / 1_000,
            ..view_of(&state.rule)
        })
    }

    /// Tells the log and the others when this node becomes stale, and when it is so no longer.
    pub(super) fn tell_stale(&mut self) {
        let now = self.now();
        let Some(network) = &mut self.network else {
            return;
        };
        let stale = network.is_stale(now);
        if std::mem::replace(&mut network.was_stale, stale) == stale {
            return;
        }
        network.changed(now);
        self.stale = true;
        if stale {
            tracing::warn!(
                code = STALE,
                "the beacon is overdue, or what it names is missing here: somebody may be holding back what is new"
            );
        } else {
            tracing::info!("the beacon is here again");
        }
    }
}

/// What the owners' rule says, of a beacon of which none came.
pub(super) fn view_of(rule: &realm_control::BeaconRule) -> BeaconView {
    BeaconView {
        name: rule.name,
        key: rule.key,
        every_s: rule.every_s,
        counter: None,
        created_unix_s: None,
        met: true,
        age_s: 0,
    }
}
