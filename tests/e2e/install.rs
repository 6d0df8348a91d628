//! `install.sh` as an operator runs it, with root's rights, on a machine that only the test sees:
//! a mount namespace with its own /etc, /usr/local and /var/lib. `systemctl` is one that writes
//! down what it is asked; the unit is judged by the real `systemd-analyze`.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use realm_model::ticket::Ticket;
use tempfile::TempDir;

use crate::support::{Said, said};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh");

/// Hides what is to be changed behind copies in memory, then runs the session.
const BOX: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs none "$BOX_ROOT"
mkdir "$BOX_ROOT/etc"
cp -a /etc/. "$BOX_ROOT/etc"
rm -f "$BOX_ROOT/etc/systemd/system/realm.service"
mount --bind "$BOX_ROOT/etc" /etc
mount -t tmpfs none /usr/local
mkdir /usr/local/bin
mount -t tmpfs none /var/lib
mount -t tmpfs none /run
! id realm >/dev/null 2>&1 || userdel realm
"#;

/// Stands in for systemd: remembers what is enabled and active, and writes changes down.
const SYSTEMCTL: &str = r#"#!/bin/sh
state=/run/systemd/fake
mkdir -p "$state"
case $1 in
is-enabled | is-active) [ -f "$state/$1" ]; exit ;;
enable) touch "$state/is-enabled" ;;
start | restart) touch "$state/is-active" ;;
disable) rm -f "$state/is-enabled" "$state/is-active" ;;
esac
echo "systemctl $*"
"#;

/// Stands in for the binary: says who it runs as, with which arguments and which input.
const REALM: &str = r#"#!/bin/sh
case $1 in
--version) echo "realm VERSION" ;;
*) echo "realm as $(id -un): $* < $(cat)" ;;
esac
"#;

/// A folder with what a session needs.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        // The agent's user reads the binaries.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(path.join("box")).unwrap();
        std::fs::create_dir(path.join("bin")).unwrap();
        let machine = Self { folder };
        machine.program("bin/systemctl", SYSTEMCTL);
        machine.program("realm-1", &REALM.replace("VERSION", "1.0.0"));
        machine.program("realm-2", &REALM.replace("VERSION", "2.0.0"));
        machine
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Runs a session; `install` in it is the script, by standard input as over ssh, and `sum FILE`
    /// a SHA-256. The real binary is `$REALM`.
    fn run(&self, session: &str) -> Said {
        let mut script = BOX.to_owned();
        script += "install() { sh -s -- \"$@\" < \"$SCRIPT\"; }\n";
        script += "sum() { sha256sum \"$1\" | cut -d ' ' -f 1; }\n";
        script += "cd \"$FOLDER\"\n";
        script += session;
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if rustix::process::geteuid().as_raw() != 0 {
            command.args(["--map-root-user", "--map-auto"]);
        }
        command
            .args(["sh", "-c", &script])
            .env("BOX_ROOT", self.folder.path().join("box"))
            .env("FOLDER", self.folder.path())
            .env("SCRIPT", SCRIPT)
            .env("REALM", env!("CARGO_BIN_EXE_realm"))
            .env_remove("REALM_BINARY")
            .env_remove("REALM_SHA256")
            .env_remove("REALM_TICKET")
            .env_remove("REALM_VERSION");
        said(command)
    }

    /// [`Machine::run`] where systemd runs.
    fn run_with_systemd(&self, session: &str) -> Said {
        let before = "mkdir -p /run/systemd/system\nPATH=$FOLDER/bin:$PATH\nexport PATH\n";
        self.run(&format!("{before}{session}"))
    }
}

/// Asserts what a session printed, line by line.
#[track_caller]
fn check(said: Said, expected: &str) {
    assert_eq!(said.ok().stdout.trim(), expected.trim());
}

#[test]
fn the_real_binary_is_installed_once_and_nothing_changes_twice() {
    let session = r#"
        cp "$REALM" realm
        sum=$(sum realm)
        install --binary realm --sha256 "$sum" > first
        stat -c '%n %i %Y %Z' /usr/local/bin/realm /etc/systemd/system/realm.service > before
        install --binary realm --sha256 "$sum"
        stat -c '%n %i %Y %Z' /usr/local/bin/realm /etc/systemd/system/realm.service | cmp - before
        /usr/local/bin/realm --version | cut -d ' ' -f 1
        stat -c '%U %a %n' /usr/local/bin/realm /var/lib/realm /etc/systemd/system/realm.service
        ls -A /usr/local/bin
        getent passwd realm | cut -d : -f 6,7
        cat first | cut -d ' ' -f 1
    "#;
    let expected = "\
systemd does not run here; start the agent by yourself, as the user `realm`:
  /usr/local/bin/realm --realm /var/lib/realm/realm agent --wait-for-owner
nothing changed: realm is installed as asked
realm
root 755 /usr/local/bin/realm
realm 700 /var/lib/realm
root 644 /etc/systemd/system/realm.service
realm
/var/lib/realm:/usr/sbin/nologin
installed
made
made
installed
systemd

next,";
    check(Machine::new().run(session), expected);
}

#[test]
fn systemd_starts_the_agent_and_restarts_it_for_another_binary_only() {
    let session = r#"
        one=$(sum realm-1) two=$(sum realm-2)
        install --binary realm-1 --sha256 "$one" | grep -e systemctl -e agent
        echo again
        install --binary realm-1 --sha256 "$one"
        echo newer
        install --binary realm-2 --sha256 "SHA256:$two"
        echo edited
        echo '# by hand' >> /etc/systemd/system/realm.service
        chmod 755 /var/lib/realm
        install --binary realm-2 --sha256 "$two"
        echo removed
        touch /var/lib/realm/key
        install --uninstall
        ls /var/lib/realm/key
        install --uninstall
        install --uninstall --purge
        install --uninstall --purge
        ls -A /usr/local/bin /var/lib
        id realm 2>/dev/null || echo no user
    "#;
    let expected = "\
made /var/lib/realm, which is the agent's alone
systemctl daemon-reload
systemctl enable --quiet realm.service
the agent starts with the machine
systemctl start realm.service
started the agent
again
nothing changed: realm is installed as asked
newer
installed realm 2.0.0 as /usr/local/bin/realm
systemctl restart realm.service
restarted the agent
next, where the owner's key is: `realm peer add HOST`, then `realm nodes approve HOST`
edited
made /var/lib/realm, which is the agent's alone
installed /etc/systemd/system/realm.service
systemctl daemon-reload
systemctl restart realm.service
restarted the agent
next, where the owner's key is: `realm peer add HOST`, then `realm nodes approve HOST`
removed
systemctl disable --quiet --now realm.service
systemctl daemon-reload
removed /etc/systemd/system/realm.service
removed /usr/local/bin/realm
kept /var/lib/realm: this node's key and state (--purge removes them)
/var/lib/realm/key
kept /var/lib/realm: this node's key and state (--purge removes them)
nothing to remove
removed /var/lib/realm, with this node's key and everything the realm kept here
removed the user `realm`
nothing to remove
/usr/local/bin:

/var/lib:
no user";
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let said = Machine::new()
        .run_with_systemd(&format!("{session}\n:"))
        .ok();
    let stdout = said.stdout.replace(&format!("add {host}`"), "add HOST`");
    let stdout = stdout.replace(&format!("approve {host}`"), "approve HOST`");
    assert_eq!(stdout.trim(), expected.trim());
}

#[test]
fn nothing_is_installed_without_its_checksum() {
    let check = |prepare: &str, arguments: &str, code: &str| {
        let session = format!(
            "{prepare}\nif install {arguments}; then exit 9; fi\n\
             ls -A /usr/local/bin /var/lib\nid realm 2>/dev/null || echo no user\n\
             ls /etc/systemd/system/realm.service 2>/dev/null || echo no unit"
        );
        let said = Machine::new().run(&session).ok();
        let expected = "/usr/local/bin:\n\n/var/lib:\nno user\nno unit";
        assert_eq!(said.stdout.trim(), expected, "{arguments}: {}", said.stderr);
        assert!(
            said.stderr.contains(&format!("error[{code}]:")),
            "{arguments}: {}",
            said.stderr
        );
        assert!(said.stderr.contains("\nhint: "), "{}", said.stderr);
    };
    check("", "--binary realm-1", "no-checksum");
    check(
        "sum realm-2 > SHA256SUMS",
        "--binary realm-1",
        "no-checksum",
    );
    check(
        "sha256sum realm-2 > SHA256SUMS",
        "--binary realm-1",
        "no-checksum",
    );
    check(
        "sha256sum realm-1 realm-1 > SHA256SUMS",
        "--binary realm-1",
        "no-checksum",
    );
    check(
        "",
        "--binary realm-1 --sha256 $(sum realm-2)",
        "checksum-mismatch",
    );
    check(
        "sha256sum realm-1 > SHA256SUMS; echo >> realm-1",
        "--binary realm-1",
        "checksum-mismatch",
    );
    check("", "--binary realm-1 --sha256 abc", "bad-checksum");
    check("", "--binary http://127.0.0.1:9/realm", "no-checksum");
    check(
        "",
        "--binary http://127.0.0.1:9/realm --sha256 $(sum realm-1)",
        "download-failed",
    );
    check("", "--binary nowhere --sha256 $(sum realm-1)", "no-binary");
    check(
        "echo '#!/bin/false' > f; chmod 755 f",
        "--binary f --sha256 $(sum f)",
        "does-not-run",
    );
    check(
        "",
        "--binary realm-1 --sha256 $(sum realm-1) --ticket x",
        "bad-ticket",
    );
    check("", "--binary", "usage");
    check("", "--purge", "usage");
    check("", "--verbose", "usage");
}

#[test]
fn a_list_of_checksums_beside_the_binary_will_do() {
    let session = "sha256sum --binary realm-1 realm-2 > SHA256SUMS\n\
                   install --binary ./realm-1 --no-start | head -n 1\n\
                   install --binary \"$FOLDER/realm-2\" --no-start";
    let said = Machine::new().run_with_systemd(session).ok();
    let first = said.stdout.lines().next();
    assert_eq!(first, Some("installed realm 1.0.0 as /usr/local/bin/realm"));
    assert!(
        said.stdout.contains("installed realm 2.0.0 as"),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains("systemctl"), "{}", said.stdout);
}

#[test]
fn a_ticket_is_taken_before_the_agent_starts_and_is_in_no_list_of_processes() {
    let session = "printf 'realm-ticket:abc\\n' > ticket\n\
                   install --binary realm-1 --sha256 $(sum realm-1) --ticket-file ticket | grep -e '^realm' -e ' start '";
    let expected = "\
realm as realm: --realm /var/lib/realm/realm join - < realm-ticket:abc
systemctl start realm.service";
    check(Machine::new().run_with_systemd(session), expected);
}

#[test]
fn an_agent_that_ends_at_once_is_no_success() {
    let session = "sed -i 's/^start | restart).*/start) ;;/' bin/systemctl\n\
                   if install --binary realm-1 --sha256 $(sum realm-1); then exit 9; fi";
    let said = Machine::new().run_with_systemd(session).ok();
    assert!(
        said.stderr.contains("error[agent-does-not-start]"),
        "{}",
        said.stderr
    );
}

/// The real binary takes the ticket, and the agent of the service asks with the key that was made then.
#[test]
fn the_real_binary_joins_with_a_ticket_and_keeps_its_key() {
    let owner = realm_model::key::SecretKey::from_seed(&[1; 32]);
    let (realm, _) = realm_model::entry::found_realm(&owner, [2; 32], 1_700_000_000);
    let ticket = Ticket {
        realm,
        floor: realm.origin(),
        addresses: vec!["/ip4/192.0.2.1/udp/4747/quic-v1".parse().unwrap()],
        voucher: None,
    };
    let text = ticket.to_text();
    let session = format!(
        r#"
        cp "$REALM" realm
        sum=$(sum realm)
        printf '%s\n' '{}' > ticket
        install --binary realm --sha256 "$sum" --ticket-file ticket > first
        show() {{ runuser -u realm -- /usr/local/bin/realm --realm /var/lib/realm/realm node show; }}
        show | grep '^realm'
        show | grep '^words' | tr -s ' ' > words
        grep '^words' first | tr -s ' ' | cmp - words
        stat -c '%U %a' /var/lib/realm/realm
        tail -n 3 first
        echo again
        install --binary realm --sha256 "$sum" --ticket-file ticket
        # Nothing of it leaves the test: a network of its own, without an address.
        agent="/usr/local/bin/realm --realm /var/lib/realm/realm agent --wait-for-owner"
        unshare --net runuser -u realm -- timeout 20 $agent 2> log &
        until grep -q '^words' log; do kill -0 $! || exit 8; done
        kill $!
        wait $! || :
        grep '^words' log | tr -s ' ' | cmp - words
        "#,
        text.as_str()
    );
    let expected = format!(
        "\
realm   {realm}
realm 700
systemd does not run here; start the agent by yourself, as the user `realm`:
  /usr/local/bin/realm --realm /var/lib/realm/realm agent --wait-for-owner
next, where the owner's key is: `realm nodes ls`, then `realm nodes approve` with the words of this machine
again
kept /var/lib/realm/realm: this machine joined a realm, or asks to; the ticket is not used
systemd does not run here; start the agent by yourself, as the user `realm`:
  /usr/local/bin/realm --realm /var/lib/realm/realm agent --wait-for-owner
nothing changed: realm is installed as asked"
    );
    check(Machine::new().run(&session), &expected);
}

#[test]
fn of_a_script_that_was_cut_off_nothing_runs() {
    let text = std::fs::read_to_string(SCRIPT).unwrap();
    let last = text.rfind("main \"$@\"").unwrap();
    let mut session = String::new();
    for cut in (0..last).step_by(997).chain([last, last + 4, last + 8]) {
        writeln!(
            session,
            "head -c {cut} \"$SCRIPT\" | sh -s -- --binary realm-1 --sha256 $(sum realm-1) >/dev/null 2>&1 || :\n\
             [ ! -e /usr/local/bin/realm ] && [ ! -e /var/lib/realm ] || echo cut at {cut}"
        )
        .unwrap();
    }
    check(Machine::new().run(&session), "");
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_likes() {
    let session = "install --binary realm-1 --sha256 $(sum realm-1) >/dev/null\n\
                   unit=/etc/systemd/system/realm.service\n\
                   systemd-analyze verify $unit\n\
                   systemd-analyze security --offline=true --threshold=18 $unit >/dev/null && echo liked\n\
                   grep -c '^MemoryDenyWriteExecute' $unit || :";
    // 1.8 of 10: what is left is the network, /proc/stat, and the one capability.
    check(Machine::new().run(session), "liked\n0");
}
