//! Servers that say anything at all, in any time, and guests that go away.

use std::sync::Arc;
use std::time::Duration;

use realm_backends::inference::{Engine, EngineSettings, Metered, Patience, Room, Spending};
use realm_model::cloud::inference::{Ending, Finish, Piece};
use realm_model::cloud::{CloudError, Inference as _, InferenceError};

use crate::engines::KEY;
use crate::hostile::{Does, HEAD, Hostile, STOP, answer, events, until, word};
use crate::{TIMEOUT, UNAVAILABLE, all, engine, hostile, prompt, settings};

/// What a guest and the operator hear when an engine answers this.
#[track_caller]
fn check(heard: &str, alarm: Option<&str>) {
    match alarm {
        Some(alarm) => assert!(
            heard.starts_with("down `http://127.0.0.1:") && heard.contains(alarm),
            "{heard}"
        ),
        None => assert_eq!(heard, ""),
    }
    assert!(
        !heard.contains("hunter2") && !heard.contains(KEY),
        "{heard}"
    );
}

#[tokio::test]
async fn what_an_engine_says_against_a_request_is_told_in_kind_and_never_in_its_words() {
    let elsewhere = Hostile::start(vec![Does::Says(events(&[STOP]))]).await;
    let moved = format!(
        "307 Moved\r\nlocation: http://127.0.0.1:{}/v1/chat/completions",
        elsewhere.port
    );
    use InferenceError::{Busy, Refused, TooLong};
    let unsupported = InferenceError::Cloud(CloudError::Unsupported("do this"));
    let cases: &[(&str, &str, InferenceError, Option<&str>)] = &[
        ("429 Slow\r\nretry-after: 7", "hunter2", Busy(Some(7)), None),
        ("429 Slow", "", Busy(None), None),
        ("503 Busy\r\nretry-after: 1", "", Busy(Some(1)), None),
        ("503 Loading", "hunter2", UNAVAILABLE, Some("503")),
        ("400 Bad", "hunter2", Refused, None),
        (
            "400 Bad",
            r#"{"error":{"code":"context_length_exceeded","message":"hunter2"}}"#,
            TooLong,
            None,
        ),
        ("413 Large", "", TooLong, None),
        ("422 No", "<html>", Refused, None),
        ("501 No", "", unsupported, None),
        ("401 No", "hunter2", UNAVAILABLE, Some("let this node in")),
        ("403 No", "", UNAVAILABLE, Some("let this node in")),
        ("404 No", "", UNAVAILABLE, Some("has it the model `small`?")),
        ("500 Oh", "hunter2", UNAVAILABLE, Some("500")),
        (&moved, "", UNAVAILABLE, Some("307")),
    ];
    for (head, body, expected, alarm) in cases {
        let says = vec![Does::Says(answer(head, body))];
        let (server, asked) = hostile(says, Patience::default()).await;
        assert_eq!(
            asked.ask("hello").await,
            (String::new(), Err(expected.clone())),
            "{head}"
        );
        check(&asked.heard.all(), *alarm);
        assert_eq!(asked.embed(&["a"]).await, Err(expected.clone()), "{head}");
        check(&asked.heard.all(), *alarm);
        let seen = server.asked();
        assert!(
            seen[0].starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
            "{seen:?}"
        );
        assert!(
            seen[1].starts_with("POST /v1/embeddings HTTP/1.1\r\n"),
            "{seen:?}"
        );
        assert!(
            seen.iter()
                .all(|one| one.contains("authorization: Bearer hush-hush\r\n"))
        );
        assert!(seen.iter().all(|one| one.contains(r#""model":"small""#)));
    }
    assert_eq!(elsewhere.asked(), [""; 0]);
}

/// What an engine says, which text and which end come of it, and what the operator hears.
type Case<'a> = (
    Vec<u8>,
    &'a str,
    Result<Ending, InferenceError>,
    Option<&'a str>,
);

#[tokio::test]
async fn answers_that_make_no_sense_are_cut_off_with_an_error() {
    let long = word(&"x".repeat(300 * 1024));
    let ended = |finish| {
        Ok(Ending {
            finish,
            tokens_in: None,
            tokens_out: None,
        })
    };
    let end = "ends in the middle";
    let senseless = "does not answer as the API";
    let a = word("a");
    let cases: &[Case] = &[
        (
            events(&[&a, STOP, "[DONE]"]),
            "a",
            ended(Finish::Stop),
            None,
        ),
        // Without its last words, and with others behind its end.
        (events(&[&a, STOP]), "a", ended(Finish::Stop), None),
        (events(&[&a, STOP, &a]), "a", ended(Finish::Stop), None),
        (events(&[&a]), "a", Err(UNAVAILABLE), Some(end)),
        (
            events(&[&a, "[DONE]"]),
            "a",
            Err(UNAVAILABLE),
            Some("without saying why"),
        ),
        (
            events(&[&a, r#"{"error":{"message":"hunter2"}}"#]),
            "a",
            Err(UNAVAILABLE),
            Some("breaks an answer off"),
        ),
        (
            events(&[]),
            "",
            Err(InferenceError::Malformed),
            Some(senseless),
        ),
        (
            events(&[&a, "hunter2"]),
            "a",
            Err(InferenceError::Malformed),
            Some(senseless),
        ),
        (
            events(&[&long]),
            "",
            Err(InferenceError::Malformed),
            Some(senseless),
        ),
        (
            answer(
                "200 OK",
                r#"{"choices":[{"message":{"content":"hunter2"}}]}"#,
            ),
            "",
            Err(InferenceError::Malformed),
            Some(senseless),
        ),
        (
            b"SSH-2.0-hunter2\r\n".to_vec(),
            "",
            Err(UNAVAILABLE),
            Some(""),
        ),
    ];
    for (said, text, expected, alarm) in cases {
        let (_server, asked) = hostile(vec![Does::Says(said.clone())], Patience::default()).await;
        let shown = String::from_utf8_lossy(&said[..said.len().min(300)]);
        let came = asked.ask("hello").await;
        assert_eq!(came, ((*text).to_owned(), expected.clone()), "{shown}");
        check(&asked.heard.all(), *alarm);
    }
}

#[tokio::test]
async fn floods_have_an_end() {
    // Words without end: as many as an answer may have.
    let flood = word(&"x".repeat(10_000));
    let flood = format!("data: {flood}\n\n").into_bytes();
    let says = vec![
        Does::Says(HEAD.into()),
        Does::Repeats(flood, Duration::ZERO),
    ];
    let (server, asked) = hostile(says, Patience::default()).await;
    let (text, ended) = asked.ask("hello").await;
    assert_eq!(text.len(), 1024 * 1024);
    assert_eq!(ended.unwrap().finish, Finish::Length);
    until("the connection goes", || server.n_open() == 0).await;

    // Nothing without end.
    for noise in [": ping\n\n".repeat(10_000), "data: {}\n\n".repeat(10_000)] {
        let says = vec![
            Does::Says(HEAD.into()),
            Does::Repeats(noise.into_bytes(), Duration::ZERO),
        ];
        let (server, asked) = hostile(says, Patience::default()).await;
        assert_eq!(
            asked.ask("hello").await,
            (String::new(), Err(InferenceError::Malformed))
        );
        until("the connection goes", || server.n_open() == 0).await;
    }

    // Vectors and refusals without end.
    for head in ["200 OK", "400 Bad"] {
        let head = format!("HTTP/1.1 {head}\r\ncontent-type: application/json\r\n\r\n");
        let says = vec![
            Does::Says(head.into_bytes()),
            Does::Repeats(b"[1,".repeat(10_000), Duration::ZERO),
        ];
        let (server, asked) = hostile(says, Patience::default()).await;
        let refused = asked.embed(&["a"]).await.unwrap_err();
        let expected = [InferenceError::Malformed, InferenceError::Refused];
        assert!(expected.contains(&refused), "{refused:?}");
        until("the connection goes", || server.n_open() == 0).await;
    }
}

#[tokio::test]
async fn an_engine_that_stands_still_or_dribbles_is_given_up() {
    let short = Patience {
        first_word: Duration::from_millis(300),
        next_word: Duration::from_millis(300),
        ..Patience::default()
    };
    let a = word("a");
    let ping = Duration::from_millis(20);
    let cases: &[(&str, Vec<Does>, &str)] = &[
        ("says nothing", vec![Does::Stays], ""),
        ("a head", vec![Does::Says(HEAD.into()), Does::Stays], ""),
        ("a word", vec![Does::Says(events(&[&a])), Does::Stays], "a"),
        (
            "signs of life and no words",
            vec![
                Does::Says(events(&[&a])),
                Does::Repeats(b": ping\n\n".to_vec(), ping),
            ],
            "a",
        ),
        (
            "one byte after the other",
            vec![
                Does::Says(events(&[&a])),
                Does::Repeats(b"x".to_vec(), ping),
            ],
            "a",
        ),
        (
            "a head that dribbles",
            vec![
                Does::Says(b"HTTP/1.1 200 OK\r\n".to_vec()),
                Does::Repeats(b"a: b\r\n".to_vec(), ping),
            ],
            "",
        ),
    ];
    for (what, does, text) in cases {
        let (server, asked) = hostile(does.clone(), short).await;
        let came = asked.ask("hello").await;
        assert_eq!(came, ((*text).to_owned(), Err(TIMEOUT)), "{what}");
        check(&asked.heard.all(), Some("says nothing in time"));
        until(what, || server.n_open() == 0).await;
    }
    // Words for ever, each in time: no fault of the engine's.
    let whole = Patience {
        whole: Duration::from_millis(500),
        ..Patience::default()
    };
    let more = format!("data: {a}\n\n").into_bytes();
    let says = vec![Does::Says(HEAD.into()), Does::Repeats(more, ping)];
    let (server, asked) = hostile(says, whole).await;
    let (text, ended) = asked.ask("hello").await;
    assert!(!text.is_empty());
    assert_eq!(ended, Err(TIMEOUT));
    assert_eq!(asked.heard.all(), "");
    until("the connection goes", || server.n_open() == 0).await;
    // What ended and does not go has ended.
    let says = vec![Does::Says(events(&[&a, STOP])), Does::Stays];
    let (server, asked) = hostile(says, short).await;
    assert_eq!(asked.ask("hello").await.1.unwrap().finish, Finish::Stop);
    until("the connection goes", || server.n_open() == 0).await;
    // Vectors that do not come.
    let call = Patience {
        call: Duration::from_millis(300),
        ..Patience::default()
    };
    let (server, asked) = hostile(vec![Does::Stays], call).await;
    assert_eq!(asked.embed(&["a"]).await, Err(TIMEOUT));
    check(&asked.heard.all(), Some("no vectors in time"));
    until("the connection goes", || server.n_open() == 0).await;
}

#[tokio::test]
async fn each_call_ends_in_time_also_where_nothing_came_yet() {
    let call = Patience {
        call: Duration::from_millis(100),
        ..Patience::default()
    };
    let (a, b) = (
        word("a"),
        format!("data: {}\n\ndata: {STOP}\n\n", word("b")),
    );
    let says = vec![
        Does::Says(events(&[&a])),
        Does::Waits,
        Does::Says(b.into_bytes()),
    ];
    let (server, asked) = hostile(says, call).await;
    let mut generation = asked.engine.generate(prompt("hello", 4)).await.unwrap();
    let mut first = generation.next().await;
    while first == Ok(Piece::Nothing) {
        first = generation.next().await;
    }
    assert_eq!(first, Ok(Piece::Text("a".to_owned())));
    assert_eq!(generation.next().await, Ok(Piece::Nothing));
    assert_eq!(generation.next().await, Ok(Piece::Nothing));
    server.go_on();
    let (text, ended) = all(&mut *generation).await;
    assert_eq!(text, "b");
    let ended = ended.unwrap();
    assert_eq!(ended.finish, Finish::Stop);
    assert_eq!(generation.next().await, Ok(Piece::End(ended)));
}

#[tokio::test]
async fn who_goes_away_or_does_not_read_holds_nothing() {
    // Who goes away ends the request.
    let (server, asked) = hostile(
        vec![Does::Says(events(&[&word("a")])), Does::Stays],
        Patience::default(),
    )
    .await;
    let mut generation = asked.engine.generate(prompt("hello", 4)).await.unwrap();
    assert_eq!(generation.next().await, Ok(Piece::Text("a".to_owned())));
    assert_eq!(server.n_open(), 1);
    drop(generation);
    until("the connection goes", || server.n_open() == 0).await;
    let embedding = tokio::time::timeout(Duration::from_millis(200), asked.embed(&["a"]));
    assert!(embedding.await.is_err());
    until("the connection goes", || server.n_open() == 0).await;

    // Who does not read lets the engine wait, and has it end in time.
    let more = format!("data: {}\n\n", word("a")).into_bytes();
    let says = vec![Does::Says(HEAD.into()), Does::Repeats(more, Duration::ZERO)];
    let whole = Patience {
        whole: Duration::from_secs(3),
        ..Patience::default()
    };
    let (server, asked) = hostile(says, whole).await;
    let mut generation = asked.engine.generate(prompt("hello", 4)).await.unwrap();
    until("it was asked", || !server.asked().is_empty()).await;
    until("the connection goes", || server.n_open() == 0).await;
    assert!(server.n_bytes() < 32 * 1024 * 1024, "{}", server.n_bytes());
    let (text, ended) = all(&mut *generation).await;
    assert!(text.len() <= 17, "{}", text.len());
    assert_eq!(ended, Err(TIMEOUT));
    assert_eq!(asked.heard.all(), "");
}

#[tokio::test]
async fn who_reads_nothing_for_long_gives_his_place_to_others_and_who_reads_slowly_keeps_it() {
    let more = format!("data: {}\n\n", word("a")).into_bytes();
    let says = vec![Does::Says(HEAD.into()), Does::Repeats(more, Duration::ZERO)];
    let short = Patience {
        next_word: Duration::from_secs(3),
        ..Patience::default()
    };
    let (server, asked) = hostile(says, short).await;
    let mut idle = asked.engine.generate(prompt("hello", 4)).await.unwrap();
    until("it was asked", || !server.asked().is_empty()).await;
    let mut slow = asked.engine.generate(prompt("hello", 4)).await.unwrap();
    // Twice as long as who reads nothing has.
    for _ in 0..60 {
        assert!(matches!(slow.next().await, Ok(Piece::Text(_))));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((server.asked().len(), server.n_open()), (2, 1));
    let (text, ended) = all(&mut *idle).await;
    assert!(text.len() <= 17, "{}", text.len());
    assert_eq!((ended, asked.heard.all()), (Err(TIMEOUT), String::new()));
}

#[tokio::test]
async fn a_namespace_has_a_quarter_of_a_nodes_room_and_owners_have_all_of_it() {
    let call = Patience {
        call: Duration::from_millis(200),
        ..Patience::default()
    };
    let (server, _) = hostile(vec![Does::Stays], call).await;
    let node = Room::new(8);
    let of = |binding: &str| {
        engine(EngineSettings {
            room: node.of(binding),
            patience: call,
            ..settings(server.port)
        })
        .engine
    };
    let mut begun = Vec::new();
    let mut room = async |engine: &Engine| {
        let mut n = 0;
        loop {
            match engine.generate(prompt("hello", 4)).await {
                Ok(one) => begun.push(one),
                Err(error) => {
                    assert_eq!(error, InferenceError::Busy(None));
                    return n;
                }
            }
            n += 1;
        }
    };
    let (first, second) = (of("team/chat"), of("team/search"));
    assert_eq!((room(&first).await, room(&second).await), (2, 0));
    assert_eq!(room(&of("teams/chat")).await, 2);
    assert_eq!(room(&of("chat")).await, 4);
    drop(begun);
    // Also after nobody had any of it.
    drop((first, second));
    let again = of("team/chat").generate(prompt("hello", 4)).await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn a_binding_and_a_node_have_room_for_so_many_at_once() {
    let call = Patience {
        call: Duration::from_millis(200),
        ..Patience::default()
    };
    let (server, asked) = hostile(vec![Does::Stays], call).await;
    let mut begun = Vec::new();
    for _ in 0..16 {
        begun.push(asked.engine.generate(prompt("hello", 4)).await.unwrap());
    }
    let busy = asked.engine.generate(prompt("hello", 4)).await.err();
    assert_eq!(busy, Some(InferenceError::Busy(None)));
    assert_eq!(asked.embed(&["a"]).await, Err(InferenceError::Busy(None)));
    until("all of them ask", || server.asked().len() == 16).await;
    begun.pop();
    until("there is room", || server.n_open() == 15).await;
    assert!(asked.engine.generate(prompt("hello", 4)).await.is_ok());

    let room = Room::new(1);
    let of_node = |room: &Room| {
        engine(EngineSettings {
            room: room.clone(),
            patience: call,
            ..settings(server.port)
        })
    };
    let (first, second) = (of_node(&room), of_node(&room));
    let begun = first.engine.generate(prompt("hello", 4)).await;
    let busy = second.engine.generate(prompt("hello", 4)).await.err();
    assert_eq!(busy, Some(InferenceError::Busy(None)));
    drop(begun);
    let others = engine(EngineSettings {
        patience: call,
        ..settings(server.port)
    });
    assert!(others.engine.generate(prompt("hello", 4)).await.is_ok());
}

#[tokio::test]
async fn what_models_read_and_write_is_counted_for_each_component() {
    let used = r#"{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":5}}"#;
    let says = vec![
        Does::Says(events(&[&word("a"), &word("b")])),
        Does::Waits,
        Does::Says(format!("data: {STOP}\n\ndata: {used}\n\n").into_bytes()),
    ];
    let (server, asked) = hostile(says, Patience::default()).await;
    let spending = Spending::default();
    let shop = Metered::new(Arc::new(asked.engine), spending.of("shop"));
    // One that is broken off after two pieces, and one that is whole.
    let mut generation = shop.generate(prompt("hello", 4)).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(generation.next().await, Ok(Piece::Text(_))));
    }
    drop(generation);
    server.go_on();
    let mut generation = shop.generate(prompt("hello", 4)).await.unwrap();
    let (_, ended) = all(&mut *generation).await;
    assert_eq!(ended.unwrap().tokens_in, Some(20));
    drop(generation);
    let refused = shop.generate(prompt("", 0)).await.err();
    assert!(refused.is_some());
    let page = spending.page();
    for line in [
        r#"inference_tokens_total{component="shop",direction="in"} 20"#,
        r#"inference_tokens_total{component="shop",direction="out"} 7"#,
        r#"inference_requests_total{component="shop",result="done"} 1"#,
        r#"inference_requests_total{component="shop",result="failed"} 1"#,
        r#"inference_requests_total{component="shop",result="cancelled"} 1"#,
    ] {
        assert!(
            page.lines().any(|one| one == line),
            "no `{line}` in\n{page}"
        );
    }
    drop(shop);
    assert_eq!(spending.page(), "");
}
