//! What a replica does, in one of its forms, and the executor's half about schedules.

use std::sync::Arc;

use realm_edge::{Backend as _, Upstream};
use realm_host::Working;
use realm_model::name::ComponentName;
use realm_model::observed::Handled;
use tokio::task::AbortHandle;

use super::{Executor, World};
use crate::backend::LocalBackend;
use crate::upstream::Service;

/// What a replica does. Cheap to clone.
#[derive(Clone)]
pub(super) enum Work {
    /// Answers requests with instances, and takes what triggers bring.
    Answers(Arc<LocalBackend>, Option<Arc<Working>>),
    /// Is a server to which requests are passed on.
    Serves(Arc<Upstream>),
    /// Is a service beside realm to which requests are passed on.
    Passes(Service),
    /// Runs on without requests.
    Runs,
    /// Runs to its end.
    Job(AbortHandle),
}

/// Times of a schedule that were not run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unrun {
    /// Because a run was under way.
    pub(crate) overlapped: u64,
    /// Because they were too long ago.
    pub(crate) missed: u64,
}

impl Work {
    /// Where requests go.
    pub(super) fn backend(&self) -> Option<Arc<dyn realm_edge::Backend>> {
        match self {
            Self::Answers(backend, _) => Some(Arc::clone(backend) as Arc<dyn realm_edge::Backend>),
            Self::Serves(upstream) => Some(Arc::clone(upstream) as Arc<dyn realm_edge::Backend>),
            Self::Passes(service) => Some(service.backend()),
            Self::Runs | Self::Job(_) => None,
        }
    }

    /// What a drain waits for: requests, or the end of a job.
    pub(super) fn in_flight(&self) -> u32 {
        match self {
            Self::Answers(backend, working) => {
                let taken = working.as_ref().map_or(0, |working| working.under_way());
                backend.0.in_flight().max(taken)
            }
            Self::Serves(upstream) => upstream.load(),
            Self::Passes(service) => service.backend().load(),
            Self::Runs => 0,
            Self::Job(run) => u32::from(!run.is_finished()),
        }
    }

    /// What is taken by itself is taken no more; what is under way goes on to its end, and what has none
    /// is given one.
    pub(super) fn take_no_more(&self) {
        match self {
            Self::Answers(_, Some(working)) => working.take_no_more(),
            Self::Serves(upstream) => upstream.leave(),
            Self::Passes(service) => service.leave(),
            Self::Answers(_, None) | Self::Runs | Self::Job(_) => {}
        }
    }

    /// Whether a program runs by itself.
    pub(super) const fn runs(&self) -> bool {
        match self {
            Self::Answers(..) | Self::Passes(_) => false,
            Self::Serves(_) | Self::Runs | Self::Job(_) => true,
        }
    }
}

impl Executor {
    /// Writes down how far a schedule is dealt with, before anything is run for it.
    pub(super) fn handle(
        &mut self,
        component: ComponentName,
        handled: Handled,
        unrun: Unrun,
        world: &mut World<'_>,
    ) {
        let Unrun { overlapped, missed } = unrun;
        if overlapped + missed > 0 {
            tracing::warn!(%component, overlapped, missed, "times of a schedule were not run");
            let sum = self.unrun.entry(component.clone()).or_default();
            sum.overlapped += overlapped;
            sum.missed += missed;
        }
        self.jobs.handled(&component, &handled);
        world.observed.schedules.insert(component, handled);
    }
}
