//! `wasi:config/store`: the `vars` of the manifest, and beside them the text in the store that a component
//! binds for it. Read-only.
//!
//! What the operator signed counts: a name that `vars` has is never looked up in the store, so that nobody
//! who may write there changes it, and it is there also while the store is not. The interface was
//! published under three versions with one text, and pre-release versions link only where they match
//! exactly: so each has bindings of its own here, over one implementation. Not here: environment
//! variables, secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use realm_model::cloud::limits::{CALL_TIMEOUT_MS, CONFIG_BYTES_MAX, CONFIG_VALUES_MAX};
use realm_model::cloud::{CloudError, check_key};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker};

use super::Held;
use crate::cloud::{Cloud, Kept};
use crate::state::State;

/// What a guest reads.
pub(crate) struct View<'a> {
    pub(crate) vars: &'a BTreeMap<String, String>,
    pub(crate) cloud: &'a Cloud,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

impl View<'_> {
    async fn get(&self, key: &str) -> Result<Option<String>, CloudError> {
        if let Some(value) = self.vars.get(key) {
            return Ok(Some(value.clone()));
        }
        // No store has anything under a name that none takes.
        let Some(held) = self.held().filter(|_| check_key(key).is_ok()) else {
            return Ok(None);
        };
        let Some(value) = held.get(key).await? else {
            return Ok(None);
        };
        within(value.len())?;
        text(key, value).map(Some)
    }

    async fn all(&self) -> Result<Vec<(String, String)>, CloudError> {
        let mut all = self.vars.clone();
        if let Some(held) = self.held() {
            let time = Duration::from_millis(CALL_TIMEOUT_MS);
            tokio::time::timeout(time, self.add(&mut all, &held))
                .await
                .map_err(|_| CloudError::Timeout)??;
        }
        Ok(all.into_iter().collect())
    }

    /// Adds what the store has beside the `vars`, page by page.
    async fn add(&self, all: &mut BTreeMap<String, String>, held: &Held) -> Result<(), CloudError> {
        let mut kept = Kept::none(self.cloud);
        let (mut n_bytes, mut n_values) = (0, 0);
        let mut cursor = None;
        loop {
            let page = held.keys(cursor.as_deref()).await?;
            let names = page.keys.into_iter();
            let names: Vec<String> = names.filter(|name| !self.vars.contains_key(name)).collect();
            n_values += names.len();
            if n_values > CONFIG_VALUES_MAX {
                return Err(CloudError::Invalid(format!(
                    "the store has more than {CONFIG_VALUES_MAX} values: get them by their names"
                )));
            }
            if !names.is_empty() {
                // One that went since it was listed is not there.
                for (name, value) in held.get_many(names).await?.into_iter().flatten() {
                    let more = name.len() + value.len();
                    n_bytes += more;
                    within(n_bytes)?;
                    kept.more(more)?;
                    let value = text(&name, value)?;
                    all.insert(name, value);
                }
            }
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    fn held(&self) -> Option<Held> {
        Some(Held {
            opened: self.cloud.config()?,
            cloud: self.cloud.clone(),
        })
    }
}

fn within(n_bytes: usize) -> Result<(), CloudError> {
    if n_bytes <= CONFIG_BYTES_MAX {
        return Ok(());
    }
    Err(CloudError::TooLarge {
        what: "what is read",
        bytes: n_bytes as u64,
        bytes_max: CONFIG_BYTES_MAX as u64,
    })
}

fn text(name: &str, value: Vec<u8>) -> Result<String, CloudError> {
    let bad = |_| CloudError::Invalid(format!("the value of {name:?} is not text"));
    String::from_utf8(value).map_err(bad)
}

macro_rules! version {
    ($name:ident, $path:literal) => {
        mod $name {
            wasmtime::component::bindgen!({
                path: $path,
                world: "imports",
                imports: { default: async },
            });

            pub(super) use wasi::config::store::{Error, Host, add_to_linker};
        }

        impl From<CloudError> for $name::Error {
            fn from(error: CloudError) -> Self {
                let words = error.to_string();
                match error {
                    CloudError::Timeout | CloudError::Unavailable => Self::Io(words),
                    CloudError::NoSuchStore
                    | CloudError::AccessDenied
                    | CloudError::Quota(_)
                    | CloudError::TooLarge { .. }
                    | CloudError::Invalid(_)
                    | CloudError::NotFound(_)
                    | CloudError::Full(_)
                    | CloudError::Unsupported(_)
                    | CloudError::Failed(_) => Self::Upstream(words),
                }
            }
        }

        impl $name::Host for View<'_> {
            async fn get(&mut self, key: String) -> Result<Option<String>, $name::Error> {
                Ok(View::get(self, &key).await?)
            }

            async fn get_all(&mut self) -> Result<Vec<(String, String)>, $name::Error> {
                Ok(View::all(self).await?)
            }
        }
    };
}

version!(draft, "../../wit/deps/wasi-config-0.2.0-draft");
version!(
    draft_2024_09_27,
    "../../wit/deps/wasi-config-0.2.0-draft-2024-09-27"
);
version!(rc_1, "../../wit/deps/wasi-config-0.2.0-rc.1");

/// Every published version of `wasi:config/store`.
pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    draft::add_to_linker::<_, Has>(linker, State::config)?;
    draft_2024_09_27::add_to_linker::<_, Has>(linker, State::config)?;
    rc_1::add_to_linker::<_, Has>(linker, State::config)
}
