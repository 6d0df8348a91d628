//! One simulated node among several: what it has, what it knows and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::action::Plan;
use realm_model::entry::ChainId;
use realm_model::name::NodeName;
use realm_model::record::{ComponentSummary, NodeBody};

use super::moves::Moves;
use super::views::Start;
use super::{Kind, leases};
use crate::around::Around;
use crate::losses::Losses;
use crate::sim::World;
use crate::testing::Realm;

/// One node: what it has and what it knows.
pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) world: World,
    /// Which of the signed states it has in force.
    pub(super) version: usize,
    pub(super) losses: Losses,
    pub(super) around: Around,
    /// What was signed, and who was gone, when everything got its place.
    pub(super) placed_by: Option<(usize, Vec<NodeName>)>,
    pub(super) records: BTreeMap<usize, (u64, Arc<NodeBody>)>,
    /// Other node → when it was heard last.
    pub(super) heard: BTreeMap<usize, u64>,
    pub(super) counter: u64,
    pub(super) said: Option<NodeBody>,
    pub(super) is_up: bool,
    pub(super) leases: leases::Own,
    pub(super) start: Start,
    pub(super) moves: Moves,
    /// When it acts although nothing comes.
    pub(super) wakes: BTreeSet<u64>,
}

impl Node {
    pub(super) fn new(name: NodeName, seed: u64, kind: &Kind) -> Self {
        let mut world = World::new(seed);
        world.delay_ms_max = 2_000;
        world.faults.start = kind.start_fails;
        Self {
            name,
            world,
            version: 0,
            losses: Losses::default(),
            around: Around::default(),
            placed_by: None,
            records: BTreeMap::new(),
            heard: BTreeMap::new(),
            counter: 0,
            said: None,
            is_up: true,
            leases: leases::Own::new(seed),
            start: Start::default(),
            moves: Moves::default(),
            wakes: BTreeSet::new(),
        }
    }

    /// What it says of itself.
    pub(super) fn body(&self, realm: &Realm, plan: &Plan) -> NodeBody {
        let mut body = NodeBody::of(self.name.clone());
        let chain = ChainId::DEFAULT;
        body.heads = [ChainId::Authority, chain]
            .map(|chain| realm.ledger.head(chain).of(chain))
            .into();
        body.components = plan
            .reports
            .iter()
            .map(|report| ComponentSummary {
                name: report.component.to_string(),
                namespace: chain.as_str().to_owned(),
                wanted: report.wanted,
                healthy: report.healthy,
                state: String::new(),
                code: String::new(),
                reason: String::new(),
                digest: report.digest,
                serving: Some(report.serving),
                seats: Some(report.seats.clone()),
                failed: Some(report.failed.clone()),
            })
            .collect();
        self.leases.say(&mut body);
        body
    }
}
