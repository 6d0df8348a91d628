//! The end-to-end tests: the real binary, real processes, real sockets, on this machine only.
//!
//! One binary. A test reads like a session at a terminal: [`support`] has the machinery, and the
//! other modules a topic each. What can be tested below the process boundary is tested there.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod gallery;
mod guest_net;
mod invited;
mod knocking;
mod lab;
mod realms;
mod support;

mod acme;
mod alone;
mod announced;
mod anywhere;
mod beacon;
mod belonging;
mod blobs;
mod bounds;
mod builds;
mod caching;
mod caps;
mod cli;
mod clocks;
#[path = "../peers/collector.rs"]
mod collector;
mod compile;
mod configuration;
mod crash;
mod crowds;
mod damage;
mod databases;
mod deaths;
mod demos;
mod devices;
mod doorkeeping;
mod eclipse;
mod elsewhere;
#[path = "../peers/inference.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of engines, which do more with it"
)]
mod engines;
mod examples;
mod explain;
mod fastcgi;
mod fronts;
mod guides;
mod halted;
mod health;
mod hostile;
mod https;
mod inference;
mod install;
mod keys;
mod keyvalue;
mod killed;
mod languages;
mod lending;
mod liar;
mod lies;
mod limits;
mod logging;
mod logs;
mod mail;
#[path = "../peers/mail.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of mail, which do more with it"
)]
mod mail_server;
mod malice;
mod manifest;
mod many;
mod meeting;
mod memory;
mod messages;
mod metrics;
mod modules;
mod nat;
mod neighbourhood;
#[path = "../neighbours/mod.rs"]
mod neighbours;
mod origins;
mod outages;
mod owners;
mod panics;
mod partition;
mod passwords;
mod placed;
mod poison;
mod pooled;
mod ports;
#[path = "../peers/postgres.rs"]
#[expect(dead_code, reason = "shared with tests that do more with it")]
mod postgres;
mod proxied;
mod push;
#[path = "../peers/registry.rs"]
mod registry;
mod remote;
mod scanned;
mod secrets;
mod services;
mod serving;
mod session;
mod shapes;
mod sharing;
mod signals;
mod singletons;
mod sourced;
mod states;
mod streams;
mod swap;
#[path = "../peers/swift.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of objects, which do more with it"
)]
mod swift;
mod telemetry;
mod terminal;
mod tidy;
mod timers;
mod torn;
mod trust;
mod trusted;
mod up;
mod upstream;
mod vaults;
mod versions;
mod waiting;
mod watching;
mod workflows;
mod worlds;
