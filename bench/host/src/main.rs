//! Host and edge with many components, as the agent joins them: for what one manifest cannot hold.
//!
//! `realm-bench-host ADDRESS COUNT same|distinct COMPONENT` answers `/hot` and `/i0` … with the
//! component. Not the agent: no log, no plan, no health checks.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]
#![expect(clippy::print_stderr, reason = "the harness keeps its log")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use realm_edge::{Answered, Backend, BoxFuture, CallError, Observer, Table};
use realm_host::{Host, LogSink, Meter, Replica, Settings};
use realm_model::api::LogStream;
use realm_model::limits::Limits;
use realm_model::name::ComponentName;
use realm_model::route::{PathPattern, Route};

/// As in the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, count, digests, component] = args.as_slice() else {
        eprintln!("usage: realm-bench-host ADDRESS COUNT same|distinct COMPONENT");
        std::process::exit(64);
    };
    let folder = std::env::current_dir().unwrap();
    let compiled = folder.join("compiled");
    let bytes = std::fs::read(component).unwrap();
    std::fs::write(&compiled, realm_host::compile(&bytes, false).unwrap()).unwrap();

    let host = Host::new(realm_host::Config::default()).unwrap();
    let mut routes = Vec::new();
    let mut backends: BTreeMap<ComponentName, Vec<Arc<dyn Backend>>> = BTreeMap::new();
    let count: u32 = count.parse().unwrap();
    let names = (0..count).map(|at| format!("i{at:x}"));
    for name in std::iter::once("hot".to_owned()).chain(names) {
        // A file of its own is, for the kernel, what a digest of its own is.
        let file = if digests == "distinct" {
            let file: PathBuf = folder.join(&name);
            std::fs::copy(&compiled, &file).unwrap();
            file
        } else {
            compiled.clone()
        };
        let component: ComponentName = name.parse().unwrap();
        // On a thread that may block, and ends: where the memory comes from matters to who frees it.
        let loaded = tokio::task::spawn_blocking({
            let (host, settings) = (host.clone(), settings(component.clone()));
            move || host.load(settings, &file).unwrap()
        })
        .await
        .unwrap();
        let backend: Arc<dyn Backend> = Arc::new(Local(loaded.replica(0)));
        backends.insert(component.clone(), vec![backend]);
        routes.push(Route {
            host: None,
            path: PathPattern::Exact(format!("/{name}")),
            component,
            weights: [].into(),
        });
    }

    let config = realm_edge::Config {
        listen: vec![address.parse().unwrap()],
        ..realm_edge::Config::default()
    };
    let edge = realm_edge::spawn(config, Arc::new(Nobody)).await.unwrap();
    edge.set_table(Table::new(routes, backends));
    eprintln!("{count} components and a hot one");
    std::future::pending::<()>().await;
}

fn settings(name: ComponentName) -> Settings {
    Settings {
        name,
        limits: Limits::default(),
        grants: Default::default(),
        stores: realm_host::Stores::default(),
        reuse: false,
        probe: None,
        log: Arc::new(Silent),
        meter: Arc::new(Meter::new()),
    }
}

/// A replica, as the edge sees it.
struct Local(Replica);

impl Backend for Local {
    fn call(
        &self,
        request: Request<realm_edge::Body>,
    ) -> BoxFuture<'static, Result<Response<realm_edge::Body>, CallError>> {
        let replica = self.0.clone();
        Box::pin(async move {
            let failed = |error: realm_host::CallError| {
                let status = StatusCode::from_u16(error.status);
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                CallError::new(status, error.code, error.message)
            };
            replica.call(request).await.map_err(failed)
        })
    }

    fn load(&self) -> u32 {
        self.0.in_flight()
    }
}

struct Silent;

impl LogSink for Silent {
    fn line(&self, _: u32, _: LogStream, _: String) {}
}

struct Nobody;

impl Observer for Nobody {
    fn answered(&self, _: &Answered<'_>) {}
}
