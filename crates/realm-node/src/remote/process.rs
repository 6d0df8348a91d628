//! A program of this machine for a caller: in a process group of its own, which ends with it.
//!
//! No terminal is given. What leaves its group (a daemon) is out of reach; its output is not waited
//! for. Not here: whether the caller may.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use realm_model::frame::Signal;
use realm_model::node_config::ExecPolicy;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::session::{Ended, Ends, Stop};

/// After SIGTERM, before SIGKILL.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);
/// What a process that has left its group still writes is waited for this long.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of output per read: those of a pipe.
const READ_BYTES: usize = 64 * 1024;
/// Words of a command at most, and bytes of all: Linux takes more, no person writes more.
const WORDS_MAX: usize = 1_024;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who a command runs as.
#[derive(Debug, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// The group of a child. Its number is not given to others while its leader is not reaped.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(group) = self.0 {
            // All of its processes may have ended.
            let _ = kill_process_group(group, signal);
        }
    }

    /// The leader is about to be reaped: what is left of the group ends before that.
    fn end(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a command to its end, or until it has to stop.
pub(super) async fn run(
    policy: &ExecPolicy,
    command: &[String],
    caller: &str,
    ends: Ends,
) -> Ended {
    let mut child = match start(policy, command, caller) {
        Ok(child) => child,
        Err(error) => return error,
    };
    // Just started, it has a number that fits.
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(pid.and_then(Pid::from_raw));
    let Ends {
        mut stdin,
        stdout,
        stderr,
        mut signals,
        mut stop,
    } = ends;
    let (over, is_over) = watch::channel(false);
    let mut to_child = child.stdin.take();
    let (from_child, errors_from_child) = (child.stdout.take(), child.stderr.take());
    let input = async {
        if let Some(child) = &mut to_child {
            // A command that does not read any more gets no more.
            let _ = tokio::io::copy(&mut stdin, child).await;
        }
        // Its end is told.
        to_child = None;
        // And what comes after is taken and dropped, so that nobody waits for this command.
        let _ = tokio::io::copy(&mut stdin, &mut tokio::io::sink()).await;
    };
    let outputs = async {
        tokio::join!(
            copy_out(from_child, stdout, is_over.clone()),
            copy_out(errors_from_child, stderr, is_over.clone()),
        )
    };
    let guided = async {
        let stopped = tokio::select! {
            stopped = live(&group, policy, &mut signals, &mut stop) => stopped,
            // Never ends before the caller's input does; then it is life that counts.
            () = async { input.await; std::future::pending().await } => None,
        };
        group.end();
        let status = child.wait().await;
        over.send_replace(true);
        (stopped, status)
    };
    let ((stopped, status), _) = tokio::join!(guided, outputs);
    match (stopped, status) {
        (Some(why), _) => why,
        (None, Ok(status)) => Ended::Exit(code(status)),
        (None, Err(error)) => Ended::error("not-started", error.to_string(), None),
    }
}

/// Waits for the leader's end, passing signals on; ends it where it must stop. The leader is not
/// reaped here: until it is, nobody else can have its number.
async fn live(
    group: &Group,
    policy: &ExecPolicy,
    signals: &mut tokio::sync::mpsc::Receiver<Signal>,
    stop: &mut watch::Receiver<Option<Stop>>,
) -> Option<Ended> {
    let leader = group.0?;
    let mut exited = tokio::task::spawn_blocking(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(leader), options) {}
    });
    let mut limit = std::pin::pin!(tokio::time::sleep(Duration::from_secs(
        policy.max_seconds.into()
    )));
    let mut open = true;
    let why = loop {
        tokio::select! {
            biased;
            _ = &mut exited => return None,
            stopped = stop.wait_for(Option::is_some) => match stopped.ok().and_then(|why| *why) {
                Some(Stop::Revoked) => break Ended::error(
                    "forbidden",
                    "the key may not run commands any longer; the command was ended".to_owned(),
                    None,
                ),
                Some(Stop::Gone) | None => break Ended::error(
                    "caller-gone",
                    "the caller went away; the command was ended".to_owned(),
                    None,
                ),
            },
            () = &mut limit => break Ended::error(
                "time-limit",
                format!("the command ran for {} s and was ended", policy.max_seconds),
                Some("`exec.max_seconds` in the node's node.toml is the limit"),
            ),
            signal = signals.recv(), if open => match signal {
                Some(signal) => group.signal(system_signal(signal)),
                None => open = false,
            },
        }
    };
    group.signal(rustix::process::Signal::TERM);
    if tokio::time::timeout(LAST_WORDS_TIMEOUT, &mut exited)
        .await
        .is_err()
    {
        group.signal(rustix::process::Signal::KILL);
        // It has ended, or will once the kernel lets go of it.
        let _ = exited.await;
    }
    Some(why)
}

const fn system_signal(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Hangup => rustix::process::Signal::HUP,
        Signal::Interrupt => rustix::process::Signal::INT,
        Signal::Quit => rustix::process::Signal::QUIT,
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
    }
}

/// As shells have it.
fn code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code).unwrap_or(255)
}

/// Copies to the end; once the command is over, until nothing came for a while.
async fn copy_out(
    from: Option<impl AsyncRead + Unpin>,
    mut to: impl AsyncWrite + Unpin,
    mut over: watch::Receiver<bool>,
) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let lingered = async {
            let _ = over.wait_for(|over| *over).await;
            tokio::time::sleep(LINGER).await;
        };
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = lingered => return,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(number) => {
                if to.write_all(&buffer[..number]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn start(policy: &ExecPolicy, words: &[String], caller: &str) -> Result<Child, Ended> {
    let mut command = match words {
        [] => return Err(bad("a command has at least one word")),
        _ if words.len() > WORDS_MAX => {
            return Err(bad("a command has at most 1,024 words"));
        }
        [line] => {
            let mut command = Command::new(&policy.shell);
            command.arg("-c").arg(line);
            command
        }
        [program, args @ ..] => {
            let mut command = Command::new(program);
            command.args(args);
            command
        }
    };
    let home = match &policy.user {
        None => std::env::var_os("HOME").unwrap_or_else(|| "/".into()),
        Some(name) => {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let user = find_user(&passwd, name).ok_or_else(|| {
                let message = format!("there is no user `{name}` on this node");
                let hint = "look at `exec.user` in its node.toml";
                Ended::error("not-started", message, Some(hint))
            })?;
            if rustix::process::getuid().as_raw() != user.uid {
                // As root this leaves the groups of root as well.
                command.uid(user.uid).gid(user.gid);
            }
            command.env("USER", &user.name);
            user.home.into()
        }
    };
    let here = if std::path::Path::new(&home).is_dir() {
        home.as_os_str()
    } else {
        "/".as_ref()
    };
    command
        .current_dir(here)
        // Nothing of the agent's environment: it may hold what is not the caller's.
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", &home)
        .env("LANG", "C.UTF-8")
        .env("REALM_CALLER", caller)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(user) = &policy.user {
        command.env("USER", user);
    }
    command.spawn().map_err(|error| {
        let program = words.first().map_or("", String::as_str);
        let what = if words.len() == 1 {
            &policy.shell
        } else {
            program
        };
        let message = format!(
            "`{}` does not start: {error}",
            realm_model::text::one_line(what, 200)
        );
        Ended::error("not-started", message, None)
    })
}

fn bad(message: &str) -> Ended {
    Ended::error("bad-command", message.to_owned(), None)
}

/// A line of /etc/passwd, by name or number.
fn find_user(passwd: &str, wanted: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?, fields.next()?);
        let home = fields.nth(1)?;
        (name == wanted || uid == wanted).then_some(User {
            name: name.to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: home.to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nweb:x:1001:1002::/srv/web:/bin/false\nbroken\n";
        let web = User {
            name: "web".to_owned(),
            uid: 1001,
            gid: 1002,
            home: "/srv/web".to_owned(),
        };
        assert_eq!(find_user(passwd, "1001").as_ref(), Some(&web));
        assert_eq!(find_user(passwd, "web"), Some(web));
        assert_eq!(find_user(passwd, "broken"), None);
    }
}
