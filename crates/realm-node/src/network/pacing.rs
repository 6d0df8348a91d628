//! When this node's record is signed anew: soon after something changed, not for every change of a
//! crowd, and for what moves all the time, seldom. What it says is not decided here.

use realm_model::observed::Millis;
use realm_model::record::{Load, NodeBody};
use realm_net::FULL_MESH_MAX;

/// After a change of substance the others hear of it this late at most, in a realm that is a full mesh:
/// changes come in crowds.
const CHANGED_MS: u64 = 300;
/// For each node of the realm, between two records of one node: what happens to many at once, such as
/// a start of all machines, makes each of them say something else every moment, and what each says
/// goes to all.
const CHANGED_EACH_MS: u64 = 20;
/// However large the realm is.
const CHANGED_MS_MAX: u64 = 5_000;
/// For each node of a realm that is no full mesh, between two records of one node that differ only in
/// the entries that it has, about: every entry changes those of all nodes.
const HEADS_EACH_MS: u64 = 60;
/// The same of a node that runs nothing: nobody waits for its word, and most nodes are such to most
/// entries.
const HEADS_IDLE_EACH_MS: u64 = 150;
/// However large it is.
const HEADS_MS_MAX: u64 = 30_000;
/// After this time figures that move all the time are told anew, in a realm of up to 25 nodes.
const FIGURES_MS: u64 = 15_000;
/// For each node of a larger one, so that no more than some two records per second go round: each
/// comes to every node several times over, with a signature to check each time.
const FIGURES_EACH_MS: u64 = 600;
/// However large it is.
const FIGURES_MS_MAX: u64 = 300_000;

/// What a record tells that is to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tells {
    /// Something of substance.
    News,
    /// What the one before told, and newer figures.
    Figures,
}

/// The record in force, and what may be news beside it.
pub(super) struct Pacing {
    /// What it says, without what moves all the time, and when it was signed.
    said: Option<(NodeBody, Millis)>,
    looked_at: Millis,
    /// Since when there may be something to say, and how long that may wait.
    changed_at: Option<Millis>,
    lag_ms: u64,
    /// How soon after it one may follow that tells of entries alone.
    heads_ms: u64,
    /// When such a record is due.
    heads_at: Option<Millis>,
}

impl Pacing {
    pub(super) const fn new(now: Millis) -> Self {
        Self {
            said: None,
            looked_at: now,
            changed_at: Some(now),
            lag_ms: 0,
            heads_ms: 0,
            heads_at: None,
        }
    }

    /// Notes that there may be something to say.
    pub(super) fn changed(&mut self, now: Millis) {
        self.changed_at.get_or_insert(now);
    }

    /// Nothing that was said counts any more.
    pub(super) fn restart(&mut self) {
        self.said = None;
    }

    /// When the record is looked at again, in a realm of so many nodes.
    pub(super) fn due(&self, members: usize) -> Millis {
        let Some((_, at)) = &self.said else {
            // Before anybody can send an older one of this node: it would look like a stranger's.
            return Millis(0);
        };
        // Where entries wait, the figures go with them.
        let due = self
            .heads_at
            .unwrap_or_else(|| at.plus(figures_ms(members)));
        let Some(since) = self.changed_at else {
            return due;
        };
        // After a while a change is told at once, or with a lag where all have it at one moment; of a
        // crowd not each.
        let next = at.plus(changed_ms(members)).max(since.plus(self.lag_ms));
        due.min(self.looked_at.plus(CHANGED_MS).max(next))
    }

    /// Whether a record with this body is to be signed, and what for; if so, it is what was said.
    pub(super) fn look(
        &mut self,
        body: &NodeBody,
        members: usize,
        random: u64,
        now: Millis,
    ) -> Option<Tells> {
        self.changed_at = None;
        self.looked_at = now;
        let heads_at = self.heads_at.take();
        self.lag_ms = random % (lag_ms_max(members) + 1);
        let news = steady(body);
        let mut tells = Tells::News;
        if let Some((said, at)) = &self.said {
            if news == *said {
                if now.since(*at) < figures_ms(members) {
                    return None;
                }
                tells = Tells::Figures;
            } else if same_but_heads(&news, said) {
                // After a silence each node by a lag of its own as well.
                let lag_ms = match is_idle(body) {
                    true => random % (heads_ms(members, body) / 2 + 1),
                    false => 0,
                };
                let earliest = at.plus(self.heads_ms).max(now.plus(lag_ms));
                let due = heads_at.unwrap_or(earliest);
                if now < due {
                    self.heads_at = Some(due);
                    return None;
                }
            }
        }
        // Each node by a time of its own: else all that spoke of one entry speak at one moment again.
        let heads_ms = heads_ms(members, body);
        self.heads_ms = heads_ms / 2 + random % (heads_ms + 1);
        self.said = Some((news, now));
        Some(tells)
    }
}

/// How soon after a record another one may follow in a realm of so many nodes.
fn changed_ms(members: usize) -> u64 {
    each(members, CHANGED_EACH_MS).clamp(CHANGED_MS, CHANGED_MS_MAX)
}

/// How long a node may keep news to itself in a realm of so many: an entry changes the records of all
/// at one moment, and a hundred records that come with the next entry hold that one up.
fn lag_ms_max(members: usize) -> u64 {
    match members {
        0..=FULL_MESH_MAX => 0,
        _ => changed_ms(members) / 2,
    }
}

/// How soon after a record another one may follow that tells of entries alone, about.
fn heads_ms(members: usize, body: &NodeBody) -> u64 {
    let each_ms = match is_idle(body) {
        true => HEADS_IDLE_EACH_MS,
        false => HEADS_EACH_MS,
    };
    match members {
        0..=FULL_MESH_MAX => 0,
        _ => each(members, each_ms).min(HEADS_MS_MAX),
    }
}

/// Whether nothing of what is wanted concerns this node.
fn is_idle(body: &NodeBody) -> bool {
    body.components.is_empty()
}

/// How often figures are told in a realm of so many nodes.
fn figures_ms(members: usize) -> u64 {
    each(members, FIGURES_EACH_MS).clamp(FIGURES_MS, FIGURES_MS_MAX)
}

fn each(members: usize, ms: u64) -> u64 {
    ms.saturating_mul(u64::try_from(members).unwrap_or(u64::MAX))
}

/// Whether two bodies tell the same but for the entries that the node has.
fn same_but_heads(news: &NodeBody, said: &NodeBody) -> bool {
    let mut news = news.clone();
    news.heads.clone_from(&said.heads);
    news == *said
}

/// The body without what moves all the time.
fn steady(body: &NodeBody) -> NodeBody {
    let mut steady = body.clone();
    steady.load = Load::default();
    for peer in &mut steady.peers {
        peer.rtt_ms = 0;
    }
    steady
}

#[cfg(test)]
mod tests {
    use realm_model::entry::{ChainId, Head};
    use realm_model::record::{ChainHead, ComponentSummary};

    use super::*;

    #[test]
    fn a_node_of_a_large_realm_speaks_less_often() {
        let (idle, runs) = (body(1, "a", 1), running(body(1, "a", 1)));
        let check = |members: usize, changed: u64, heads: [u64; 2], figures: u64| {
            assert_eq!(changed_ms(members), changed, "{members} nodes");
            let both = [heads_ms(members, &runs), heads_ms(members, &idle)];
            assert_eq!(both, heads, "{members} nodes");
            assert_eq!(figures_ms(members), figures, "{members} nodes");
        };
        check(0, 300, [0, 0], 15_000);
        check(15, 300, [0, 0], 15_000);
        check(25, 500, [1_500, 3_750], 15_000);
        check(100, 2_000, [6_000, 15_000], 60_000);
        check(1_000, 5_000, [30_000, 30_000], 300_000);
    }

    fn body(heads: u64, tag: &str, load: u64) -> NodeBody {
        let mut body = NodeBody::of("here".parse().unwrap());
        let hash = realm_model::digest::Digest::of(b"");
        let head = Head { seq: heads, hash };
        let chain = ChainId::DEFAULT;
        body.heads = vec![ChainHead { chain, head }];
        body.tags = vec![tag.to_owned()];
        body.load.memory_mb = load;
        body
    }

    /// The same of a node that something runs on.
    fn running(mut body: NodeBody) -> NodeBody {
        body.components = vec![ComponentSummary {
            name: "app".to_owned(),
            namespace: "default".to_owned(),
            wanted: 1,
            healthy: 1,
            state: "healthy".to_owned(),
            code: String::new(),
            reason: String::new(),
            digest: None,
            serving: None,
            seats: None,
            failed: None,
        }];
        body
    }

    fn check(members: usize, said: (u64, u64), news: (u64, &str), expected_ms: u64) {
        check_of(members, said, news, expected_ms, |body| body);
    }

    /// A record was signed `ago_ms` before something changes twice. When is the next one signed?
    fn check_of(
        members: usize,
        (ago_ms, random): (u64, u64),
        (heads, tag): (u64, &str),
        expected_ms: u64,
        of: impl Fn(NodeBody) -> NodeBody,
    ) {
        let said = Millis(1_000);
        let changed = said.plus(ago_ms);
        let mut pacing = Pacing::new(Millis(0));
        assert_eq!(pacing.due(members), Millis(0));
        let first = pacing.look(&of(body(1, "a", 1)), members, random, said);
        assert_eq!(first, Some(Tells::News));
        pacing.changed(changed);
        pacing.changed(changed.plus(10));
        let news = of(body(heads, tag, 2));
        let mut now = changed;
        loop {
            now = now.max(pacing.due(members));
            if let Some(tells) = pacing.look(&news, members, random, now) {
                let expected = match (heads, tag) {
                    (1, "a") => Tells::Figures,
                    _ => Tells::News,
                };
                assert_eq!(tells, expected, "{members} {heads} {tag}");
                break;
            }
            assert!(pacing.due(members) > now, "it would be asked for ever");
        }
        let after_ms = now.since(changed);
        assert_eq!(
            after_ms, expected_ms,
            "{members} {ago_ms} {random} {heads} {tag}"
        );
    }

    #[test]
    fn news_are_told_soon_and_figures_seldom() {
        // A full mesh hears at once, and not again within its pause.
        check(3, (1_000, 7), (2, "a"), 0);
        check(3, (1_000, 7), (1, "b"), 0);
        check(3, (100, 7), (1, "b"), 200);
        check(3, (1_000, 7), (1, "a"), 14_000);
        // What is of substance waits for its turn, entries alone longer.
        check(100, (1_000, 0), (1, "b"), 1_000);
        check(100, (1_000, 0), (2, "b"), 1_000);
        check(100, (1_000, 0), (1, "a"), 59_000);
        check(100, (1_000, 700), (1, "a"), 59_000);
        // Entries shortly before figures are due wait for their own time.
        check(100, (59_000, 7_500), (2, "a"), 7_993);
        check_of(100, (1_000, 0), (2, "a"), 2_000, running);
        check_of(100, (1_000, 3_000), (2, "a"), 5_000, running);
        check_of(100, (1_000, 6_000), (2, "a"), 8_000, running);
        // Most of all where nothing runs.
        check(100, (1_000, 0), (2, "a"), 6_500);
        check(100, (1_000, 15_000), (2, "a"), 21_500);
        // And each node lags by its own time.
        check(100, (10_000, 700), (1, "b"), 700);
        check_of(100, (10_000, 700), (2, "a"), 700, running);
        check_of(100, (10_000, 1_001), (2, "a"), 0, running);
        check(100, (10_000, 700), (2, "a"), 1_400);
        check(100, (30_000, 7_500), (2, "a"), 7_993);
    }

    #[test]
    fn a_crowd_of_changes_makes_one_record() {
        let mut pacing = Pacing::new(Millis(0));
        let mut signed = 0;
        for ms in 0..10_000 {
            let now = Millis(ms);
            pacing.changed(now);
            if pacing.due(3) <= now && pacing.look(&body(ms, "a", 1), 3, 0, now).is_some() {
                signed += 1;
            }
        }
        assert_eq!(signed, 10_000 / CHANGED_MS + 1);
    }

    #[test]
    fn who_begins_anew_speaks_at_once() {
        let mut pacing = Pacing::new(Millis(0));
        let look = |pacing: &mut Pacing, at| pacing.look(&body(1, "a", 1), 3, 0, Millis(at));
        assert_eq!(look(&mut pacing, 0), Some(Tells::News));
        pacing.restart();
        assert_eq!(pacing.due(3), Millis(0));
        assert_eq!(look(&mut pacing, 1), Some(Tells::News));
    }
}
