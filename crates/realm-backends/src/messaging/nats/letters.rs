//! Dead letters on NATS: a stream of their own, of which the number of a letter is the sequence.

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Stream;
use realm_model::cloud::{CloudError, DEAD_WHY, Letter, Message};

use super::link::{Kind, Link};
use super::{NOT_THERE, headers};

/// Numbers that are looked at: there are 1,000 letters, and between them those that were dealt with.
const LOOKS_MAX: usize = 5_000;

/// What one says that is kept without its bytes.
pub(super) const WITHOUT: &str = "(without its bytes, which do not fit beside this) ";

async fn stream(link: &Link) -> Result<Stream, CloudError> {
    let connected = link.get().await?;
    let name = link.stream_name(Kind::Dead);
    let stream = connected.jetstream.get_stream(&name).await;
    stream.map_err(|error| link.failed(&error))
}

async fn read(link: &Link, stream: &Stream, number: u64) -> Result<Option<Message>, CloudError> {
    // The server is asked for no number that it cannot have.
    let state = &stream.cached_info().state;
    if !(state.first_sequence.max(1)..=state.last_sequence).contains(&number) {
        return Ok(None);
    }
    match stream.get_raw_message(number).await {
        Ok(found) => {
            let mut letter = headers::read("", Some(&found.headers), &found.payload);
            letter.topic = None;
            Ok(Some(letter))
        }
        // A newer one took its place meanwhile, or it was dealt with.
        Err(error) if error.to_string().contains(NOT_THERE) => Ok(None),
        Err(error) => Err(link.failed(&error)),
    }
}

/// The numbers that letters may have, the newest first.
fn numbers(stream: &Stream) -> impl Iterator<Item = u64> {
    let state = &stream.cached_info().state;
    let numbers = state.first_sequence.max(1)..=state.last_sequence;
    numbers.rev().take(LOOKS_MAX)
}

pub(super) async fn newest(link: &Link, n_max: usize) -> Result<Vec<Message>, CloudError> {
    let stream = stream(link).await?;
    let mut letters = Vec::new();
    for number in numbers(&stream) {
        if letters.len() == n_max {
            break;
        }
        letters.extend(read(link, &stream, number).await?);
    }
    Ok(letters)
}

pub(super) async fn all(link: &Link) -> Result<Vec<Letter>, CloudError> {
    let stream = stream(link).await?;
    let n_max = stream.cached_info().state.messages;
    let mut letters = Vec::new();
    for number in numbers(&stream) {
        if letters.len() as u64 == n_max {
            break;
        }
        let found = read(link, &stream, number).await?;
        letters.extend(found.map(|message| {
            let letter = letter(number, message);
            Letter {
                message: Message {
                    data: Vec::new(),
                    ..letter.message
                },
                ..letter
            }
        }));
    }
    Ok(letters)
}

pub(super) async fn one(link: &Link, number: u64) -> Result<Option<Letter>, CloudError> {
    let stream = stream(link).await?;
    let found = read(link, &stream, number).await?;
    Ok(found.map(|message| letter(number, message)))
}

fn letter(number: u64, message: Message) -> Letter {
    Letter {
        number,
        n_bytes: message.to_bytes().len() as u64,
        message,
    }
}

/// Sends a letter to its topic again, or drops it: whether it was there.
pub(super) async fn settle(link: &Link, number: u64, is_retried: bool) -> Result<bool, CloudError> {
    let stream = stream(link).await?;
    let Some(message) = read(link, &stream, number).await? else {
        return Ok(false);
    };
    if is_retried {
        let mut pairs = message.metadata.iter();
        if pairs.any(|(key, why)| key == DEAD_WHY && why.starts_with(WITHOUT)) {
            return Err(CloudError::NotFound("the bytes of the message"));
        }
        let message = message.into_alive();
        let topic = message.topic.clone().unwrap_or_default();
        let sent = PublishMessage::build()
            .headers(headers::write(&message))
            .payload(message.data.into());
        link.publish(link.names.subject(&topic), sent).await?;
    }
    // Where this fails it is sent, and a letter still: rather twice than not at all.
    match stream.delete_message(number).await {
        Ok(_) => Ok(true),
        Err(error) if error.to_string().contains(NOT_THERE) => Ok(true),
        Err(error) => Err(link.failed(&error)),
    }
}
