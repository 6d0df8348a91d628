//! Memories are reset by a scan for the pages that a guest touched only where nothing is ever swapped
//! out: the doctor and an agent on a machine with swap and on one without, which only they see.

use std::process::Command;

use realm_test_guests::HELLO;

use crate::lab::is_root;
use crate::support::{AGENT, Agent, Realm, app_manifest, eventually, get, said};

const HEAD: &str = "Filename\tType\tSize\tUsed\tPriority\n";
const AREA: &str = "/dev/zram0 partition 1048572 0 100\n";

/// A verb where the kernel tells of the swap that the file `swaps` has, and no group forbids any.
fn command(realm: &Realm, args: &[&str]) -> Command {
    let plain = realm.command(args);
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let script = "mount --make-rprivate / && mount --bind swaps /proc/swaps && \
                  mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";
    command
        .args(["--mount", "sh", "-c", script, "machine"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(realm.path(""))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    command
}

/// What the doctor says of it: the level, the message, the remedy.
fn doctor(realm: &Realm) -> (String, String, String) {
    let said = said(command(realm, &["doctor", "--json"]));
    let findings: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let mut findings = findings.as_array().unwrap().iter();
    let found = findings.find(|finding| finding["code"] == "memory-reset");
    let text = |name: &str| found.unwrap()[name].as_str().unwrap_or_default().to_owned();
    (text("level"), text("message"), text("remedy"))
}

/// Whether a process has the map of its pages open, by which they are scanned.
fn scans(process: u32) -> bool {
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let targets = open.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
    targets.into_iter().any(|path| path.ends_with("pagemap"))
}

#[tokio::test(flavor = "multi_thread")]
async fn memories_are_scanned_where_there_is_no_swap_and_nowhere_else() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    // With a limit of fuel a component has an engine of its own, and that a pool of its own.
    realm.guest(HELLO, "counted.wasm");
    let counted =
        "[components.counted]\nsource = \"file:./counted.wasm\"\nfuel_per_sec = 1000000000\n\n";
    let manifest = counted.to_owned() + &app_manifest("");
    let route = "{ path = \"/counted\", component = \"counted\" }, ";
    realm.write(
        "realm.toml",
        &manifest.replace("= [{", &format!("= [{route}{{")),
    );
    for swap in [false, true, false] {
        let swaps = if swap { AREA } else { "" };
        realm.write("swaps", &format!("{HEAD}{swaps}"));
        let (level, message, remedy) = doctor(&realm);
        if swap {
            assert_eq!(level, "warning");
            assert!(message.ends_with("not used: swap is on"), "{message}");
            assert!(remedy.contains("`swapoff -a`"), "{remedy}");
        } else {
            assert_eq!((level.as_str(), remedy.as_str()), ("ok", ""), "{message}");
        }
        let agent = Agent::start(command(&realm, &AGENT));
        if realm.heads().await.default.seq == 0 {
            tokio::task::block_in_place(|| realm.run(&["apply", "--yes", "--no-wait"]).ok());
        }
        // Both pools are there.
        for path in ["/", "/counted"] {
            eventually("it serves", async || {
                (get(&agent.url(path)).await.0 == 200).then_some(())
            })
            .await;
        }
        assert_eq!(scans(agent.id()), !swap, "with swap: {swap}");
        assert!(agent.terminate().success());
    }
}
