//! The nouns of realm: ids, keys, signatures, entries, the manifest, limits, grants, routes,
//! observed state, actions, and what the API carries.
//!
//! Everything here is a value or a pure function over values. This crate does *not* know files,
//! sockets, clocks or tokio; time and randomness are arguments. It is an API boundary: what is
//! serialisable here is a promise to the wire, to a file, or to a script that reads `--json`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod block;
mod cbor;
pub mod content_id;
pub mod digest;
pub mod key;
pub mod name;
pub mod peer_id;
pub mod refusal;
pub mod text;

pub mod codes;
pub mod diagnostic;
pub mod entry;
mod fields;
pub mod lock;
pub mod manifest;
pub mod node_config;
pub mod sealing;
pub mod section;
pub mod signature_file;
mod wire;

pub mod binding;
pub mod cloud;
pub mod front;
pub mod grants;
pub mod limits;
pub mod route;
pub mod schedule;
pub mod trigger;
pub mod upstream;

pub mod address;
pub mod join;
pub mod ticket;

pub mod action;
pub mod beacon;
pub mod certificate_message;
pub mod inspection;
pub mod lending_message;
pub mod observed;
pub mod record;
pub mod sync;

pub mod api;
pub mod frame;
pub mod request;
pub mod view;
pub mod why;
