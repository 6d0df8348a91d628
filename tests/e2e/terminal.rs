//! Questions to a person at a terminal: what they answer, and that Ctrl-C is always an answer.
//!
//! `script` gives the verb a terminal of its own; what is typed goes to it as to a keyboard.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use realm_test_guests::{HELLO, VERSION_B};

use crate::support::{Agent, PATIENCE, Realm, ended};

const CTRL_C: &str = "\u{3}";
const QUESTION: &str = "Sign and apply this? [y/N] ";

/// A shell command at a terminal.
struct Terminal {
    script: Child,
    keyboard: ChildStdin,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Runs a shell line in the realm's folder; `realm` is the binary. Ctrl-C goes to all that run,
    /// so a shell that only waits is replaced: `exec`.
    fn run(realm: &Realm, line: &str) -> Self {
        let verb = realm.command(&[]);
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--flush", "--command"])
            .arg(line.replace("realm ", "\"$REALM_BINARY\" "))
            .arg("/dev/null")
            .current_dir(realm.path("."))
            .env("SHELL", "/bin/sh")
            .env("REALM_BINARY", verb.get_program())
            .env("NO_COLOR", "1")
            .env_remove("REALM_DIR")
            .env_remove("REALM_PASSPHRASE_FILE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut script = command.spawn().expect("util-linux has `script`");
        let keyboard = script.stdin.take().unwrap();
        let mut output = script.stdout.take().unwrap();
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4_096];
            while let Ok(read @ 1..) = output.read(&mut chunk) {
                // The test may be over already.
                let _ = sender.send(chunk[..read].to_vec());
            }
        });
        Self {
            script,
            keyboard,
            screen,
            seen: String::new(),
        }
    }

    /// Waits until the screen shows `text` after what was waited for before.
    fn shows(&mut self, text: &str) -> &mut Self {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return self;
            }
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no `{text}` in:\n{}", self.seen),
            }
        }
    }

    fn types(&mut self, keys: &str) -> &mut Self {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
        self
    }

    fn ended(mut self) -> ExitStatus {
        ended(&mut self.script)
    }
}

fn realm() -> (Realm, Agent) {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    (realm, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn yes_applies() {
    let (realm, _agent) = realm();
    for (typed, version) in [("y\n", 1), ("YES\n", 2)] {
        realm.app(HELLO, &format!("memory_max_mb = {}", 30 + version));
        let mut terminal = Terminal::run(&realm, "exec realm apply");
        terminal.shows("component app").shows(QUESTION).types(typed);
        terminal.shows("is in force");
        assert!(terminal.ended().success());
        assert_eq!(realm.heads().await.version, version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_else_changes_nothing() {
    let (realm, _agent) = realm();
    // The end of the input is no answer.
    for typed in ["n\n", "\n", "yep\n", "\u{4}"] {
        let mut terminal = Terminal::run(&realm, "exec realm apply");
        terminal.shows(QUESTION).types(typed);
        terminal
            .shows("nothing was changed")
            .shows("error[declined]");
        assert_eq!(terminal.ended().code(), Some(1), "{typed:?}");
    }
    assert_eq!(realm.heads().await.version, 0);
    assert!(!realm.path("realm.lock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_the_question_ends_it() {
    let (realm, _agent) = realm();
    let mut terminal = Terminal::run(&realm, "exec realm apply");
    terminal.shows(QUESTION).types(CTRL_C);
    terminal.shows("error[interrupted]");
    assert_eq!(terminal.ended().code(), Some(130));
    assert_eq!(realm.heads().await.version, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_change_at_the_question_are_not_signed() {
    let (realm, _agent) = realm();
    let mut terminal = Terminal::run(&realm, "exec realm apply");
    terminal.shows(QUESTION);
    // A build that ended while the person was reading.
    realm.guest(VERSION_B, "app.wasm");
    terminal.types("y\n");
    terminal.shows("error[digest-mismatch]").shows("app.wasm");
    terminal.shows("it was built again meanwhile");
    assert_eq!(terminal.ended().code(), Some(3));
    assert_eq!(realm.heads().await.version, 0);
    realm.run(&["apply", "--yes"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_the_question_of_up_stops_the_agent() {
    let realm = Realm::empty();
    realm.app(HELLO, "");
    let line = "exec realm up --ask --http 127.0.0.1:0 --admin 127.0.0.1:0";
    let mut terminal = Terminal::run(&realm, line);
    terminal.shows(QUESTION).types(CTRL_C).shows("stopped");
    assert!(terminal.ended().success());
    let mut terminal = Terminal::run(&realm, line);
    terminal
        .shows(QUESTION)
        .types("y\n")
        .shows("http://127.0.0.1:");
    terminal.types(CTRL_C).shows("stopped");
    assert!(terminal.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_is_asked_unseen_and_ctrl_c_leaves_the_terminal_as_it_was() {
    let realm = Realm::empty();
    let mut terminal = Terminal::run(&realm, "exec realm init --passphrase");
    terminal.shows("New passphrase").types("correct horse\n");
    terminal.shows("The same again").types("correct horse\n");
    terminal.shows("made realm:");
    assert!(!terminal.seen.contains("correct"), "{}", terminal.seen);
    assert!(terminal.ended().success());
    realm.app(HELLO, "");
    let agent = realm.agent();
    // The shell survives the interrupt, and looks at the terminal.
    let line = "trap : INT; realm apply --yes; echo code $?; stty -a";
    let mut terminal = Terminal::run(&realm, line);
    terminal
        .shows("Passphrase of the owner key: ")
        .types(CTRL_C);
    terminal.shows("code 130").shows(" echo ");
    terminal.ended();
    let mut terminal = Terminal::run(&realm, "exec realm apply --yes");
    terminal
        .shows("Passphrase of the owner key: ")
        .types("correct horse\n");
    terminal.shows("version 1 is in force");
    assert!(terminal.ended().success());
    // The same for the agent of `up`.
    tokio::task::block_in_place(|| agent.terminate());
    realm.app(VERSION_B, "");
    let line = "trap : INT; realm up --http 127.0.0.1:0 --admin 127.0.0.1:0; echo code $?; stty -a";
    let mut terminal = Terminal::run(&realm, line);
    terminal
        .shows("Passphrase of the owner key: ")
        .types(CTRL_C);
    terminal.shows("stopped").shows("code 0").shows(" echo ");
    terminal.ended();
}
