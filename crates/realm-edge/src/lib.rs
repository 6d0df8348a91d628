//! Turns a connection into a call on a backend by a route table: HTTP/1.1 and HTTP/2, balancing,
//! forwarding headers, refusals with stable codes, draining.
//!
//! It knows no wasm and not how routes came to be: the node hands it a [`Table`] of routes and
//! [`Backend`]s, swaps it whenever it likes, and is told of each answer through an [`Observer`].
//! No request is dropped by a swap: a request keeps the backends it was routed to.
#![forbid(unsafe_code)]

mod accept;

mod answer;
mod arrival;
mod aside;
mod backend;
mod cache;
mod config;
mod connection;
mod doors;
mod far;
pub mod fastcgi;
mod forwarded;
pub mod fuzzing;
mod gate;
mod headers;
mod host;
mod https;
mod io;
mod observe;
mod origin;
mod path;
mod ports;
mod proxied;
mod pulse;
mod refusal;
mod registry;
mod relay;
mod request_body;
mod response_body;
mod serve;
mod server;
mod stream;
mod table;
mod throttle;
pub mod tls;
mod tunnel;
mod turns;
mod upstream;
mod websocket;
mod wire;
mod workers;

pub use backend::{Backend, Body, BoxError, BoxFuture, CallError, Connected, RoutePrefix};
pub use cache::CacheFigures;
pub use config::{Config, EdgeLimits};
pub use far::{Far, Line, LineFigures};
pub use gate::Gate;
pub use observe::{Answered, MethodClass, Observer, Outcome, Protocol};
pub use ports::{Port, PortTrouble};
pub use server::{EdgeError, Handle, spawn, spawn_closed};
pub use table::Table;
pub use turns::in_turn_with_caller;
pub use upstream::{Dial, Io, Reach, Upstream, UpstreamCaps, UpstreamLimits};
pub use websocket::{Switched, WebSocket};
