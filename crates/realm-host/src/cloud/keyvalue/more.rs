//! `realm:cloud/ttl` and `realm:cloud/transactions`: what the drafts of `wasi:keyvalue` lack.

use std::time::Duration;

use realm_model::cloud::{Check, CloudError, Edit, Revision};
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::draft2::words;
use super::{Bucket, Has, View};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: ["../../wit/deps/wasi-keyvalue-0.2.0-draft2", "../../wit/deps/wasi-messaging-0.2.0-draft", "../../wit/deps/realm-cloud"],
        inline: "
            package realm:host;
            world keyvalue {
                import realm:cloud/ttl@0.1.0;
                import realm:cloud/transactions@0.1.0;
            }
        ",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store": crate::cloud::keyvalue::draft2::bindings::store },
    });
}

use generated::realm::cloud::{transactions, ttl};

type Error = super::draft2::bindings::store::Error;

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    ttl::add_to_linker::<_, Has>(linker, State::keyvalue)?;
    transactions::add_to_linker::<_, Has>(linker, State::keyvalue)
}

impl ttl::Host for View<'_> {
    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
        ttl_ms: u64,
    ) -> Result<Result<(), Error>> {
        let held = self.held(&bucket)?;
        let ttl = Some(Duration::from_millis(ttl_ms));
        Ok(held.set(&key, &value, ttl).await.map_err(words))
    }

    async fn remaining(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<ttl::Life, Error>> {
        let held = self.held(&bucket)?;
        let life = held.remaining(&key).await.map(|life| match life {
            None => ttl::Life::Missing,
            Some(None) => ttl::Life::Stays,
            Some(Some(left)) => ttl::Life::EndsInMs(ms(left)),
        });
        Ok(life.map_err(words))
    }
}

impl transactions::Host for View<'_> {
    async fn read(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<transactions::Versioned, Error>> {
        let held = self.held(&bucket)?;
        let seen = held.read(&key).await;
        let seen = seen.map(|seen| transactions::Versioned {
            value: seen.value,
            revision: seen.revision.0,
        });
        Ok(seen.map_err(words))
    }

    async fn commit(
        &mut self,
        bucket: Resource<Bucket>,
        checks: Vec<transactions::Check>,
        edits: Vec<transactions::Edit>,
    ) -> Result<Result<bool, Error>> {
        let held = self.held(&bucket)?;
        let checks: Vec<Check> = checks.into_iter().map(check).collect();
        let edits: Vec<Edit> = edits.into_iter().map(edit).collect();
        let long = checks
            .iter()
            .any(|check| check.revision.0.len() > Revision::BYTES_MAX);
        let done = if long {
            Err(CloudError::Invalid("a revision is none".to_owned()))
        } else {
            held.commit(&checks, &edits).await
        };
        Ok(done.map_err(words))
    }
}

fn check(check: transactions::Check) -> Check {
    Check {
        key: check.key,
        revision: Revision(check.revision),
    }
}

fn edit(edit: transactions::Edit) -> Edit {
    match edit {
        transactions::Edit::Set(set) => {
            Edit::Set(set.key, set.value, set.ttl_ms.map(Duration::from_millis))
        }
        transactions::Edit::Delete(key) => Edit::Delete(key),
    }
}

pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
