//! The loop asked why: everything about one component, and what would run where with another manifest.
//! Changes nothing.

use realm_control::losses::Losses;
use realm_control::place::{Asked, Why};
use realm_control::{Authority, Desired, Ledger, Looked, check_files, explain, proposed};
use realm_model::api::AskPlacement;
use realm_model::lock::Lock;
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::Millis;
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::text::nearest;
use realm_model::why::{ExplainView, PlacementView};

use super::Core;
use super::around::is_gone;
use crate::unix_ms;

/// There is no such component; perhaps another one was meant.
#[derive(Debug)]
pub(crate) struct Unknown {
    pub(crate) nearest: Option<ComponentName>,
}

/// What a placement follows from, as it is at one moment: it is made apart from the loop, since a large
/// realm has a large one.
pub(crate) struct Prospect {
    node: NodeName,
    desired: Desired,
    authority: Authority,
    losses: Losses,
    now: Millis,
}

impl Core {
    /// Everything about one component at once.
    pub(super) fn explained(&self, component: &ComponentName) -> Result<ExplainView, Unknown> {
        let (desired, authority) = (self.ledger.desired(), self.ledger.authority());
        let (losses, now) = (&self.surroundings.losses, self.now());
        let asked = Asked {
            desired,
            authority,
            gone: &|node, wait_ms| is_gone(losses, &self.node, node, wait_ms, now),
            away: &|node| losses.away(node, now),
            unix_s: unix_ms() / 1_000,
        };
        let explained = Why::of(asked).and_then(|why| why.explain(component));
        let Some(explained) = explained else {
            return Err(unknown(desired, component));
        };
        let plan = self.plan();
        let mut status = self.status_of(&plan);
        self.add_others(&mut status);
        let looked = Looked {
            desired,
            authority,
            status: &status,
            reports: &plan.reports,
            records: self.network.as_ref().map(|network| network.sync.records()),
        };
        explain(component, &explained, &looked).ok_or_else(|| unknown(desired, component))
    }

    /// What a placement follows from at this moment.
    pub(super) fn prospect(&self) -> Prospect {
        Prospect {
            node: self.node.clone(),
            desired: self.ledger.desired().clone(),
            authority: self.ledger.authority().clone(),
            losses: self.surroundings.losses.clone(),
            now: self.now(),
        }
    }
}

impl Prospect {
    /// By the log alone: nobody is away.
    pub(crate) fn offline(ledger: &Ledger, node: NodeName) -> Self {
        Self {
            node,
            desired: ledger.desired().clone(),
            authority: ledger.authority().clone(),
            losses: Losses::default(),
            now: Millis(0),
        }
    }

    /// What would run where.
    pub(crate) fn placement(&self, asked: &AskPlacement) -> Result<PlacementView, Refusal> {
        let (manifest, problems) = realm_model::manifest::parse(&asked.manifest);
        let Some(manifest) = manifest else {
            let first = problems.first();
            let why = first.map_or_else(String::new, |problem| problem.message.clone());
            return Err(Refusal::new(RefusalCode::InvalidManifest, why));
        };
        let lock = Lock::parse(&asked.lock)
            .map_err(|error| Refusal::new(RefusalCode::InvalidLock, error.to_string()))?;
        check_files(&manifest, &lock, &self.authority.owners)?;
        let (namespace, seq) = (asked.namespace, self.authority.head.seq);
        let next = self.desired.with(namespace, manifest, lock, seq);
        let now = Asked {
            desired: &self.desired,
            authority: &self.authority,
            gone: &|node, wait_ms| is_gone(&self.losses, &self.node, node, wait_ms, self.now),
            away: &|node| self.losses.away(node, self.now),
            unix_s: unix_ms() / 1_000,
        };
        Ok(proposed(&now, &next, namespace, &self.node))
    }
}

fn unknown(desired: &Desired, component: &ComponentName) -> Unknown {
    let manifest = desired.manifest.as_deref();
    let known = manifest.into_iter().flat_map(|one| one.components.keys());
    let near = nearest(component.as_str(), known.map(ComponentName::as_str));
    Unknown {
        nearest: near.and_then(|name| name.parse().ok()),
    }
}
