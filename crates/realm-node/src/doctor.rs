//! Looks at the machine and the realm folder before they are in the way: each finding with its
//! remedy. Changes nothing. What is seen is read in [`examine`] and in `taken`, and judged by functions
//! of it, so that machines are judged that are not at hand. Not here: what an app waits on (that is
//! the plan's report).

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use realm_host::{Host, HostFacts};
use realm_model::node_config::{FastCgiAddress, Listeners, NodeConfig, Peering};
use realm_store::folder::{FolderError, RealmFolder};
use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::error::{LOW_PORT_REMEDY, is_privileged, with_causes};

/// Files below which a busy node runs out: each connection and each component is one.
const FILES_MIN: u64 = 4_096;
/// Mappings per instance slot: two in each of four engines, and about eight more for a warm one and
/// the code that it runs.
const MAPPINGS_PER_SLOT: u64 = 16;
/// The bit of a mode by which everybody may connect to a socket.
const OTHERS_CONNECT: u32 = 0o002;
/// 2026-01-01: before this version of realm existed, so no clock that is right says less.
const CLOCK_UNIX_S_MIN: u64 = 1_767_225_600;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable code, e.g. `file-limit`.
    pub code: &'static str,
    /// How it is.
    pub level: Level,
    /// What was seen.
    pub message: String,
    /// What to do about it; `None` where all is well.
    pub remedy: Option<String>,
}

/// How a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, slower or with less room than it could.
    Warning,
    /// The agent does not start, or not everything works.
    Problem,
}

/// What an agent that is older than a line of node.toml needs.
const AGENT_ANEW: &str = "start the agent anew: it reads node.toml when it starts, and its command line goes before that";

/// What is known of the agent where an address is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    /// None holds the folder.
    Off,
    /// It runs, and may have been told of other addresses.
    Runs,
    /// It runs, and is to listen there.
    Listens,
}

impl Agent {
    /// Port 0 is any port: nobody listens there.
    const fn of(running: bool, is_written: bool, address: SocketAddr) -> Self {
        match (running, is_written && address.port() != 0) {
            (false, _) => Self::Off,
            (true, false) => Self::Runs,
            (true, true) => Self::Listens,
        }
    }
}

/// Looks at everything; some system calls, and an engine that is made and dropped.
pub fn examine(folder: Option<&RealmFolder>, node: &NodeConfig) -> Vec<Finding> {
    let config = realm_host::Config {
        policy: node.guests.clone(),
        ..Default::default()
    };
    let facts = Host::new(config).map(|host| host.facts());
    let mut findings = engine(
        facts
            .as_ref()
            .map_err(|error| error as &dyn std::error::Error),
    );
    findings.push(files(getrlimit(Resource::Nofile).maximum));
    let mappings_max = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let mappings_max = mappings_max.and_then(|text| text.trim().parse().ok());
    findings.push(mappings(mappings_max, node.guests.instances_max));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    findings.push(clock(now.map_or(0, |since| since.as_secs())));
    let running = folder.is_some_and(|folder| folder.socket().exists() && is_locked(folder));
    // Where nothing is written the command line may have chosen, and often does.
    let usual = Listeners::default();
    let (http, admin) = (
        usual.http != node.listen.http,
        usual.admin != node.listen.admin,
    );
    let listen = node.listen.http.iter().map(|address| (address, http));
    let listen = listen.chain(node.listen.https.iter().map(|address| (address, true)));
    for (address, is_written) in listen.chain([(&node.listen.admin, admin)]) {
        let agent = Agent::of(running, is_written, *address);
        findings.push(port(*address, taken(*address), agent));
    }
    for address in &node.listen.fastcgi {
        match address {
            FastCgiAddress::Tcp(address) => {
                let agent = Agent::of(running, true, *address);
                findings.push(port(*address, taken(*address), agent));
            }
            FastCgiAddress::Unix(path) => findings.push(socket(Path::new(path), node, running)),
        }
    }
    let is_chosen = node.p2p != Peering::default();
    for address in &node.p2p.listen {
        let taken = taken_by_node(*address);
        let agent = Agent::of(running, is_chosen, *address);
        findings.push(p2p_port(*address, taken, is_chosen, agent));
    }
    crate::certificates::examine(folder, node, &mut findings);
    if let Some(folder) = folder {
        findings.push(permissions(folder.root(), folder.check_safe()));
    }
    findings
}

pub(crate) fn ok(code: &'static str, message: String) -> Finding {
    Finding {
        code,
        level: Level::Ok,
        message,
        remedy: None,
    }
}

pub(crate) fn finding(code: &'static str, level: Level, message: String, remedy: &str) -> Finding {
    Finding {
        code,
        level,
        message,
        remedy: Some(remedy.to_owned()),
    }
}

/// Why an address cannot be listened on, if so.
fn taken(address: SocketAddr) -> Option<io::Error> {
    TcpListener::bind(address).err()
}

/// The same where other nodes meet this one, by UDP and by TCP.
fn taken_by_node(address: SocketAddr) -> Option<io::Error> {
    UdpSocket::bind(address).err().or_else(|| taken(address))
}

fn engine(facts: Result<&HostFacts, &dyn std::error::Error>) -> Vec<Finding> {
    match facts {
        Ok(facts) => vec![pool(facts), memory_reset(&facts.pagemap_scan)],
        Err(error) => vec![finding(
            "engine",
            Level::Problem,
            with_causes(error),
            "look at the other findings; a kernel without enough address space is the usual cause",
        )],
    }
}

fn memory_reset(pagemap_scan: &Result<(), String>) -> Finding {
    match pagemap_scan {
        Ok(()) => ok(
            "memory-reset",
            "used memory is found by PAGEMAP_SCAN and reset".to_owned(),
        ),
        Err(why) => finding(
            "memory-reset",
            Level::Warning,
            format!("PAGEMAP_SCAN is not used: {why}"),
            "a kernel of 6.7 or later and no swap (`swapoff -a`, or `MemorySwapMax=0` for the service) make fresh instances about twice as cheap",
        ),
    }
}

fn pool(facts: &HostFacts) -> Finding {
    let instances = facts.instances_max;
    if facts.pooling {
        return ok(
            "pool",
            format!("a pool for {instances} instances is reserved"),
        );
    }
    finding(
        "pool",
        Level::Warning,
        "no pool of instances could be reserved: each is mapped anew".to_owned(),
        "let the agent have all address space: `ulimit -v unlimited`, `vm.overcommit_memory` not 2",
    )
}

fn files(limit: Option<u64>) -> Finding {
    match limit {
        Some(limit) if limit < FILES_MIN => finding(
            "file-limit",
            Level::Warning,
            format!("at most {limit} files may be open"),
            "`LimitNOFILE=65536` for the service, or `ulimit -Hn 65536`",
        ),
        Some(limit) => ok("file-limit", format!("{limit} files may be open")),
        None => ok("file-limit", "any number of files may be open".to_owned()),
    }
}

fn mappings(limit: Option<u64>, instances_max: u32) -> Finding {
    let Some(limit) = limit else {
        return ok("mappings", "this system does not bound mappings".to_owned());
    };
    let wanted = u64::from(instances_max) * MAPPINGS_PER_SLOT;
    if limit >= wanted {
        return ok(
            "mappings",
            format!("{limit} mappings are allowed, about {wanted} are needed at most"),
        );
    }
    finding(
        "mappings",
        Level::Warning,
        format!("{limit} mappings are allowed, and {wanted} may be needed"),
        "raise `vm.max_map_count`, or lower `guests.instances_max` in node.toml",
    )
}

fn clock(unix_s: u64) -> Finding {
    if unix_s >= CLOCK_UNIX_S_MIN {
        return ok("clock", "the clock is plausible".to_owned());
    }
    finding(
        "clock",
        Level::Problem,
        format!("the clock says {unix_s} s after 1970"),
        "set it (NTP): certificates of HTTPS sources are not valid yet by this clock",
    )
}

fn port(address: SocketAddr, taken: Option<io::Error>, agent: Agent) -> Finding {
    let is_privileged = taken
        .as_ref()
        .is_some_and(|error| is_privileged(address, error));
    let remedy = match is_privileged {
        true => LOW_PORT_REMEDY,
        false => {
            "end what listens there (`ss -ltnp`), or choose another address in node.toml, [listen]"
        }
    };
    listening("port", address, taken, agent)
        .unwrap_or_else(|taken| finding("port", Level::Problem, taken, remedy))
}

/// A Unix socket for web servers: whether the agent can make it, and whether anybody but itself may connect.
fn socket(path: &Path, node: &NodeConfig, running: bool) -> Finding {
    const CODE: &str = "fastcgi";
    let shown = path.display();
    let problem = |message: String, remedy: &str| finding(CODE, Level::Problem, message, remedy);
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        return problem(
            format!("the folder of the socket `{shown}` is not there"),
            "make it, owned by the agent's user: as a service of systemd `RuntimeDirectory=realm` (`systemctl edit realm`) makes `/run/realm`",
        );
    }
    if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return problem(
            format!("the folder of the socket `{shown}` may not be written by this user"),
            "`chown` it to the user who runs the agent; look with `realm doctor` as that user",
        );
    }
    let file = std::fs::symlink_metadata(path).ok();
    if file.is_some_and(|file| !file.file_type().is_socket()) {
        return problem(
            format!("`{shown}` is a file that is no socket"),
            "remove it, or name another path in node.toml, [listen]",
        );
    }
    let settings = &node.fastcgi;
    let group = match &settings.socket_group {
        None => None,
        Some(name) => match crate::fastcgi::group(name) {
            Ok(group) => Some((name, group)),
            Err(error) => {
                return problem(
                    error.to_string(),
                    error.hint().unwrap_or("name one of /etc/group"),
                );
            }
        },
    };
    if let Some((name, group)) = group
        && !is_ours(group)
    {
        return problem(
            format!(
                "this user does not belong to the group `{name}`, and cannot give it `{shown}`"
            ),
            "`SupplementaryGroups=` with that group for the service, or `usermod -aG`; look with `realm doctor` as the agent's user",
        );
    }
    let mode = settings.socket_mode;
    if !running && StdUnixStream::connect(path).is_ok() {
        return problem(
            format!("another process listens on `{shown}`"),
            "end it, or name another path in node.toml, [listen]",
        );
    }
    if running && is_deserted(path) {
        return finding(
            CODE,
            Level::Warning,
            format!("nobody listens at `{shown}`, which node.toml names, and the agent runs"),
            AGENT_ANEW,
        );
    }
    if mode & OTHERS_CONNECT != 0 {
        return finding(
            CODE,
            Level::Warning,
            format!(
                "`{shown}` has mode {mode:04o}: everybody on this machine may connect, and is believed what they say of clients"
            ),
            "`socket_mode = \"0660\"` and `socket_group`, the group of the web server, under [fastcgi]",
        );
    }
    match group {
        None => finding(
            CODE,
            Level::Warning,
            format!(
                "`{shown}` has mode {mode:04o} and no group: nobody but the agent's own user and group may connect"
            ),
            "`socket_group`, the group of the web server (`www-data` on Debian), under [fastcgi]",
        ),
        Some((name, _)) => ok(
            CODE,
            format!("`{shown}` is for the group `{name}`, mode {mode:04o}"),
        ),
    }
}

/// Whether a socket is not there, or has nobody behind it; one that this user may not ask is not deserted.
fn is_deserted(path: &Path) -> bool {
    let refused = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    StdUnixStream::connect(path).is_err_and(|error| refused.contains(&error.kind()))
}

/// Whether this user may give files to the group.
fn is_ours(group: u32) -> bool {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let own = [rustix::process::getegid()];
    rustix::process::geteuid().is_root()
        || own.iter().chain(&groups).any(|one| one.as_raw() == group)
}

/// The port where other nodes meet this one, by UDP and by TCP.
fn p2p_port(
    address: SocketAddr,
    taken: Option<io::Error>,
    is_chosen: bool,
    agent: Agent,
) -> Finding {
    let level = match is_chosen {
        false => Level::Warning,
        true => Level::Problem,
    };
    let remedy = "end what listens there (`ss -lntup`), or choose another address in node.toml, [p2p]; \
                  where none is chosen the agent takes any port that is free";
    listening("p2p-port", address, taken, agent)
        .unwrap_or_else(|taken| finding("p2p-port", level, taken, remedy))
}

/// What is to be said of an address that is free, or that the agent has itself; `Err`: what it is
/// taken for.
fn listening(
    code: &'static str,
    address: SocketAddr,
    taken: Option<io::Error>,
    agent: Agent,
) -> Result<Finding, String> {
    match (taken, agent) {
        (None, Agent::Listens) => Ok(finding(
            code,
            Level::Warning,
            format!("nobody listens at {address}, which node.toml names, and the agent runs"),
            AGENT_ANEW,
        )),
        (None, Agent::Off | Agent::Runs) => Ok(ok(code, format!("{address} is free"))),
        (Some(_), Agent::Listens | Agent::Runs) => {
            Ok(ok(code, format!("{address} is in use, and the agent runs")))
        }
        (Some(error), Agent::Off) => Err(format!("{address} cannot be listened on: {error}")),
    }
}

fn permissions(root: &Path, safe: Result<(), FolderError>) -> Finding {
    match safe {
        Ok(()) => ok(
            "folder",
            format!("`{}` is its user's alone", root.display()),
        ),
        Err(error) => finding(
            "folder",
            Level::Problem,
            with_causes(&error),
            "`chown` it to the user who runs the agent, and `chmod go-w` it",
        ),
    }
}

/// Whether an agent holds the folder.
fn is_locked(folder: &RealmFolder) -> bool {
    matches!(
        realm_store::folder::AgentLock::take(&folder.lock_file()),
        Err(FolderError::Locked { .. })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A free address that nobody is given meanwhile: tests beside this one are other processes, and
    /// ports that the system gives out begin at 32768 (Linux).
    fn own_address() -> SocketAddr {
        let process = u16::try_from(std::process::id() % 8_000).unwrap();
        SocketAddr::from(([127, 0, 0, 1], 12_000 + process))
    }

    #[test]
    fn an_address_is_taken_or_free() {
        let address = own_address();
        let listener = TcpListener::bind(address).unwrap();
        assert!(taken(address).is_some() && taken_by_node(address).is_some());
        drop(listener);
        let socket = UdpSocket::bind(address).unwrap();
        assert!(taken(address).is_none() && taken_by_node(address).is_some());
        drop(socket);
        assert!(taken_by_node(address).is_none());
    }

    fn facts(pooling: bool, pagemap_scan: Result<(), &str>) -> HostFacts {
        HostFacts {
            pooling,
            pagemap_scan: pagemap_scan.map_err(str::to_owned),
            instances_max: 100,
        }
    }

    /// Code, level and words of the remedy of each thing that was found.
    #[track_caller]
    fn check(found: &[Finding], expected: &[(&str, Level, &str)]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (code, level, remedy)) in found.iter().zip(expected) {
            assert_eq!((found.code, found.level), (*code, *level), "{found:?}");
            let told = found.remedy.as_deref();
            assert_eq!(told.is_some(), *level != Level::Ok, "{found:?}");
            assert!(told.unwrap_or_default().contains(remedy), "{found:?}");
        }
    }

    #[test]
    fn each_thing_that_is_in_the_way_has_a_code_a_level_and_a_remedy() {
        const OK: Level = Level::Ok;
        let busy = || Some(io::ErrorKind::AddrInUse.into());
        let denied = || Some(io::ErrorKind::PermissionDenied.into());
        let [web, low] = [8080, 80].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let root = Path::new("/srv/app/.realm");

        let broken = io::Error::other("no address space");
        let problem = ("engine", Level::Problem, "address space");
        check(&engine(Err(&broken)), &[problem]);
        let good = [("pool", OK, ""), ("memory-reset", OK, "")];
        check(&engine(Ok(&facts(true, Ok(())))), &good);
        let small = ("pool", Level::Warning, "`ulimit -v unlimited`");
        check(&engine(Ok(&facts(false, Ok(())))), &[small, good[1]]);
        let swaps = ("memory-reset", Level::Warning, "`swapoff -a`");
        check(
            &engine(Ok(&facts(true, Err("swap is on")))),
            &[good[0], swaps],
        );
        assert!(
            memory_reset(&Err("swap is on".to_owned()))
                .message
                .contains("swap is on")
        );

        check(
            &[files(None), files(Some(4_096))],
            &[("file-limit", OK, ""); 2],
        );
        let few = ("file-limit", Level::Warning, "`LimitNOFILE=65536`");
        check(&[files(Some(4_095))], &[few]);

        let enough = [mappings(None, 1_000), mappings(Some(16_000), 1_000)];
        check(&enough, &[("mappings", OK, ""); 2]);
        let few = ("mappings", Level::Warning, "`vm.max_map_count`");
        check(&[mappings(Some(15_999), 1_000)], &[few]);

        check(&[clock(CLOCK_UNIX_S_MIN)], &[("clock", OK, "")]);
        let early = ("clock", Level::Problem, "(NTP)");
        check(&[clock(CLOCK_UNIX_S_MIN - 1), clock(0)], &[early; 2]);

        let fine = [
            port(web, None, Agent::Off),
            port(web, busy(), Agent::Listens),
        ];
        check(&fine, &[("port", OK, ""); 2]);
        let busy_port = ("port", Level::Problem, "`ss -ltnp`");
        check(&[port(web, busy(), Agent::Off)], &[busy_port]);
        let deserted = ("port", Level::Warning, "start the agent anew");
        check(&[port(web, None, Agent::Listens)], &[deserted]);
        check(&[port(web, None, Agent::Runs)], &[("port", OK, "")]);
        let low_port = ("port", Level::Problem, LOW_PORT_REMEDY);
        check(&[port(low, denied(), Agent::Off)], &[low_port]);

        let fine = [
            p2p_port(web, None, true, Agent::Off),
            p2p_port(web, busy(), true, Agent::Listens),
        ];
        check(&fine, &[("p2p-port", OK, ""); 2]);
        let any = p2p_port(web, busy(), false, Agent::Off);
        check(&[any], &[("p2p-port", Level::Warning, "`ss -lntup`")]);
        let chosen = p2p_port(web, busy(), true, Agent::Off);
        check(&[chosen], &[("p2p-port", Level::Problem, "`ss -lntup`")]);

        check(&[permissions(root, Ok(()))], &[("folder", OK, "")]);
        let open = FolderError::Unsafe {
            path: root.to_owned(),
            why: "has mode 777".to_owned(),
        };
        let remedy = ("folder", Level::Problem, "`chmod go-w`");
        check(&[permissions(root, Err(open))], &[remedy]);
    }

    #[test]
    fn a_socket_for_web_servers_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fastcgi.sock");
        let mut node = NodeConfig::default();
        let check = |node: &NodeConfig, path: &Path, level, words: &str| {
            let found = socket(path, node, false);
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.message.contains(words), "{found:?}");
            assert_eq!(found.remedy.is_some(), level != Level::Ok);
        };
        check(&node, &path, Level::Warning, "no group");
        node.fastcgi.socket_mode = 0o666;
        check(&node, &path, Level::Warning, "everybody");
        node.fastcgi.socket_mode = 0o660;
        node.fastcgi.socket_group = Some(rustix::process::getegid().as_raw().to_string());
        check(&node, &path, Level::Ok, "mode 0660");
        node.fastcgi.socket_group = Some("no such group".to_owned());
        check(&node, &path, Level::Problem, "no such group");
        node.fastcgi.socket_group = None;
        let absent = folder.path().join("absent/fastcgi.sock");
        check(&node, &absent, Level::Problem, "is not there");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        check(&node, &path, Level::Problem, "another process");
        let found = socket(&path, &node, true);
        assert!(found.message.contains("no group"), "{found:?}");
        drop(listener);
        // Of an agent that runs and does not know of it.
        for _ in 0..2 {
            let found = socket(&path, &node, true);
            assert!(found.message.contains("nobody listens"), "{found:?}");
            assert_eq!(found.remedy.as_deref(), Some(AGENT_ANEW));
            let _ = std::fs::remove_file(&path);
        }
        std::fs::write(&path, "").unwrap();
        check(&node, &path, Level::Problem, "no socket");
    }
}
