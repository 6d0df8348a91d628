//! Messages by topic: sent, answered, and delivered until somebody took them.

use std::time::Duration;

use super::Answer;

/// A place where messages are exchanged.
///
/// What [`Messaging::send`] returned `Ok` for reaches each group that is subscribed to the topic at least
/// once, in the life of the agent and after it. A topic that no group is subscribed to keeps nothing.
/// Topics are text of parts with `.` between them; a subscription may have `*` for one part, and `>` at
/// its end for one and more.
pub trait Messaging: Send + Sync {
    /// Sends a message. With `delay` it is delivered not before that time is over.
    fn send<'a>(
        &'a self,
        topic: &'a str,
        message: Message,
        delay: Option<Duration>,
    ) -> Answer<'a, ()>;

    /// Sends a message and waits for so many replies, at least for one: those that came in time.
    /// [`super::CloudError::Timeout`] if none did.
    fn request<'a>(
        &'a self,
        topic: &'a str,
        message: Message,
        timeout: Duration,
        n_replies: u32,
    ) -> Answer<'a, Vec<Message>>;

    /// Replies to a message that asks for it: `reply_to` is what that message says.
    fn reply<'a>(&'a self, reply_to: &'a str, message: Message) -> Answer<'a, ()>;

    /// Takes part in a group that gets what is sent to a topic. The group is made with the first call.
    fn subscribe<'a>(&'a self, subscription: &'a Subscription) -> Answer<'a, Box<dyn Deliveries>>;
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Where it was sent; `None` for one that is not sent yet.
    pub topic: Option<String>,
    /// MIME type.
    pub content_type: Option<String>,
    /// Its bytes, up to [`super::limits::MESSAGE_BYTES_MAX`].
    pub data: Vec<u8>,
    /// Pairs beside it; a key may be there several times.
    pub metadata: Vec<(String, String)>,
    /// Where a reply goes, if one is waited for.
    pub reply_to: Option<String>,
}

/// What a group takes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The topic, with `*` and `>`.
    pub topic: String,
    /// Who shares the messages: each goes to one member.
    pub group: String,
    /// Deliveries under way at once, to this member.
    pub n_in_flight: u32,
    /// How long a member has a message without a word until it is delivered anew.
    pub ack_wait: Duration,
    /// Deliveries until a message is dead.
    pub n_deliveries: u32,
    /// Where the dead are sent, with why in their metadata; `None`: they are counted, logged and gone.
    pub dead_letter: Option<String>,
}

/// A member of a group.
pub trait Deliveries: Send {
    /// The next message.
    fn next(&mut self) -> Answer<'_, Delivery>;

    /// Done with: it is not delivered again.
    fn ack<'a>(&'a self, token: &'a [u8]) -> Answer<'a, ()>;

    /// To be delivered again after a while, or dead where it was delivered often enough: whether it is
    /// dead, with `why` for who looks at dead letters.
    fn retry<'a>(&'a self, token: &'a [u8], after: Duration, why: &'a str) -> Answer<'a, bool>;

    /// Still being worked on: `ack_wait` begins anew.
    fn extend<'a>(&'a self, token: &'a [u8]) -> Answer<'a, ()>;
}

/// A message that is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message, with its topic.
    pub message: Message,
    /// The first is 1.
    pub attempt: u32,
    /// What the member says when it is done.
    pub token: Vec<u8>,
}
