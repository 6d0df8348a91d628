//! Engines that run models: real ones, and servers that say anything at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attacks;
#[path = "../../../../tests/peers/inference.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of guests, which ask both engines"
)]
mod engines;
mod hostile;
mod kept;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use realm_backends::Watch;
use realm_backends::inference::{Engine, EngineSettings, Patience, Room};
use realm_model::cloud::inference::{Embedded, Ending, Manner, Piece, Prompt, Role, Utterance};
use realm_model::cloud::{CloudError, Generation, Inference as _, InferenceError};

use engines::{EngineServer, KEY};
use hostile::{Does, Hostile};

/// What an operator hears.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Watch for Heard {
    fn down(&self, why: &str) {
        self.0.lock().unwrap().push(format!("down {why}"));
    }

    fn up(&self) {
        self.0.lock().unwrap().push("up".to_owned());
    }
}

impl Heard {
    /// Everything since the last time.
    fn all(&self) -> String {
        let mut all = self.0.lock().unwrap();
        all.drain(..).collect::<Vec<_>>().join("; ")
    }
}

struct Asked {
    engine: Engine,
    heard: Arc<Heard>,
}

fn settings(port: u16) -> EngineSettings {
    EngineSettings {
        endpoint: format!("http://127.0.0.1:{port}/v1"),
        model: "small".to_owned(),
        secret: Some(KEY.to_owned().into()),
        authorities: None,
        room: Room::default(),
        patience: Patience::default(),
    }
}

fn engine(settings: EngineSettings) -> Asked {
    let heard = Arc::new(Heard::default());
    let engine = Engine::new(settings, heard.clone()).unwrap();
    Asked { engine, heard }
}

/// A server that does this, and who asks it.
async fn hostile(does: Vec<Does>, patience: Patience) -> (Hostile, Asked) {
    let server = Hostile::start(does).await;
    let asked = engine(EngineSettings {
        patience,
        ..settings(server.port)
    });
    (server, asked)
}

fn prompt(text: &str, tokens_max: u32) -> Prompt {
    Prompt {
        utterances: vec![Utterance {
            role: Role::User,
            text: text.to_owned(),
        }],
        manner: Manner {
            tokens_max,
            temperature: Some(0.0),
            ..Manner::default()
        },
    }
}

/// What came, and how it ended.
async fn all(generation: &mut dyn Generation) -> (String, Result<Ending, InferenceError>) {
    let mut text = String::new();
    loop {
        match generation.next().await {
            Ok(Piece::Text(more)) => {
                assert!(!more.is_empty() && more.len() <= 16 * 1024);
                text += &more;
            }
            Ok(Piece::Nothing) => {}
            Ok(Piece::End(ending)) => return (text, Ok(ending)),
            Err(error) => return (text, Err(error)),
        }
    }
}

impl Asked {
    async fn ask(&self, text: &str) -> (String, Result<Ending, InferenceError>) {
        let mut generation = self.engine.generate(prompt(text, 16)).await.unwrap();
        all(&mut *generation).await
    }

    async fn embed(&self, texts: &[&str]) -> Result<Embedded, InferenceError> {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        self.engine.embed(texts).await
    }
}

const UNAVAILABLE: InferenceError = InferenceError::Cloud(CloudError::Unavailable);
const TIMEOUT: InferenceError = InferenceError::Cloud(CloudError::Timeout);

#[tokio::test]
async fn a_prompt_that_the_model_cannot_read_and_a_wrong_key_are_told_apart() {
    let mut server = EngineServer::llama();
    let asked = engine(settings(server.port));
    let (text, ended) = asked.ask("hello there").await;
    assert!(!text.is_empty());
    assert_eq!(ended.unwrap().tokens_out, Some(16));
    let (_, ended) = asked.ask(&"a ".repeat(100_000)).await;
    assert_eq!(ended, Err(InferenceError::TooLong));
    let mut unfit = prompt("hello", 16);
    unfit.manner.json_schema = Some(r#"{"type":"nonsense"}"#.to_owned());
    let mut generation = asked.engine.generate(unfit).await.unwrap();
    assert_eq!(all(&mut *generation).await.1, Err(InferenceError::Refused));
    assert_eq!(asked.heard.all(), "");

    let stranger = engine(EngineSettings {
        secret: Some("another-key".to_owned().into()),
        ..settings(server.port)
    });
    assert_eq!(stranger.ask("hello").await.1, Err(UNAVAILABLE));
    assert_eq!(stranger.embed(&["hello"]).await, Err(UNAVAILABLE));
    let heard = stranger.heard.all();
    assert!(heard.contains("does not let this node in (401"), "{heard}");
    assert!(!heard.contains("another-key"), "{heard}");

    server.stop();
    assert_eq!(asked.ask("hello").await.1, Err(UNAVAILABLE));
    let heard = asked.heard.all();
    assert!(heard.starts_with("down `http://127.0.0.1"), "{heard}");
    server.start_again();
    assert!(asked.ask("hello").await.1.is_ok());
    assert_eq!(asked.heard.all(), "up");
}

#[tokio::test]
async fn an_engine_is_asked_over_tls_if_its_certificate_is_good() {
    let server = EngineServer::mistral_with(certify);
    let secure = |authorities| EngineSettings {
        endpoint: server.endpoint().replace("http:", "https:"),
        authorities,
        ..settings(server.port)
    };
    let authority = server.folder().join("authority.pem");
    let asked = engine(secure(Some(authority)));
    assert_eq!(asked.ask("hello").await.1.unwrap().tokens_out, Some(16));
    assert_eq!(asked.heard.all(), "");
    let stranger = engine(secure(None));
    assert_eq!(stranger.ask("hello").await.1, Err(UNAVAILABLE));
    let heard = stranger.heard.all();
    assert!(heard.contains("certificate"), "{heard}");
}

/// Puts a certificate of `127.0.0.1`, its key, and who signed it where a server finds them.
fn certify(folder: &Path) {
    let mut of_authority = rcgen::CertificateParams::new([]).unwrap();
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let root = of_authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(of_authority, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    fs::write(folder.join("certificate.pem"), leaf.pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(folder.join("authority.pem"), root.pem()).unwrap();
}

#[tokio::test]
async fn an_engine_stops_when_nobody_wants_the_rest() {
    let server = EngineServer::llama();
    let asked = engine(settings(server.port));
    let figure = async |name: &str| {
        let page = reqwest::Client::new()
            .get(format!("http://127.0.0.1:{}/metrics", server.port))
            .bearer_auth(KEY)
            .send()
            .await
            .unwrap();
        let page = page.text().await.unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse::<f64>().unwrap()
    };
    let mut generation = asked
        .engine
        .generate(prompt("hello", 30_000))
        .await
        .unwrap();
    assert!(matches!(generation.next().await, Ok(Piece::Text(_))));
    assert!(figure("llamacpp:requests_processing ").await > 0.0);
    drop(generation);
    loop {
        if figure("llamacpp:requests_processing ").await < 1.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let written = figure("llamacpp:tokens_predicted_total ").await;
    assert!(written < 29_000.0, "{written}");
}
