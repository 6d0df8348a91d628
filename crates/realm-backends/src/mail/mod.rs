//! Mail over SMTP, to the server that its operator names: it relays, this does not.
//!
//! A connection for each message. What is said on it is the client of `lettre`; the way to the server and
//! TLS are made here, as for every other server.

mod compose;
mod wire;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{self, Data, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use realm_model::cloud::limits::CALL_TIMEOUT_MS;
use realm_model::cloud::mail::{Held, LARGE_MAIL_BYTES};
use realm_model::cloud::{Answer, CloudError, Mail, MailError, Mailer, may_send_as};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::server::{Access, ServerError, tls_config};
use crate::watch::{Health, Watch};
use compose::{Composed, compose};
use wire::{Progress, Wire};

/// Messages of one binding that are on their way at once; further ones wait.
const AT_ONCE_MAX: usize = 4;
/// Large ones among them, which may take a minute and a half: small ones find a place all the same.
const LARGE_AT_ONCE_MAX: usize = 2;
/// Messages of all bindings that are written down at once: each takes some five times its bytes for that.
static WRITING: Semaphore = Semaphore::const_new(2);
/// What a message makes on its way at the least: then it may take longer than other calls.
const BYTES_PER_SEC_MIN: usize = 256 * 1024;
/// How long a server has to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// How a connection is kept from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte.
    Tls,
    /// TLS after the first words, without which nothing else is said.
    StartTls,
    /// None.
    Plain,
}

/// Where mail is brought.
pub struct SmtpSettings {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How the connection is kept from others.
    pub security: Security,
    /// Who may send: addresses, and `*@DOMAIN`.
    pub senders: Vec<String>,
    /// As whom this node comes; the prefix means nothing.
    pub access: Access,
}

/// A server that takes mail for others.
pub struct Smtp {
    settings: SmtpSettings,
    tls: Arc<ClientConfig>,
    health: Health,
    room: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

type Places = (
    SemaphorePermit<'static>,
    (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
);

/// Why a message did not get through, for the operator and for the guest.
struct Failure {
    /// `None`: the server is well.
    cause: Option<String>,
    said: MailError,
}

impl Smtp {
    /// One that is asked when there is something to send.
    ///
    /// # Errors
    /// When it cannot be asked as the settings say.
    pub fn new(settings: SmtpSettings, watch: Arc<dyn Watch>) -> Result<Self, ServerError> {
        Ok(Self {
            tls: Arc::new(tls_config(&settings.access)?),
            settings,
            health: Health::new(watch),
            room: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE_MAX)),
        })
    }

    async fn send_checked(&self, mail: Mail, held: Held) -> Result<String, MailError> {
        mail.check()?;
        if !may_send_as(&self.settings.senders, &mail.from.address) {
            return Err(MailError::Sender(mail.from.address));
        }
        let patience = Duration::from_millis(CALL_TIMEOUT_MS);
        let places = timeout(patience, self.places(mail.bytes())).await;
        let (writing, room) = places
            .map_err(|_| CloudError::Timeout)?
            .map_err(|_| CloudError::Unavailable)?;
        let mut number = [0; 16];
        rand::fill(&mut number)
            .map_err(|_| CloudError::Failed("the system gives no random numbers".to_owned()))?;
        let number = u128::from_be_bytes(number);
        // Encoding megabytes takes its time, and goes on where nobody waits for it any more: what counts
        // the bytes goes with them.
        let composed = tokio::task::spawn_blocking(move || {
            let composed = compose(mail, number, SystemTime::now());
            drop(writing);
            composed.map(|composed| (composed, room, held))
        });
        let (composed, _room, _held) = composed
            .await
            .map_err(|_| CloudError::Failed("the message was not written".to_owned()))??;
        let on_its_way = Duration::from_secs((composed.bytes.len() / BYTES_PER_SEC_MIN) as u64);
        let progress = Progress::default();
        let brought = timeout(patience + on_its_way, self.bring(&composed, &progress));
        let brought = brought.await.unwrap_or_else(|_| {
            Err(Failure {
                cause: Some("it does not answer in time".to_owned()),
                said: CloudError::Timeout.into(),
            })
        });
        match brought {
            Ok(()) => {
                self.health.answered();
                Ok(composed.id)
            }
            Err(Failure { cause: None, said }) => {
                self.health.answered();
                Err(said)
            }
            Err(Failure {
                cause: Some(cause),
                said,
            }) => {
                self.health.failed(&format!("{}: {cause}", self.place()));
                Err(if progress.is_whole() {
                    MailError::Unknown
                } else {
                    said
                })
            }
        }
    }

    /// For a message of so many bytes: to write it down, and to bring it on its way.
    async fn places(&self, n_bytes: usize) -> Result<Places, AcquireError> {
        let large = match n_bytes > LARGE_MAIL_BYTES {
            true => Some(Arc::clone(&self.large).acquire_owned().await?),
            false => None,
        };
        let room = Arc::clone(&self.room).acquire_owned().await?;
        Ok((WRITING.acquire().await?, (room, large)))
    }

    fn place(&self) -> String {
        format!("{}:{}", self.settings.host, self.settings.port)
    }

    async fn bring(&self, composed: &Composed, progress: &Progress) -> Result<(), Failure> {
        let mut connection = self.connect(progress).await?;
        let mail = commands::Mail::new(Some(composed.from.clone()), Vec::new());
        let said = connection.command(mail).await;
        said.map_err(|error| Failure::of(&error, MailError::Rejected))?;
        for recipient in &composed.recipients {
            let said = connection
                .command(Rcpt::new(recipient.clone(), Vec::new()))
                .await;
            said.map_err(|error| {
                Failure::of(&error, |code| MailError::Recipient {
                    address: recipient.to_string(),
                    code,
                })
            })?;
        }
        let said = connection.command(Data).await;
        said.map_err(|error| Failure::of(&error, MailError::Rejected))?;
        progress.begins();
        let taken = connection.message(&composed.bytes).await;
        // It said something, whatever it was: nothing is unknown.
        if !matches!(&taken, Err(error) if error.status().is_none()) {
            progress.is_answered();
        }
        taken.map_err(|error| Failure::of(&error, MailError::Rejected))?;
        // It has the message; how it says goodbye changes nothing.
        _ = timeout(GOODBYE, connection.quit()).await;
        Ok(())
    }

    /// A connection that is as safe as it has to be, and let in.
    async fn connect(&self, progress: &Progress) -> Result<AsyncSmtpConnection, Failure> {
        let SmtpSettings {
            host,
            port,
            security,
            senders: _,
            access,
        } = &self.settings;
        let stream = TcpStream::connect((host.as_str(), *port)).await;
        let stream = stream.map_err(|error| down(format!("connect: {error}")))?;
        // Commands are a line each.
        _ = stream.set_nodelay(true);
        let own = stream
            .local_addr()
            .map_err(|error| down(error.to_string()))?;
        let hello = match own.ip().to_canonical() {
            IpAddr::V4(address) => ClientId::Ipv4(address),
            IpAddr::V6(address) => ClientId::Ipv6(address),
        };
        let wire = match security {
            Security::Plain => Wire::new(stream, b"", own, progress),
            Security::Tls => Wire::new(self.tls(stream).await?, b"", own, progress),
            Security::StartTls => {
                let mut stream = stream;
                wire::start_tls(&mut stream, &hello).await.map_err(down)?;
                // It greeted before TLS, and does not do so again.
                let greeting = b"220 ready\r\n";
                Wire::new(self.tls(stream).await?, greeting, own, progress)
            }
        };
        let connection = AsyncSmtpConnection::connect_with_transport(Box::new(wire), &hello).await;
        let mut connection = connection.map_err(|error| down(error_words(&error)))?;
        if let Some(password) = &access.password {
            let user = access.user.clone().unwrap_or_default();
            let credentials = Credentials::new(user, Zeroizing::clone(password).to_string());
            let said = connection
                .auth(&[Mechanism::Plain, Mechanism::Login], &credentials)
                .await;
            said.map_err(|error| match error.status() {
                Some(code) => down(format!("it does not let this user in ({code})")),
                None => down(error_words(&error)),
            })?;
        }
        Ok(connection)
    }

    async fn tls(
        &self,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(self.settings.host.clone());
        let name = name.map_err(|error| down(error.to_string()))?;
        let connected = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
        connected
            .await
            .map_err(|error| down(format!("TLS: {error}")))
    }
}

/// The server cannot be used, for this reason.
fn down(cause: impl fmt::Display) -> Failure {
    Failure {
        cause: Some(cause.to_string()),
        said: CloudError::Unavailable.into(),
    }
}

/// What the client says of a connection, without what the server wrote: that may name people.
fn error_words(error: &lettre::transport::smtp::Error) -> String {
    match error.status() {
        Some(code) => format!("it answered {code}"),
        None => error.to_string(),
    }
}

impl Failure {
    /// Of a command: the server refuses it for good, or for now, or is not there any more.
    fn of(error: &lettre::transport::smtp::Error, refused: impl FnOnce(u16) -> MailError) -> Self {
        let Some(code) = error.status() else {
            return down(error_words(error));
        };
        let code = u16::from(code);
        let said = match code {
            // It ends the connection: a server that goes down, or has had enough.
            421 => return down(format!("it answered {code}")),
            500.. => refused(code),
            _ => MailError::Temporary(code),
        };
        Self { cause: None, said }
    }
}

impl Mailer for Smtp {
    fn send_holding(&self, mail: Mail, held: Held) -> Answer<'_, String, MailError> {
        Box::pin(self.send_checked(mail, held))
    }
}

#[cfg(test)]
#[path = "mail_tests.rs"]
mod tests;
