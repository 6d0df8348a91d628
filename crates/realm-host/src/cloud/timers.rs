//! `realm:cloud/timers@0.1.0`: messages that come later.

use std::time::Duration;

use realm_model::cloud::CloudError;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource};

use super::messaging::{Client, Held, View, said, topic_of};
use crate::state::State;

mod generated {
    wasmtime::component::bindgen!({
        path: [
            "../../wit/deps/wasi-messaging-0.2.0-draft",
            "../../wit/deps/realm-cloud/timers.wit",
        ],
        world: "realm:cloud/timed",
        imports: { default: async | trappable },
        with: {
            "wasi:messaging/types": crate::cloud::messaging::types,
        },
    });
}

use generated::realm::cloud::timers;

/// The longest timer: what is further away belongs into a database.
const AFTER_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    timers::add_to_linker::<_, Has>(linker, State::messaging)
}

impl timers::Host for View<'_> {
    async fn send_after(
        &mut self,
        client: Resource<Client>,
        topic: String,
        message: Resource<Held>,
        after_ms: u64,
    ) -> Result<Result<(), timers::Error>> {
        let opened = self.client(&client)?;
        let held = self.table.delete(message)?;
        let after = Duration::from_millis(after_ms);
        let sent = async {
            if after > AFTER_MAX {
                let words = "a timer is for a year at most".to_owned();
                return Err(CloudError::Invalid(words));
            }
            let opened = opened?;
            let topic = topic_of(&opened, &topic)?;
            opened.store.send(&topic, held.send()?, Some(after)).await
        };
        Ok(sent.await.map_err(said))
    }
}
