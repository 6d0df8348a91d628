//! `wasi:config/store`: the `vars` of the manifest, read-only.
//!
//! The interface was published under three versions with one text, and pre-release versions link
//! only where they match exactly: so each has bindings of its own here, over one implementation.
//! Not here: environment variables, secrets.

use std::collections::BTreeMap;

use wasmtime::Result;
use wasmtime::component::{HasData, Linker};

use crate::state::State;

/// What a guest reads.
pub(crate) struct Vars<'a>(pub(crate) &'a BTreeMap<String, String>);

struct Has;

impl HasData for Has {
    type Data<'a> = Vars<'a>;
}

impl Vars<'_> {
    fn get(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn all(&self) -> Vec<(String, String)> {
        let pairs = self.0.iter();
        pairs
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

macro_rules! version {
    ($name:ident, $path:literal) => {
        mod $name {
            wasmtime::component::bindgen!({ path: $path, world: "imports" });

            pub(super) use wasi::config::store::{Error, Host, add_to_linker};
        }

        impl $name::Host for Vars<'_> {
            fn get(&mut self, key: String) -> Result<Option<String>, $name::Error> {
                Ok(Vars::get(self, &key))
            }

            fn get_all(&mut self) -> Result<Vec<(String, String)>, $name::Error> {
                Ok(Vars::all(self))
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
pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    draft::add_to_linker::<_, Has>(linker, State::vars)?;
    draft_2024_09_27::add_to_linker::<_, Has>(linker, State::vars)?;
    rc_1::add_to_linker::<_, Has>(linker, State::vars)
}
