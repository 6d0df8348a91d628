//! `realm:cloud/mail@0.1.0`: messages that guests send. What is in one is checked below, for every way.

use realm_model::cloud::mail::{self as model, Mailbox as ModelMailbox};
use realm_model::cloud::{CloudError, Mail, MailError, Mailer};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource};

use super::keys::View;
use super::{Cloud, Kept, Opened};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/realm-cloud/mail.wit",
        world: "realm:cloud/mail-imports",
        imports: { default: async | trappable },
        with: { "realm:cloud/mail.outbox": super::Outbox },
    });
}

use generated::realm::cloud::mail::{self, Attachment, Error, Mailbox, Message, Refusal};

/// A way out that a guest opened.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the bindings name it")]
pub struct Outbox(Opened<dyn Mailer>);

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    mail::add_to_linker::<_, Has>(linker, State::keys)
}

/// What a guest reads of an error.
fn said(error: MailError) -> Error {
    match error {
        MailError::Sender(_) => Error::SenderDenied,
        MailError::Recipient { address, code } => {
            Error::RecipientRefused(Refusal { address, code })
        }
        MailError::Rejected(code) => Error::Rejected(code),
        MailError::Temporary(code) => Error::Temporary(code),
        MailError::Unknown => Error::Unknown,
        MailError::Cloud(error) => match error {
            CloudError::NoSuchStore => Error::NoSuchMail,
            CloudError::Quota(_) => Error::Quota,
            CloudError::Timeout => Error::Timeout,
            CloudError::TooLarge { .. } | CloudError::Invalid(_) => {
                Error::Invalid(error.to_string())
            }
            CloudError::AccessDenied
            | CloudError::NotFound(_)
            | CloudError::Full(_)
            | CloudError::Unsupported(_)
            | CloudError::Unavailable
            | CloudError::Failed(_) => Error::Unavailable(error.to_string()),
        },
    }
}

fn mailbox(given: Mailbox) -> ModelMailbox {
    ModelMailbox {
        name: given.name,
        address: given.address,
    }
}

fn mailboxes(given: Vec<Mailbox>) -> Vec<ModelMailbox> {
    given.into_iter().map(mailbox).collect()
}

fn attachment(given: Attachment) -> model::Attachment {
    model::Attachment {
        name: given.name,
        content_type: given.content_type,
        data: given.data,
        inline_id: given.inline_id,
    }
}

fn written(message: Message) -> Mail {
    Mail {
        from: mailbox(message.from),
        to: mailboxes(message.to),
        cc: mailboxes(message.cc),
        bcc: mailboxes(message.bcc),
        reply_to: message.reply_to.map(mailbox),
        subject: message.subject,
        text: message.text,
        html: message.html,
        attachments: message.attachments.into_iter().map(attachment).collect(),
        headers: message.headers,
    }
}

async fn send(cloud: &Cloud, outbox: &dyn Mailer, message: Message) -> Result<String, MailError> {
    cloud.charge()?;
    let mail = written(message);
    // Before it waits for its turn: what does not fit waits for nothing.
    mail.check()?;
    // As it came, and as it is written down.
    let kept = Kept::new(cloud, mail.bytes().saturating_mul(2))?;
    outbox.send_holding(mail, Box::new(kept)).await
}

impl mail::Host for View<'_> {}

impl mail::HostOutbox for View<'_> {
    async fn open(&mut self, name: String) -> Result<Result<Resource<Outbox>, Error>> {
        match self.cloud.mail(&name) {
            Ok(opened) => Ok(Ok(self.table.push(Outbox(opened))?)),
            Err(error) => Ok(Err(said(error.into()))),
        }
    }

    async fn send(
        &mut self,
        outbox: Resource<Outbox>,
        message: Message,
    ) -> Result<Result<String, Error>> {
        let Outbox(opened) = self.table.get(&outbox)?.clone();
        let sent = send(self.cloud, &*opened.store, message).await;
        Ok(sent.map_err(said))
    }

    async fn drop(&mut self, outbox: Resource<Outbox>) -> Result<()> {
        self.table.delete(outbox)?;
        Ok(())
    }
}
