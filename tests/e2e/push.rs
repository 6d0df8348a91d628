//! What is told to clients that stay connected: WebSockets with servers, and events that a handler sends
//! one by one; on the node itself, on another one, and while versions change.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use realm_test_guests::{EVENTS, WEBSOCKET};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::realms::Realms;
use crate::support::{Agent, PATIENCE, Realm, eventually, figure, get};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn keys(version: u32) -> String {
    format!("serve = \"socket\"\nmax_concurrency = 200\nenv = {{ VERSION = \"{version}\" }}")
}

fn socket_url(agent: &Agent, path: &str) -> String {
    agent.url(path).replacen("http", "ws", 1)
}

async fn connect(url: &str) -> Result<Socket, Error> {
    let connecting = timeout(PATIENCE, connect_async(url));
    connecting.await.unwrap().map(|(socket, _)| socket)
}

async fn next(socket: &mut Socket) -> Message {
    let next = timeout(PATIENCE, socket.next()).await.unwrap();
    next.expect("it is open").unwrap()
}

/// What the guest answers to a text.
async fn ask(socket: &mut Socket, words: &str) -> String {
    socket.send(Message::text(words)).await.unwrap();
    next(socket).await.into_text().unwrap().to_string()
}

/// The code with which it was closed, if it was.
async fn closed(socket: &mut Socket) -> Option<u16> {
    let mut code = None;
    loop {
        match timeout(PATIENCE, socket.next()).await.unwrap() {
            Some(Ok(Message::Close(told))) => code = told.map(|told| u16::from(told.code)),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return code,
        }
    }
}

/// What has to hold for one WebSocket, wherever it leads.
async fn everything_works(url: &str) {
    let mut socket = connect(url).await.unwrap();
    assert_eq!(ask(&mut socket, "hello").await, "hello");
    let large: Vec<u8> = (0..1024 * 1024u32).map(|byte| (byte % 251) as u8).collect();
    let (mut sink, mut stream) = socket.split();
    let sending = async {
        let sent = sink.send(Message::binary(large.clone())).await;
        sent.unwrap();
    };
    let (heard, ()) = tokio::join!(timeout(PATIENCE, stream.next()), sending);
    let heard = heard.unwrap().unwrap().unwrap();
    assert!(heard.into_data() == large, "a large message comes back");
    let mut socket = sink.reunite(stream).unwrap();
    let parts = [("in ", OpCode::Data(Data::Text), false)]
        .into_iter()
        .chain([("three ", OpCode::Data(Data::Continue), false)])
        .chain([("parts", OpCode::Data(Data::Continue), true)]);
    for (words, kind, is_last) in parts {
        let frame = Frame::message(words.as_bytes().to_vec(), kind, is_last);
        socket.send(Message::Frame(frame)).await.unwrap();
    }
    assert_eq!(next(&mut socket).await, Message::text("in three parts"));
    let ping = Message::Ping(vec![1, 2].into());
    socket.send(ping).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Pong(vec![1, 2].into()));
    socket.send(Message::text("close")).await.unwrap();
    closed(&mut socket).await;
}

async fn open_ones(agent: &Agent) -> f64 {
    let page = get(&agent.metrics_url).await.1;
    figure(&page, "realm_websockets_open{component=\"app\"}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_speaks_websocket_with_many_clients_at_once() {
    let realm = Realm::new();
    realm.app(WEBSOCKET, &keys(1));
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let url = socket_url(&agent, "/live?a=b");
    everything_works(&url).await;
    let mut socket = connect(&url).await.unwrap();
    let head = ask(&mut socket, "head").await.to_ascii_lowercase();
    for line in [
        "get /live?a=b http/1.1\r\n",
        "upgrade: websocket\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    for (path, status) in [("/refused", 403), ("/wrong", 502), ("/other", 502)] {
        match connect(&socket_url(&agent, path)).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status().as_u16(), status, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }

    let many = (0..100).map(|_| connect(&url));
    let many = futures_util::future::join_all(many).await;
    let mut many: Vec<Socket> = many.into_iter().map(Result::unwrap).collect();
    assert_eq!(ask(&mut many[99], "open").await, "101");
    assert_eq!(open_ones(&agent).await, 101.0);
    let answers = many.iter_mut().enumerate().map(async |(number, socket)| {
        for turn in 0..5 {
            let words = format!("{number} {turn}");
            assert_eq!(ask(socket, &words).await, words);
        }
    });
    futures_util::future::join_all(answers).await;
    // Who does not read what comes without an end is nobody's burden but his own.
    many[0].send(Message::text("flood")).await.unwrap();
    assert!(next(&mut many[0]).await.is_binary());
    assert_eq!(ask(&mut many[1], "still there").await, "still there");
    // Who goes without a word is missed by the guest as well.
    let mut last = many.pop().unwrap();
    drop(many);
    eventually("the guest has the others no more", async || {
        (ask(&mut last, "open").await == "2").then_some(())
    })
    .await;
    let page = get(&agent.metrics_url).await.1;
    let bytes = |direction: &str| {
        let series = "realm_websocket_bytes_total{component=\"app\",direction=";
        figure(&page, &format!("{series}\"{direction}\"}}"))
    };
    let mib = f64::from(1024 * 1024);
    assert!(bytes("in") > mib && bytes("out") > mib, "{page}");

    last.send(Message::text("crash")).await.unwrap();
    assert_eq!(closed(&mut last).await, None, "nobody said a word");
    closed(&mut socket).await;
    eventually("it is there again", async || connect(&url).await.ok()).await;
    eventually("none is open but what is", async || {
        (open_ones(&agent).await <= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_gets_the_websockets_within_half_a_minute_and_nobody_is_cut_off() {
    let realm = Realm::new();
    realm.app(WEBSOCKET, &keys(1));
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let url = socket_url(&agent, "/");
    let mut old = Vec::new();
    for _ in 0..5 {
        let mut socket = connect(&url).await.unwrap();
        assert_eq!(ask(&mut socket, "version").await, "1");
        old.push(socket);
    }
    realm.app(WEBSOCKET, &keys(2));
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
    let mut new = eventually("the new version answers", async || {
        let mut socket = connect(&url).await.ok()?;
        (ask(&mut socket, "version").await == "2").then_some(socket)
    })
    .await;
    for socket in &mut old {
        assert_eq!(closed(socket).await, Some(1001));
    }
    assert_eq!(ask(&mut new, "version").await, "2");
    // And so says a node that ends.
    agent.signal("TERM");
    assert_eq!(closed(&mut new).await, Some(1001));
    agent.ended();
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_and_events_reach_a_guest_on_another_node() {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    realms.apply(&format!(
        "[components.live]\nsource = \"file:{WEBSOCKET}\"\n{}\n\n\
         [components.events]\nsource = \"file:{EVENTS}\"\nwall_timeout_ms = 600_000\n\n\
         [routing]\nbeta = [{{ path = \"/live/...\", component = \"live\" }}, \
         {{ path = \"/events/...\", component = \"events\" }}]\n",
        keys(1)
    ));
    realms
        .run_there(&[("events", "beta"), ("live", "beta")])
        .await;
    let url = socket_url(realms.first().agent(), "/live/");
    let mut first = eventually("alpha knows the way", async || connect(&url).await.ok()).await;
    assert_eq!(ask(&mut first, "version").await, "1");
    everything_works(&url).await;
    let many = (0..30).map(|_| connect(&url));
    let many = futures_util::future::join_all(many).await;
    let mut many: Vec<Socket> = many.into_iter().map(Result::unwrap).collect();
    for (number, socket) in many.iter_mut().enumerate() {
        let words = number.to_string();
        assert_eq!(ask(socket, &words).await, words);
    }
    events(realms.first().agent(), "/events/").await;
    realms.nodes[1].kill_9();
    for socket in &mut many {
        closed(socket).await;
    }
}

/// The first event is there long before the next one is: nobody on the way waits for more.
async fn events(agent: &Agent, path: &str) {
    let few = get(&agent.url(&format!("{path}?n=3"))).await;
    assert_eq!(few, (200, "data: 0\n\ndata: 1\n\ndata: 2\n\n".to_owned()));
    let asked = reqwest::get(agent.url(&format!("{path}?n=2&ms=500000")));
    let mut answer = timeout(PATIENCE, asked).await.unwrap().unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let first = timeout(PATIENCE, answer.chunk()).await.unwrap().unwrap();
    assert_eq!(first.as_deref(), Some(&b"data: 0\n\n"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_one_by_one_and_end_with_their_client() {
    let realm = Realm::new();
    realm.app(EVENTS, "wall_timeout_ms = 600_000");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    events(&agent, "/").await;
    eventually("nothing goes on for who has gone", async || {
        let page = get(&agent.metrics_url).await.1;
        let series = "realm_replica_requests_in_flight{component=\"app\",slot=\"0\"}";
        (figure(&page, series) == 0.0).then_some(())
    })
    .await;
    // Browsers read the same over HTTP/2 and HTTP/1.1; time ends what has no end.
    tokio::time::timeout(Duration::from_secs(60), events(&agent, "/"))
        .await
        .unwrap();
}
