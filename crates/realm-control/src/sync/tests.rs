//! One node against peers that the test speaks for: each case of what may come, by its name.

mod again;

use proptest::prelude::*;
use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head, Payload, RealmId};
use realm_model::key::{PublicKey, SecretKey};
use realm_model::record::{NodeBody, NodeRecord, Version};
use realm_model::refusal::RefusalCode;
use realm_model::sync::{Answer, Hint, Request, Summary};

use super::*;
use crate::sim_net::Template;
use crate::testing::{Realm, key, restart};

/// A node of a realm of four, and what the test has of the others.
pub(super) struct Bench {
    pub(super) sync: Sync,
    pub(super) ledger: Ledger,
    pub(super) realm: Realm,
    keys: Vec<SecretKey>,
    pub(super) now_ms: u64,
    id: u64,
    applied: u32,
}

impl Bench {
    pub(super) fn new() -> Self {
        let template = Template::small(4);
        let realm = template.realm.clone();
        let own = template.keys[0].public();
        let mut bench = Self {
            sync: Sync::new(realm.ledger.realm(), own, 1, 0),
            ledger: realm.ledger.clone(),
            realm,
            keys: template.keys.clone(),
            now_ms: 1_000,
            id: 0,
            applied: 0,
        };
        bench.on(Input::Tick);
        bench
    }

    pub(super) fn peer(&self, i: usize) -> PublicKey {
        self.keys[i].public()
    }

    /// Gives an input; what is submitted goes to the ledger, as a node does it.
    pub(super) fn on(&mut self, input: Input) -> Vec<Output> {
        let mut all = Vec::new();
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in self.sync.on(input, &self.ledger, self.now_ms) {
                if let Output::Submit { chain, bytes, .. } = &output {
                    let verdict = match self.ledger.check(*chain, bytes, None) {
                        Ok(admitted) => {
                            assert!(!self.ledger.apply(admitted).rebuild);
                            self.applied += 1;
                            Verdict::Applied
                        }
                        Err(error) => Verdict::Refused(error.refusal()),
                    };
                    let chain = *chain;
                    inputs.push(Input::Verdict { chain, verdict });
                }
                all.push(output);
            }
        }
        all
    }

    /// A hint of a peer, and how it was judged.
    pub(super) fn hint(&mut self, from: usize, bytes: Vec<u8>) -> (Judgement, Vec<Output>) {
        self.id += 1;
        let (from, id) = (self.peer(from), self.id);
        let out = self.on(Input::Hint { from, id, bytes });
        let judged = out.iter().find_map(|output| {
            let Output::Judge { id: of, judgement } = output else {
                return None;
            };
            (*of == id).then_some(*judgement)
        });
        (judged.expect("each hint is judged"), out)
    }

    pub(super) fn request(&mut self, from: PublicKey, bytes: Vec<u8>) -> Vec<Output> {
        self.id += 1;
        let id = self.id;
        self.on(Input::Request { from, id, bytes })
    }

    /// The next entry of the owner, as a hint; the owner's own ledger goes on.
    pub(super) fn next(&mut self) -> (Head, Vec<u8>) {
        let (chain, bytes) = self.realm.sign(&self.realm.payload(restart("orders", &[])));
        let head = self.realm.take(chain, bytes.clone()).expect("the next one");
        (head, bytes)
    }

    pub(super) fn refused(&self, code: &str) -> u64 {
        self.sync.counts().get(code).copied().unwrap_or(0)
    }
}

pub(super) fn entry((head, bytes): &(Head, Vec<u8>)) -> Vec<u8> {
    let at = head.of(ChainId::DEFAULT);
    let bytes = bytes.clone();
    Hint::Entry { at, bytes }.to_bytes()
}

pub(super) fn asked(out: &[Output]) -> Vec<(PublicKey, u64, Request)> {
    let ask = |output: &Output| {
        let Output::Ask { to, id, bytes } = output else {
            return None;
        };
        let request = Request::from_bytes(bytes).expect("a request");
        Some((*to, *id, request))
    };
    out.iter().filter_map(ask).collect()
}

pub(super) fn replied(out: &[Output]) -> Answer {
    let reply = |output: &Output| {
        let Output::Reply { bytes, .. } = output else {
            return None;
        };
        Some(Answer::from_bytes(bytes).expect("an answer"))
    };
    out.iter().find_map(reply).expect("a reply")
}

#[test]
fn case_1_and_2_an_old_entry_and_a_thousand_repetitions_have_no_effect() {
    let mut bench = Bench::new();
    let (first, second) = (bench.next(), bench.next());
    assert_eq!(bench.hint(1, entry(&first)).0, Judgement::Forward);
    assert_eq!(bench.hint(1, entry(&second)).0, Judgement::Forward);
    for i in 0..1_000 {
        let old = if i % 3 == 0 { &first } else { &second };
        let (judgement, out) = bench.hint(1 + i % 3, entry(old));
        assert_eq!(judgement, Judgement::Drop);
        assert!(
            !out.iter()
                .any(|output| matches!(output, Output::Submit { .. }))
        );
    }
    assert_eq!(bench.applied, 2);
    assert_eq!(bench.sync.evidence().count(), 0);
}

#[test]
fn case_3_a_gap_waits_and_is_asked_for() {
    let mut bench = Bench::new();
    let entries: Vec<(Head, Vec<u8>)> = (0..20).map(|_| bench.next()).collect();
    let (_, out) = bench.hint(1, entry(&entries[1]));
    assert_eq!(bench.applied, 0);
    let [(to, id, Request::Entries { from, .. })] = &asked(&out)[..] else {
        panic!("{out:?}");
    };
    assert_eq!((*to, *from), (bench.peer(1), entries[0].0.seq));
    // Sixteen wait; those far ahead do not, and take no room from the others.
    for n in 0..16 {
        let seq = entries[19].0.seq + 1_000 + n;
        let far = Head {
            seq,
            ..entries[19].0
        };
        bench.hint(3, entry(&(far, vec![0; 8])));
    }
    for entry_ in &entries[2..19] {
        bench.hint(2, entry(entry_));
    }
    assert_eq!(bench.applied, 0);
    let bytes = Answer::Entries(vec![entries[0].1.clone()]).to_bytes();
    bench.on(Input::Answer { id: *id, bytes });
    assert_eq!(bench.applied, 17);
    assert_eq!(bench.ledger.head(ChainId::DEFAULT), entries[16].0);
}

#[test]
fn case_4_the_greatest_sequence_number_leads_nowhere() {
    let mut bench = Bench::new();
    let payload = Payload {
        seq: u64::MAX,
        ..bench.realm.payload(restart("orders", &[]))
    };
    let bytes = payload.sign(
        bench.realm.ledger.realm(),
        ChainId::DEFAULT,
        &bench.realm.owner,
    );
    let hash = Digest::of(&payload.to_bytes());
    let far = (
        Head {
            seq: u64::MAX,
            hash,
        },
        bytes,
    );
    let (judgement, out) = bench.hint(1, entry(&far));
    assert_eq!((judgement, bench.applied), (Judgement::Drop, 0));
    // Asked for what it claims to have, the peer gives that one entry.
    let (_, id, _) = asked(&out)[0].clone();
    let bytes = Answer::Entries(vec![far.1]).to_bytes();
    bench.on(Input::Answer { id, bytes });
    assert_eq!(bench.applied, 0);
    // The chain goes on.
    let next = bench.next();
    assert_eq!(bench.hint(2, entry(&next)).0, Judgement::Forward);
}

#[test]
fn case_5_a_changed_entry_is_blamed_and_not_passed_on() {
    let mut bench = Bench::new();
    let (head, bytes) = bench.next();
    let mut flipped = bytes.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    assert_eq!(bench.hint(1, entry(&(head, flipped))).0, Judgement::Blame);
    assert_eq!(bench.refused(RefusalCode::BadSignature.as_str()), 1);
    let evidence: Vec<PublicKey> = bench
        .sync
        .evidence()
        .map(|evidence| evidence.peer)
        .collect();
    assert_eq!(evidence, [bench.peer(1)]);
    // It is not listened to for a moment; what it says later counts again.
    assert_eq!(
        bench.hint(1, entry(&(head, bytes.clone()))).0,
        Judgement::Drop
    );
    bench.now_ms += 1_001;
    assert_eq!(bench.hint(1, entry(&(head, bytes))).0, Judgement::Forward);
}

#[test]
fn case_6_an_entry_of_another_realm_or_chain_is_blamed() {
    let mut bench = Bench::new();
    let payload = bench.realm.payload(restart("orders", &[]));
    let head = Head {
        seq: payload.seq,
        hash: Digest::of(&payload.to_bytes()),
    };
    let (realm, owner) = (bench.realm.ledger.realm(), bench.realm.owner.clone());
    let elsewhere = realm_model::entry::RealmId::new(Digest::of(b"elsewhere"));
    let other = payload.sign(elsewhere, ChainId::DEFAULT, &owner);
    assert_eq!(bench.hint(1, entry(&(head, other))).0, Judgement::Blame);
    let other = payload.sign(realm, ChainId::Authority, &owner);
    assert_eq!(bench.hint(2, entry(&(head, other))).0, Judgement::Blame);
    assert_eq!(bench.refused(RefusalCode::WrongRealm.as_str()), 1);
    assert_eq!(bench.refused(RefusalCode::WrongChain.as_str()), 1);
}

#[test]
fn case_14_a_node_that_is_not_approved_gets_nothing() {
    let mut bench = Bench::new();
    let stranger = key("stranger").public();
    let asked = Request::Summary(Summary::default()).to_bytes();
    let out = bench.request(stranger, asked);
    assert_eq!(replied(&out), Answer::Refused);
    let bytes = Hint::Heads {
        by: stranger.into(),
        heads: Vec::new(),
        forks: Vec::new(),
        records: Some(Digest::of(b"")),
    };
    let (from, id, bytes) = (stranger, 99, bytes.to_bytes());
    let out = bench.on(Input::Hint { from, id, bytes });
    assert_eq!(out.len(), 1, "{out:?}");
}

#[test]
fn case_22_a_flood_costs_no_more_than_its_budget() {
    let mut bench = Bench::new();
    let realm = bench.realm.ledger.realm();
    let mut checked = 0;
    for counter in 1..1_000 {
        // Each one is new and forged: only a check tells. All in one millisecond.
        let version = Version {
            epoch: 1,
            boot: 1,
            counter,
        };
        let forged = forged_record(realm, &bench.keys[2], version);
        let (judgement, _) = bench.hint(1, Hint::Record(forged).to_bytes());
        checked += u32::from(judgement == Judgement::Blame);
    }
    assert_eq!(checked, 1, "a peer that forges is not listened to");
    // Claims that nobody can be blamed for yet: read up to the budget, asked about once.
    let mut asks = 0;
    for n in 0..8_000u64 {
        let hash = Digest::of(&n.to_le_bytes());
        let at = Head {
            seq: u64::MAX,
            hash,
        };
        let claim = Hint::Entry {
            at: at.of(ChainId::DEFAULT),
            bytes: vec![0; 8],
        };
        asks += asked(&bench.hint(3, claim.to_bytes()).1).len();
    }
    assert_eq!(asks, 1);
    assert!(bench.refused("peer-over-budget") >= 3_000);
    // Others are heard meanwhile.
    let next = bench.next();
    assert_eq!(bench.hint(2, entry(&next)).0, Judgement::Forward);
}

fn forged_record(realm: RealmId, of: &SecretKey, version: Version) -> Vec<u8> {
    let body = NodeBody::of("node-2".parse().expect("a name"));
    let mut bytes = NodeRecord::sign(realm, of, version, body);
    *bytes.last_mut().expect("bytes") ^= 1;
    bytes
}

#[test]
fn case_22_requests_beyond_the_budget_are_put_off() {
    let mut bench = Bench::new();
    let peer = bench.peer(1);
    let request = Request::Fork {
        chain: ChainId::DEFAULT,
    };
    let mut busy = 0;
    for _ in 0..1_000 {
        let out = bench.request(peer, request.to_bytes());
        busy += u32::from(matches!(replied(&out), Answer::Busy { .. }));
    }
    assert_eq!(busy, 800);
    bench.now_ms += 2_000;
    let out = bench.request(peer, request.to_bytes());
    assert_eq!(replied(&out), Answer::Fork(None));
}

#[test]
fn case_24_an_oversized_message_is_refused_before_it_is_read() {
    let mut bench = Bench::new();
    let huge = vec![1; realm_model::sync::HINT_BYTES_MAX + 1];
    assert_eq!(bench.hint(1, huge).0, Judgement::Blame);
    let huge = vec![1; realm_model::sync::REQUEST_BYTES_MAX + 1];
    let peer = bench.peer(2);
    let out = bench.request(peer, huge);
    assert_eq!(replied(&out), Answer::Refused);
}

#[test]
fn case_34_an_unknown_request_is_answered_so_and_not_blamed() {
    let mut bench = Bench::new();
    let peer = bench.peer(1);
    for newer in [vec![1, 200, 0x80], vec![2, 1, 0x80]] {
        let out = bench.request(peer, newer);
        assert_eq!(replied(&out), Answer::Unknown { version: 1 });
    }
    assert_eq!(bench.sync.muted().count(), 0);
    // And an older peer that says so is asked for what it knows.
    let out = bench.on(Input::PeerUp(peer));
    let (_, id, _) = asked(&out)[0].clone();
    let bytes = Answer::Unknown { version: 1 }.to_bytes();
    bench.on(Input::Answer { id, bytes });
    bench.now_ms += 60_000;
    assert!(!asked(&bench.on(Input::Tick)).is_empty());
}

#[test]
fn case_35_a_round_is_complete_when_nothing_is_missing() {
    let mut bench = Bench::new();
    assert!(!bench.sync.may_act(bench.now_ms, true));
    let peer = bench.peer(1);
    let next = bench.next();
    let theirs = |bench: &Bench| {
        let heads = chains::heads(&bench.realm.ledger);
        let summary = Summary {
            heads,
            ..Summary::default()
        };
        Answer::Summary(summary).to_bytes()
    };
    let out = bench.on(Input::PeerUp(peer));
    let (_, id, _) = asked(&out)[0].clone();
    let bytes = theirs(&bench);
    let out = bench.on(Input::Answer { id, bytes });
    assert!(
        !bench.sync.may_act(bench.now_ms, true),
        "an entry is missing"
    );
    let (_, id, _) = asked(&out)[0].clone();
    let bytes = Answer::Entries(vec![next.1]).to_bytes();
    bench.on(Input::Answer { id, bytes });
    bench.now_ms += 7_000;
    let asks = asked(&bench.on(Input::Tick));
    let bytes = theirs(&bench);
    bench.on(Input::Answer {
        id: asks[0].1,
        bytes,
    });
    assert!(bench.sync.may_act(bench.now_ms, true));
    assert!(!bench.sync.may_act(bench.now_ms, false));
}

#[test]
fn what_was_fetched_is_announced_once() {
    let mut bench = Bench::new();
    let entries = vec![bench.next().1, bench.next().1, bench.next().1];
    let heads = chains::heads(&bench.realm.ledger);
    let hint = Hint::Heads {
        by: bench.peer(1).into(),
        heads: heads.clone(),
        forks: Vec::new(),
        records: None,
    };
    let (_, out) = bench.hint(1, hint.to_bytes());
    let (_, id, _) = asked(&out)[0].clone();
    let bytes = Answer::Entries(entries).to_bytes();
    let out = bench.on(Input::Answer { id, bytes });
    let published: Vec<Hint> = out
        .iter()
        .filter_map(|output| {
            let Output::Publish(bytes) = output else {
                return None;
            };
            Some(Hint::from_bytes(bytes).expect("a hint"))
        })
        .collect();
    let expected = Hint::Heads {
        by: bench.peer(0).into(),
        heads,
        forks: Vec::new(),
        records: None,
    };
    assert_eq!((bench.applied, published), (3, vec![expected]));
}

#[test]
fn somebody_else_is_asked_when_the_first_one_is_silent() {
    let mut bench = Bench::new();
    let far = bench.next();
    let heads = |bench: &Bench, i: usize| {
        Hint::Heads {
            by: bench.peer(i).into(),
            heads: chains::heads(&bench.realm.ledger),
            forks: Vec::new(),
            records: None,
        }
        .to_bytes()
    };
    let bytes = heads(&bench, 1);
    assert_eq!(asked(&bench.hint(1, bytes).1).len(), 1);
    let bytes = heads(&bench, 2);
    assert!(
        asked(&bench.hint(2, bytes).1).is_empty(),
        "one is asked at a time"
    );
    bench.now_ms += HEDGE_MS;
    let asks = asked(&bench.on(Input::Tick));
    let entries = asks
        .iter()
        .find(|(_, _, r)| matches!(r, Request::Entries { .. }));
    let (to, id, _) = entries.expect("the other one is asked").clone();
    assert_eq!(to, bench.peer(2));
    let bytes = Answer::Entries(vec![far.1]).to_bytes();
    bench.on(Input::Answer { id, bytes });
    assert_eq!(bench.applied, 1);
}

#[test]
fn case_16_clocks_order_nothing() {
    let mut bench = Bench::new();
    // Signed in 1970, at the end of time, and a day before the one before it.
    for created_unix_s in [0, u64::MAX, 1_700_000_000, 1_700_000_000 - 86_400] {
        let payload = Payload {
            created_unix_s,
            ..bench.realm.payload(restart("orders", &[]))
        };
        let (chain, bytes) = bench.realm.sign(&payload);
        let head = bench
            .realm
            .take(chain, bytes.clone())
            .expect("the next one");
        assert_eq!(bench.hint(1, entry(&(head, bytes))).0, Judgement::Forward);
        // And this node's own clock jumps a day ahead meanwhile.
        bench.now_ms += 86_400_000;
    }
    assert_eq!(bench.applied, 4);
}

#[derive(Debug, Clone)]
enum Any {
    Up(usize),
    Down(usize),
    Hint(usize, Vec<u8>),
    Request(usize, Vec<u8>),
    Answer(Vec<u8>),
    Failed,
    Own(Vec<u8>),
    Changed,
    Tick(u64),
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let chain = ChainId::DEFAULT;
    let hash = Digest::of(b"");
    let heads = move |seq| {
        vec![
            Head { seq, hash }.of(chain),
            Head { seq, hash }.of(ChainId::Authority),
        ]
    };
    let summary = move |seq| Summary {
        heads: heads(seq),
        ..Summary::default()
    };
    let (from, step, count, retry_ms) = (1, u64::MAX, 9, u32::MAX);
    let request = |request: Request| Just(request.to_bytes());
    let answer = |answer: Answer| Just(answer.to_bytes());
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        any::<u64>().prop_map(move |seq| Request::Summary(summary(seq)).to_bytes()),
        any::<u64>().prop_map(move |seq| Answer::Summary(summary(seq)).to_bytes()),
        request(Request::Hashes {
            chain,
            from,
            step,
            count
        }),
        request(Request::Entries {
            chain,
            from,
            bytes_max: 0
        }),
        request(Request::Records {
            buckets: u64::MAX,
            known: Vec::new()
        }),
        answer(Answer::Hashes(vec![hash; 9])),
        answer(Answer::Entries(vec![vec![0; 9]; 3])),
        answer(Answer::Entries(Vec::new())),
        answer(Answer::Records(vec![vec![0; 9]; 3])),
        answer(Answer::Fork(Some(vec![0; 9]))),
        answer(Answer::Busy { retry_ms }),
        request(Request::Beacon),
        answer(Answer::Beacon(Some(vec![0; 9]))),
    ]
}

fn any_input() -> impl Strategy<Value = Any> {
    prop_oneof![
        (1usize..4).prop_map(Any::Up),
        (1usize..4).prop_map(Any::Down),
        (1usize..4, message()).prop_map(|(from, bytes)| Any::Hint(from, bytes)),
        (1usize..4, message()).prop_map(|(from, bytes)| Any::Request(from, bytes)),
        message().prop_map(Any::Answer),
        message().prop_map(Any::Answer),
        Just(Any::Failed),
        message().prop_map(Any::Own),
        Just(Any::Changed),
        (0u64..60_000).prop_map(Any::Tick),
    ]
}

proptest! {
    /// Whatever comes in whatever order: there is an answer, nothing is applied that nobody
    /// signed, every hint is judged, and time goes on.
    #[test]
    fn any_conversation_has_an_answer(inputs in proptest::collection::vec(any_input(), 0..60)) {
        let mut bench = Bench::new();
        let mut asks: Vec<u64> = Vec::new();
        for input in inputs {
            let out = match input {
                Any::Up(i) => { let peer = bench.peer(i); bench.on(Input::PeerUp(peer)) }
                Any::Down(i) => { let peer = bench.peer(i); bench.on(Input::PeerDown(peer)) }
                Any::Hint(from, bytes) => bench.hint(from, bytes).1,
                Any::Request(from, bytes) => { let from = bench.peer(from); bench.request(from, bytes) }
                Any::Answer(bytes) => bench.on(Input::Answer { id: asks.pop().unwrap_or(0), bytes }),
                Any::Failed => bench.on(Input::Failed { id: asks.pop().unwrap_or(0) }),
                Any::Own(bytes) => bench.on(Input::OwnRecord(bytes)),
                Any::Changed => bench.on(Input::LedgerChanged),
                Any::Tick(ms) => {
                    bench.now_ms += ms;
                    let out = bench.on(Input::Tick);
                    prop_assert!(bench.sync.wake_at_ms() > bench.now_ms);
                    out
                }
            };
            asks.extend(asked(&out).into_iter().map(|(_, id, _)| id));
            prop_assert!(asked(&out).len() <= 2 * 3 * ASKS_PER_PEER_MAX);
        }
        prop_assert_eq!(bench.applied, 0);
        prop_assert!(bench.sync.evidence().count() <= EVIDENCE_MAX);
    }
}
