//! What one guest's store holds: its WASI contexts, as granted, and the host's side of its limits.
//!
//! Deny by default: a context is made empty, and only what the grants name is put in.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use realm_model::api::LogStream;
use realm_model::cloud::telemetry::Emitter;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Result, Store};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::clock::Clock;
use crate::cloud::blobstore::Outgoing;
use crate::cloud::otel::Ambient;
use crate::cloud::{
    self, Cloud, ConfigView, KeysView, KeyvalueView, Revealed, Speaker, messaging, otel, sql,
};
use crate::component::{Inner, ReplicaInner};
use crate::egress::{self, Egress, NetworkView};
use crate::engine::Kind;
use crate::invocation::{Rein, Shared, on_tick};
use crate::limiter::Limiter;
use crate::logs::{Both, LogSink, Output};
use crate::stdio::Process;

/// Bytes that a guest hands to the host in one call; wasmtime's own default is 128 MiB.
const HOSTCALL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Host resources of one instance (streams, headers, pollables, ..): a request takes about ten.
const RESOURCES_MAX: usize = 10_000;
/// Host resources that an instance may hold between two requests: its standard streams, open
/// directories, pools of connections.
const HELD_BETWEEN_MAX: usize = 128;
/// Component-model handles of one instance.
const HANDLES_MAX: usize = 20_000;
/// In-memory bytes of one set of headers: about twice what they take on the wire.
const FIELDS_BYTES_MAX: usize = 128 * 1024;
/// Random bytes per call.
const RANDOM_BYTES_MAX: u64 = 1024 * 1024;
/// Fuel between two looks at a guest that makes no calls: at 10 G units per second 0.1 ms, so
/// that the count is true to a tenth of a tick.
const FUEL_INTERVAL: u64 = 1_000_000;

/// The data of one store.
pub(crate) struct State {
    pub(crate) shared: Arc<Shared>,
    pub(crate) rein: Rein,
    limiter: Limiter,
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    egress: Egress,
    vars: Arc<BTreeMap<String, String>>,
    pub(crate) cloud: Cloud,
    /// Where what the guest says goes.
    sink: Arc<dyn LogSink>,
    slot: u32,
    /// The span of what is served.
    ambient: Ambient,
    /// Where what the guest writes goes, if somebody hears it, or may in a later invocation.
    log: Option<Arc<Both>>,
}

impl State {
    pub(crate) fn network(&mut self) -> NetworkView<'_> {
        NetworkView {
            egress: &mut self.egress,
            table: &mut self.table,
            wasi: &mut self.wasi,
        }
    }

    /// Whether the guest holds nothing that another invocation should not find: the body of an
    /// answer or an object that it did not finish, or what it gathers from request to request.
    pub(crate) fn is_clean(&mut self) -> bool {
        let mut n_held = 0;
        self.table.iter_mut().all(|held| {
            n_held += 1;
            n_held <= HELD_BETWEEN_MAX && !held.is::<HostOutgoingBody>() && !held.is::<Outgoing>()
        })
    }

    /// Another invocation begins in the same instance.
    pub(crate) fn renew(&mut self, shared: Arc<Shared>) {
        self.end_span();
        self.limiter.renew(Arc::clone(&shared));
        self.rein.ticks = 0;
        if let Some(log) = &self.log {
            log.renew(shared.ear());
        }
        self.shared = shared;
    }

    pub(crate) fn speaker(&mut self) -> Speaker<'_> {
        Speaker {
            sink: &self.sink,
            slot: self.slot,
        }
    }

    /// What was served is over, though the instance may live on.
    pub(crate) fn end_span(&mut self) {
        self.ambient.finish();
    }

    pub(crate) fn otel(&mut self) -> otel::View<'_> {
        otel::View {
            cloud: &self.cloud,
            speaker: Speaker {
                sink: &self.sink,
                slot: self.slot,
            },
            shared: &self.shared,
            ambient: &mut self.ambient,
        }
    }

    pub(crate) fn revealed(&mut self) -> Revealed<'_> {
        Revealed {
            secrets: self.cloud.secrets(),
            table: &mut self.table,
        }
    }

    pub(crate) fn sql(&mut self) -> sql::View<'_> {
        sql::View {
            cloud: &mut self.cloud,
            table: &mut self.table,
        }
    }

    pub(crate) fn keys(&mut self) -> KeysView<'_> {
        KeysView {
            cloud: &self.cloud,
            table: &mut self.table,
        }
    }

    pub(crate) fn keyvalue(&mut self) -> KeyvalueView<'_> {
        KeyvalueView {
            cloud: &self.cloud,
            table: &mut self.table,
        }
    }

    pub(crate) fn blobs(&mut self) -> cloud::blobstore::View<'_> {
        cloud::blobstore::View::new(&self.cloud, &mut self.table)
    }

    pub(crate) fn messaging(&mut self) -> messaging::View<'_> {
        messaging::View {
            cloud: &mut self.cloud,
            table: &mut self.table,
        }
    }

    pub(crate) fn config(&mut self) -> ConfigView<'_> {
        ConfigView {
            vars: &self.vars,
            cloud: &self.cloud,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.egress,
        }
    }
}

/// WASI without what is beyond it: all that most components import. Of 0.3 as well, where the engine is made
/// for it.
pub(crate) fn linker_of_wasi(engine: &Engine, kind: Kind) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    egress::link(&mut linker)?;
    if kind.concurrent {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        egress::link_concurrent(&mut linker)?;
    }
    Ok(linker)
}

/// Everything that `interfaces::PROVIDED` lists.
pub(crate) fn linker(engine: &Engine, kind: Kind) -> Result<Linker<State>> {
    let mut linker = linker_of_wasi(engine, kind)?;
    cloud::link(&mut linker, kind.concurrent)?;
    Ok(linker)
}

/// A store for one instance, armed: limits hold from the first instruction of its start.
pub(crate) fn store(
    replica: &ReplicaInner,
    shared: Arc<Shared>,
    process: Option<Process>,
) -> Result<Store<State>> {
    let component = &replica.component;
    let meter = &component.settings.meter;
    let limits = &component.settings.limits;
    let bytes_max = limits.memory_max_mb.saturating_mul(1024 * 1024);
    let mut table = ResourceTable::new();
    table.set_max_capacity(RESOURCES_MAX);
    let mut egress = Egress::new(Arc::clone(&component.egress), replica.slot);
    if let Some(port) = process.as_ref().and_then(|process| process.listen) {
        egress.listen_on((Ipv4Addr::LOCALHOST, port).into());
    }
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(FIELDS_BYTES_MAX);
    let settings = &component.settings;
    let ear = shared.ear();
    let log = (ear.is_some() || settings.reuse).then(|| Both::new(&settings.log, ear));
    let sink = match &log {
        Some(both) => Arc::clone(both) as Arc<dyn LogSink>,
        None => Arc::clone(&settings.log),
    };
    let cloud = Cloud::new(
        settings.name.clone(),
        Arc::clone(&component.stores),
        replica.operations.clone(),
        limits.storage_max_mb.saturating_mul(1024 * 1024),
    );
    let emitter = Emitter {
        slot: replica.slot,
        instance: otel::next_instance(),
    };
    let state = State {
        limiter: Limiter::new(bytes_max, Arc::clone(&shared), Arc::clone(meter)),
        rein: Rein {
            running_max: std::time::Duration::from_millis(limits.epoch_timeout_ms),
            bucket: replica.bucket.clone(),
            meter: Arc::clone(meter),
            fuel_left: u64::MAX,
            ticks: 0,
        },
        table,
        wasi: context(component, &sink, replica.slot, process)?,
        http,
        egress,
        vars: Arc::clone(&component.vars),
        ambient: Ambient::new(emitter, cloud.telemetry_taker()),
        cloud,
        log,
        sink,
        slot: replica.slot,
        shared,
    };
    let mut store = Store::new(&component.engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    if replica.bucket.is_some() {
        store.set_fuel(u64::MAX)?;
        store.fuel_async_yield_interval(Some(FUEL_INTERVAL))?;
    }
    store.epoch_deadline_callback(on_tick);
    store.set_epoch_deadline(1);
    Ok(store)
}

/// The WASI context that the grants allow.
fn context(
    component: &Inner,
    sink: &Arc<dyn LogSink>,
    slot: u32,
    process: Option<Process>,
) -> Result<WasiCtx> {
    let grants = &component.settings.grants;
    let clock = Clock(grants.clock);
    let mut builder = WasiCtxBuilder::new();
    builder
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES_MAX)
        .wall_clock(clock)
        .monotonic_clock(clock);
    let is_program = process.is_some();
    let process = process.unwrap_or_default();
    for (name, value) in &grants.env {
        if !process.env.iter().any(|(own, _)| own == name) {
            builder.env(name, value);
        }
    }
    for (name, value) in &process.env {
        builder.env(name, value);
    }
    // A program always has a name: many read it without looking whether it is there.
    if is_program || !grants.args.is_empty() {
        let name = process.name.as_deref();
        builder.arg(name.unwrap_or(component.settings.name.as_str()));
        builder.args(&grants.args);
        builder.args(&process.args);
    }
    let log = |stream| Output::new(Arc::clone(sink), slot, stream);
    match process.stdout {
        Some(stdout) => builder.stdout(stdout),
        None => builder.stdout(log(LogStream::Stdout)),
    };
    match process.stderr {
        Some(stderr) => builder.stderr(stderr),
        None => builder.stderr(log(LogStream::Stderr)),
    };
    if let Some(stdin) = process.stdin {
        builder.stdin(stdin);
    }
    for dir in &component.dirs {
        // By descriptor, not by name: what was checked at load is what is opened, whatever the
        // path leads to by now.
        let path = format!("/proc/self/fd/{}", dir.handle.as_raw_fd());
        let permissions = if dir.writable {
            FsPerms::ReadWrite
        } else {
            FsPerms::ReadOnly
        };
        builder.preopened_dir(path, &dir.guest, permissions)?;
    }
    Ok(builder.build())
}
