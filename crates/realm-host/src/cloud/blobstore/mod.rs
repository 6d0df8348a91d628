//! `wasi:blobstore`: containers of objects, whose bytes stream in and out.
//!
//! `get-data` takes its `end` as inclusive: the draft does not say which, and this is what Spin and
//! wasmCloud have. Not here: what keeps the objects, and where a container's name leads.

mod host;
mod quota;
mod reading;
mod room;
mod writing;

use wasmtime::Result;
use wasmtime::component::{HasData, Linker, ResourceTable};

use super::Cloud;
use crate::state::State;

pub(super) use room::Room;
pub(crate) use writing::Outgoing;

mod draft {
    wasmtime::component::bindgen!({
        path: ["../../wit/deps/wasi-io-0.2.2", "../../wit/deps/wasi-blobstore-0.2.0-draft"],
        world: "wasi:blobstore/imports@0.2.0-draft",
        imports: { default: async | trappable },
        with: {
            "wasi:io/error.error": wasmtime_wasi::p2::IoError,
            "wasi:io/poll.pollable": wasmtime_wasi::p2::DynPollable,
            "wasi:io/streams.input-stream": wasmtime_wasi::p2::DynInputStream,
            "wasi:io/streams.output-stream": wasmtime_wasi::p2::DynOutputStream,
            "wasi:blobstore/types.outgoing-value": super::writing::Outgoing,
            "wasi:blobstore/types.incoming-value": super::reading::Incoming,
            "wasi:blobstore/container.container": super::host::Container,
            "wasi:blobstore/container.stream-object-names": super::host::Names,
        },
    });

    pub(super) use wasi::blobstore::{blobstore, container, types};
}

/// What a call of a guest works on.
pub(crate) struct View<'a> {
    cloud: &'a Cloud,
    table: &'a mut ResourceTable,
}

impl<'a> View<'a> {
    pub(crate) const fn new(cloud: &'a Cloud, table: &'a mut ResourceTable) -> Self {
        Self { cloud, table }
    }
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

/// Every published version of `wasi:blobstore`.
pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    draft::types::add_to_linker::<_, Has>(linker, State::blobs)?;
    draft::container::add_to_linker::<_, Has>(linker, State::blobs)?;
    draft::blobstore::add_to_linker::<_, Has>(linker, State::blobs)
}
