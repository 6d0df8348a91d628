//! Code that components share, that leaves the memory when nobody asks, and that comes back.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use realm_host::{CodeFigures, Config, Host, Keeper, Run};
use realm_test_guests as guests;

use crate::harness::{Guest, Loaded, compiled, eventually, get, guest, read};

/// A host, and files of its own that it maps.
struct Shelf {
    host: Host,
    folder: tempfile::TempDir,
    keeper: std::sync::Arc<Watcher>,
}

/// Vouches for every file, and remembers what it is told.
#[derive(Debug, Default)]
struct Watcher {
    unsound: AtomicBool,
    /// While it is held, nothing is mapped.
    gate: Mutex<()>,
    lost: Mutex<Vec<PathBuf>>,
}

impl Keeper for Watcher {
    fn is_sound(&self, _compiled: &Path) -> std::io::Result<bool> {
        drop(self.gate.lock());
        Ok(!self.unsound.load(Relaxed))
    }

    fn lost(&self, compiled: &Path) {
        self.lost.lock().unwrap().push(compiled.to_owned());
    }
}

impl Shelf {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let keeper = std::sync::Arc::<Watcher>::default();
        let mut config = Config {
            keeper: keeper.clone(),
            ..Config::default()
        };
        config.policy.instances_max = 100;
        change(&mut config);
        Self {
            host: Host::new(config).unwrap(),
            folder: tempfile::tempdir().unwrap(),
            keeper,
        }
    }

    /// Holds one file beside those that run: each other one drives it out.
    fn of_one() -> Self {
        Self::new(|config| config.loaded_max = 1)
    }

    /// A compiled file that no other test maps.
    fn file(&self, name: &str, guest: &'static str) -> PathBuf {
        let file = self.folder.path().join(name);
        std::fs::copy(compiled(guest, false), &file).unwrap();
        file
    }

    fn load(&self, file: &Path, guest: Guest) -> Loaded {
        guest.load_from(file, &self.host).unwrap()
    }

    fn hello(&self, name: &str) -> Loaded {
        self.load(&self.file(name, guests::HELLO), guest(guests::HELLO))
    }

    #[track_caller]
    fn check(&self, loaded: usize, loads: u64, unloads: u64) {
        let expected = CodeFigures {
            loaded,
            loads,
            unloads,
        };
        assert_eq!(self.host.code(), expected);
    }
}

/// The answer to a request, whose guest has ended as well: it holds its code until then.
async fn answer_of(component: &Loaded) -> String {
    let answer = component.body("/").await;
    eventually(|| component.replica.in_flight() == 0).await;
    answer
}

/// Mappings of a file in this process.
fn mappings(file: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let file = file.to_str().unwrap();
    maps.lines().filter(|line| line.contains(file)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_of_one_file_share_its_code_and_nothing_else() {
    let shelf = Shelf::new(|_| {});
    let file = shelf.file("env", guests::ENV_DUMP);
    let with = |value: &str| {
        let guest = guest(guests::ENV_DUMP)
            .grants(|grants| drop(grants.env.insert("SECRET".into(), value.into())));
        shelf.load(&file, guest)
    };
    let first = with("of the first");
    let mapped = mappings(&file);
    assert!(mapped > 0);
    let second = with("of the second");
    let third = shelf.load(&file, guest(guests::ENV_DUMP));
    assert_eq!(mappings(&file), mapped);
    shelf.check(1, 1, 0);
    let env = async |component: &Loaded| component.body("/").await;
    assert!(env(&first).await.contains(r#"{"SECRET":"of the first"}"#));
    assert!(env(&second).await.contains(r#"{"SECRET":"of the second"}"#));
    assert!(env(&third).await.contains(r#""env":{}"#));
    // Another file is another mapping, and the last component of a file takes it along.
    let other = shelf.hello("other");
    shelf.check(2, 2, 0);
    drop((first, second, third));
    eventually(|| mappings(&file) == 0).await;
    shelf.check(1, 2, 0);
    assert_eq!(other.body("/").await, "hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_asks_for_leaves_the_memory_and_comes_back() {
    let shelf = Shelf::new(|config| config.unload_after = Duration::from_millis(40));
    let file = shelf.file("idle", guests::HELLO);
    let idle = shelf.load(&file, guest(guests::HELLO));
    for round in 1..=3 {
        eventually(|| mappings(&file) == 0).await;
        shelf.check(0, round, round);
        assert_eq!(idle.body("/").await, "hello\n");
        assert_eq!(shelf.host.code().loads, round + 1);
    }
    // A probe comes like a request.
    eventually(|| mappings(&file) == 0).await;
    assert_eq!(idle.replica.probe().await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_asked_for_longest_ago_make_room() {
    let shelf = Shelf::new(|config| {
        config.loaded_max = 2;
        config.unload_after = Duration::from_millis(4_000_000);
    });
    let [first, second] = ["first", "second"].map(|name| shelf.hello(name));
    shelf.check(2, 2, 0);
    let third = shelf.hello("third");
    shelf.check(2, 3, 1);
    assert_eq!(answer_of(&second).await, "hello\n");
    assert_eq!(answer_of(&third).await, "hello\n");
    shelf.check(2, 3, 1);
    assert_eq!(first.body("/").await, "hello\n");
    shelf.check(2, 4, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_requests_at_once_load_once() {
    const REQUESTS: u32 = 32;
    let shelf = Shelf::of_one();
    let idle = shelf.hello("idle");
    let _other = shelf.hello("other");
    shelf.check(1, 2, 1);
    let gate = shelf.keeper.gate.lock().unwrap();
    let mut calls = Vec::new();
    for _ in 0..REQUESTS {
        let replica = idle.replica.clone();
        calls.push(tokio::spawn(async move { replica.call(get("/")).await }));
    }
    let one_leaves = tokio::spawn({
        let replica = idle.replica.clone();
        async move { replica.call(get("/")).await }
    });
    let replica = idle.replica.clone();
    tokio::task::block_in_place(|| {
        let all = eventually(move || replica.in_flight() == REQUESTS + 1);
        tokio::runtime::Handle::current().block_on(all);
    });
    one_leaves.abort();
    drop(gate);
    for call in calls {
        assert_eq!(read(call.await.unwrap().unwrap()).await.status, 200);
    }
    assert_eq!(shelf.host.code().loads, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_stays_in_memory() {
    let shelf = Shelf::new(|config| config.unload_after = Duration::from_millis(4));
    let file = shelf.file("park", guests::PARK);
    let parked = shelf.load(&file, guest(guests::PARK));
    let program_file = shelf.file("program", guests::PROGRAM);
    let program = guest(guests::PROGRAM);
    let program = program.program_from(&program_file, &shelf.host).unwrap();
    let running = tokio::spawn({
        let program = program.program.clone();
        async move {
            let args = vec!["park".to_owned()];
            let run = Run {
                args,
                ..Run::default()
            };
            program.run(run).await
        }
    });
    eventually(|| program.meter.snapshot().mem_current_bytes > 0).await;
    // Many sweeps long.
    assert_eq!(parked.body("/?ms=300").await, "hello\n");
    assert!(mappings(&program_file) > 0);
    eventually(|| mappings(&file) == 0).await;
    assert!(mappings(&program_file) > 0);
    running.abort();
    eventually(|| mappings(&program_file) == 0).await;
    // Another run loads it again.
    let (code, _) = crate::programs::ran(&program, &["exit", "3"], b"").await;
    assert_eq!(code, Ok(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_shelf_leaves_alone_what_runs() {
    let shelf = Shelf::of_one();
    let file = shelf.file("park", guests::PARK);
    let parked = shelf.load(&file, guest(guests::PARK));
    let call = parked.body("/?ms=500");
    let drives_out = async {
        eventually(|| parked.meter().mem_current_bytes > 0).await;
        let _others = ["a", "b"].map(|name| shelf.hello(name));
        assert!(mappings(&file) > 0);
        shelf.check(2, 3, 1);
    };
    let (answer, ()) = tokio::join!(call, drives_out);
    assert_eq!(answer, "hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_gone_is_told_and_comes_back() {
    let shelf = Shelf::of_one();
    let file = shelf.file("idle", guests::HELLO);
    let idle = shelf.load(&file, guest(guests::HELLO));
    let away = shelf.folder.path().join("away");
    let _other = shelf.hello("other");
    std::fs::rename(&file, &away).unwrap();
    for _ in 0..20 {
        assert_eq!(idle.refusal("/").await, ("start-failed", 500));
    }
    eventually(|| idle.count("start-failed") == 20).await;
    let words = idle.log.agent();
    assert!(words.contains("start-failed: the compiled file"), "{words}");
    {
        // A few times, not once for each request.
        let lost = shelf.keeper.lost.lock().unwrap();
        assert!((1..10).contains(&lost.len()), "{} times", lost.len());
        assert!(lost.iter().all(|path| *path == file));
    }
    std::fs::rename(&away, &file).unwrap();
    while idle.get("/").await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(answer_of(&idle).await, "hello\n");
    // What is not what was compiled is not mapped, for whichever occasion.
    let _other = shelf.hello("other");
    shelf.keeper.unsound.store(true, Relaxed);
    assert_eq!(idle.refusal("/").await, ("start-failed", 500));
    let loaded = guest(guests::HELLO).load_from(&file, &shelf.host);
    assert_eq!(loaded.err().unwrap().code(), "bad-artifact");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_takes_the_file_that_is_there() {
    let shelf = Shelf::new(|_| {});
    let file = shelf.file("app", guests::VERSION_A);
    let load = || shelf.load(&file, guest(guests::VERSION_A));
    let first = load();
    let before = first.body("/").await;
    let newer = shelf.file("newer", guests::VERSION_B);
    std::fs::rename(newer, &file).unwrap();
    // What runs goes on with what is in memory; what starts looks at the file.
    assert_eq!(first.body("/").await, before);
    let second = load();
    assert_ne!(second.body("/").await, before);
    shelf.check(1, 2, 0);
}
