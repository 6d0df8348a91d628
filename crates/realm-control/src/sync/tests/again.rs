//! A comparison that failed: with a peer that has just come, the first one often does.

use super::*;

/// Fails the questions that are out; returns whom they went to.
fn fail(bench: &mut Bench, out: &[Output]) -> Vec<PublicKey> {
    let asked = asked(out);
    for (_, id, _) in &asked {
        assert!(self::asked(&bench.on(Input::Failed { id: *id })).is_empty());
    }
    asked.into_iter().map(|(to, _, _)| to).collect()
}

#[test]
fn a_comparison_that_failed_is_made_again_soon_and_not_for_ever_so() {
    let mut bench = Bench::new();
    let peer = bench.peer(1);
    let mut out = bench.on(Input::PeerUp(peer));
    let mut gaps = Vec::new();
    for _ in 0..9 {
        assert_eq!(fail(&mut bench, &out), [peer]);
        let failed_ms = bench.now_ms;
        // Rounds with a random peer, which is this one, come in between.
        bench.sync.next_round_ms = u64::MAX;
        bench.sync.next_far_ms = u64::MAX;
        bench.now_ms = bench.sync.wake_at_ms();
        out = bench.on(Input::Tick);
        gaps.push(bench.now_ms - failed_ms);
    }
    assert_eq!(
        gaps,
        [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]
    );
    // One that is answered ends it, and so does the end of the connection.
    let id = asked(&out)[0].1;
    let summary = bench.sync.summary(&bench.ledger);
    let bytes = Answer::Summary(summary).to_bytes();
    bench.on(Input::Answer { id, bytes });
    bench.now_ms += 20_000;
    assert!(asked(&bench.on(Input::Tick)).is_empty());
    let out = bench.on(Input::PeerUp(peer));
    assert_eq!(fail(&mut bench, &out), [peer]);
    bench.on(Input::PeerDown(peer));
    bench.now_ms += 20_000;
    assert!(asked(&bench.on(Input::Tick)).is_empty());
}
