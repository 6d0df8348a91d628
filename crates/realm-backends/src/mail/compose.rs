//! What a message looks like on its way: RFC 5322 and MIME, in ASCII alone.

use std::time::SystemTime;

use lettre::Address;
use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Body, Mailbox, Message, MultiPart, SinglePart};
use realm_model::cloud::{CloudError, Mail, MailError, mail};

/// Bytes of a line, without its end (RFC 5321).
const LINE_BYTES_MAX: usize = 998;

/// A message that was written down.
pub(super) struct Composed {
    pub(super) from: Address,
    pub(super) recipients: Vec<Address>,
    /// `<…@…>`.
    pub(super) id: String,
    pub(super) bytes: Vec<u8>,
}

/// Writes a message down that [`Mail::check`] found good. `number` tells it from all others.
pub(super) fn compose(mail: Mail, number: u128, now: SystemTime) -> Result<Composed, MailError> {
    let from = address(&mail.from.address)?;
    let recipients = mail.recipients();
    let recipients: Vec<Address> = recipients
        .into_iter()
        .map(address)
        .collect::<Result<_, _>>()?;
    let id = format!("<{number:032x}@{}>", from.domain());
    let envelope = Envelope::new(Some(from.clone()), recipients.clone()).map_err(failed)?;
    let mut builder = Message::builder()
        .envelope(envelope)
        .date(now)
        .message_id(Some(id.clone()))
        .from(mailbox(&mail.from)?)
        .subject(mail.subject);
    for one in &mail.to {
        builder = builder.to(mailbox(one)?);
    }
    for one in &mail.cc {
        builder = builder.cc(mailbox(one)?);
    }
    if let Some(one) = &mail.reply_to {
        builder = builder.reply_to(mailbox(one)?);
    }
    if mail.to.is_empty() && mail.cc.is_empty() {
        let nobody = "undisclosed-recipients:;".to_owned();
        let name = HeaderName::new_from_ascii_str("To");
        builder = builder.raw_header(HeaderValue::dangerous_new_pre_encoded(
            name,
            nobody.clone(),
            nobody,
        ));
    }
    for (name, value) in mail.headers {
        let name = HeaderName::new_from_ascii(name).map_err(failed)?;
        builder = builder.raw_header(HeaderValue::new(name, value));
    }
    let mut inline = Vec::new();
    let mut beside = Vec::new();
    for file in mail.attachments {
        match file.inline_id {
            Some(_) => inline.push(file),
            None => beside.push(file),
        }
    }
    let message = match content(mail.text, mail.html, inline, beside)? {
        Content::Single(part) => builder.singlepart(part),
        Content::Multi(part) => builder.multipart(part),
    };
    let mut bytes = message.map_err(failed)?.formatted();
    // The end of the last line comes with the end of the message.
    if bytes.ends_with(b"\r\n") {
        bytes.truncate(bytes.len() - 2);
    }
    plain_lines(&bytes)?;
    Ok(Composed {
        from,
        recipients,
        id,
        bytes,
    })
}

enum Content {
    Single(SinglePart),
    Multi(MultiPart),
}

/// The texts, with what the HTML shows beside it, and the files beside both.
fn content(
    text: Option<String>,
    html: Option<String>,
    inline: Vec<mail::Attachment>,
    beside: Vec<mail::Attachment>,
) -> Result<Content, MailError> {
    let plain = text.map(|text| written(ContentType::TEXT_PLAIN, &text));
    let html = html.map(|html| written(ContentType::TEXT_HTML, &html));
    let shown = match html {
        Some(html) if inline.is_empty() => Some(Content::Single(html)),
        Some(html) => {
            let mut related = MultiPart::related().singlepart(html);
            for file in inline {
                related = related.singlepart(attached(file)?);
            }
            Some(Content::Multi(related))
        }
        // There is nothing that shows them.
        None if inline.is_empty() => None,
        None => {
            let words = "an inline attachment is for a text in HTML".to_owned();
            return Err(CloudError::Invalid(words).into());
        }
    };
    let body = match (plain, shown) {
        (Some(plain), Some(shown)) => {
            let both = MultiPart::alternative().singlepart(plain);
            Content::Multi(match shown {
                Content::Single(html) => both.singlepart(html),
                Content::Multi(related) => both.multipart(related),
            })
        }
        (Some(plain), None) => Content::Single(plain),
        (None, Some(shown)) => shown,
        (None, None) => {
            let words = "a message has a text".to_owned();
            return Err(CloudError::Invalid(words).into());
        }
    };
    if beside.is_empty() {
        return Ok(body);
    }
    let mixed = MultiPart::mixed();
    let mut mixed = match body {
        Content::Single(part) => mixed.singlepart(part),
        Content::Multi(part) => mixed.multipart(part),
    };
    for file in beside {
        mixed = mixed.singlepart(attached(file)?);
    }
    Ok(Content::Multi(mixed))
}

fn written(kind: ContentType, text: &str) -> SinglePart {
    // Whatever ends a line in it ends one on the way.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let text = text.replace('\n', "\r\n");
    let n_ascii = text.bytes().filter(u8::is_ascii).count();
    let encoding = match n_ascii * 4 >= text.len() * 3 {
        true => ContentTransferEncoding::QuotedPrintable,
        false => ContentTransferEncoding::Base64,
    };
    SinglePart::builder()
        .content_type(kind)
        .body(encoded(text.into_bytes(), encoding))
}

fn attached(file: mail::Attachment) -> Result<SinglePart, MailError> {
    let kind = ContentType::parse(&file.content_type).map_err(failed)?;
    let attachment = match file.inline_id {
        Some(id) => Attachment::new_inline_with_name(id, file.name),
        None => Attachment::new(file.name),
    };
    // Also what is text: a file stays as it is, to the byte.
    let body = encoded(file.data, ContentTransferEncoding::Base64);
    Ok(attachment.body(body, kind))
}

fn encoded(bytes: Vec<u8>, encoding: ContentTransferEncoding) -> Body {
    // These two encodings take any bytes.
    Body::new_with_encoding(bytes, encoding).unwrap_or_else(Body::new)
}

fn mailbox(mailbox: &mail::Mailbox) -> Result<Mailbox, MailError> {
    let name = mailbox.name.clone().filter(|name| !name.is_empty());
    Ok(Mailbox::new(name, address(&mailbox.address)?))
}

fn address(text: &str) -> Result<Address, MailError> {
    text.parse()
        .map_err(|_| CloudError::Invalid("an address is USER@DOMAIN".to_owned()).into())
}

fn failed(error: impl std::fmt::Display) -> MailError {
    CloudError::Failed(format!("the message was not written: {error}")).into()
}

/// The last look: nothing that a server could read as an end of the message, or as a command. Holds by how
/// it was written; a mistake in that sends nothing.
fn plain_lines(bytes: &[u8]) -> Result<(), MailError> {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| b"\r\n".contains(byte)) {
        let (line, after) = rest.split_at(at);
        let Some(next) = after.strip_prefix(b"\r\n") else {
            return Err(failed("a line ends in another way than it has to"));
        };
        plain_line(line)?;
        rest = next;
    }
    plain_line(rest)
}

fn plain_line(line: &[u8]) -> Result<(), MailError> {
    let printable = |byte: &u8| *byte == b'\t' || (b' '..=b'~').contains(byte);
    if line.len() > LINE_BYTES_MAX || !line.iter().all(printable) {
        return Err(failed("a line is too long, or not in ASCII"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
