//! Engines that run models, behind the API that most of them speak: `/chat/completions` with its answers as
//! events, and `/embeddings`.
//!
//! Not here: an engine. A generation is a task in the runtime of the node, which holds one request open and
//! hands over what comes; when nobody wants it any more, the connection goes and the engine stops.

mod answers;
mod events;
mod generation;
mod metered;
mod request;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use realm_model::cloud::inference::{Embedded, Prompt, check_texts};
use realm_model::cloud::limits::{
    CALL_TIMEOUT_MS, DIMENSION_MAX, EMBEDDED_NUMBER_BYTES, FIRST_WORD_MS_MAX, GENERATION_MS_MAX,
    GENERATIONS_MAX, NEXT_WORD_MS_MAX, NODE_GENERATIONS_MAX,
};
use realm_model::cloud::{Answer, CloudError, Generation, Inference, InferenceError};
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::asking::{Alone, NotHeaders, headers, is_hung_up, retry_after, words};
use crate::server::{Access, ServerError, tls_config};
use crate::watch::{Health, Watch};

pub use metered::{Metered, Spending, Spent};

/// Until an engine has to have taken a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Where an engine is, as whom it is asked, and for which model.
pub struct EngineSettings {
    /// `http://HOST:PORT/v1`, to which `/chat/completions` and `/embeddings` are added.
    pub endpoint: String,
    /// What the engine calls it.
    pub model: String,
    /// A key, or headers as `NAME=VALUE,..`.
    pub secret: Option<Zeroizing<String>>,
    /// Certificates of authorities beside those that the machine and browsers trust: a file in PEM.
    pub authorities: Option<PathBuf>,
    /// What the bindings of a node share.
    pub room: Room,
    /// How long it is waited for.
    pub patience: Patience,
}

/// Room for the generations of all bindings of a node.
#[derive(Clone)]
pub struct Room {
    whole: Arc<Whole>,
    /// What a namespace has of it; `None`: there is no such bound.
    share: Option<Arc<Semaphore>>,
}

struct Whole {
    places: Arc<Semaphore>,
    n: usize,
    /// By namespace, those that anybody has.
    shares: Mutex<BTreeMap<String, Weak<Semaphore>>>,
}

/// A namespace has one of so many parts of the room of a node.
const SHARE: usize = 4;

impl Room {
    /// For so many at a time.
    pub fn new(places: usize) -> Self {
        let whole = Whole {
            places: Arc::new(Semaphore::new(places)),
            n: places,
            shares: Mutex::default(),
        };
        Self {
            whole: Arc::new(whole),
            share: None,
        }
    }

    /// The same for a binding, `NAMESPACE/NAME` or one of the owners' own. All of a namespace have a quarter of
    /// it among them: whatever they ask for and however long it takes, others have room.
    #[must_use]
    pub fn of(&self, binding: &str) -> Self {
        let Some((namespace, _)) = binding.split_once('/') else {
            return self.clone();
        };
        // Whole after each statement.
        let shares = self.whole.shares.lock();
        let mut shares = shares.unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| share.strong_count() > 0);
        let there = shares.get(namespace).and_then(Weak::upgrade);
        let share = there.unwrap_or_else(|| {
            let share = Arc::new(Semaphore::new((self.whole.n / SHARE).max(1)));
            shares.insert(namespace.to_owned(), Arc::downgrade(&share));
            share
        });
        Self {
            whole: Arc::clone(&self.whole),
            share: Some(share),
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new(NODE_GENERATIONS_MAX)
    }
}

/// How long an engine is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the request to the first word.
    pub first_word: Duration,
    /// From one word to the next.
    pub next_word: Duration,
    /// From the request to the end.
    pub whole: Duration,
    /// Until a call of a guest ends.
    pub call: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_word: Duration::from_millis(FIRST_WORD_MS_MAX),
            next_word: Duration::from_millis(NEXT_WORD_MS_MAX),
            whole: Duration::from_millis(GENERATION_MS_MAX),
            call: Duration::from_millis(CALL_TIMEOUT_MS),
        }
    }
}

/// Why an engine cannot be asked as it is named; it was not asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What it is to be believed by.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The secret is neither a key nor a list of headers.
    #[error(transparent)]
    Headers(#[from] NotHeaders),
    /// The client could not be made.
    #[error("the client could not be made")]
    Client(#[source] reqwest::Error),
}

/// An engine, asked for one model.
pub struct Engine {
    asking: Arc<Asking>,
    places: Arc<Semaphore>,
    room: Room,
    runtime: Handle,
}

/// What it takes to ask.
struct Asking {
    client: Client,
    endpoint: String,
    model: String,
    patience: Patience,
    health: Health,
}

/// A place of a binding, of a namespace and of the node.
type Permits = Vec<OwnedSemaphorePermit>;

/// Why there is no answer, for the operator and for the guest.
struct Failure {
    /// `None`: the engine is well.
    cause: Option<String>,
    said: InferenceError,
}

impl Engine {
    /// One that is asked when there is something to ask. Needs a runtime of tokio, in which it is asked.
    ///
    /// # Errors
    /// When it cannot be asked as the settings say.
    pub fn new(settings: EngineSettings, watch: Arc<dyn Watch>) -> Result<Self, EngineError> {
        let EngineSettings {
            endpoint,
            model,
            secret,
            authorities,
            room,
            patience,
        } = settings;
        let access = Access {
            authorities,
            ..Access::default()
        };
        let headers = secret.as_ref().map(|text| headers(text, Alone::Key));
        let client = Client::builder()
            .tls_backend_preconfigured(tls_config(&access)?)
            .default_headers(headers.transpose()?.unwrap_or_default())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(GENERATIONS_MAX)
            // The engine is who the manifest names, and nobody else gets the key and the prompts.
            .redirect(Policy::none())
            .no_proxy()
            .build()
            .map_err(EngineError::Client)?;
        Ok(Self {
            asking: Arc::new(Asking {
                client,
                endpoint,
                model,
                patience,
                health: Health::new(watch),
            }),
            places: Arc::new(Semaphore::new(GENERATIONS_MAX)),
            room,
            runtime: Handle::current(),
        })
    }

    /// A place among those who ask, for as long as it is held.
    async fn place(&self) -> Result<Permits, InferenceError> {
        // Who waits for its own kind keeps none of those from a place who have nothing to do with it.
        let room = [&self.places].into_iter().chain(&self.room.share);
        let room = room.chain([&self.room.whole.places]);
        let place = async {
            let mut permits = Permits::new();
            for places in room {
                permits.push(Arc::clone(places).acquire_owned().await?);
            }
            Ok(permits)
        };
        let place: Result<Permits, tokio::sync::AcquireError> =
            timeout(self.asking.patience.call, place)
                .await
                .map_err(|_| InferenceError::Busy(None))?;
        // Nobody closes them.
        place.map_err(|_| CloudError::Unavailable.into())
    }

    async fn begin(&self, prompt: Prompt) -> Result<Box<dyn Generation>, InferenceError> {
        prompt.check()?;
        let body = request::chat(&self.asking.model, &prompt)?;
        drop(prompt);
        let permits = self.place().await?;
        let begun = generation::begin(&self.asking, body, permits, &self.runtime);
        Ok(Box::new(begun))
    }

    async fn vectors(&self, texts: Vec<String>) -> Result<Embedded, InferenceError> {
        check_texts(&texts)?;
        let n_texts = texts.len();
        let body = request::embeddings(&self.asking.model, &texts)?;
        drop(texts);
        let permits = self.place().await?;
        let asking = Arc::clone(&self.asking);
        // Ends with this future.
        let mut task = JoinSet::new();
        task.spawn_on(
            async move {
                let made = timeout(asking.patience.call, asking.embed(body, n_texts));
                let made = made.await.unwrap_or_else(|_| {
                    Err(Failure {
                        cause: Some("it makes no vectors in time".to_owned()),
                        said: CloudError::Timeout.into(),
                    })
                });
                drop(permits);
                asking.told(made)
            },
            &self.runtime,
        );
        let made = task.join_next().await.and_then(Result::ok);
        made.unwrap_or(Err(CloudError::Unavailable.into()))
    }
}

impl Inference for Engine {
    fn generate(&self, prompt: Prompt) -> Answer<'_, Box<dyn Generation>, InferenceError> {
        Box::pin(self.begin(prompt))
    }

    fn embed(&self, texts: Vec<String>) -> Answer<'_, Embedded, InferenceError> {
        Box::pin(self.vectors(texts))
    }
}

impl Asking {
    /// Tells the operator how it went, and hands on what the guest hears.
    fn told<T>(&self, went: Result<T, Failure>) -> Result<T, InferenceError> {
        match went {
            Ok(done) => {
                self.health.answered();
                Ok(done)
            }
            Err(Failure { cause: None, said }) => {
                self.health.answered();
                Err(said)
            }
            Err(Failure {
                cause: Some(cause),
                said,
            }) => {
                self.health.failed(&format!("`{}`: {cause}", self.endpoint));
                Err(said)
            }
        }
    }

    /// Asks, and looks at what the answer says of itself.
    async fn post(&self, path: &str, body: Vec<u8>) -> Result<Response, Failure> {
        let request = self
            .client
            .post(format!("{}{path}", self.endpoint))
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let again = request.try_clone();
        let mut sent = request.send().await;
        // Who closes a kept connection in the moment in which it is used again has read nothing of this.
        if let (Err(error), Some(again)) = (&sent, again)
            && is_hung_up(error)
        {
            sent = again.send().await;
        }
        let response = sent.map_err(|error| Failure::down(words(&error.without_url())))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let pause = retry_after(response.headers());
        let pause = pause.map(|pause| u32::try_from(pause.as_secs()).unwrap_or(u32::MAX));
        let well = |said| Failure { cause: None, said };
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS => well(InferenceError::Busy(pause)),
            // Who says when is well, and has much to do.
            StatusCode::SERVICE_UNAVAILABLE if pause.is_some() => well(InferenceError::Busy(pause)),
            StatusCode::PAYLOAD_TOO_LARGE => well(InferenceError::TooLong),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                let body = whole(response, REFUSAL_BYTES_MAX).await.unwrap_or_default();
                well(answers::refusal(&body))
            }
            StatusCode::NOT_IMPLEMENTED => well(CloudError::Unsupported("do this").into()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::down(format!("it does not let this node in ({status})"))
            }
            StatusCode::NOT_FOUND => Failure::down(format!(
                "`{path}` answers {status}: has it the model `{}`?",
                self.model
            )),
            _ => Failure::down(format!("`{path}` answers {status}")),
        })
    }

    async fn embed(&self, body: Vec<u8>, n_texts: usize) -> Result<Embedded, Failure> {
        let response = self.post("/embeddings", body).await?;
        let bytes_max = n_texts * DIMENSION_MAX as usize * EMBEDDED_NUMBER_BYTES;
        let body = whole(response, bytes_max + REFUSAL_BYTES_MAX).await?;
        // Megabytes of numbers take their time.
        let read = tokio::task::spawn_blocking(move || answers::vectors(&body, n_texts)).await;
        let read = read.map_err(|_| Failure::senseless())?;
        read.map_err(|_| Failure::senseless())
    }
}

/// The whole body of an answer.
async fn whole(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await;
        let chunk = chunk.map_err(|error| Failure::down(words(&error.without_url())))?;
        let Some(chunk) = chunk else {
            return Ok(body);
        };
        if body.len() + chunk.len() > bytes_max {
            return Err(Failure::senseless());
        }
        body.extend_from_slice(&chunk);
    }
}

impl Failure {
    /// The engine cannot be used, for this reason.
    fn down(cause: impl Into<String>) -> Self {
        Self {
            cause: Some(cause.into()),
            said: CloudError::Unavailable.into(),
        }
    }

    /// It answers, and not as it should.
    fn senseless() -> Self {
        Self {
            cause: Some("it does not answer as the API of OpenAI has it".to_owned()),
            said: InferenceError::Malformed,
        }
    }
}
