//! Peers of which a person should hear.

use super::tests::Bench;
use super::*;

/// Who is bad again and again is told of, and by whom and what it was; who is bad once is not, nor who has
/// been quiet for long enough.
#[test]
fn case_22_who_sends_junk_again_and_again_is_named() {
    let mut bench = Bench::new();
    let named = |bench: &Bench| bench.sync.shunned(bench.now_ms).collect::<Vec<_>>();
    for turn in 0..3 {
        assert_eq!(named(&bench), [], "{turn} times");
        let junk = vec![1; realm_model::sync::HINT_BYTES_MAX + 1];
        assert_eq!(bench.hint(1, junk).0, Judgement::Blame);
        // Once more each time that it is heard again.
        let until = bench.sync.muted().next().expect("muted").1;
        if turn < 2 {
            bench.now_ms = until;
        }
    }
    let junk = [(bench.peer(1), Some("hint-malformed"))];
    assert_eq!(named(&bench), junk);
    // While it is not listened to, and a minute more.
    bench.now_ms += 4_000 + 59_999;
    assert_eq!(named(&bench), junk);
    bench.now_ms += 1;
    assert_eq!(named(&bench), []);
}
