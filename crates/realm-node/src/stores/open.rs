//! Stores that are open, without keeping them so.

use std::sync::{Arc, Weak};

use realm_host::Store;
use realm_model::cloud::telemetry::Telemetry;
use realm_model::cloud::{
    Blobs, Database, Identity, Inference, KeyValue, Keys, Mailer, Messaging, Streams, Workflows,
};

/// A store that is open for as long as somebody has it.
#[derive(Clone)]
pub(super) enum Held {
    Keyvalue(Weak<dyn KeyValue>),
    Blobs(Weak<dyn Blobs>),
    Messaging(Weak<dyn Messaging>),
    Sql(Weak<dyn Database>),
    Otel(Weak<dyn Telemetry>),
    Keys(Weak<dyn Keys>),
    Identity(Weak<dyn Identity>),
    Mail(Weak<dyn Mailer>),
    Streams(Weak<dyn Streams>),
    Workflows(Weak<dyn Workflows>),
    Inference(Weak<dyn Inference>),
}

impl Held {
    pub(super) fn of(store: &Store) -> Self {
        match store {
            Store::Keyvalue(store) | Store::Config(store) => Self::Keyvalue(Arc::downgrade(store)),
            Store::Blobs(store) => Self::Blobs(Arc::downgrade(store)),
            Store::Messaging(store) => Self::Messaging(Arc::downgrade(store)),
            Store::Sql(store) => Self::Sql(Arc::downgrade(store)),
            Store::Otel(store) => Self::Otel(Arc::downgrade(store)),
            Store::Keys(store) => Self::Keys(Arc::downgrade(store)),
            Store::Identity(store) => Self::Identity(Arc::downgrade(store)),
            Store::Mail(store) => Self::Mail(Arc::downgrade(store)),
            Store::Streams(store) => Self::Streams(Arc::downgrade(store)),
            Store::Workflows(store) => Self::Workflows(Arc::downgrade(store)),
            Store::Inference(store) => Self::Inference(Arc::downgrade(store)),
        }
    }

    pub(super) fn get(&self) -> Option<Store> {
        match self {
            Self::Keyvalue(store) => store.upgrade().map(Store::Keyvalue),
            Self::Blobs(store) => store.upgrade().map(Store::Blobs),
            Self::Messaging(store) => store.upgrade().map(Store::Messaging),
            Self::Sql(store) => store.upgrade().map(Store::Sql),
            Self::Otel(store) => store.upgrade().map(Store::Otel),
            Self::Keys(store) => store.upgrade().map(Store::Keys),
            Self::Identity(store) => store.upgrade().map(Store::Identity),
            Self::Mail(store) => store.upgrade().map(Store::Mail),
            Self::Streams(store) => store.upgrade().map(Store::Streams),
            Self::Workflows(store) => store.upgrade().map(Store::Workflows),
            Self::Inference(store) => store.upgrade().map(Store::Inference),
        }
    }
}
