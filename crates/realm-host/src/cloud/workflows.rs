//! `realm:cloud/workflows@0.1.0`: runs that guests start, watch and signal, and the run that one is called
//! with. Not here: what calls the handler of a run (`trigger`), and what becomes of it (`running`).

use std::sync::Arc;
use std::time::Duration;

use realm_model::cloud::workflows::{End, New, Phase as ModelPhase, Run as ModelRun, RunState};
use realm_model::cloud::workflows::{Heard as ModelHeard, Slept as ModelSlept};
use realm_model::cloud::{CloudError, WorkflowError, Workflows, workflows as model};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource};

use super::keys::View;
use super::{Cloud, Kept, Opened};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/realm-cloud/workflows.wit",
        world: "realm:cloud/workflow-service",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "realm:cloud/workflows.flows": super::Flows,
            "realm:cloud/workflows.run": super::Held,
        },
    });
}

use generated::exports::realm::cloud::workflow_handler::Outcome;
use generated::realm::cloud::workflows::{
    self, Error, Heard, Page, Phase, Slept, State as RunStanding, Status, Summary,
};

pub(crate) use generated::WorkflowServicePre as Handler;

/// The runs of a binding, as a guest opened them.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Flows(Opened<dyn Workflows>);

/// The run that a handler is called with.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Held {
    run: Arc<dyn ModelRun>,
    /// Its input and its journal.
    kept: Kept,
}

impl Held {
    pub(crate) const fn new(run: Arc<dyn ModelRun>, kept: Kept) -> Self {
        Self { run, kept }
    }
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    workflows::add_to_linker::<_, Has>(linker, State::keys)
}

/// What a handler says of a run.
pub(crate) fn ended(answer: Result<Vec<u8>, Outcome>) -> End {
    match answer {
        Ok(output) => End::Done(output),
        Err(Outcome::Suspended) => End::Suspended,
        Err(Outcome::Failed(why)) => End::Failed(format!("the guest says: {why}")),
        Err(Outcome::Rejected(why)) => End::Rejected(format!("the guest says: {why}")),
    }
}

/// What a guest reads of an error.
fn said(error: WorkflowError) -> Error {
    let error = match error {
        WorkflowError::Nowhere => return Error::Nowhere,
        WorkflowError::Lost => return Error::Lost,
        WorkflowError::Cloud(error) => error,
    };
    let words = error.to_string();
    match error {
        CloudError::NoSuchStore => Error::NoSuchBinding,
        CloudError::Quota(_) => Error::Quota(words),
        CloudError::Full(_) => Error::Full(words),
        CloudError::Timeout => Error::Timeout,
        CloudError::TooLarge { .. } | CloudError::Invalid(_) => Error::Invalid(words),
        CloudError::AccessDenied
        | CloudError::NotFound(_)
        | CloudError::Unsupported(_)
        | CloudError::Unavailable
        | CloudError::Failed(_) => Error::Unavailable(words),
    }
}

fn phase(phase: ModelPhase) -> Phase {
    match phase {
        ModelPhase::Ready => Phase::Ready,
        ModelPhase::Running => Phase::Running,
        ModelPhase::Waiting => Phase::Waiting,
        ModelPhase::Done => Phase::Done,
        ModelPhase::Failed => Phase::Failed,
        ModelPhase::Cancelled => Phase::Cancelled,
    }
}

fn status(status: model::RunStatus) -> Status {
    Status {
        workflow: status.workflow,
        state: match status.state {
            RunState::Ready => RunStanding::Ready,
            RunState::Running => RunStanding::Running,
            RunState::Waiting => RunStanding::Waiting,
            RunState::Done(output) => RunStanding::Done(output),
            RunState::Failed(why) => RunStanding::Failed(why),
            RunState::Cancelled => RunStanding::Cancelled,
        },
        failures: status.n_failures,
        last_failure: status.last_failure,
        started_ms: status.started_ms,
        changed_ms: status.changed_ms,
        next_ms: status.next_ms,
    }
}

fn page(page: model::RunPage) -> Page {
    let summary = |run: model::RunSummary| Summary {
        id: run.id,
        workflow: run.workflow,
        phase: phase(run.phase),
        started_ms: run.started_ms,
        changed_ms: run.changed_ms,
    };
    Page {
        runs: page.runs.into_iter().map(summary).collect(),
        cursor: page.cursor,
    }
}

impl View<'_> {
    /// One operation.
    fn flows(&self, flows: &Resource<Flows>) -> Result<Result<Arc<dyn Workflows>, WorkflowError>> {
        let store = Arc::clone(&self.table.get(flows)?.0.store);
        Ok(self.cloud.charge().map(|()| store).map_err(Into::into))
    }
}

impl workflows::Host for View<'_> {}

impl workflows::HostFlows for View<'_> {
    async fn open(&mut self, name: String) -> Result<Result<Resource<Flows>, Error>> {
        match self.cloud.workflows(&name) {
            Ok(opened) => Ok(Ok(self.table.push(Flows(opened))?)),
            Err(error) => Ok(Err(said(error.into()))),
        }
    }

    async fn start(
        &mut self,
        flows: Resource<Flows>,
        workflow: String,
        id: String,
        input: Vec<u8>,
    ) -> Result<Result<bool, Error>> {
        let flows = self.flows(&flows)?;
        let started = async {
            let _kept = Kept::new(self.cloud, input.len())?;
            let new = New {
                workflow: &workflow,
                id: &id,
                input: &input,
                bytes_max: self.cloud.bytes_max(),
            };
            flows?.start(new).await
        };
        Ok(started.await.map_err(said))
    }

    async fn get(
        &mut self,
        flows: Resource<Flows>,
        id: String,
    ) -> Result<Result<Option<Status>, Error>> {
        let found = match self.flows(&flows)? {
            Ok(flows) => flows.status(&id).await,
            Err(error) => Err(error),
        };
        Ok(found.map(|found| found.map(status)).map_err(said))
    }

    async fn signal(
        &mut self,
        flows: Resource<Flows>,
        id: String,
        name: String,
        data: Vec<u8>,
    ) -> Result<Result<bool, Error>> {
        let flows = self.flows(&flows)?;
        let left = async {
            let _kept = Kept::new(self.cloud, data.len())?;
            let bytes_max = self.cloud.bytes_max();
            flows?.signal(&id, &name, &data, bytes_max).await
        };
        Ok(left.await.map_err(said))
    }

    async fn cancel(&mut self, flows: Resource<Flows>, id: String) -> Result<Result<bool, Error>> {
        let cancelled = match self.flows(&flows)? {
            Ok(flows) => flows.cancel(&id).await,
            Err(error) => Err(error),
        };
        Ok(cancelled.map_err(said))
    }

    async fn list(
        &mut self,
        flows: Resource<Flows>,
        cursor: Option<String>,
    ) -> Result<Result<Page, Error>> {
        let listed = match self.flows(&flows)? {
            Ok(flows) => flows.list(cursor.as_deref()).await,
            Err(error) => Err(error),
        };
        Ok(listed.map(page).map_err(said))
    }

    async fn drop(&mut self, flows: Resource<Flows>) -> Result<()> {
        self.table.delete(flows)?;
        Ok(())
    }
}

/// What is in the journal costs nothing: a run of a thousand steps asks for all of them in each call.
async fn charged(cloud: &Cloud, run: &dyn ModelRun, name: &str) -> Result<(), WorkflowError> {
    if !run.knows(name).await? {
        cloud.charge()?;
    }
    Ok(())
}

impl workflows::HostRun for View<'_> {
    async fn workflow(&mut self, run: Resource<Held>) -> Result<String> {
        Ok(self.table.get(&run)?.run.facts().workflow.clone())
    }

    async fn id(&mut self, run: Resource<Held>) -> Result<String> {
        Ok(self.table.get(&run)?.run.facts().id.clone())
    }

    async fn input(&mut self, run: Resource<Held>) -> Result<Vec<u8>> {
        Ok(self.table.get(&run)?.run.facts().input.clone())
    }

    async fn failures(&mut self, run: Resource<Held>) -> Result<u32> {
        Ok(self.table.get(&run)?.run.facts().n_failures)
    }

    async fn step(
        &mut self,
        run: Resource<Held>,
        name: String,
    ) -> Result<Result<Option<Vec<u8>>, Error>> {
        let run = Arc::clone(&self.table.get(&run)?.run);
        Ok(run.step(&name).await.map_err(said))
    }

    async fn done(
        &mut self,
        run: Resource<Held>,
        name: String,
        result: Vec<u8>,
    ) -> Result<Result<(), Error>> {
        let held = self.table.get_mut(&run)?;
        let written = async {
            self.cloud.charge()?;
            held.kept.more(name.len())?;
            let _kept = Kept::new(self.cloud, result.len())?;
            held.run.done(&name, &result).await
        };
        Ok(written.await.map_err(said))
    }

    async fn sleep(
        &mut self,
        run: Resource<Held>,
        name: String,
        for_ms: u64,
    ) -> Result<Result<Slept, Error>> {
        let run = Arc::clone(&self.table.get(&run)?.run);
        let slept = async {
            charged(self.cloud, &*run, &name).await?;
            run.sleep(&name, Duration::from_millis(for_ms)).await
        };
        let slept = slept.await.map(|slept| match slept {
            ModelSlept::Over => Slept::Over,
            ModelSlept::Suspend => Slept::Suspend,
        });
        Ok(slept.map_err(said))
    }

    async fn wait_for(
        &mut self,
        run: Resource<Held>,
        name: String,
        signal: String,
        for_ms: Option<u64>,
    ) -> Result<Result<Heard, Error>> {
        let run = Arc::clone(&self.table.get(&run)?.run);
        let heard = async {
            charged(self.cloud, &*run, &name).await?;
            let time = for_ms.map(Duration::from_millis);
            run.wait_for(&name, &signal, time).await
        };
        let heard = heard.await.map(|heard| match heard {
            ModelHeard::Signal(data) => Heard::Signal(data),
            ModelHeard::TimedOut => Heard::TimedOut,
            ModelHeard::Suspend => Heard::Suspend,
        });
        Ok(heard.map_err(said))
    }

    async fn drop(&mut self, run: Resource<Held>) -> Result<()> {
        self.table.delete(run)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_meets_others_of_its_component_is_one_to_say_again() {
        let stores = Arc::default();
        let instance = || Cloud::new("guest".parse().unwrap(), Arc::clone(&stores), None, 0);
        let all = || Kept::new(&instance(), 40 * 1024 * 1024);
        let others: Vec<Kept> = std::iter::from_fn(|| all().ok()).collect();
        assert!(others.len() > 1);
        let error = all().map(drop).unwrap_err();
        assert!(matches!(said(error.into()), Error::Unavailable(_)));
    }
}
