//! A new build of 10 MB on its way to ten nodes, from behind an uplink of 20 MB/s: pushed to one node,
//! from which the others have it; fetched from an HTTP origin by ten agents, peers first; and fetched
//! from there by ten clients that know nothing of each other. What the nodes tell each other is not
//! slowed: they stand in one place.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use super::crowd::Crowd;
use super::hop::address;
use super::look::fetched;
use super::spread::Sorted;
use super::{WHOLE_TIME_MAX, milliseconds, now_us, until_whole};
use crate::cases::example;
use crate::http;
use crate::machine;
use crate::peers::Tools;
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::stats::Spread;
use crate::uplink::{Origin, Relay, Uplink};
use crate::variants;

const NAME: &str = "push";
const NODES: usize = 10;
const BUILD_BYTES: usize = 10_000_000;
/// 160 Mbit/s, for all together.
const UPLINK_BYTES_PER_S: u32 = 20_000_000;
/// Ten builds at that rate take five seconds; a build may take as long to compile on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(120);
/// Between two questions to the nodes that do not have it yet.
const PAUSE: Duration = Duration::from_millis(5);
/// What one build leaves behind is done before the next one.
const SETTLE: Duration = Duration::from_secs(2);

const PUSHED: &str = "realm push, to one node";
const FETCHED: &str = "realm apply, source over http, peers first";
const ALONE: &str = "ten times curl, each from the origin";

/// One build that came to all.
#[derive(Debug, Serialize)]
struct Delivery {
    round: u32,
    how: &'static str,
    /// Until all ten have the bytes.
    have_s: f64,
    /// Until all ten answer with it; a file answers nothing.
    answer_s: Option<f64>,
    uplink_bytes: u64,
    /// Of ten nodes, those that had it through the uplink, from the first node, and from another one.
    from_origin: u32,
    from_first: u32,
    from_others: u32,
}

/// The realm, and where its builds come from.
struct Scene {
    crowd: Crowd,
    /// Where each node answers.
    addresses: Vec<SocketAddr>,
    hello: Vec<u8>,
    builds: u32,
    uplink: Arc<Uplink>,
    origin: Origin,
    /// The first node as whoever is behind the uplink names it.
    node: String,
    _relay: Relay,
}

pub(crate) fn push(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let curl = machine::version(Path::new("curl"), &["--version"])
        .context("`curl` is missing\nhint: on Debian: apt-get install curl")?;
    // It goes on with its libraries.
    let curl = curl.split(" (").next().unwrap_or_default();
    // Each node is a machine: it finds a core of its own, where there are so many.
    machine::put_on(&tools.all_cores)?;
    let measured = measure(tools);
    machine::put_on(cores)?;
    Ok(report(&measured?, tools, curl, began))
}

fn measure(tools: &Tools<'_>) -> Result<Vec<Delivery>> {
    let mut scene = Scene::set(tools)?;
    let mut ways: [fn(&mut Scene, u32) -> Result<Delivery>; 3] =
        [Scene::pushed, Scene::fetched, Scene::alone];
    let mut found = Vec::new();
    for round in 1..=tools.args.rounds() {
        for way in ways {
            thread::sleep(SETTLE);
            let one = way(&mut scene, round)?;
            let answer = one
                .answer_s
                .map(|answer_s| format!(", all answer after {answer_s:.2} s"));
            eprintln!(
                "  {NAME} round {round}: {}: all have it after {:.2} s{}, {:.1} MB through the uplink",
                one.how,
                one.have_s,
                answer.unwrap_or_default(),
                megabytes(one.uplink_bytes)
            );
            found.push(one);
        }
        ways.rotate_left(1);
    }
    Ok(found)
}

impl Scene {
    /// A realm of ten nodes with two components, each on all of them.
    fn set(tools: &Tools<'_>) -> Result<Self> {
        let mut crowd = Crowd::found(&tools.args.realm, NODES)?;
        let (api, key) = crowd.serve_api()?;
        crowd.start_others()?;
        until_whole(&mut crowd, &[], WHOLE_TIME_MAX)?;
        let uplink = Uplink::new(UPLINK_BYTES_PER_S);
        let relay = Relay::open(&uplink, api)?;
        let mut scene = Self {
            addresses: crowd.members.iter().map(address).collect::<Result<_>>()?,
            crowd,
            hello: fs::read(example(tools, "hello.wasm")?)?,
            builds: 0,
            origin: Origin::open(&uplink)?,
            uplink,
            node: format!("{}#{key}", relay.address()),
            _relay: relay,
        };
        let pushed = scene.build()?;
        scene.crowd.write("pushed.wasm", &pushed)?;
        let at_origin = scene.offered()?.1;
        scene.crowd.write("realm.toml", &manifest(&at_origin))?;
        scene.crowd.say(0, &["apply", "--yes", "--timeout", "5m"])?;
        Ok(scene)
    }

    /// The bytes of the next build.
    fn build(&mut self) -> Result<Vec<u8>> {
        self.builds += 1;
        variants::build(&self.hello, self.builds, BUILD_BYTES)
    }

    /// Puts the next build at the origin; gives its digest, and its source.
    fn offered(&mut self) -> Result<(String, String)> {
        let build = self.build()?;
        self.crowd.write("offered.wasm", &build)?;
        let digest = self.digest("offered.wasm")?;
        let url = self
            .origin
            .offer(&format!("build-{}.wasm", self.builds), build);
        let source = format!("{url}@{digest}");
        Ok((digest, source))
    }

    fn digest(&self, file: &str) -> Result<String> {
        let said = self.crowd.say(0, &["--json", "inspect", file])?;
        let said: Value = serde_json::from_slice(&said).context("what `inspect` says")?;
        Ok(said["digest"].as_str().context("no digest")?.to_owned())
    }

    /// `realm push` of a file, from behind the uplink to the first node.
    fn pushed(&mut self, round: u32) -> Result<Delivery> {
        let build = self.build()?;
        // Where the manifest says: what is applied next pins the same bytes.
        self.crowd.write("pushed.wasm", &build)?;
        let digest = self.digest("pushed.wasm")?;
        let verb = ["push", "pushed", "pushed.wasm", "--no-wait"];
        self.delivered(round, PUSHED, &verb, "/pushed/", &digest)
    }

    /// `realm apply` of a manifest that names another build at the origin.
    fn fetched(&mut self, round: u32) -> Result<Delivery> {
        let (digest, source) = self.offered()?;
        self.crowd.write("realm.toml", &manifest(&source))?;
        let verb = ["apply", "--yes", "--no-wait"];
        self.delivered(round, FETCHED, &verb, "/fetched/", &digest)
    }

    fn delivered(
        &self,
        round: u32,
        how: &'static str,
        verb: &[&str],
        path: &str,
        digest: &str,
    ) -> Result<Delivery> {
        let expected = variants::says(self.builds) + "\n";
        let sent = self.uplink.sent();
        let (began, began_us) = (Instant::now(), now_us()?);
        let args = [&["--node", self.node.as_str()], verb].concat();
        let answer_s = thread::scope(|scope| {
            let verb = scope.spawn(|| self.crowd.say(0, &args));
            let answered = self.until_all_say(path, expected.as_bytes(), began);
            let ended = verb.join();
            ended.unwrap_or_else(|_| bail!("the verb panicked"))?;
            answered
        })?;
        let uplink_bytes = self.uplink.sent() - sent;
        let (have_s, from) = self.came(digest, began_us)?;
        let count = |is: &dyn Fn(&String) -> bool| {
            u32::try_from(from.iter().filter(|from| is(from)).count()).unwrap_or(u32::MAX)
        };
        let first = &self.crowd.members[0].name;
        let is_origin = |from: &String| from.starts_with("http://");
        let from_origin = count(&is_origin) + u32::from(how == PUSHED);
        let from_first = count(&|from| from == first);
        Ok(Delivery {
            round,
            how,
            have_s,
            answer_s: Some(answer_s),
            uplink_bytes,
            from_origin,
            from_first,
            from_others: count(&|from| !is_origin(from) && from != first),
        })
    }

    /// Seconds until every node answers with this.
    fn until_all_say(&self, path: &str, expected: &[u8], began: Instant) -> Result<f64> {
        let mut left = self.addresses.clone();
        loop {
            left.retain(|address| {
                let answer = http::ask(*address, "GET", path, b"");
                !answer.is_ok_and(|answer| answer.body == expected)
            });
            if left.is_empty() {
                return Ok(began.elapsed().as_secs_f64());
            }
            if began.elapsed() > TIME_MAX {
                bail!("{} nodes do not answer with the new build", left.len());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Seconds until the last node had the bytes, and whom they came from; the node to which they were
    /// pushed did not fetch them.
    fn came(&self, digest: &str, began_us: i64) -> Result<(f64, Vec<String>)> {
        let (mut took, mut from) = (Vec::new(), Vec::new());
        for member in &self.crowd.members {
            if let Some((at_us, who)) = fetched(&member.log_text()?, digest) {
                took.push(milliseconds(at_us - began_us) / 1e3);
                from.push(who);
            }
        }
        if from.len() + 1 < NODES {
            bail!("only {} nodes say that they fetched {digest}", from.len());
        }
        Ok((Sorted::of(took).at(100), from))
    }

    /// As many clients as there are nodes, at once.
    fn alone(&mut self, round: u32) -> Result<Delivery> {
        let (_, source) = self.offered()?;
        let url = source.split('@').next().unwrap_or_default();
        let expected = self.crowd.read("offered.wasm")?;
        let sent = self.uplink.sent();
        let file = |number: usize| self.crowd.path(&format!("curl-{number}.wasm"));
        let began = Instant::now();
        let clients = (0..NODES).map(|number| {
            Command::new("curl")
                .args(["--silent", "--show-error", "--fail", "--output"])
                .arg(file(number))
                .arg(url)
                .stdin(Stdio::null())
                .spawn()
                .context("`curl` does not start")
        });
        let clients: Vec<_> = clients.collect::<Result<_>>()?;
        for mut client in clients {
            let status = client.wait()?;
            if !status.success() {
                bail!("`curl` ended with {status}");
            }
        }
        let have_s = began.elapsed().as_secs_f64();
        for number in 0..NODES {
            if fs::read(file(number))? != expected {
                bail!("`curl` brought other bytes");
            }
            fs::remove_file(file(number))?;
        }
        Ok(Delivery {
            round,
            how: ALONE,
            have_s,
            answer_s: None,
            uplink_bytes: self.uplink.sent() - sent,
            from_origin: u32::try_from(NODES)?,
            from_first: 0,
            from_others: 0,
        })
    }
}

/// Both components on every node; all nodes may replace theirs at once, as nobody's turn is measured.
fn manifest(source: &str) -> String {
    let route = |component: &str| {
        format!(
            "  {{ path = \"/{component}/...\", component = \"{component}\", per_node = true, max_surge = \"100%\", min_ready = \"0s\" }},\n"
        )
    };
    format!(
        "[components.pushed]\nsource = \"file:pushed.wasm\"\n\n\
         [components.fetched]\nsource = \"{source}\"\n\n\
         [routing]\n\"*\" = [\n{}{}]\n",
        route("pushed"),
        route("fetched")
    )
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a round")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn report(found: &[Delivery], tools: &Tools<'_>, curl: &str, began: Instant) -> CaseReport {
    let of = |how: &str, value: &dyn Fn(&Delivery) -> Option<f64>| {
        let meant = found.iter().filter(|one| one.how == how);
        Spread::of(meant.filter_map(value))
    };
    let row = |how: &'static str| {
        let cells = |value: &dyn Fn(&Delivery) -> Option<f64>| match of(how, value) {
            None => [String::new(), String::new()],
            Some(found) => [
                digits(found.median),
                format!("{}–{}", digits(found.min), digits(found.max)),
            ],
        };
        let range = |value: fn(&Delivery) -> u32| {
            let found = found.iter().filter(|one| one.how == how).map(value);
            match (found.clone().min(), found.max()) {
                (Some(min), Some(max)) if min != max => format!("{min}–{max}"),
                (min, _) => min.unwrap_or_default().to_string(),
            }
        };
        let [have, have_range] = cells(&|one| Some(one.have_s));
        let [answer, answer_range] = cells(&|one| one.answer_s);
        let [uplink, _] = cells(&|one| Some(megabytes(one.uplink_bytes)));
        vec![
            how.to_owned(),
            have,
            have_range,
            answer,
            answer_range,
            uplink,
            range(|one| one.from_origin),
            range(|one| one.from_first),
            range(|one| one.from_others),
        ]
    };
    let verdicts = [PUSHED, FETCHED].into_iter().filter_map(|how| {
        let time = |how: &str, round: u32| {
            let one = found
                .iter()
                .find(|one| one.how == how && one.round == round);
            one.map(|one| one.have_s)
        };
        let ratios = (1..=tools.args.rounds())
            .filter_map(|round| Some(time(how, round)? / time(ALONE, round)?));
        let what = format!("all have it: {how} / {ALONE}");
        let measured = Spread::of(ratios)?;
        Some(Verdict::new(NAME, what, measured, "x", Bound::AtMost(1.0)))
    });
    CaseReport {
        name: NAME.to_owned(),
        title: "a build of 10 MB to ten nodes, from behind an uplink".to_owned(),
        notes: vec![
            format!(
                "hello with {} MB that do not compress, another build each time; ten agents on loopback of one machine, on the cores {:?} and one disk. The uplink is the harness's own and carries {} MB/s for all together: to the HTTP origin's clients, and from `realm push` to the TCP port of the first node's API. Between nodes nothing is slowed.",
                megabytes(BUILD_BYTES as u64),
                tools.all_cores,
                megabytes(u64::from(UPLINK_BYTES_PER_S))
            ),
            format!(
                "From the start of the verb to the line `fetched` in the last node's log, and until each node answers with the new build, asked in turn. `realm apply` fetches the build once more by itself, to see what it signs. {curl}: ten processes at once, until the last has ended; they neither check nor sync what they write."
            ),
        ],
        tables: vec![Table {
            head: vec![
                "how",
                "all have it, s",
                "min–max",
                "all answer with it, s",
                "min–max",
                "MB through the uplink",
                "nodes served by the origin",
                "by the first node",
                "by another node",
            ],
            rows: [PUSHED, FETCHED, ALONE].into_iter().map(row).collect(),
        }],
        verdicts: verdicts.collect(),
        raw: json!(found),
        took_s: began.elapsed().as_secs_f64(),
    }
}
