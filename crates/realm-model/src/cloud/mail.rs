//! Mail that guests send: what a message may be, checked once for every way that it takes. Not here: how
//! it is written down and brought to a server.

use super::{Answer, CloudError, within};

/// People that one message goes to, all kinds together.
pub const RECIPIENTS_MAX: usize = 50;
/// Attachments of one message.
pub const ATTACHMENTS_MAX: usize = 20;
/// Bytes of texts and attachments together: what most servers take, once it is encoded, is a bit more.
pub const MAIL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of a subject, a name of a person or a file, and of a header's value: a line has 998.
pub const WORDS_BYTES_MAX: usize = 900;
/// Bytes from which on a message may not take every place of a binding.
pub const LARGE_MAIL_BYTES: usize = 1024 * 1024;
/// Headers of the guest's own.
pub const HEADERS_MAX: usize = 32;

/// A person, or what stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// As it is shown.
    pub name: Option<String>,
    /// `USER@DOMAIN`.
    pub address: String,
}

/// A file in a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its name.
    pub name: String,
    /// `application/pdf`.
    pub content_type: String,
    /// Its bytes.
    pub data: Vec<u8>,
    /// The name under which `cid:` in the HTML finds it; `None`: beside the text.
    pub inline_id: Option<String>,
}

/// A message to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Mail {
    /// Who sends.
    pub from: Mailbox,
    /// To whom.
    pub to: Vec<Mailbox>,
    /// To whom as well.
    pub cc: Vec<Mailbox>,
    /// To whom, without the others seeing it.
    pub bcc: Vec<Mailbox>,
    /// Who gets answers.
    pub reply_to: Option<Mailbox>,
    /// The subject.
    pub subject: String,
    /// The text.
    pub text: Option<String>,
    /// The same, or the only one, in HTML.
    pub html: Option<String>,
    /// Files.
    pub attachments: Vec<Attachment>,
    /// Further headers, as [`is_header`] lets them.
    pub headers: Vec<(String, String)>,
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// As with every other backend.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The binding has no such sender.
    #[error("this component may not send as `{0}`")]
    Sender(String),
    /// The server does not take mail for somebody: nobody got it.
    #[error("the server does not take mail for `{address}` ({code})")]
    Recipient {
        /// For whom.
        address: String,
        /// What the server answered, 500 to 599.
        code: u16,
    },
    /// The server does not take this message, and will not.
    #[error("the server does not take this message ({0})")]
    Rejected(u16),
    /// The server does not take it at this time.
    #[error("the server does not take it at this time ({0})")]
    Temporary(u16),
    /// The connection ended when the message was on its way: it may have been taken.
    #[error("the server did not say whether it took the message")]
    Unknown,
}

/// A way that mail takes.
pub trait Mailer: Send + Sync {
    /// Sends a message: its `Message-ID`, once the server has taken it for everybody. What is `held` is
    /// there for as long as bytes of the message are, also where nobody waits for the answer any more.
    fn send_holding(&self, mail: Mail, held: Held) -> Answer<'_, String, MailError>;

    /// The same, where nobody counts them.
    fn send(&self, mail: Mail) -> Answer<'_, String, MailError> {
        self.send_holding(mail, Box::new(()))
    }
}

/// Something that is done when it is dropped: bytes that somebody counted are gone.
pub type Held = Box<dyn Send + Sync>;

fn invalid<T>(words: impl Into<String>) -> Result<T, CloudError> {
    Err(CloudError::Invalid(words.into()))
}

/// Whether a guest may set a header: nothing that says who sends, to whom, when or in which form. Servers
/// take orders by headers that begin with `X-` (SendGrid's `X-SMTPAPI` names recipients, others an account):
/// so a guest's own ones begin with what no server knows.
pub fn is_header(name: &str) -> bool {
    const KNOWN: &[&str] = &[
        "auto-submitted",
        "importance",
        "in-reply-to",
        "list-archive",
        "list-help",
        "list-id",
        "list-owner",
        "list-post",
        "list-subscribe",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "organization",
        "precedence",
        "priority",
        "references",
        "x-auto-response-suppress",
        "x-entity-ref-id",
        "x-mailer",
        "x-priority",
    ];
    let name = name.to_ascii_lowercase();
    let own = name.strip_prefix("x-realm-").is_some_and(|rest| {
        (1..=60).contains(&rest.len())
            && rest
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    own || KNOWN.contains(&name.as_str())
}

/// Checks an address: ASCII, a user and a domain, each of plain characters.
///
/// # Errors
/// When it is none.
pub fn check_address(address: &str) -> Result<(), CloudError> {
    let user = |user: &str| {
        (1..=64).contains(&user.len())
            && user.split('.').all(|part| {
                !part.is_empty()
                    && part.bytes().all(|byte| {
                        byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
                    })
            })
    };
    let domain = |domain: &str| {
        domain.len() <= 253
            && domain.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            })
    };
    match address.split_once('@') {
        Some((name, place)) if user(name) && domain(place) => Ok(()),
        Some(_) | None => {
            let shown: String = address.chars().take(80).collect();
            invalid(format!(
                "`{}` is no address: USER@DOMAIN in ASCII",
                shown.escape_debug()
            ))
        }
    }
}

/// Text of one line: what could begin another header is no part of it.
fn check_line(what: &'static str, text: &str) -> Result<(), CloudError> {
    within(what, text.len(), WORDS_BYTES_MAX)?;
    if text.chars().any(char::is_control) {
        return invalid(format!("{what} has a control character or a line break"));
    }
    Ok(())
}

/// A name of a person or a file: what shows it in another order, or shows nothing, makes another one of it.
fn check_shown(what: &'static str, name: &str) -> Result<(), CloudError> {
    check_line(what, name)?;
    let turns = |c| {
        matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    if name.chars().any(turns) {
        return invalid(format!("{what} has characters that nobody sees"));
    }
    Ok(())
}

fn check_mailbox(mailbox: &Mailbox) -> Result<(), CloudError> {
    check_address(&mailbox.address)?;
    check_shown("a name", mailbox.name.as_deref().unwrap_or_default())
}

fn check_attachment(attachment: &Attachment) -> Result<(), CloudError> {
    check_shown("the name of an attachment", &attachment.name)?;
    if attachment.name.is_empty() {
        return invalid("an attachment has a name");
    }
    let token = |text: &str| {
        (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let kind = attachment.content_type.split_once('/');
    // Parts of parts are written here alone.
    let good = kind.is_some_and(|(kind, rest)| {
        token(kind)
            && token(rest)
            && !["multipart", "message"].contains(&kind.to_ascii_lowercase().as_str())
    });
    if !good {
        return invalid("the type of an attachment is one like `application/pdf`");
    }
    let id = attachment.inline_id.as_deref();
    if id.is_some_and(|id| !token(id) || id.len() > 64) {
        return invalid(
            "the id of an inline attachment has 1 to 64 letters, digits, `.`, `-`, `_`",
        );
    }
    Ok(())
}

impl Mail {
    /// Everybody who gets it, each once.
    pub fn recipients(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for mailbox in self.to.iter().chain(&self.cc).chain(&self.bcc) {
            if !found.contains(&mailbox.address.as_str()) {
                found.push(&mailbox.address);
            }
        }
        found
    }

    /// Bytes of texts and attachments.
    pub fn bytes(&self) -> usize {
        let texts = [&self.text, &self.html].into_iter().flatten();
        let texts: usize = texts.map(String::len).sum();
        let files = self.attachments.iter().map(|one| one.data.len());
        files.fold(texts, usize::saturating_add)
    }

    /// Checks everything that a guest wrote.
    ///
    /// # Errors
    /// When a message of it would not be what the guest says, or be too large.
    pub fn check(&self) -> Result<(), CloudError> {
        let boxes = self.to.iter().chain(&self.cc).chain(&self.bcc);
        let n_boxes = self.to.len() + self.cc.len() + self.bcc.len();
        if !(1..=RECIPIENTS_MAX).contains(&n_boxes) {
            return invalid(format!("a message has 1 to {RECIPIENTS_MAX} recipients"));
        }
        for mailbox in boxes.chain([&self.from]).chain(&self.reply_to) {
            check_mailbox(mailbox)?;
        }
        check_line("the subject", &self.subject)?;
        if self.text.is_none() && self.html.is_none() {
            return invalid("a message has a text, in plain or in HTML");
        }
        if self.attachments.len() > ATTACHMENTS_MAX {
            return invalid(format!(
                "a message has at most {ATTACHMENTS_MAX} attachments"
            ));
        }
        for attachment in &self.attachments {
            check_attachment(attachment)?;
        }
        within("the message", self.bytes(), MAIL_BYTES_MAX)?;
        if self.headers.len() > HEADERS_MAX {
            return invalid(format!(
                "a message has at most {HEADERS_MAX} headers of its own"
            ));
        }
        for (name, value) in &self.headers {
            if !is_header(name) {
                let shown: String = name.chars().take(80).collect();
                return invalid(format!(
                    "`{}` is not a header that a guest sets: `X-Realm-…`, `X-Priority`, and some more",
                    shown.escape_debug()
                ));
            }
            check_line("the value of a header", value)?;
        }
        Ok(())
    }
}

/// Whether a binding lets mail come from an address: it lists that, or `*@` and its domain.
pub fn may_send_as(senders: &[String], address: &str) -> bool {
    let domain = address.rsplit_once('@').map(|(_, domain)| domain);
    senders.iter().any(|sender| {
        sender.eq_ignore_ascii_case(address)
            || sender
                .strip_prefix("*@")
                .zip(domain)
                .is_some_and(|(allowed, domain)| allowed.eq_ignore_ascii_case(domain))
    })
}

#[cfg(test)]
#[path = "mail_tests.rs"]
mod tests;
