//! `wasi:keyvalue/watcher` in both drafts: a component that is called when a key changes.
//!
//! Not here: where changes come from, and what is done with one that the guest could not deal with.

use realm_model::cloud::{Change, KeyValue};
use wasmtime::component::{InstancePre, Resource};
use wasmtime::{Result, Store};

use super::{Bucket, Opened};
use crate::state::State;

mod draft {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/wasi-keyvalue-0.2.0-draft",
        inline: "
            package realm:host;
            world watching { export wasi:keyvalue/watcher@0.2.0-draft; }
        ",
        imports: { default: async | trappable },
        exports: { default: async },
        with: { "wasi:keyvalue/store": crate::cloud::keyvalue::draft::bindings::store },
    });
}

mod draft2 {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/wasi-keyvalue-0.2.0-draft2",
        inline: "
            package realm:host;
            world watching { export wasi:keyvalue/watcher@0.2.0-draft2; }
        ",
        imports: { default: async | trappable },
        exports: { default: async },
        with: { "wasi:keyvalue/store": crate::cloud::keyvalue::draft2::bindings::store },
    });
}

/// The export that is called.
pub(crate) enum Watcher {
    Draft(draft::WatchingPre<State>),
    Draft2(draft2::WatchingPre<State>),
}

/// An instance that is about to be called.
pub(crate) enum Called {
    Draft(draft::Watching),
    Draft2(draft2::Watching),
}

impl Watcher {
    /// For the version of the interface that a component exports.
    pub(crate) fn new(version: &str, instance: InstancePre<State>) -> Result<Self> {
        Ok(match version {
            "0.2.0-draft" => Self::Draft(draft::WatchingPre::new(instance)?),
            _ => Self::Draft2(draft2::WatchingPre::new(instance)?),
        })
    }

    pub(crate) async fn instantiate(&self, store: &mut Store<State>) -> Result<Called> {
        Ok(match self {
            Self::Draft(watcher) => Called::Draft(watcher.instantiate_async(store).await?),
            Self::Draft2(watcher) => Called::Draft2(watcher.instantiate_async(store).await?),
        })
    }
}

impl Called {
    /// Hands over a change, with the bucket that it happened in.
    pub(crate) async fn call(
        &self,
        store: &mut Store<State>,
        opened: Opened<dyn KeyValue>,
        change: Change,
    ) -> Result<()> {
        let bucket = Bucket::new(opened);
        let bucket: Resource<Bucket> = store.data_mut().keyvalue().table.push(bucket)?;
        let Change { key, value } = change;
        match (self, value) {
            (Self::Draft(called), Some(value)) => {
                let watcher = called.wasi_keyvalue_watcher();
                watcher.call_on_set(store, bucket, &key, &value).await
            }
            (Self::Draft(called), None) => {
                let watcher = called.wasi_keyvalue_watcher();
                watcher.call_on_delete(store, bucket, &key).await
            }
            (Self::Draft2(called), Some(value)) => {
                let watcher = called.wasi_keyvalue_watcher();
                watcher.call_on_set(store, bucket, &key, &value).await
            }
            (Self::Draft2(called), None) => {
                let watcher = called.wasi_keyvalue_watcher();
                watcher.call_on_delete(store, bucket, &key).await
            }
        }
    }
}
