//! Tells what a simulated node does: the time, each plan's actions, and in brackets what each
//! component waits on. Everything takes 100 ms unless the story says otherwise.

use std::fmt::Write as _;

use realm_model::action::{Action, Plan};
use realm_model::entry::Body;
use realm_model::observed::{Millis, ReplicaId, ReplicaState};
use realm_model::route::Route;

use crate::sim::World;
use crate::testing::plan_alone;
use crate::testing::{Realm, node_name};

pub(super) struct Story {
    pub(super) realm: Realm,
    pub(super) world: World,
    pub(super) text: String,
}

impl Story {
    pub(super) fn begin() -> Self {
        Self {
            realm: Realm::of_one_node(),
            world: World::new(0),
            text: String::new(),
        }
    }

    pub(super) fn apply(&mut self, manifest: &str, builds: &[(&str, &str)]) {
        self.realm.apply(manifest, builds);
        self.learn();
    }

    pub(super) fn submit(&mut self, body: Body) {
        self.realm.submit(body).expect("an admissible entry");
        self.learn();
    }

    /// Puts replicas into a state by hand.
    pub(super) fn are(&mut self, replicas: &[ReplicaId], state: &ReplicaState) {
        let states = replicas.iter().map(|id| (id.clone(), state.clone()));
        self.world.observed.replicas.extend(states);
    }

    fn learn(&mut self) {
        self.world.learn(self.realm.ledger.desired());
    }

    /// Lets everything come to rest without a word.
    pub(super) fn skip(&mut self) {
        self.told();
        self.text.clear();
    }

    pub(super) fn told(&mut self) -> &str {
        self.tell(Millis(u64::MAX));
        assert_eq!(self.world.violations, Vec::<String>::new());
        &self.text
    }

    pub(super) fn tell(&mut self, until: Millis) {
        while self.world.now < until {
            loop {
                let (desired, authority) =
                    (self.realm.ledger.desired(), self.realm.ledger.authority());
                let (observed, now) = (&self.world.observed, self.world.now);
                let plan = plan_alone(desired, authority, &node_name("here"), observed, now);
                if plan.actions.is_empty() {
                    self.world.look_at = plan.look_at;
                    self.tell_end(&plan);
                    break;
                }
                self.tell_plan(&plan);
                self.world.execute(&plan);
            }
            if !self.world.advance() {
                break;
            }
        }
    }

    fn tell_plan(&mut self, plan: &Plan) {
        let time = self.world.now.0;
        writeln!(self.text, "{time} ms").expect("a String");
        for action in &plan.actions {
            let line = self.action(action);
            writeln!(self.text, "  {line}").expect("a String");
        }
        self.tell_reports(plan);
    }

    /// A plan without actions is told if somebody waits for what nothing here brings about.
    fn tell_end(&mut self, plan: &Plan) {
        let starting = plan.reports.iter().flat_map(|report| &report.waiting_on);
        let waits = starting
            .into_iter()
            .any(|waiting| waiting.code == "failed" || waiting.code == "backoff");
        if waits {
            let time = self.world.now.0;
            writeln!(self.text, "{time} ms").expect("a String");
            self.tell_reports(plan);
        }
    }

    fn tell_reports(&mut self, plan: &Plan) {
        for report in &plan.reports {
            let (name, healthy, wanted) = (&report.component, report.healthy, report.wanted);
            for waiting in &report.waiting_on {
                writeln!(
                    self.text,
                    "  [{name} {healthy} of {wanted}: {}]",
                    waiting.message
                )
                .expect("a String");
            }
        }
    }

    fn action(&self, action: &Action) -> String {
        match action {
            Action::Fetch { pin, .. } => format!("fetch {:?}", pin.digest),
            Action::Compile(artifact) => {
                let fuel = if artifact.fuel { " with fuel" } else { "" };
                format!("compile {:?}{fuel}", artifact.digest)
            }
            Action::Start(id) => format!("start {}", self.replica(id)),
            Action::Drain { replica, grace_ms } => {
                format!("drain {} for at most {grace_ms} ms", self.replica(replica))
            }
            Action::Stop(id) => format!("stop {}", self.replica(id)),
            Action::Handle {
                component,
                handled,
                overlapped,
                missed,
            } => {
                let until = handled.until_unix_ms;
                format!(
                    "handle {component} until {until} ms: {overlapped} overlapped, {missed} missed"
                )
            }
            Action::Route(table) => {
                let route = |route: &Route| {
                    let backends = route.answering().find_map(|name| table.backends.get(name));
                    let backends: Vec<String> = backends
                        .into_iter()
                        .flatten()
                        .map(|id| self.replica(id))
                        .collect();
                    let backends = if backends.is_empty() {
                        "503".to_owned()
                    } else {
                        backends.join(", ")
                    };
                    format!("{} → {backends}", route.path)
                };
                let routes: Vec<String> = table.routes.iter().map(route).collect();
                format!("route {}", routes.join("; "))
            }
        }
    }

    fn replica(&self, id: &ReplicaId) -> String {
        let desired = self.realm.ledger.desired();
        let version = desired.version_of(&id.component, &node_name("here"), id.revision);
        let version = version.map_or("?".to_owned(), |version| version.to_string());
        format!("{}/{} v{version}", id.component, id.slot)
    }
}
