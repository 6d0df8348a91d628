//! Shared by the tests: a realm whose owner signs whatever a test wants signed, and manifests
//! from few words.

use realm_model::action::Plan;
use realm_model::beacon::Beacon;
use realm_model::digest::Digest;
use realm_model::entry::{
    ApproveNode, Body, ChainId, Delegate, Fence, Head, ManifestBody, NamespaceName, Payload,
    PushBody, RestartBody, RevokeNode, RollbackBody, SetBeacon, VerifiedEntry, WeighBody, Weight,
    found_realm,
};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::lock::{Lock, Pin};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Millis, Observed};
use realm_model::refusal::Refusal;

use crate::around::Around;
use crate::authority::Authority;
use crate::desired::Desired;
use crate::ledger::{Ledger, Logs};
use crate::plan::plan;

/// A realm with one owner; entries are signed for the place that the ledger has for them.
#[derive(Clone)]
pub(crate) struct Realm {
    pub(crate) ledger: Ledger,
    pub(crate) owner: SecretKey,
    pub(crate) genesis: Vec<u8>,
    /// Every admitted entry in order.
    pub(crate) entries: Vec<(ChainId, Vec<u8>)>,
}

impl Realm {
    pub(crate) fn found() -> Self {
        let owner = key("owner");
        let (realm, genesis) = found_realm(&owner, [7; 32], 0);
        let first = VerifiedEntry::genesis(&genesis, Some(realm)).expect("a genesis");
        Self {
            ledger: Ledger::found(first),
            owner,
            genesis,
            entries: Vec::new(),
        }
    }

    /// A realm with the approved node `here`.
    pub(crate) fn of_one_node() -> Self {
        let mut realm = Self::found();
        realm.submit(approval("here", &[])).expect("an approval");
        realm
    }

    pub(crate) fn payload(&self, body: Body) -> Payload {
        let head = self.ledger.head(chain_of(&body));
        Payload {
            seq: head.seq + 1,
            prev: head.hash,
            authority: self.ledger.head(ChainId::Authority),
            created_unix_s: 0,
            body,
        }
    }

    pub(crate) fn sign(&self, payload: &Payload) -> (ChainId, Vec<u8>) {
        let chain = chain_of(&payload.body);
        let bytes = payload.sign(self.ledger.realm(), chain, &self.owner);
        (chain, bytes)
    }

    pub(crate) fn submit(&mut self, body: Body) -> Result<Head, Refusal> {
        let (chain, bytes) = self.sign(&self.payload(body));
        self.take(chain, bytes)
    }

    pub(crate) fn take(&mut self, chain: ChainId, bytes: Vec<u8>) -> Result<Head, Refusal> {
        let checked = self.ledger.check(chain, &bytes, None);
        let admitted = checked.map_err(|error| error.refusal())?;
        let head = admitted.entry().head();
        let applied = self.ledger.apply(admitted);
        self.entries.push((chain, bytes));
        if applied.rebuild {
            self.replay();
        }
        Ok(head)
    }

    /// The next payload of any chain.
    pub(crate) fn payload_in(&self, chain: ChainId, body: Body) -> Payload {
        let head = self.ledger.head(chain);
        Payload {
            seq: head.seq + 1,
            prev: head.hash,
            authority: self.ledger.head(ChainId::Authority),
            created_unix_s: 0,
            body,
        }
    }

    /// The bytes of an entry, signed by all of these.
    pub(crate) fn signed(&self, chain: ChainId, payload: &Payload, keys: &[&SecretKey]) -> Vec<u8> {
        let id = self.ledger.realm();
        let message = payload.message(id, chain);
        let signatures: Vec<_> = keys
            .iter()
            .map(|key| (key.public(), key.sign(&message)))
            .collect();
        payload.with_signatures(id, chain, &signatures)
    }

    /// Signs what comes next on a chain, and takes it.
    pub(crate) fn submit_by(
        &mut self,
        keys: &[&SecretKey],
        chain: ChainId,
        body: Body,
    ) -> Result<Head, Refusal> {
        let bytes = self.signed(chain, &self.payload_in(chain, body), keys);
        self.take(chain, bytes)
    }

    /// Where a namespace stands here.
    pub(crate) fn fence(&self, name: NamespaceName) -> Fence {
        let head = self.ledger.head(ChainId::Namespace(name));
        Fence {
            namespace: name,
            base: head,
            head,
        }
    }

    /// Takes a manifest into a namespace; the version is the next one there.
    pub(crate) fn apply_in(
        &mut self,
        name: NamespaceName,
        signer: &SecretKey,
        manifest: &str,
        builds: &[(&str, &str)],
    ) -> Result<Head, Refusal> {
        let states = &self.ledger.desired().namespaces;
        let version = states.get(&name).map_or(0, |state| state.version) + 1;
        let body = manifest_body(manifest, version, builds);
        self.submit_by(&[signer], ChainId::Namespace(name), body)
    }

    /// A beacon with the heads that are here.
    pub(crate) fn beacon(&self, counter: u64) -> Vec<u8> {
        let heads = self.ledger.heads().into_iter();
        let heads = heads.map(|(chain, head)| head.of(chain)).collect();
        Beacon::sign(self.ledger.realm(), &key("beacon"), counter, 0, heads)
    }

    /// Folds the log anew, as a node does after a restart.
    pub(crate) fn replay(&mut self) {
        let marks = self.ledger.chains();
        let marks = marks
            .map(|chain| (chain, self.ledger.in_force(chain)))
            .collect();
        let replayed = Ledger::replay(&self.records(), &marks);
        self.ledger = replayed.expect("what was admitted").ledger;
    }

    /// The logs.
    pub(crate) fn records(&self) -> Logs {
        let mut records: Logs = [(ChainId::Authority, vec![self.genesis.clone()])].into();
        for (chain, bytes) in &self.entries {
            records.entry(*chain).or_default().push(bytes.clone());
        }
        records
    }

    /// Applies a manifest with the builds named; the version is the next one.
    pub(crate) fn apply(&mut self, manifest: &str, builds: &[(&str, &str)]) {
        let version = self.ledger.desired().version + 1;
        let body = manifest_body(manifest, version, builds);
        self.submit(body).expect("an admissible manifest");
    }

    /// Divides the requests of `orders` between its versions.
    pub(crate) fn weigh(&mut self, weights: &[(&str, u32)]) -> Result<Head, Refusal> {
        let weights = weights.iter().map(|(component, weight)| Weight {
            component: component_name(component),
            weight: *weight,
        });
        self.submit(Body::Weigh(WeighBody {
            app: component_name("orders"),
            weights: weights.collect(),
        }))
    }

    /// A rollback of a component to what an entry brought, with a build.
    pub(crate) fn roll_back(
        &mut self,
        component: &str,
        to: u64,
        build: &str,
    ) -> Result<Head, Refusal> {
        let lock = self.push_body(component, build).lock;
        self.submit(Body::Rollback(RollbackBody {
            component: component_name(component),
            to,
            lock,
        }))
    }

    /// A push of another build on top of what is in force.
    pub(crate) fn push_body(&self, component: &str, build: &str) -> PushBody {
        let desired = self.ledger.desired();
        let mut lock = Lock::clone(&desired.lock);
        lock.version += 1;
        lock.components
            .insert(component_name(component), pin(build));
        let manifest = desired.manifest_text.as_deref().unwrap_or_default();
        PushBody {
            component: component_name(component),
            manifest: Digest::of(manifest.as_bytes()),
            lock: lock.to_text(),
        }
    }
}

/// What the only node that anybody knows of plans.
pub(crate) fn plan_alone(
    desired: &Desired,
    authority: &Authority,
    node: &NodeName,
    observed: &Observed,
    now: Millis,
) -> Plan {
    let around = Around::alone(desired, authority);
    plan(desired, authority, node, observed, &around, now)
}

pub(crate) fn chain_of(body: &Body) -> ChainId {
    body.chain(NamespaceName::DEFAULT)
}

pub(crate) fn manifest_body(manifest: &str, version: u64, builds: &[(&str, &str)]) -> Body {
    Body::Manifest(ManifestBody {
        manifest: manifest.to_owned(),
        lock: lock(version, builds).to_text(),
    })
}

pub(crate) fn lock(version: u64, builds: &[(&str, &str)]) -> Lock {
    let components = builds
        .iter()
        .map(|(component, build)| (component_name(component), pin(build)))
        .collect();
    Lock {
        version,
        components,
    }
}

/// The pin of a component whose bytes are the name of its build.
pub(crate) fn pin(build: &str) -> Pin {
    Pin {
        digest: Digest::of(build.as_bytes()),
        size: build.len() as u64,
    }
}

pub(crate) fn approval(node: &str, tags: &[&str]) -> Body {
    approval_of(node, node_key(node), tags)
}

pub(crate) fn approval_of(node: &str, key: PublicKey, tags: &[&str]) -> Body {
    Body::ApproveNode(ApproveNode {
        key,
        name: node_name(node),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    })
}

/// The key `beacon` signs beacons.
pub(crate) fn beacon_rule(every_s: u32) -> Body {
    Body::SetBeacon(SetBeacon {
        name: namespace("watch"),
        every_s,
        key: Some(node_key("beacon")),
    })
}

pub(crate) fn revocation(node: &str) -> Body {
    Body::RevokeNode(RevokeNode {
        key: node_key(node),
    })
}

pub(crate) fn restart(component: &str, nodes: &[&str]) -> Body {
    Body::Restart(RestartBody {
        component: component_name(component),
        nodes: nodes.iter().map(|node| node_name(node)).collect(),
    })
}

pub(crate) fn node_key(node: &str) -> PublicKey {
    key(node).public()
}

pub(crate) fn key(of: &str) -> SecretKey {
    SecretKey::from_seed(Digest::of(of.as_bytes()).as_bytes())
}

pub(crate) fn node_name(name: &str) -> NodeName {
    name.parse().expect("a node name")
}

pub(crate) fn component_name(name: &str) -> ComponentName {
    name.parse().expect("a component name")
}

pub(crate) fn namespace(name: &str) -> NamespaceName {
    name.parse().expect("a namespace")
}

/// A delegation of a new namespace, of which everything is within the scope.
pub(crate) fn delegation(name: &str, key: PublicKey) -> Delegate {
    Delegate {
        namespace: namespace(name),
        key,
        apps: vec!["*".to_owned()],
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
