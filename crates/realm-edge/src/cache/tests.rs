//! What asks for the same waits for one, and a body comes in whole or not at all.

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;

use super::filling::fill;
use super::*;
use crate::backend::BoxError;

pub(super) type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// A body that comes as it is sent.
pub(super) fn body() -> (Frames, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    (sender, StreamBody::new(stream).boxed_unsync())
}

pub(super) fn data(bytes: usize) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(vec![b'x'; bytes].into()))
}

const KIB: usize = 1024;

/// All that a client gets at once: bytes, and whether that was the end of it, and a good one.
fn got(filled: &mut Body) -> (usize, Option<bool>) {
    let mut bytes = 0;
    loop {
        match filled.frame().now_or_never() {
            None => return (bytes, None),
            Some(None) => return (bytes, Some(true)),
            Some(Some(Err(_))) => return (bytes, Some(false)),
            Some(Some(Ok(frame))) => bytes += frame.data_ref().map_or(0, Bytes::len),
        }
    }
}

#[tokio::test]
async fn a_body_is_whole_when_all_of_it_came_whatever_its_client_does() {
    for stays in [true, false] {
        let (store, counts) = (Store::new(100 * KIB), Arc::<Counts>::default());
        let (sender, body) = body();
        let (filling, filled, _client) = fill(body, Some(3_000));
        let mut filled = stays.then(|| filled.boxed_unsync());
        let reading = filling.read(&store, &counts);
        let mut reading = std::pin::pin!(reading);
        for _ in 0..3 {
            assert!(reading.as_mut().now_or_never().is_none());
            sender.send(data(1_000)).expect("it is read");
        }
        assert!(reading.as_mut().now_or_never().is_none());
        if let Some(filled) = &mut filled {
            assert_eq!(got(filled), (3_000, None));
        }
        drop(sender);
        let kept = reading.await.expect("it is whole");
        assert_eq!(kept.iter().map(Bytes::len).collect::<Vec<_>>(), [3_000]);
        if let Some(filled) = &mut filled {
            assert_eq!(got(filled), (0, Some(true)));
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_shorter_than_it_says_is_not_kept() {
    let (store, counts) = (Store::new(100 * KIB), Arc::<Counts>::default());
    for (declared, ending) in [
        (None, Some(Err("it broke".into()))),
        (Some(2_000), None),
        (Some(500), None),
        (None, Some(Ok(Frame::trailers(HeaderMap::new())))),
    ] {
        let (sender, body) = body();
        let (filling, filled, _client) = fill(body, declared);
        sender.send(data(1_000)).expect("it is read");
        let is_failure = matches!(ending, Some(Err(_)));
        if let Some(frame) = ending {
            sender.send(frame).expect("it is read");
        }
        drop(sender);
        assert!(filling.read(&store, &counts).await.is_none());
        let mut filled = filled.boxed_unsync();
        assert_eq!(got(&mut filled), (1_000, Some(!is_failure)));
        drop(filled);
        assert_eq!(store.budget.used(), 0);
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_goes_on_to_its_client_at_the_clients_pace() {
    let (store, counts) = (Store::new(100 * KIB), Arc::<Counts>::default());
    let (sender, body) = body();
    let (filling, filled, _client) = fill(body, None);
    for _ in 0..5 {
        sender.send(data(40 * KIB)).expect("it is read");
    }
    assert!(filling.read(&store, &counts).await.is_none());
    let mut filled = filled.boxed_unsync();
    assert!(store.budget.used() <= 100 * KIB);
    assert_eq!(got(&mut filled), (200 * KIB, None));
    assert_eq!(store.budget.used(), 0);
    sender.send(data(1)).expect("it is read");
    drop(sender);
    assert_eq!(got(&mut filled), (1, Some(true)));
    // Nobody reads on for a client that is gone.
    let (sender, body) = self::body();
    let (filling, filled, _client) = fill(body, None);
    drop(filled);
    for _ in 0..5 {
        sender.send(data(40 * KIB)).expect("it is read");
    }
    assert!(filling.read(&store, &counts).await.is_none());
    assert!(sender.is_closed());
    assert_eq!(store.budget.used(), 0);
}

#[tokio::test]
async fn an_answer_has_an_end_however_much_room_there_is() {
    let (store, counts) = (Store::new(100 * KIB * KIB), Arc::<Counts>::default());
    for (bytes, is_kept) in [(8 * KIB * KIB, true), (8 * KIB * KIB + 1, false)] {
        let (sender, body) = body();
        let (filling, filled, _client) = fill(body, None);
        sender.send(data(bytes - 5)).expect("it is read");
        sender.send(data(5)).expect("it is read");
        drop(sender);
        let read = filling.read(&store, &counts).await;
        assert_eq!(read.is_some(), is_kept, "{bytes}");
        assert_eq!(got(&mut filled.boxed_unsync()), (bytes, Some(true)));
    }
}

/// What is read for nobody is read as long as it may be kept.
#[tokio::test]
async fn nobody_reads_out_what_is_not_kept_after_all() {
    let (store, counts) = (Store::new(100 * KIB), Arc::<Counts>::default());
    let (sender, body) = body();
    let (filling, filled, _client) = fill(body, None);
    for _ in 0..5 {
        sender.send(data(40 * KIB)).expect("it is read");
    }
    assert!(filling.read(&store, &counts).await.is_none());
    assert!(filled.read_out().now_or_never().is_some());
    assert!(sender.is_closed());
    assert_eq!(store.budget.used(), 0);
}

#[test]
fn where_several_components_have_a_cache_each_leaves_room() {
    let cache = Cache::new(1_000);
    let share = |names: &[&str]| {
        let components = names
            .iter()
            .map(|name| (name.parse().expect("a name"), None));
        cache.of(components.collect());
        cache.store.budget.share()
    };
    assert_eq!(share(&["a"]), 1_000);
    assert_eq!(share(&["a", "b"]), 750);
    assert_eq!(share(&["b"]), 1_000);
}

#[tokio::test]
async fn a_reader_that_is_stopped_leaves_no_client_waiting() {
    let (store, counts) = (Store::new(100 * KIB), Arc::<Counts>::default());
    let (sender, body) = body();
    let (filling, filled, _client) = fill(body, None);
    sender.send(data(10)).expect("it is read");
    let mut reading = Box::pin(filling.read(&store, &counts));
    assert!(reading.as_mut().now_or_never().is_none());
    drop(reading);
    let mut filled = filled.boxed_unsync();
    assert_eq!(got(&mut filled), (10, Some(false)));
}

#[tokio::test(start_paused = true)]
async fn one_asks_and_the_others_wait_for_it_and_not_for_ever() {
    let flights = Arc::new(Flights::default());
    let Turn::Lead(flight) = flights.join(b"a", Instant::now()) else {
        panic!("nobody else asks");
    };
    let follow = || match flights.join(b"a", Instant::now()) {
        Turn::Follow(told) => told,
        Turn::Lead(_) | Turn::Alone => panic!("somebody asks already"),
    };
    let (first, second, late) = (follow(), follow(), follow());
    assert!(matches!(flights.join(b"b", Instant::now()), Turn::Lead(_)));
    // Time stands still but for who waits.
    assert_eq!(flights.wait(late, Instant::now()).await, None);
    flight.land(Landed::Kept);
    assert_eq!(
        flights.wait(first, Instant::now()).await,
        Some(Landed::Kept)
    );
    assert_eq!(
        flights.wait(second, Instant::now()).await,
        Some(Landed::Kept)
    );
    assert!(matches!(flights.join(b"a", Instant::now()), Turn::Lead(_)));
}

#[tokio::test]
async fn who_leaves_makes_room_for_the_next_one() {
    let flights = Arc::new(Flights::default());
    let lead = || match flights.join(b"a", Instant::now()) {
        Turn::Lead(flight) => flight,
        Turn::Follow(_) | Turn::Alone => panic!("nobody asks"),
    };
    let flight = lead();
    let Turn::Follow(told) = flights.join(b"a", Instant::now()) else {
        panic!("somebody asks");
    };
    drop(flight);
    assert_eq!(flights.wait(told, Instant::now()).await, Some(Landed::Gone));
    lead().fail();
    // A failure says nothing of the next one; what is for one alone does, for a while.
    lead().land(Landed::Alone);
    let now = Instant::now();
    assert!(matches!(flights.join(b"a", now), Turn::Alone));
    let later = now + Duration::from_secs(11);
    assert!(matches!(flights.join(b"a", later), Turn::Lead(_)));
}
