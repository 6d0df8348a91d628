//! `wasi:messaging@0.2.0-draft`: messages that a guest makes, sends, asks with and takes.
//!
//! A message is a resource of the guest's store, bounded while the guest fills it. Not here: what calls
//! the handler of a message (`trigger`).

use std::sync::Arc;
use std::time::Duration;

use realm_model::cloud::{CloudError, Message, Messaging, check_topic, limits};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

use super::{Cloud, Kept, Opened};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/wasi-messaging-0.2.0-draft",
        world: "messaging-request-reply",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "wasi:messaging/types.client": super::Client,
            "wasi:messaging/types.message": super::Held,
            "wasi:messaging/request-reply.request-options": super::Options,
        },
    });
}

#[expect(unreachable_pub, reason = "the bindings of other interfaces name it")]
pub use generated::wasi::messaging::types;
use generated::wasi::messaging::{producer, request_reply};

pub(crate) use generated::MessagingRequestReplyPre as Handler;

/// How long a request waits unless the guest says otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that a guest opened.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Client(Opened<dyn Messaging>);

/// A message of a guest.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Held {
    message: Message,
    /// Where a reply to it goes.
    from: Option<Arc<dyn Messaging>>,
    /// It grew beyond what a message may have, or the host may keep: sending it says so.
    too_large: Option<CloudError>,
    /// For the guest; `None` of the message that it is called with.
    kept: Option<Kept>,
}

/// What a guest says of a request.
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Options {
    timeout: Duration,
    n_replies: u32,
}

/// What the interface works with.
pub(crate) struct View<'a> {
    pub(crate) cloud: &'a mut Cloud,
    pub(crate) table: &'a mut ResourceTable,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    types::add_to_linker::<_, Has>(linker, State::messaging)?;
    producer::add_to_linker::<_, Has>(linker, State::messaging)?;
    request_reply::add_to_linker::<_, Has>(linker, State::messaging)
}

/// What a guest reads of an error.
pub(super) fn said(error: CloudError) -> types::Error {
    let words = error.to_string();
    match error {
        CloudError::Timeout => types::Error::Timeout,
        CloudError::Unavailable | CloudError::NoSuchStore => types::Error::Connection(words),
        CloudError::AccessDenied => types::Error::PermissionDenied(words),
        CloudError::Quota(_)
        | CloudError::TooLarge { .. }
        | CloudError::Invalid(_)
        | CloudError::NotFound(_)
        | CloudError::Full(_)
        | CloudError::Unsupported(_)
        | CloudError::Failed(_) => types::Error::Other(words),
    }
}

/// A topic as the binding has it: of a client that `*` binds, each identifier has topics of its own.
pub(super) fn topic_of(opened: &Opened<dyn Messaging>, topic: &str) -> Result<String, CloudError> {
    check_topic(topic)?;
    if opened.part.is_empty() {
        return Ok(topic.to_owned());
    }
    let topic = format!("{}.{topic}", opened.part);
    check_topic(&topic)?;
    Ok(topic)
}

impl Held {
    /// One that is delivered; a reply goes back through `from`.
    pub(crate) fn delivered(message: Message, from: Arc<dyn Messaging>) -> Self {
        Self {
            from: Some(from),
            ..Self::of(message)
        }
    }

    fn of(message: Message) -> Self {
        Self {
            message,
            from: None,
            too_large: None,
            kept: None,
        }
    }

    /// After a change: what it takes is counted among what the host keeps for the guest. Where that is too
    /// much, nothing of it is kept.
    fn count(&mut self, cloud: &Cloud) {
        let n_bytes = bytes_of(&self.message);
        let kept = self.kept.get_or_insert_with(|| Kept::none(cloud));
        if let Err(error) = kept.set(n_bytes) {
            self.message = Message::default();
            self.kept = None;
            self.too_large = Some(error);
        }
    }

    /// The message to be sent.
    pub(super) fn send(self) -> Result<Message, CloudError> {
        match self.too_large {
            Some(error) => Err(error),
            None => Ok(Message {
                topic: None,
                reply_to: None,
                ..self.message
            }),
        }
    }

    /// Whether so much more of metadata fits; else it is remembered that it did not.
    fn has_room(&mut self, pairs: &[(String, String)]) -> bool {
        let all = self.message.metadata.iter().chain(pairs);
        let bytes: usize = all.map(|(key, value)| key.len() + value.len()).sum();
        let n = self.message.metadata.len() + pairs.len();
        let within = bytes <= 2 * limits::METADATA_BYTES_MAX && n <= 2 * limits::METADATA_PAIRS_MAX;
        if !within {
            self.too_large = Some(CloudError::TooLarge {
                what: "the metadata",
                bytes: bytes as u64,
                bytes_max: limits::METADATA_BYTES_MAX as u64,
            });
        }
        within
    }

    fn set_data(&mut self, data: Vec<u8>) {
        match realm_model::cloud::within("the message", data.len(), limits::MESSAGE_BYTES_MAX) {
            Ok(()) => {
                self.message.data = data;
                self.too_large = None;
            }
            Err(error) => self.too_large = Some(error),
        }
    }
}

/// What a message takes.
fn bytes_of(message: &Message) -> usize {
    let Message {
        data,
        content_type,
        metadata,
        topic,
        reply_to: _,
    } = message;
    let pairs = metadata
        .iter()
        .map(|pair| size_of::<(String, String)>() + pair.0.len() + pair.1.len());
    let texts = [content_type, topic].map(|text| text.as_ref().map_or(0, String::len));
    data.len() + pairs.sum::<usize>() + texts.iter().sum::<usize>()
}

impl View<'_> {
    /// One operation, through a client.
    pub(super) fn client(
        &self,
        client: &Resource<Client>,
    ) -> Result<Result<Opened<dyn Messaging>, CloudError>> {
        let opened = self.table.get(client)?.0.clone();
        Ok(self.cloud.charge().map(|()| opened))
    }
}

impl types::Host for View<'_> {}

impl types::HostClient for View<'_> {
    async fn connect(&mut self, name: String) -> Result<Result<Resource<Client>, types::Error>> {
        match self.cloud.messaging(&name) {
            Ok(opened) => Ok(Ok(self.table.push(Client(opened))?)),
            Err(error) => Ok(Err(said(error))),
        }
    }

    async fn disconnect(&mut self, _: Resource<Client>) -> Result<Result<(), types::Error>> {
        Ok(Ok(()))
    }

    async fn drop(&mut self, client: Resource<Client>) -> Result<()> {
        self.table.delete(client)?;
        Ok(())
    }
}

impl types::HostMessage for View<'_> {
    async fn new(&mut self, data: Vec<u8>) -> Result<Resource<Held>> {
        let mut held = Held::of(Message::default());
        held.set_data(data);
        held.count(self.cloud);
        Ok(self.table.push(held)?)
    }

    async fn topic(&mut self, message: Resource<Held>) -> Result<Option<String>> {
        Ok(self.table.get(&message)?.message.topic.clone())
    }

    async fn content_type(&mut self, message: Resource<Held>) -> Result<Option<String>> {
        Ok(self.table.get(&message)?.message.content_type.clone())
    }

    async fn set_content_type(&mut self, message: Resource<Held>, text: String) -> Result<()> {
        let held = self.table.get_mut(&message)?;
        match realm_model::cloud::within("the content type", text.len(), limits::NAME_BYTES_MAX) {
            Ok(()) => held.message.content_type = Some(text),
            Err(error) => held.too_large = Some(error),
        }
        held.count(self.cloud);
        Ok(())
    }

    async fn data(&mut self, message: Resource<Held>) -> Result<Vec<u8>> {
        Ok(self.table.get(&message)?.message.data.clone())
    }

    async fn set_data(&mut self, message: Resource<Held>, data: Vec<u8>) -> Result<()> {
        let held = self.table.get_mut(&message)?;
        held.set_data(data);
        held.count(self.cloud);
        Ok(())
    }

    async fn metadata(&mut self, message: Resource<Held>) -> Result<Option<Vec<(String, String)>>> {
        let metadata = &self.table.get(&message)?.message.metadata;
        Ok((!metadata.is_empty()).then(|| metadata.clone()))
    }

    async fn add_metadata(
        &mut self,
        message: Resource<Held>,
        key: String,
        value: String,
    ) -> Result<()> {
        let held = self.table.get_mut(&message)?;
        let pair = [(key, value)];
        if held.has_room(&pair) {
            held.message.metadata.extend(pair);
        }
        held.count(self.cloud);
        Ok(())
    }

    async fn set_metadata(
        &mut self,
        message: Resource<Held>,
        meta: Vec<(String, String)>,
    ) -> Result<()> {
        let held = self.table.get_mut(&message)?;
        held.message.metadata.clear();
        if held.has_room(&meta) {
            held.message.metadata = meta;
        }
        held.count(self.cloud);
        Ok(())
    }

    async fn remove_metadata(&mut self, message: Resource<Held>, key: String) -> Result<()> {
        let held = self.table.get_mut(&message)?;
        held.message.metadata.retain(|(name, _)| *name != key);
        held.count(self.cloud);
        Ok(())
    }

    async fn drop(&mut self, message: Resource<Held>) -> Result<()> {
        self.table.delete(message)?;
        Ok(())
    }
}

impl producer::Host for View<'_> {
    async fn send(
        &mut self,
        client: Resource<Client>,
        topic: String,
        message: Resource<Held>,
    ) -> Result<Result<(), types::Error>> {
        let opened = self.client(&client)?;
        let held = self.table.delete(message)?;
        let sent = async {
            let opened = opened?;
            let topic = topic_of(&opened, &topic)?;
            opened.store.send(&topic, held.send()?, None).await
        };
        Ok(sent.await.map_err(said))
    }
}

impl request_reply::HostRequestOptions for View<'_> {
    async fn new(&mut self) -> Result<Resource<Options>> {
        Ok(self.table.push(Options {
            timeout: REQUEST_TIMEOUT,
            n_replies: 1,
        })?)
    }

    async fn set_timeout_ms(&mut self, options: Resource<Options>, timeout_ms: u32) -> Result<()> {
        let timeout = Duration::from_millis(timeout_ms.into());
        self.table.get_mut(&options)?.timeout = timeout.min(limits::REQUEST_TIME_MAX);
        Ok(())
    }

    async fn set_expected_replies(&mut self, options: Resource<Options>, n: u32) -> Result<()> {
        self.table.get_mut(&options)?.n_replies = n.clamp(1, limits::REPLIES_MAX);
        Ok(())
    }

    async fn drop(&mut self, options: Resource<Options>) -> Result<()> {
        self.table.delete(options)?;
        Ok(())
    }
}

impl request_reply::Host for View<'_> {
    async fn request(
        &mut self,
        client: Resource<Client>,
        topic: String,
        message: Resource<Held>,
        options: Option<Resource<Options>>,
    ) -> Result<Result<Vec<Resource<Held>>, types::Error>> {
        let opened = self.client(&client)?;
        let held = self.table.get(&message)?;
        let held = Held {
            too_large: held.too_large.clone(),
            ..Held::of(held.message.clone())
        };
        let Options { timeout, n_replies } = match options {
            Some(options) => self.table.delete(options)?,
            None => Options {
                timeout: REQUEST_TIMEOUT,
                n_replies: 1,
            },
        };
        let asked = async {
            let opened = opened?;
            let topic = topic_of(&opened, &topic)?;
            let message = held.send()?;
            opened
                .store
                .request(&topic, message, timeout, n_replies)
                .await
        };
        let replies = match asked.await {
            Ok(replies) => replies,
            Err(error) => return Ok(Err(said(error))),
        };
        let mut held = Vec::with_capacity(replies.len());
        for message in replies {
            let mut reply = Held::of(message);
            reply.count(self.cloud);
            if let Some(error) = reply.too_large {
                return Ok(Err(said(error)));
            }
            held.push(reply);
        }
        let replies = held.into_iter().map(|reply| self.table.push(reply));
        let replies: Result<_, ResourceTableError> = replies.collect();
        Ok(Ok(replies?))
    }

    async fn reply(
        &mut self,
        reply_to: Resource<Held>,
        message: Resource<Held>,
    ) -> Result<Result<(), types::Error>> {
        let asked = self.table.get(&reply_to)?;
        let way = asked.from.clone().zip(asked.message.reply_to.clone());
        let held = self.table.delete(message)?;
        let charged = self.cloud.charge();
        let replied = async {
            charged?;
            let nobody =
                || CloudError::Invalid("nobody waits for a reply to this message".to_owned());
            let (store, reply_to) = way.ok_or_else(nobody)?;
            store.reply(&reply_to, held.send()?).await
        };
        Ok(replied.await.map_err(said))
    }
}

/// What a guest's handler says of a message, in words.
pub(crate) fn words(error: &types::Error) -> String {
    match error {
        types::Error::Timeout => "timeout".to_owned(),
        types::Error::Connection(words) => format!("connection: {words}"),
        types::Error::PermissionDenied(words) => format!("permission denied: {words}"),
        types::Error::Other(words) => words.clone(),
    }
}
