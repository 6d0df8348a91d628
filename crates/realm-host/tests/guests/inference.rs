//! Guests that ask models: the same ones of two engines, and one as it was built for Spin.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use realm_backends::Watch;
use realm_backends::inference::{Engine, EngineSettings, Patience, Room};
use realm_host::Store;
use realm_test_guests as guests;
use tokio::time::timeout;

use crate::engines::{EngineServer, KEY};
use crate::harness::{Guest, Loaded, guest};

/// Says why an engine could not be used where a failed test shows it.
struct Aloud;

impl Watch for Aloud {
    #[expect(clippy::print_stderr, reason = "a failed test shows it")]
    fn down(&self, why: &str) {
        eprintln!("{why}");
    }

    fn up(&self) {}
}

fn store(port: u16) -> Store {
    let settings = EngineSettings {
        endpoint: format!("http://127.0.0.1:{port}/v1"),
        model: "small".to_owned(),
        secret: Some(KEY.to_owned().into()),
        authorities: None,
        room: Room::default(),
        patience: Patience::default(),
    };
    let engine = Engine::new(settings, Arc::new(Aloud)).unwrap();
    Store::Inference(Arc::new(engine))
}

/// A guest that asks one engine for answers and for vectors.
fn with(path: &'static str, port: u16) -> Guest {
    let store = store(port);
    guest(path)
        .bind("default", store.clone())
        .bind("vectors", store)
}

async fn said(loaded: &Loaded, target: &str) -> String {
    loaded.get(target).await.unwrap().text().to_owned()
}

/// What every engine has to answer.
async fn passes(server: &EngineServer) {
    let loaded = with(guests::INFERENCE, server.port).load();
    let lines = loaded.body("/").await;
    assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
    assert_eq!(lines.lines().count(), 10, "{lines}");
    // As it comes: what is whole is the same.
    let whole = loaded.body("/ask?tokens=40").await;
    let streamed = loaded.body("/stream?tokens=40").await;
    assert_eq!(streamed, format!("{whole}\nSome(Finish::Length)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn inference() {
    let mut server = EngineServer::llama();
    passes(&server).await;
    server.stop();
    let loaded = with(guests::INFERENCE, server.port).load();
    for target in ["/ask", "/vectors", "/leave"] {
        assert_eq!(
            said(&loaded, target).await,
            "Error::Unavailable",
            "{target}"
        );
    }
    assert_eq!(loaded.body("/stream").await, "\nError::Unavailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inference_in_mistral_rs() {
    passes(&EngineServer::mistral()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn spin_llm() {
    for server in [EngineServer::llama(), EngineServer::mistral()] {
        let store = store(server.port);
        let loaded = guest(guests::SPIN_LLM)
            .bind("llama2-chat", store.clone())
            .bind("all-minilm-l6-v2", store)
            .load();
        let asked = "/?model=llama2-chat&text=hello&tokens=12";
        let answer = loaded.body(asked).await;
        let mut words = answer.splitn(3, ' ');
        let mut number = || words.next().unwrap().parse::<u32>().unwrap();
        assert!(number() > 0, "{answer}");
        assert_eq!(number(), 12, "{answer}");
        assert!(!words.next().unwrap().is_empty(), "{answer}");
        // The likeliest words, among those that have nine tenths together.
        assert_eq!(loaded.body(asked).await, answer);
        let vectors = loaded
            .body("/vectors?model=all-minilm-l6-v2&text=hello")
            .await;
        assert!(vectors.starts_with("[64, 64] "), "{vectors}");
        let unknown = said(&loaded, "/?model=elsewhere&text=hello").await;
        assert_eq!(unknown, "Error::ModelNotSupported");
        for wrong in ["&temperature=9", "&temperature=NaN"] {
            let said = said(&loaded, &format!("{asked}{wrong}")).await;
            assert!(
                said.starts_with("Error::InvalidInput(\"a temperature"),
                "{said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_ends_with_the_guest_that_waits_for_it() {
    for target in ["/leave", "/wait"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Says one word, and tells when nobody listens any more.
        let (gone, heard) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 4_096];
            let mut asked = String::new();
            while !asked.contains("\"stream_options\"") {
                let length = stream.read(&mut bytes).unwrap();
                asked += &String::from_utf8_lossy(&bytes[..length]);
            }
            let word = r#"{"choices":[{"delta":{"content":"hm"}}]}"#;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
            write!(stream, "{head}data: {word}\n\n").unwrap();
            // Whatever comes now is the end.
            let _ = stream.read(&mut bytes);
            let _ = gone.send(());
        });
        let loaded = with(guests::INFERENCE, port)
            .limits(|limits| limits.epoch_timeout_ms = 300)
            .load();
        let answer = loaded.get(target).await;
        match target {
            "/leave" => assert_eq!(answer.unwrap().text(), "hm"),
            _ => assert!(answer.is_err()),
        }
        let heard = timeout(Duration::from_secs(60), heard).await;
        assert!(heard.is_ok_and(|heard| heard.is_ok()), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_counted_and_go_nowhere_without_a_binding() {
    let server = EngineServer::llama();
    let slow = with(guests::INFERENCE, server.port)
        .limits(|limits| limits.operations_per_sec = Some(1))
        .load();
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(said(&slow, "/vectors?text=a").await);
    }
    assert!(answers.iter().any(|one| one == "64"), "{answers:?}");
    assert!(
        answers.iter().any(|one| one == "Error::Quota"),
        "{answers:?}"
    );
    let unbound = guest(guests::INFERENCE).load();
    for target in ["/ask", "/vectors", "/leave"] {
        assert_eq!(said(&unbound, target).await, "Error::NoSuchModel");
    }
}
