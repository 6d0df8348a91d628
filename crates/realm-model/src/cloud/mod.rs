//! What stands behind the wasi-cloud interfaces: the words in which the host asks and backends answer.
//!
//! A binding of the manifest leads to one implementation of [`KeyValue`], [`Blobs`], [`Messaging`],
//! [`Sql`], [`Keys`], [`Identity`], [`Mailer`], [`Streams`], [`Workflows`] or [`Inference`], embedded or in
//! front of a server. Guests never see which. Not here: names of bindings and where they lead (`binding`),
//! who may open what (the host), and every implementation (`realm-backends`).
//!
//! Rules for all of them. A call that returned `Ok` is done, and durable as its backend says in
//! docs/wasi-cloud.md. Each call ends: after [`limits::CALL_TIMEOUT_MS`] at the latest with
//! [`CloudError::Timeout`] or [`CloudError::Unavailable`]. A call whose future is dropped may have
//! happened or not. Names of buckets, containers and topics are checked by the host
//! ([`limits::NAME_BYTES_MAX`], no control characters); keys and values within the caps here.

mod blobs;
pub mod documents;
mod filter;
mod identity;
pub mod inference;
pub mod json;
mod keys;
mod keyvalue;
pub mod limits;
pub mod mail;
mod message_bytes;
mod messaging;
pub(crate) mod rest;
pub mod rules;
pub mod search;
mod secrets;
mod sql;
pub mod streams;
pub mod telemetry;
pub mod vectors;
pub mod workflows;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub use blobs::{
    Blob, BlobSource, Blobs, ContainerInfo, ObjectInfo, check_container, check_object, copy_time,
    range_of,
};
pub use documents::{DataError, Documents};
pub use identity::{Claims, Identity, IdentityError};
pub use inference::{Generation, Inference, InferenceError};
pub use keys::{DataKey, KeyName, Keys, KeysError, PublicSigningKey, check_key_name};
pub use keyvalue::{
    Change, Changes, Check, Edit, KeyPage, KeyValue, Revision, Swapped, Versioned, check_key,
    check_ttl, check_value, increased,
};
pub use mail::{Mail, MailError, Mailer, may_send_as};
pub use messaging::{
    DEAD_AT, DEAD_DELIVERIES, DEAD_GROUP, DEAD_TOPIC, DEAD_WHY, Deliveries, Delivery, Group,
    Letter, Message, Messaging, Receipt, Subscription, check_message, check_pattern, check_topic,
    topic_matches,
};
pub use search::Search;
pub use secrets::Secrets;
pub use sql::{Database, Session, Sql, SqlError, SqlRows, SqlValue};
pub use streams::{StreamError, Streams};
pub use vectors::Vectors;
pub use workflows::{WorkflowError, Workflows};

/// The future of an answer.
pub type Answer<'a, T, E = CloudError> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Why a backend, or the host in front of it, did not do what it was asked.
///
/// `Display` is what a guest reads: no addresses, users or passwords of a backend. What the operator
/// reads is in the alarm that the backend gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// No binding of this name, or none of this interface.
    #[error("no store is bound to this name")]
    NoSuchStore,
    /// There is one, and the component may not do this.
    #[error("access is denied")]
    AccessDenied,
    /// A limit of the component is used up.
    #[error("the quota is used up: {0}")]
    Quota(Quota),
    /// Something is larger than its cap.
    #[error("{what} has {bytes} bytes, at most {bytes_max} are taken")]
    TooLarge {
        /// `the key`, `the value`, ..
        what: &'static str,
        /// Its bytes.
        bytes: u64,
        /// The cap.
        bytes_max: u64,
    },
    /// An argument that makes no sense, or does not fit what is there.
    #[error("{0}")]
    Invalid(String),
    /// What was named is not there.
    #[error("{0} is not there")]
    NotFound(&'static str),
    /// No room for more, until something is taken out or the operator makes room.
    #[error("{0} is full")]
    Full(&'static str),
    /// The backend has no way to do this; docs/wasi-cloud.md lists what differs.
    #[error("this backend cannot {0}")]
    Unsupported(&'static str),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The backend cannot be reached, or does not let this node in.
    #[error("the backend is not available")]
    Unavailable,
    /// The backend says that it failed.
    #[error("the backend failed: {0}")]
    Failed(String),
}

/// A limit of a component over its stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// `storage_max_mb`.
    Bytes,
    /// `operations_per_sec`.
    Operations,
}

impl CloudError {
    /// Stable code, for logs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoSuchStore => "no-such-store",
            Self::AccessDenied => "access-denied",
            Self::Quota(Quota::Bytes) => "quota-bytes",
            Self::Quota(Quota::Operations) => "quota-operations",
            Self::TooLarge { .. } => "too-large",
            Self::Invalid(_) => "invalid",
            Self::NotFound(_) => "not-found",
            Self::Full(_) => "full",
            Self::Unsupported(_) => "unsupported",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Failed(_) => "backend-failed",
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "`storage_max_mb`",
            Self::Operations => "`operations_per_sec`",
        })
    }
}

/// Whether something is within its cap.
pub fn within(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), CloudError> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(CloudError::TooLarge {
        what,
        bytes: bytes as u64,
        bytes_max: bytes_max as u64,
    })
}
