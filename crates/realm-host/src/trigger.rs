//! What calls a component beside requests: an event is handed to a fresh instance, whose word says
//! whether it is dealt with.
//!
//! The same limits, grants and accounts as for requests. Not here: where events come from, and what is
//! done with one that was not dealt with (`worker`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_model::cloud::workflows::{End, Run};
use realm_model::cloud::{Change, KeyValue, Message, Messaging};
use realm_model::text::one_line;
use tokio::sync::oneshot;
use wasmtime::Result;
use wasmtime::component::InstancePre;

use crate::body::EndOnDrop;
use crate::cloud::{Kept, Opened, Watcher, messaging, workflows};
use crate::guest;
use crate::inspect::{is_message_handler, is_watcher, is_workflow_handler};
use crate::interfaces::Name;
use crate::invocation::{Wall, drive, said, settle};
use crate::outcome::{CallError, Outcome};
use crate::replica::{Invocation, Kind, Replica};
use crate::state::State;
use crate::term::Term;

/// Characters of what a guest says of an event that it could not deal with.
const WHY_CHARS_MAX: usize = 512;

/// What happened.
#[derive(Clone)]
pub(crate) enum Event {
    /// A message came; a reply to it goes back to where it came from.
    Message(Message, Arc<dyn Messaging>),
    /// A key changed, in this bucket.
    Change(Change, Opened<dyn KeyValue>),
    /// A run of a workflow is due.
    Run(Arc<dyn Run>),
}

/// What a guest says of an event that it saw to its end.
pub(crate) enum Said {
    /// It is dealt with.
    Done,
    /// It is not: why.
    Refused(String),
    /// How a call of a run ended.
    Ended(End),
}

/// The handlers of events that a component exports.
#[derive(Default)]
pub(crate) struct Handlers {
    pub(crate) messages: Option<messaging::Handler<State>>,
    pub(crate) changes: Option<Watcher>,
    pub(crate) workflows: Option<workflows::Handler<State>>,
}

impl Handlers {
    /// By the names of what it exports.
    pub(crate) fn find(exports: &[String], instance: &InstancePre<State>) -> Result<Self> {
        let first = |test: fn(&Name<'_>) -> bool| {
            let mut names = exports.iter().filter_map(|name| Name::parse(name));
            names.find(test)
        };
        let mut handlers = Self::default();
        if first(is_message_handler).is_some() {
            handlers.messages = Some(messaging::Handler::new(instance.clone())?);
        }
        if let Some(name) = first(is_watcher) {
            handlers.changes = Some(Watcher::new(name.version, instance.clone())?);
        }
        if first(is_workflow_handler).is_some() {
            handlers.workflows = Some(workflows::Handler::new(instance.clone())?);
        }
        Ok(handlers)
    }

    pub(crate) const fn are_none(&self) -> bool {
        self.messages.is_none() && self.changes.is_none() && self.workflows.is_none()
    }
}

/// Why an event is not dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undone {
    /// There was no room; the guest did not see it.
    NoRoom,
    /// The replica was ended from outside.
    Stopped,
    /// The guest says so.
    Refused(String),
    /// The guest came to another end.
    Failed(CallError),
}

impl From<Outcome> for Undone {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Overloaded => Self::NoRoom,
            Outcome::Stopped => Self::Stopped,
            Outcome::Ok
            | Outcome::Cancelled
            | Outcome::MemoryLimit
            | Outcome::EpochTimeout
            | Outcome::WallTimeout
            | Outcome::Trap
            | Outcome::Exit
            | Outcome::NoResponse
            | Outcome::GuestError
            | Outcome::BadResponse
            | Outcome::BadRequest
            | Outcome::RequestTooLarge
            | Outcome::RequestTimeout
            | Outcome::ResponseTooLarge
            | Outcome::StartFailed => Self::Failed(outcome.into()),
        }
    }
}

impl Undone {
    /// For who looks at dead letters, and for the log.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::NoRoom => CallError::from(Outcome::Overloaded).message,
            Self::Stopped => CallError::from(Outcome::Stopped).message,
            Self::Refused(words) => format!("the guest says: {words}"),
            Self::Failed(error) => format!("{}: {}", error.code, error.message),
        }
    }
}

impl Replica {
    /// Hands an event to a fresh instance. Dropping the future ends the guest.
    pub(crate) async fn deliver(&self, event: Event) -> std::result::Result<(), Undone> {
        match self.call_with(event).await? {
            Said::Done | Said::Ended(_) => Ok(()),
            Said::Refused(words) => Err(Undone::Refused(words)),
        }
    }

    /// The same, for who wants to know what the guest says.
    pub(crate) async fn call_with(&self, event: Event) -> std::result::Result<Said, Undone> {
        let limits = &self.0.component.settings.limits;
        let deadline = Instant::now() + Duration::from_millis(limits.wall_timeout_ms);
        if self.0.term.as_ref().is_some_and(Term::is_over) {
            return Err(Undone::Stopped);
        }
        let Some((admitted, _)) = self.0.enter().await else {
            return Err(Undone::NoRoom);
        };
        let invocation = Invocation::begin(&self.0, Kind::Request, admitted);
        let shared = Arc::clone(&invocation.shared);
        let (sender, receiver) = oneshot::channel();
        let task = tokio::spawn({
            let host = self.0.component.host.clone();
            let at_once = self.0.habit.is_heavy();
            let shared = Arc::clone(&shared);
            let term = self.0.term.clone();
            async move {
                let call = async move {
                    let answer = to_the_end(&invocation, event).await;
                    // First: who asked finds it counted.
                    drop(invocation);
                    if let Some(answer) = answer {
                        let _ = sender.send(answer);
                    }
                };
                let wall = Wall::of_a_request(deadline, &host);
                drive(shared, wall, &host, at_once, Box::pin(call), term).await;
            }
        });
        let _end = EndOnDrop::new(Some(task.abort_handle()), Arc::clone(&shared));
        match said(receiver, task, &shared).await {
            Some(said) => Ok(said),
            None => Err(shared.failure().unwrap_or(Outcome::StartFailed).into()),
        }
    }
}

/// `None`: it came to no answer, and the outcome says why.
async fn to_the_end(invocation: &Invocation, event: Event) -> Option<Said> {
    if let Some(bucket) = &invocation.replica.bucket {
        settle(bucket, &invocation.replica.component.settings.meter).await;
    }
    match handled(invocation, event).await {
        Ok(said) => {
            let outcome = match &said {
                Said::Done | Said::Ended(End::Done(_) | End::Suspended) => Outcome::Ok,
                Said::Refused(_) | Said::Ended(End::Failed(_) | End::Rejected(_)) => {
                    Outcome::GuestError
                }
            };
            invocation.shared.conclude(outcome);
            Some(said)
        }
        Err(error) => {
            guest::conclude(invocation, Err(error));
            None
        }
    }
}

async fn handled(invocation: &Invocation, event: Event) -> Result<Said> {
    let loaded = guest::loaded(invocation).await?;
    let mut store = guest::store(invocation, None)?;
    let store = &mut *store;
    let began = Instant::now();
    match event {
        Event::Message(message, from) => {
            let Some(handler) = &loaded.handlers.messages else {
                return Err(wasmtime::format_err!("it exports no handler of messages"));
            };
            let handler = handler.instantiate_async(&mut *store).await?;
            guest::started(invocation, began);
            let held = messaging::Held::delivered(message, from);
            let held = store.data_mut().messaging().table.push(held)?;
            let handler = handler.wasi_messaging_incoming_handler();
            let answer = handler.call_handle(&mut *store, held).await?;
            Ok(match answer {
                Ok(()) => Said::Done,
                Err(error) => Said::Refused(one_line(&messaging::words(&error), WHY_CHARS_MAX)),
            })
        }
        Event::Change(change, opened) => {
            let Some(watcher) = &loaded.handlers.changes else {
                return Err(wasmtime::format_err!("it exports no handler of changes"));
            };
            let called = watcher.instantiate(store).await?;
            guest::started(invocation, began);
            called.call(store, opened, change).await?;
            Ok(Said::Done)
        }
        Event::Run(run) => {
            let Some(handler) = &loaded.handlers.workflows else {
                return Err(wasmtime::format_err!("it exports no handler of workflows"));
            };
            let n_bytes = usize::try_from(run.facts().n_bytes).unwrap_or(usize::MAX);
            let Ok(kept) = Kept::new(&store.data().cloud, n_bytes) else {
                // Others of its component have it all at this moment.
                invocation.shared.conclude(Outcome::Overloaded);
                return Err(wasmtime::format_err!("the host keeps enough for others"));
            };
            let handler = handler.instantiate_async(&mut *store).await?;
            guest::started(invocation, began);
            let held = workflows::Held::new(run, kept);
            let held = store.data_mut().keys().table.push(held)?;
            let handler = handler.realm_cloud_workflow_handler();
            let answer = handler.call_handle(&mut *store, held).await?;
            Ok(Said::Ended(workflows::ended(answer)))
        }
    }
}
