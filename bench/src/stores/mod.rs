//! Operations on stores: a guest that does them one after the other, beside a native program that does the
//! same with the same client, on the same server or the same disk.

mod messages;
mod servers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::cases::built;
use crate::http;
use crate::machine;
use crate::peers::Tools;
use crate::realm::Realm;
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::server::Server;
use crate::stats::Spread;

pub(crate) use messages::messages;
use servers::Store;

const GUEST: &str = "a guest in realm";
const NATIVE: &str = "a native program";

/// One kind of stores, and what is done with each.
struct Kind {
    name: &'static str,
    title: &'static str,
    interface: &'static str,
    note: &'static str,
    unit: Unit,
    work: &'static [Work],
}

/// What is measured at once.
struct Work {
    /// The name of a store.
    store: &'static str,
    operation: &'static str,
    /// How many, in a second or so.
    n: usize,
    /// Of a value, an object, or a row's text.
    bytes: usize,
    wanted: Wanted,
}

/// Of a guest beside a native program.
#[derive(Clone, Copy)]
enum Wanted {
    /// What is beside a round trip of a server counts as a share.
    Share,
    /// Beside nothing, as microseconds.
    MoreUs(f64),
    Nothing,
}

/// How a figure is told.
#[derive(Clone, Copy)]
enum Unit {
    UsEach,
    MibPerSecond,
    RowsPerSecond,
}

#[derive(Debug, Clone, Serialize)]
struct Round {
    round: u32,
    store: &'static str,
    operation: &'static str,
    who: &'static str,
    us_per_operation: f64,
}

const KEYS: Kind = Kind {
    name: "stores",
    title: "an operation on a store of values, of a guest and of a native program",
    interface: "wasi:keyvalue",
    note: "One after the other, on one connection, with values of 100 bytes. The guest is a component of WASI 0.2 that uses `wasi:keyvalue@0.2.0-draft2`; the native program uses redb and the crates `redis` and `async-nats` by themselves, and runs twice, with one thread and with one for each core: the faster time counts. A `set` in the embedded store is on the disk when it returns, with both. The servers are on loopback, Redis in memory; they have one of the two cores, and who asks has the other, so that each round trip wakes a core up as one to another machine does.",
    unit: Unit::UsEach,
    work: &[
        Work::new("redb", "get", 100_000, 100, Wanted::MoreUs(5.0)),
        Work::new("redb", "set", 200, 100, Wanted::Nothing),
        Work::new("redis", "get", 10_000, 100, Wanted::Share),
        Work::new("redis", "set", 10_000, 100, Wanted::Share),
        Work::new("nats", "get", 5_000, 100, Wanted::Share),
        Work::new("nats", "set", 5_000, 100, Wanted::Share),
    ],
};

const OBJECTS: Kind = Kind {
    name: "objects",
    title: "objects written and read, by a guest and by a native program",
    interface: "wasi:blobstore",
    note: "Objects of 16 MiB, one after the other. The guest streams them through `wasi:blobstore@0.2.0-draft`; the native program writes a file, syncs it and renames it, and uses the crate `object_store` with parts of 5 MiB as realm does. The server is OpenStack Swift with its front for S3; it has one of the two cores, and who asks the other.",
    unit: Unit::MibPerSecond,
    work: &[
        Work::new("folder", "put", 8, 16 << 20, Wanted::Nothing),
        Work::new("folder", "fetch", 8, 16 << 20, Wanted::Nothing),
        Work::new("s3", "put", 4, 16 << 20, Wanted::Share),
        Work::new("s3", "fetch", 4, 16 << 20, Wanted::Share),
    ],
};

const ROWS: Kind = Kind {
    name: "rows",
    title: "rows of a database, for a guest and for a native program",
    interface: "wasi:sql",
    note: "Rows of an integer, a real and 80 bytes of text: `rows` reads all rows of one query, `row` one row by its key, one after the other. The guest uses `realm:cloud/sql@0.1.0`; the native program the crates `rusqlite` and `tokio-postgres`, with statements that are prepared once. The server has one of the two cores, and who asks the other.",
    unit: Unit::RowsPerSecond,
    work: &[
        Work::new("sqlite", "rows", 100_000, 80, Wanted::Nothing),
        Work::new("sqlite", "row", 10_000, 80, Wanted::Nothing),
        // No bound: values are copied into another memory, which is most of it.
        Work::new("postgres", "rows", 100_000, 80, Wanted::Nothing),
        Work::new("postgres", "row", 5_000, 80, Wanted::Share),
    ],
};

impl Work {
    const fn new(
        store: &'static str,
        operation: &'static str,
        n: usize,
        bytes: usize,
        wanted: Wanted,
    ) -> Self {
        Self {
            store,
            operation,
            n,
            bytes,
            wanted,
        }
    }
}

impl Unit {
    const fn head(self) -> &'static str {
        match self {
            Self::UsEach => "µs per operation",
            Self::MibPerSecond => "MiB/s",
            Self::RowsPerSecond => "rows/s",
        }
    }

    fn of(self, us_per_operation: f64, bytes: usize) -> f64 {
        match self {
            Self::UsEach => us_per_operation,
            #[expect(clippy::cast_precision_loss, reason = "megabytes")]
            Self::MibPerSecond => bytes as f64 / f64::from(1 << 20) / us_per_operation * 1e6,
            Self::RowsPerSecond => 1e6 / us_per_operation,
        }
    }
}

pub(crate) fn stores(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    KEYS.run(tools, cores)
}

pub(crate) fn objects(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    OBJECTS.run(tools, cores)
}

pub(crate) fn rows(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    ROWS.run(tools, cores)
}

impl Kind {
    fn run(&self, tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
        let began = Instant::now();
        let folder = tools.folder(self.name)?;
        let [asking, serving] = cores else {
            bail!("a core for who asks, and one for the servers: {cores:?}");
        };
        // Where client and server may share a core, the scheduler decides from second to second whether
        // they do, and a round trip takes 8 or 60 microseconds.
        machine::put_on(&[*serving])?;
        let mut stores = Vec::new();
        for work in self.work {
            if !stores.iter().any(|store: &Store| store.name == work.store) {
                stores.push(Store::start(work.store, &folder)?);
            }
        }
        machine::put_on(&[*asking])?;
        let report = self.rounds(tools, &folder, &stores, began);
        machine::put_on(cores)?;
        report
    }

    fn rounds(
        &self,
        tools: &Tools<'_>,
        folder: &Path,
        stores: &[Store],
        began: Instant,
    ) -> Result<CaseReport> {
        let realm = Realm::new(&tools.args.realm)?;
        let guest = built(&tools.args.guests.join("bench_stores.wasm"))?;
        let agent = start(&realm, folder, stores, &self.manifest(stores, &guest))?;
        let mut rounds = Vec::new();
        for round in 1..=tools.args.rounds() {
            for work in self.work {
                // In turn, each first as often as the other.
                let both = if round % 2 == 1 {
                    [GUEST, NATIVE]
                } else {
                    [NATIVE, GUEST]
                };
                let store = stores.iter().find(|store| store.name == work.store);
                let store = store.context("a store that was started")?;
                for who in both {
                    let ns = if who == GUEST {
                        by_guest(&agent, work)?
                    } else {
                        by_program(tools, store, work)?
                    };
                    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a second")]
                    let us_per_operation = ns as f64 / 1_000.0 / work.n as f64;
                    eprintln!(
                        "  {} round {round}: {} of {}, {who}: {} {}",
                        self.name,
                        work.operation,
                        store.title,
                        digits(self.unit.of(us_per_operation, work.bytes)),
                        self.unit.head(),
                    );
                    rounds.push(Round {
                        round,
                        store: work.store,
                        operation: work.operation,
                        who,
                        us_per_operation,
                    });
                }
            }
        }
        Ok(self.report(&rounds, stores, tools, began))
    }

    /// A component for each store, which all are the same guest.
    fn manifest(&self, stores: &[Store], guest: &Path) -> String {
        let mut text = String::new();
        let mut routes = Vec::new();
        for store in stores {
            text += &component(store, guest);
            text += &store.binding(self.interface);
            routes.push(format!(
                "{{ path = \"/{0}/...\", component = \"{0}\" }}",
                store.name
            ));
        }
        text + &format!("[routing]\n\"*\" = [{}]\n", routes.join(", "))
    }

    fn report(
        &self,
        rounds: &[Round],
        stores: &[Store],
        tools: &Tools<'_>,
        began: Instant,
    ) -> CaseReport {
        let title = |work: &Work| {
            let store = stores.iter().find(|store| store.name == work.store);
            store.map_or(work.store, |store| store.title)
        };
        let one = |work: &Work, who: &str, number: u32| {
            let mut rounds = rounds.iter();
            let found = rounds.find(|round| {
                (round.store, round.operation) == (work.store, work.operation)
                    && round.who == who
                    && round.round == number
            });
            found.map(|round| round.us_per_operation)
        };
        let numbers = || 1..=tools.args.rounds();
        let rows = self.work.iter().flat_map(|work| {
            [GUEST, NATIVE].map(|who| {
                let all = numbers().filter_map(|number| one(work, who, number));
                let all = all.map(|us| self.unit.of(us, work.bytes));
                let (median, between) = Spread::of(all).map_or_else(Default::default, |found| {
                    let between = format!("{}–{}", digits(found.min), digits(found.max));
                    (digits(found.median), between)
                });
                vec![
                    title(work).to_owned(),
                    work.operation.to_owned(),
                    who.to_owned(),
                    median,
                    between,
                ]
            })
        });
        let verdicts = self.work.iter().filter_map(|work| {
            let pairs = numbers()
                .filter_map(|number| Some((one(work, GUEST, number)?, one(work, NATIVE, number)?)));
            let what = format!("{} {}", title(work), work.operation);
            match work.wanted {
                Wanted::MoreUs(at_most) => Some(Verdict::new(
                    self.name,
                    format!("{what}: a guest, over the store's own"),
                    Spread::of(pairs.map(|(guest, native)| guest - native))?,
                    "µs",
                    Bound::AtMost(at_most),
                )),
                Wanted::Share => Some(Verdict::new(
                    self.name,
                    format!("{what}: time of a guest / of a native program"),
                    Spread::of(pairs.map(|(guest, native)| guest / native))?,
                    "x",
                    Bound::AtMost(1.15),
                )),
                Wanted::Nothing => None,
            }
        });
        CaseReport {
            name: self.name.to_owned(),
            title: self.title.to_owned(),
            notes: vec![self.note.to_owned()],
            tables: vec![Table {
                head: vec!["store", "operation", "who", self.unit.head(), "min–max"],
                rows: rows.collect(),
            }],
            verdicts: verdicts.collect(),
            raw: json!(rounds),
            took_s: began.elapsed().as_secs_f64(),
        }
    }
}

/// An agent that may ask these stores, with this manifest in force.
fn start(realm: &Realm, folder: &Path, stores: &[Store], manifest: &str) -> Result<Server> {
    let allowed: Vec<_> = stores
        .iter()
        .filter_map(|store| store.origin.as_ref())
        .map(|origin| format!("\"{origin}\""))
        .collect();
    realm.settings(&format!("[backends]\nallow = [{}]\n", allowed.join(", ")))?;
    let mut agent = realm.agent("realm", &folder.join("realm.log"))?;
    agent.listens()?;
    realm.write_manifest(manifest)?;
    for store in stores {
        if let Some(secret) = &store.secret {
            realm.say_with(&["secret", "set", store.name], secret)?;
        }
    }
    realm.apply_written()?;
    Ok(agent)
}

fn component(store: &Store, guest: &Path) -> String {
    format!(
        "[components.{0}]\nsource = \"file:{1}\"\nbind = {{ default = \"{0}\" }}\nclock = \"precise\"\n\
         epoch_timeout_ms = 60_000\nwall_timeout_ms = 120_000\n",
        store.name,
        guest.display()
    )
}

fn by_guest(agent: &Server, work: &Work) -> Result<u64> {
    let Work {
        store,
        operation,
        n,
        bytes,
        ..
    } = work;
    ask(agent, &format!("/{store}/{operation}/{n}/{bytes}"))
}

/// The nanoseconds that a guest answers with.
fn ask(agent: &Server, path: &str) -> Result<u64> {
    let answer = http::ask(agent.address, "GET", path, b"")?;
    let text = String::from_utf8_lossy(&answer.body);
    if answer.status != 200 {
        bail!("the guest answered {} to {path}: {text}", answer.status);
    }
    text.trim()
        .parse()
        .context("the guest answers with nanoseconds")
}

fn by_program(tools: &Tools<'_>, store: &Store, work: &Work) -> Result<u64> {
    let (n, bytes) = (work.n.to_string(), work.bytes.to_string());
    native(
        tools,
        &[store.name, &store.place, work.operation, &n, &bytes],
    )
}

/// The nanoseconds that the program without realm prints: with one thread or with one for each core,
/// whichever is faster.
fn native(tools: &Tools<'_>, args: &[&str]) -> Result<u64> {
    let one = native_with("one", tools, args)?;
    Ok(one.min(native_with("many", tools, args)?))
}

fn native_with(threads: &str, tools: &Tools<'_>, args: &[&str]) -> Result<u64> {
    let program: PathBuf = tools.args.host.with_file_name("realm-bench-native");
    let output = Command::new(&program)
        .arg(threads)
        .args(args)
        .output()
        .with_context(|| format!("`{}`\nhint: `make bench` builds it", program.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .context("the program prints nanoseconds")
}
