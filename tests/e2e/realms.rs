//! Several agents of one realm, each with a folder and ports of its own, on loopback or on a small
//! network of namespaces ([`crate::lab`]). Machinery alone; the tests are in the modules beside it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use realm_model::entry::{Body, ChainId, Delegate, Payload};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::view::{ComponentState, NodeView, ReachState, StatusView};

use crate::lab::{Disk, Lab};
use crate::support::{Agent, Realm, Running, Said, eventually, get, said};

/// The agents of a realm; the first has the owner's key.
pub(crate) struct Realms {
    pub(crate) nodes: Vec<Node>,
    // Goes after the agents in it.
    pub(crate) lab: Option<Lab>,
}

/// One node: its folder outlives its agent.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) realm: Realm,
    agent: Option<Agent>,
    /// How its programs are run, and where it meets others.
    enter: Vec<String>,
    pub(crate) p2p: String,
}

impl Realms {
    /// Agents on loopback, approved and connected with each other.
    pub(crate) async fn meet(names: &[&'static str]) -> Self {
        Self::in_lab(None, names, "").await
    }

    /// The same in a lab, with more lines in each `node.toml`.
    pub(crate) async fn in_lab(lab: Option<Lab>, names: &[&'static str], more: &str) -> Self {
        let realms = Self::apart(lab, names, more).await;
        realms.all_meet().await;
        realms
    }

    /// The same before they have met.
    pub(crate) async fn apart(lab: Option<Lab>, names: &[&'static str], more: &str) -> Self {
        let nodes = names.iter().enumerate();
        let nodes = nodes.map(|(at, name)| Node::new(name, lab.as_ref().map(|lab| (lab, at))));
        let nodes = nodes.collect();
        Self::begin(lab, nodes, more).await
    }

    /// Agents of several builds on loopback: names, and the programs they are.
    pub(crate) async fn of_builds(nodes: &[(&'static str, &Path)]) -> Self {
        let nodes = nodes.iter().map(|(name, program)| {
            let mut node = Node::new(name, None);
            node.realm.by(program);
            node
        });
        Self::begin(None, nodes.collect(), "").await
    }

    /// Agents on machines that each have a clock of their own, with more lines in each `node.toml`.
    pub(crate) async fn on_own_clocks(names: &[&'static str], more: &str) -> Self {
        let nodes = names.iter().map(|name| {
            let mut node = Node::new(name, None);
            node.on_own_clock("+0");
            node
        });
        let realms = Self::begin(None, nodes.collect(), more).await;
        realms.all_meet().await;
        realms
    }

    async fn begin(lab: Option<Lab>, nodes: Vec<Node>, more: &str) -> Self {
        let mut realms = Self { nodes, lab };
        let first = &mut realms.nodes[0];
        first.run(&["init", "--name", first.name]).ok();
        first.node_toml(more);
        first.start();
        let first = &realms.nodes[0];
        eventually("it listens to others", async || {
            let invitation = first.realm.client().invitation().await.unwrap();
            (invitation.addresses.len() >= 2).then_some(())
        })
        .await;
        for at in 1..realms.nodes.len() {
            realms.invite(at);
            realms.approve(at, &[]);
            realms.nodes[at].node_toml(more);
            realms.nodes[at].start();
        }
        realms
    }

    /// One more node, with nothing in its folder.
    pub(crate) fn add(&mut self, name: &'static str) {
        self.nodes.push(Node::new(name, None));
    }

    pub(crate) fn first(&self) -> &Node {
        &self.nodes[0]
    }

    /// A ticket of the first node.
    pub(crate) fn ticket(&self) -> String {
        let ticket = self.first().run(&["invite"]).ok().stdout;
        ticket.trim().to_owned()
    }

    /// Makes the folder of a node that asks to join; its agent is not started.
    pub(crate) fn invite(&self, at: usize) {
        let (node, ticket) = (&self.nodes[at], self.ticket());
        node.run(&["join", &ticket, "--name", node.name]).ok();
    }

    /// Approves a node by its key, before it has asked.
    pub(crate) fn approve(&self, at: usize, more: &[&str]) {
        let key = self.nodes[at].key().public().to_string();
        let name = self.nodes[at].name;
        let args = ["nodes", "approve", &key, "--name", name, "--yes"];
        self.first().run(&[&args, more].concat()).ok();
    }

    /// A verb on a node's agent, with the owner's key of the first node.
    pub(crate) fn as_owner(&self, at: usize, args: &[&str]) -> Said {
        let key = self.first().realm.path(".realm/owner.key");
        let key = ["--key", key.to_str().unwrap()];
        self.nodes[at].run(&[&key, args].concat())
    }

    /// Nodes whose agents run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.agent.is_some())
    }

    /// Waits until every running node is connected with every other, and all are in step.
    pub(crate) async fn all_meet(&self) {
        let names: Vec<&str> = self.running().map(|node| node.name).collect();
        for node in self.running() {
            let what = format!("{} meets all of {names:?}", node.name);
            eventually(&what, async || node.meets(&names).await.then_some(())).await;
        }
    }

    /// Applies a manifest on the first node, from its folder.
    pub(crate) fn apply(&self, manifest: &str) {
        self.first().realm.write("realm.toml", manifest);
        self.first().run(&["apply", "--yes"]).ok();
    }

    /// Waits until every running node says of itself that these run there, and nothing else.
    pub(crate) async fn run_there(&self, wanted: &[(&str, &str)]) {
        for node in self.running() {
            let mut here: Vec<&str> = wanted
                .iter()
                .filter(|(_, at)| *at == node.name)
                .map(|(name, _)| *name)
                .collect();
            here.sort_unstable();
            let what = format!("{here:?} on {}", node.name);
            eventually(&what, async || (node.healthy().await == here).then_some(())).await;
        }
    }

    /// Waits until the running nodes have the same heads; returns the time that it took.
    pub(crate) async fn converge(&self) -> Duration {
        let began = Instant::now();
        eventually("all nodes have the same heads", async || {
            let mut heads = Vec::new();
            for node in self.running() {
                let now = node.realm.heads().await;
                heads.push((now.authority, now.default));
            }
            heads
                .windows(2)
                .all(|pair| pair[0] == pair[1])
                .then_some(())
        })
        .await;
        began.elapsed()
    }
}

impl Node {
    fn new(name: &'static str, place: Option<(&Lab, usize)>) -> Self {
        Self {
            name,
            realm: Realm::empty(),
            agent: None,
            enter: place.map_or_else(Vec::new, |(lab, at)| lab.enter(at)),
            p2p: place.map_or_else(|| "127.0.0.1:0".to_owned(), |(lab, at)| lab.address(at)),
        }
    }

    /// Puts the folder of this node onto a small disk.
    pub(crate) fn on_small_disk(&mut self, size: &str) -> Disk {
        let disk = Disk::over(&self.realm.path(""), size);
        self.realm.see_at(disk.path());
        self.enter = disk.enter();
        disk
    }

    /// Gives this node's machine a clock of its own, as `faketime` spells times (`+1d`, `@1970-01-01 00:00:00`);
    /// how fast it goes, and what counts from the start of the machine, stays as it is.
    pub(crate) fn on_own_clock(&mut self, time: &str) {
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let library = format!("/usr/lib/{triplet}/faketime/libfaketimeMT.so.1");
        assert!(
            Path::new(&library).is_file(),
            "`{library}` is missing: `scripts/setup-test.sh` brings it"
        );
        self.set_clock(time);
        let file = self.realm.path("clock");
        self.enter = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
            "FAKETIME_CACHE_DURATION=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
    }

    /// Sets the clock of a node that has its own: what runs sees that within a second.
    pub(crate) fn set_clock(&self, time: &str) {
        // Never half of it: it is read at any moment.
        self.realm.write("clock.new", &format!("{time}\n"));
        std::fs::rename(self.realm.path("clock.new"), self.realm.path("clock")).unwrap();
    }

    /// A verb of realm in this node's folder, on its machine.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let command = self.realm.command(args);
        let Some((program, rest)) = self.enter.split_first() else {
            return command;
        };
        let mut entered = Command::new(program);
        entered
            .args(rest)
            .arg(command.get_program())
            .args(command.get_args());
        entered.current_dir(command.get_current_dir().unwrap());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        entered.stdin(std::process::Stdio::null());
        entered
    }

    /// Runs a verb to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        said(self.command(args))
    }

    /// Adds lines to this node's `node.toml`.
    pub(crate) fn node_toml(&self, more: &str) {
        if !more.is_empty() {
            let path = ".realm/node.toml";
            let before = std::fs::read_to_string(self.realm.path(path)).unwrap_or_default();
            self.realm.write(path, &format!("{before}\n{more}"));
        }
    }

    /// What starts the agent.
    pub(crate) fn agent_command(&self) -> Command {
        let p2p = ["--p2p", self.p2p.as_str()];
        let args = ["agent", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        self.command(&[&args[..], &p2p].concat())
    }

    /// The agent as a child process that may not be a node yet.
    pub(crate) fn begin(&self) -> Running {
        Running::start(self.agent_command())
    }

    /// Starts the agent, and waits until it listens.
    pub(crate) fn start(&mut self) {
        let running = self.begin();
        self.runs(running);
    }

    /// Takes an agent that was begun, once it listens.
    pub(crate) fn runs(&mut self, running: Running) {
        assert!(self.agent.is_none(), "one agent per folder");
        self.agent = Some(Agent::of(running));
    }

    pub(crate) const fn is_running(&self) -> bool {
        self.agent.is_some()
    }

    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("the agent runs")
    }

    /// Takes the agent out: it ends when that is dropped.
    pub(crate) fn take(&mut self) -> Agent {
        self.agent.take().expect("the agent runs")
    }

    pub(crate) fn kill_9(&mut self) {
        self.take().kill_9();
    }

    /// The node's key.
    pub(crate) fn key(&self) -> SecretKey {
        let text = self.realm.read(".realm/node.key");
        let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
        SecretKey::from_text(line).unwrap()
    }

    pub(crate) async fn status(&self) -> StatusView {
        self.realm.status().await
    }

    /// Another node as this one sees it.
    pub(crate) async fn sees(&self, name: &str) -> NodeView {
        let nodes = self.status().await.nodes;
        let found = nodes.into_iter().find(|node| node.name.as_str() == name);
        found.unwrap_or_else(|| panic!("{} knows no node `{name}`", self.name))
    }

    /// Whether it is connected with all of these but itself, and all have in force what it has.
    pub(crate) async fn meets(&self, names: &[&str]) -> bool {
        let nodes = self.status().await.nodes;
        names.iter().all(|name| {
            let node = nodes.iter().find(|node| node.name.as_str() == *name);
            node.is_some_and(|node| {
                let in_step = node.said.as_ref().is_some_and(|said| said.in_step);
                match node.reach.state {
                    ReachState::Here => true,
                    ReachState::Direct => in_step,
                    ReachState::Indirect | ReachState::Lost | ReachState::Unknown => false,
                }
            })
        })
    }

    /// Waits until this node sees another in this state; returns the time that it took.
    pub(crate) async fn until_sees(&self, name: &str, state: ReachState) -> Duration {
        let began = Instant::now();
        let what = format!("{} sees {name} as {state:?}", self.name);
        eventually(&what, async || {
            (self.sees(name).await.reach.state == state).then_some(())
        })
        .await;
        began.elapsed()
    }

    /// Components that are wanted here and healthy, by name.
    pub(crate) async fn healthy(&self) -> Vec<String> {
        let components = self.status().await.components.into_iter();
        let mut names: Vec<String> = components
            .filter(|component| component.state == ComponentState::Healthy && component.wanted > 0)
            .map(|component| component.name.to_string())
            .collect();
        names.sort_unstable();
        names
    }

    /// Codes of the alarms that it shows.
    pub(crate) async fn alarms(&self) -> Vec<String> {
        let alarms = self.status().await.alarms;
        alarms.into_iter().map(|alarm| alarm.code).collect()
    }

    /// GETs a path of this node's routes.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        if self.enter.is_empty() {
            return get(&self.agent().url(path)).await;
        }
        let body = said(self.curl(path)).ok().stdout;
        let (body, code) = body.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }

    /// The same as a process of its own, on the node's machine in a lab: the body, and the status in the last line.
    pub(crate) fn curl(&self, path: &str) -> Command {
        let mut words = self.enter.iter().map(String::as_str).chain(["curl"]);
        let mut curl = Command::new(words.next().expect("a program"));
        curl.args(words).args(["-sS", "-w", "\n%{http_code}"]);
        curl.arg(self.agent().url(path));
        curl
    }

    /// The last entry of the default namespace that it has in force.
    pub(crate) async fn head(&self) -> realm_model::entry::Head {
        self.realm.heads().await.default
    }
}

/// A manifest that pins each component (name, file, node) to `/NAME/...` on its node.
pub(crate) fn pinned(components: &[(&str, &str, &str)]) -> String {
    let mut text = String::new();
    for (name, file, _) in components {
        text += &format!("[components.{name}]\nsource = \"file:{file}\"\n\n");
    }
    text += "[routing]\n";
    let mut nodes: Vec<&str> = components.iter().map(|(_, _, node)| *node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    for node in nodes {
        let here = components.iter().filter(|(_, _, at)| *at == node);
        let routes: Vec<String> = here
            .map(|(name, _, _)| format!("{{ path = \"/{name}/...\", component = \"{name}\" }}"))
            .collect();
        text += &format!("\"{node}\" = [{}]\n", routes.join(", "));
    }
    text
}

/// The key file of a key, as the command line reads it.
pub(crate) fn write_key(realm: &Realm, name: &str, key: &SecretKey) {
    use std::os::unix::fs::PermissionsExt as _;
    realm.write(name, &format!("{}\n", key.to_text().as_str()));
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(realm.path(name), mode).unwrap();
}

/// Signs the next entry of a chain with a key, after what `node` has in force.
pub(crate) async fn next_entry(
    node: &Node,
    chain: ChainId,
    key: &SecretKey,
    body: Body,
) -> Vec<u8> {
    next_entry_of(node, chain, &[key], body).await
}

/// The same with a signature of each of these keys.
pub(crate) async fn next_entry_of(
    node: &Node,
    chain: ChainId,
    keys: &[&SecretKey],
    body: Body,
) -> Vec<u8> {
    let heads = node.realm.heads().await;
    let head = match chain {
        ChainId::Authority => heads.authority,
        ChainId::Namespace(_) => heads.default,
    };
    let payload = Payload {
        seq: head.seq + 1,
        prev: head.hash,
        authority: heads.authority,
        created_unix_s: 0,
        body,
    };
    let message = payload.message(heads.realm, chain);
    let signatures = keys.iter().map(|key| (key.public(), key.sign(&message)));
    payload.with_signatures(heads.realm, chain, &signatures.collect::<Vec<_>>())
}

/// Puts an entry of the owner into the authority chain.
pub(crate) async fn decree(node: &Node, body: Body) {
    let entry = next_entry(node, ChainId::Authority, &node.realm.owner(), body).await;
    node.realm
        .client()
        .submit(ChainId::Authority, entry)
        .await
        .unwrap();
}

/// A delegation to a key: to a reader without more.
pub(crate) fn delegation(namespace: &str, key: PublicKey) -> Delegate {
    Delegate {
        namespace: namespace.parse().unwrap(),
        key,
        apps: Vec::new(),
        hosts: Vec::new(),
        tags: Vec::new(),
        capabilities: Vec::new(),
        may_exec: false,
        may_approve: false,
        fences: Vec::new(),
        replicas_max: None,
        not_after_unix_s: None,
    }
}
