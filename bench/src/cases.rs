//! The cases, in order, and the targets of each. What is compared with what, and how it should
//! come out, is decided here and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::peers::{Peer, Tools, WASMTIME_BEST, WASMTIME_REUSE};
use crate::report::{Bound, CaseReport};
use crate::throughput::{Metric, Target, Throughput};
use crate::wrk::Request;
use crate::{deploy, fastcgi, idle, kernels, nodes, parked, start, stores, tls, work};

const REALM: &str = "realm";
const REUSING: &str = "wasmtime serve, reuse 128";
const STOCK: &str = "wasmtime serve";
const BEST: &str = "wasmtime serve, best flags";
const EXPLICIT: &str = "realm, every limit set";
const HELLO: &str = "Hello from a component.\n";
/// Every limit of a component, at values that no hello reaches.
pub(crate) const EVERY_LIMIT: &str = "memory_max_mb = 16\nfuel_per_sec = 1_000_000_000_000\nepoch_timeout_ms = 1_000\n\
                           wall_timeout_ms = 30_000\nmax_concurrency = 64\nmax_request_bytes = 1_048_576\n";
const ECHO_BYTES: usize = 64 * 1024;

/// A case by its name.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    run: fn(&Tools<'_>, &[usize]) -> Result<CaseReport>,
    /// Whether others than realm are needed to run it.
    pub(crate) has_peers: bool,
    /// Whether it runs if no case is named.
    pub(crate) by_default: bool,
}

const fn case(name: &'static str, run: fn(&Tools<'_>, &[usize]) -> Result<CaseReport>) -> Case {
    Case {
        name,
        run,
        has_peers: true,
        by_default: true,
    }
}

pub(crate) const CASES: &[Case] = &[
    case("hello", hello),
    case("limits-set", limits_set),
    case("reuse", reuse),
    case("reuse-p3", reuse_p3),
    case("echo", echo),
    case("json", json),
    case("start", start::start),
    case("deploy", deploy::deploy),
    case("parked", parked::parked),
    case("idle", idle::idle),
    case("idle-host", idle::idle_host),
    case("kernels", kernels::kernels),
    Case {
        has_peers: false,
        ..case("nodes", nodes::nodes)
    },
    // It needs nginx and HAProxy, and starts them itself.
    Case {
        has_peers: false,
        ..case("hop", nodes::hop)
    },
    Case {
        has_peers: false,
        ..case("moves", nodes::moves)
    },
    // They need nginx, and php-fpm or openssl, and look for them themselves.
    Case {
        has_peers: false,
        ..case("fastcgi", fastcgi::fastcgi)
    },
    Case {
        has_peers: false,
        ..case("tls", tls::tls)
    },
    // They need the servers that they are about, and look for them themselves.
    Case {
        has_peers: false,
        ..case("stores", stores::stores)
    },
    Case {
        has_peers: false,
        ..case("objects", stores::objects)
    },
    Case {
        has_peers: false,
        ..case("rows", stores::rows)
    },
    Case {
        has_peers: false,
        ..case("messages", stores::messages)
    },
    // Beside realm they need curl, and nginx, and look for it themselves.
    Case {
        has_peers: false,
        ..case("push", nodes::push)
    },
    Case {
        has_peers: false,
        ..case("slow", nodes::slow)
    },
    // An hour.
    Case {
        has_peers: false,
        by_default: false,
        ..case("nodes-growth", nodes::growth)
    },
    // For `scripts/profile.sh`.
    Case {
        has_peers: false,
        by_default: false,
        ..case("work", work::work)
    },
];

impl Case {
    pub(crate) fn run(&self, tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
        (self.run)(tools, cores)
    }
}

pub(crate) fn example(tools: &Tools<'_>, name: &str) -> Result<PathBuf> {
    built(&tools.args.examples.join(name))
}

/// Absolute, since servers start in folders of their own.
pub(crate) fn built(file: &Path) -> Result<PathBuf> {
    fs::canonicalize(file).with_context(|| {
        format!(
            "`{}` is missing\nhint: `make bench` builds it",
            file.display()
        )
    })
}

fn realm(more: &str) -> Peer {
    Peer::Realm(more.to_owned())
}

fn at_least(metric: Metric, against: &'static str, ratio: f64) -> Target {
    Target {
        metric,
        who: REALM,
        against,
        bound: Bound::AtLeast(ratio),
    }
}

fn at_most(metric: Metric, against: &'static str, ratio: f64) -> Target {
    Target {
        metric,
        who: REALM,
        against,
        bound: Bound::AtMost(ratio),
    }
}

fn hello(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    Throughput {
        name: "hello",
        title: "hello, WASI 0.2, a fresh instance per request",
        guest: example(tools, "hello.wasm")?,
        request: Request::Get,
        path: "/",
        contenders: vec![
            (REALM, realm("")),
            (STOCK, Peer::Wasmtime(vec![])),
            (BEST, Peer::Wasmtime(WASMTIME_BEST.to_vec())),
            ("nginx, a file", Peer::Nginx(HELLO)),
            ("workerd, JavaScript", Peer::Workerd),
        ],
        targets: vec![
            at_least(Metric::RequestsPerSecond, STOCK, 4.0),
            at_least(Metric::RequestsPerSecond, BEST, 1.5),
            at_most(Metric::CpuPerRequest, STOCK, 0.22),
            at_most(Metric::P99, STOCK, 1.0),
            at_most(Metric::P99, BEST, 1.0),
        ],
        notes: vec![
            "realm answers through its route table, with metrics and all default limits on.".to_owned(),
            "nginx serves a file of the same bytes: the ceiling. workerd runs a JavaScript guest that says the same: another guest, kept between requests.".to_owned(),
        ],
        finer: false,
    }
    .run(tools, cores)
}

fn limits_set(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    Throughput {
        name: "limits-set",
        title: "hello with fuel, running time, memory, wall time and concurrency set, and with defaults",
        guest: example(tools, "hello.wasm")?,
        request: Request::Get,
        path: "/",
        contenders: vec![(REALM, realm("")), (EXPLICIT, realm(EVERY_LIMIT))],
        targets: vec![
            Target {
                metric: Metric::RequestsPerSecond,
                who: EXPLICIT,
                against: REALM,
                bound: Bound::AtLeast(0.95),
            },
            Target {
                metric: Metric::CpuPerRequest,
                who: EXPLICIT,
                against: REALM,
                bound: Bound::AtMost(1.05),
            },
        ],
        notes: vec![
            "A manifest cannot turn limits off: without keys there is no fuel, and the defaults of all others hold.".to_owned(),
        ],
        finer: false,
    }
    .run(tools, cores)
}

fn reuse(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    Throughput {
        name: "reuse",
        title: "hello, WASI 0.2, with `reuse`",
        guest: example(tools, "hello.wasm")?,
        request: Request::Get,
        path: "/",
        contenders: vec![
            (REALM, realm("reuse = true\n")),
            (STOCK, Peer::Wasmtime(vec![])),
            (REUSING, Peer::Wasmtime(WASMTIME_REUSE.to_vec())),
        ],
        targets: vec![
            at_most(Metric::CpuPerRequest, STOCK, 0.12),
            at_most(Metric::P99, STOCK, 1.0),
            at_most(Metric::P99, REUSING, 1.0),
        ],
        notes: vec![
            "Stock `wasmtime serve` gives each request of WASI 0.2 a fresh instance.".to_owned(),
        ],
        finer: false,
    }
    .run(tools, cores)
}

fn reuse_p3(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    Throughput {
        name: "reuse-p3",
        title: "hello, WASI 0.3, with `reuse`",
        guest: example(tools, "hello_p3.wasm")?,
        request: Request::Get,
        path: "/",
        contenders: vec![
            (REALM, realm("reuse = true\n")),
            (STOCK, Peer::Wasmtime(vec![])),
        ],
        targets: vec![
            at_most(Metric::CpuPerRequest, STOCK, 0.8),
            at_most(Metric::P99, STOCK, 1.0),
        ],
        notes: vec![
            "Stock `wasmtime serve` reuses an instance of WASI 0.3 for 128 requests, 16 at a time."
                .to_owned(),
        ],
        finer: false,
    }
    .run(tools, cores)
}

fn echo(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    bodies(
        "echo",
        "64 KiB up and down, WASI 0.2, a fresh instance per request",
        example(tools, "echo.wasm")?,
        Request::Post(ECHO_BYTES),
    )
    .run(tools, cores)
}

fn json(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    bodies(
        "json",
        "parse an order of 0.8 kB, add it up, answer JSON; WASI 0.2, a fresh instance per request",
        built(&tools.args.guests.join("bench_json.wasm"))?,
        Request::PostJson(include_str!("order.json")),
    )
    .run(tools, cores)
}

fn bodies(name: &'static str, title: &'static str, guest: PathBuf, request: Request) -> Throughput {
    Throughput {
        name,
        title,
        guest,
        request,
        path: "/",
        contenders: vec![
            (REALM, realm("")),
            (STOCK, Peer::Wasmtime(vec![])),
            (BEST, Peer::Wasmtime(WASMTIME_BEST.to_vec())),
        ],
        targets: vec![
            at_most(Metric::P99, STOCK, 1.0),
            at_most(Metric::P99, BEST, 1.0),
        ],
        notes: Vec::new(),
        finer: false,
    }
}
