//! Dead letters: what nobody could deal with is shown to the operator, delivered again, or dropped.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use realm_model::api::{DeadAct, DeadLetter, DeadLetters, DeadMessage, DeadSettled, SettleDead};
use realm_model::cloud::{
    CloudError, DEAD_AT, DEAD_DELIVERIES, DEAD_GROUP, DEAD_WHY, Letter, Message, Messaging,
};
use serde::Deserialize;

use super::{Api, Failed, bad_query, failed, read_capped};
use crate::event::Event;

/// The body that says what is to become of letters.
const BODY_BYTES_MAX: usize = 4 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    binding: String,
    number: Option<u64>,
}

pub(super) async fn letters(
    State(api): State<Api>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Failed> {
    let Query(Asked { binding, number }) = query.map_err(bad_query)?;
    let queue = queue(&api, &binding).await?;
    let letters = match number {
        None => queue.letters().await.map_err(unanswered)?,
        Some(number) => {
            let letter = queue.letter(number).await.map_err(unanswered)?;
            vec![letter.ok_or_else(|| no_letter(number))?]
        }
    };
    let letters = letters.into_iter();
    let letters = letters.map(|letter| shown(letter, number.is_some()));
    let letters = letters.collect();
    Ok(Json(DeadLetters { binding, letters }).into_response())
}

pub(super) async fn settle(State(api): State<Api>, body: Body) -> Result<Response, Failed> {
    let bytes = read_capped(body, BODY_BYTES_MAX).await?;
    let asked: SettleDead = serde_json::from_slice(&bytes).map_err(|error| {
        failed(
            StatusCode::BAD_REQUEST,
            "malformed",
            &error.to_string(),
            None,
        )
    })?;
    let queue = queue(&api, &asked.binding).await?;
    let is_retried = asked.act == DeadAct::Retry;
    let settled = match asked.number {
        Some(number) => {
            let settled = queue.settle_letter(number, is_retried).await;
            if !settled.map_err(unanswered)? {
                return Err(no_letter(number));
            }
            DeadSettled { done: 1, left: 0 }
        }
        None => settle_all(&*queue, is_retried).await.map_err(unanswered)?,
    };
    Ok(Json(settled).into_response())
}

/// The oldest first: they come in the order in which they died. One that cannot be
/// delivered again, as its group or its bytes are gone, stays, and keeps no other from it.
async fn settle_all(queue: &dyn Messaging, is_retried: bool) -> Result<DeadSettled, CloudError> {
    let mut settled = DeadSettled { done: 0, left: 0 };
    for letter in queue.letters().await?.into_iter().rev() {
        match queue.settle_letter(letter.number, is_retried).await {
            Ok(was_there) => settled.done += u64::from(was_there),
            Err(CloudError::NotFound(_)) => settled.left += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(settled)
}

/// The queue behind a binding, if this node has it.
async fn queue(api: &Api, binding: &str) -> Result<Arc<dyn Messaging>, Failed> {
    let shelf = api.ask(Event::AskShelf).await?;
    let name = binding.to_owned();
    // It may have to be opened.
    let found = tokio::task::spawn_blocking(move || shelf.messages(&name)).await;
    let found = found.map_err(|error| {
        let (status, words) = (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        failed(status, "internal", &words, None)
    })?;
    match found {
        Ok(Some(queue)) => Ok(queue),
        Ok(None) => {
            let message = format!("this node has no messages of a binding `{binding}`");
            let hint = "`--node NODE` asks another one: messages of an embedded queue are where they were sent, those of a server on each node that runs a component which binds it";
            Err(failed(
                StatusCode::NOT_FOUND,
                "unknown-name",
                &message,
                Some(hint),
            ))
        }
        Err(failure) => {
            let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, &failure.code);
            Err(failed(status, code, &failure.reason, None))
        }
    }
}

fn no_letter(number: u64) -> Failed {
    let message = format!("there is no dead letter {number}");
    let hint = "`realm messages dead BINDING` lists them";
    failed(StatusCode::NOT_FOUND, "unknown-name", &message, Some(hint))
}

fn unanswered(error: CloudError) -> Failed {
    let status = match &error {
        CloudError::NotFound(_) => StatusCode::NOT_FOUND,
        CloudError::Full(_) | CloudError::Quota(_) => StatusCode::INSUFFICIENT_STORAGE,
        CloudError::Timeout
        | CloudError::Unavailable
        | CloudError::NoSuchStore
        | CloudError::AccessDenied
        | CloudError::TooLarge { .. }
        | CloudError::Invalid(_)
        | CloudError::Unsupported(_)
        | CloudError::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let hint = "`realm status` says what does not answer";
    failed(status, "backend-failed", &error.to_string(), Some(hint))
}

fn shown(letter: Letter, whole: bool) -> DeadLetter {
    let Letter {
        number,
        n_bytes,
        message,
    } = letter;
    let value = |key: &str| {
        let pair = message.metadata.iter().find(|(name, _)| name == key);
        pair.map(|(_, value)| value.clone())
    };
    let (group, why) = (value(DEAD_GROUP), value(DEAD_WHY));
    let died_unix_ms = value(DEAD_AT).and_then(|at| at.parse().ok());
    let deliveries = value(DEAD_DELIVERIES).and_then(|n| n.parse().ok());
    let Message {
        topic,
        content_type,
        data,
        metadata,
        reply_to: _,
    } = message.into_alive();
    let message = whole.then(|| DeadMessage::new(content_type, metadata, &data));
    DeadLetter {
        number,
        topic: topic.unwrap_or_default(),
        group: group.unwrap_or_default(),
        died_unix_ms,
        deliveries: deliveries.unwrap_or_default(),
        why: why.unwrap_or_default(),
        bytes: n_bytes,
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use realm_backends::Unwatched;
    use realm_backends::messaging::{Embedded, Room};
    use realm_model::cloud::{Group, Subscription};

    use super::*;

    #[tokio::test]
    async fn a_letter_whose_group_is_gone_keeps_no_other_from_being_delivered_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue");
        let queue = Embedded::open(path, Room::default(), Arc::new(Unwatched), Arc::new(|_| {}));
        let queue = queue.unwrap();
        let group = |name: &str| Group {
            topic: name.to_owned(),
            name: "w".to_owned(),
        };
        let (gone, there) = (group("gone"), group("there"));
        for group in [&gone, &there, &gone, &there, &gone] {
            let mortal = Subscription {
                group: group.clone(),
                n_in_flight: 1,
                ack_wait: Duration::from_secs(60),
                n_deliveries: 1,
                dead_letter: None,
                wanted: None,
            };
            let mut worker = queue.subscribe(&mortal).await.unwrap();
            queue
                .send(&group.topic, Message::default(), None)
                .await
                .unwrap();
            let delivery = worker.next().await.unwrap();
            let is_dead = delivery.receipt.retry(Duration::ZERO, "bad").await;
            assert_eq!(is_dead, Ok(true));
        }
        queue
            .keep_groups(std::slice::from_ref(&there))
            .await
            .unwrap();
        let settled = settle_all(&queue, true).await.unwrap();
        assert_eq!(settled, DeadSettled { done: 2, left: 3 });
        let of = |letter: &Letter| {
            let mut pairs = letter.message.metadata.iter();
            let pair = pairs.find(|(key, _)| key == realm_model::cloud::DEAD_TOPIC);
            pair.map(|(_, topic)| topic.clone()).unwrap_or_default()
        };
        let left: Vec<_> = queue.letters().await.unwrap().iter().map(of).collect();
        assert_eq!(left, ["gone"; 3]);
        let dropped = settle_all(&queue, false).await.unwrap();
        assert_eq!(dropped, DeadSettled { done: 3, left: 0 });
    }
}
