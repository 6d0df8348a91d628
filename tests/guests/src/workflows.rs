//! What holds for `realm:cloud/workflows` on any backend: `/checks?tag=` answers with a line for each check,
//! `ok NAME` or `FAIL NAME: why`, and `/start?id=&input=`, `/get?id=`, `/signal?id=&name=&data=`,
//! `/cancel?id=` and `/list` do what they say. Its handler does what the first word of a run's input says;
//! what its steps do it notes in `/state`, if it has that: a line `NAME` in a file of the run's id.

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/deps/realm-cloud/workflows.wit",
        world: "realm:cloud/workflow-service",
    });
    export!(Handler);

    struct Handler;

    impl exports::realm::cloud::workflow_handler::Guest for Handler {
        fn handle(run: super::Run) -> Result<Vec<u8>, super::Outcome> {
            super::handle(&run)
        }
    }
}

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use bindings::exports::realm::cloud::workflow_handler::Outcome;
use bindings::realm::cloud::workflows::{Error, Flows, Heard, Phase, Run, Slept, State};

guests::serve!(answer);

/// How long a run may take until a check has failed.
const PATIENCE: Duration = Duration::from_secs(25);
/// Longer than any test waits.
const LONG_MS: u64 = 3_600_000;

fn handle(run: &Run) -> Result<Vec<u8>, Outcome> {
    let input = String::from_utf8_lossy(&run.input()).into_owned();
    let (kind, rest) = input.split_once(' ').unwrap_or((&input, ""));
    println!("took {} of {}: {kind}", run.id(), run.workflow());
    match kind {
        "echo" => Ok(rest.as_bytes().to_vec()),
        "steps" => steps(run, rest.parse().unwrap_or(0)),
        "order" => order(run),
        "nap" => {
            nap(run, "nap", rest.parse().unwrap_or(0))?;
            Ok(b"rested".to_vec())
        }
        "listen" => listen(run, rest.parse().ok()),
        "either" => either(run),
        "twice" => said(twice(run)),
        "undone" => said(run.done("never-asked", b"")),
        "large" => large(run),
        "many" => many(run),
        "whoami" => Ok(format!("{} {} {}", run.workflow(), run.id(), run.failures()).into()),
        "idle" => Err(Outcome::Suspended),
        "fail" => Err(Outcome::Failed("it rains\nand pours".to_owned())),
        "reject" => Err(Outcome::Rejected("never".to_owned())),
        "park" => {
            step(run, "begun", || b"begun".to_vec())?;
            std::thread::sleep(Duration::from_secs(3_600));
            Ok(Vec::new())
        }
        "fat" => Ok(vec![0; 256 * 1024 + 1]),
        _ => std::process::abort(),
    }
}

/// A step: done once, whatever happens in between.
fn step(run: &Run, name: &str, work: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, Outcome> {
    if let Some(result) = run.step(name).map_err(failed)? {
        return Ok(result);
    }
    let result = work();
    run.done(name, &result).map_err(failed)?;
    Ok(result)
}

fn failed(error: Error) -> Outcome {
    Outcome::Failed(format!("{error:?}"))
}

fn nap(run: &Run, name: &str, ms: u64) -> Result<(), Outcome> {
    match run.sleep(name, ms).map_err(failed)? {
        Slept::Over => Ok(()),
        Slept::Suspend => Err(Outcome::Suspended),
    }
}

fn said<T: std::fmt::Debug>(result: Result<T, Error>) -> Result<Vec<u8>, Outcome> {
    Ok(format!("{result:?}").into_bytes())
}

/// Notes what a step did out there.
fn note(run: &Run, name: &str) {
    if std::fs::metadata("/state").is_ok() {
        let path = format!("/state/{}", run.id());
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("the folder is its own");
        writeln!(file, "{name}").expect("the disk has room");
    }
}

/// So many steps; half way it fails, once.
fn steps(run: &Run, n: usize) -> Result<Vec<u8>, Outcome> {
    let mut all = Vec::new();
    for nth in 0..n {
        if nth == n / 2 && run.failures() == 0 {
            return Err(Outcome::Failed("half way".to_owned()));
        }
        let name = format!("step {nth}");
        let result = step(run, &name, || {
            note(run, &name);
            format!("{nth},").into_bytes()
        })?;
        all.extend(result);
    }
    Ok(all)
}

/// Ten steps: some are done, then it sleeps, then it waits for a signal, then the others are done.
fn order(run: &Run) -> Result<Vec<u8>, Outcome> {
    let mut all = Vec::new();
    let mut steps = |names: std::ops::Range<usize>| -> Result<(), Outcome> {
        for nth in names {
            let name = format!("step {nth}");
            let result = step(run, &name, || {
                note(run, &name);
                // Somebody may be killed here.
                std::thread::sleep(Duration::from_millis(30));
                format!("{nth},").into_bytes()
            })?;
            all.extend(result);
        }
        Ok(())
    };
    steps(0..4)?;
    nap(run, "settle", 300)?;
    steps(4..7)?;
    let word = match run
        .wait_for("shipping", "shipped", Some(LONG_MS))
        .map_err(failed)?
    {
        Heard::Signal(data) => data,
        Heard::TimedOut => b"refund".to_vec(),
        Heard::Suspend => return Err(Outcome::Suspended),
    };
    steps(7..10)?;
    all.extend(word);
    Ok(all)
}

/// Two signals of one name, one after the other.
fn listen(run: &Run, for_ms: Option<u64>) -> Result<Vec<u8>, Outcome> {
    let mut all = Vec::new();
    for name in ["first", "second"] {
        match run.wait_for(name, "go", for_ms).map_err(failed)? {
            Heard::Signal(data) => all.extend(data),
            Heard::TimedOut => all.extend(b"nothing"),
            Heard::Suspend => return Err(Outcome::Suspended),
        }
        all.push(b',');
    }
    Ok(all)
}

/// Whichever signal comes first.
fn either(run: &Run) -> Result<Vec<u8>, Outcome> {
    let left = run.wait_for("left", "left", None).map_err(failed)?;
    let right = run
        .wait_for("right", "right", Some(LONG_MS))
        .map_err(failed)?;
    match (left, right) {
        (Heard::Signal(data), _) | (_, Heard::Signal(data)) => Ok(data),
        _ => Err(Outcome::Suspended),
    }
}

fn twice(run: &Run) -> Result<(), Error> {
    run.step("once")?;
    run.done("once", b"1")?;
    run.sleep("once", 1)?;
    Ok(())
}

fn large(run: &Run) -> Result<Vec<u8>, Outcome> {
    let name = "x".repeat(256);
    let answers = [
        run.step(&name).map(|_| ()),
        run.step("a\nb").map(|_| ()),
        run.step("").map(|_| ()),
        run.step("large")
            .and_then(|_| run.done("large", &vec![0; 256 * 1024 + 1])),
        run.sleep("long", u64::MAX).map(|_| ()),
    ];
    let all_refused = answers
        .iter()
        .all(|one| matches!(one, Err(Error::Invalid(_))));
    run.done("large", &vec![0; 256 * 1024]).map_err(failed)?;
    Ok(format!("{all_refused}").into_bytes())
}

/// Steps until there is no room for more: of their results, and of names that are only asked for.
fn many(run: &Run) -> Result<Vec<u8>, Outcome> {
    let result = vec![7; 200 * 1024];
    let mut n = 0;
    let full = loop {
        let name = format!("step {n}");
        match run.step(&name) {
            Ok(Some(_)) => {}
            Ok(None) => match run.done(&name, &result) {
                Ok(()) => {}
                Err(error) => break error,
            },
            Err(error) => break error,
        }
        n += 1;
    };
    let mut asked = 0;
    while run.step(&format!("other {asked}")).is_ok() {
        asked += 1;
    }
    Ok(format!("{n} {} {}", matches!(full, Error::Full(_)), asked < 2_000).into_bytes())
}

fn answer(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let word = |name: &str| guests::parameter(&request, name).unwrap_or_default();
    let name = guests::parameter(&request, "flows").unwrap_or("default".to_owned());
    let workflow = guests::parameter(&request, "workflow").unwrap_or("test".to_owned());
    let flows = match Flows::open(&name) {
        Ok(flows) => flows,
        Err(error) => return guests::text(out, 503, &format!("{error:?}")),
    };
    let id = word("id");
    let answer = match guests::path(&request).as_str() {
        "/checks" => return guests::text(out, 200, &checks(&flows, &word("tag"))),
        "/start" => flows
            .start(&workflow, &id, word("input").as_bytes())
            .map(|new| new.to_string()),
        "/get" => flows.get(&id).map(|found| match found {
            Some(status) => shown(&status.state),
            None => "none".to_owned(),
        }),
        "/signal" => flows
            .signal(&id, &word("name"), word("data").as_bytes())
            .map(|there| there.to_string()),
        "/cancel" => flows.cancel(&id).map(|there| there.to_string()),
        "/list" => flows.list(None).map(|page| {
            let runs = page
                .runs
                .iter()
                .map(|run| format!("{} {:?}\n", run.id, run.phase));
            runs.collect()
        }),
        _ => return guests::text(out, 404, ""),
    };
    match answer {
        Ok(text) => guests::text(out, 200, &text),
        Err(error) => guests::text(out, 503, &format!("{error:?}")),
    }
}

fn shown(state: &State) -> String {
    match state {
        State::Ready => "ready".to_owned(),
        State::Running => "running".to_owned(),
        State::Waiting => "waiting".to_owned(),
        State::Done(output) => format!("done {}", String::from_utf8_lossy(output)),
        State::Failed(why) => format!("failed {why}"),
        State::Cancelled => "cancelled".to_owned(),
    }
}

/// Waits until a run stands like this.
fn until(flows: &Flows, id: &str, wanted: impl Fn(&str) -> bool) -> Result<String, String> {
    let begun = Instant::now();
    loop {
        let found = flows.get(id).map_err(|error| format!("{error:?}"))?;
        let state = found.map_or("none".to_owned(), |status| shown(&status.state));
        if wanted(&state) {
            return Ok(state);
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("it is `{state}`"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_over(state: &str) -> bool {
    ["done", "failed", "cancelled"]
        .iter()
        .any(|end| state.starts_with(end))
}

fn checks(flows: &Flows, tag: &str) -> String {
    let mut lines = String::new();
    let mut check = |name: &str, result: Result<(), String>| {
        let line = match result {
            Ok(()) => format!("ok {name}"),
            Err(why) => format!("FAIL {name}: {why}"),
        };
        writeln!(lines, "{line}").expect("a String takes any text");
    };
    let id = |name: &str| format!("{tag}-{name}");
    let start = |name: &str, input: &str| {
        let started = flows.start("test", &id(name), input.as_bytes());
        match started {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    let same = |state: Result<String, String>, wanted: &str| match state {
        Ok(state) if state == wanted => Ok(()),
        Ok(state) => Err(state),
        Err(why) => Err(why),
    };
    let simple = [
        ("echo", "echo h\u{e4}llo", "done h\u{e4}llo"),
        ("steps", "steps 6", "done 0,1,2,3,4,5,"),
        ("none", "steps 0", "done "),
        ("nap", "nap 120", "done rested"),
        ("no-nap", "nap 0", "done rested"),
        ("timed-out", "listen 50", "done nothing,nothing,"),
        (
            "undone",
            "undone",
            "done Err(Error::Invalid(\"`never-asked` is no step that was asked for and is not done\"))",
        ),
        (
            "twice",
            "twice",
            "done Err(Error::Invalid(\"the name `once` is used twice in this call\"))",
        ),
        ("large", "large", "done true"),
        ("many", "many", "done 20 true true"),
        ("fail", "fail", "failed the guest says: it rains and pours"),
        ("reject", "reject", "failed the guest says: never"),
        (
            "idle",
            "idle",
            "failed it says that it is suspended, and waits for nothing",
        ),
        ("fat", "fat", "failed its output has more than 262144 bytes"),
    ];
    // They are under way together.
    let started: Vec<_> = simple
        .iter()
        .map(|(name, input, _)| start(name, input))
        .collect();
    for ((name, _, wanted), started) in simple.iter().zip(started) {
        let done = started.and_then(|()| same(until(flows, &id(name), is_over), wanted));
        check(name, done);
    }
    check(
        "trap",
        start("trap", "trap").and_then(|()| {
            let state = until(flows, &id("trap"), is_over)?;
            let fits = state.starts_with("failed trap: ");
            fits.then_some(()).ok_or(state)
        }),
    );
    check(
        "whoami",
        start("who", "whoami").and_then(|()| {
            same(
                until(flows, &id("who"), is_over),
                &format!("done test {tag}-who 0"),
            )
        }),
    );
    check(
        "once",
        match flows.start("test", &id("echo"), b"echo other") {
            Ok(false) => same(until(flows, &id("echo"), is_over), "done h\u{e4}llo"),
            other => Err(format!("{other:?}")),
        },
    );
    check(
        "signals",
        start("signals", "listen").and_then(|()| {
            let signal = |data: &[u8]| flows.signal(&id("signals"), "go", data);
            // Before it waits, perhaps, and another one that it never hears.
            let early = (signal(b"1"), flows.signal(&id("signals"), "other", b"x"));
            until(flows, &id("signals"), |state| state == "waiting")?;
            let late = signal(b"2");
            same(until(flows, &id("signals"), is_over), "done 1,2,")?;
            match (early, late, signal(b"3")) {
                ((Ok(true), Ok(true)), Ok(true), Ok(false)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }),
    );
    check(
        "either",
        start("either", "either").and_then(|()| {
            until(flows, &id("either"), |state| state == "waiting")?;
            flows
                .signal(&id("either"), "right", b"right")
                .map_err(|error| format!("{error:?}"))?;
            same(until(flows, &id("either"), is_over), "done right")
        }),
    );
    check(
        "order",
        start("order", "order").and_then(|()| {
            flows
                .signal(&id("order"), "shipped", b"by ship")
                .map_err(|error| format!("{error:?}"))?;
            same(
                until(flows, &id("order"), is_over),
                "done 0,1,2,3,4,5,6,7,8,9,by ship",
            )
        }),
    );
    check(
        "cancel",
        start("cancel", "listen").and_then(|()| {
            until(flows, &id("cancel"), |state| state == "waiting")?;
            let cancelled = (flows.cancel(&id("cancel")), flows.cancel(&id("cancel")));
            if !matches!(cancelled, (Ok(true), Ok(false))) {
                return Err(format!("{cancelled:?}"));
            }
            same(until(flows, &id("cancel"), is_over), "cancelled")?;
            match flows.signal(&id("cancel"), "go", b"") {
                Ok(false) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }),
    );
    check(
        "nobody",
        match (
            flows.get(&id("nobody")),
            flows.signal(&id("nobody"), "a", b""),
            flows.cancel(&id("nobody")),
        ) {
            (Ok(None), Ok(false), Ok(false)) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    check("list", list(flows, tag));
    let long = "x".repeat(256);
    let refused = [
        flows.start("test", "", b"").map(|_| ()),
        flows.start("test", &long, b"").map(|_| ()),
        flows.start("test", "a\0b", b"").map(|_| ()),
        flows.start("", &id("x"), b"").map(|_| ()),
        flows
            .start("test", &id("x"), &vec![0; 256 * 1024 + 1])
            .map(|_| ()),
        flows.signal(&id("x"), "a\nb", b"").map(|_| ()),
        flows
            .signal(&id("x"), "a", &vec![0; 256 * 1024 + 1])
            .map(|_| ()),
        flows.list(Some("a\nb")).map(|_| ()),
    ];
    let all = refused
        .iter()
        .all(|one| matches!(one, Err(Error::Invalid(_))));
    check("hostile", all.then_some(()).ok_or(format!("{refused:?}")));
    let unbound = Flows::open("elsewhere").map(|_| ());
    check(
        "not-bound",
        match unbound {
            Err(Error::NoSuchBinding) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    lines
}

fn list(flows: &Flows, tag: &str) -> Result<(), String> {
    let (mut cursor, mut all) = (None, Vec::new());
    loop {
        let page = flows
            .list(cursor.as_deref())
            .map_err(|error| format!("{error:?}"))?;
        all.extend(page.runs);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    let sorted = all.is_sorted_by(|one, other| one.id.as_bytes() < other.id.as_bytes());
    let phase = |name: &str| {
        let id = format!("{tag}-{name}");
        all.iter().find(|run| run.id == id).map(|run| run.phase)
    };
    let seen = (phase("echo"), phase("trap"), phase("cancel"), sorted);
    match seen {
        (Some(Phase::Done), Some(Phase::Failed), Some(Phase::Cancelled), true) => Ok(()),
        seen => Err(format!("{seen:?}")),
    }
}
