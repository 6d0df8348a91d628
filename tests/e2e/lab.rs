//! A network that only a test sees: each node in a network namespace of its own, on one of two
//! bridges with a cable between them that can be cut, or loses what goes one way; or on an internet
//! with routers between. What is lost is silent: nobody says so, for QUIC and TCP alike. And a small
//! disk for one node, which can be filled.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::support::said;

/// Makes the bridges and a namespace for each argument, which names its bridge; prints the process
/// that holds each. All of them end with their common stdin.
const BUILD: &str = r#"
set -eu
exec 3<&0
ip link set lo up
ip link add left type bridge
ip link add right type bridge
ip link add cable type veth peer name socket
ip link set cable master left up
ip link set socket master right up
ip link set left up
ip link set right up
number=1
for side in "$@"; do
	unshare --net cat <&3 >/dev/null &
	while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do :; done
	ip link add "port$number" type veth peer name eth0 netns $!
	ip link set "port$number" master "$side" up
	nsenter --net --target $! sh -ec "
		ip link set lo up
		ip address add 10.99.0.$number/24 dev eth0
		ip link set eth0 up"
	echo "$! 10.99.0.$number"
	number=$((number + 1))
done
exec cat <&3 >/dev/null
"#;

/// Makes an internet, and for each argument a machine on it: `open` has an address of its own, any
/// other stands behind a router that hides it and lets nothing in that was not asked for; the argument
/// says how the router chooses ports, as nft spells it.
const BUILD_INTERNET: &str = r#"
set -eu
exec 3<&0
ip link add internet type bridge
ip link set internet up
place() {
	unshare --net cat <&3 >/dev/null &
	while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do :; done
}
number=1
for kind in "$@"; do
	place
	outside=$!
	ip link add "port$number" type veth peer name eth0 netns $outside
	ip link set "port$number" master internet up
	nsenter --net --target $outside sh -ec "
		ip link set lo up
		ip address add 45.0.0.$number/24 dev eth0
		ip link set eth0 up"
	if [ "$kind" = open ]; then
		echo "$outside 45.0.0.$number"
	else
		place
		inside=$!
		nsenter --net --target $inside sh -ec "
			ip link set lo up
			ip link add eth0 type veth peer name home netns $outside
			ip address add 192.168.$number.2/24 dev eth0
			ip link set eth0 up"
		nsenter --net --target $outside sh -ec "
			ip address add 192.168.$number.1/24 dev home
			ip link set home up
			echo 1 > /proc/sys/net/ipv4/ip_forward
			nft add table ip router
			nft add chain ip router post '{ type nat hook postrouting priority 100; }'
			nft add rule ip router post oifname eth0 masquerade $kind
			nft add chain ip router in '{ type filter hook input priority 0; policy drop; }'
			nft add chain ip router through '{ type filter hook forward priority 0; policy drop; }'
			nft add rule ip router through iifname home accept
			nft add rule ip router through ct state established,related accept"
		nsenter --net --target $inside ip route add default via "192.168.$number.1"
		echo "$inside 192.168.$number.2"
	fi
	number=$((number + 1))
done
exec cat <&3 >/dev/null
"#;

/// The network.
pub(crate) struct Lab {
    holder: Child,
    // The namespaces last as long as this is open.
    stdin: Option<ChildStdin>,
    /// The process that holds each, and its address.
    machines: Vec<(u32, String)>,
}

impl Lab {
    /// A machine per side, which is `left` or `right`.
    pub(crate) fn new(sides: &[&str]) -> Self {
        Self::build(BUILD, sides)
    }

    /// A machine per kind: `open`, or how the router before it chooses ports: ` ` as they were,
    /// `fully-random` another one for each connection.
    pub(crate) fn internet(kinds: &[&str]) -> Self {
        Self::build(BUILD_INTERNET, kinds)
    }

    fn build(script: &str, machines: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let mut holder = command
            .args(["--net", "sh", "-c", script, "lab"])
            .args(machines)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = holder.stdin.take();
        let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        let held: Vec<(u32, String)> = lines
            .take(machines.len())
            .map(|line| {
                let line = line.unwrap();
                let (process, address) = line.split_once(' ').unwrap();
                (process.parse().unwrap(), address.to_owned())
            })
            .collect();
        assert_eq!(held.len(), machines.len(), "no network namespaces");
        Self {
            holder,
            stdin,
            machines: held,
        }
    }

    /// What stands before a command that runs on a machine.
    pub(crate) fn enter(&self, at: usize) -> Vec<String> {
        enter(self.machines[at].0, "--net")
    }

    /// Where the node of a machine meets others.
    pub(crate) fn address(&self, at: usize) -> String {
        format!("{}:4747", self.machines[at].1)
    }

    /// Cuts the cable between left and right.
    pub(crate) fn cut(&self) {
        self.cable("down");
    }

    /// Mends it.
    pub(crate) fn mend(&self) {
        self.cable("up");
    }

    fn cable(&self, state: &str) {
        self.between(&["ip", "link", "set", "cable", state]);
    }

    /// Loses what goes from one machine to another, and nothing of what comes back.
    pub(crate) fn lose(&self, from: usize, to: usize) {
        let [from, to] = [from, to].map(|at| self.machines[at].1.as_str());
        self.rule(&["ip", "saddr", from, "ip", "daddr", to]);
    }

    /// Loses what goes from the left to the right.
    pub(crate) fn lose_to_the_right(&self) {
        // Of IP alone: a machine that is not heard is still known to the one beside it.
        self.rule(&["iifname", "\"socket\"", "ether", "type", "ip"]);
    }

    fn rule(&self, of: &[&str]) {
        let chain = "{ type filter hook forward priority 0; }";
        self.between(&["nft", "add", "table", "bridge", "loss"]);
        self.between(&["nft", "add", "chain", "bridge", "loss", "forward", chain]);
        let rule = ["nft", "add", "rule", "bridge", "loss", "forward"];
        self.between(&[&rule, of, &["counter", "drop"]].concat());
    }

    /// Loses nothing any more; returns the rules that stood, with what they lost.
    pub(crate) fn lose_nothing(&self) -> String {
        let lost = self.between(&["nft", "list", "table", "bridge", "loss"]);
        self.between(&["nft", "delete", "table", "bridge", "loss"]);
        lost
    }

    /// Runs a command where the bridges are.
    fn between(&self, words: &[&str]) -> String {
        let enter = enter(self.holder.id(), "--net");
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(words);
        said(command).ok().stdout
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.holder.wait();
    }
}

/// A small disk over a folder, for the programs that are run behind [`Disk::enter`] alone.
pub(crate) struct Disk {
    holder: Child,
    // The disk lasts as long as this is open, or somebody uses it.
    stdin: Option<ChildStdin>,
    folder: PathBuf,
}

impl Disk {
    pub(crate) fn over(folder: &Path, size: &str) -> Self {
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let script = "mount --make-rprivate / && mount -t tmpfs -o mode=700,size=$1 none \"$0\" && echo there && exec cat >/dev/null";
        let mut holder = command
            .args(["--mount", "sh", "-c", script])
            .arg(folder)
            .arg(size)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = holder.stdin.take();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "there\n", "no disk");
        Self {
            holder,
            stdin,
            folder: folder.to_owned(),
        }
    }

    /// What stands before a command that sees the disk; it runs in the folder.
    pub(crate) fn enter(&self) -> Vec<String> {
        let mut words = enter(self.holder.id(), "--mount");
        words.push(format!("--wdns={}", self.folder.display()));
        words
    }

    /// The folder on the disk, for this process.
    pub(crate) fn path(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.folder.strip_prefix("/").unwrap())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.holder.wait();
    }
}

fn enter(process: u32, namespace: &str) -> Vec<String> {
    let mut words = vec!["nsenter"];
    if !is_root() {
        words.extend(["--user", "--preserve-credentials"]);
    }
    let process = process.to_string();
    words.extend([namespace, "--target", &process]);
    words.into_iter().map(str::to_owned).collect()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
