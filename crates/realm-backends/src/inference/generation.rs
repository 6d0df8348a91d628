//! One generation: a task that holds the request open and hands over pieces as they come, until the engine
//! is done, stands still, says too much, or nobody wants more.

use std::sync::Arc;
use std::time::Duration;

use realm_model::cloud::inference::{Ending, Finish, Piece};
use realm_model::cloud::limits::{
    COMPLETION_BYTES_MAX, GENERATION_BYTES_MAX, PIECE_BYTES_MAX, PIECES_MAX,
};
use realm_model::cloud::{Answer, CloudError, Generation, InferenceError};
use reqwest::Response;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::answers::{self, Event, Said};
use super::events::Events;
use super::{Asking, Failure, Permits};
use crate::asking::words;

/// How long an engine has to say what an answer took, once it said that this is its end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long it has to end its answer once it said that all of it came: then the connection is used again.
const GOODBYE: Duration = Duration::from_millis(100);

type Came = Result<Piece, InferenceError>;

/// Begins to ask.
pub(super) fn begin(
    asking: &Arc<Asking>,
    body: Vec<u8>,
    permits: Permits,
    runtime: &Handle,
) -> Coming {
    let (pieces, came) = mpsc::channel(PIECES_MAX);
    let mut task = JoinSet::new();
    let call = asking.patience.call;
    task.spawn_on(run(Arc::clone(asking), body, permits, pieces), runtime);
    Coming {
        came,
        call,
        over: None,
        _task: task,
    }
}

async fn run(asking: Arc<Asking>, body: Vec<u8>, permits: Permits, pieces: Sender<Came>) {
    let ended = timeout(asking.patience.whole, listen(&asking, body, &pieces)).await;
    // Whoever is slow, the engine or who reads.
    let ended = ended.unwrap_or_else(|_| Err(unread()));
    // Others may begin, however late this one is read.
    drop(permits);
    let last = asking.told(ended).map(Piece::End);
    // Nobody may want to know.
    let _ = pieces.send(last).await;
}

/// What is known of an answer so far.
#[derive(Default)]
struct SoFar {
    n_bytes: usize,
    finish: Option<Finish>,
    tokens: Option<(u32, u32)>,
}

impl SoFar {
    fn ending(&self, finish: Finish) -> Ending {
        Ending {
            finish,
            tokens_in: self.tokens.map(|(tokens_in, _)| tokens_in),
            tokens_out: self.tokens.map(|(_, tokens_out)| tokens_out),
        }
    }
}

async fn listen(asking: &Asking, body: Vec<u8>, pieces: &Sender<Came>) -> Result<Ending, Failure> {
    let mut until = Instant::now() + asking.patience.first_word;
    let response = timeout_at(until, asking.post("/chat/completions", body)).await;
    let mut response = response.unwrap_or_else(|_| Err(silent()))?;
    let (mut events, mut so_far) = (Events::default(), SoFar::default());
    let (mut n_bytes, mut n_events) = (0, 0_u64);
    loop {
        let chunk = match timeout_at(until, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| Failure::down(words(&error.without_url())))?,
            Err(_) => match so_far.finish {
                Some(_) => None,
                None => return Err(silent()),
            },
        };
        let Some(chunk) = chunk else {
            break;
        };
        n_bytes += chunk.len();
        let whole = events.take(&chunk).map_err(|_| Failure::senseless())?;
        if n_bytes > GENERATION_BYTES_MAX {
            return Err(Failure::senseless());
        }
        for data in whole {
            let event = answers::event(&data).map_err(|_| Failure::senseless())?;
            if n_events == 0 {
                asking.health.answered();
            }
            n_events += 1;
            match event {
                Event::Said(said) => {
                    let taken = take(&mut so_far, said, pieces, asking.patience.next_word).await?;
                    if let Some(ending) = taken {
                        return Ok(ending);
                    }
                }
                Event::Done => return done(response, &so_far).await,
                Event::Broken => return Err(Failure::down("it breaks an answer off")),
            }
            // From here on: who reads may have taken long.
            until = Instant::now()
                + match so_far.finish {
                    Some(_) => LAST_WORDS,
                    None => asking.patience.next_word,
                };
        }
    }
    match so_far.finish {
        Some(finish) => Ok(so_far.ending(finish)),
        None if n_events == 0 => Err(Failure::senseless()),
        None => Err(Failure::down("its answer ends in the middle")),
    }
}

/// Hands over what an event says; the end, where there is as much as there may be. Who reads nothing for as
/// long as an engine may say nothing is given up as that is: it keeps a place that others wait for.
async fn take(
    so_far: &mut SoFar,
    said: Said,
    pieces: &Sender<Came>,
    patience: Duration,
) -> Result<Option<Ending>, Failure> {
    let Said {
        text,
        finish,
        tokens,
    } = said;
    so_far.tokens = tokens.or(so_far.tokens);
    let is_over = so_far.finish.is_some();
    so_far.finish = so_far.finish.or(finish);
    if is_over {
        return Ok(None);
    }
    let (fits, rest) = split(&text, COMPLETION_BYTES_MAX - so_far.n_bytes);
    so_far.n_bytes += fits.len();
    let mut left = fits;
    while !left.is_empty() {
        let (piece, behind) = split(left, PIECE_BYTES_MAX);
        left = behind;
        let sent = timeout(patience, pieces.send(Ok(Piece::Text(piece.to_owned()))));
        // Nobody wants more: the task ends with who wanted it.
        let _ = sent.await.map_err(|_| unread())?;
    }
    Ok((!rest.is_empty()).then(|| so_far.ending(Finish::Length)))
}

/// The engine says that this is all.
async fn done(mut response: Response, so_far: &SoFar) -> Result<Ending, Failure> {
    let finish = so_far.finish;
    let finish = finish.ok_or_else(|| Failure::down("its answer ends without saying why"))?;
    let _ = timeout(GOODBYE, response.chunk()).await;
    Ok(so_far.ending(finish))
}

/// As much of a text as fits, and the rest.
fn split(text: &str, n_bytes: usize) -> (&str, &str) {
    text.split_at(text.floor_char_boundary(n_bytes))
}

/// No fault of the engine's.
fn unread() -> Failure {
    Failure {
        cause: None,
        said: CloudError::Timeout.into(),
    }
}

fn silent() -> Failure {
    Failure {
        cause: Some("it says nothing in time".to_owned()),
        said: CloudError::Timeout.into(),
    }
}

/// A generation as its reader has it.
pub(super) struct Coming {
    came: Receiver<Came>,
    call: Duration,
    /// The last word, which stays so.
    over: Option<Came>,
    /// Ends with this, and the request with it.
    _task: JoinSet<()>,
}

impl Coming {
    async fn next_piece(&mut self) -> Came {
        if let Some(last) = &self.over {
            return last.clone();
        }
        let Ok(came) = timeout(self.call, self.came.recv()).await else {
            return Ok(Piece::Nothing);
        };
        // The node ends.
        let came = came.unwrap_or(Err(CloudError::Unavailable.into()));
        if !matches!(came, Ok(Piece::Text(_) | Piece::Nothing)) {
            self.over = Some(came.clone());
        }
        came
    }
}

impl Generation for Coming {
    fn next(&mut self) -> Answer<'_, Piece, InferenceError> {
        Box::pin(self.next_piece())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_between_characters() {
        assert_eq!(split("aüb", 2), ("a", "üb"));
        assert_eq!(split("aüb", 3), ("aü", "b"));
        assert_eq!(split("aüb", 9), ("aüb", ""));
        assert_eq!(split("ü", 0), ("", "ü"));
    }
}
