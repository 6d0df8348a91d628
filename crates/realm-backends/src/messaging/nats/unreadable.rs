//! Messages whose subject no client can read: with a space in it, or bytes that are no text. A device
//! may send such a topic over MQTT, and the server passes it on as it is. It would end the connection
//! of whoever it is delivered to, with each delivery, and all that is on its way there with it.

use std::sync::Arc;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use realm_model::cloud::{CloudError, Subscription};

use super::link::Kind;
use super::{NOT_THERE, Shared};
use crate::messaging::Death;

/// Numbers that are looked at after a connection ended, the newest first: what ended it was delivered last.
const NEWEST_MAX: usize = 2_000;
/// And messages from the oldest on that the group is not done with: what is delivered again has an old number,
/// however many were delivered since. All that may be under way.
const OLDEST_MAX: usize = 20_000;

const WHY: &str = "its topic has spaces in it, or bytes that are no text";

/// Whether a subject comes through the protocol as it was sent. What was no text is told with U+FFFD.
fn is_readable(subject: &str) -> bool {
    !subject
        .contains(|letter: char| letter.is_whitespace() || letter == char::REPLACEMENT_CHARACTER)
}

/// Takes those that a group was given, and has not dealt with, out of the stream: they are dead, and
/// cannot be sent on.
pub(super) async fn remove(
    shared: &Arc<Shared>,
    subscription: &Subscription,
) -> Result<(), CloudError> {
    let link = &shared.link;
    let group = &subscription.group;
    let consumer = link.consumer(group, Some(subscription.ack_wait)).await?;
    let info = consumer.cached_info();
    let first = info.ack_floor.stream_sequence.saturating_add(1);
    let given = first..=info.delivered.stream_sequence;
    let connected = link.get().await?;
    let stream = link.stream_name(Kind::Messages);
    let stream = connected.jetstream.get_stream_no_info(&stream);
    let stream = stream.await.map_err(|error| link.failed(&error))?;
    for sequence in given.clone().rev().take(NEWEST_MAX) {
        // Over the API it comes as JSON, whatever its name is.
        match stream.get_raw_message(sequence).await {
            Ok(found) => bury(shared, subscription, &stream, &found).await?,
            Err(error) if error.to_string().contains(NOT_THERE) => {}
            Err(error) => return Err(link.failed(&error)),
        }
    }
    let looked_at = given.end().saturating_sub(NEWEST_MAX as u64);
    let (filter, mut next) = (link.names.subject(&group.topic), *given.start());
    for _ in 0..OLDEST_MAX {
        // Those that are there, and no number between them.
        let found = match stream.get_first_raw_message_by_subject(&filter, next).await {
            Ok(found) if found.sequence <= looked_at => found,
            Ok(_) => break,
            Err(error) if error.to_string().contains(NOT_THERE) => break,
            Err(error) => return Err(link.failed(&error)),
        };
        bury(shared, subscription, &stream, &found).await?;
        // A server that says it lies before where it was looked for leads to no round without an end.
        next = found.sequence.max(next).saturating_add(1);
    }
    Ok(())
}

/// Takes a message out of the stream, if no client can read it.
async fn bury(
    shared: &Shared,
    subscription: &Subscription,
    stream: &Stream<()>,
    found: &StreamMessage,
) -> Result<(), CloudError> {
    let (link, group) = (&shared.link, &subscription.group);
    if is_readable(&found.subject) {
        return Ok(());
    }
    let deleted = stream.delete_message(found.sequence).await;
    deleted.map_err(|error| link.failed(&error))?;
    let topic = link.names.topic(&found.subject).unwrap_or_default();
    (shared.on_death)(&Death {
        topic: topic.to_owned(),
        group: group.name.clone(),
        n_deliveries: 1,
        why: WHY.to_owned(),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_connection_is_told_apart() {
        let cases = [
            ("iot.up.d1", true),
            ("iot./.=$ä*>", true),
            ("iot.\u{1}", true),
            ("iot.a\tb", false),
            ("iot.a\u{a0}b", false),
            ("iot.a\u{2028}b", false),
            ("iot.\u{fffd}", false),
        ];
        for (subject, expected) in cases {
            assert_eq!(is_readable(subject), expected, "{subject:?}");
        }
    }
}
