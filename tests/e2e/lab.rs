//! A network that only a test sees: each node in a network namespace of its own, on one of two
//! bridges with a cable between them that can be cut. What is cut is silent: packets are lost,
//! nobody says so, for QUIC and TCP alike. And a small disk for one node, which can be filled.

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
	echo $!
	number=$((number + 1))
done
exec cat <&3 >/dev/null
"#;

/// The network.
pub(crate) struct Lab {
    holder: Child,
    // The namespaces last as long as this is open.
    stdin: Option<ChildStdin>,
    machines: Vec<u32>,
}

impl Lab {
    /// A machine per side, which is `left` or `right`.
    pub(crate) fn new(sides: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let mut holder = command
            .args(["--net", "sh", "-c", BUILD, "lab"])
            .args(sides)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = holder.stdin.take();
        let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        let machines: Vec<u32> = lines
            .take(sides.len())
            .map(|line| line.unwrap().parse().unwrap())
            .collect();
        assert_eq!(machines.len(), sides.len(), "no network namespaces");
        Self {
            holder,
            stdin,
            machines,
        }
    }

    /// What stands before a command that runs on a machine.
    pub(crate) fn enter(&self, at: usize) -> Vec<String> {
        enter(self.machines[at], "--net")
    }

    /// Where the node of a machine meets others.
    pub(crate) fn address(at: usize) -> String {
        format!("10.99.0.{}:4747", at + 1)
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
        let enter = enter(self.holder.id(), "--net");
        let mut command = Command::new(&enter[0]);
        command
            .args(&enter[1..])
            .args(["ip", "link", "set", "cable", state]);
        said(command).ok();
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

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
